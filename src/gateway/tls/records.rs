//! Records of an established TLS connection, which is nothing but its keys here.
//!
//! A connection is silent nearly all of its life. rustls keeps the expanded state of two ciphers, queues, and what
//! the handshake left behind, 3 KB, so that the next record begins at once. Here each record sets its cipher up
//! anew, which costs far less than the write it leads to. Handshakes, and the keys that follow from
//! others, stay with rustls, sealing and opening with aws-lc.
//!
//! Invariants (RFC 8446, section 5; RFC 5246, section 6, with RFC 5288 and 7905):
//! * a number is used once under a key, and what is sent changes keys before they are worn out; in TLS 1.2, where
//!   that can't be, the connection ends;
//! * what arrives is answered by nothing but one alert, the last: whoever does not read piles nothing up here;
//! * nothing of a record is looked at before it was opened, but the five bytes of its header;
//! * what is not allowed ends the connection, by the alert that is due, as the last record.

use super::channel::{Arrived, Sealed};
use crate::limits::{TLS_EMPTY_RECORDS, TLS_KEY_RECORDS, TLS_RECORD_BYTES, TLS_SENT_BYTES};
use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, MAX_TAG_LEN,
    NONCE_LEN, Nonce as OnceNonce, UnboundKey,
};
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, InvalidMessage, PeerMisbehaved,
    ProtocolVersion,
    crypto::cipher::{AeadKey, Iv, Nonce, make_tls12_aad},
    kernel::KernelConnection,
    server::{ServerConnectionData, UnbufferedServerConnection},
};

const HEADER_BYTES: usize = 5;
/// Of what is sealed: what was written, one byte that says what it is, and padding of the other side's.
const INNER_BYTES_MAX: usize = TLS_RECORD_BYTES + 1;
/// Of a record behind its header: RFC 8446 leaves every cipher this much.
const SEALED_BYTES_MAX: usize = TLS_RECORD_BYTES + 256;

/// Of what TLS 1.2 seals.
const PLAIN_BYTES_MAX: usize = TLS_RECORD_BYTES;
/// The part of a nonce of AES-GCM that a record of TLS 1.2 carries; the rest stays the same.
const EXPLICIT_BYTES: usize = 8;
const SALT_BYTES: usize = NONCE_LEN - EXPLICIT_BYTES;

const LEVEL_WARNING: u8 = 1;
const LEVEL_FATAL: u8 = 2;

/// The message that announces new keys: its type, its length, and whether the other side is to follow.
const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];
const KEY_UPDATE_BYTES: usize = KEY_UPDATE.len() + 1;
const NOT_REQUESTED: u8 = 0;
const REQUESTED: u8 = 1;

pub(super) struct Records {
    /// What further keys follow from; none do in TLS 1.2.
    secrets: Option<KernelConnection<ServerConnectionData>>,
    sending: Keys,
    receiving: Keys,
    message: Message,
    /// New keys were asked of us, and are due before the next that is said, however often they were asked for.
    owes_keys: bool,
    /// Records that bring nothing, before one has to come that does.
    empty_left: u8,
}

/// Of the one message that may come in pieces.
#[derive(Default)]
struct Message {
    bytes: [u8; KEY_UPDATE_BYTES],
    length: u8,
}

/// Of one direction.
struct Keys {
    form: Form,
    algorithm: &'static Algorithm,
    key: AeadKey,
    iv: Iv,
    /// Of the next record.
    number: u64,
}

/// How a record is put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Its kind is sealed in, and padding; its nonce is known.
    Tls13,
    /// Its kind is in the header, and with AES-GCM a part of its nonce lies before what is sealed.
    Tls12,
}

/// An error, and the alert that tells it to the other side.
struct Refused(Error, Option<AlertDescription>);

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused(error, Some(AlertDescription::InternalError))
    }
}

impl Records {
    /// Of a session that is over its handshake and has nothing left to send.
    pub fn of(session: UnbufferedServerConnection) -> Result<Records, Error> {
        let form = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => Form::Tls12,
            _ => Form::Tls13,
        };
        let (extracted, secrets) = session.dangerous_into_kernel_connection()?;
        Ok(Records {
            secrets: (form == Form::Tls13).then_some(secrets),
            sending: Keys::of(form, extracted.tx)?,
            receiving: Keys::of(form, extracted.rx)?,
            message: Message::default(),
            owes_keys: false,
            empty_left: TLS_EMPTY_RECORDS,
        })
    }

    /// Opens whole records; answers how many bytes they had. After an error `sealed` has the alert that is due, and
    /// what was opened before counts.
    pub fn open(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        sealed: &mut Sealed,
    ) -> Result<(usize, Arrived), Error> {
        let result = self.open_all(input, plain);
        result.map_err(|Refused(error, alert)| {
            if let Some(alert) = alert {
                // There is nothing left to be said if not even this can be sealed.
                let _ = self.alert(LEVEL_FATAL, alert, sealed);
            }
            error
        })
    }

    fn open_all(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> Result<(usize, Arrived), Refused> {
        let mut consumed = 0;
        let mut arrived = Arrived::default();
        while !arrived.peer_ended
            && let Some(length) = self.receiving.form.record_length(&input[consumed..])?
        {
            let record = &mut input[consumed..consumed + length];
            consumed += length;
            let (kind, content) = self.receiving.open(record)?;
            self.take(kind, content, plain, &mut arrived)?;
        }
        Ok((consumed, arrived))
    }

    fn take(
        &mut self,
        kind: ContentType,
        content: &[u8],
        plain: &mut Vec<u8>,
        arrived: &mut Arrived,
    ) -> Result<(), Refused> {
        let in_pieces = self.message.length > 0;
        match (kind, content) {
            (ContentType::Handshake, [_, ..]) => match self.receiving.form {
                Form::Tls13 => self.key_update(content),
                Form::Tls12 => Err(renegotiation()),
            },
            (ContentType::ApplicationData, []) if !in_pieces => self.spend_empty(),
            (ContentType::ApplicationData, _) if !in_pieces => {
                self.empty_left = TLS_EMPTY_RECORDS;
                plain.extend_from_slice(content);
                Ok(())
            }
            (ContentType::Alert, [level, description]) if !in_pieces => {
                // TLS 1.3 knows no warnings.
                let warns = self.receiving.form == Form::Tls12 && *level == LEVEL_WARNING;
                match AlertDescription::from(*description) {
                    AlertDescription::CloseNotify => arrived.peer_ended = true,
                    // Says that the end which follows is nobody's fault.
                    AlertDescription::UserCanceled => self.spend_empty()?,
                    _ if warns => self.spend_empty()?,
                    other => return Err(Refused(Error::AlertReceived(other), None)),
                }
                Ok(())
            }
            _ => Err(unexpected(kind)),
        }
    }

    fn key_update(&mut self, piece: &[u8]) -> Result<(), Refused> {
        let Some(requested) = self.message.add(piece)? else {
            return Ok(());
        };
        self.spend_empty()?;
        let secrets = self.secrets.as_mut().ok_or_else(no_further_keys)?;
        self.receiving = Keys::of(Form::Tls13, secrets.update_rx_secret()?)?;
        self.owes_keys |= requested;
        Ok(())
    }

    fn spend_empty(&mut self) -> Result<(), Refused> {
        let left = self.empty_left.checked_sub(1);
        self.empty_left = left.ok_or(Refused(
            PeerMisbehaved::TooManyKeyUpdateRequests.into(),
            Some(AlertDescription::UnexpectedMessage),
        ))?;
        Ok(())
    }

    /// Seals one record of what `pieces` bring; answers how much of it.
    pub fn seal<'a>(
        &mut self,
        pieces: impl Iterator<Item = &'a [u8]> + Clone,
        sealed: &mut Sealed,
    ) -> Result<usize, Error> {
        self.seal_by_keys_for(TLS_KEY_RECORDS, pieces, sealed)
    }

    fn seal_by_keys_for<'a>(
        &mut self,
        records: u64,
        pieces: impl Iterator<Item = &'a [u8]> + Clone,
        sealed: &mut Sealed,
    ) -> Result<usize, Error> {
        if self.owes_keys || self.sending.number >= records {
            self.renew(sealed)?;
        }
        self.sending
            .seal(ContentType::ApplicationData, pieces, sealed)
    }

    /// Says that nothing follows.
    pub fn goodbye(&mut self, sealed: &mut Sealed) -> Result<(), Error> {
        self.alert(LEVEL_WARNING, AlertDescription::CloseNotify, sealed)
    }

    fn alert(
        &mut self,
        level: u8,
        description: AlertDescription,
        sealed: &mut Sealed,
    ) -> Result<(), Error> {
        let alert = [level, description.into()];
        self.sending
            .seal(ContentType::Alert, [&alert[..]].into_iter(), sealed)
            .map(drop)
    }

    /// What follows is sealed with new keys.
    fn renew(&mut self, sealed: &mut Sealed) -> Result<(), Error> {
        let secrets = self.secrets.as_mut().ok_or_else(no_further_keys)?;
        let said = [&KEY_UPDATE[..], &[NOT_REQUESTED]];
        self.sending
            .seal(ContentType::Handshake, said.into_iter(), sealed)?;
        self.sending = Keys::of(Form::Tls13, secrets.update_tx_secret()?)?;
        self.owes_keys = false;
        Ok(())
    }
}

impl Message {
    /// Whether new keys are asked of us too, once the message is whole.
    fn add(&mut self, piece: &[u8]) -> Result<Option<bool>, Refused> {
        let (from, to) = (
            usize::from(self.length),
            usize::from(self.length) + piece.len(),
        );
        let room = self.bytes.get_mut(from..to);
        room.ok_or_else(|| unexpected(ContentType::Handshake))?
            .copy_from_slice(piece);
        let known = to.min(KEY_UPDATE.len());
        if self.bytes[..known] != KEY_UPDATE[..known] {
            return Err(unexpected(ContentType::Handshake));
        }
        if to < KEY_UPDATE_BYTES {
            self.length = to as u8;
            return Ok(None);
        }
        self.length = 0;
        match self.bytes[KEY_UPDATE.len()] {
            NOT_REQUESTED => Ok(Some(false)),
            REQUESTED => Ok(Some(true)),
            _ => Err(Refused(
                InvalidMessage::InvalidKeyUpdate.into(),
                Some(AlertDescription::IllegalParameter),
            )),
        }
    }
}

impl Keys {
    fn of(form: Form, (number, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Keys, Error> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("an unknown cipher".into())),
        };
        Ok(Keys {
            form,
            algorithm,
            key,
            iv,
            number,
        })
    }

    /// Bytes of a nonce that stand before what is sealed.
    fn explicit_bytes(&self) -> usize {
        match self.form == Form::Tls12 && self.algorithm != &CHACHA20_POLY1305 {
            true => EXPLICIT_BYTES,
            false => 0,
        }
    }

    fn cipher(&self) -> Result<LessSafeKey, Error> {
        let key = UnboundKey::new(self.algorithm, self.key.as_ref());
        let key = key.map_err(|_| Error::General("a key of another cipher".into()))?;
        Ok(LessSafeKey::new(key))
    }

    /// The number of the next record, and the nonce that follows from it.
    fn next(&mut self) -> (u64, [u8; NONCE_LEN]) {
        let number = self.number;
        self.number += 1;
        (number, Nonce::new(&self.iv, number).0)
    }

    /// What a whole record says, and of which kind it is.
    fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<(ContentType, &'a [u8]), Refused> {
        let (header, body) = record.split_at_mut(HEADER_BYTES);
        let (number, mut nonce) = self.next();
        let explicit = self.explicit_bytes();
        let beside = explicit + self.algorithm.tag_len();
        let length = body.len().checked_sub(beside).ok_or_else(unopened)?;
        let (said, body) = body.split_at_mut(explicit);
        if explicit > 0 {
            nonce[SALT_BYTES..].copy_from_slice(said);
        }
        let (kind, nonce) = (
            ContentType::from(header[0]),
            OnceNonce::assume_unique_for_key(nonce),
        );
        let cipher = self.cipher()?;
        let opened = match self.form {
            Form::Tls13 => cipher.open_in_place(nonce, Aad::from(header), body),
            Form::Tls12 => {
                let beside = make_tls12_aad(number, kind, ProtocolVersion::TLSv1_2, length);
                cipher.open_in_place(nonce, Aad::from(beside), body)
            }
        };
        let inner = &*opened.map_err(|_| unopened())?;
        if inner.len() > self.form.inner_bytes_max() {
            return Err(oversized());
        }
        if self.form == Form::Tls12 {
            return Ok((kind, inner));
        }
        // Padding has no other end than the last byte that is not zero.
        let last = inner.iter().rposition(|byte| *byte != 0);
        let last = last.ok_or_else(|| unexpected(ContentType::Unknown(0)))?;
        Ok((ContentType::from(inner[last]), &inner[..last]))
    }

    fn seal<'a>(
        &mut self,
        kind: ContentType,
        pieces: impl Iterator<Item = &'a [u8]> + Clone,
        sealed: &mut Sealed,
    ) -> Result<usize, Error> {
        let offered: usize = pieces.clone().map(<[u8]>::len).sum();
        let length = offered.min(TLS_SENT_BYTES);
        let (explicit, tag) = (self.explicit_bytes(), self.algorithm.tag_len());
        let (said, kind_inside) = match self.form {
            Form::Tls13 => (ContentType::ApplicationData, 1),
            Form::Tls12 => (kind, 0),
        };
        let behind = explicit + length + kind_inside + tag;
        let [high, low] = (behind as u16).to_be_bytes();
        let header = [said.into(), 3, 3, high, low];
        let cipher = self.cipher()?;
        let (number, nonce) = self.next();
        let record = sealed.room_for(HEADER_BYTES + behind);
        record[..HEADER_BYTES].copy_from_slice(&header);
        let (carried, rest) = record[HEADER_BYTES..].split_at_mut(explicit);
        carried.copy_from_slice(&nonce[NONCE_LEN - explicit..]);
        let (inner, tag) = rest.split_at_mut(length + kind_inside);
        let mut at = 0;
        for piece in pieces {
            let piece = &piece[..piece.len().min(length - at)];
            inner[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        inner[length..].fill(kind.into());
        let nonce = OnceNonce::assume_unique_for_key(nonce);
        let made = match self.form {
            Form::Tls13 => cipher.seal_in_place_separate_tag(nonce, Aad::from(header), inner),
            Form::Tls12 => {
                let beside = make_tls12_aad(number, kind, ProtocolVersion::TLSv1_2, length);
                cipher.seal_in_place_separate_tag(nonce, Aad::from(beside), inner)
            }
        };
        tag.copy_from_slice(made.map_err(|_| Error::EncryptError)?.as_ref());
        Ok(length)
    }
}

impl Form {
    fn inner_bytes_max(self) -> usize {
        match self {
            Form::Tls13 => INNER_BYTES_MAX,
            Form::Tls12 => PLAIN_BYTES_MAX,
        }
    }

    /// Bytes of the record that `input` begins with, once it is whole. One that can't become whole is refused at once.
    fn record_length(self, input: &[u8]) -> Result<Option<usize>, Refused> {
        let [kind, _, _, high, low, ..] = input else {
            return Ok(None);
        };
        let kind = ContentType::from(*kind);
        let is_known = match self {
            Form::Tls13 => kind == ContentType::ApplicationData,
            Form::Tls12 => matches!(
                kind,
                ContentType::ApplicationData | ContentType::Alert | ContentType::Handshake
            ),
        };
        if !is_known {
            return Err(unexpected(kind));
        }
        let behind = usize::from(u16::from_be_bytes([*high, *low]));
        if behind > SEALED_BYTES_MAX {
            return Err(oversized());
        }
        let length = HEADER_BYTES + behind;
        Ok((input.len() >= length).then_some(length))
    }
}

fn unopened() -> Refused {
    Refused(Error::DecryptError, Some(AlertDescription::BadRecordMac))
}

/// A client of TLS 1.2 wants to shake hands anew: nobody here does that.
fn renegotiation() -> Refused {
    let Refused(error, _) = unexpected(ContentType::Handshake);
    Refused(error, Some(AlertDescription::NoRenegotiation))
}

fn no_further_keys() -> Error {
    Error::General("the keys of TLS 1.2 are worn out".into())
}

fn unexpected(kind: ContentType) -> Refused {
    let error = Error::InappropriateMessage {
        expect_types: vec![ContentType::ApplicationData],
        got_type: kind,
    };
    Refused(error, Some(AlertDescription::UnexpectedMessage))
}

fn oversized() -> Refused {
    Refused(
        Error::PeerSentOversizedRecord,
        Some(AlertDescription::RecordOverflow),
    )
}

const _: () = assert!(MAX_TAG_LEN + EXPLICIT_BYTES <= SEALED_BYTES_MAX - INNER_BYTES_MAX);

#[cfg(test)]
mod tests;
