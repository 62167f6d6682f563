//! The providers of the channels: their sections, and what their keys may be. The files that keys name are judged where
//! they are used.

use super::{
    Breaker, Budgets, ConfigError, Sms,
    check::{host_and_port, named, within, word},
};
use crate::limits;
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Channels {
    pub email: Email,
    pub web_push: WebPush,
    pub fcm: Fcm,
    pub apns: Apns,
    pub sms: Sms,
    pub breaker: Breaker,
    pub budgets: Budgets,
}

/// How the way to the relay is kept from others.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum EmailTls {
    /// Plain at first, TLS before anything is said: demanded, not offered.
    #[default]
    Starttls,
    /// TLS from the first byte.
    Implicit,
    None,
}

/// `[email]`: the relay that takes e-mail; without one there is none.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Email {
    /// `host:port`.
    pub relay: Option<String>,
    pub tls: EmailTls,
    /// `Name <address>`.
    pub from: Option<String>,
    /// Our name in `EHLO`; default: the domain of `from`.
    pub hello: Option<String>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    /// Who may sign the relay's certificate; default: the system's list.
    pub ca_file: Option<PathBuf>,
    /// Of one mail, from the connection to the relay's last word.
    pub timeout_ms: u64,
    pub connections: usize,
    /// Mails a second of the whole fleet; 0: as many as go.
    pub per_s: u32,
    /// Keys that sign each mail (DKIM).
    pub dkim: Vec<DkimKey>,
    /// Where the dispatchers' HTTP port is reached by those who read mails; without it they have no link.
    pub unsubscribe_url: Option<String>,
    /// Signs what a link says.
    pub unsubscribe_key_file: Option<PathBuf>,
    /// Signs what is told of mails that came back; without it nobody is listened to.
    pub events_secret_file: Option<PathBuf>,
    /// Topics of Amazon SNS, by their ARNs, that tell of mails too, signed by SNS itself.
    pub sns_topics: Vec<String>,
    /// Dialled in the place of their hosts.
    pub sns_address: Option<SocketAddr>,
    /// Who may sign these hosts' certificates; default: the system's list.
    pub sns_ca_file: Option<PathBuf>,
}

/// One of `email.dkim`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DkimKey {
    /// Its public half stands in DNS at `<selector>._domainkey.<domain>`.
    pub selector: String,
    /// PEM: RSA or Ed25519.
    pub key_file: PathBuf,
    /// Default: that of `from`.
    pub domain: Option<String>,
}

impl Default for Email {
    fn default() -> Self {
        Email {
            relay: None,
            tls: EmailTls::Starttls,
            from: None,
            hello: None,
            username: None,
            password_file: None,
            ca_file: None,
            timeout_ms: limits::EMAIL_TIMEOUT.as_millis() as u64,
            connections: limits::EMAIL_CONNECTIONS,
            per_s: limits::EMAIL_PER_S,
            dkim: Vec::new(),
            unsubscribe_url: None,
            unsubscribe_key_file: None,
            events_secret_file: None,
            sns_topics: Vec::new(),
            sns_address: None,
            sns_ca_file: None,
        }
    }
}

impl DkimKey {
    fn check(&self, at: usize) -> Result<(), ConfigError> {
        let named = [
            ("selector", Some(&self.selector)),
            ("domain", self.domain.as_ref()),
        ];
        for (name, text) in named {
            if text.is_some_and(|text| !is_domain(text)) {
                let problem =
                    "is no name of DNS: letters, digits and hyphens, with dots between them";
                return Err(ConfigError::new(
                    format!("email.dkim[{at}].{name}"),
                    problem,
                ));
            }
        }
        Ok(())
    }
}

fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !label.is_empty() && label.bytes().all(plain)
    };
    text.len() <= limits::HOST_NAME_BYTES && text.split('.').all(is_label)
}

impl Email {
    pub fn check(&self) -> Result<(), ConfigError> {
        let texts = [
            ("email.from", &self.from),
            ("email.hello", &self.hello),
            ("email.username", &self.username),
        ];
        for (key, text) in texts {
            named(key, text.as_deref())?;
        }
        within(
            "email.timeout_ms",
            self.timeout_ms,
            limits::EMAIL_TIMEOUT_MS_ALLOWED,
        )?;
        within(
            "email.connections",
            self.connections,
            limits::EMAIL_CONNECTIONS_ALLOWED,
        )?;
        within("email.per_s", self.per_s, limits::PROVIDER_PER_S_ALLOWED)?;
        within("email.dkim", self.dkim.len(), 0..=limits::DKIM_KEYS)?;
        let mut keys = self.dkim.iter().enumerate();
        keys.try_for_each(|(at, key)| key.check(at))?;
        within(
            "email.sns_topics",
            self.sns_topics.len(),
            0..=limits::SNS_TOPICS,
        )?;
        self.check_unsubscribe()?;
        let wrong = |key: &str, problem: &str| Err(ConfigError::new(key, problem));
        let Some(relay) = &self.relay else {
            return match self.from.is_some() || self.username.is_some() {
                true => wrong(
                    "email.relay",
                    "is missing, and without it no e-mail is sent: name the server as host:port, or leave out email.from and email.username",
                ),
                false => Ok(()),
            };
        };
        host_and_port("email.relay", relay)?;
        if self.from.is_none() {
            let problem = "is needed with email.relay, e.g. \"Shop <no-reply@example.com>\"";
            return wrong("email.from", problem);
        }
        match (&self.username, &self.password_file) {
            (Some(_), None) => wrong("email.password_file", "is needed with email.username"),
            (None, Some(_)) => wrong("email.username", "is needed with email.password_file"),
            (Some(_), Some(_)) if self.tls == EmailTls::None && !is_loopback(relay) => wrong(
                "email.tls",
                "\"none\" would show the password to the network: choose \"starttls\" or \"implicit\"",
            ),
            _ => Ok(()),
        }
    }

    fn check_unsubscribe(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, problem: &str| Err(ConfigError::new(key, problem));
        match (&self.unsubscribe_url, &self.unsubscribe_key_file) {
            (None, None) => Ok(()),
            (Some(_), None) => wrong(
                "email.unsubscribe_key_file",
                "is needed with email.unsubscribe_url: a file with a secret, by `openssl rand -base64 32`",
            ),
            (None, Some(_)) => wrong(
                "email.unsubscribe_url",
                "is needed with email.unsubscribe_key_file, e.g. \"https://notify.example.com\"",
            ),
            (Some(url), Some(_)) if is_public(url) => Ok(()),
            (Some(_), Some(_)) => wrong(
                "email.unsubscribe_url",
                "is no https:// address without a query (http:// on this host), e.g. \"https://notify.example.com\"",
            ),
        }
    }

    /// What a running process takes over: other keys for what it does already.
    pub fn reloaded(&self, fresh: &Email) -> Email {
        let other = |held: &Option<PathBuf>, fresh: &Option<PathBuf>| match (held, fresh) {
            (Some(_), Some(fresh)) => Some(fresh.clone()),
            _ => held.clone(),
        };
        Email {
            dkim: fresh.dkim.clone(),
            unsubscribe_key_file: other(&self.unsubscribe_key_file, &fresh.unsubscribe_key_file),
            events_secret_file: other(&self.events_secret_file, &fresh.events_secret_file),
            ..self.clone()
        }
    }
}

/// An address that stands in a mail as it is.
fn is_public(url: &str) -> bool {
    let Ok(parsed) = reqwest::Url::parse(url) else {
        return false;
    };
    let is_safe = match parsed.scheme() {
        "https" => parsed.has_host(),
        "http" => is_loopback(parsed.authority()),
        _ => false,
    };
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '<' | '>' | '?' | '#' | '@');
    is_safe && url.len() <= limits::UNSUBSCRIBE_URL_BYTES && url.chars().all(is_plain)
}

/// `[web_push]`: browsers, by their push services; without a key there are none.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebPush {
    /// PEM: a private key of P-256 in PKCS#8.
    pub vapid_key_file: Option<PathBuf>,
    /// Where push services write to: `mailto:` or `https:`.
    pub contact: Option<String>,
    /// Push services, `host` or `host:port`, with all below them.
    pub hosts: Vec<String>,
    /// Who may sign their certificates; default: the system's list.
    pub ca_file: Option<PathBuf>,
    pub timeout_ms: u64,
    pub at_once: usize,
    pub gone_percent_max: u8,
    pub gone_window: usize,
}

impl Default for WebPush {
    fn default() -> Self {
        let hosts = [
            "fcm.googleapis.com",
            "push.services.mozilla.com",
            "push.apple.com",
            "notify.windows.com",
        ];
        WebPush {
            vapid_key_file: None,
            contact: None,
            hosts: hosts.map(str::to_owned).to_vec(),
            ca_file: None,
            timeout_ms: limits::PUSH_TIMEOUT.as_millis() as u64,
            at_once: limits::PUSH_AT_ONCE,
            gone_percent_max: limits::GONE_PERCENT,
            gone_window: limits::GONE_WINDOW,
        }
    }
}

impl WebPush {
    pub fn check(&self) -> Result<(), ConfigError> {
        sends("web_push", self.timeout_ms, self.at_once)?;
        usual("web_push", self.gone_percent_max, self.gone_window)?;
        let wrong = |key: &str, problem: &str| Err(ConfigError::new(key, problem));
        if self.hosts.iter().any(String::is_empty) {
            return wrong(
                "web_push.hosts",
                "one of them is empty: it would stand for all",
            );
        }
        let is_name = |host: &String| {
            let (name, port) = host.rsplit_once(':').unwrap_or((host, "443"));
            let is_part =
                |one: char| one.is_alphanumeric() || matches!(one, '.' | '-' | '[' | ']' | ':');
            !name.is_empty() && name.chars().all(is_part) && port.parse::<u16>().is_ok()
        };
        if let Some(host) = self.hosts.iter().find(|host| !is_name(host)) {
            let problem = format!("{host:?} is no host or host:port, e.g. fcm.googleapis.com");
            return wrong("web_push.hosts", &problem);
        }
        let contact = self.contact.as_deref();
        match (&self.vapid_key_file, contact) {
            (Some(_), Some(_)) if self.hosts.is_empty() => wrong(
                "web_push.hosts",
                "is empty: no push service would be asked; leave it out for all of them",
            ),
            (None, None) => Ok(()),
            (Some(_), None) => wrong(
                "web_push.contact",
                "is needed with web_push.vapid_key_file, e.g. \"mailto:ops@example.com\"",
            ),
            (None, Some(_)) => wrong(
                "web_push.vapid_key_file",
                "is needed with web_push.contact: `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`",
            ),
            (Some(_), Some(contact)) => {
                let known = ["mailto:", "https:"];
                match known.iter().any(|scheme| contact.starts_with(scheme)) {
                    true => Ok(()),
                    false => wrong("web_push.contact", "begins with mailto: or https:"),
                }
            }
        }
    }
}

/// `[fcm]`: apps, by Firebase Cloud Messaging; without an account there are none.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fcm {
    /// JSON, as the project's console gives it out.
    pub service_account_file: Option<PathBuf>,
    /// Default: the account's.
    pub project_id: Option<String>,
    /// Messages are judged and reach nobody.
    pub dry_run: bool,
    /// `https://host[:port]`.
    pub url: String,
    /// Who may sign its certificates; default: the system's list.
    pub ca_file: Option<PathBuf>,
    pub timeout_ms: u64,
    pub at_once: usize,
    /// Messages a second of the whole fleet; 0: as many as go.
    pub per_s: u32,
    pub gone_percent_max: u8,
    pub gone_window: usize,
}

impl Default for Fcm {
    fn default() -> Self {
        Fcm {
            service_account_file: None,
            project_id: None,
            dry_run: false,
            url: "https://fcm.googleapis.com".into(),
            ca_file: None,
            timeout_ms: limits::PUSH_TIMEOUT.as_millis() as u64,
            at_once: limits::FCM_AT_ONCE,
            per_s: limits::FCM_PER_S,
            gone_percent_max: limits::GONE_PERCENT,
            gone_window: limits::GONE_WINDOW,
        }
    }
}

impl Fcm {
    pub fn check(&self) -> Result<(), ConfigError> {
        sends("fcm", self.timeout_ms, self.at_once)?;
        within("fcm.per_s", self.per_s, limits::PROVIDER_PER_S_ALLOWED)?;
        usual("fcm", self.gone_percent_max, self.gone_window)?;
        named("fcm.project_id", self.project_id.as_deref())?;
        let wrong = |key: &str, problem: &str| Err(ConfigError::new(key, problem));
        if let Some(project) = &self.project_id {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':');
            if !project.chars().all(plain) {
                return wrong(
                    "fcm.project_id",
                    "is no id of a project, e.g. \"shop-1a2b3\"",
                );
            }
            if self.service_account_file.is_none() {
                let problem = "is needed with fcm.project_id: the JSON file of a service account";
                return wrong("fcm.service_account_file", problem);
            }
        }
        let after = self.url.strip_prefix("https://");
        match after.is_some_and(|host| !host.is_empty() && !host.contains('/')) {
            true => Ok(()),
            false => wrong("fcm.url", "is not https://host or https://host:port"),
        }
    }
}

/// `[apns]`: apps on Apple's devices; without a key there are none.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Apns {
    /// PEM: `AuthKey_….p8`, as the developer site gives it out.
    pub key_file: Option<PathBuf>,
    pub key_id: Option<String>,
    pub team_id: Option<String>,
    /// Bundle id of the app.
    pub topic: Option<String>,
    /// `host:port`.
    pub address: String,
    /// Who may sign its certificate; default: the system's list.
    pub ca_file: Option<PathBuf>,
    pub timeout_ms: u64,
    pub at_once: usize,
    pub gone_percent_max: u8,
    pub gone_window: usize,
    pub connections: usize,
    /// Messages a second of the whole fleet; 0: as many as go.
    pub per_s: u32,
}

impl Default for Apns {
    fn default() -> Self {
        Apns {
            key_file: None,
            key_id: None,
            team_id: None,
            topic: None,
            address: "api.push.apple.com:443".into(),
            ca_file: None,
            timeout_ms: limits::PUSH_TIMEOUT.as_millis() as u64,
            at_once: limits::APNS_AT_ONCE,
            gone_percent_max: limits::GONE_PERCENT,
            gone_window: limits::GONE_WINDOW,
            connections: limits::APNS_CONNECTIONS,
            per_s: limits::APNS_PER_S,
        }
    }
}

impl Apns {
    /// Of the key, its id, its team and the topic there are all or none.
    pub fn check(&self) -> Result<(), ConfigError> {
        sends("apns", self.timeout_ms, self.at_once)?;
        usual("apns", self.gone_percent_max, self.gone_window)?;
        let allowed = limits::APNS_CONNECTIONS_ALLOWED;
        within("apns.connections", self.connections, allowed)?;
        within("apns.per_s", self.per_s, limits::PROVIDER_PER_S_ALLOWED)?;
        host_and_port("apns.address", &self.address)?;
        let texts = [
            ("apns.key_id", &self.key_id),
            ("apns.team_id", &self.team_id),
            ("apns.topic", &self.topic),
        ];
        for (key, text) in texts {
            word(key, text.as_deref())?;
        }
        let given = [("apns.key_file", self.key_file.is_some())]
            .into_iter()
            .chain(texts.map(|(key, text)| (key, text.is_some())));
        let (there, missing): (Vec<_>, Vec<_>) = given.partition(|(_, is_given)| *is_given);
        match (there.first(), missing.first()) {
            (Some((with, _)), Some((key, _))) => {
                Err(ConfigError::new(*key, format!("is needed with {with}")))
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn sends(section: &str, timeout_ms: u64, at_once: usize) -> Result<(), ConfigError> {
    let allowed = limits::PUSH_TIMEOUT_MS_ALLOWED;
    within(&format!("{section}.timeout_ms"), timeout_ms, allowed)?;
    let allowed = limits::PUSH_AT_ONCE_ALLOWED;
    within(&format!("{section}.at_once"), at_once, allowed)
}

/// How often devices are called gone.
fn usual(section: &str, percent_max: u8, window: usize) -> Result<(), ConfigError> {
    let allowed = limits::GONE_PERCENT_ALLOWED;
    within(&format!("{section}.gone_percent_max"), percent_max, allowed)?;
    let allowed = limits::GONE_WINDOW_ALLOWED;
    within(&format!("{section}.gone_window"), window, allowed)
}

/// Whether `host:port` is of this host.
fn is_loopback(address: &str) -> bool {
    let (host, _) = address.rsplit_once(':').unwrap_or((address, ""));
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}
