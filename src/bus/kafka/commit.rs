//! Commits: explicit, and waited for or looked at by the next. A coordinator that moves or just restarted is
//! asked again.

use super::{
    consumer::KafkaConsumer,
    link::Link,
    metrics::{Reports, Role},
};
use crate::{
    bus::{BusError, Commit, TopicPartition},
    limits,
};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};

/// A commit in a thread of its own: librdkafka's call has no timeout.
pub(super) struct Committing {
    task: JoinHandle<Result<(), KafkaError>>,
    next: Vec<(TopicPartition, u64)>,
    /// When the first of the tries began that have not worked.
    since: Instant,
}

impl Committing {
    /// `None` when nothing of it is left to commit.
    fn start(
        consumer: &KafkaConsumer,
        next: &[(TopicPartition, u64)],
        since: Instant,
    ) -> Result<Option<Committing>, BusError> {
        let Some(list) = still_held(consumer, next)? else {
            return Ok(None);
        };
        let inner = consumer.inner().clone();
        Ok(Some(Committing {
            task: tokio::task::spawn_blocking(move || inner.commit(&list, CommitMode::Sync)),
            next: next.to_vec(),
            since,
        }))
    }
}

/// What to do about an error.
#[derive(Debug, PartialEq, Eq)]
enum Remedy {
    /// The coordinator is on its way: ask again.
    Again,
    /// The group is being shared anew: take part in that, then ask again for what is still ours.
    Rebalance,
    Give,
}

fn remedy(error: &KafkaError) -> Remedy {
    use RDKafkaErrorCode::*;
    match error.rdkafka_error_code() {
        Some(
            NotCoordinator
            | CoordinatorNotAvailable
            | CoordinatorLoadInProgress
            | WaitingForCoordinator,
        ) => Remedy::Again,
        Some(RebalanceInProgress | IllegalGeneration | UnknownMemberId | AssignmentLost) => {
            Remedy::Rebalance
        }
        _ => Remedy::Give,
    }
}

/// See [`Consumer::commit`](crate::bus::Consumer::commit).
pub(super) async fn commit(
    consumer: &mut KafkaConsumer,
    next: &[(TopicPartition, u64)],
) -> Result<(), BusError> {
    let deadline = Instant::now() + limits::KAFKA_CALL;
    loop {
        let error = match attempt(consumer, next, deadline).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(late) => {
                // It may wait for a rebalance, and that for us: the next try has to see it.
                consumer.pump(limits::KAFKA_RETRY_PAUSE).await;
                return Err(late);
            }
        };
        let remedy = remedy(&error);
        if remedy == Remedy::Give || Instant::now() >= deadline {
            return Err(consumer.link().failed(&error));
        }
        if remedy == Remedy::Rebalance {
            consumer.pump(limits::KAFKA_RETRY_PAUSE).await;
        } else {
            sleep(limits::KAFKA_RETRY_PAUSE).await;
        }
    }
}

/// `None` when there is nothing left to commit.
fn still_held(
    consumer: &KafkaConsumer,
    next: &[(TopicPartition, u64)],
) -> Result<Option<TopicPartitionList>, BusError> {
    let mut list = TopicPartitionList::new();
    for (at, next) in next.iter().filter(|(at, _)| consumer.holds(*at)) {
        let name = consumer.link().name(at.topic);
        list.add_partition_offset(&name, at.partition as i32, Offset::Offset(*next as i64))
            .map_err(|error| consumer.link().failed(&error))?;
    }
    Ok((list.count() > 0).then_some(list))
}

/// One commit, waited for. Given up at the deadline, it is left to end by itself, and the next one waits for
/// that.
async fn attempt(
    consumer: &mut KafkaConsumer,
    next: &[(TopicPartition, u64)],
    deadline: Instant,
) -> Result<Result<(), KafkaError>, BusError> {
    if let Some(former) = &mut consumer.committing {
        let ended = timeout_at(deadline, &mut former.task).await;
        if ended.is_err() {
            return Err(consumer.link().health.unavailable());
        }
        consumer.committing = None;
    }
    let Some(begun) = Committing::start(consumer, next, Instant::now())? else {
        return Ok(Ok(()));
    };
    let begun = consumer.committing.insert(begun);
    match timeout_at(deadline, &mut begun.task).await {
        Ok(ended) => {
            consumer.committing = None;
            ended.map_err(|error| BusError::Unavailable(error.to_string()))
        }
        Err(_) => Err(unanswered(consumer)),
    }
}

fn unanswered(consumer: &KafkaConsumer) -> BusError {
    let link = consumer.link();
    link.health.suspect("a commit was not answered".into());
    link.health.unavailable()
}

/// See [`Consumer::step_commit`](crate::bus::Consumer::step_commit).
pub(super) async fn step(
    consumer: &mut KafkaConsumer,
    next: &[(TopicPartition, u64)],
) -> Result<Commit, BusError> {
    let mut since = Instant::now();
    if let Some(former) = consumer.committing.take() {
        let late = former.since.elapsed() >= limits::KAFKA_CALL;
        if !former.task.is_finished() {
            consumer.committing = Some(former);
            return match late {
                true => Err(unanswered(consumer)),
                false => Ok(Commit::OnItsWay),
            };
        }
        match former.task.await {
            Ok(Ok(())) if former.next == next => return Ok(Commit::Done),
            Ok(Ok(())) => {}
            // These offsets are no lower: with them the former's are made good.
            Ok(Err(error)) if remedy(&error) != Remedy::Give && !late => since = former.since,
            Ok(Err(error)) => return Err(consumer.link().failed(&error)),
            Err(error) => return Err(BusError::Unavailable(error.to_string())),
        }
    }
    consumer.committing = Committing::start(consumer, next, since)?;
    Ok(match consumer.committing {
        Some(_) => Commit::OnItsWay,
        None => Commit::Done,
    })
}

/// The group's offset, asked by a client that never joins it.
pub(super) async fn committed(
    link: &Link,
    group: &str,
    at: TopicPartition,
) -> Result<Option<u64>, BusError> {
    link.find(at).await?;
    let name = link.name(at.topic);
    let mut settings = link.settings.consumer(&link.group(group));
    settings.set("statistics.interval.ms", "0");
    let reports = link.reports(Role::Plain);
    let ask = move || {
        let client: BaseConsumer<Reports> = settings.create_with_context(reports)?;
        let mut list = TopicPartitionList::new();
        list.add_partition(&name, at.partition as i32);
        ask_committed(&client, list)
    };
    let found = link.blocking(ask).await?;
    Ok(match found.elements().first().map(|found| found.offset()) {
        Some(Offset::Offset(offset)) => Some(offset as u64),
        _ => None,
    })
}

pub(super) fn without_offset(list: &TopicPartitionList) -> TopicPartitionList {
    let mut open = TopicPartitionList::new();
    for element in list.elements() {
        if element.offset() == Offset::Invalid {
            open.add_partition(element.topic(), element.partition());
        }
    }
    open
}

/// Gives the `open` partitions of the list the group's offset, or the beginning. Blocks.
pub(super) fn starts<X: ConsumerContext, C: rdkafka::consumer::Consumer<X>>(
    client: &C,
    mut list: TopicPartitionList,
    open: TopicPartitionList,
) -> Result<TopicPartitionList, KafkaError> {
    for found in ask_committed(client, open)?.elements() {
        let start = match found.offset() {
            Offset::Offset(offset) => Offset::Offset(offset),
            _ => Offset::Beginning,
        };
        list.set_partition_offset(found.topic(), found.partition(), start)?;
    }
    Ok(list)
}

/// Asks again while the coordinator is on its way, for [`limits::KAFKA_CALL`] in all.
fn ask_committed<X: ConsumerContext, C: rdkafka::consumer::Consumer<X>>(
    client: &C,
    list: TopicPartitionList,
) -> Result<TopicPartitionList, KafkaError> {
    let deadline = std::time::Instant::now() + limits::KAFKA_CALL;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let found = client.committed_offsets(list.clone(), left);
        let found = found.and_then(|found| {
            found
                .elements()
                .iter()
                .try_for_each(|found| found.error())?;
            Ok(found)
        });
        match found {
            Err(error) if remedy(&error) == Remedy::Again && !left.is_zero() => {
                std::thread::sleep(limits::KAFKA_RETRY_PAUSE);
            }
            found => return found,
        }
    }
}
