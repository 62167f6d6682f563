//! `herald gateway`

use super::{
    Load, StartError,
    log::{self, LevelHandle},
    reload, runtime, signals, systemd,
};
use crate::{
    api::secret::SharedSecret,
    auth::{Refresher, Verifier},
    bus::kafka::KafkaBus,
    config::{self, Auth, ConfigError, GatewayConfig},
    control::{self, Control, ControlError, grpc_upstream::GrpcUpstream},
    gateway::{self, Tls},
    metrics::Metrics,
    registry::redis::RedisRegistry,
};
use arc_swap::ArcSwap;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// `load` reads the configuration: once to start, again at every SIGHUP.
pub fn run(load: impl Load<GatewayConfig>) -> Result<(), StartError> {
    let config = load()?;
    let level = log::init(&config.log)?;
    runtime()?.block_on(serve(config, level, load))
}

async fn serve(
    config: GatewayConfig,
    level: LevelHandle,
    load: impl Load<GatewayConfig>,
) -> Result<(), StartError> {
    let metrics = Metrics::default();
    let verifier = Arc::new(ArcSwap::from_pointee(Verifier::from_config(&config.auth)?));
    let tls = Tls::from_config(&config.gateway, &config.tls, &metrics)?;
    let presented = SharedSecret::from_config(&config.grpc)?;
    let namespace = &config.node.namespace;
    let bus = Arc::new(KafkaBus::connect(&config.kafka, namespace, &metrics)?);
    let registry = RedisRegistry::connect(&config.redis, namespace, &metrics)?;
    let upstream = GrpcUpstream::new(&config.dispatchers, presented.clone())?;
    let refreshing = refresh_keys(&config.auth, &verifier, &metrics)?;
    let rereading = reread_ticket_keys(tls.as_ref());
    // Last of what may fail for what is not ours: from here on clients can reach us.
    let region = config.node.region.clone();
    let (cores, inbox) = gateway::start(
        &config.gateway,
        config.conformance,
        verifier.clone(),
        tls.clone(),
        &region,
        &metrics,
    )?;
    let started = config.clone();
    let parts = control::Parts {
        node: config.node,
        gateway: config.gateway,
        drain: config.drain,
        admin: config.admin,
        grpc: Some(config.grpc),
        pace: control::Pace::default(),
        bus: bus.clone(),
        registry: Arc::new(registry),
        upstream: Arc::new(upstream),
        cores,
        inbox,
        metrics,
    };
    let control = Control::open(parts).await?;
    let (reload_gateway, demanded) = (control.reload(), control.secret());
    let reload = reload::by(load, started, move |config| {
        level.set(&config.log)?;
        reload_keys(&verifier, &config.auth)?;
        reload_tls(tls.as_deref(), &config.tls)?;
        presented.reload(&config.grpc)?;
        demanded.reload(&config.grpc)?;
        bus.reload(&config.kafka)?;
        reload_gateway(config.gateway.clone());
        Ok(())
    });
    let shutdown = signals::listen(reload)?;
    let telling = systemd::started(control.status(), control.is_ending());
    let ended = control.run(shutdown.gracefully, shutdown.at_once).await;
    telling.abort();
    systemd::stopping();
    for task in [refreshing, rereading].into_iter().flatten() {
        task.abort();
    }
    Ok(ended?)
}

pub(super) fn reload_keys(kept: &ArcSwap<Verifier>, auth: &Auth) -> Result<(), ConfigError> {
    let fresh = kept.load().reloaded(auth)?;
    kept.store(Arc::new(fresh));
    Ok(())
}

pub(super) fn reload_tls(kept: Option<&Tls>, tls: &config::Tls) -> Result<(), ConfigError> {
    kept.map_or(Ok(()), |kept| kept.reload(tls))
}

/// Keeps the fleet's ticket keys fresh, where there are some.
pub(super) fn reread_ticket_keys(tls: Option<&Arc<Tls>>) -> Option<AbortHandle> {
    let rereading = tls.map(|tls| tokio::spawn(tls.clone().keep_ticket_keys_fresh()));
    rereading.map(|task| task.abort_handle())
}

/// Keeps keys by URL fresh, where there is one.
pub(super) fn refresh_keys(
    auth: &Auth,
    verifier: &Arc<ArcSwap<Verifier>>,
    metrics: &Metrics,
) -> Result<Option<AbortHandle>, ConfigError> {
    let refresher = Refresher::new(auth, verifier.clone(), metrics)?;
    Ok(refresher.map(|refresher| tokio::spawn(refresher.run()).abort_handle()))
}

impl From<gateway::StartError> for StartError {
    fn from(error: gateway::StartError) -> StartError {
        match error {
            gateway::StartError::Config(error) => StartError::Config(error),
            error => StartError::host(error.to_string()),
        }
    }
}

impl From<ControlError> for StartError {
    fn from(error: ControlError) -> StartError {
        match error {
            ControlError::Config(error) => StartError::Config(error),
            error => StartError::host(error.to_string()),
        }
    }
}
