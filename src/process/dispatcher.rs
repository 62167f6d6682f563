//! `herald dispatcher`

use super::{
    Load, StartError, data,
    log::{self, LevelHandle},
    reload, runtime, signals, systemd,
};
use crate::{
    bus::kafka::KafkaBus,
    config::{
        ConfigError, DispatcherConfig, DispatcherStore, Http, Node, StoreKind, check::admin_key,
    },
    dispatcher::{
        Dispatcher, Parts, Rules,
        api_keys::AdminKey,
        channel::Channels,
        store::{
            SharedStore, StoreError,
            cassandra::{self, CassandraStore},
            sqlite::SqliteStore,
        },
    },
    metrics::Metrics,
    registry::redis::RedisRegistry,
};
use futures::{
    FutureExt,
    future::{BoxFuture, pending},
};
use std::{path::Path, sync::Arc};

/// `load` reads the configuration: once to start, again at every SIGHUP.
pub fn run(load: impl Load<DispatcherConfig>) -> Result<(), StartError> {
    let config = load()?;
    let level = log::init(&config.log)?;
    if config.store.kind == StoreKind::Sqlite {
        data::make(&config.store.path)?;
    }
    runtime()?.block_on(serve(config, level, load))
}

/// `herald dispatcher migrate`: makes the tables of Cassandra, or brings them up to this release.
pub fn migrate(config: &DispatcherConfig) -> Result<(), StartError> {
    if config.store.kind != StoreKind::Cassandra {
        let problem = "\"sqlite\" brings its file up when it opens it: there is nothing to migrate";
        return Err(ConfigError::new("store.kind", problem).into());
    }
    log::init(&config.log)?;
    let migrated = cassandra::migrate(&config.store, &config.node);
    let done = runtime()?.block_on(migrated).map_err(cannot_open)?;
    println!("{done}");
    Ok(())
}

async fn serve(
    config: DispatcherConfig,
    level: LevelHandle,
    load: impl Load<DispatcherConfig>,
) -> Result<(), StartError> {
    let metrics = Metrics::default();
    let admin_key = AdminKey::default();
    read_admin_key(&admin_key, &config.http)?;
    let namespace = &config.node.namespace;
    let bus = Arc::new(KafkaBus::connect(&config.kafka, namespace, &metrics)?);
    let registry = RedisRegistry::connect(&config.redis, namespace, &metrics)?;
    let (store, refusal) = open(&config.store, &config.node, &metrics).await?;
    let started = config.clone();
    let rules = Rules::from_config(&config.fallback, &config.preferences, &config.templates)?;
    let parts = Parts {
        node: config.node,
        http: config.http,
        grpc: Some(config.grpc),
        admin_key: admin_key.clone(),
        admin: Some(config.admin),
        bus: bus.clone(),
        registry: Arc::new(registry),
        store,
        spool: Some(config.spool),
        channels: Channels::from_config(&started.channels())?,
        rules,
        limits: config.limits,
        metrics,
        origins: Vec::new(),
        pages: None,
    };
    let reload_sending = parts.reload();
    let dispatcher = Dispatcher::bind(parts).await?;
    let addresses = dispatcher.addresses();
    let (secret, reload_bounds) = (dispatcher.secret(), dispatcher.reload());
    let reload = reload::by(load, started, move |config| {
        level.set(&config.log)?;
        read_admin_key(&admin_key, &config.http)?;
        secret.reload(&config.grpc)?;
        reload_sending(&config.templates, &config.channels())?;
        reload_bounds(&config.limits, &config.budgets)?;
        bus.reload(&config.kafka)
    });
    let shutdown = signals::listen(reload)?;
    let text = |address: Option<std::net::SocketAddr>| {
        address.map_or("off".to_owned(), |address| address.to_string())
    };
    tracing::info!(
        http = %addresses.http,
        grpc = text(addresses.grpc),
        admin = text(addresses.admin),
        "dispatcher listens"
    );
    let health = dispatcher.health();
    let telling = systemd::started(move || health.readiness().to_string(), || false);
    let served = tokio::select! {
        served = dispatcher.run(shutdown.gracefully) => served.map_err(|error| StartError::host(error.to_string())),
        () = shutdown.at_once.cancelled() => Ok(()),
        refused = refusal => Err(cannot_open(refused)),
    };
    telling.abort();
    systemd::stopping();
    served
}

/// Where a file is named; without one only keys that were made before let anybody in.
pub(super) fn read_admin_key(kept: &AdminKey, http: &Http) -> Result<(), ConfigError> {
    let key = http.admin_key_file.as_deref().map(admin_key);
    kept.set(key.transpose()?);
    Ok(())
}

/// The store, and what ends once it turns out not to be this process's: a cluster that is away is awaited.
async fn open(
    config: &DispatcherStore,
    node: &Node,
    metrics: &Metrics,
) -> Result<(SharedStore, BoxFuture<'static, StoreError>), StartError> {
    match config.kind {
        StoreKind::Sqlite => {
            let store = open_store(&config.path, node)?;
            Ok((Arc::new(store), pending().boxed()))
        }
        StoreKind::Cassandra => {
            let opened = CassandraStore::await_in_background(config, node, metrics).await;
            let store = opened.map_err(cannot_open)?;
            let refusal = store.refusal().boxed();
            Ok((Arc::new(store), refusal))
        }
    }
}

pub(super) fn open_store(path: &Path, node: &Node) -> Result<SqliteStore, StartError> {
    SqliteStore::open(path, node).map_err(|error| match error {
        StoreError::Foreign { .. } => ConfigError::new("store.path", error.to_string()).into(),
        error => StartError::host(format!("store.path: {error}")),
    })
}

/// Of Cassandra: the text names its key.
fn cannot_open(error: StoreError) -> StartError {
    match error {
        StoreError::Schema { key, problem } => ConfigError::new(key, problem).into(),
        error => StartError::host(error.to_string()),
    }
}

impl From<crate::dispatcher::StartError> for StartError {
    fn from(error: crate::dispatcher::StartError) -> StartError {
        match error {
            crate::dispatcher::StartError::Config(error) => StartError::Config(error),
            error => StartError::host(error.to_string()),
        }
    }
}
