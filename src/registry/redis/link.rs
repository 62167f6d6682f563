//! One connection to Redis, kept by a task of its own.
//!
//! Invariants:
//! * while the server is away, calls fail at once, and only the keeper tries to connect;
//! * no call lasts longer than the configured timeout;
//! * a server that answers and refuses writes is away: leases end, and who could not be entered would be taken
//!   for absent. Every process finds that out by a write of its own, once a second;
//! * a connection that timed out or broke is never used again: a host that died without a word would hold
//!   its TCP connection for a quarter of an hour.

use super::{
    super::RegistryError,
    writes::{self, Refusal},
};
use crate::{
    clock,
    config::{self, ConfigError, Secret},
    limits,
    metrics::Metrics,
};
use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use prometheus::{Gauge, HistogramVec, IntCounter, IntCounterVec, IntGauge};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo, Pipeline, RedisError, ServerErrorKind, TlsCertificates,
    aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, SetOnce},
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

const CHECK_SERVER: &str = "check the server and redis.url";

/// How often an idle connection is tested, and how long the keeper waits between tries to connect.
const PROBE_EVERY: Duration = Duration::from_secs(1);
const CONNECT_EVERY: Duration = Duration::from_millis(250);
/// So many probes in a row have to be taken before a server that refused a write counts as back: where memory is just
/// about full, one fits and the next does not.
const PROBES_TAKEN: u32 = 3;

pub(super) struct Link {
    config: config::Redis,
    timeout: Duration,
    live: ArcSwapOption<MultiplexedConnection>,
    /// Set when the first try to connect has ended: calls made before wait for it.
    tried: SetOnce<()>,
    /// Hash that is written to find out whether writes are taken.
    probed: String,
    /// Writes are refused; so many probes have been taken since the last refusal.
    refusing: Mutex<Option<u32>>,
    /// Why it is away, and whether the outage that lasts was logged.
    away: ArcSwap<Away>,
    is_said: AtomicBool,
    /// Rung when a call found the connection broken.
    broken: Notify,
    /// Run id of the server that answered last, and how often another one took its place.
    server: Mutex<Option<String>>,
    incarnation: AtomicU64,
    metrics: LinkMetrics,
}

struct Away {
    cause: String,
    fix: &'static str,
}

struct LinkMetrics {
    seconds: HistogramVec,
    errors: IntCounterVec,
    connects: IntCounter,
    up: IntGauge,
    skew: Gauge,
}

impl Link {
    /// Fails only on a configuration that can't work; [`Link::keep`] connects.
    pub(super) fn open(
        config: &config::Redis,
        probed: String,
        metrics: &Metrics,
    ) -> Result<Arc<Link>, ConfigError> {
        check(config)?;
        Ok(Arc::new(Link {
            config: config.clone(),
            timeout: Duration::from_millis(config.timeout_ms),
            live: ArcSwapOption::empty(),
            tried: SetOnce::new(),
            probed,
            refusing: Mutex::new(None),
            away: ArcSwap::from_pointee(Away {
                cause: "not connected yet".to_owned(),
                fix: CHECK_SERVER,
            }),
            is_said: AtomicBool::new(false),
            broken: Notify::new(),
            server: Mutex::new(None),
            incarnation: AtomicU64::new(0),
            metrics: LinkMetrics::new(metrics),
        }))
    }

    /// Runs for as long as the registry lives.
    pub(super) async fn keep(self: Arc<Link>) {
        loop {
            if self.live.load().is_some() {
                let _ = timeout(PROBE_EVERY, self.broken.notified()).await;
                self.probe().await;
                continue;
            }
            // The password may have been replaced since.
            match client(&self.config) {
                Ok(client) => self.connect(&client).await,
                Err(error) => self.note_away(&error.to_string(), CHECK_SERVER),
            }
            // An error says that it was set before.
            let _ = self.tried.set(());
            if self.live.load().is_none() {
                sleep(CONNECT_EVERY).await;
            }
        }
    }

    /// That it fails is what matters, and that the call has noted. What it answers shows how far this host's
    /// clock is off: leases are judged by Redis's, expiry by the hosts' own.
    async fn probe(&self) {
        let asked = Instant::now();
        let mut pipeline = redis::pipe();
        writes::try_one(pipeline.cmd("TIME"), &self.probed);
        let answer = self.ask("probe", &pipeline);
        let Ok(((seconds, micros),)) = answer.await else {
            return;
        };
        self.takes_writes();
        let theirs = Duration::from_secs(seconds) + Duration::from_micros(micros);
        let skew_s = skew_s(clock::unix(), theirs, asked.elapsed());
        self.metrics.skew.set(skew_s);
    }

    pub(super) fn healthy(&self) -> bool {
        self.live.load().is_some() && self.refusing.lock().is_none()
    }

    /// Why it is away, and what to do.
    pub(super) fn fault(&self) -> Option<String> {
        if self.healthy() {
            return None;
        }
        let away = self.away.load();
        Some(format!("{}; {}", away.cause, away.fix))
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Relaxed)
    }

    /// What was entered is not there any more, though it may be the same server.
    pub(super) fn has_forgotten(&self) {
        self.incarnation.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends the commands in one go. `operation` is a metric label: a constant.
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        operation: &'static str,
        pipeline: &Pipeline,
    ) -> Result<T, RegistryError> {
        if !self.tried.initialized() {
            let _ = timeout(self.timeout, self.tried.wait()).await;
        }
        if !self.healthy() {
            return Err(self.is_away(operation));
        }
        self.ask(operation, pipeline).await
    }

    /// The same, whether or not writes are refused.
    async fn ask<T: FromRedisValue>(
        &self,
        operation: &'static str,
        pipeline: &Pipeline,
    ) -> Result<T, RegistryError> {
        let Some(live) = self.live.load_full() else {
            return Err(self.is_away(operation));
        };
        let started = Instant::now();
        let mut connection = MultiplexedConnection::clone(&live);
        let answer = timeout(self.timeout, pipeline.query_async(&mut connection)).await;
        self.metrics
            .seconds
            .with_label_values(&[operation])
            .observe(started.elapsed().as_secs_f64());
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(self.failed(operation, &live, &error)),
            Err(_) => {
                self.count(operation, "timeout");
                let why = format!("no answer within {} ms", self.config.timeout_ms);
                self.drop_connection(&live, &why, CHECK_SERVER);
                Err(RegistryError::Unavailable(why))
            }
        }
    }

    fn is_away(&self, operation: &'static str) -> RegistryError {
        self.count(operation, "away");
        RegistryError::Unavailable(self.away.load().cause.clone())
    }

    fn failed(
        &self,
        operation: &'static str,
        live: &Arc<MultiplexedConnection>,
        error: &RedisError,
    ) -> RegistryError {
        let why = error.to_string();
        if let Some(refusal) = Refusal::of(error) {
            self.count(operation, refusal.label());
            self.refuses(&why, refusal);
            return RegistryError::Unavailable(why);
        }
        let (cause, broken) = match error.kind() {
            ErrorKind::Io => ("connection", true),
            // A replica answers: the primary is elsewhere by now, or will be.
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => {
                ("read_only", true)
            }
            ErrorKind::Server(ServerErrorKind::BusyLoading) => ("loading", false),
            ErrorKind::Server(_) => ("refused", false),
            _ => ("unreadable", true),
        };
        self.count(operation, cause);
        if broken {
            self.drop_connection(live, &why, fix_of(error));
        } else if cause != "loading" {
            warn!(operation, error = %why, "Redis refused a command; check its version and the user's ACL");
        }
        RegistryError::Unavailable(why)
    }

    /// Gives the connection up, unless another one has taken its place already.
    fn drop_connection(&self, broken: &Arc<MultiplexedConnection>, why: &str, fix: &'static str) {
        let current = self.live.load();
        if current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, broken))
        {
            self.live.compare_and_swap(&current, None);
            self.note_away(why, fix);
            self.broken.notify_one();
        }
    }

    async fn connect(&self, client: &Client) {
        let greeting = greet(client, self.timeout, &self.probed);
        match timeout(self.timeout, greeting).await {
            Ok(Ok(greeted)) => {
                let mut server = self.server.lock();
                if *server != greeted.run_id || greeted.run_id.is_none() {
                    self.incarnation.fetch_add(1, Ordering::Relaxed);
                    *server = greeted.run_id;
                }
                drop(server);
                self.metrics.connects.inc();
                if let Some((why, refusal)) = greeted.refusal {
                    self.refuses(&why, refusal);
                }
                self.live.store(Some(Arc::new(greeted.connection)));
                if self.healthy() {
                    self.answers();
                }
            }
            Ok(Err(error)) => self.note_away(&error.to_string(), fix_of(&error)),
            Err(_) => {
                let why = format!("no connection within {} ms", self.config.timeout_ms);
                self.note_away(&why, CHECK_SERVER);
            }
        }
    }

    /// A write was refused: the connection is kept, to find out when one is taken.
    fn refuses(&self, why: &str, refusal: Refusal) {
        *self.refusing.lock() = Some(0);
        self.note_away(&format!("it refuses writes: {why}"), refusal.fix());
    }

    /// A probe was taken.
    fn takes_writes(&self) {
        let mut refusing = self.refusing.lock();
        *refusing = match *refusing {
            None => return,
            Some(taken) if taken + 1 < PROBES_TAKEN => Some(taken + 1),
            Some(_) => None,
        };
        if refusing.is_none() {
            drop(refusing);
            self.answers();
        }
    }

    fn answers(&self) {
        self.metrics.up.set(1);
        self.is_said.store(false, Ordering::Relaxed);
        info!(address = address(&self.config.url), "Redis answers");
    }

    /// Says so once per outage; another cause meanwhile (it answers, but refuses us) is news.
    fn note_away(&self, why: &str, fix: &'static str) {
        self.metrics.up.set(0);
        let cause = format!("Redis at {}: {why}", address(&self.config.url));
        if !self.is_said.swap(true, Ordering::Relaxed) {
            warn!(
                %cause,
                "Redis is away: ownership is kept, nothing new is claimed; {fix}, this ends by itself"
            );
        } else if self.away.load().cause != cause {
            info!(%cause, "Redis is still away");
        }
        self.away.store(Arc::new(Away { cause, fix }));
    }

    fn count(&self, operation: &str, cause: &str) {
        self.metrics
            .errors
            .with_label_values(&[operation, cause])
            .inc();
    }
}

impl LinkMetrics {
    fn new(metrics: &Metrics) -> LinkMetrics {
        LinkMetrics {
            seconds: metrics.latencies(
                "registry_seconds",
                "Time of one request to the registry's Redis",
                &["operation"],
            ),
            errors: metrics.counters(
                "registry_errors_total",
                "Requests to the registry's Redis that failed, by cause",
                &["operation", "cause"],
            ),
            connects: metrics.counter(
                "registry_connects_total",
                "Connections made to the registry's Redis",
            ),
            up: metrics.gauge(
                "registry_up",
                "1 while the registry's Redis answers, 0 while it is away",
            ),
            skew: metrics.fraction(
                "clock_skew_seconds",
                "This host's clock less that of the registry's Redis, when it last answered",
            ),
        }
    }
}

/// By how much our clock is ahead, `round_trip` after we asked for theirs; it may be wrong by half of that.
fn skew_s(ours: Duration, theirs: Duration, round_trip: Duration) -> f64 {
    ours.as_secs_f64() - (theirs + round_trip / 2).as_secs_f64()
}

/// A server that answers.
struct Greeted {
    connection: MultiplexedConnection,
    run_id: Option<String>,
    refusal: Option<(String, Refusal)>,
}

/// Connects, and asks the server who it is (another run id means that it may know nothing of us) and whether it takes
/// writes.
async fn greet(client: &Client, limit: Duration, probed: &str) -> Result<Greeted, RedisError> {
    // The caller's timeout bounds every request; the library's own would be another figure.
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(limit))
        .set_response_timeout(None);
    let mut connection = client
        .get_multiplexed_async_connection_with_config(&settings)
        .await?;
    let answer = redis::cmd("INFO")
        .arg("server")
        .query_async::<String>(&mut connection)
        .await;
    let server = match answer {
        // Not shown to this user: then every new connection may be to another server.
        Err(error) if is_forbidden(&error) => String::new(),
        answer => answer?,
    };
    let run_id = server
        .lines()
        .find_map(|line| line.strip_prefix("run_id:"))
        .map(str::to_owned);
    let mut probe = redis::pipe();
    writes::try_one(&mut probe, probed);
    let refusal = match probe.query_async::<()>(&mut connection).await {
        Ok(()) => None,
        // Then the first write of use will tell.
        Err(error) if is_forbidden(&error) => None,
        Err(error) => match Refusal::of(&error) {
            Some(refusal) => Some((error.to_string(), refusal)),
            None => return Err(error),
        },
    };
    Ok(Greeted {
        connection,
        run_id,
        refusal,
    })
}

fn is_forbidden(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
}

fn fix_of(error: &RedisError) -> &'static str {
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => {
            "a replica answers there: point redis.url at the primary, or wait until it is one"
        }
        _ => CHECK_SERVER,
    }
}

/// What [`Link::open`] would refuse.
pub(super) fn check(config: &config::Redis) -> Result<(), ConfigError> {
    let (least, most) = (
        limits::REDIS_TIMEOUT_MS_MIN,
        limits::REDIS_TIMEOUT_MAX.as_millis() as u64,
    );
    if !(least..=most).contains(&config.timeout_ms) {
        let problem = format!("{} is not allowed: {least} to {most}", config.timeout_ms);
        return Err(ConfigError::new("redis.timeout_ms", problem));
    }
    config::check::named("redis.username", config.username.as_deref())?;
    let files = [
        ("redis.ca_file", &config.ca_file),
        ("redis.cert_file", &config.cert_file),
        ("redis.key_file", &config.key_file),
    ];
    let idle = files.iter().find(|(_, file)| file.is_some());
    if let Some((key, _)) = idle
        && !config.url.starts_with("rediss:")
    {
        let problem = "is set, but redis.url is not rediss://: nothing would be encrypted";
        return Err(ConfigError::new(*key, problem));
    }
    client(config).map(drop)
}

/// Reads the files anew: secrets may be replaced while we run.
fn client(config: &config::Redis) -> Result<Client, ConfigError> {
    let refused = |error: RedisError| {
        let allowed = "redis://HOST:PORT, rediss://HOST:PORT (TLS) or unix:///PATH, each with a database \
                       (/0) if need be; user and password have keys of their own";
        ConfigError::new("redis.url", format!("{error}: it is {allowed}"))
    };
    let info = config
        .url
        .as_str()
        .into_connection_info()
        .map_err(refused)?;
    let mut login = info.redis_settings().clone();
    if let Some(username) = &config.username {
        login = login.set_username(username);
    }
    if let Some(path) = &config.password_file {
        let password = Secret::from_file("redis.password_file", path)?;
        login = login.set_password(password.expose());
    }
    let info: ConnectionInfo = info
        .set_redis_settings(login)
        .set_tcp_settings(TcpSettings::default().set_nodelay(true));
    if !config.url.starts_with("rediss:") {
        return Client::open(info).map_err(refused);
    }
    // The library reads them here.
    Client::build_with_tls(info, certificates(config)?).map_err(|error| {
        let problem = format!("with redis.cert_file and redis.key_file: {error}");
        ConfigError::new("redis.ca_file", problem)
    })
}

fn certificates(config: &config::Redis) -> Result<TlsCertificates, ConfigError> {
    let read = |key: &str, path: &PathBuf| {
        std::fs::read(path).map_err(|error| {
            ConfigError::new(key, format!("can't read {}: {error}", path.display()))
        })
    };
    let root_cert = match &config.ca_file {
        Some(path) => Some(read("redis.ca_file", path)?),
        None => None,
    };
    let client_tls = match (&config.cert_file, &config.key_file) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig {
            client_cert: read("redis.cert_file", cert)?,
            client_key: read("redis.key_file", key)?,
        }),
        (None, None) => None,
        _ => {
            return Err(ConfigError::new(
                "redis.cert_file",
                "cert_file and key_file come together",
            ));
        }
    };
    Ok(TlsCertificates {
        client_tls,
        root_cert,
    })
}

/// The URL without the user name and password it may carry.
fn address(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.rsplit_once('@').map_or(rest, |(_, address)| address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_behind_has_a_negative_skew() {
        let at = Duration::from_millis;
        assert_eq!(skew_s(at(90_500), at(100_000), at(1_000)), -10.0);
        assert_eq!(skew_s(at(100_500), at(100_000), at(1_000)), 0.0);
    }

    #[test]
    fn an_address_in_a_log_shows_no_password() {
        assert_eq!(address("redis://user:p@ss@host:1/2"), "host:1/2");
        assert_eq!(address("redis://host:1"), "host:1");
    }
}
