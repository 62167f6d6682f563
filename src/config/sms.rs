//! `[sms]`: those who take text messages from us.

use super::{ConfigError, channels::sends, check::within};
use crate::{ids::is_e164, limits};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `[sms]`: text messages; without a provider there are none.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sms {
    /// Each speaks Twilio's API.
    pub providers: Vec<SmsProvider>,
    /// Where the HTTP API is reached from outside: providers report there what became of a message.
    pub callback_url: Option<String>,
    /// Parts of one message.
    pub segments_max: u32,
    pub timeout_ms: u64,
    pub at_once: usize,
    /// Messages a second of the whole fleet; 0: as many as go.
    pub per_s: u32,
}

/// One of `sms.providers`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SmsProvider {
    /// In metrics, and in the URL of its reports.
    pub name: String,
    /// `https://host[:port]`.
    #[serde(default = "twilio")]
    pub url: String,
    pub account_sid: String,
    pub auth_token_file: PathBuf,
    /// A number of ours, or a name where countries allow one.
    pub from: Option<String>,
    /// In its place: a service that has several.
    pub messaging_service_sid: Option<String>,
    /// Who may sign its certificates; default: the system's list.
    pub ca_file: Option<PathBuf>,
}

fn twilio() -> String {
    "https://api.twilio.com".into()
}

impl Default for Sms {
    fn default() -> Self {
        Sms {
            providers: Vec::new(),
            callback_url: None,
            segments_max: limits::SMS_SEGMENTS,
            timeout_ms: limits::PUSH_TIMEOUT.as_millis() as u64,
            at_once: limits::SMS_AT_ONCE,
            per_s: limits::SMS_PER_S,
        }
    }
}

impl Sms {
    pub fn check(&self) -> Result<(), ConfigError> {
        sends("sms", self.timeout_ms, self.at_once)?;
        within("sms.per_s", self.per_s, limits::PROVIDER_PER_S_ALLOWED)?;
        let allowed = limits::SMS_SEGMENTS_ALLOWED;
        within("sms.segments_max", self.segments_max, allowed)?;
        if let Some(url) = &self.callback_url {
            let after = url.strip_prefix("https://").unwrap_or_default();
            let is_plain = after
                .chars()
                .all(|c| c.is_ascii_graphic() && !"?#@%".contains(c));
            if after.is_empty() || after.starts_with('/') || !is_plain {
                let problem = "is not https://host[:port][/path], where providers reach the HTTP API from outside";
                return Err(ConfigError::new("sms.callback_url", problem));
            }
        }
        let (given, most) = (self.providers.len(), limits::SMS_PROVIDERS);
        if given > most {
            let problem = format!("has {given}, and at most {most} are allowed");
            return Err(ConfigError::new("sms.providers", problem));
        }
        for (at, provider) in self.providers.iter().enumerate() {
            provider.check(at)?;
            let is_known = |other: &SmsProvider| other.name == provider.name;
            if self.providers[..at].iter().any(is_known) {
                let problem = format!("{:?} is the name of another one", provider.name);
                let key = format!("sms.providers[{at}].name");
                return Err(ConfigError::new(key, problem));
            }
        }
        Ok(())
    }
}

impl SmsProvider {
    fn check(&self, at: usize) -> Result<(), ConfigError> {
        let wrong = |key: &str, problem: &str| {
            Err(ConfigError::new(
                format!("sms.providers[{at}].{key}"),
                problem,
            ))
        };
        let short = |text: &str| (1..=limits::SMS_NAME_BYTES).contains(&text.len());
        let of = |text: &str, others: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
            short(text) && text.chars().all(known)
        };
        if !of(&self.name, "-_") {
            return wrong(
                "name",
                "has 1 to 64 characters of a-z, A-Z, 0-9, '-' and '_'",
            );
        }
        if !of(&self.account_sid, "-") {
            return wrong(
                "account_sid",
                "is no id of an account, e.g. AC and 32 digits",
            );
        }
        let host = self.url.strip_prefix("https://").unwrap_or_default();
        if host.is_empty() || host.contains(['/', '?', '#', '@']) {
            return wrong("url", "is not https://host or https://host:port");
        }
        match (&self.from, &self.messaging_service_sid) {
            (Some(from), None) if is_e164(from) || is_name(from) => Ok(()),
            (Some(_), None) => wrong(
                "from",
                "is no number in the form of E.164 (+12025550123), and no name of 1 to 11 letters, digits and spaces",
            ),
            (None, Some(sid)) if of(sid, "-") => Ok(()),
            (None, Some(_)) => wrong("messaging_service_sid", "is no id, e.g. MG and 32 digits"),
            _ => wrong("from", "or messaging_service_sid is needed, one of them"),
        }
    }
}

/// An alphanumeric sender: it has a letter, or it would be a number.
fn is_name(text: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || " +-_&".contains(c);
    (1..=11).contains(&text.len())
        && text.chars().all(known)
        && text.chars().any(|c| c.is_ascii_alphabetic())
}
