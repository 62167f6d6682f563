//! How far readers are behind what stands in their partitions, as of a moment ago.

use crate::{
    bus::{BusError, SharedBus, TopicPartition},
    limits,
};
use parking_lot::Mutex;
use std::{collections::HashMap, time::Instant};

/// Remembers answers: what a group has committed costs a connection to the broker each time.
pub struct Lags {
    bus: SharedBus,
    known: Mutex<HashMap<TopicPartition, Known>>,
}

#[derive(Clone, Copy)]
struct Known {
    asked_at: Instant,
    lags: bool,
    /// It never goes back: a log that has not grown beyond it is read.
    committed: u64,
}

impl Lags {
    pub fn new(bus: SharedBus) -> Lags {
        Lags {
            bus,
            known: Mutex::default(),
        }
    }

    /// Whether the group that reads the partition has not got through it. One that can't be asked may not have.
    pub async fn lags(&self, group: &str, at: TopicPartition) -> bool {
        let known = self.known.lock().get(&at).copied();
        let fresh = known.filter(|known| known.asked_at.elapsed() < limits::LAG_AGE);
        if let Some(fresh) = fresh {
            return fresh.lags;
        }
        let before = known.map_or(0, |known| known.committed);
        let asked_at = Instant::now();
        let (lags, committed) = self.ask(group, at, before).await.unwrap_or((true, before));
        let known = Known {
            asked_at,
            lags,
            committed,
        };
        self.known.lock().insert(at, known);
        lags
    }

    async fn ask(
        &self,
        group: &str,
        at: TopicPartition,
        before: u64,
    ) -> Result<(bool, u64), BusError> {
        let end = self.bus.end(at).await?;
        let committed = match before >= end {
            true => before,
            false => self.bus.committed(group, at).await?.unwrap_or(0),
        };
        Ok((committed < end, committed))
    }
}
