//! Takes notifications in, decides the channels, keeps storage. The modules in the order of the path.
//!
//! Any number of dispatchers work side by side: what one keeps in memory is a cache, and the bus shares
//! the partitions among them. A part that is away (bus, registry, store) is waited for.

pub mod api_keys;
pub mod intake;
pub mod store;

mod broadcast;
pub mod channel;
mod dead_letters;
pub mod devices;
pub mod erasure;
pub mod fallback;
mod fan_out;
pub mod finisher;
mod frame;
mod gateways;
mod grpc;
mod health;
mod http;
mod local;
pub mod metrics;
pub mod outbox;
pub mod patience;
pub mod preferences;
pub mod quota;
mod reading;
mod retry;
pub mod router;
pub mod routes;
mod scheduler;
mod segments;
mod spending;
mod spool;
pub mod suppression;
mod sweeper;
pub mod sync;
mod tags;
pub mod templates;
pub mod tracker;
mod waiting;
pub mod worker;
mod workers;

use crate::{
    api::secret::{Present, SharedSecret},
    bus::SharedBus,
    clock::unix_ms,
    config::{self, ConfigError},
    held::HeldError,
    limits,
    metrics::Metrics,
    registry::SharedRegistry,
    serve::{Port, Server},
};
use api_keys::{AdminKey, ApiKeys};
use channel::{Breakers, ChannelMetrics, Channels};
use dead_letters::DeadLetters;
use erasure::Erasures;
use fallback::Chains;
use futures::FutureExt;
use gateways::Gateways;
use health::Health;
use intake::Intake;
use metrics::DispatcherMetrics;
use preferences::Mandatory;
use quota::Quotas;
use spending::Spending;
use spool::{OpenError, Spool};
use std::{net::SocketAddr, sync::Arc};
use store::SharedStore;
use sync::Sync;
use tags::NewestTags;
use templates::Templates;
use thiserror::Error;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracker::Tracker;

pub use local::Local;

/// What a dispatcher is made of.
pub struct Parts {
    pub node: config::Node,
    pub http: config::Http,
    /// `None` in the standalone: its gateway reports by [`Local`].
    pub grpc: Option<config::Grpc>,
    /// The key that may make others.
    pub admin_key: AdminKey,
    /// `None` where another part of the process serves it; see [`Dispatcher::degraded`].
    pub admin: Option<config::Admin>,
    pub bus: SharedBus,
    pub registry: SharedRegistry,
    pub store: SharedStore,
    /// What sends by the channels beside in-app.
    pub channels: Channels,
    pub rules: Rules,
    pub limits: config::Limits,
    /// `None`: with the bus away notifications are refused.
    pub spool: Option<config::Spool>,
    pub metrics: Metrics,
    /// Origins whose pages may call the HTTP API; `*` is every one.
    pub origins: Vec<String>,
    /// Served beside the API on the HTTP port: the standalone's console.
    pub pages: Option<axum::Router>,
}

impl Parts {
    /// Reads again what may be replaced while it runs; what can't be read changes nothing.
    pub fn reload(
        &self,
    ) -> impl Fn(&config::Templates, &config::Channels) -> Result<(), ConfigError> + Send + use<>
    {
        let (templates, channels) = (self.rules.templates.clone(), self.channels.clone());
        move |of_templates, of_channels| {
            templates.reload(of_templates)?;
            channels.reload(of_channels)
        }
    }
}

/// What decides by which channels a notification goes, when, and with which words.
#[derive(Clone, Default)]
pub struct Rules {
    pub chains: Chains,
    pub mandatory: Mandatory,
    pub templates: Templates,
}

impl Rules {
    pub fn from_config(
        fallback: &config::Fallback,
        preferences: &config::Preferences,
        templates: &config::Templates,
    ) -> Result<Rules, ConfigError> {
        let chains = Chains::from_config(fallback)?;
        Ok(Rules {
            mandatory: Mandatory::from_config(preferences, &chains)?,
            templates: Templates::from_config(templates)?,
            chains,
        })
    }
}

/// Why a dispatcher does not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("spool.path: {0}")]
    Spool(OpenError),
    #[error("{key}: can't listen on {address}: {error}")]
    Listen {
        key: &'static str,
        address: SocketAddr,
        error: std::io::Error,
    },
}

/// A worker or a server ended that never should: the process must not go on without it.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Failed(String);

/// Listening, not yet at work.
pub struct Dispatcher {
    shared: Shared,
    http: TcpListener,
    grpc: Option<TcpListener>,
    admin: Option<TcpListener>,
    origins: Vec<String>,
    pages: Option<axum::Router>,
}

/// Where a dispatcher listens: ports may have been left to the system.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub http: SocketAddr,
    pub grpc: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
}

/// What the doors and workers of one dispatcher have in common.
#[derive(Clone)]
struct Shared {
    node: config::Node,
    bus: SharedBus,
    registry: SharedRegistry,
    store: SharedStore,
    intake: Arc<Intake>,
    spool: Option<Arc<Spool>>,
    channels: Channels,
    rules: Rules,
    quotas: Quotas,
    erasures: Erasures,
    channel_metrics: ChannelMetrics,
    breakers: Breakers,
    spending: Spending,
    tracker: Arc<Tracker>,
    sync: Arc<Sync>,
    newest_tags: NewestTags,
    keys: Arc<ApiKeys>,
    health: Arc<Health>,
    gateways: Gateways,
    dead_letters: DeadLetters,
    /// Between our processes.
    secret: SharedSecret,
    /// One per HTTP request at work.
    http_places: Arc<Semaphore>,
    metrics: DispatcherMetrics,
    all_metrics: Metrics,
}

/// Binds and runs until `shutdown`.
pub async fn run(parts: Parts, shutdown: CancellationToken) -> anyhow::Result<()> {
    Ok(Dispatcher::bind(parts).await?.run(shutdown).await?)
}

impl Dispatcher {
    /// Checks the configuration, then opens the ports. Bus, registry and store may still be away.
    pub async fn bind(parts: Parts) -> Result<Dispatcher, StartError> {
        let (secret, grpc) = match &parts.grpc {
            Some(grpc) => (
                SharedSecret::from_config(grpc)?,
                Some(listen("grpc.listen", grpc.listen).await?),
            ),
            None => Default::default(),
        };
        let admin = match &parts.admin {
            Some(admin) => Some(listen("admin.listen", admin.listen).await?),
            None => None,
        };
        Ok(Dispatcher {
            http: listen("http.listen", parts.http.listen).await?,
            grpc,
            admin,
            origins: parts.origins.clone(),
            pages: parts.pages.clone(),
            shared: Shared::new(parts, secret)?,
        })
    }

    pub fn addresses(&self) -> Addresses {
        let address = |listener: &TcpListener| listener.local_addr().expect("it listens");
        Addresses {
            http: address(&self.http),
            grpc: self.grpc.as_ref().map(address),
            admin: self.admin.as_ref().map(address),
        }
    }

    /// For a gateway in the same process.
    pub fn local(&self) -> Arc<Local> {
        let shared = &self.shared;
        Arc::new(Local::new(
            shared.tracker.clone(),
            shared.sync.clone(),
            shared.store.clone(),
        ))
    }

    /// What gateways present and are presented, to be read again.
    pub fn secret(&self) -> SharedSecret {
        self.shared.secret.clone()
    }

    /// Puts other limits and budgets in force.
    pub fn reload(
        &self,
    ) -> impl Fn(&config::Limits, &config::Budgets) -> Result<(), ConfigError> + Send + use<> {
        let (quotas, spending) = (self.shared.quotas.clone(), self.shared.spending.clone());
        move |limits, budgets| {
            quotas.reload(limits);
            spending.reload(budgets)
        }
    }

    /// What this dispatcher's readiness depends on.
    pub fn health(&self) -> Arc<Health> {
        self.shared.health.clone()
    }

    /// Runs until `shutdown`; open calls and the batches at work end first.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Failed> {
        let mut tasks = JoinSet::new();
        self.shared.spawn_workers(&mut tasks, &shutdown);
        let metrics = self.shared.all_metrics.clone();
        self.shared.health.measure(&metrics);
        let mut open = |port, listener, router| {
            let served = Server::new(port, &metrics).serve(listener, router, shutdown.clone());
            tasks.spawn(served.map(move |()| port.name()));
        };
        let api = http::router(self.shared.clone(), self.origins, self.pages);
        open(Port::Http, self.http, api);
        if let Some(listener) = self.grpc {
            let router = grpc::router(self.shared.clone(), shutdown.clone());
            open(Port::Grpc, listener, router);
        }
        if let Some(listener) = self.admin {
            let admin = health::router(self.shared.health.clone(), metrics.clone());
            open(Port::Admin, listener, admin);
        }
        while let Some(ended) = tasks.join_next().await {
            if !shutdown.is_cancelled() {
                let cause = match ended {
                    Ok(task) => format!("{task} ended before its time"),
                    Err(error) => error.to_string(),
                };
                // Said now: the clients of Kafka may take long to end.
                tracing::error!(cause, "a part of the dispatcher ended: so does the process");
                shutdown.cancel();
                return Err(Failed(cause));
            }
        }
        Ok(())
    }
}

impl Shared {
    fn new(parts: Parts, secret: SharedSecret) -> Result<Shared, StartError> {
        let Parts {
            node,
            bus,
            registry,
            store,
            admin_key,
            channels,
            rules,
            limits,
            ..
        } = parts;
        let metrics = DispatcherMetrics::new(&parts.metrics);
        let erasures = Erasures::new(store.clone(), metrics.clone());
        let chains = rules.chains.clone();
        let quotas = Quotas::new(limits, chains.clone(), registry.clone(), &parts.metrics);
        let region = node.region.clone();
        let spool = open_spool(parts.spool.as_ref(), &parts.metrics)?;
        let spending = channels.spending(chains, registry.clone(), &parts.metrics);
        let gateways = Gateways::new(registry.clone(), Present::new(secret.clone()));
        let direct = spool
            .as_ref()
            .map(|spool| spool.direct(registry.clone(), store.clone(), gateways.clone()));
        Ok(Shared {
            intake: Arc::new(Intake {
                bus: bus.clone(),
                store: store.clone(),
                spool: spool.clone(),
                direct,
                region: region.clone(),
                rules: rules.clone(),
                quotas: quotas.clone(),
                spending: spending.clone(),
                metrics: metrics.clone(),
                refusing: Default::default(),
            }),
            tracker: Arc::new(Tracker::new(
                bus.clone(),
                store.clone(),
                registry.clone(),
                region.clone(),
                erasures.clone(),
                metrics.clone(),
            )),
            sync: Arc::new(Sync::new(
                store.clone(),
                registry.clone(),
                &region,
                metrics.clone(),
            )),
            newest_tags: NewestTags::default(),
            keys: Arc::new(ApiKeys::new(store.clone(), admin_key)),
            health: Arc::new(Health::new(
                bus.clone(),
                registry.clone(),
                store.clone(),
                spool.clone(),
            )),
            gateways,
            dead_letters: DeadLetters::new(bus.clone(), store.clone(), erasures.clone()),
            erasures,
            http_places: Arc::new(Semaphore::new(limits::HTTP_AT_ONCE)),
            channel_metrics: ChannelMetrics::new(&parts.metrics),
            breakers: channels.breakers(&parts.metrics),
            spending,
            channels,
            rules,
            quotas,
            all_metrics: parts.metrics,
            node,
            bus,
            registry,
            store,
            spool,
            secret,
            metrics,
        })
    }
}

fn open_spool(
    config: Option<&config::Spool>,
    metrics: &Metrics,
) -> Result<Option<Arc<Spool>>, StartError> {
    let Some(config) = config else {
        return Ok(None);
    };
    match Spool::open(config, metrics) {
        Ok(spool) => Ok(Some(spool)),
        Err(error @ OpenError::Held(HeldError::ByAnother { .. })) => {
            Err(ConfigError::new("spool.path", error.to_string()).into())
        }
        Err(error) => Err(StartError::Spool(error)),
    }
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| StartError::Listen {
        key,
        address,
        error,
    })
}
