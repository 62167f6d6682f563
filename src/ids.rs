//! Names and the grammar they keep. Parsed once at the edge; inside, a value of these types is valid.

use crate::limits;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, sync::Arc};
use thiserror::Error;
use uuid::Uuid;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum IdError {
    #[error("a user id has 1 to 128 bytes")]
    UserLength,
    #[error("a user id has no control characters")]
    UserControl,
    #[error("a user id is not `.` or `..`: no client can ask for such a path")]
    UserDots,
    #[error("{0} has 1 to {1} characters of a-z, 0-9 and '-'")]
    Label(&'static str, usize),
    #[error("a notification id is a UUID")]
    Notification,
    #[error("a segment's id is a UUID")]
    Segment,
    #[error("a device id has 1 to 64 characters of a-z, A-Z, 0-9, '-' and '_'")]
    Device,
}

/// 1–128 bytes of UTF-8 without control characters, and neither `.` nor `..`, which clients take out of a path
/// even percent-encoded (WHATWG URL). Cheap to clone: one allocation per user.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserId(Arc<str>);

impl UserId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UserId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.is_empty() || text.len() > 128 {
            return Err(IdError::UserLength);
        }
        if text.chars().any(char::is_control) {
            return Err(IdError::UserControl);
        }
        if matches!(text, "." | "..") {
            return Err(IdError::UserDots);
        }
        Ok(UserId(text.into()))
    }
}

impl TryFrom<String> for UserId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<UserId> for String {
    fn from(user: UserId) -> String {
        user.0.as_ref().to_owned()
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {:?}", &*self.0)
    }
}

/// One of a user's addresses and devices, as its producer names it: unique among that user's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DeviceId(Arc<str>);

impl DeviceId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DeviceId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        match (1..=64).contains(&text.len()) && text.bytes().all(plain) {
            true => Ok(DeviceId(text.into())),
            false => Err(IdError::Device),
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// That of an API key, which limits name too.
pub fn check_producer(name: &str) -> Result<(), IdError> {
    label("a producer's name", name, limits::PRODUCER_NAME_BYTES).map(drop)
}

/// `[a-z0-9-]` of bounded length: gateway ids, regions, namespaces and producers' names share the grammar.
fn label(what: &'static str, text: &str, length_max: usize) -> Result<Arc<str>, IdError> {
    let fits = (1..=length_max).contains(&text.len())
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    fits.then(|| text.into())
        .ok_or(IdError::Label(what, length_max))
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident, $what:literal, $length_max:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                label($what, text, $length_max).map($name)
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0.as_ref().to_owned()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

labels! {
    /// Names a gateway for the fleet; stable over restarts.
    GatewayId, "a gateway id", 63;
    /// Stands in leases, records, rows and stream names.
    Region, "a region", 32;
    /// Prefixes every Redis key, topic, group id and table.
    Namespace, "a namespace", 63;
}

impl Region {
    /// Name of the region's user stream in client frames and cursors.
    pub fn user_stream(&self) -> String {
        format!("user:{self}")
    }

    /// Name of the region's broadcast stream.
    pub fn broadcast_stream(&self) -> String {
        format!("all:{self}")
    }
}

/// One life of a gateway: its id and the epoch its lease was granted under. Epochs only rise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayEpoch {
    pub gateway: GatewayId,
    pub epoch: u64,
}

impl fmt::Display for GatewayEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.gateway, self.epoch)
    }
}

impl FromStr for GatewayEpoch {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = IdError::Label("a gateway id", 63);
        let Some((gateway, epoch)) = text.rsplit_once('.') else {
            return Err(bad);
        };
        Ok(GatewayEpoch {
            gateway: gateway.parse()?,
            epoch: epoch.parse().map_err(|_| bad)?,
        })
    }
}

/// UUIDv7, given by intake; with the user it is the key of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NotificationId(pub Uuid);

impl NotificationId {
    pub fn generate() -> Self {
        NotificationId(Uuid::now_v7())
    }

    /// Unix ms in it: it begins with 48 bits of them.
    pub fn unix_ms(self) -> u64 {
        (self.0.as_u128() >> 80) as u64
    }
}

impl FromStr for NotificationId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Uuid::try_parse(text)
            .map(NotificationId)
            .map_err(|_| IdError::Notification)
    }
}

impl fmt::Display for NotificationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether it is a telephone number as E.164 has it: `+` and at most 15 digits, the first of which is no 0. No country has
/// numbers of fewer than 7.
pub fn is_e164(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or_default();
    (7..=15).contains(&digits.len())
        && !digits.starts_with('0')
        && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// UUIDv7 of a list of users that somebody uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentId(pub Uuid);

impl SegmentId {
    pub fn generate() -> Self {
        SegmentId(Uuid::now_v7())
    }
}

impl FromStr for SegmentId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Uuid::try_parse(text)
            .map(SegmentId)
            .map_err(|_| IdError::Segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_id_keeps_its_grammar() {
        assert!("ü-42 x".parse::<UserId>().is_ok());
        assert_eq!("".parse::<UserId>(), Err(IdError::UserLength));
        assert_eq!("u".repeat(129).parse::<UserId>(), Err(IdError::UserLength));
        assert_eq!("a\nb".parse::<UserId>(), Err(IdError::UserControl));
        for dots in [".", ".."] {
            assert_eq!(dots.parse::<UserId>(), Err(IdError::UserDots));
        }
        assert!("...".parse::<UserId>().is_ok());
    }

    #[test]
    fn a_device_id_stands_in_a_path_and_in_a_list_as_it_is() {
        assert!("Work_phone-2".parse::<DeviceId>().is_ok());
        for text in ["", ".", "a,b", "a/b", "ü", &"d".repeat(65)] {
            assert_eq!(text.parse::<DeviceId>(), Err(IdError::Device), "{text}");
        }
    }

    #[test]
    fn a_gateway_epoch_reads_back_what_it_writes() {
        let text = "gw-1.1760000000000";
        assert_eq!(text.parse::<GatewayEpoch>().unwrap().to_string(), text);
        assert!("GW.1".parse::<GatewayEpoch>().is_err());
        assert!("gw-1".parse::<GatewayEpoch>().is_err());
    }

    #[test]
    fn a_number_is_international_and_has_nothing_but_digits() {
        for number in [
            "+436641234567",
            "+12025550123",
            "+6834000",
            "+123456789012345",
        ] {
            assert!(is_e164(number), "{number}");
        }
        for number in [
            "",
            "+",
            "436641234567",
            "00436641234567",
            "+0436641234567",
            "+43 664 1234567",
            "+123456",
            "+1234567890123456",
            "+4366412345a7",
            "+٤٣٦٦٤١٢٣٤٥٦٧",
            "++436641234567",
        ] {
            assert!(!is_e164(number), "{number}");
        }
    }
}
