//! The sections of the configuration files, each with its defaults.

use crate::{
    ids::{GatewayId, Namespace, Region},
    limits,
};
use serde::{Deserialize, Serialize, Serializer};
use std::{net::SocketAddr, path::PathBuf};

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

/// Which core gets a newcomer.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Steer {
    /// By the hash of its addresses: evenly.
    #[default]
    Hash,
    /// The one on the CPU that took its packets in.
    Cpu,
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
    /// Where clients connect by TLS, with the certificate of [`Tls`]; without it none do.
    pub tls_listen: Option<SocketAddr>,
    /// Core threads; 0 is one per CPU.
    pub cores: usize,
    pub engine: Engine,
    /// Pin core thread N to CPU N modulo the count.
    pub pin: bool,
    pub steer: Steer,
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
    /// Memory within which newcomers are let in, kernel included; 0 is what the host grants.
    pub memory_bytes_max: u64,
}

impl Default for Gateway {
    fn default() -> Self {
        let ms = |d: std::time::Duration| d.as_millis() as u64;
        Gateway {
            id: "gw-1".parse().expect("a label"),
            shard: Shard::Auto,
            listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
            tls_listen: None,
            cores: 0,
            engine: Engine::Auto,
            pin: true,
            steer: Steer::Hash,
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
            memory_bytes_max: 0,
        }
    }
}

/// `[tls]`: of the listener `gateway.tls_listen`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// PEM: the certificate, and the chain above it.
    pub certificate_file: Option<PathBuf>,
    /// PEM: its private key.
    pub key_file: Option<PathBuf>,
    /// Keys of session tickets that the fleet shares, one a line, newest first. Without: one of this process.
    pub ticket_keys_file: Option<PathBuf>,
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

/// `[admin]`: health and metrics, read-only.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    pub listen: SocketAddr,
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
    /// Window over which clients are asked to reconnect where no sibling lives to set the pace.
    pub window_ms: u64,
    /// With siblings: who is still here then is sent away at once, spread over the crash slot.
    pub deadline_ms: u64,
}

impl Default for Drain {
    fn default() -> Self {
        Drain {
            grace_ms: 5_000,
            window_ms: 30_000,
            deadline_ms: 600_000,
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

/// `[store]` of a standalone.
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

/// Where a dispatcher keeps what lasts.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// One file, for the dispatchers of one host.
    #[default]
    Sqlite,
    /// For any number of dispatchers.
    Cassandra,
}

/// `[store]` of a dispatcher: SQLite uses `path`, Cassandra everything else.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DispatcherStore {
    pub kind: StoreKind,
    /// Directory of the SQLite files.
    pub path: PathBuf,
    /// `host:port` of some nodes.
    pub contact_points: Vec<String>,
    pub keyspace: String,
    /// The data centre that is asked, and whose quorum counts.
    pub datacenter: Option<String>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    /// Who may sign the nodes' certificates; with it the way there is TLS. And our own certificate.
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Of one request.
    pub timeout_ms: u64,
    /// Copies in the data centre, where `migrate` makes the keyspace.
    pub replication: u32,
}

impl Default for DispatcherStore {
    fn default() -> Self {
        DispatcherStore {
            kind: StoreKind::Sqlite,
            path: Store::default().path,
            contact_points: Vec::new(),
            keyspace: "herald".into(),
            datacenter: None,
            username: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            timeout_ms: limits::CASSANDRA_TIMEOUT.as_millis() as u64,
            replication: 3,
        }
    }
}

/// `[spool]`: where a dispatcher keeps notifications while the bus is away.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spool {
    /// Directory of its file, this process's own.
    pub path: PathBuf,
    pub bytes_max: u64,
}

impl Default for Spool {
    fn default() -> Self {
        Spool {
            path: "herald-data".into(),
            bytes_max: limits::SPOOL_BYTES,
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

/// `[fallback]`: when the channels of a chain begin, if nothing was acknowledged by then.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fallback {
    /// Seconds after the chain began; each has a delay topic.
    pub push_after_s: u32,
    pub email_after_s: u32,
    /// Types of notifications that carry a code: they go by SMS, push and e-mail, in this order.
    pub code_types: Vec<String>,
}

impl Default for Fallback {
    fn default() -> Self {
        Fallback {
            push_after_s: limits::PUSH_AFTER_S,
            email_after_s: limits::EMAIL_AFTER_S,
            code_types: vec!["two_factor".into()],
        }
    }
}

/// `[preferences]`: what users may not decide.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Preferences {
    /// Types of notifications that can't be switched off.
    pub mandatory_types: Vec<String>,
}

/// `[templates]`: texts by type, channel and locale.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Templates {
    /// Directory; without one notifications are shown as they were sent.
    pub path: Option<PathBuf>,
    /// For users whose language has no text.
    pub fallback_locale: String,
}

impl Default for Templates {
    fn default() -> Self {
        Templates {
            path: None,
            fallback_locale: "en".into(),
        }
    }
}

pub(super) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
