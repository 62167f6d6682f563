//! Outcomes on their way to a dispatcher, and the offsets that wait for their acceptance.
//!
//! Invariants:
//! * an offset is finished only after its outcomes were accepted: in the store, or on `delivery`;
//! * a batch is retried until one of the two took it; nothing that holds an offset is ever dropped;
//! * without a dispatcher for [`limits::OUTCOMES_PATIENCE`] outcomes go to `delivery`; without the bus
//!   as well they wait, up to [`limits::OUTCOMES_WAITING`], and above it acknowledgements are dropped,
//!   counted (clients' acknowledgements hold no offset).

use super::{canary::Round, cut_off::CutOff, metrics::ControlMetrics, upstream::SharedUpstream};
use crate::{
    bus::{SharedBus, Target, Topic, low_water::LowWater},
    envelope::{self, Outcome},
    ids::GatewayEpoch,
    limits,
};
use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::{collections::VecDeque, sync::Arc};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// In-flight records of one partition under one ownership.
#[derive(Debug, Default)]
pub struct Flow {
    water: Mutex<LowWater>,
    /// The low-water moved: there is room, and something to commit.
    pub moved: Notify,
}

impl Flow {
    pub fn start(&self, offset: u64) -> bool {
        self.water.lock().start(offset)
    }

    pub fn finish(&self, offset: u64) {
        if self.water.lock().finish(offset) {
            self.moved.notify_one();
        }
    }

    pub fn next(&self) -> Option<u64> {
        self.water.lock().next()
    }

    pub fn in_flight(&self) -> usize {
        self.water.lock().in_flight()
    }
}

/// One offset, to be finished.
#[derive(Clone, Debug)]
pub struct Finished {
    pub flow: Arc<Flow>,
    pub offset: u64,
}

impl Finished {
    pub fn done(self) {
        self.flow.finish(self.offset);
    }
}

/// What waits for the acceptance of outcomes.
pub enum Awaits {
    Offset(Finished),
    Round(Round),
}

/// Outcomes to report, and what waits for them.
pub struct Reported {
    pub outcomes: SmallVec<[Outcome; 1]>,
    pub awaits: Option<Awaits>,
}

/// Who accepted a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taker {
    Dispatcher,
    /// The topic `delivery`.
    Delivery,
}

/// In whose name outcomes are reported: the gateway's epoch and its shard.
pub type Identity = (GatewayEpoch, Option<u32>);

/// A shard and the highest epoch that a dispatcher named for it.
pub type NamedEpoch = Option<(u32, u64)>;

/// Where outcomes go.
#[derive(Clone)]
pub struct Reporter {
    pub upstream: SharedUpstream,
    pub bus: SharedBus,
    pub identity: watch::Receiver<Identity>,
    pub named_epoch: Arc<watch::Sender<NamedEpoch>>,
    pub metrics: Arc<ControlMetrics>,
    pub cut_off: Arc<CutOff>,
    /// Since when no dispatcher accepts.
    failing: Arc<Mutex<Option<Instant>>>,
}

impl Reporter {
    pub fn new(
        upstream: SharedUpstream,
        bus: SharedBus,
        identity: watch::Receiver<Identity>,
        named_epoch: Arc<watch::Sender<NamedEpoch>>,
        metrics: Arc<ControlMetrics>,
        cut_off: Arc<CutOff>,
    ) -> Reporter {
        Reporter {
            upstream,
            bus,
            identity,
            named_epoch,
            metrics,
            cut_off,
            failing: Arc::default(),
        }
    }

    /// Tries a dispatcher once, then `delivery` once.
    pub async fn accept_now(&self, outcomes: &[Outcome]) -> bool {
        self.report(outcomes).await || self.spill(&[outcomes]).await
    }

    async fn report(&self, outcomes: &[Outcome]) -> bool {
        let (gateway, shard) = self.identity.borrow().clone();
        let reply = self
            .upstream
            .report(&gateway, shard, outcomes.to_vec())
            .await;
        match reply {
            Ok(accepted) => {
                *self.failing.lock() = None;
                self.count("reported", outcomes);
                self.cut_off.dispatcher_says(accepted.has_registry);
                if let (Some(shard), Some(epoch)) = (shard, accepted.shard_epoch) {
                    self.name(shard, epoch);
                }
                true
            }
            Err(error) => {
                self.failing.lock().get_or_insert_with(Instant::now);
                tracing::debug!(%error, "outcomes were not accepted");
                self.batch("refused");
                false
            }
        }
    }

    fn name(&self, shard: u32, epoch: u64) {
        self.named_epoch.send_if_modified(|named| {
            let news = named.is_none_or(|known| known.0 != shard || known.1 < epoch);
            if news {
                *named = Some((shard, epoch));
            }
            news
        });
    }

    async fn spill(&self, groups: &[&[Outcome]]) -> bool {
        let target = Target::Keyed(Topic::Delivery);
        let records = groups
            .iter()
            .map(|outcomes| (target, envelope::outcomes_record(outcomes)));
        match self.bus.produce(records.collect()).await {
            Ok(_) => {
                groups.iter().for_each(|group| self.count_only(group));
                self.batch("delivery");
                true
            }
            Err(error) => {
                tracing::debug!(%error, "outcomes were not taken by `delivery`");
                self.batch("stuck");
                false
            }
        }
    }

    /// Sends a batch until it is accepted.
    async fn deliver(self, batch: Vec<Reported>, crowded: bool) -> (Vec<Reported>, Taker) {
        let flat: Vec<Outcome> = batch
            .iter()
            .flat_map(|r| r.outcomes.iter().cloned())
            .collect();
        let mut wait = limits::OUTCOMES_RETRY_MIN;
        loop {
            if self.report(&flat).await {
                return (batch, Taker::Dispatcher);
            }
            let patience_over = self
                .failing
                .lock()
                .is_some_and(|since| since.elapsed() >= limits::OUTCOMES_PATIENCE);
            if crowded || patience_over {
                let groups: Vec<&[Outcome]> = batch.iter().map(|r| r.outcomes.as_slice()).collect();
                if self.spill(&groups).await {
                    return (batch, Taker::Delivery);
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(limits::OUTCOMES_RETRY_MAX);
        }
    }

    fn count(&self, result: &str, outcomes: &[Outcome]) {
        self.batch(result);
        self.count_only(outcomes);
    }

    fn count_only(&self, outcomes: &[Outcome]) {
        for outcome in outcomes.iter().filter(|outcome| !outcome.is_of_a_probe()) {
            let fate = self
                .metrics
                .outcomes
                .with_label_values(&[outcome.fate.as_str()]);
            fate.inc();
        }
    }

    fn batch(&self, result: &str) {
        self.metrics
            .outcome_batches
            .with_label_values(&[result])
            .inc();
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Reported>,
    /// Taken from the queue, not yet accepted.
    on_the_way: usize,
}

/// The queue of outcomes.
pub struct Outcomes {
    queue: Mutex<Queue>,
    added: Notify,
    metrics: Arc<ControlMetrics>,
}

impl Outcomes {
    pub fn new(metrics: Arc<ControlMetrics>) -> Outcomes {
        Outcomes {
            queue: Mutex::default(),
            added: Notify::new(),
            metrics,
        }
    }

    pub fn submit(&self, reported: impl IntoIterator<Item = Reported>) {
        let mut queue = self.queue.lock();
        for one in reported {
            if one.awaits.is_none() && queue.waiting.len() >= limits::OUTCOMES_WAITING {
                self.metrics
                    .outcome_batches
                    .with_label_values(&["dropped"])
                    .inc();
                continue;
            }
            queue.waiting.push_back(one);
        }
        self.metrics
            .outcomes_waiting
            .set(queue.waiting.len() as i64);
        // What gathers behind a batch on its way is taken when that is answered.
        if queue.on_the_way == 0 || queue.waiting.len() >= limits::OUTCOME_BATCH {
            self.added.notify_one();
        }
    }

    /// Nothing waits and nothing is on the way.
    pub fn is_idle(&self) -> bool {
        let queue = self.queue.lock();
        queue.waiting.is_empty() && queue.on_the_way == 0
    }

    /// Reports for ever, several batches at a time. One that is not full leaves alone: what comes while it is on
    /// its way goes together after it, for each batch is a call here, a commit there, and a few wakes in between.
    /// What came alone waits for nothing, and nothing waits longer than one answer takes.
    pub async fn run(&self, reporter: Reporter) {
        let mut flying = FuturesUnordered::new();
        loop {
            while flying.is_empty() || (flying.len() < limits::OUTCOME_BATCHES && self.is_full()) {
                let Some((batch, crowded)) = self.take() else {
                    break;
                };
                flying.push(reporter.clone().deliver(batch, crowded));
            }
            tokio::select! {
                Some((batch, taker)) = flying.next(), if !flying.is_empty() => {
                    self.accepted(batch, taker);
                }
                () = self.added.notified(), if flying.len() < limits::OUTCOME_BATCHES => {}
            }
        }
    }

    fn is_full(&self) -> bool {
        self.queue.lock().waiting.len() >= limits::OUTCOME_BATCH
    }

    fn accepted(&self, batch: Vec<Reported>, taker: Taker) {
        self.queue.lock().on_the_way -= batch.len();
        for awaits in batch.into_iter().filter_map(|reported| reported.awaits) {
            match (awaits, taker) {
                (Awaits::Offset(finished), _) => finished.done(),
                (Awaits::Round(round), Taker::Dispatcher) => round.accepted(),
                (Awaits::Round(round), Taker::Delivery) => round.set_aside(),
            }
        }
    }

    fn take(&self) -> Option<(Vec<Reported>, bool)> {
        let mut queue = self.queue.lock();
        let crowded = queue.waiting.len() >= limits::OUTCOMES_WAITING / 2;
        let mut batch = Vec::new();
        let mut outcomes = 0;
        while outcomes < limits::OUTCOME_BATCH {
            let Some(reported) = queue.waiting.pop_front() else {
                break;
            };
            outcomes += reported.outcomes.len();
            batch.push(reported);
        }
        queue.on_the_way += batch.len();
        self.metrics
            .outcomes_waiting
            .set(queue.waiting.len() as i64);
        (!batch.is_empty()).then_some((batch, crowded))
    }
}
