//! `[limits]`: how much of one user, of one producer, and in all.

use super::{
    ConfigError,
    check::{notification_types, within},
};
use crate::{ids::check_producer, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Each of them 0: none.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Of one user, in any hour.
    pub in_app_per_hour: u32,
    pub push_per_hour: u32,
    pub email_per_hour: u32,
    pub sms_per_hour: u32,
    /// Codes, in the place of the one above.
    pub sms_codes_per_hour: u32,
    /// E-mail of one user with these types, in any 24 hours.
    pub marketing_types: Vec<String>,
    pub marketing_per_day: u32,
    /// Notifications that one producer may post, in the whole fleet.
    pub producer_per_minute: u32,
    /// The same of single ones, by their names.
    pub producers: BTreeMap<String, u32>,
    /// Notifications a second that a dispatcher is meant for.
    pub design_per_s: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            in_app_per_hour: limits::USER_IN_APP_PER_HOUR,
            push_per_hour: limits::USER_PUSH_PER_HOUR,
            email_per_hour: limits::USER_EMAIL_PER_HOUR,
            sms_per_hour: limits::USER_SMS_PER_HOUR,
            sms_codes_per_hour: limits::USER_SMS_CODES_PER_HOUR,
            marketing_types: Vec::new(),
            marketing_per_day: limits::USER_MARKETING_PER_DAY,
            producer_per_minute: limits::PRODUCER_PER_MINUTE,
            producers: BTreeMap::new(),
            design_per_s: limits::DESIGN_PER_S,
        }
    }
}

impl Limits {
    /// Nothing is limited.
    pub fn none() -> Limits {
        Limits {
            in_app_per_hour: 0,
            push_per_hour: 0,
            email_per_hour: 0,
            sms_per_hour: 0,
            sms_codes_per_hour: 0,
            marketing_types: Vec::new(),
            marketing_per_day: 0,
            producer_per_minute: 0,
            producers: BTreeMap::new(),
            design_per_s: 0,
        }
    }

    pub fn check(&self) -> Result<(), ConfigError> {
        for (key, count) in [
            ("limits.in_app_per_hour", self.in_app_per_hour),
            ("limits.push_per_hour", self.push_per_hour),
            ("limits.email_per_hour", self.email_per_hour),
            ("limits.sms_per_hour", self.sms_per_hour),
            ("limits.sms_codes_per_hour", self.sms_codes_per_hour),
            ("limits.marketing_per_day", self.marketing_per_day),
        ] {
            within(key, count, 0..=limits::USER_LIMIT_MAX)?;
        }
        notification_types("limits.marketing_types", &self.marketing_types)?;
        let rates = 0..=limits::RATE_MAX;
        within(
            "limits.producer_per_minute",
            self.producer_per_minute,
            rates.clone(),
        )?;
        if self.producers.len() > limits::CONFIGURED_PRODUCERS {
            let most = limits::CONFIGURED_PRODUCERS;
            let problem = format!("{} are too many: at most {most}", self.producers.len());
            return Err(ConfigError::new("limits.producers", problem));
        }
        for (name, count) in &self.producers {
            // Of a name that no producer can have it would bound nobody.
            if check_producer(name).is_err() {
                let most = limits::PRODUCER_NAME_BYTES;
                let problem =
                    format!("{name:?} is no producer's name: 1 to {most} of a-z, 0-9 and -");
                return Err(ConfigError::new("limits.producers", problem));
            }
            within(&format!("limits.producers.{name}"), *count, rates.clone())?;
        }
        within("limits.design_per_s", self.design_per_s, rates)
    }

    /// Notifications a minute; `None`: as many as come.
    pub fn of_producer(&self, producer: &str) -> Option<u32> {
        let own = self.producers.get(producer).copied();
        Some(own.unwrap_or(self.producer_per_minute)).filter(|count| *count > 0)
    }
}
