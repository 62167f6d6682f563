//! Configuration: TOML parsed once into types. Unknown keys are refused, every key can be overridden as
//! `HERALD_<SECTION>__<KEY>`, a bad value names its key, and all of it happens before any socket opens.
//!
//! The files in `config/` show every key with its unit, default and reason; a test keeps them so.

mod breaker;
mod budgets;
mod channels;
pub mod check;
mod quotas;
mod reload;
mod sections;
mod sms;

pub use breaker::Breaker;
pub use budgets::{Budgets, micros};
pub use channels::{Apns, Channels, DkimKey, Email, EmailTls, Fcm, WebPush};
pub use quotas::Limits;
pub use reload::{Reload, left_for_a_restart};
pub use sections::*;
pub use sms::{Sms, SmsProvider};

use crate::limits;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, ffi::OsString, fs::File, io::Read, path::Path};
use thiserror::Error;

/// Exit status of a process whose configuration is wrong (`EX_USAGE`).
pub const EXIT_CONFIG: u8 = 64;

/// Says which key is wrong and what would be right.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("config: {key}: {problem}")]
pub struct ConfigError {
    pub key: String,
    pub problem: String,
}

impl ConfigError {
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> ConfigError {
        ConfigError {
            key: key.into(),
            problem: problem.into(),
        }
    }

    /// Tells which variable of the environment sets the key, if one does: `HERALD_AUTH__KEYS` for
    /// `auth.keys[0].kid`, `HERALD_GARAGE__…` for a section `garage`.
    pub fn naming_variable(
        self,
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> ConfigError {
        let whole = self.key.split('[').next().unwrap_or_default();
        let expected = format!("HERALD_{}", whole.replacen('.', "__", 1).to_uppercase());
        let sets = |name: &String| match whole.contains('.') {
            true => *name == expected,
            false => name.starts_with(&format!("{expected}__")),
        };
        let mut names = environment.filter_map(|(name, _)| name.into_string().ok());
        match names.find(sets) {
            Some(variable) => ConfigError::new(format!("{} ({variable})", self.key), self.problem),
            None => self,
        }
    }
}

/// A secret: by value (development) or by file. Never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(value.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it can't be guessed, as far as its length tells.
    pub fn check_length(key: &str, text: &str) -> Result<(), ConfigError> {
        let least = limits::SECRET_BYTES_MIN;
        if text.len() >= least {
            return Ok(());
        }
        let problem = format!(
            "a secret of {} bytes is too short: at least {least}, e.g. by `openssl rand -base64 32`",
            text.len()
        );
        Err(ConfigError::new(key, problem))
    }

    /// What stands in a file that holds several, one a line: the first is used, each is good, so that one is replaced by
    /// another while both are in use.
    pub fn alternatives(&self) -> impl Iterator<Item = &str> {
        let lines = self.0.lines().map(str::trim);
        lines.filter(|line| !line.is_empty())
    }

    /// Reads a `*_file` key; surrounding white space is not part of the secret.
    pub fn from_file(key: &str, path: &Path) -> Result<Secret, ConfigError> {
        let refused =
            |problem: String| ConfigError::new(key, format!("{} {problem}", path.display()));
        let mut text = String::new();
        File::open(path)
            .and_then(|file| {
                file.take(limits::SECRET_BYTES + 1)
                    .read_to_string(&mut text)
            })
            .map_err(|error| refused(format!("can't be read: {error}")))?;
        if text.len() as u64 > limits::SECRET_BYTES {
            let most = limits::SECRET_BYTES;
            return Err(refused(format!("is longer than {most} bytes: no secret")));
        }
        match text.trim() {
            "" => Err(refused("is empty".into())),
            secret => Ok(Secret(secret.to_owned())),
        }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// `config/gateway.toml`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    #[serde(default)]
    pub node: Node,
    #[serde(default)]
    pub gateway: Gateway,
    #[serde(default)]
    pub tls: Tls,
    #[serde(default)]
    pub auth: Auth,
    #[serde(default)]
    pub redis: Redis,
    #[serde(default)]
    pub kafka: Kafka,
    #[serde(default)]
    pub dispatchers: Dispatchers,
    #[serde(default = "gateway_admin")]
    pub admin: Admin,
    #[serde(default = "gateway_grpc")]
    pub grpc: Grpc,
    #[serde(default)]
    pub drain: Drain,
    #[serde(default)]
    pub log: Log,
    #[serde(default)]
    pub conformance: Conformance,
}

fn gateway_admin() -> Admin {
    Admin {
        listen: sections::loopback(9150),
    }
}

fn gateway_grpc() -> Grpc {
    Grpc {
        listen: sections::loopback(9250),
        advertise: None,
        secret_file: None,
    }
}

/// `config/dispatcher.toml`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DispatcherConfig {
    #[serde(default)]
    pub node: Node,
    #[serde(default)]
    pub http: Http,
    #[serde(default)]
    pub redis: Redis,
    #[serde(default)]
    pub kafka: Kafka,
    #[serde(default)]
    pub store: DispatcherStore,
    #[serde(default)]
    pub spool: Spool,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub fallback: Fallback,
    #[serde(default)]
    pub preferences: Preferences,
    #[serde(default)]
    pub templates: Templates,
    #[serde(default)]
    pub email: Email,
    #[serde(default)]
    pub web_push: WebPush,
    #[serde(default)]
    pub fcm: Fcm,
    #[serde(default)]
    pub apns: Apns,
    #[serde(default)]
    pub sms: Sms,
    #[serde(default)]
    pub breaker: Breaker,
    #[serde(default)]
    pub budgets: Budgets,
    #[serde(default = "dispatcher_admin")]
    pub admin: Admin,
    #[serde(default = "dispatcher_grpc")]
    pub grpc: Grpc,
    #[serde(default)]
    pub log: Log,
}

impl DispatcherConfig {
    pub fn channels(&self) -> Channels {
        Channels {
            email: self.email.clone(),
            web_push: self.web_push.clone(),
            fcm: self.fcm.clone(),
            apns: self.apns.clone(),
            sms: self.sms.clone(),
            breaker: self.breaker.clone(),
            budgets: self.budgets.clone(),
        }
    }
}

fn dispatcher_admin() -> Admin {
    Admin {
        listen: sections::loopback(9151),
    }
}

fn dispatcher_grpc() -> Grpc {
    Grpc {
        listen: sections::loopback(9251),
        advertise: None,
        secret_file: None,
    }
}

/// `config/standalone.toml`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StandaloneConfig {
    #[serde(default)]
    pub node: Node,
    #[serde(default)]
    pub gateway: Gateway,
    #[serde(default)]
    pub tls: Tls,
    #[serde(default)]
    pub http: Http,
    #[serde(default)]
    pub auth: Auth,
    #[serde(default)]
    pub store: Store,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub fallback: Fallback,
    #[serde(default)]
    pub preferences: Preferences,
    #[serde(default)]
    pub templates: Templates,
    #[serde(default)]
    pub email: Email,
    #[serde(default)]
    pub web_push: WebPush,
    #[serde(default)]
    pub fcm: Fcm,
    #[serde(default)]
    pub apns: Apns,
    #[serde(default)]
    pub sms: Sms,
    #[serde(default)]
    pub breaker: Breaker,
    #[serde(default)]
    pub budgets: Budgets,
    #[serde(default = "gateway_admin")]
    pub admin: Admin,
    #[serde(default)]
    pub drain: Drain,
    #[serde(default)]
    pub log: Log,
    #[serde(default)]
    pub conformance: Conformance,
}

impl StandaloneConfig {
    pub fn channels(&self) -> Channels {
        Channels {
            email: self.email.clone(),
            web_push: self.web_push.clone(),
            fcm: self.fcm.clone(),
            apns: self.apns.clone(),
            sms: self.sms.clone(),
            breaker: self.breaker.clone(),
            budgets: self.budgets.clone(),
        }
    }
}

/// A configuration whose shipped file is the base that an operator's file and the environment change.
pub trait Shipped: DeserializeOwned {
    const FILE: &str;
}

impl Shipped for GatewayConfig {
    const FILE: &str = include_str!("../../config/gateway.toml");
}

impl Shipped for DispatcherConfig {
    const FILE: &str = include_str!("../../config/dispatcher.toml");
}

impl Shipped for StandaloneConfig {
    const FILE: &str = include_str!("../../config/standalone.toml");
}

/// Whose a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Gateway,
    Dispatcher,
    Standalone,
}

/// By its sections; what nobody knows all of is taken for a gateway's.
pub fn owner(path: &Path) -> Result<Owner, ConfigError> {
    let given = read(path)?;
    let knows = |file: &str| {
        let known: toml::Table = file.parse().expect("the shipped file is checked by a test");
        given.keys().all(|section| known.contains_key(section))
    };
    Ok(match () {
        () if knows(GatewayConfig::FILE) => Owner::Gateway,
        () if knows(DispatcherConfig::FILE) => Owner::Dispatcher,
        () if knows(StandaloneConfig::FILE) => Owner::Standalone,
        () => Owner::Gateway,
    })
}

/// Reads the shipped file, then the operator's (if any), then the environment.
pub fn load<T: Shipped>(
    path: Option<&Path>,
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<T, ConfigError> {
    let mut table: toml::Table = T::FILE
        .parse()
        .expect("the shipped file is checked by a test");
    if let Some(path) = path {
        merge(&mut table, read(path)?);
    }
    let mut texts = BTreeMap::new();
    for (name, value) in environment {
        if let Some(at) = override_key(&mut table, name, value)? {
            texts.extend([at]);
        }
    }
    typed(table, texts)
}

/// `texts` are the overridden keys as they were written: one whose TOML value is not of its type is tried as
/// the text it is, so that a name may be `5` or `true`.
fn typed<T: Shipped>(
    mut table: toml::Table,
    mut texts: BTreeMap<String, String>,
) -> Result<T, ConfigError> {
    loop {
        let error = match toml::Value::Table(table.clone()).try_into() {
            Ok(config) => return Ok(config),
            Err(error) => misfit(&error),
        };
        let text = texts.remove(&error.key);
        let (Some(text), Some((section, key))) = (text, error.key.split_once('.')) else {
            return Err(error);
        };
        let mut retried = table.clone();
        if let Some(toml::Value::Table(section)) = retried.get_mut(section) {
            section.insert(key.to_owned(), toml::Value::String(text));
        }
        let taken: Result<T, toml::de::Error> = toml::Value::Table(retried.clone()).try_into();
        match taken {
            Ok(config) => return Ok(config),
            // No text either: the value is what was meant.
            Err(again) if misfit(&again).key == error.key => return Err(error),
            Err(_) => table = retried,
        }
    }
}

fn misfit(error: &toml::de::Error) -> ConfigError {
    let message = error.message().to_owned();
    let text = error.to_string();
    let place = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("in `"))
        .map(|place| place.trim_end_matches('`').to_owned());
    let unknown = message
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split('`').next());
    let key = match (place, unknown) {
        (Some(place), Some(unknown)) if place.rsplit('.').next() != Some(unknown) => {
            format!("{place}.{unknown}")
        }
        (Some(place), _) => place,
        (None, Some(unknown)) => unknown.to_owned(),
        (None, None) => "file".to_owned(),
    };
    ConfigError::new(key, message)
}

fn read(path: &Path) -> Result<toml::Table, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::new(&name, format!("can't read it: {error}")))?;
    text.parse()
        .map_err(|error: toml::de::Error| ConfigError::new(&name, error.to_string()))
}

/// Keys of `over` replace those of `base`, section by section.
fn merge(base: &mut toml::Table, over: toml::Table) {
    for (section, value) in over {
        match (base.get_mut(&section), value) {
            (Some(toml::Value::Table(base)), toml::Value::Table(over)) => base.extend(over),
            (_, value) => {
                base.insert(section, value);
            }
        }
    }
}

/// `HERALD_GATEWAY__CONNECTIONS_SOFT=9` sets `gateway.connections_soft`. The text is taken as a TOML
/// value where it is one, as a string otherwise. Answers the key and the text; `None` for a variable that is
/// not ours.
fn override_key(
    table: &mut toml::Table,
    name: OsString,
    value: OsString,
) -> Result<Option<(String, String)>, ConfigError> {
    let Some((section, key)) = name
        .to_str()
        .and_then(|name| name.strip_prefix("HERALD_"))
        .and_then(|rest| rest.split_once("__"))
    else {
        return Ok(None);
    };
    let (section, key) = (section.to_lowercase(), key.to_lowercase());
    let path = format!("{section}.{key}");
    let value = value
        .into_string()
        .map_err(|_| ConfigError::new(&path, "the variable's value is not UTF-8"))?;
    let parsed = format!("value = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.clone()));
    let entry = table
        .entry(&section)
        .or_insert_with(|| toml::Value::Table(toml::Table::new()));
    match entry {
        toml::Value::Table(section) => {
            section.insert(key, parsed);
            Ok(Some((path, value)))
        }
        _ => Err(ConfigError::new(
            section,
            format!(
                "{} overrides a key of it, but it is no table",
                name.display()
            ),
        )),
    }
}

#[cfg(test)]
mod tests;
