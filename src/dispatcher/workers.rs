//! Everything that one dispatcher has at work beside its doors.

use super::{
    Shared, broadcast,
    channel::{ChannelReader, ChannelWorker, Out, Places, Sender},
    erasure::Eraser,
    fallback, fan_out, finisher,
    outbox::Outbox,
    patience::Patience,
    retry, router, routes, scheduler, segments, spool, sweeper,
    tracker::{DeliveryTopic, SecondLook},
    worker,
};
use crate::limits;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

impl Shared {
    pub(super) fn spawn_workers(
        &self,
        tasks: &mut JoinSet<&'static str>,
        shutdown: &CancellationToken,
    ) {
        let bus = self.bus.clone();
        let is_said = move || !bus.healthy();
        let patience = Patience::new(shutdown.clone(), self.metrics.retries.clone(), is_said);
        let outbox = Outbox::new(self.bus.clone(), patience.clone(), self.metrics.clone());
        let region = self.node.region.clone();
        let router = router::Router {
            store: self.store.clone(),
            routes: routes::Routes::new(self.registry.clone(), self.metrics.clone()),
            outbox: outbox.clone(),
            patience: patience.clone(),
            metrics: self.metrics.clone(),
            region: region.clone(),
            channels: self.channels.configured(),
            rules: self.rules.clone(),
            quotas: self.quotas.clone(),
            erasures: self.erasures.clone(),
            pause: Duration::ZERO,
            partitions: None,
        };
        let fan_out = fan_out::FanOut {
            outbox: outbox.clone(),
            erasures: self.erasures.clone(),
            patience: patience.clone(),
            metrics: self.metrics.clone(),
        };
        let broadcast = broadcast::Broadcast {
            store: self.store.clone(),
            outbox: outbox.clone(),
            patience: patience.clone(),
            metrics: self.metrics.clone(),
            templates: self.rules.templates.clone(),
            region,
        };
        if let Some(spool) = &self.spool {
            let replay = spool::Replay {
                spool: spool.clone(),
                bus: self.bus.clone(),
                outbox: outbox.clone(),
                erasures: self.erasures.clone(),
                patience: patience.clone(),
            };
            tasks.spawn(replay.run(shutdown.clone()));
        }
        let delivery = DeliveryTopic {
            tracker: self.tracker.clone(),
            outbox: outbox.clone(),
            patience: patience.clone(),
            metrics: self.metrics.clone(),
        };
        let start = worker::Surroundings {
            bus: self.bus.clone(),
            patience: patience.clone(),
            health: self.health.clone(),
            shutdown: shutdown.clone(),
        };
        tasks.spawn(worker::run(router, start.clone()));
        tasks.spawn(worker::run(fan_out, start.clone()));
        tasks.spawn(worker::run(broadcast, start.clone()));
        tasks.spawn(worker::run(delivery, start.clone()));
        self.spawn_channels(tasks, &start, &outbox);
        tasks.spawn(worker::run(self.second_look(&outbox, shutdown), start));
        self.spawn_timed(tasks, &outbox, &patience, shutdown);
        let finisher = finisher::Finisher::new(
            self,
            finisher::Means {
                tracker: self.tracker.clone(),
                outbox,
                patience,
            },
        );
        tasks.spawn(finisher.run(shutdown.clone()));
        tasks.spawn(sweeper::run(self.registry.clone(), shutdown.clone()));
    }

    /// What looks into the store now and then.
    fn spawn_timed(
        &self,
        tasks: &mut JoinSet<&'static str>,
        outbox: &Outbox,
        patience: &Patience,
        shutdown: &CancellationToken,
    ) {
        tasks.spawn(self.quotas.clone().run(shutdown.clone()));
        let erasures = self.erasures.clone();
        tasks.spawn(erasures.run(patience.clone(), shutdown.clone()));
        let eraser = Eraser {
            store: self.store.clone(),
            patience: patience.clone(),
            metrics: self.metrics.clone(),
        };
        tasks.spawn(eraser.run(shutdown.clone()));
        let scheduler = scheduler::Scheduler {
            store: self.store.clone(),
            outbox: outbox.clone(),
            erasures: self.erasures.clone(),
            patience: patience.clone(),
            metrics: self.metrics.clone(),
        };
        tasks.spawn(scheduler.run(shutdown.clone()));
        let segments = segments::SegmentWorker {
            store: self.store.clone(),
            outbox: outbox.clone(),
            erasures: self.erasures.clone(),
            patience: patience.clone(),
            metrics: self.metrics.clone(),
        };
        tasks.spawn(segments.run(shutdown.clone()));
    }

    /// A worker for each channel that reaches anybody, and one for what they try again.
    fn spawn_channels(
        &self,
        tasks: &mut JoinSet<&'static str>,
        start: &worker::Surroundings,
        outbox: &Outbox,
    ) {
        let configured = self.channels.configured();
        if configured.is_empty() {
            return;
        }
        let delayed = retry::Delayed {
            outbox: outbox.clone(),
            erasures: self.erasures.clone(),
            patience: start.patience.clone(),
            check: fallback::Check {
                mandatory: self.rules.mandatory.clone(),
                store: self.store.clone(),
                registry: self.registry.clone(),
                bus: self.bus.clone(),
                lags: fallback::Lags::new(self.bus.clone()),
                settled_at: Instant::now() + limits::OUTCOMES_SETTLE,
                patience: start.patience.clone(),
                metrics: self.channel_metrics.clone(),
            },
        };
        tasks.spawn(worker::run(delayed, start.clone()));
        self.channels.begin(&self.channel_metrics);
        for channel in configured {
            let providers = Places::of(
                channel,
                &self.channels,
                &self.quotas,
                &self.store,
                &self.channel_metrics,
            );
            let sender = Sender {
                channel,
                out: Out::new(Places::out_max(&providers)),
                providers,
                store: self.store.clone(),
                registry: self.registry.clone(),
                patience: start.patience.clone(),
                rules: self.rules.clone(),
                breakers: self.breakers.clone(),
                spending: self.spending.clone(),
                metrics: self.channel_metrics.clone(),
            };
            let worker = ChannelWorker {
                channel,
                sender,
                quotas: self.quotas.clone(),
                erasures: self.erasures.clone(),
                store: self.store.clone(),
                outbox: outbox.clone(),
                patience: start.patience.clone(),
                metrics: self.metrics.clone(),
                channel_metrics: self.channel_metrics.clone(),
            };
            let reader = ChannelReader::new(worker);
            tasks.spawn(worker::run_reader(reader, start.clone()));
        }
    }

    fn second_look(&self, outbox: &Outbox, shutdown: &CancellationToken) -> SecondLook {
        let registry = self.registry.clone();
        let is_said = move || !registry.healthy();
        SecondLook {
            tracker: self.tracker.clone(),
            registry: self.registry.clone(),
            outbox: outbox.clone(),
            patience: Patience::new(shutdown.clone(), self.metrics.retries.clone(), is_said),
            metrics: self.metrics.clone(),
            pause: Duration::ZERO,
        }
    }
}
