//! One session, what is prepared on it, and how much of it is used at once.
//!
//! Invariants:
//! * a request waits for its place; nothing queues beyond the callers there are, and these hold their partitions of
//!   the bus;
//! * only reads are sent to a second node when the first is slow; a write is repeated by the driver where that
//!   changes nothing, and a compare-and-set never is;
//! * without a quorum only who asked for it ([`Level::OrOne`]) is answered.

use super::cql::{Prepared, Profiles, Statements};
use crate::{config::DispatcherStore, dispatcher::store::StoreError, limits, metrics::Metrics};
use futures::{StreamExt, stream};
use prometheus::{HistogramVec, IntCounter, IntCounterVec};
use scylla::{
    client::session::Session,
    deserialize::row::DeserializeRow,
    errors::{DbError, ExecutionError, RequestAttemptError},
    response::query_result::QueryResult,
    serialize::row::SerializeRow,
    statement::batch::{Batch, BatchType},
    value::{CqlValue, Row},
};
use std::{
    future::Future,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Instant,
};
use tokio::sync::Semaphore;

/// Requests in a row that failed before the store counts as away.
const FAILURES: usize = 3;

/// Who has to have answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A quorum of the data centre, or the read fails.
    Quorum,
    /// One replica, while there is no quorum.
    OrOne,
}

/// Values of one statement of a batch.
pub type Values = Box<dyn SerializeRow + Send + Sync>;

pub struct Link {
    session: Session,
    profiles: Profiles,
    pub statements: Statements,
    reads: Semaphore,
    writes: Semaphore,
    failures: AtomicUsize,
    metrics: LinkMetrics,
}

#[derive(Clone)]
pub struct LinkMetrics {
    requests: HistogramVec,
    errors: IntCounterVec,
    at_one: IntCounter,
}

impl Link {
    pub async fn open(
        session: Session,
        config: &DispatcherStore,
        metrics: LinkMetrics,
    ) -> Result<Link, StoreError> {
        let profiles = Profiles::new(config);
        let prepared = Statements::prepare(&session, &config.keyspace, &profiles).await;
        let statements = prepared.map_err(|error| {
            StoreError::Unavailable(format!("statements can't be prepared: {error}"))
        })?;
        Ok(Link {
            session,
            profiles,
            statements,
            reads: Semaphore::new(limits::CASSANDRA_READS),
            writes: Semaphore::new(limits::CASSANDRA_WRITES),
            failures: AtomicUsize::new(0),
            metrics,
        })
    }

    pub fn healthy(&self) -> bool {
        self.failures.load(Ordering::Relaxed) < FAILURES
    }

    pub fn reader(&self, level: Level) -> Reader<'_> {
        Reader {
            link: self,
            level,
            at_one: AtomicBool::new(false),
        }
    }

    pub async fn write(
        &self,
        prepared: &Prepared,
        values: impl SerializeRow + Send,
    ) -> Result<(), StoreError> {
        let _place = self.writes.acquire().await.expect("never closed");
        let request = self.session.execute_unpaged(&prepared.quorum, values);
        let done = self.measured("write", request).await;
        done.map(drop).map_err(explain)
    }

    /// Statements that share their partition key, in one mutation.
    pub async fn write_together(
        &self,
        statements: Vec<(&Prepared, Values)>,
    ) -> Result<(), StoreError> {
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_is_idempotent(true);
        batch.set_execution_profile_handle(Some(self.profiles.write.clone()));
        let mut values = Vec::with_capacity(statements.len());
        for (prepared, bound) in statements {
            batch.append_statement(prepared.quorum.clone());
            values.push(bound);
        }
        let _place = self.writes.acquire().await.expect("never closed");
        let done = self.measured("write", self.session.batch(&batch, values));
        done.await.map(drop).map_err(explain)
    }

    /// A statement with a condition; its answer says whether it was met.
    pub async fn compare_and_set(
        &self,
        prepared: &Prepared,
        values: impl SerializeRow + Send,
    ) -> Result<QueryResult, StoreError> {
        let _place = self.writes.acquire().await.expect("never closed");
        let request = self.session.execute_unpaged(&prepared.quorum, values);
        self.measured("compare_and_set", request)
            .await
            .map_err(explain)
    }

    /// Asks a cluster that is away whether it is back, for ever.
    pub async fn probe_while_away(&self) {
        loop {
            tokio::time::sleep(limits::CASSANDRA_PROBE).await;
            if !self.healthy() {
                let reader = self.reader(Level::Quorum);
                let statement = &self.statements.schema_version;
                // What it answers is counted where it is asked.
                let _ = reader.rows::<(i32,)>(statement, ()).await;
            }
        }
    }

    async fn measured<T>(
        &self,
        kind: &str,
        request: impl Future<Output = Result<T, ExecutionError>>,
    ) -> Result<T, ExecutionError> {
        let began = Instant::now();
        let result = request.await;
        let taken_s = began.elapsed().as_secs_f64();
        let requests = self.metrics.requests.with_label_values(&[kind]);
        requests.observe(taken_s);
        match &result {
            Ok(_) => {
                if self.failures.swap(0, Ordering::Relaxed) >= FAILURES {
                    tracing::info!("the store answers again");
                }
            }
            Err(error) => {
                let errors = self.metrics.errors.with_label_values(&[cause(error)]);
                errors.inc();
                if self.failures.fetch_add(1, Ordering::Relaxed) + 1 == FAILURES {
                    tracing::warn!(%error, "the store does not answer at quorum");
                }
            }
        }
        result
    }
}

/// Reads that belong together: once one of them found no quorum, none asks for it any more.
pub struct Reader<'a> {
    link: &'a Link,
    level: Level,
    at_one: AtomicBool,
}

impl Reader<'_> {
    /// Every one of its reads so far was answered by a quorum.
    pub fn was_at_quorum(&self) -> bool {
        !self.at_one.load(Ordering::Relaxed)
    }

    pub fn statements(&self) -> &Statements {
        &self.link.statements
    }

    pub async fn rows<T>(
        &self,
        prepared: &Prepared,
        values: impl SerializeRow + Send + Sync,
    ) -> Result<Vec<T>, StoreError>
    where
        T: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        let link = self.link;
        let _place = link.reads.acquire().await.expect("never closed");
        let may_be_one = self.level == Level::OrOne;
        if !(may_be_one && (!self.was_at_quorum() || !link.healthy())) {
            let request = link.session.execute_unpaged(&prepared.quorum, &values);
            match link.measured("read", request).await {
                Ok(result) => return decode(result),
                Err(error) if may_be_one && is_about_replicas(&error) => {}
                Err(error) => return Err(explain(error)),
            }
        }
        self.at_one.store(true, Ordering::Relaxed);
        link.metrics.at_one.inc();
        let request = link.session.execute_unpaged(&prepared.one, &values);
        decode(request.await.map_err(explain)?)
    }

    pub async fn first<T>(
        &self,
        prepared: &Prepared,
        values: impl SerializeRow + Send + Sync,
    ) -> Result<Option<T>, StoreError>
    where
        T: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
    {
        Ok(self.rows(prepared, values).await?.into_iter().next())
    }
}

pub fn decode<T>(result: QueryResult) -> Result<Vec<T>, StoreError>
where
    T: for<'frame, 'metadata> DeserializeRow<'frame, 'metadata>,
{
    let rows = result.into_rows_result().map_err(damaged)?;
    let typed = rows.rows::<T>().map_err(damaged)?;
    typed.collect::<Result<Vec<T>, _>>().map_err(damaged)
}

/// Carries them out, so many at once, each to its end.
pub async fn each<F: Future>(work: Vec<F>) -> Vec<F::Output> {
    let running = stream::iter(work).buffered(limits::CASSANDRA_AT_ONCE);
    running.collect().await
}

/// As [`each`]: what they gave, or the first failure.
pub async fn all<T, F>(work: Vec<F>) -> Result<Vec<T>, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    each(work).await.into_iter().collect()
}

/// Whether the condition of a statement was met.
pub fn is_applied(result: &QueryResult) -> Result<bool, StoreError> {
    let rows = result.clone().into_rows_result().map_err(damaged)?;
    let answer: Row = rows.first_row().map_err(damaged)?;
    match answer.columns.first() {
        Some(Some(CqlValue::Boolean(applied))) => Ok(*applied),
        other => Err(damaged(format!("{other:?} is no answer to a condition"))),
    }
}

/// A condition that was not met over and over.
pub fn contended(what: &str) -> StoreError {
    StoreError::Unavailable(format!("{what} is changed by too many at once; try again"))
}

fn damaged(error: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("Cassandra holds what can't be read: {error}"))
}

/// Too few replicas answered, or too late: one of them may still know.
fn is_about_replicas(error: &ExecutionError) -> bool {
    !matches!(
        error,
        ExecutionError::BadQuery(_)
            | ExecutionError::LastAttemptError(RequestAttemptError::DbError(
                DbError::SyntaxError | DbError::Invalid | DbError::Unauthorized,
                _
            ))
    )
}

fn explain(error: ExecutionError) -> StoreError {
    match &error {
        ExecutionError::BadQuery(_)
        | ExecutionError::LastAttemptError(RequestAttemptError::DbError(
            DbError::SyntaxError | DbError::Invalid,
            _,
        )) => StoreError::Corrupt(format!(
            "Cassandra refuses a statement: {error}. Is the schema as `herald dispatcher migrate` made it?"
        )),
        _ => StoreError::Unavailable(format!("Cassandra: {error}")),
    }
}

/// A label from a closed list.
fn cause(error: &ExecutionError) -> &'static str {
    match error {
        ExecutionError::RequestTimeout(_) => "timeout",
        ExecutionError::ConnectionPoolError(_) | ExecutionError::EmptyPlan => "no_connection",
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(error, _)) => match error {
            DbError::Unavailable { .. } => "no_quorum",
            DbError::Overloaded => "overloaded",
            DbError::ReadTimeout { .. } | DbError::WriteTimeout { .. } => "timeout",
            DbError::Unauthorized | DbError::AuthenticationError => "unauthorized",
            DbError::SyntaxError | DbError::Invalid => "refused",
            _ => "failed",
        },
        ExecutionError::LastAttemptError(_) => "connection",
        _ => "failed",
    }
}

impl LinkMetrics {
    pub fn new(metrics: &Metrics) -> LinkMetrics {
        LinkMetrics {
            requests: metrics.latencies(
                "store_request_seconds",
                "Requests to Cassandra with the driver's retries, by kind (read, write, compare_and_set).",
                &["kind"],
            ),
            errors: metrics.counters(
                "store_errors_total",
                "Requests that Cassandra did not answer at quorum, by cause.",
                &["cause"],
            ),
            at_one: metrics.counter(
                "store_reads_at_one_total",
                "Reads that one replica answered for want of a quorum.",
            ),
        }
    }
}
