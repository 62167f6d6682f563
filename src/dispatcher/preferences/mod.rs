//! What a user wants to be reached by, and when. Whatever stands here decides about channels and live pushes, never about
//! a row: the inbox has everything.

mod quiet;

use super::{
    fallback::Chains,
    intake::{audience::checked_tags, fields::Fields, request::Refusal},
};
use crate::{
    config::{self, ConfigError},
    envelope::{Channel, Priority},
    limits,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

pub use quiet::QuietHours;

/// By channel, whether it is on. One that is not named is.
pub type Switches = BTreeMap<Channel, bool>;

/// Of one user; the default is that of a user who said nothing. Stored and shown as the same JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Preferences {
    /// IANA name; quiet hours are in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// BCP 47, such as `de-AT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet_hours: Option<QuietHours>,
    /// For types that `types` says nothing of.
    pub channels: Switches,
    pub types: BTreeMap<String, Switches>,
    /// What the application calls users like this one: broadcasts may be for some of them only.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
}

/// What no user can switch off, and no quiet hour holds: `critical`, codes, and types of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Mandatory {
    chains: Chains,
    types: Arc<BTreeSet<String>>,
}

impl Mandatory {
    pub fn from_config(
        config: &config::Preferences,
        chains: &Chains,
    ) -> Result<Mandatory, ConfigError> {
        config.check()?;
        Ok(Mandatory {
            chains: chains.clone(),
            types: Arc::new(config.mandatory_types.iter().cloned().collect()),
        })
    }

    pub fn is(&self, priority: Priority, notification_type: &str) -> bool {
        priority == Priority::Critical || self.is_type(notification_type)
    }

    /// Whether it is whatever its priority.
    pub fn is_type(&self, notification_type: &str) -> bool {
        self.chains.is_code(notification_type) || self.types.contains(notification_type)
    }
}

impl Preferences {
    /// Reads the JSON body of `PUT /v1/users/{user}/preferences`: all of them, what is not named is as if never said.
    pub fn from_json(body: &[u8], mandatory: &Mandatory) -> Result<Preferences, Refusal> {
        const SWITCHES: &str = "an object of channels, each true or false";
        let mut fields = Fields::read(body)?;
        let time_zone: Option<String> = fields.take("time_zone", "a string")?;
        let locale: Option<String> = fields.take("locale", "a string")?;
        let quiet_hours = fields.take("quiet_hours", "an object with `from` and `to`, as HH:MM")?;
        let channels = fields.take("channels", SWITCHES)?.unwrap_or_default();
        let types: Option<BTreeMap<String, BTreeMap<String, bool>>> =
            fields.take("types", "an object of types, each an object of channels")?;
        let tags: Option<Vec<String>> = fields.take("tags", "a list of strings")?;
        fields.finish("a user's preferences")?;
        let preferences = Preferences {
            locale: locale.map(checked_locale).transpose()?,
            channels: switches("channels", channels)?,
            types: checked_types(types.unwrap_or_default(), mandatory)?,
            tags: checked_tags("tags", tags.unwrap_or_default(), limits::PREFERENCE_TAGS)?,
            time_zone,
            quiet_hours,
        };
        preferences.check_quiet_hours()?;
        Ok(preferences)
    }

    /// As the user asked for without the application. Who has switches for so many types as there may be gets nothing by
    /// the channel any more, but for types that are switched on by name: more than was asked for, and not less.
    pub fn switch_off(&mut self, notification_type: &str, channel: Channel) {
        let is_full = self.types.len() >= limits::PREFERENCE_TYPES;
        match self.types.get_mut(notification_type) {
            None if is_full => self.channels.insert(channel, false),
            Some(switches) => switches.insert(channel, false),
            None => {
                let switches = Switches::from([(channel, false)]);
                self.types.insert(notification_type.to_owned(), switches);
                None
            }
        };
    }

    /// Whether notifications of this type may go by the channel.
    pub fn allow(&self, notification_type: &str, channel: Channel) -> bool {
        let of_type = self.types.get(notification_type);
        let own = of_type.and_then(|switches| switches.get(&channel));
        *own.or(self.channels.get(&channel)).unwrap_or(&true)
    }

    /// How long the user is not to be disturbed from now on; `None` outside of quiet hours.
    pub fn quiet_for(&self, unix_ms: u64) -> Option<Duration> {
        let (hours, zone) = (self.quiet_hours?, self.time_zone.as_ref()?);
        hours.left(zone, unix_ms)
    }

    fn check_quiet_hours(&self) -> Result<(), Refusal> {
        let Some(zone) = &self.time_zone else {
            return match self.quiet_hours {
                Some(_) => Err(Refusal::field("time_zone", "is needed with `quiet_hours`")),
                None => Ok(()),
            };
        };
        match quiet::is_zone(zone) {
            true => Ok(()),
            false => Err(Refusal::field(
                "time_zone",
                "is no name of the IANA time zone database, e.g. Europe/Vienna",
            )),
        }
    }
}

fn switches(field: &str, given: BTreeMap<String, bool>) -> Result<Switches, Refusal> {
    let read = |(name, is_on): (String, bool)| match name.parse() {
        Ok(channel) => Ok((channel, is_on)),
        Err(()) => Err(Refusal::field(
            format!("{field}.{name}"),
            "is none of in_app, push, email, sms",
        )),
    };
    given.into_iter().map(read).collect()
}

fn checked_types(
    given: BTreeMap<String, BTreeMap<String, bool>>,
    mandatory: &Mandatory,
) -> Result<BTreeMap<String, Switches>, Refusal> {
    if given.len() > limits::PREFERENCE_TYPES {
        let problem = format!("has at most {} types", limits::PREFERENCE_TYPES);
        return Err(Refusal::field("types", problem));
    }
    let mut types = BTreeMap::new();
    for (name, channels) in given {
        let field = format!("types.{name}");
        if name.is_empty() || name.len() > limits::TYPE_BYTES {
            let problem = format!("a type has 1 to {} bytes", limits::TYPE_BYTES);
            return Err(Refusal::field(field, problem));
        }
        let switches = switches(&field, channels)?;
        let off = switches.iter().find(|(_, is_on)| !**is_on);
        if let Some((channel, _)) = off.filter(|_| mandatory.is_type(&name)) {
            let problem = "can't be switched off: the type is one of preferences.mandatory_types or fallback.code_types";
            return Err(Refusal::field(format!("{field}.{channel}"), problem));
        }
        types.insert(name, switches);
    }
    Ok(types)
}

/// Whether it is a language tag, as far as it matters here: parts of letters and digits.
pub fn is_locale(text: &str) -> bool {
    let is_part = |part: &str| {
        (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    text.len() <= limits::LOCALE_BYTES && text.split('-').all(is_part)
}

fn checked_locale(locale: String) -> Result<String, Refusal> {
    match is_locale(&locale) {
        true => Ok(locale),
        false => Err(Refusal::field("locale", "is no language tag, e.g. de-AT")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mandatory() -> Mandatory {
        let config = config::Preferences {
            mandatory_types: vec!["security".into()],
        };
        Mandatory::from_config(&config, &Chains::default()).unwrap()
    }

    fn read(body: &str) -> Result<Preferences, Refusal> {
        Preferences::from_json(body.as_bytes(), &mandatory())
    }

    #[test]
    fn a_types_own_switch_comes_before_that_of_all_types() {
        let body = r#"{"channels":{"email":false},"types":{"order":{"email":true},"news":{"push":false}}}"#;
        let preferences = read(body).unwrap();
        assert!(preferences.allow("order", Channel::Email));
        assert!(!preferences.allow("news", Channel::Email));
        assert!(!preferences.allow("news", Channel::Push));
        assert!(preferences.allow("other", Channel::Push));
    }

    #[test]
    fn what_is_switched_off_is_off_however_much_was_said_before() {
        let mut preferences = read(r#"{"types":{"news":{"email":true,"push":true}}}"#).unwrap();
        for notification_type in ["news", "order"] {
            preferences.switch_off(notification_type, Channel::Email);
            assert!(!preferences.allow(notification_type, Channel::Email));
        }
        assert!(preferences.allow("news", Channel::Push));
        assert!(preferences.allow("other", Channel::Email));
        for number in 0..limits::PREFERENCE_TYPES {
            preferences.switch_off(&number.to_string(), Channel::Email);
            assert!(!preferences.allow(&number.to_string(), Channel::Email));
        }
        assert_eq!(preferences.types.len(), limits::PREFERENCE_TYPES);
        assert!(!preferences.allow("other", Channel::Email));
    }

    #[test]
    fn what_is_stored_reads_back() {
        let body = r#"{"time_zone":"Europe/Vienna","locale":"de-AT","quiet_hours":{"from":"22:00","to":"07:30"},"channels":{"email":false},"types":{"order":{"sms":true}}}"#;
        let preferences = read(body).unwrap();
        assert_eq!(serde_json::to_string(&preferences).unwrap(), body);
    }

    #[test]
    fn critical_codes_and_the_configured_types_are_mandatory() {
        let mandatory = mandatory();
        assert!(mandatory.is(Priority::Critical, "x"));
        assert!(mandatory.is(Priority::Low, "two_factor"));
        assert!(mandatory.is(Priority::Low, "security"));
        assert!(!mandatory.is(Priority::High, "x"));
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (body, field) in [
            (r#"{"channels":{"fax":true}}"#, "channels.fax"),
            (r#"{"channels":{"push":1}}"#, "channels"),
            (r#"{"types":{"order":{"fax":true}}}"#, "types.order.fax"),
            (
                r#"{"types":{"security":{"push":false}}}"#,
                "types.security.push",
            ),
            (
                r#"{"types":{"two_factor":{"sms":false}}}"#,
                "types.two_factor.sms",
            ),
            (r#"{"types":{"":{"sms":false}}}"#, "types."),
            (r#"{"time_zone":"Mars/Olympus"}"#, "time_zone"),
            (
                r#"{"quiet_hours":{"from":"22:00","to":"07:00"}}"#,
                "time_zone",
            ),
            (
                r#"{"time_zone":"UTC","quiet_hours":{"from":"22:00","to":"24:00"}}"#,
                "quiet_hours",
            ),
            (
                r#"{"time_zone":"UTC","quiet_hours":{"from":"22:00","to":"22:00"}}"#,
                "quiet_hours",
            ),
            (r#"{"locale":"de_AT"}"#, "locale"),
            (r#"{"colour":"red"}"#, "colour"),
        ] {
            let refusal = read(body).expect_err(body);
            assert_eq!(refusal.named_field(), Some(field), "{body}: {refusal}");
        }
        assert!(read(r#"{"types":{"security":{"push":true}}}"#).is_ok());
    }
}
