//! Where a user can be reached beside a connection: addresses and devices, each of a kind that one channel serves.

use super::{
    channel::web_push,
    intake::{fields::Fields, request::Refusal},
};
use crate::{
    envelope::Channel,
    ids::{DeviceId, UserId, is_e164},
    limits,
};
use lettre::Address;
use serde_json::value::RawValue;
use std::str::FromStr;

const NO_NUMBER: &str = "is no number in the form of E.164: +, the country's code and the rest, 7 to 15 digits without \
                         spaces, e.g. +436641234567";

/// What an address means; each kind has one provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    Email,
    WebPush,
    /// An app, by Firebase Cloud Messaging.
    Fcm,
    /// An app on a device of Apple's.
    Apns,
    /// A telephone number that takes text messages.
    Sms,
}

impl DeviceKind {
    pub fn as_str(self) -> &'static str {
        match self {
            DeviceKind::Email => "email",
            DeviceKind::WebPush => "web_push",
            DeviceKind::Fcm => "fcm",
            DeviceKind::Apns => "apns",
            DeviceKind::Sms => "sms",
        }
    }

    /// Whoever else had the address has lost it: a browser or an app is one user's at a time, a mailbox or a
    /// telephone may be a family's.
    pub fn is_of_one_user(self) -> bool {
        match self {
            DeviceKind::Email | DeviceKind::Sms => false,
            DeviceKind::WebPush | DeviceKind::Fcm | DeviceKind::Apns => true,
        }
    }

    /// The channel that reaches it.
    pub fn channel(self) -> Channel {
        match self {
            DeviceKind::Email => Channel::Email,
            DeviceKind::WebPush | DeviceKind::Fcm | DeviceKind::Apns => Channel::Push,
            DeviceKind::Sms => Channel::Sms,
        }
    }
}

impl FromStr for DeviceKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "email" => Ok(DeviceKind::Email),
            "web_push" => Ok(DeviceKind::WebPush),
            "fcm" => Ok(DeviceKind::Fcm),
            "apns" => Ok(DeviceKind::Apns),
            "sms" => Ok(DeviceKind::Sms),
            _ => Err(()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub user: UserId,
    pub id: DeviceId,
    pub kind: DeviceKind,
    /// In the form that its kind's provider takes: an e-mail address, a URL, a token, a number.
    pub address: String,
    /// What it takes beside the address to reach it; shown to nobody.
    pub secret: String,
    /// Unix ms at which it was last entered.
    pub updated_ms: u64,
    /// Unix ms since which it is in quarantine: its provider called it gone, and was not believed. It is not sent to.
    pub quarantined_ms: Option<u64>,
}

impl Device {
    /// Reads the JSON body of `PUT /v1/users/{user}/devices/{id}`.
    pub fn from_json(
        user: UserId,
        id: DeviceId,
        body: &[u8],
        now_ms: u64,
    ) -> Result<Device, Refusal> {
        let mut fields = Fields::read(body)?;
        let kind: String = fields.demand("kind", "a string")?;
        let kind: DeviceKind = kind
            .parse()
            .map_err(|()| Refusal::field("kind", "is none of: email, web_push, fcm, apns, sms"))?;
        let (address, secret) = match kind {
            DeviceKind::Email => {
                let address: String = fields.demand("address", "a string")?;
                check_email(&address).map_err(|problem| Refusal::field("address", problem))?;
                (address, String::new())
            }
            DeviceKind::WebPush => subscription(&mut fields)?,
            DeviceKind::Fcm => {
                let token: String = fields.demand("token", "a string")?;
                check_token(&token).map_err(|problem| Refusal::field("token", problem))?;
                (token, String::new())
            }
            DeviceKind::Apns => {
                let token: String = fields.demand("token", "a string")?;
                let token = device_token(&token);
                let token = token.map_err(|problem| Refusal::field("token", problem))?;
                (token, String::new())
            }
            DeviceKind::Sms => {
                let number: String = fields.demand("number", "a string")?;
                if !is_e164(&number) {
                    return Err(Refusal::field("number", NO_NUMBER));
                }
                (number, String::new())
            }
        };
        fields.finish("a device")?;
        Ok(Device {
            user,
            id,
            kind,
            address,
            secret,
            updated_ms: now_ms,
            quarantined_ms: None,
        })
    }
}

fn check_email(address: &str) -> Result<(), String> {
    if address.len() > limits::EMAIL_ADDRESS_BYTES {
        let most = limits::EMAIL_ADDRESS_BYTES;
        return Err(format!("an e-mail address has at most {most} bytes"));
    }
    // What breaks a line would be a command of its own to the server.
    match address.parse::<Address>() {
        Ok(_) if !address.chars().any(char::is_control) => Ok(()),
        _ => Err("is no e-mail address, e.g. ada@example.com".into()),
    }
}

/// What an app's `FirebaseMessaging.getToken()` says. What it is made of is FCM's business.
fn check_token(token: &str) -> Result<(), String> {
    let most = limits::FCM_TOKEN_BYTES;
    let is_one =
        (1..=most).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    match is_one {
        true => Ok(()),
        false => Err(format!(
            "is no registration token: 1 to {most} visible characters of ASCII"
        )),
    }
}

/// What Apple gives an app, in hex as apps write it; it stands in a path.
fn device_token(token: &str) -> Result<String, String> {
    let most = limits::APNS_TOKEN_CHARS;
    let is_one = (2..=most).contains(&token.len())
        && token.len().is_multiple_of(2)
        && token.bytes().all(|byte| byte.is_ascii_hexdigit());
    match is_one {
        true => Ok(token.to_ascii_lowercase()),
        false => Err(format!(
            "is no device token: up to {most} hexadecimal digits, two a byte"
        )),
    }
}

/// What a browser's `PushSubscription.toJSON()` says: the address, and the keys as `<p256dh>.<auth>`.
fn subscription(fields: &mut Fields<'_>) -> Result<(String, String), Refusal> {
    const SUBSCRIPTION: &str = "an object with `endpoint` and `keys`";
    const KEYS: &str = "an object with `p256dh` and `auth`";
    let raw: &RawValue = fields.demand("subscription", SUBSCRIPTION)?;
    let mut given = Fields::within("subscription", raw, SUBSCRIPTION)?;
    let endpoint: String = given.demand("endpoint", "a string")?;
    let raw: &RawValue = given.demand("keys", KEYS)?;
    let mut keys = Fields::within("subscription.keys", raw, KEYS)?;
    let p256dh: String = keys.demand("p256dh", "a string")?;
    let auth: String = keys.demand("auth", "a string")?;
    let secret = format!("{p256dh}.{auth}");
    web_push::keys(&secret).map_err(|problem| Refusal::field("subscription.keys", problem))?;
    if endpoint.len() > limits::ENDPOINT_BYTES {
        let problem = format!("has at most {} bytes", limits::ENDPOINT_BYTES);
        return Err(Refusal::field("subscription.endpoint", problem));
    }
    Ok((endpoint, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Device, Refusal> {
        Device::from_json(
            "42".parse().unwrap(),
            "work".parse().unwrap(),
            body.as_bytes(),
            5,
        )
    }

    #[test]
    fn an_address_is_taken_as_it_was_given() {
        for address in [
            "ada@example.com",
            "a+b@xn--bcher-kva.example",
            "ü@bücher.example",
        ] {
            let body = format!(r#"{{"kind":"email","address":"{address}"}}"#);
            assert_eq!(read(&body).unwrap().address, address);
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        let long = format!(
            r#"{{"kind":"email","address":"{}@example.com"}}"#,
            "a".repeat(255)
        );
        for (body, field) in [
            (r#"{"address":"ada@example.com"}"#, "kind"),
            (r#"{"kind":"pigeon","address":"ada@example.com"}"#, "kind"),
            (r#"{"kind":"email"}"#, "address"),
            (r#"{"kind":"email","address":"ada"}"#, "address"),
            (
                r#"{"kind":"email","address":"Ada <ada@example.com>"}"#,
                "address",
            ),
            (
                r#"{"kind":"email","address":"ada@example.com\r\nRCPT TO:<eve@example.com>"}"#,
                "address",
            ),
            (
                r#"{"kind":"email","address":"\"a\r\nb\"@example.com"}"#,
                "address",
            ),
            (
                r#"{"kind":"email","address":"ada@example.com","colour":1}"#,
                "colour",
            ),
            (&long, "address"),
            (r#"{"kind":"sms","address":"+436641234567"}"#, "number"),
            (r#"{"kind":"sms","number":"06641234567"}"#, "number"),
            (r#"{"kind":"sms","number":"+43 664 1234567"}"#, "number"),
        ] {
            let refusal = read(body).expect_err(body);
            assert_eq!(refusal.named_field(), Some(field), "{body}");
        }
    }
}
