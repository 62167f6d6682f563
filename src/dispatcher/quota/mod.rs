//! How much is too much: of one user, of one producer, for a provider, and in all.
//!
//! Invariants:
//! * whether a record makes a row is never decided here: limits decide what is sent, and what intake takes;
//! * intake asks nobody: it goes by this process's own count, which is settled with the others' in between;
//! * with the registry away each process goes on by its own count.

mod overload;
mod producers;
mod providers;
mod users;

use super::{fallback::Chains, intake::request::Refusal, patience::Seldom};
use crate::{
    config,
    envelope::Priority,
    limits,
    metrics::Metrics,
    registry::{
        RegistryError, SharedRegistry,
        quota::{Admission, Draw, Drawn, Tally},
    },
};
use arc_swap::ArcSwap;
use overload::Meter;
use parking_lot::Mutex;
use producers::Producers;
use prometheus::IntCounterVec;
use std::{sync::Arc, time::Instant};
use tokio_util::sync::CancellationToken;

pub use providers::{Throttle, Waits};
pub use users::{LIMITED, Wanted};

/// Cheap to clone.
#[derive(Clone)]
pub struct Quotas(Arc<Shared>);

struct Shared {
    config: ArcSwap<config::Limits>,
    chains: Chains,
    registry: SharedRegistry,
    /// Of this process alone, while the registry is away.
    alone: Mutex<Tally>,
    began: Instant,
    producers: Mutex<Producers>,
    meter: Mutex<Meter>,
    log: Seldom,
    metrics: QuotaMetrics,
}

#[derive(Clone)]
struct QuotaMetrics {
    limited: IntCounterVec,
    waits: IntCounterVec,
    alone: IntCounterVec,
}

impl Quotas {
    pub fn new(
        config: config::Limits,
        chains: Chains,
        registry: SharedRegistry,
        metrics: &Metrics,
    ) -> Quotas {
        Quotas(Arc::new(Shared {
            config: ArcSwap::from_pointee(config),
            chains,
            registry,
            alone: Mutex::default(),
            began: Instant::now(),
            producers: Mutex::default(),
            meter: Mutex::default(),
            log: Seldom::default(),
            metrics: QuotaMetrics::new(metrics),
        }))
    }

    /// From now on by these.
    pub fn reload(&self, config: &config::Limits) {
        self.0.config.store(Arc::new(config.clone()));
    }

    /// Whether intake takes one more of this producer now.
    pub fn take(&self, producer: &str, priority: Priority) -> Result<(), Refusal> {
        let shared = &*self.0;
        let (config, now_us) = (shared.config.load(), shared.now_us());
        let mut meter = shared.meter.lock();
        if meter.is_above(config.design_per_s, priority, now_us) {
            return Err(Refusal::Overloaded {
                percent: meter.percent(config.design_per_s),
            });
        }
        if let Some(per_minute) = config.of_producer(producer) {
            let mut producers = shared.producers.lock();
            let taken = producers.take(producer, per_minute, priority, now_us);
            taken.map_err(|wait| Refusal::TooMany {
                per_minute,
                // The clock of whoever waits may be a little fast.
                retry_after_s: wait.as_secs() as u32 + 1,
            })?;
        }
        meter.count();
        Ok(())
    }

    /// Settles what producers posted with the other dispatchers.
    pub async fn run(self, shutdown: CancellationToken) -> &'static str {
        let pause = || tokio::time::sleep(limits::PRODUCERS_SETTLE);
        while shutdown.run_until_cancelled(pause()).await.is_some() {
            self.settle().await;
        }
        "quotas"
    }

    async fn settle(&self) {
        let shared = &*self.0;
        let draws = {
            let config = shared.config.load();
            let mut producers = shared.producers.lock();
            producers.begin_settling(&config, shared.now_us())
        };
        if draws.is_empty() {
            return;
        }
        let drawn = shared.registry.draw(&draws).await;
        let mut producers = shared.producers.lock();
        match drawn {
            Ok(drawn) => producers.settle(&draws, &drawn, shared.now_us()),
            Err(error) => {
                producers.settle_later(&draws);
                shared.go_alone("producer", &error);
            }
        }
    }
}

impl Shared {
    fn now_us(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    async fn admit(&self, asked: &[Admission]) -> Vec<bool> {
        match self.registry.admit(asked).await {
            Ok(admitted) => admitted,
            Err(error) => {
                self.go_alone("user", &error);
                self.alone.lock().admit(asked, self.now_us())
            }
        }
    }

    async fn draw(&self, draw: Draw) -> Drawn {
        let draws = [draw];
        match self.registry.draw(&draws).await {
            Ok(drawn) => drawn[0],
            Err(error) => {
                self.go_alone("provider", &error);
                self.alone.lock().draw(&draws, self.now_us())[0]
            }
        }
    }

    fn go_alone(&self, of: &str, error: &RegistryError) {
        self.metrics.alone.with_label_values(&[of]).inc();
        if self.log.is_due() {
            tracing::warn!(%error, "limits are counted by this dispatcher alone while Redis is away");
        }
    }
}

impl QuotaMetrics {
    fn new(metrics: &Metrics) -> QuotaMetrics {
        QuotaMetrics {
            limited: metrics.counters(
                "limited_total",
                "Notifications not sent on a channel because their user had enough, by limit.",
                &["channel", "limit"],
            ),
            waits: metrics.counters(
                "provider_waits_total",
                "Sends that waited for their provider's rate, by how it ended (sent; aside: by a delay topic).",
                &["provider", "result"],
            ),
            alone: metrics.counters(
                "limits_counted_alone_total",
                "Limits that this dispatcher applied by its own count because the registry was away.",
                &["of"],
            ),
        }
    }
}
