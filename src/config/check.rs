//! What a value may be, where its type alone does not say: each section judges its own keys.
//!
//! Invariants:
//! * nothing is opened, made or connected; files that a key names are looked at, not kept;
//! * what a part understands better than this module (networks, origins, token keys, the URLs and TLS files
//!   of Redis and Kafka) is judged by that part; `process::check` asks all of them in one pass.

use super::{
    Auth, ConfigError, Dispatchers, Drain, Fallback, Gateway, Grpc, Http, Log, Preferences, Secret,
    Shard, Spool, Steer,
};
use crate::limits;
use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::Path,
};

/// A number outside of what its key allows.
pub(super) fn within<T: PartialOrd + Display>(
    key: &str,
    value: T,
    allowed: RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let (least, most) = (allowed.start(), allowed.end());
    Err(ConfigError::new(
        key,
        format!("{value} is not allowed: {least} to {most}"),
    ))
}

fn at_least<T: PartialOrd + Display>(
    key: &str,
    value: T,
    other: &str,
    least: T,
) -> Result<(), ConfigError> {
    if value >= least {
        return Ok(());
    }
    let problem = format!("{value} is too low: at least {least}, because {other}");
    Err(ConfigError::new(key, problem))
}

impl Gateway {
    pub fn check(&self) -> Result<(), ConfigError> {
        if let Shard::Fixed(shard) = self.shard {
            within("gateway.shard", shard, 0..=limits::SHARDS_MAX - 1)?;
        }
        within("gateway.cores", self.cores, 0..=limits::CORES_MAX)?;
        if self.steer == Steer::Cpu && !self.pin {
            let problem = "\"cpu\" asks for cores that stay on their CPUs: set gateway.pin = true, or leave it at \"hash\"";
            return Err(ConfigError::new("gateway.steer", problem));
        }
        self.check_admission()?;
        self.check_times()?;
        within(
            "gateway.client_message_bytes",
            self.client_message_bytes,
            limits::CLIENT_MESSAGE_BYTES_ALLOWED,
        )?;
        let rate = limits::CLIENT_MESSAGES_ALLOWED;
        within(
            "gateway.client_messages_per_s",
            self.client_messages_per_s,
            rate.clone(),
        )?;
        within(
            "gateway.client_messages_burst",
            self.client_messages_burst,
            rate,
        )?;
        within(
            "gateway.lanes_bytes",
            self.lanes_bytes,
            limits::LANES_BYTES_ALLOWED,
        )?;
        within(
            "gateway.send_buffer_bytes",
            self.send_buffer_bytes,
            limits::SEND_BUFFER_BYTES_ALLOWED,
        )
    }

    fn check_admission(&self) -> Result<(), ConfigError> {
        let connections = 1..=limits::CONNECTIONS_MAX;
        let (soft, hard) = (self.connections_soft, self.connections_hard);
        within("gateway.connections_soft", soft, connections.clone())?;
        within("gateway.connections_hard", hard, connections)?;
        let other = "the hard limit is not below gateway.connections_soft";
        at_least("gateway.connections_hard", hard, other, soft)?;
        within(
            "gateway.accepts_per_s",
            self.accepts_per_s,
            limits::ACCEPTS_PER_S_ALLOWED,
        )?;
        match self.memory_bytes_max {
            0 => Ok(()),
            bytes => within(
                "gateway.memory_bytes_max",
                bytes,
                limits::MEMORY_BYTES_ALLOWED,
            ),
        }
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        let (heartbeat, dead_after) = (self.heartbeat_ms, self.dead_after_ms);
        within(
            "gateway.handshake_ms",
            self.handshake_ms,
            limits::HANDSHAKE_MS_ALLOWED,
        )?;
        within(
            "gateway.heartbeat_ms",
            heartbeat,
            limits::HEARTBEAT_MS_ALLOWED,
        )?;
        within(
            "gateway.dead_after_ms",
            dead_after,
            limits::DEAD_AFTER_MS_ALLOWED,
        )?;
        // A ping goes out after up to 1.1 intervals, and its answer takes its time.
        let other = "a client must miss a heartbeat (gateway.heartbeat_ms) to count as dead, and pings come with jitter";
        at_least(
            "gateway.dead_after_ms",
            dead_after,
            other,
            heartbeat + heartbeat / 4,
        )?;
        let (deferred, unwritable) = (self.deferred_after_ms, self.unwritable_close_ms);
        let allowed = limits::UNWRITABLE_MS_ALLOWED;
        within("gateway.deferred_after_ms", deferred, allowed.clone())?;
        within("gateway.unwritable_close_ms", unwritable, allowed)?;
        let other = "what is unsent is reported (gateway.deferred_after_ms) before the connection is closed";
        at_least("gateway.unwritable_close_ms", unwritable, other, deferred)
    }
}

impl Auth {
    pub fn check(&self) -> Result<(), ConfigError> {
        within(
            "auth.leeway_s",
            self.leeway_s,
            0..=limits::AUTH_LEEWAY_S_MAX,
        )?;
        within(
            "auth.jwks_refresh_s",
            self.jwks_refresh_s,
            limits::JWKS_REFRESH_S_ALLOWED,
        )?;
        let demanded = [
            ("auth.issuer", &self.issuer),
            ("auth.audience", &self.audience),
        ];
        demanded
            .into_iter()
            .try_for_each(|(key, text)| named(key, text.as_deref()))
    }
}

impl Http {
    pub fn check(&self) -> Result<(), ConfigError> {
        match &self.admin_key_file {
            Some(path) => admin_key(path).map(drop),
            None => Ok(()),
        }
    }
}

impl Grpc {
    /// Of the address others are told; the secret is judged by `api::secret`.
    pub fn check_advertised(&self) -> Result<(), ConfigError> {
        match &self.advertise {
            Some(address) => host_and_port("grpc.advertise", address),
            None if self.listen.ip().is_unspecified() => Err(ConfigError::new(
                "grpc.advertise",
                format!(
                    "is needed, because nobody can dial grpc.listen = {}: name this host as host:port",
                    self.listen
                ),
            )),
            None => Ok(()),
        }
    }
}

impl Spool {
    /// Of its size; the directory is judged with the store's.
    pub fn check(&self) -> Result<(), ConfigError> {
        within(
            "spool.bytes_max",
            self.bytes_max,
            limits::SPOOL_BYTES_ALLOWED,
        )
    }
}

impl Fallback {
    /// Of what does not depend on the topics there are.
    pub fn check(&self) -> Result<(), ConfigError> {
        let other = "e-mail comes after push (fallback.push_after_s)";
        let (push, email) = (self.push_after_s, self.email_after_s);
        at_least("fallback.email_after_s", email, other, push)?;
        notification_types("fallback.code_types", &self.code_types)
    }
}

impl Preferences {
    pub fn check(&self) -> Result<(), ConfigError> {
        notification_types("preferences.mandatory_types", &self.mandatory_types)
    }
}

pub(super) fn notification_types(key: &str, types: &[String]) -> Result<(), ConfigError> {
    if types.len() > limits::CONFIGURED_TYPES {
        let most = limits::CONFIGURED_TYPES;
        let problem = format!("{} are too many: at most {most}", types.len());
        return Err(ConfigError::new(key, problem));
    }
    types.iter().try_for_each(|name| named(key, Some(name)))
}

impl Dispatchers {
    pub fn check(&self) -> Result<(), ConfigError> {
        let key = "dispatchers.addresses";
        if self.addresses.is_empty() {
            return Err(ConfigError::new(
                key,
                "name at least one dispatcher as host:port",
            ));
        }
        let most = limits::DISPATCHERS_MAX;
        if self.addresses.len() > most {
            let problem = format!("{} are too many: at most {most}", self.addresses.len());
            return Err(ConfigError::new(key, problem));
        }
        let mut addresses = self.addresses.iter();
        addresses.try_for_each(|address| host_and_port(key, address))
    }
}

impl Drain {
    pub fn check(&self) -> Result<(), ConfigError> {
        let most = limits::DRAIN_MS_MAX;
        within("drain.grace_ms", self.grace_ms, 0..=most)?;
        within("drain.window_ms", self.window_ms, 0..=most)?;
        within(
            "drain.deadline_ms",
            self.deadline_ms,
            limits::DRAIN_DEADLINE_MS_ALLOWED,
        )
    }
}

impl Log {
    /// A filter takes any word for the name of a module, also a level with a slip of the pen: such a process
    /// would run without a log. So every part of it has to name a level.
    pub fn check(&self) -> Result<(), ConfigError> {
        const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
        let names_a_level = |part: &str| {
            let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
            LEVELS.contains(&level.trim().to_lowercase().as_str())
        };
        if let Some(part) = self.level.split(',').find(|part| !names_a_level(part)) {
            let problem = format!(
                "{part:?} names no level: {}, or a filter like \"info,herald::control=debug\"",
                LEVELS.join(", ")
            );
            return Err(ConfigError::new("log.level", problem));
        }
        match self.format.as_str() {
            "auto" | "json" | "text" => Ok(()),
            other => Err(ConfigError::new(
                "log.format",
                format!("{other:?} is none of auto, text, json"),
            )),
        }
    }
}

/// `host:port`, where something can be dialled.
pub fn host_and_port(key: &str, text: &str) -> Result<(), ConfigError> {
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_host = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            !host.is_empty() && host.len() <= limits::HOST_NAME_BYTES && host.chars().all(plain)
        }
    };
    match is_host && port.parse().is_ok_and(|port: u16| port > 0) {
        true => Ok(()),
        false => Err(ConfigError::new(
            key,
            format!("{text:?} is not host:port, e.g. 10.0.0.5:{}", port_of(key)),
        )),
    }
}

/// For the example: what listens there by default.
fn port_of(key: &str) -> u16 {
    match key {
        "kafka.brokers" => 9092,
        "grpc.advertise" => 9250,
        "email.relay" => 587,
        "store.contact_points" => 9042,
        "apns.address" => 443,
        _ => 9251,
    }
}

/// Sockets of one process: two on one address could not both be opened. Port 0 is any free one.
pub fn apart(listeners: &[(&'static str, SocketAddr)]) -> Result<(), ConfigError> {
    for (index, (key, address)) in listeners.iter().enumerate() {
        if address.ip().is_multicast() {
            let problem = format!("{address} is a multicast address: nobody can listen there");
            return Err(ConfigError::new(*key, problem));
        }
        let mut earlier = listeners[..index].iter();
        if let Some((other, _)) = earlier.find(|(_, other)| collide(*other, *address)) {
            let problem = format!("{address} is taken by {other}: choose another port");
            return Err(ConfigError::new(*key, problem));
        }
    }
    Ok(())
}

fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), other.ip().to_canonical());
    // The unspecified address of IPv6 stands for those of IPv4 too.
    let covers = |wide: IpAddr, narrow: IpAddr| {
        wide.is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4())
    };
    let same = a == b || covers(a, b) || covers(b, a);
    one.port() != 0 && one.port() == other.port() && same
}

/// An optional text that would mean nothing when it is empty.
pub fn named(key: &str, text: Option<&str>) -> Result<(), ConfigError> {
    match text.is_some_and(|text| text.trim().is_empty()) {
        true => Err(ConfigError::new(
            key,
            "is empty: give it a value, or leave it out",
        )),
        false => Ok(()),
    }
}

/// The same of a word: a blank or a line's end that was copied with it would only be refused by the provider.
pub fn word(key: &str, text: Option<&str>) -> Result<(), ConfigError> {
    named(key, text)?;
    let is_foreign = |char: char| char.is_whitespace() || char.is_control();
    match text.is_some_and(|text| text.contains(is_foreign)) {
        true => Err(ConfigError::new(key, "has a blank or a line's end in it")),
        false => Ok(()),
    }
}

/// The key of `http.admin_key_file`.
pub fn admin_key(path: &Path) -> Result<Secret, ConfigError> {
    const KEY: &str = "http.admin_key_file";
    let secret = Secret::from_file(KEY, path)?;
    Secret::check_length(KEY, secret.expose()).map(|()| secret)
}
