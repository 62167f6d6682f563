//! `dlq`, as an operator deals with it: looked at, sent on its way again, or left.
//!
//! A log takes nothing out: what was dealt with is noted in the store, by where it stands and when it got there, so that
//! a topic that was made anew has nothing noted.

mod replay;

use super::{
    erasure::Erasures,
    store::{DeadLetterAt, Handled, SharedStore, StoreError},
};
use crate::{
    bus::{BusError, Consumed, Polled, Record, SharedBus, Start, Target, Topic, TopicPartition},
    limits,
};
use std::{collections::BTreeMap, sync::Arc};
use thiserror::Error;
use tokio::{sync::Semaphore, time::Instant};

/// Of the readers here: nothing is ever committed under it.
const GROUP: &str = "dlq_reader";

#[derive(Debug, Error)]
pub enum DeadLetterError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("dlq has no such record, or does not keep it any more")]
    Unknown,
    #[error("it was {} already", .0.as_str())]
    Handled(Handled),
    #[error("it can't be replayed: {0}")]
    NotReplayable(String),
}

/// A record of `dlq`.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    pub at: DeadLetterAt,
    pub record: Record,
    pub handled: Option<Handled>,
}

/// Which of them are wanted.
#[derive(Debug, Default)]
pub struct Wanted {
    /// The topic they were set aside from.
    pub topic: Option<String>,
    pub cause: Option<String>,
    /// Those that were dealt with too.
    pub all: bool,
    pub limit: usize,
    /// By partition, the offset to go on with.
    pub from: BTreeMap<u32, u64>,
}

/// In the order of time, and where the next page begins; `None` at the end.
pub struct Page {
    pub letters: Vec<DeadLetter>,
    pub next: Option<BTreeMap<u32, u64>>,
}

#[derive(Clone)]
pub struct DeadLetters {
    bus: SharedBus,
    store: SharedStore,
    erasures: Erasures,
    /// A reader each.
    places: Arc<Semaphore>,
}

impl DeadLetters {
    pub fn new(bus: SharedBus, store: SharedStore, erasures: Erasures) -> DeadLetters {
        DeadLetters {
            bus,
            store,
            erasures,
            places: Arc::new(Semaphore::new(limits::DEAD_LETTER_READERS)),
        }
    }

    pub async fn page(&self, wanted: &Wanted) -> Result<Page, DeadLetterError> {
        let mut ends = BTreeMap::new();
        for partition in 0..self.bus.partitions(Topic::Dlq).await? {
            let end = self.bus.end(dlq(partition)).await?;
            ends.insert(partition, end);
        }
        let mut next = wanted.from.clone();
        let mut letters = Vec::new();
        let is_open = |next: &BTreeMap<u32, u64>| {
            let is_open = |(partition, end): (&u32, &u64)| {
                next.get(partition).copied().unwrap_or_default() < *end
            };
            ends.iter().any(is_open)
        };
        for record in self.read(&ends, &next, limits::DEAD_LETTERS_READ).await? {
            if letters.len() >= wanted.limit {
                break;
            }
            next.insert(record.at.partition, record.offset + 1);
            if !wanted.takes(&record.record) {
                continue;
            }
            let letter = self.letter(record).await?;
            if wanted.all || letter.handled.is_none() {
                letters.push(letter);
            }
        }
        letters.sort_by_key(|letter| (letter.at.appended_ms, letter.at.offset));
        // Without a step nothing comes any more: what stood there is past its time.
        let has_more = next != wanted.from && is_open(&next);
        Ok(Page {
            letters,
            next: has_more.then_some(next),
        })
    }

    pub async fn find(&self, partition: u32, offset: u64) -> Result<DeadLetter, DeadLetterError> {
        if partition >= self.bus.partitions(Topic::Dlq).await? {
            return Err(DeadLetterError::Unknown);
        }
        let ends = BTreeMap::from([(partition, offset + 1)]);
        if self.bus.end(dlq(partition)).await? <= offset {
            return Err(DeadLetterError::Unknown);
        }
        let from = BTreeMap::from([(partition, offset)]);
        let found = self.read(&ends, &from, 1).await?.into_iter().next();
        match found.filter(|record| record.offset == offset) {
            Some(record) => Ok(self.letter(record).await?),
            None => Err(DeadLetterError::Unknown),
        }
    }

    /// Sends it on its way again, and notes that; where the note fails it may be sent once more, which claims and ids
    /// keep from being seen twice. Answers the topic.
    pub async fn replay(&self, partition: u32, offset: u64) -> Result<Topic, DeadLetterError> {
        let letter = self.find(partition, offset).await?;
        if let Some(handled) = letter.handled {
            return Err(DeadLetterError::Handled(handled));
        }
        if self.erasures.drops_record("dlq", &letter.record) {
            let why = "its user was forgotten since";
            return Err(DeadLetterError::NotReplayable(why.into()));
        }
        let (target, record) =
            replay::again(&letter.record).map_err(DeadLetterError::NotReplayable)?;
        let topic = match target {
            Target::Keyed(topic) => topic,
            Target::Exact(at) => at.topic,
        };
        self.bus.produce(vec![(target, record)]).await?;
        self.note(&letter, Handled::Replayed).await?;
        Ok(topic)
    }

    /// It is not listed any more.
    pub async fn dismiss(&self, partition: u32, offset: u64) -> Result<(), DeadLetterError> {
        let letter = self.find(partition, offset).await?;
        match letter.handled {
            Some(handled) => Err(DeadLetterError::Handled(handled)),
            None => self.note(&letter, Handled::Dropped).await,
        }
    }

    async fn note(&self, letter: &DeadLetter, handled: Handled) -> Result<(), DeadLetterError> {
        Ok(self.store.handle_dead_letter(letter.at, handled).await?)
    }

    async fn letter(&self, consumed: Consumed) -> Result<DeadLetter, StoreError> {
        let at = DeadLetterAt {
            partition: consumed.at.partition,
            offset: consumed.offset,
            appended_ms: consumed.appended_ms,
        };
        Ok(DeadLetter {
            handled: self.store.handled_dead_letter(at).await?,
            at,
            record: consumed.record,
        })
    }

    /// Up to `records_max` before these ends, of each partition in the order of its offsets.
    async fn read(
        &self,
        ends: &BTreeMap<u32, u64>,
        from: &BTreeMap<u32, u64>,
        records_max: usize,
    ) -> Result<Vec<Consumed>, DeadLetterError> {
        let _place = self.places.acquire().await.expect("never closed");
        let mut open = BTreeMap::new();
        for (partition, end) in ends {
            let start = from.get(partition).copied().unwrap_or_default();
            if start < *end {
                open.insert(*partition, start);
            }
        }
        let starts = open.iter().map(|(at, start)| (dlq(*at), Start::At(*start)));
        let starts: Vec<(TopicPartition, Start)> = starts.collect();
        let mut records = Vec::new();
        if starts.is_empty() {
            return Ok(records);
        }
        let mut consumer = self.bus.assign(GROUP, &starts).await?;
        let deadline = Instant::now() + limits::DEAD_LETTERS_WAIT;
        while records.len() < records_max && !open.is_empty() && Instant::now() < deadline {
            let left = records_max - records.len();
            let polled = consumer.poll(left, limits::CONSUMER_WAIT).await?;
            let Polled::Records(some) = polled else {
                continue;
            };
            for record in some {
                let partition = record.at.partition;
                let end = ends.get(&partition).copied().unwrap_or_default();
                if record.offset + 1 >= end {
                    open.remove(&partition);
                }
                if record.offset < end {
                    records.push(record);
                }
            }
        }
        Ok(records)
    }
}

impl Wanted {
    /// By what the record says; the store is asked only of those that are taken.
    fn takes(&self, record: &Record) -> bool {
        let is = |name: &str, wanted: &Option<String>| {
            let wanted = wanted.as_ref().map(String::as_bytes);
            wanted.is_none_or(|wanted| record.header(name) == Some(wanted))
        };
        is("dlq_topic", &self.topic) && is("dlq_cause", &self.cause)
    }
}

fn dlq(partition: u32) -> TopicPartition {
    let topic = Topic::Dlq;
    TopicPartition { topic, partition }
}
