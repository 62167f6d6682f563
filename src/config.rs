//! Configuration: TOML parsed once into types. Unknown keys are refused, every key can be overridden as
//! `HERALD_<SECTION>__<KEY>`, a bad value names its key, and all of it happens before any socket opens.
//!
//! The files in `config/` show every key with its unit, default and reason; a test keeps them so.

use crate::{
    ids::{GatewayId, Namespace, Region},
    limits,
};
use serde::{Deserialize, Serialize, Serializer, de::DeserializeOwned};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};
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

    /// Reads a `*_file` key; surrounding white space is not part of the secret.
    pub fn from_file(key: &str, path: &Path) -> Result<Secret, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError::new(key, format!("can't read {}: {error}", path.display()))
        })?;
        match text.trim() {
            "" => Err(ConfigError::new(
                key,
                format!("{} is empty", path.display()),
            )),
            secret => Ok(Secret(secret.to_owned())),
        }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// `[node]`: what every process of one deployment shares.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    pub namespace: Namespace,
    pub region: Region,
}

impl Default for Node {
    fn default() -> Self {
        Node {
            namespace: "notifications".parse().expect("a label"),
            region: "local".parse().expect("a label"),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// io_uring where the kernel grants it, epoll otherwise.
    #[default]
    Auto,
    Uring,
    Epoll,
}

/// `shard = "auto"` or a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shard {
    #[default]
    Auto,
    Fixed(u32),
}

impl Serialize for Shard {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Shard::Auto => serializer.serialize_str("auto"),
            Shard::Fixed(shard) => serializer.serialize_u32(*shard),
        }
    }
}

impl<'de> Deserialize<'de> for Shard {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Number(u32),
            Text(String),
        }
        match Raw::deserialize(deserializer) {
            Ok(Raw::Number(shard)) => Ok(Shard::Fixed(shard)),
            Ok(Raw::Text(text)) if text == "auto" => Ok(Shard::Auto),
            Ok(Raw::Text(text)) if text.parse::<u32>().is_ok() => {
                Ok(Shard::Fixed(text.parse().expect("just parsed")))
            }
            _ => Err(serde::de::Error::custom(
                "expected \"auto\" or a shard number",
            )),
        }
    }
}

/// `[gateway]`: the client side of one host.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    pub id: GatewayId,
    pub shard: Shard,
    pub listen: SocketAddr,
    /// Core threads; 0 is one per CPU.
    pub cores: usize,
    pub engine: Engine,
    /// Pin core thread N to CPU N modulo the count.
    pub pin: bool,
    /// Own descriptor table per core thread.
    pub own_fd_table: bool,
    /// Networks (CIDR) that a PROXY header is taken from, and demanded of.
    pub proxy_trusted: Vec<String>,
    /// Origins a browser may connect from; `*` is every one.
    pub origins: Vec<String>,
    pub connections_soft: usize,
    pub connections_hard: usize,
    pub accepts_per_s: u32,
    pub handshake_ms: u64,
    pub heartbeat_ms: u64,
    pub dead_after_ms: u64,
    pub deferred_after_ms: u64,
    pub unwritable_close_ms: u64,
    pub client_message_bytes: usize,
    pub client_messages_per_s: u32,
    pub client_messages_burst: u32,
    pub lanes_bytes: usize,
    pub send_buffer_bytes: usize,
}

impl Default for Gateway {
    fn default() -> Self {
        let ms = |d: std::time::Duration| d.as_millis() as u64;
        Gateway {
            id: "gw-1".parse().expect("a label"),
            shard: Shard::Auto,
            listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
            cores: 0,
            engine: Engine::Auto,
            pin: true,
            own_fd_table: true,
            proxy_trusted: Vec::new(),
            origins: Vec::new(),
            connections_soft: limits::CONNECTIONS_SOFT,
            connections_hard: limits::CONNECTIONS_HARD,
            accepts_per_s: limits::ACCEPTS_PER_S,
            handshake_ms: ms(limits::HANDSHAKE),
            heartbeat_ms: ms(limits::HEARTBEAT),
            dead_after_ms: ms(limits::DEAD_AFTER),
            deferred_after_ms: ms(limits::DEFERRED_AFTER),
            unwritable_close_ms: ms(limits::UNWRITABLE_CLOSE),
            client_message_bytes: limits::CLIENT_MESSAGE_BYTES,
            client_messages_per_s: limits::CLIENT_MESSAGES_PER_S,
            client_messages_burst: limits::CLIENT_MESSAGES_BURST,
            lanes_bytes: limits::LANES_BYTES,
            send_buffer_bytes: limits::SEND_BUFFER_BYTES,
        }
    }
}

/// `[[auth.keys]]`: one verification key; several stand side by side while one is replaced.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AuthKey {
    /// Matched with the token's `kid`; a key without one is tried for tokens without one.
    #[serde(default)]
    pub kid: Option<String>,
    /// HS256, RS256, ES256 or EdDSA: a token must use exactly this.
    pub algorithm: String,
    /// HS256: the secret. Others: the public key in PEM.
    pub key_file: PathBuf,
}

/// `[auth]`: who may connect.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    pub keys: Vec<AuthKey>,
    /// Fetched at start and every `jwks_refresh_s`; keys found there stand beside those above.
    pub jwks_url: Option<String>,
    pub jwks_refresh_s: u64,
    pub issuer: Option<String>,
    pub audience: Option<String>,
    pub leeway_s: u64,
}

impl Default for Auth {
    fn default() -> Self {
        Auth {
            keys: Vec::new(),
            jwks_url: None,
            jwks_refresh_s: 300,
            issuer: None,
            audience: None,
            leeway_s: 30,
        }
    }
}

/// `[redis]`: the registry.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Redis {
    /// `redis://host:port/db` or `rediss://…` for TLS.
    pub url: String,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    /// With `rediss://`: who may sign the server's certificate (default: the system's list), and our own.
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub timeout_ms: u64,
}

impl Default for Redis {
    fn default() -> Self {
        Redis {
            url: "redis://127.0.0.1:6379".into(),
            username: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            timeout_ms: 1_000,
        }
    }
}

/// `[kafka]`: the bus.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kafka {
    /// `host:port,host:port`.
    pub brokers: String,
    /// plaintext, ssl, sasl_plaintext or sasl_ssl.
    pub security: String,
    pub sasl_mechanism: Option<String>,
    pub sasl_username: Option<String>,
    pub sasl_password_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// How long a producer waits to fill a batch.
    pub linger_ms: u64,
    /// Replication and `min.insync.replicas` of topics that `ctl topics --apply` makes.
    pub replication: u32,
    pub min_insync_replicas: u32,
}

impl Default for Kafka {
    fn default() -> Self {
        Kafka {
            brokers: "127.0.0.1:9092".into(),
            security: "plaintext".into(),
            sasl_mechanism: None,
            sasl_username: None,
            sasl_password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            linger_ms: 1,
            replication: 3,
            min_insync_replicas: 2,
        }
    }
}

/// `[admin]`: read-only health and metrics, and (by token) what changes state.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    pub listen: SocketAddr,
    #[serde(default)]
    pub token_file: Option<PathBuf>,
}

/// `[grpc]`: between our processes. Off loopback, `secret_file` is demanded.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Grpc {
    pub listen: SocketAddr,
    /// What others should dial; default: the listen address.
    #[serde(default)]
    pub advertise: Option<String>,
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
}

/// `[drain]`: leaving in good order.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// From "not ready" to the end of accepting: what the load balancer needs to notice.
    pub grace_ms: u64,
    /// Window over which clients are asked to reconnect.
    pub window_ms: u64,
}

impl Default for Drain {
    fn default() -> Self {
        Drain {
            grace_ms: 5_000,
            window_ms: 30_000,
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// error, warn, info, debug or trace, or a `tracing` filter.
    pub level: String,
    /// auto (text on a terminal, JSON otherwise), text or json.
    pub format: String,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            level: "info".into(),
            format: "auto".into(),
        }
    }
}

/// `[conformance]`: for protocol test suites only.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conformance {
    /// `/` echoes messages, without authentication or rate limits.
    pub echo: bool,
}

/// `[dispatchers]`: where a gateway reports to; the first that answers is used.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dispatchers {
    /// `host:port` of each dispatcher's gRPC service.
    pub addresses: Vec<String>,
}

/// `[store]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    /// Directory of the SQLite files.
    pub path: PathBuf,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            path: "herald-data".into(),
        }
    }
}

/// `[http]`: the dispatcher's producer and inbox API.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    pub listen: SocketAddr,
    /// An API key that may make others.
    pub admin_key_file: Option<PathBuf>,
}

impl Default for Http {
    fn default() -> Self {
        Http {
            listen: loopback(8090),
            admin_key_file: None,
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
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
        listen: loopback(9150),
        token_file: None,
    }
}

fn gateway_grpc() -> Grpc {
    Grpc {
        listen: loopback(9250),
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
    pub store: Store,
    #[serde(default = "dispatcher_admin")]
    pub admin: Admin,
    #[serde(default = "dispatcher_grpc")]
    pub grpc: Grpc,
    #[serde(default)]
    pub log: Log,
}

fn dispatcher_admin() -> Admin {
    Admin {
        listen: loopback(9151),
        token_file: None,
    }
}

fn dispatcher_grpc() -> Grpc {
    Grpc {
        listen: loopback(9251),
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
    pub http: Http,
    #[serde(default)]
    pub auth: Auth,
    #[serde(default)]
    pub store: Store,
    #[serde(default = "gateway_admin")]
    pub admin: Admin,
    #[serde(default)]
    pub drain: Drain,
    #[serde(default)]
    pub log: Log,
    #[serde(default)]
    pub conformance: Conformance,
}

/// A configuration whose shipped file is the base that an operator's file and the environment change.
pub trait Shipped: DeserializeOwned {
    const FILE: &str;
}

impl Shipped for GatewayConfig {
    const FILE: &str = include_str!("../config/gateway.toml");
}

impl Shipped for DispatcherConfig {
    const FILE: &str = include_str!("../config/dispatcher.toml");
}

impl Shipped for StandaloneConfig {
    const FILE: &str = include_str!("../config/standalone.toml");
}

/// Reads the shipped file, then the operator's (if any), then the environment.
pub fn load<T: Shipped>(
    path: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    let mut table: toml::Table = T::FILE
        .parse()
        .expect("the shipped file is checked by a test");
    if let Some(path) = path {
        merge(&mut table, read(path)?);
    }
    for (name, value) in environment {
        override_key(&mut table, &name, &value)?;
    }
    toml::Value::Table(table)
        .try_into()
        .map_err(|error: toml::de::Error| {
            let message = error.message().to_owned();
            let text = error.to_string();
            let key = text
                .lines()
                .find_map(|line| line.trim().strip_prefix("in `"));
            ConfigError::new(key.map_or("file", |key| key.trim_end_matches('`')), message)
        })
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
/// value where it is one, as a string otherwise.
fn override_key(table: &mut toml::Table, name: &str, value: &str) -> Result<(), ConfigError> {
    let Some((section, key)) = name
        .strip_prefix("HERALD_")
        .and_then(|rest| rest.split_once("__"))
    else {
        return Ok(());
    };
    let (section, key) = (section.to_lowercase(), key.to_lowercase());
    let parsed = format!("value = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()));
    let entry = table
        .entry(&section)
        .or_insert_with(|| toml::Value::Table(toml::Table::new()));
    match entry {
        toml::Value::Table(section) => {
            section.insert(key, parsed);
            Ok(())
        }
        _ => Err(ConfigError::new(
            section,
            format!("{name} overrides a key of it, but it is no table"),
        )),
    }
}

/// Our processes talk in the clear, so a listener others can reach needs the shared secret.
pub fn grpc_secret(grpc: &Grpc) -> Result<Option<Secret>, ConfigError> {
    match &grpc.secret_file {
        Some(path) => Secret::from_file("grpc.secret_file", path).map(Some),
        None if grpc.listen.ip().is_loopback() => Ok(None),
        None => Err(ConfigError::new(
            "grpc.secret_file",
            format!(
                "must be set, because grpc.listen = {} can be reached from other hosts",
                grpc.listen
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(text: &str, environment: &[(&str, &str)]) -> Result<GatewayConfig, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let environment = environment
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()));
        load(Some(file.path()), environment)
    }

    #[test]
    fn an_unknown_key_is_refused_and_named() {
        let error = gateway("[gateway]\ncolour = 1\n", &[]).unwrap_err();
        assert!(error.to_string().contains("colour"), "{error}");
        let error = gateway("[garage]\n", &[]).unwrap_err();
        assert!(error.to_string().contains("garage"), "{error}");
    }

    #[test]
    fn a_value_of_a_wrong_type_names_its_key() {
        for (text, key) in [
            ("[gateway]\ncores = \"many\"\n", "gateway.cores"),
            ("[gateway]\nlisten = \"nowhere\"\n", "gateway.listen"),
            ("[gateway]\nid = \"GW 1\"\n", "gateway.id"),
            ("[gateway]\nshard = \"some\"\n", "gateway.shard"),
            ("[grpc]\nlisten = 5\n", "grpc.listen"),
        ] {
            let error = gateway(text, &[]).unwrap_err();
            assert_eq!(error.key, key, "{error}");
        }
    }

    #[test]
    fn every_key_can_be_overridden_from_the_environment() {
        let environment = [
            ("HERALD_GATEWAY__CORES", "3"),
            ("HERALD_GATEWAY__ID", "gw-9"),
            ("HERALD_GATEWAY__SHARD", "7"),
            ("HERALD_CONFORMANCE__ECHO", "true"),
            ("HERALD_DISPATCHERS__ADDRESSES", "[\"10.0.0.1:9251\"]"),
            ("PATH", "/bin"),
        ];
        let config = gateway("[gateway]\ncores = 1\n", &environment).unwrap();
        assert_eq!(
            (config.gateway.cores, config.gateway.id.as_str()),
            (3, "gw-9")
        );
        assert_eq!(config.gateway.shard, Shard::Fixed(7));
        assert!(config.conformance.echo);
        assert_eq!(config.dispatchers.addresses, ["10.0.0.1:9251"]);
    }

    #[test]
    fn an_unknown_key_in_the_environment_is_refused_too() {
        let error = gateway("", &[("HERALD_GATEWAY__COLOUR", "red")]).unwrap_err();
        assert!(error.to_string().contains("colour"), "{error}");
    }

    #[test]
    fn grpc_off_loopback_demands_a_secret() {
        let open = Grpc {
            listen: "0.0.0.0:9250".parse().unwrap(),
            advertise: None,
            secret_file: None,
        };
        assert_eq!(grpc_secret(&open).unwrap_err().key, "grpc.secret_file");
        assert_eq!(grpc_secret(&gateway_grpc()), Ok(None));
    }

    /// Every key of the type stands in the file, and what the file sets is what is set without it.
    fn shows_every_key<T: Shipped + Serialize>() -> serde_json::Value {
        let text = T::FILE;
        let loaded = load::<T>(None, std::iter::empty()).unwrap();
        let loaded = serde_json::to_value(loaded).unwrap();
        for (section, keys) in loaded.as_object().unwrap() {
            let start = text
                .find(&format!("[{section}]\n"))
                .unwrap_or_else(|| panic!("the file lacks [{section}]"));
            let body = &text[start..];
            let end = body[1..].find("\n[").map_or(body.len(), |end| end + 1);
            for key in keys.as_object().unwrap().keys() {
                let stands = body[..end].lines().any(|line| {
                    line.trim_start_matches("# ")
                        .starts_with(&format!("{key} ="))
                });
                assert!(stands, "the file lacks {section}.{key}");
            }
        }
        loaded
    }

    #[test]
    fn the_shipped_files_show_every_key_with_its_default() {
        shows_every_key::<DispatcherConfig>();
        shows_every_key::<StandaloneConfig>();
        let gateway = shows_every_key::<GatewayConfig>();
        let built_in: GatewayConfig = toml::from_str("").unwrap();
        assert_eq!(gateway, serde_json::to_value(built_in).unwrap());
    }

    #[test]
    fn a_secret_is_never_printed() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "(secret)");
    }
}
