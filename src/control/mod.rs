//! The gateway's tokio side: everything that talks to Redis, Kafka, gRPC and the admin port. It never
//! touches a client socket.
//!
//! The files in the order of a record's way: [`ownership`] (which shard is ours), `shard` and `broadcast`
//! (reading), `place` (to whom), `link` (to the cores), `flights` (until the cores answered), `outcomes`
//! (until a dispatcher accepted), `dead_letters`. Beside it a connection's way: `inbox`, `allowance`, `table`,
//! `connect`, `posts`, `behind`. And the process: `health`, `canary`, `upkeep`, `admin`, `deliver`, `leaving`.

mod admin;
mod allowance;
mod behind;
mod broadcast;
mod canary;
mod connect;
mod cut_off;
mod dead_letters;
mod deliver;
mod exchange;
pub mod flights;
pub mod grpc_upstream;
mod health;
mod host;
mod inbox;
pub mod leaving;
mod link;
mod metrics;
pub mod outcomes;
mod ownership;
mod place;
mod posts;
mod shard;
mod sync_stream;
pub mod table;
mod upkeep;
pub mod upstream;

pub use ownership::Refused;

use crate::{
    api::secret::SharedSecret,
    bus::SharedBus,
    config::{self, ConfigError},
    gateway::{Cores, Inbox, mailbox::ToCore},
    ids::GatewayEpoch,
    limits,
    metrics::Metrics,
    registry::{LEASES_CACHED_MS, RENEW_MS, SharedRegistry},
    serve::{Port, Server},
};
use arc_swap::ArcSwap;
use host::Host;
use leaving::{Phase, Wish};
use outcomes::Reporter;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use upstream::SharedUpstream;
use uuid::Uuid;

/// How often leases are renewed and the table is looked through; shorter in tests.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub renew: Duration,
    /// How old leases may be that others look users up by.
    pub leases_cached: Duration,
    pub removal_after: Duration,
    /// One comparison of the whole table with the registry.
    pub anti_entropy: Duration,
    /// Between two probes of the canary.
    pub probe: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            renew: Duration::from_millis(RENEW_MS),
            leases_cached: Duration::from_millis(LEASES_CACHED_MS),
            removal_after: limits::REMOVAL_AFTER,
            anti_entropy: limits::ANTI_ENTROPY,
            probe: limits::CANARY_EVERY,
        }
    }
}

/// What control is made of.
pub struct Parts {
    pub node: config::Node,
    pub gateway: config::Gateway,
    pub drain: config::Drain,
    pub admin: config::Admin,
    /// `None` in the standalone: nobody calls from outside.
    pub grpc: Option<config::Grpc>,
    pub pace: Pace,
    pub bus: SharedBus,
    pub registry: SharedRegistry,
    pub upstream: SharedUpstream,
    pub cores: Cores,
    pub inbox: Inbox,
    pub metrics: Metrics,
}

#[derive(Debug, Error)]
pub enum ControlError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the bell of the core threads is broken: {0}")]
    Cores(#[from] io::Error),
}

/// Control with its ports open, ready to run.
pub struct Control {
    host: Arc<Host>,
    inbox: Inbox,
    metrics: Metrics,
    admin: TcpListener,
    grpc: Option<(TcpListener, SharedSecret)>,
}

/// Opens the ports and runs until drained after `shutdown`, or at once after `now`.
pub async fn run(
    parts: Parts,
    shutdown: CancellationToken,
    now: CancellationToken,
) -> Result<(), ControlError> {
    Control::open(parts).await?.run(shutdown, now).await
}

impl Control {
    pub async fn open(parts: Parts) -> Result<Control, ControlError> {
        let admin = listen("admin.listen", parts.admin.listen).await?;
        let mut grpc = None;
        let mut advertised = String::new();
        if let Some(config) = &parts.grpc {
            let secret = SharedSecret::from_config(config)?;
            let listener = listen("grpc.listen", config.listen).await?;
            let address = listener.local_addr()?.to_string();
            advertised = config.advertise.clone().unwrap_or(address);
            grpc = Some((listener, secret));
        }
        let metrics = Arc::new(metrics::ControlMetrics::new(&parts.metrics));
        let unknown = GatewayEpoch {
            gateway: parts.gateway.id.clone(),
            epoch: 0,
        };
        let region = parts.node.region;
        let host = Host {
            id: parts.gateway.id.clone(),
            process: Uuid::now_v7().to_string(),
            streams: [
                region.user_stream().into(),
                region.broadcast_stream().into(),
            ],
            region,
            gateway: ArcSwap::from_pointee(parts.gateway),
            drain: parts.drain,
            grpc: advertised,
            pace: parts.pace,
            bus: parts.bus,
            registry: parts.registry,
            upstream: parts.upstream,
            canary: canary::Canary::new(parts.cores.len()),
            outboxes: link::Outboxes::new(parts.cores),
            table: Default::default(),
            flights: Default::default(),
            outcomes: outcomes::Outcomes::new(metrics.clone()),
            behind: behind::Behind::new(metrics.clone()),
            health: health::Health::new(metrics.clone()),
            cut_off: Default::default(),
            metrics,
            ownership: watch::Sender::new(None),
            identity: watch::Sender::new((unknown, None)),
            named_epoch: Arc::new(watch::Sender::new(None)),
            follows_broadcasts: watch::Sender::new(false),
            draining: Default::default(),
            leaving: Default::default(),
            opened: Default::default(),
            opened_per_s: Default::default(),
            live_gateways: Default::default(),
        };
        let host = Arc::new(host);
        host.measure_table(&parts.metrics);
        host.canary.measure(&parts.metrics);
        Ok(Control {
            host,
            inbox: parts.inbox,
            metrics: parts.metrics,
            admin,
            grpc,
        })
    }

    /// Where the admin port is.
    pub fn admin_addr(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Where `Deliver` is served.
    pub fn grpc_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.grpc
            .as_ref()
            .map(|(listener, _)| listener.local_addr())
            .transpose()
    }

    /// One line for an operator: whether this host delivers, what stands in the way, who is here.
    pub fn status(&self) -> impl Fn() -> String + Send + use<> {
        let host = self.host.clone();
        move || {
            let connections = host.table.connections();
            let mut line = format!("{}; connections: {connections}", host.health.readiness());
            let progress = host.leaving.progress();
            if progress.phase != Phase::Serving {
                let rate_per_s = progress.rate_per_s;
                line += &format!("; {} at {rate_per_s}/s", progress.phase);
                if let Some(eta_s) = connections.checked_div(u64::from(rate_per_s)) {
                    line += &format!(", {eta_s} s left");
                }
                if let Some(waits) = progress.waits {
                    line += &format!(", waits: {waits}");
                }
            }
            line
        }
    }

    /// Whether the process is on its way out.
    pub fn is_ending(&self) -> impl Fn() -> bool + Send + use<> {
        let host = self.host.clone();
        move || host.leaving.is_ending()
    }

    /// What dispatchers present, to be read again; of nobody in the standalone.
    pub fn secret(&self) -> SharedSecret {
        let secret = self.grpc.as_ref().map(|(_, secret)| secret.clone());
        secret.unwrap_or_default()
    }

    /// Takes over another `[gateway]`, for those who are connected too.
    pub fn reload(&self) -> impl Fn(config::Gateway) + Send + use<> {
        let host = self.host.clone();
        move |gateway| {
            let gateway = Arc::new(gateway);
            host.gateway.store(gateway.clone());
            host.outboxes.link().memory().reload(&gateway);
            host.outboxes.send_all(|| ToCore::Reload(gateway.clone()));
        }
    }

    /// Runs until drained after `shutdown`. `now` ends it at once: leases are still given back, what is in
    /// flight is read again by the next owner.
    pub async fn run(
        self,
        shutdown: CancellationToken,
        now: CancellationToken,
    ) -> Result<(), ControlError> {
        let host = self.host.clone();
        let (stop_reading, stop_owning) = (CancellationToken::new(), CancellationToken::new());
        let keeper = ownership::Keeper::new(host.clone());
        let mut owning = tokio::spawn(keeper.run(stop_owning.clone()));
        let mut reading = tokio::spawn(shard::run(host.clone(), stop_reading.clone()));
        // Dropped at the end: every task of it ends then.
        let (mut hearing, _tasks) = self.start();

        let leaving = async {
            shutdown.cancelled().await;
            // Nothing stands against it but a former wish to exit.
            let _ = host.leaving.wish(Wish::Exit);
            host.leaving.emptied().await;
            stop_reading.cancel();
            // It commits what is accepted before it ends.
            let _ = (&mut reading).await;
            leaving::settle(&host).await;
        };
        let mut result = Ok(());
        tokio::select! {
            () = leaving => {}
            () = now.cancelled() => tracing::warn!("ends at once"),
            refused = &mut owning => result = flatten(refused),
            broken = &mut hearing => result = flatten(broken),
        }
        reading.abort();
        let owner = host.ownership.borrow().clone();
        if let Some(owner) = owner {
            connect::unregister_all(&host, &owner, limits::REGISTRY_WAIT).await;
        }
        stop_owning.cancel();
        if !owning.is_finished() {
            result = result.and(flatten((&mut owning).await));
        }
        hearing.abort();
        leaving::end_cores(&host).await;
        result
    }

    /// Starts everything that lasts as long as the process: what hears the cores, and the rest.
    fn start(self) -> (JoinHandle<io::Result<()>>, JoinSet<()>) {
        let host = self.host;
        let mut tasks = JoinSet::new();
        let (arrivals, arrived) = mpsc::channel(limits::CONNECTS_WAITING);
        let (jobs, queued) = mpsc::channel(limits::SYNCS_WAITING);
        let reporter = Reporter::new(
            host.upstream.clone(),
            host.bus.clone(),
            host.identity.subscribe(),
            host.named_epoch.clone(),
            host.metrics.clone(),
            host.cut_off.clone(),
        );
        let registrar = connect::Registrar::new(host.clone(), arrived, jobs.clone());
        tasks.spawn(registrar.run());
        tasks.spawn(posts::run(host.clone(), reporter.clone(), queued));
        tasks.spawn(broadcast::run(host.clone()));
        tasks.spawn(upkeep::run(host.clone()));
        tasks.spawn(canary::run(host.clone()));
        tasks.spawn(leaving::keep_slot(host.clone()));
        tasks.spawn(leaving::run(host.clone()));
        tasks.spawn(upkeep::relieve_cores(host.clone()));
        let mut open = |port, listener, router| {
            let server = Server::new(port, &self.metrics);
            // As long as the process: they end with the set of tasks.
            tasks.spawn(server.serve(listener, router, CancellationToken::new()));
        };
        let admin = admin::router(host.clone(), self.metrics.clone());
        open(Port::Admin, self.admin, admin);
        if let Some((listener, secret)) = self.grpc {
            open(Port::Grpc, listener, deliver::router(host.clone(), secret));
        }
        let shared = host.clone();
        tasks.spawn(async move { shared.outcomes.run(reporter).await });
        let shared = host.clone();
        tasks.spawn(async move { shared.behind.run(&shared.outboxes, &shared.table).await });
        let receiver = inbox::Receiver {
            host,
            inbox: self.inbox,
            arrivals,
            jobs,
            allowances: Default::default(),
        };
        (tokio::spawn(receiver.run()), tasks)
    }
}

fn flatten<E: Into<ControlError>>(
    joined: Result<Result<(), E>, tokio::task::JoinError>,
) -> Result<(), ControlError> {
    match joined {
        Ok(result) => result.map_err(Into::into),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Ok(()),
        },
    }
}

async fn listen(key: &str, address: SocketAddr) -> Result<TcpListener, ConfigError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| ConfigError::new(key, format!("can't listen on {address}: {error}")))
}
