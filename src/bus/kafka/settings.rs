//! librdkafka's settings: what Herald decides, and what an operator does.
//!
//! Its defaults suit batch jobs (300 s until a message counts as lost, 1 s pauses of a full fetch
//! queue, offsets committed behind our back), so everything that matters is set here.

use crate::{
    config::{ConfigError, Kafka, Secret, check::host_and_port},
    limits,
};
use arc_swap::ArcSwap;
use rdkafka::ClientConfig;
use std::{path::Path, sync::Arc, time::Duration};

/// What a Kafka record costs beside what [`Record::bytes`](crate::bus::Record::bytes) counts, and the
/// batch around it.
pub(super) const BATCH_OVERHEAD_BYTES: u32 = 16 << 10;

#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Shared by every client.
    common: ClientConfig,
    linger_ms: u64,
    /// Where `kafka.security` asks for them.
    credentials: Option<SharedCredentials>,
}

/// As the files say now.
pub(super) type SharedCredentials = Arc<ArcSwap<Credentials>>;

/// Who we are to the brokers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) username: String,
    pub(super) password: Secret,
}

impl Settings {
    pub(super) fn new(config: &Kafka) -> Result<Settings, ConfigError> {
        for broker in config.brokers.split(',') {
            host_and_port("kafka.brokers", broker.trim())?;
        }
        check_copies(config)?;
        if config.linger_ms >= ms(limits::KAFKA_CALL) {
            let problem = format!(
                "must be below {} ms: that is how long a record has to become durable",
                ms(limits::KAFKA_CALL)
            );
            return Err(ConfigError::new("kafka.linger_ms", problem));
        }
        let mut common = ClientConfig::new();
        common
            .set("bootstrap.servers", config.brokers.trim())
            .set("client.id", "herald")
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.timeout.ms", text(limits::KAFKA_SOCKET))
            .set("socket.nagle.disable", "true")
            .set("socket.keepalive.enable", "true")
            // A topic is made by `ctl topics --apply`, with its settings, or not at all.
            .set("allow.auto.create.topics", "false")
            // Connections that carry nothing are closed by brokers; that is no news.
            .set("log.connection.close", "false")
            // A broker that its controller took for dead a moment is in no metadata, and librdkafka forgets it.
            // Where a request was on its way it asks the configured addresses again: by default after 300 s. For
            // the other cases see [`brokers`](super::brokers).
            .set(
                "metadata.recovery.rebootstrap.trigger.ms",
                text(limits::KAFKA_LOST),
            )
            .set("statistics.interval.ms", text(limits::KAFKA_STATISTICS));
        let credentials = secure(&mut common, config)?;
        Ok(Settings {
            common,
            linger_ms: config.linger_ms,
            credentials: credentials
                .map(|credentials| Arc::new(ArcSwap::from_pointee(credentials))),
        })
    }

    /// User and password read again: for clients made from now on, and for others when they next have to
    /// show them.
    pub(super) fn reload(&self, config: &Kafka) -> Result<(), ConfigError> {
        let fresh = Settings::new(config)?;
        if let (Some(kept), Some(fresh)) = (&self.credentials, fresh.credentials) {
            kept.store(fresh.load_full());
        }
        Ok(())
    }

    pub(super) fn credentials(&self) -> Option<SharedCredentials> {
        self.credentials.clone()
    }

    fn base(&self) -> ClientConfig {
        let mut base = self.common.clone();
        if let Some(credentials) = &self.credentials {
            let credentials = credentials.load();
            base.set("sasl.username", &credentials.username)
                .set("sasl.password", credentials.password.expose());
        }
        base
    }

    /// Metadata, watermarks, administration: a client that neither produces nor consumes.
    pub(super) fn plain(&self) -> ClientConfig {
        self.base()
    }

    pub(super) fn producer(&self) -> ClientConfig {
        let message_bytes_max = (2 << 20) + BATCH_OVERHEAD_BYTES;
        let mut producer = self.base();
        producer
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", self.linger_ms.to_string())
            // On purpose: after that the spool takes over, so the caller has to know.
            .set("message.timeout.ms", text(limits::KAFKA_CALL))
            // A topic that vanished is reported within that time, not after 30 s.
            .set("topic.metadata.propagation.max.ms", "1000")
            // Stable for ever and the Java client's: see `partitioner.rs`.
            .set("partitioner", "murmur2")
            .set("message.max.bytes", message_bytes_max.to_string())
            .set(
                "queue.buffering.max.messages",
                limits::KAFKA_QUEUE_MESSAGES.to_string(),
            )
            .set(
                "queue.buffering.max.kbytes",
                limits::KAFKA_QUEUE_KIB.to_string(),
            );
        producer
    }

    /// For reading, and for commits to `group` (with its namespace).
    pub(super) fn consumer(&self, group: &str) -> ClientConfig {
        let mut consumer = self.base();
        consumer
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            // Cooperative: when a member comes or goes, only the partitions that move stop; the eager
            // protocol would halt every router at each deploy of one of them.
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", text(limits::KAFKA_SESSION))
            .set("heartbeat.interval.ms", "3000")
            .set("fetch.queue.backoff.ms", text(limits::KAFKA_FETCH_BACKOFF))
            .set("fetch.error.backoff.ms", "100")
            .set(
                "queued.min.messages",
                limits::KAFKA_PREFETCH_MESSAGES.to_string(),
            )
            .set(
                "queued.max.messages.kbytes",
                limits::KAFKA_PREFETCH_KIB.to_string(),
            );
        consumer
    }
}

/// librdkafka names the property it doesn't like; the operator knows our keys.
pub(super) fn refused(error: &rdkafka::error::KafkaError) -> ConfigError {
    ConfigError::new("kafka", error.to_string())
}

fn check_copies(config: &Kafka) -> Result<(), ConfigError> {
    let allowed = limits::KAFKA_REPLICATION_ALLOWED;
    if !allowed.contains(&config.replication) {
        let (least, most) = (allowed.start(), allowed.end());
        let problem = format!("{} is not allowed: {least} to {most}", config.replication);
        return Err(ConfigError::new("kafka.replication", problem));
    }
    let (wanted, most) = (config.min_insync_replicas, config.replication);
    if !(1..=most).contains(&wanted) {
        let problem = format!(
            "{wanted} is not allowed: 1 to {most} (kafka.replication), or nothing is ever written"
        );
        return Err(ConfigError::new("kafka.min_insync_replicas", problem));
    }
    Ok(())
}

/// Keys that the chosen protocol would pass over: who sets one believes in what it does.
fn check_unused(config: &Kafka) -> Result<(), ConfigError> {
    let encrypts = config.security.ends_with("ssl");
    let authenticates = config.security.starts_with("sasl");
    let keys = [
        ("kafka.ca_file", config.ca_file.is_some(), encrypts),
        ("kafka.cert_file", config.cert_file.is_some(), encrypts),
        ("kafka.key_file", config.key_file.is_some(), encrypts),
        (
            "kafka.sasl_mechanism",
            config.sasl_mechanism.is_some(),
            authenticates,
        ),
        (
            "kafka.sasl_username",
            config.sasl_username.is_some(),
            authenticates,
        ),
        (
            "kafka.sasl_password_file",
            config.sasl_password_file.is_some(),
            authenticates,
        ),
    ];
    match keys.iter().find(|(_, is_set, is_used)| *is_set && !is_used) {
        Some((key, ..)) => {
            let problem = format!(
                "is set, but kafka.security = {:?} does not use it",
                config.security
            );
            Err(ConfigError::new(*key, problem))
        }
        None => Ok(()),
    }
}

fn secure(client: &mut ClientConfig, config: &Kafka) -> Result<Option<Credentials>, ConfigError> {
    let protocols = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];
    if !protocols.contains(&config.security.as_str()) {
        let problem = format!("{:?} is none of {}", config.security, protocols.join(", "));
        return Err(ConfigError::new("kafka.security", problem));
    }
    check_unused(config)?;
    client.set("security.protocol", &config.security);
    if config.security.ends_with("ssl") {
        let files = [
            ("kafka.ca_file", "ssl.ca.location", &config.ca_file),
            (
                "kafka.cert_file",
                "ssl.certificate.location",
                &config.cert_file,
            ),
            ("kafka.key_file", "ssl.key.location", &config.key_file),
        ];
        for (key, property, file) in files {
            if let Some(path) = file {
                client.set(property, readable(key, path)?);
            }
        }
    }
    match config.security.starts_with("sasl") {
        true => authenticate(client, config).map(Some),
        false => Ok(None),
    }
}

fn authenticate(client: &mut ClientConfig, config: &Kafka) -> Result<Credentials, ConfigError> {
    const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
    let mechanism = config.sasl_mechanism.as_deref().unwrap_or("SCRAM-SHA-512");
    if !MECHANISMS.contains(&mechanism) {
        let problem = format!("{mechanism:?} is none of {}", MECHANISMS.join(", "));
        return Err(ConfigError::new("kafka.sasl_mechanism", problem));
    }
    let needed = |key: &str| ConfigError::new(key, format!("{} needs it", config.security));
    let username = config.sasl_username.as_deref();
    let username = username.ok_or_else(|| needed("kafka.sasl_username"))?;
    let file = config.sasl_password_file.as_deref();
    let file = file.ok_or_else(|| needed("kafka.sasl_password_file"))?;
    let password = Secret::from_file("kafka.sasl_password_file", file)?;
    client.set("sasl.mechanism", mechanism);
    Ok(Credentials {
        username: username.to_owned(),
        password,
    })
}

/// librdkafka opens the file later and says less about it.
fn readable(key: &str, path: &Path) -> Result<String, ConfigError> {
    std::fs::File::open(path).map_err(|error| {
        ConfigError::new(key, format!("can't read {}: {error}", path.display()))
    })?;
    let text = path.to_str();
    let text = text.ok_or_else(|| ConfigError::new(key, "the path is not UTF-8"));
    text.map(str::to_owned)
}

fn ms(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

fn text(duration: Duration) -> String {
    ms(duration).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_refused(config: &Kafka) -> String {
        Settings::new(config).unwrap_err().key
    }

    #[test]
    fn a_bad_value_names_its_key() {
        let kafka = Kafka::default;
        assert!(Settings::new(&kafka()).is_ok());
        let brokers = String::new();
        assert_eq!(key_refused(&Kafka { brokers, ..kafka() }), "kafka.brokers");
        let linger_ms = 60_000;
        assert_eq!(
            key_refused(&Kafka {
                linger_ms,
                ..kafka()
            }),
            "kafka.linger_ms"
        );
        let security = "tls".to_owned();
        assert_eq!(
            key_refused(&Kafka {
                security,
                ..kafka()
            }),
            "kafka.security"
        );
        let missing = Kafka {
            security: "ssl".to_owned(),
            ca_file: Some("/nonexistent".into()),
            ..kafka()
        };
        assert_eq!(key_refused(&missing), "kafka.ca_file");
    }

    #[test]
    fn a_password_is_taken_from_its_file_and_not_printed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "open sesame\n").unwrap();
        let mut config = Kafka {
            security: "sasl_plaintext".to_owned(),
            sasl_username: Some("herald".to_owned()),
            ..Kafka::default()
        };
        assert_eq!(key_refused(&config), "kafka.sasl_password_file");
        config.sasl_password_file = Some(file);
        let settings = Settings::new(&config).unwrap();
        assert_eq!(settings.base().get("sasl.password"), Some("open sesame"));
        assert!(!format!("{settings:?}").contains("sesame"));
    }
}
