//! `herald dispatcher`

use super::{Load, StartError, admit_admin, data, log, runtime, signals, systemd};
use crate::{
    bus::kafka::KafkaBus,
    config::{DispatcherConfig, Secret},
    dispatcher::{Dispatcher, Parts, store::SharedStore, store::sqlite::SqliteStore},
    metrics::Metrics,
    registry::redis::RedisRegistry,
};
use std::sync::Arc;

/// `load` reads the configuration: once to start, again at every SIGHUP.
pub fn run(load: impl Load<DispatcherConfig>) -> Result<(), StartError> {
    let config = load()?;
    let level = log::init(&config.log)?;
    data::make(&config.store.path)?;
    let reload = move || {
        let reloaded = load().and_then(|config| level.set(&config.log));
        log::reloaded(reloaded);
    };
    runtime()?.block_on(serve(config, reload))
}

async fn serve(
    config: DispatcherConfig,
    reload: impl FnMut() + Send + 'static,
) -> Result<(), StartError> {
    let metrics = Metrics::default();
    let admin_key = match &config.http.admin_key_file {
        Some(path) => Some(Secret::from_file("http.admin_key_file", path)?),
        None => None,
    };
    let namespace = &config.node.namespace;
    let bus = KafkaBus::connect(&config.kafka, namespace, &metrics)?;
    let registry = RedisRegistry::connect(&config.redis, namespace, &metrics)?;
    let store: SharedStore = Arc::new(open_store(&config.store.path)?);
    if let Some(key) = &admin_key {
        admit_admin(&store, key).await?;
    }
    let parts = Parts {
        node: config.node,
        http: config.http,
        grpc: Some(config.grpc),
        admin: Some(config.admin),
        bus: Arc::new(bus),
        registry: Arc::new(registry),
        store,
        spool: Some(config.spool),
        metrics,
        origins: Vec::new(),
        pages: None,
    };
    let dispatcher = Dispatcher::bind(parts).await?;
    let addresses = dispatcher.addresses();
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
        served = dispatcher.run(shutdown.gracefully) => served,
        () = shutdown.at_once.cancelled() => Ok(()),
    };
    telling.abort();
    systemd::stopping();
    served.map_err(|error| StartError::host(error.to_string()))
}

pub(super) fn open_store(path: &std::path::Path) -> Result<SqliteStore, StartError> {
    SqliteStore::open(path).map_err(|error| StartError::host(format!("store.path: {error}")))
}

impl From<crate::dispatcher::StartError> for StartError {
    fn from(error: crate::dispatcher::StartError) -> StartError {
        match error {
            crate::dispatcher::StartError::Config(error) => StartError::Config(error),
            error => StartError::host(error.to_string()),
        }
    }
}
