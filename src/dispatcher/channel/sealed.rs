//! A message that only its browser can read: RFC 8291 (keys), by RFC 8188 (`aes128gcm`), in one record.

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    agreement::{ECDH_P256, ParsedPublicKey, PrivateKey, UnparsedPublicKey, agree},
    error::Unspecified,
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
    rand,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

/// Size of the one record as its header has it: no message is larger.
const RECORD_BYTES: u32 = 4_096;
const SALT_BYTES: usize = 16;
/// A point of P-256, uncompressed.
const POINT_BYTES: usize = 65;
/// What is added to a text: salt, record size, length of our key, our key; the mark of the last record; the tag.
pub const OVERHEAD_BYTES: usize = SALT_BYTES + 4 + 1 + POINT_BYTES + 1 + 16;
/// The most that every push service has to take.
pub const TEXT_BYTES_MAX: usize = RECORD_BYTES as usize - OVERHEAD_BYTES;

/// What a browser gave out when it subscribed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    public: [u8; POINT_BYTES],
    auth: [u8; 16],
}

impl Keys {
    /// Of `p256dh` and `auth`, in base64url; padding is let pass.
    pub fn read(p256dh: &str, auth: &str) -> Result<Keys, &'static str> {
        let decode = |text: &str| {
            BASE64_URL_SAFE_NO_PAD
                .decode(text.trim_end_matches('='))
                .ok()
        };
        let public: [u8; POINT_BYTES] = decode(p256dh)
            .and_then(|bytes| bytes.try_into().ok())
            .filter(|point: &[u8; POINT_BYTES]| {
                let parsed = ParsedPublicKey::try_from(UnparsedPublicKey::new(&ECDH_P256, point));
                point[0] == 4 && parsed.is_ok()
            })
            .ok_or("p256dh is no public key of P-256 in base64url")?;
        let auth = decode(auth)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or("auth is no secret of 16 bytes in base64url")?;
        Ok(Keys { public, auth })
    }

    /// The body of a request. Fails only for want of random numbers, or of room.
    pub fn seal(&self, text: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let mut salt = [0; SALT_BYTES];
        rand::fill(&mut salt)?;
        self.seal_by(&PrivateKey::generate(&ECDH_P256)?, salt, text)
    }

    /// `own` and `salt` are of this message alone: with others of the same the key would be theirs too.
    fn seal_by(
        &self,
        own: &PrivateKey,
        salt: [u8; SALT_BYTES],
        text: &[u8],
    ) -> Result<Vec<u8>, Unspecified> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(Unspecified);
        }
        let public = own.compute_public_key()?;
        let theirs = UnparsedPublicKey::new(&ECDH_P256, &self.public);
        let shared = |secret: &[u8]| Ok(Salt::new(HKDF_SHA256, &self.auth).extract(secret));
        let shared = agree(own, theirs, Unspecified, shared)?;
        let info = [&b"WebPush: info\0"[..], &self.public, public.as_ref()];
        let input: [u8; 32] = expand(&shared, &info)?;
        let derived = Salt::new(HKDF_SHA256, &salt).extract(&input);
        let key: [u8; 16] = expand(&derived, &[&b"Content-Encoding: aes128gcm\0"[..]])?;
        let nonce: [u8; NONCE_LEN] = expand(&derived, &[&b"Content-Encoding: nonce\0"[..]])?;

        let mut record = Vec::with_capacity(text.len() + OVERHEAD_BYTES);
        record.extend_from_slice(text);
        // Nothing follows it.
        record.push(2);
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key)?);
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, Aad::empty(), &mut record)?;

        let mut sealed = Vec::with_capacity(text.len() + OVERHEAD_BYTES);
        sealed.extend_from_slice(&salt);
        sealed.extend_from_slice(&RECORD_BYTES.to_be_bytes());
        sealed.push(POINT_BYTES as u8);
        sealed.extend_from_slice(public.as_ref());
        sealed.append(&mut record);
        Ok(sealed)
    }
}

fn expand<const N: usize>(key: &Prk, info: &[&[u8]]) -> Result<[u8; N], Unspecified> {
    struct Bytes(usize);
    impl KeyType for Bytes {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut bytes = [0; N];
    key.expand(info, Bytes(N))?.fill(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Vec<u8> {
        BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()
    }

    const P256DH: &str =
        "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
    const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";

    /// RFC 8291, appendix A, byte for byte.
    #[test]
    fn the_example_of_the_standard_comes_out_as_it_stands_there() {
        let own = decode("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw");
        let own = PrivateKey::from_private_key(&ECDH_P256, &own).unwrap();
        let salt = decode("DGv6ra1nlYgDCS1FRnbzlw").try_into().unwrap();
        let keys = Keys::read(P256DH, AUTH).unwrap();
        let sealed = keys.seal_by(&own, salt, b"When I grow up, I want to be a watermelon");
        let expected = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27ml\
                        mlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPT\
                        pK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN";
        assert_eq!(sealed.unwrap(), decode(expected));
    }

    #[test]
    fn two_messages_have_nothing_in_common_and_the_largest_fits() {
        let keys = Keys::read(P256DH, AUTH).unwrap();
        let text = vec![b'x'; TEXT_BYTES_MAX];
        let [one, other] = [(); 2].map(|()| keys.seal(&text).unwrap());
        assert_eq!(one.len(), RECORD_BYTES as usize);
        assert_ne!(one[..SALT_BYTES], other[..SALT_BYTES]);
        assert_ne!(one[one.len() - 64..], other[other.len() - 64..]);
        assert!(keys.seal(&vec![b'x'; TEXT_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn keys_of_a_subscription_are_checked() {
        let padded = (format!("{P256DH}="), format!("{AUTH}=="));
        assert_eq!(Keys::read(&padded.0, &padded.1), Keys::read(P256DH, AUTH));
        // A point that is not on the curve.
        let off = format!("{}AAAA", &P256DH[..P256DH.len() - 4]);
        for (p256dh, auth) in [
            ("", AUTH),
            (AUTH, AUTH),
            (&off, AUTH),
            (P256DH, ""),
            (P256DH, P256DH),
        ] {
            assert!(Keys::read(p256dh, auth).is_err(), "{p256dh} {auth}");
        }
    }
}
