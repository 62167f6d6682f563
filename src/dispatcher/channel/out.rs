//! What a channel has at work: whether there is room for more, and how far its partitions may be committed.
//!
//! Invariants:
//! * an offset is committed only when everything before it in its partition is settled, however many later ones are;
//! * what is out of a partition that has gone is settled like the rest, and moves nobody's offset.

use crate::{
    bus::{Consumed, TopicPartition, low_water::LowWater},
    dispatcher::reading::Reading,
    limits,
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::{Notify, watch};

/// What is out of one channel, its reader's and its sender's. Cheap to clone.
#[derive(Clone)]
pub struct Out(Arc<Shared>);

struct Shared {
    records_max: usize,
    held: Mutex<Held>,
    /// Something is out no more.
    ended: Notify,
    /// Nothing more is read for want of room.
    crowded: watch::Sender<bool>,
}

#[derive(Default)]
struct Held {
    records: usize,
    bytes: usize,
}

impl Out {
    pub fn new(records_max: usize) -> Out {
        Out(Arc::new(Shared {
            records_max,
            held: Mutex::default(),
            ended: Notify::new(),
            crowded: watch::Sender::new(false),
        }))
    }

    pub fn records(&self) -> usize {
        self.0.held.lock().records
    }

    /// Records that there is room for.
    pub fn room(&self) -> usize {
        self.0.records_max.saturating_sub(self.records())
    }

    /// Also while there is room for a few only: what is read next is to be a batch again.
    pub fn is_full(&self) -> bool {
        let held = self.0.held.lock();
        let room = self.0.records_max.saturating_sub(held.records);
        room < limits::CHANNEL_WAITING / 8 || held.bytes >= limits::CHANNEL_BYTES
    }

    /// Something is out no more since this was asked last. For one who waits.
    pub async fn ended(&self) {
        self.0.ended.notified().await;
    }

    pub fn crowd(&self, is_so: bool) {
        self.0.crowded.send_if_modified(|was| {
            let is_new = *was != is_so;
            *was = is_so;
            is_new
        });
    }

    /// Waits until nothing more is read for want of room, and this holds too, which is asked when that begins.
    pub async fn crowded(&self, also: impl Fn() -> bool) {
        let mut crowded = self.0.crowded.subscribe();
        let seen = crowded.wait_for(|is_so| *is_so && also()).await;
        seen.expect("its sender is ours");
    }

    fn ticket(&self, water: Arc<Mutex<LowWater>>, record: &Consumed) -> Ticket {
        let bytes = record.record.bytes();
        let mut held = self.0.held.lock();
        held.records += 1;
        held.bytes += bytes;
        Ticket {
            out: self.clone(),
            water,
            offset: record.offset,
            bytes,
        }
    }
}

/// A record that is out. One that is dropped unsettled holds its partition where it is, and is read again.
pub struct Ticket {
    out: Out,
    water: Arc<Mutex<LowWater>>,
    offset: u64,
    bytes: usize,
}

impl Ticket {
    /// What followed from it is durable.
    pub fn settled(self) {
        self.water.lock().finish(self.offset);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut held = self.out.0.held.lock();
        held.records -= 1;
        held.bytes -= self.bytes;
        drop(held);
        self.out.0.ended.notify_one();
    }
}

/// Those of one consumer that something was read of, until they are revoked.
#[derive(Default)]
pub struct Partitions(BTreeMap<TopicPartition, Partition>);

struct Partition {
    water: Arc<Mutex<LowWater>>,
    /// Offset of the next record to come.
    read: u64,
    committed: u64,
}

impl Partition {
    fn beginning_at(offset: u64) -> Partition {
        Partition {
            water: Arc::default(),
            read: offset,
            committed: offset,
        }
    }

    fn take(&mut self, offset: u64) -> bool {
        let is_new = self.water.lock().start(offset);
        if is_new {
            self.read = offset + 1;
        }
        is_new
    }
}

impl Partitions {
    pub fn start(&mut self, record: &Consumed, out: &Out) -> Ticket {
        let offset = record.offset;
        let partition = self.0.entry(record.at);
        let partition = partition.or_insert_with(|| Partition::beginning_at(offset));
        if !partition.take(offset) {
            // Nothing is read twice but of a topic that was made anew.
            *partition = Partition::beginning_at(offset);
            partition.take(offset);
        }
        out.ticket(partition.water.clone(), record)
    }

    pub fn forget(&mut self, gone: &[TopicPartition]) {
        self.0.retain(|at, _| !gone.contains(at));
    }

    /// Records from what is committed to what is read: a crash would have them read again.
    pub fn behind(&self) -> u64 {
        let behind = self.0.values().map(|one| one.read - one.committed);
        behind.sum()
    }

    /// How far those may be committed that are not yet.
    pub fn uncommitted(&self) -> Vec<(TopicPartition, u64)> {
        let next = self.0.iter().filter_map(|(at, partition)| {
            let next = partition.water.lock().next()?;
            (next > partition.committed).then_some((*at, next))
        });
        next.collect()
    }

    pub fn committed(&mut self, next: &[(TopicPartition, u64)]) {
        for (at, next) in next {
            if let Some(partition) = self.0.get_mut(at) {
                partition.committed = *next;
            }
        }
    }

    /// Also of what is settled behind one that is out: only who settles nothing stands still.
    pub fn tell(&self, reading: &Reading) {
        for (at, partition) in &self.0 {
            if let Some(next) = partition.water.lock().finished_to() {
                reading.came_to(*at, next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{Record, Topic};

    fn at(partition: u32) -> TopicPartition {
        TopicPartition {
            topic: Topic::Push,
            partition,
        }
    }

    fn record(partition: u32, offset: u64) -> Consumed {
        Consumed {
            at: at(partition),
            offset,
            appended_ms: 1,
            record: Record::new("42", "four"),
        }
    }

    #[test]
    fn nothing_is_committed_past_a_record_that_is_out_and_other_partitions_are() {
        let (out, mut partitions) = (Out::new(8), Partitions::default());
        let slow = partitions.start(&record(0, 7), &out);
        partitions.start(&record(0, 8), &out).settled();
        partitions.start(&record(1, 3), &out).settled();
        assert_eq!((out.records(), partitions.behind()), (1, 3));
        assert_eq!(partitions.uncommitted(), [(at(1), 4)]);
        partitions.committed(&[(at(1), 4)]);
        slow.settled();
        assert_eq!(partitions.uncommitted(), [(at(0), 9)]);
        partitions.committed(&[(at(0), 9)]);
        assert_eq!((out.records(), partitions.behind()), (0, 0));
    }

    #[test]
    fn one_that_is_given_up_makes_room_and_moves_nothing() {
        let (out, mut partitions) = (Out::new(8), Partitions::default());
        drop(partitions.start(&record(0, 7), &out));
        partitions.start(&record(0, 8), &out).settled();
        assert_eq!((out.records(), out.room()), (0, 8));
        assert_eq!(partitions.uncommitted(), []);
    }

    #[test]
    fn what_is_out_of_a_partition_that_went_and_came_back_moves_it_no_more() {
        let (out, mut partitions) = (Out::new(8), Partitions::default());
        let before = partitions.start(&record(0, 7), &out);
        partitions.forget(&[at(0)]);
        let again = partitions.start(&record(0, 7), &out);
        before.settled();
        assert_eq!(partitions.uncommitted(), []);
        again.settled();
        assert_eq!(partitions.uncommitted(), [(at(0), 8)]);
    }

    #[test]
    fn a_partition_that_was_made_anew_is_committed_from_its_beginning() {
        let (out, mut partitions) = (Out::new(8), Partitions::default());
        partitions.start(&record(0, 7), &out).settled();
        partitions.start(&record(0, 0), &out).settled();
        assert_eq!(partitions.uncommitted(), [(at(0), 1)]);
    }

    #[test]
    fn it_is_full_before_the_last_has_no_room_or_by_the_bytes() {
        const FEW: usize = limits::CHANNEL_WAITING / 8;
        let (out, mut partitions) = (Out::new(8 + FEW), Partitions::default());
        let mut tickets = Vec::new();
        for offset in 0..8 {
            assert!(!out.is_full());
            tickets.push(partitions.start(&record(0, offset), &out));
        }
        assert!(!out.is_full());
        tickets.push(partitions.start(&record(0, 8), &out));
        assert!(out.is_full());
        assert_eq!(out.room(), FEW - 1);
        tickets.clear();
        assert!(!out.is_full());
        let mut large = record(0, 9);
        large.record.value = vec![0; limits::CHANNEL_BYTES].into();
        let _large = partitions.start(&large, &out);
        assert!(out.is_full());
    }
}
