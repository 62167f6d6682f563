//! Where a user can be reached beside a connection: addresses and devices, each of a kind that one channel serves.

use super::intake::{fields::Fields, request::Refusal};
use crate::{
    envelope::Channel,
    ids::{DeviceId, UserId},
    limits,
};
use lettre::Address;
use std::str::FromStr;

/// What an address means; each kind has one provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    Email,
}

impl DeviceKind {
    pub fn as_str(self) -> &'static str {
        match self {
            DeviceKind::Email => "email",
        }
    }

    /// The channel that reaches it.
    pub fn channel(self) -> Channel {
        match self {
            DeviceKind::Email => Channel::Email,
        }
    }
}

impl FromStr for DeviceKind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "email" => Ok(DeviceKind::Email),
            _ => Err(()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub user: UserId,
    pub id: DeviceId,
    pub kind: DeviceKind,
    /// In the form that its kind's provider takes.
    pub address: String,
    /// Unix ms at which it was last entered.
    pub updated_ms: u64,
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
            .map_err(|()| Refusal::field("kind", "is none of: email"))?;
        let address: String = fields.demand("address", "a string")?;
        fields.finish("a device")?;
        check_address(kind, &address).map_err(|problem| Refusal::field("address", problem))?;
        Ok(Device {
            user,
            id,
            kind,
            address,
            updated_ms: now_ms,
        })
    }
}

fn check_address(kind: DeviceKind, address: &str) -> Result<(), String> {
    match kind {
        DeviceKind::Email => {
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
    }
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
        ] {
            let refusal = read(body).expect_err(body);
            assert_eq!(refusal.named_field(), Some(field), "{body}");
        }
    }
}
