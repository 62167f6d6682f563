//! E-mail addresses that are not sent to: their mailbox is not there, or who reads it has complained.

use super::devices::{Device, DeviceKind};
use crate::limits;
use std::{collections::BTreeSet, str::FromStr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuppressedFor {
    /// A mail came back for good.
    HardBounce,
    /// Somebody called a mail spam.
    Complaint,
}

impl SuppressedFor {
    pub fn as_str(self) -> &'static str {
        match self {
            SuppressedFor::HardBounce => "hard_bounce",
            SuppressedFor::Complaint => "complaint",
        }
    }
}

impl FromStr for SuppressedFor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let all = [SuppressedFor::HardBounce, SuppressedFor::Complaint];
        all.into_iter().find(|one| one.as_str() == text).ok_or(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppression {
    /// In the form of [`normal`].
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
}

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
