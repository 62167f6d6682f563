//! Users who are to be forgotten. An order is a record of `raw`: where it stands there, what is of before ends.
//!
//! The path of an order: `raw` → its router enters it in the store ([`Forget::begin_erasure`]) → every dispatcher learns of
//! it within [`limits::ERASURES_EVERY`] and drops what is of before, wherever it comes from (`raw`, lists, the spool, delay
//! topics, channels, `dlq`, outcomes) → [`Eraser`] removes what is stored, and leaves the proof.
//!
//! Invariants:
//! * nothing is removed before every dispatcher had time to learn of it: what is of before is not stored once more;
//! * a router that takes over a partition looks first: an order that stands in it is known.
//!
//! [`Forget::begin_erasure`]: super::store::Forget::begin_erasure

mod eraser;
mod proof;

use super::{
    metrics::DispatcherMetrics,
    patience::{Patience, Stopped},
    store::{Attempted, Erasure, SharedStore, StoreError},
    unix_ms,
};
use crate::{
    bus::Record,
    envelope::{Head, Outcome},
    ids::UserId,
    limits,
    position::Position,
};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio_util::sync::CancellationToken;

pub use eraser::Eraser;

/// Header of a record that a router made: where what it was made of stands in `raw`.
const RAW_POS: &str = "raw_pos";

/// Those there are. Cheap to clone.
#[derive(Clone)]
pub struct Erasures(Arc<Shared>);

struct Shared {
    store: SharedStore,
    known: RwLock<HashMap<UserId, Erasure>>,
    /// Up to where the store was asked.
    mark: Mutex<u64>,
    is_asked: AtomicBool,
    metrics: DispatcherMetrics,
}

impl Erasures {
    pub fn new(store: SharedStore, metrics: DispatcherMetrics) -> Erasures {
        Erasures(Arc::new(Shared {
            store,
            known: RwLock::default(),
            mark: Mutex::new(0),
            is_asked: AtomicBool::new(false),
            metrics,
        }))
    }

    /// Asks the store again and again.
    pub async fn run(self, patience: Patience, shutdown: CancellationToken) -> &'static str {
        while self.look(&patience).await.is_ok() {
            let pause = tokio::time::sleep(limits::ERASURES_EVERY);
            if shutdown.run_until_cancelled(pause).await.is_none() {
                break;
            }
        }
        "erasures"
    }

    /// Learns of those that began until now.
    pub async fn look(&self, patience: &Patience) -> Result<(), Stopped> {
        let look = || self.learn();
        patience.until_done("erasures", look).await
    }

    async fn learn(&self) -> Result<(), StoreError> {
        let mark = *self.0.mark.lock();
        let (erasures, next) = self.0.store.erasures_since(mark).await?;
        if !erasures.is_empty() {
            // What the store has forgotten, too: nothing of before can come back any more.
            let kept_from_ms = unix_ms().saturating_sub(limits::RETENTION_S * 1000);
            let is_kept = |_: &UserId, erasure: &mut Erasure| erasure.id.unix_ms() >= kept_from_ms;
            self.0.known.write().retain(is_kept);
        }
        for erasure in erasures {
            self.know(erasure);
        }
        let mut mark = self.0.mark.lock();
        *mark = next.max(*mark);
        self.0.is_asked.store(true, Ordering::Release);
        Ok(())
    }

    /// So it is on most days.
    pub fn is_empty(&self) -> bool {
        self.0.known.read().is_empty()
    }

    fn know(&self, erasure: Erasure) {
        let mut known = self.0.known.write();
        let newest = known.entry(erasure.user.clone());
        let newest = newest.or_insert_with(|| erasure.clone());
        if newest.below < erasure.below {
            *newest = erasure;
        }
    }

    /// An order that was read.
    pub async fn begin(
        &self,
        erasure: Erasure,
        patience: &Patience,
        now_ms: u64,
    ) -> Result<(), Stopped> {
        let begin = || self.0.store.begin_erasure(&erasure, now_ms);
        patience.until_done("begin_erasure", begin).await?;
        tracing::info!(id = %erasure.id, "a user is to be forgotten");
        self.know(erasure);
        Ok(())
    }

    /// Returns when those of before are known: whoever reads records asks for it first.
    pub async fn known(&self, patience: &Patience) -> Result<(), Stopped> {
        match self.0.is_asked.load(Ordering::Acquire) {
            true => Ok(()),
            false => self.look(patience).await,
        }
    }

    fn of(&self, user: &UserId) -> Option<Erasure> {
        let known = self.0.known.read();
        known.get(user).cloned()
    }

    /// Whether a record of this user is of before the user was erased, and is counted as dropped at this place. `pos` is
    /// where it stood in `raw`, where that is known.
    pub fn drops(
        &self,
        place: &'static str,
        user: &UserId,
        head: &Head,
        pos: Option<Position>,
    ) -> bool {
        let erasure = self.of(user);
        let is_covered = erasure.is_some_and(|erasure| erasure.covers(head, pos));
        if is_covered {
            let counter = &self.0.metrics.erased;
            counter.with_label_values(&[place]).inc();
        }
        is_covered
    }

    /// The same of a record that may be no notification of a user.
    pub fn drops_record(&self, place: &'static str, record: &Record) -> bool {
        if self.is_empty() {
            return false;
        }
        let user = std::str::from_utf8(&record.key).ok();
        let user = user.and_then(|key| key.parse::<UserId>().ok());
        match (user, Head::read(record)) {
            (Some(user), Ok(head)) => self.drops(place, &user, &head, read_pos(record)),
            _ => false,
        }
    }

    /// Without those of users who were erased since.
    pub fn outcomes_left(&self, outcomes: Vec<Outcome>) -> Vec<Outcome> {
        self.left("outcome", outcomes, |outcome, erasure| {
            erasure.covers_outcome(outcome)
        })
    }

    /// The same of what a worker is about to log.
    pub fn attempts_left(&self, attempts: Vec<Attempted>) -> Vec<Attempted> {
        self.left("log", attempts, |attempt, erasure| attempt.id < erasure.id)
    }

    fn left<T: OfUser>(
        &self,
        place: &'static str,
        mut all: Vec<T>,
        is_covered: impl Fn(&T, &Erasure) -> bool,
    ) -> Vec<T> {
        let known = self.0.known.read();
        if known.is_empty() {
            return all;
        }
        all.retain(|one| {
            let erasure = one.user().and_then(|user| known.get(user));
            let is_covered = erasure.is_some_and(|erasure| is_covered(one, erasure));
            if is_covered {
                let counter = &self.0.metrics.erased;
                counter.with_label_values(&[place]).inc();
            }
            !is_covered
        });
        all
    }
}

trait OfUser {
    fn user(&self) -> Option<&UserId>;
}

impl OfUser for Outcome {
    fn user(&self) -> Option<&UserId> {
        self.user.as_ref()
    }
}

impl OfUser for Attempted {
    fn user(&self) -> Option<&UserId> {
        Some(&self.user)
    }
}

/// Says in a record where in `raw` it comes from.
pub fn write_pos(record: &mut Record, pos: Position) {
    record.set(RAW_POS, pos.to_string());
}

fn read_pos(record: &Record) -> Option<Position> {
    let value = record.header_text(RAW_POS)?.parse().ok()?;
    Position::from_wire(value)
}
