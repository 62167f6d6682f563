//! E-mail addresses that are not sent to: their mailbox is not there, or who reads it has complained.
//!
//! Of an address that went with its forgotten user a mark is kept for as long as the erasure is known: by it a bounce is
//! recognised that is told of afterwards, and the address is not stored once more. The mark does not say what it was.
//! Somebody else may have the same mailbox: what is told of a mail that was sent later counts, and without the moment at
//! which it was sent what is told so late that it is hardly of before.
//!
//! What an operator has lifted is not suppressed again by a report that comes a second time.

use super::{
    devices::{Device, DeviceKind},
    store::{Idempotency, SharedStore, StoreError},
    unix_ms,
};
use crate::{ids::NotificationId, limits};
use aws_lc_rs::digest;
use std::{collections::BTreeSet, fmt::Write, str::FromStr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuppressedFor {
    /// A mail came back for good.
    HardBounce,
    /// Somebody called a mail spam.
    Complaint,
    /// It is a mark: who had the address is forgotten.
    Erased,
}

impl SuppressedFor {
    pub fn as_str(self) -> &'static str {
        match self {
            SuppressedFor::HardBounce => "hard_bounce",
            SuppressedFor::Complaint => "complaint",
            SuppressedFor::Erased => "erased",
        }
    }
}

impl FromStr for SuppressedFor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        use SuppressedFor::{Complaint, Erased, HardBounce};
        let all = [HardBounce, Complaint, Erased];
        all.into_iter().find(|one| one.as_str() == text).ok_or(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppression {
    /// In the form of [`normal`], or of [`mark_of`].
    pub address: String,
    pub cause: SuppressedFor,
    /// What was said of it; may be empty.
    pub reason: String,
    /// Unix ms at which we were told.
    pub at_ms: u64,
}

impl Suppression {
    pub fn new(address: &str, cause: SuppressedFor, reason: &str, at_ms: u64) -> Suppression {
        Suppression {
            address: normal(address),
            cause,
            reason: reason
                .chars()
                .take(limits::SUPPRESSION_REASON_CHARS)
                .collect(),
            at_ms,
        }
    }

    /// The mark of an address whose user asked at this moment to be forgotten.
    pub fn erased(address: &str, at_ms: u64) -> Suppression {
        Suppression {
            address: mark_of(address),
            cause: SuppressedFor::Erased,
            reason: String::new(),
            at_ms,
        }
    }
}

/// What was told of a mail that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returned {
    pub suppression: Suppression,
    /// Unix ms at which the mail was sent, where that was told.
    pub sent_ms: Option<u64>,
}

impl Returned {
    /// Whether the mail may have been to a user of whom it was asked at this moment to be forgotten. Of a later one
    /// somebody else has the address, or its user has come back.
    fn may_be_of_before(&self, erased_ms: u64) -> bool {
        match self.sent_ms {
            Some(sent_ms) => sent_ms <= erased_ms + ON_ITS_WAY_MS,
            None => self.suppression.at_ms <= erased_ms + COMES_BACK_MS,
        }
    }
}

/// A report by its name, which it has again when its teller did not hear our answer. Remembered as the keys of producers
/// are, for a day: no report counts for so long after it was signed.
pub struct Report {
    key: String,
    hash: [u8; 32],
}

/// No producer can have this name.
const TELLERS: &str = "(who tells of e-mail)";

impl Report {
    /// `None` without an id: two may be the same to the letter, and both be true.
    pub fn new(teller: &str, id: &str, body: &[u8]) -> Option<Report> {
        let name = [teller.as_bytes(), id.as_bytes()].join(&b'\n');
        (!id.is_empty()).then(|| Report {
            key: hex(&sha256(&name)),
            hash: sha256(body),
        })
    }

    /// Whether all of it is in the store already.
    pub async fn is_known(&self, store: &SharedStore) -> Result<bool, StoreError> {
        let fresh = NotificationId::generate();
        let claim = store.claim(TELLERS, &self.key, self.hash, fresh, unix_ms());
        // Another one of the same name is taken for what it says.
        Ok(matches!(claim.await?, Idempotency::Done(_)))
    }

    pub async fn remember(&self, store: &SharedStore) {
        // Not remembered, it counts again: no bounce is lost.
        if let Err(error) = store.finish_claim(TELLERS, &self.key).await {
            tracing::warn!(%error, "a report of e-mail may count twice");
        }
    }
}

/// Without what is of mails to those who are forgotten since; and how much that was.
pub async fn left(
    store: &SharedStore,
    returned: Vec<Returned>,
) -> Result<(Vec<Suppression>, usize), StoreError> {
    let marks: Vec<String> = returned
        .iter()
        .map(|one| mark_of(&one.suppression.address))
        .collect();
    let marks = store.suppressed(&marks).await?;
    let count = returned.len();
    let is_left = |(one, mark): &(Returned, Option<Suppression>)| {
        let mark = mark.as_ref();
        mark.is_none_or(|mark| !one.may_be_of_before(mark.at_ms))
    };
    let left = returned.into_iter().zip(marks).filter(is_left);
    let left: Vec<Suppression> = left.map(|(one, _)| one.suppression).collect();
    let dropped = count - left.len();
    Ok((left, dropped))
}

/// It was entered: what comes back of it counts.
pub async fn enter(store: &SharedStore, device: &Device) -> Result<(), StoreError> {
    if device.kind != DeviceKind::Email {
        return Ok(());
    }
    let mark = mark_of(&device.address);
    let found = store.suppressed(std::slice::from_ref(&mark)).await?;
    match found.iter().any(Option::is_some) {
        true => store.unsuppress(&mark).await.map(drop),
        false => Ok(()),
    }
}

/// How long after an order to forget its user a mail may still be handed over.
const ON_ITS_WAY_MS: u64 = limits::ERASED_ON_ITS_WAY.as_millis() as u64;
/// How long after it a mail may come back.
const COMES_BACK_MS: u64 = limits::ERASED_COMES_BACK.as_millis() as u64;

/// Stands in the place of an address, and is none.
pub fn mark_of(address: &str) -> String {
    format!("{MARK}{}", hex(&sha256(normal(address).as_bytes())))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().try_into().expect("32 bytes")
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a string takes all");
    }
    text
}

/// What marks begin with, and what follows the last of them in the order of texts.
pub const MARK: &str = "erased:";
pub const BEHIND_MARKS: &str = "erased;";

/// Addresses that differ only in this are one mailbox, whatever the standard allows a server.
pub fn normal(address: &str) -> String {
    address.trim().to_lowercase()
}

/// The e-mail addresses among these, each once, in the form of [`normal`].
pub fn addresses<'a>(devices: impl IntoIterator<Item = &'a Device>) -> BTreeSet<String> {
    let mails = devices.into_iter();
    let mails = mails.filter(|device| device.kind == DeviceKind::Email);
    mails.map(|device| normal(&device.address)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERASED_MS: u64 = 1_798_131_600_000;

    fn may_be_of_before(told_ms: u64, sent_ms: Option<u64>) -> bool {
        let returned = Returned {
            suppression: Suppression::new("a@b.c", SuppressedFor::Complaint, "", told_ms),
            sent_ms,
        };
        returned.may_be_of_before(ERASED_MS)
    }

    #[test]
    fn without_a_moment_of_sending_only_what_comes_back_soon_is_taken_for_a_forgotten_users() {
        let last_ms = ERASED_MS + COMES_BACK_MS;
        assert!(may_be_of_before(ERASED_MS, None));
        assert!(may_be_of_before(last_ms, None));
        assert!(!may_be_of_before(last_ms + 1, None));
    }

    #[test]
    fn a_moment_of_sending_decides_whenever_it_is_told() {
        let last_ms = ERASED_MS + ON_ITS_WAY_MS;
        for told_ms in [ERASED_MS + COMES_BACK_MS, ERASED_MS + 10 * COMES_BACK_MS] {
            assert!(may_be_of_before(told_ms, Some(last_ms)));
            assert!(!may_be_of_before(told_ms, Some(last_ms + 1)));
        }
    }
}
