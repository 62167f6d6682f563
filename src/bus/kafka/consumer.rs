//! One reader. Messages and rebalances come out of the same queue of librdkafka, when we poll it.

use super::{
    commit::{self, Committing},
    link::Link,
    metrics::{Reports, Role},
};
use crate::{
    bus::{
        BusError, Commit, Consumed, Consumer, HeaderName, Polled, Record, Start, Topic,
        TopicPartition, header_name,
    },
    limits,
};
use async_trait::async_trait;
use bytes::BytesMut;
use futures::FutureExt;
use parking_lot::Mutex;
use rdkafka::{
    ClientContext, Offset, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers, Message},
    types::RDKafkaRespErr,
};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

pub(super) type Inner = StreamConsumer<Side>;

pub(super) struct KafkaConsumer {
    link: Arc<Link>,
    /// Taken by drop only.
    inner: Option<Arc<Inner>>,
    /// Group without its namespace.
    group: String,
    /// By the full name.
    topics: HashMap<String, Topic>,
    /// Partitions this member holds; `None` for those assigned by hand, which stay.
    held: Option<BTreeSet<TopicPartition>>,
    /// Rebalances not told to the caller yet.
    news: VecDeque<Change>,
    /// Told as revoked; given up at the next poll, when the caller has surely dropped its work on them.
    leaving: Option<TopicPartitionList>,
    /// Taken out of the queue while a commit waited for a rebalance.
    stash: VecDeque<Consumed>,
    /// Next offset of each partition, to notice records that were gone before they were read.
    next: HashMap<TopicPartition, u64>,
    /// A commit on its way; the next one waits for it, so they can't change places.
    pub(super) committing: Option<Committing>,
}

/// A rebalance, its partitions as we and as librdkafka know them.
enum Change {
    Assigned(Vec<TopicPartition>, TopicPartitionList),
    Revoked(Vec<TopicPartition>, TopicPartitionList),
}

/// What one look at the queue brought.
enum Step {
    Record(Consumed),
    /// See [`KafkaConsumer::news`].
    Rebalanced,
    /// librdkafka told of an error that passes by itself.
    Trouble,
    Nothing,
}

impl KafkaConsumer {
    pub(super) async fn subscribe(
        link: Arc<Link>,
        group: &str,
        topics: &[Topic],
    ) -> Result<KafkaConsumer, BusError> {
        for topic in topics {
            link.known_partitions(*topic).await?;
        }
        let mut consumer = KafkaConsumer::new(link, group, topics)?;
        consumer.held = Some(BTreeSet::new());
        let names: Vec<&str> = consumer.topics.keys().map(String::as_str).collect();
        let subscribed = consumer.inner().subscribe(&names);
        subscribed.map_err(|error| consumer.link.failed(&error))?;
        Ok(consumer)
    }

    pub(super) async fn assign(
        link: Arc<Link>,
        group: &str,
        partitions: &[(TopicPartition, Start)],
    ) -> Result<KafkaConsumer, BusError> {
        let mut list = TopicPartitionList::new();
        for (at, start) in partitions {
            link.find(*at).await?;
            let offset = match start {
                Start::Committed => Offset::Invalid,
                Start::At(offset) => Offset::Offset(*offset as i64),
            };
            list.add_partition_offset(&link.name(at.topic), at.partition as i32, offset)
                .map_err(|error| link.failed(&error))?;
        }
        let topics: Vec<Topic> = partitions.iter().map(|(at, _)| at.topic).collect();
        let mut consumer = KafkaConsumer::new(link, group, &topics)?;
        let list = consumer.with_starts(list).await?;
        let assigned = consumer.inner().assign(&list);
        assigned.map_err(|error| consumer.link.failed(&error))?;
        Ok(consumer)
    }

    /// Puts the committed offset where none is given, so that librdkafka (2.12.1) does not ask for it: when
    /// the coordinator has just moved or started, it takes the refusal for an answer and waits for ever.
    async fn with_starts(
        &mut self,
        list: TopicPartitionList,
    ) -> Result<TopicPartitionList, BusError> {
        let open = commit::without_offset(&list);
        // Nothing to ask: then nothing answers either, and Kafka may be away.
        let list = match open.count() {
            0 => list,
            _ => {
                let inner = self.inner().clone();
                let starts = move || commit::starts(inner.as_ref(), list, open);
                self.link.blocking(starts).await?
            }
        };
        for element in list.elements() {
            let topic = self.topics.get(element.topic()).copied();
            if let (Some(topic), Offset::Offset(offset)) = (topic, element.offset()) {
                let partition = element.partition() as u32;
                let at = TopicPartition { topic, partition };
                self.next.insert(at, offset as u64);
            }
        }
        Ok(list)
    }

    fn new(link: Arc<Link>, group: &str, topics: &[Topic]) -> Result<KafkaConsumer, BusError> {
        let side = Side {
            reports: link.reports(Role::Consumer(group.to_owned())),
            rebalances: Mutex::default(),
            closing: AtomicBool::new(false),
        };
        let settings = link.settings.consumer(&link.group(group));
        let inner = settings.create_with_context(side);
        let inner = inner.map_err(|error| link.failed(&error))?;
        Ok(KafkaConsumer {
            topics: topics.iter().map(|t| (link.name(*t), *t)).collect(),
            link,
            inner: Some(Arc::new(inner)),
            group: group.to_owned(),
            held: None,
            news: VecDeque::new(),
            leaving: None,
            stash: VecDeque::new(),
            next: HashMap::new(),
            committing: None,
        })
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        self.inner.as_ref().expect("taken by drop only")
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Whether a commit of this partition is still ours to make.
    pub(super) fn holds(&self, at: TopicPartition) -> bool {
        self.held.as_ref().is_none_or(|held| held.contains(&at))
    }

    /// Lets rebalances come through while a commit can't; a record that comes instead is kept.
    pub(super) async fn pump(&mut self, wait: Duration) {
        if let Ok(Step::Record(record)) = self.step(Instant::now() + wait).await {
            self.stash.push_back(record);
        }
    }

    async fn poll_within(
        &mut self,
        records_max: usize,
        wait: Duration,
    ) -> Result<Polled, BusError> {
        let inner = self.inner();
        inner.context().reports.brokers().ensure(inner.client());
        self.give_up_revoked()?;
        let deadline = Instant::now() + wait;
        loop {
            if !self.news.is_empty() {
                return self.tell_news().await;
            }
            let stashed = records_max.min(self.stash.len());
            let mut records: Vec<Consumed> = self.stash.drain(..stashed).collect();
            if records.is_empty() {
                match self.step(deadline).await? {
                    Step::Record(record) => records.push(record),
                    Step::Rebalanced | Step::Trouble => continue,
                    Step::Nothing => return self.nothing(),
                }
            }
            self.take_waiting(&mut records, records_max);
            self.count(&records);
            return Ok(Polled::Records(records));
        }
    }

    /// Silence is an error while Kafka is away: the caller decides what degrades.
    fn nothing(&self) -> Result<Polled, BusError> {
        match self.link.health.is_well() {
            true => Ok(Polled::Idle),
            false => Err(self.link.health.unavailable()),
        }
    }

    /// Waits for one thing out of the queue.
    async fn step(&mut self, deadline: Instant) -> Result<Step, BusError> {
        let inner = self.inner().clone();
        let received = {
            let mut received = pin!(inner.recv());
            // A rebalance is no message: it is found beside the queue after the queue was looked at.
            let looked = poll_fn(|context| match received.as_mut().poll(context) {
                Poll::Ready(message) => Poll::Ready(Some(message)),
                Poll::Pending if inner.context().has_rebalanced() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            match timeout_at(deadline, looked).await {
                Ok(received) => received,
                Err(_) => return Ok(Step::Nothing),
            }
        };
        let step = match received {
            Some(Ok(message)) => match self.consumed(&message) {
                Some(record) => Step::Record(record),
                None => Step::Trouble,
            },
            Some(Err(error)) => self.trouble(&error)?,
            None => Step::Rebalanced,
        };
        self.observe();
        Ok(step)
    }

    /// What is there already, without waiting; stops at a rebalance, which has to be told first.
    fn take_waiting(&mut self, records: &mut Vec<Consumed>, records_max: usize) {
        let inner = self.inner().clone();
        let mut bytes: usize = records.iter().map(|taken| taken.record.bytes()).sum();
        while records.len() < records_max && bytes < limits::BUS_POLL_BYTES {
            let message = match inner.recv().now_or_never() {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    inner.context().reports.failed(&error);
                    break;
                }
                None => break,
            };
            if let Some(record) = self.consumed(&message) {
                bytes += record.record.bytes();
                records.push(record);
            }
            if inner.context().has_rebalanced() {
                break;
            }
        }
        self.observe();
    }

    /// Takes in what the rebalance call-backs left: from here on revoked partitions are not committed.
    fn observe(&mut self) {
        let rebalances = std::mem::take(&mut *self.inner().context().rebalances.lock());
        for rebalance in rebalances {
            let change = match rebalance {
                Rebalance::Assigned(list) => Change::Assigned(self.places(&list), list),
                Rebalance::Revoked(list) => Change::Revoked(self.places(&list), list),
            };
            if let (Change::Revoked(places, _), Some(held)) = (&change, &mut self.held) {
                held.retain(|at| !places.contains(at));
                self.stash.retain(|record| !places.contains(&record.at));
                self.next.retain(|at, _| !places.contains(at));
            }
            self.news.push_back(change);
        }
    }

    /// Tells the oldest of the news. It stays the oldest until that worked: an assignment whose offsets
    /// can't be had now is told by a later poll.
    async fn tell_news(&mut self) -> Result<Polled, BusError> {
        if let Some(Change::Assigned(_, list)) = self.news.front() {
            let list = list.clone();
            let list = self.with_starts(list).await?;
            let taken = self.inner().incremental_assign(&list);
            taken.map_err(|error| self.link.failed(&error))?;
        }
        let metrics = &self.link.metrics.bus;
        Ok(match self.news.pop_front() {
            Some(Change::Assigned(places, _)) => {
                self.held.get_or_insert_default().extend(&places);
                metrics.rebalanced("assigned", places.len());
                Polled::Assigned(places)
            }
            Some(Change::Revoked(places, list)) => {
                metrics.rebalanced("revoked", places.len());
                self.leaving = Some(list);
                Polled::Revoked(places)
            }
            None => Polled::Idle,
        })
    }

    fn list(&self, at: TopicPartition) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.link.name(at.topic), at.partition as i32);
        list
    }

    fn give_up_revoked(&mut self) -> Result<(), BusError> {
        if let Some(list) = self.leaving.take() {
            give_up(self.inner().as_ref(), &list).map_err(|error| self.link.failed(&error))?;
        }
        Ok(())
    }

    fn places(&self, list: &TopicPartitionList) -> Vec<TopicPartition> {
        let elements = list.elements();
        let places = elements.iter().filter_map(|element| {
            Some(TopicPartition {
                topic: *self.topics.get(element.topic())?,
                partition: element.partition() as u32,
            })
        });
        places.collect()
    }

    /// `None` for what is left in the queue of a partition that has gone.
    fn consumed(&mut self, message: &BorrowedMessage<'_>) -> Option<Consumed> {
        let at = TopicPartition {
            topic: *self.topics.get(message.topic())?,
            partition: message.partition() as u32,
        };
        if !self.holds(at) {
            return None;
        }
        let offset = message.offset() as u64;
        let expected = self.next.insert(at, offset + 1);
        let skipped = offset.saturating_sub(expected.unwrap_or(offset));
        if skipped > 0 {
            self.link.metrics.skipped(&at.topic.suffix(), skipped);
            tracing::error!(topic = %at.topic.suffix(), partition = at.partition, offset, skipped,
                "records were gone before they were read: is the retention too short?");
        }
        Some(Consumed {
            at,
            offset,
            appended_ms: message.timestamp().to_millis().unwrap_or(0).max(0) as u64,
            record: record(message),
        })
    }

    /// librdkafka goes on by itself after most errors.
    fn trouble(&self, error: &KafkaError) -> Result<Step, BusError> {
        use RDKafkaErrorCode::*;
        self.inner().context().reports.failed(error);
        match (error, error.rdkafka_error_code()) {
            (_, Some(UnknownTopic | UnknownTopicOrPartition | UnknownPartition)) => {
                // Whoever reads on asks the broker whether they are there again.
                self.topics
                    .values()
                    .for_each(|topic| self.link.forget(*topic));
                let names: Vec<&str> = self.topics.keys().map(String::as_str).collect();
                Err(BusError::NoTopic(names.join(", ")))
            }
            (KafkaError::MessageConsumptionFatal(_), _) => Err(self.link.failed(error)),
            _ => Ok(Step::Trouble),
        }
    }

    fn count(&self, records: &[Consumed]) {
        for topic in self.topics.values() {
            let of_topic = records.iter().filter(|r| r.at.topic == *topic).count();
            if of_topic > 0 {
                self.link.metrics.bus.consumed(*topic, of_topic);
            }
        }
    }
}

#[async_trait]
impl Consumer for KafkaConsumer {
    async fn poll(&mut self, records_max: usize, wait: Duration) -> Result<Polled, BusError> {
        let result = self.poll_within(records_max.max(1), wait).await;
        self.link.metrics.bus.count("poll", result)
    }

    fn pause(&mut self, at: TopicPartition) -> Result<(), BusError> {
        let paused = self.inner().pause(&self.list(at));
        paused.map_err(|error| self.link.failed(&error))
    }

    fn resume(&mut self, at: TopicPartition) -> Result<(), BusError> {
        let resumed = self.inner().resume(&self.list(at));
        resumed.map_err(|error| self.link.failed(&error))
    }

    async fn commit(&mut self, next: &[(TopicPartition, u64)]) -> Result<(), BusError> {
        let result = commit::commit(self, next).await;
        self.link.metrics.bus.count("commit", result)
    }

    async fn step_commit(&mut self, next: &[(TopicPartition, u64)]) -> Result<Commit, BusError> {
        let result = commit::step(self, next).await;
        self.link.metrics.bus.count("commit", result)
    }
}

impl Drop for KafkaConsumer {
    fn drop(&mut self) {
        let inner = self.inner.take().expect("taken here only");
        inner.context().closing.store(true, Ordering::Release);
        let news = std::mem::take(&mut self.news);
        let told = self.leaving.take().map(Rebalance::Revoked);
        let untold = news.into_iter().map(|change| match change {
            Change::Assigned(_, list) => Rebalance::Assigned(list),
            Change::Revoked(_, list) => Rebalance::Revoked(list),
        });
        let unseen = std::mem::take(&mut *inner.context().rebalances.lock());
        let open: Vec<Rebalance> = told.into_iter().chain(untold).chain(unseen).collect();
        tracing::debug!(group = self.group, "leaving");
        self.link.close_aside(move || {
            // librdkafka waits for an answer to each before it lets go.
            for rebalance in open {
                // The group is left in any case.
                let _ = match rebalance {
                    Rebalance::Assigned(list) => inner.incremental_assign(&list),
                    Rebalance::Revoked(list) => give_up(inner.as_ref(), &list),
                };
            }
            drop(inner);
        });
    }
}

/// What came by a call-back and is not taken in yet.
pub(super) enum Rebalance {
    Assigned(TopicPartitionList),
    Revoked(TopicPartitionList),
}

/// Our side of a consumer's call-backs. They run inside our own polls.
pub(super) struct Side {
    pub(super) reports: Reports,
    rebalances: Mutex<VecDeque<Rebalance>>,
    /// Nobody polls for the caller any more: everything is granted on the spot.
    closing: AtomicBool,
}

impl Side {
    fn has_rebalanced(&self) -> bool {
        !self.rebalances.lock().is_empty()
    }
}

impl ClientContext for Side {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.reports.log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.reports.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.reports.error(error, reason);
    }
}

impl ConsumerContext for Side {
    /// In place of the library's own, which would give partitions up before our caller knows, and let
    /// librdkafka look for committed offsets.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let assigned = event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if !self.closing.load(Ordering::Acquire) {
            self.rebalances.lock().push_back(match assigned {
                true => Rebalance::Assigned(list.clone()),
                false => Rebalance::Revoked(list.clone()),
            });
            return;
        }
        let done = match assigned {
            true => consumer.incremental_assign(list),
            false => give_up(consumer, list),
        };
        if let Err(error) = done {
            self.reports.failed(&error);
        }
    }
}

/// Without the group (it may be gone already) the whole assignment goes.
fn give_up<C: rdkafka::consumer::Consumer<Side>>(
    consumer: &C,
    list: &TopicPartitionList,
) -> Result<(), KafkaError> {
    consumer
        .incremental_unassign(list)
        .or_else(|_| consumer.unassign())
}

/// Its parts lie in one piece of memory: they come and go together, and there are a dozen of them.
fn record(message: &BorrowedMessage<'_>) -> Record {
    let (key, value) = (message.key(), message.payload());
    let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
    // rdkafka (0.39) panics at a name that is not UTF-8, and would at every reading. Without its headers
    // the record is malformed to whoever reads it, and set aside.
    let headers: Vec<(HeaderName, &[u8])> =
        catch_unwind(AssertUnwindSafe(|| headers(message))).unwrap_or_default();
    let of_headers: usize = headers.iter().map(|(_, value)| value.len()).sum();
    let mut piece = BytesMut::with_capacity(key.len() + value.len() + of_headers);
    let mut part = |bytes: &[u8]| {
        piece.extend_from_slice(bytes);
        piece.split().freeze()
    };
    Record {
        key: part(key),
        value: part(value),
        headers: headers
            .into_iter()
            .map(|(name, value)| (name, part(value)))
            .collect(),
    }
}

fn headers<'a>(message: &'a BorrowedMessage<'_>) -> Vec<(HeaderName, &'a [u8])> {
    let Some(headers) = message.headers() else {
        return Vec::new();
    };
    let parts = headers.iter().map(|header| {
        let value = header.value.unwrap_or_default();
        (header_name(header.key), value)
    });
    let mut all = Vec::with_capacity(headers.count());
    all.extend(parts);
    all
}
