//! A registry under test, and what the behaviours say often.

use herald::{
    config,
    ids::{GatewayEpoch, GatewayId, UserId},
    metrics::Metrics,
    registry::{
        GatewayInfo, Registration, Route, ShardClaim, SharedRegistry, Timings,
        embedded::EmbeddedRegistry, redis::RedisRegistry,
    },
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use testbed::redis::{RedisServer, fresh_namespace};

/// Leases that never lapse within a test; absent records are granted at once.
pub const LASTING: Timings = Timings {
    lease_ms: 60_000,
    sweep_after_ms: 60_000,
    claimable_after_ms: 0,
    finish_after_ms: 0,
    leases_cached_ms: 0,
};

/// Leases that have lapsed, and may be swept, as soon as they are granted.
pub const LAPSING: Timings = Timings {
    lease_ms: 0,
    sweep_after_ms: 0,
    claimable_after_ms: 0,
    finish_after_ms: 0,
    leases_cached_ms: 0,
};

pub enum Subject {
    Redis { namespace: String },
    InProcess,
}

impl Subject {
    pub fn redis() -> Subject {
        let namespace = fresh_namespace();
        Subject::Redis { namespace }
    }

    pub fn in_process() -> Subject {
        Subject::InProcess
    }

    pub async fn registry(&self, timings: Timings) -> SharedRegistry {
        match self {
            Subject::InProcess => Arc::new(EmbeddedRegistry::new(timings)),
            Subject::Redis { namespace } => {
                Arc::new(connect(&RedisServer::shared().url(), namespace, timings))
            }
        }
    }

    /// The registry as it is after everything in it was lost.
    pub async fn wiped(&self, timings: Timings) -> SharedRegistry {
        if let Subject::Redis { namespace } = self {
            let server = RedisServer::shared();
            let erase = format!(
                "for _, key in ipairs(redis.call('KEYS', '{namespace}:*')) do redis.call('DEL', key) end"
            );
            server.raw(&["EVAL", &erase, "0"]);
        }
        self.registry(timings).await
    }
}

pub fn connect(url: &str, namespace: &str, timings: Timings) -> RedisRegistry {
    let config = config::Redis {
        url: url.to_owned(),
        timeout_ms: 10_000,
        ..config::Redis::default()
    };
    let namespace = namespace.parse().unwrap();
    RedisRegistry::connect_with(&config, &namespace, &Metrics::default(), timings).unwrap()
}

/// One with a short timeout, for a Redis that will not always answer.
pub fn open(config: &config::Redis, metrics: &Metrics) -> RedisRegistry {
    let namespace = fresh_namespace().parse().unwrap();
    RedisRegistry::connect_with(config, &namespace, metrics, LASTING).unwrap()
}

pub fn impatient(url: String) -> config::Redis {
    config::Redis {
        url,
        timeout_ms: 300,
        ..config::Redis::default()
    }
}

pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn gateway(id: &str) -> GatewayId {
    id.parse().unwrap()
}

pub fn user(id: &str) -> UserId {
    id.parse().unwrap()
}

pub fn info(shard: Option<u32>) -> GatewayInfo {
    GatewayInfo {
        grpc: "10.0.0.1:9250".into(),
        shard,
        connections: 7,
        accepts_limit_per_s: 5_000,
        spare_accepts_per_s: 100,
        room: Some(7),
        region: "eu".parse().unwrap(),
        draining: false,
    }
}

pub fn entry(id: &str, stamp: u64) -> Registration {
    Registration {
        user: user(id),
        stamp,
    }
}

/// A gateway that has its lease; its holder is named after it.
pub async fn started(registry: &SharedRegistry, id: &str, shard: Option<u32>) -> GatewayEpoch {
    let holder = holder(id);
    registry
        .acquire_gateway(&gateway(id), &holder, &info(shard))
        .await
        .unwrap()
}

pub fn holder(id: &str) -> String {
    format!("process of {id}")
}

pub fn exact(shard: u32) -> ShardClaim {
    ShardClaim::Exact {
        shard,
        former_epoch: None,
    }
}

pub async fn routes(registry: &SharedRegistry, id: &str) -> Vec<Route> {
    registry.lookup(&[user(id)]).await.unwrap().remove(0)
}

/// The lives of gateways that a user is routed to.
pub async fn lives(registry: &SharedRegistry, id: &str) -> Vec<GatewayEpoch> {
    let routes = routes(registry, id).await;
    routes.into_iter().map(|route| route.gateway).collect()
}
