//! The writer thread: calls that wait together share one transaction and one fsync.

use super::{LogIndex, Logs, file, unavailable};
use crate::{
    bus::{BusError, Record},
    clock::unix_ms,
    limits,
};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use prometheus::IntGauge;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Handle of the thread. Dropping it lets the thread finish what was handed over, and waits for it.
pub(super) struct Writer {
    calls: Option<Sender<Call>>,
    /// One permit per KiB of calls handed over and not yet answered.
    room: Arc<Semaphore>,
    thread: Option<JoinHandle<()>>,
}

struct Call {
    work: Work,
    bytes: usize,
    reply: oneshot::Sender<Result<Vec<u64>, BusError>>,
    _room: OwnedSemaphorePermit,
}

enum Work {
    /// Answered by the offsets.
    Append(Vec<(LogIndex, Record)>),
    /// Answered by an empty list.
    Commit {
        group: String,
        next: Vec<(LogIndex, u64)>,
    },
}

/// Offsets of one call.
type Answer = Vec<u64>;

impl Writer {
    pub(super) fn start(connection: Connection, logs: Arc<Logs>, healthy: IntGauge) -> Writer {
        let (calls, inbox) = unbounded();
        healthy.set(1);
        let state = State {
            connection,
            logs,
            healthy,
            sweep_at: 0,
            next_chore: Instant::now() + limits::BUS_SWEEP_AFTER,
        };
        let thread = std::thread::Builder::new()
            .name("bus-writer".into())
            .spawn(move || state.run(&inbox))
            .expect("a process that starts can make a thread");
        Writer {
            calls: Some(calls),
            room: Arc::new(Semaphore::new(limits::BUS_WAITING_KIB)),
            thread: Some(thread),
        }
    }

    pub(super) async fn append(
        &self,
        records: Vec<(LogIndex, Record)>,
    ) -> Result<Answer, BusError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = records.iter().map(|(_, record)| record.bytes()).sum();
        self.call(Work::Append(records), bytes).await
    }

    pub(super) async fn commit(
        &self,
        group: &str,
        next: Vec<(LogIndex, u64)>,
    ) -> Result<(), BusError> {
        if next.is_empty() {
            return Ok(());
        }
        let group = group.to_owned();
        self.call(Work::Commit { group, next }, 0).await.map(drop)
    }

    async fn call(&self, work: Work, bytes: usize) -> Result<Answer, BusError> {
        let permits = bytes.div_ceil(1024).clamp(1, limits::BUS_WAITING_KIB);
        let room = self.room.clone().acquire_many_owned(permits as u32).await;
        let (reply, answer) = oneshot::channel();
        let call = Call {
            work,
            bytes,
            reply,
            _room: room.map_err(unavailable)?,
        };
        let calls = self.calls.as_ref().expect("taken only by drop");
        calls.send(call).map_err(unavailable)?;
        answer.await.map_err(unavailable)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the bus writer panicked: what it had not answered is not stored");
        }
    }
}

struct State {
    connection: Connection,
    logs: Arc<Logs>,
    healthy: IntGauge,
    /// Partition the next sweep step looks at.
    sweep_at: LogIndex,
    next_chore: Instant,
}

impl State {
    fn run(mut self, inbox: &Receiver<Call>) {
        loop {
            match inbox.recv_deadline(self.next_chore) {
                Ok(first) => self.batch(first, inbox),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= self.next_chore {
                self.next_chore = Instant::now() + self.chore();
            }
        }
    }

    fn batch(&mut self, first: Call, inbox: &Receiver<Call>) {
        let mut bytes = first.bytes;
        let mut calls = vec![first];
        while calls.len() < limits::BUS_TRANSACTION_CALLS && bytes < limits::BUS_TRANSACTION_BYTES {
            let Ok(call) = inbox.try_recv() else { break };
            bytes += call.bytes;
            calls.push(call);
        }
        match self.write(&calls) {
            Ok(answers) => {
                self.healthy.set(1);
                for (call, answer) in calls.into_iter().zip(answers) {
                    // A caller that went away meanwhile has its records stored all the same.
                    let _ = call.reply.send(Ok(answer));
                }
            }
            Err(error) => {
                self.failed(&error);
                for call in calls {
                    let _ = call.reply.send(Err(unavailable(&error)));
                }
            }
        }
    }

    /// Ends are published before the answers, so who was answered also reads what it wrote.
    fn write(&mut self, calls: &[Call]) -> rusqlite::Result<Vec<Answer>> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let now_ms = unix_ms();
        let mut ends = BTreeMap::new();
        let answers = calls
            .iter()
            .map(|call| match &call.work {
                Work::Append(records) => {
                    append(&transaction, &self.logs, records, now_ms, &mut ends)
                }
                Work::Commit { group, next } => {
                    commit(&transaction, &self.logs, group, next).map(|()| Vec::new())
                }
            })
            .collect::<rusqlite::Result<Vec<Answer>>>()?;
        for (log, end) in &ends {
            transaction
                .prepare_cached("UPDATE partitions SET end = ? WHERE id = ?")?
                .execute(params![end, self.logs.all[*log].id])?;
        }
        transaction.commit()?;
        for (log, end) in ends {
            self.logs.all[log].publish(end);
        }
        Ok(answers)
    }

    fn failed(&mut self, error: &rusqlite::Error) {
        if self.healthy.get() == 1 {
            tracing::error!(%error, "the embedded bus can't write: is the disk full? Calls are refused until it can");
        }
        self.healthy.set(0);
        self.next_chore = Instant::now() + limits::BUS_PROBE_EVERY;
    }

    /// Sweeps a little, or finds out whether writing works again. Answers when to come back.
    fn chore(&mut self) -> Duration {
        if self.healthy.get() == 0 {
            if self.probe().is_ok() {
                tracing::info!("the embedded bus writes again");
                self.healthy.set(1);
            }
            return limits::BUS_PROBE_EVERY;
        }
        let log = &self.logs.all[self.sweep_at];
        let before_ms = unix_ms().saturating_sub(log.at.topic.spec().retention_ms);
        match sweep(&mut self.connection, log.id, before_ms) {
            Ok(limits::BUS_SWEEP_ROWS) => limits::BUS_SWEEP_PAUSE,
            Ok(_) => {
                self.sweep_at = (self.sweep_at + 1) % self.logs.all.len();
                limits::BUS_SWEEP_EVERY
            }
            Err(error) => {
                self.failed(&error);
                limits::BUS_PROBE_EVERY
            }
        }
    }

    fn probe(&mut self) -> rusqlite::Result<()> {
        let log = &self.logs.all[0];
        let sql = "UPDATE partitions SET end = ? WHERE id = ?";
        let end = log.end.load(Ordering::Acquire);
        self.connection.execute(sql, params![end, log.id]).map(drop)
    }
}

fn append(
    transaction: &Transaction<'_>,
    logs: &Logs,
    records: &[(LogIndex, Record)],
    now_ms: u64,
    ends: &mut BTreeMap<LogIndex, u64>,
) -> rusqlite::Result<Answer> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO records (id, appended_ms, key, headers, value) VALUES (?, ?, ?, ?, ?)",
    )?;
    let mut offsets = Vec::with_capacity(records.len());
    for (index, record) in records {
        let log = &logs.all[*index];
        let end = ends.entry(*index).or_insert_with(|| log.end());
        insert.execute(params![
            file::row(log.id, *end),
            now_ms,
            &record.key[..],
            file::encode_headers(&record.headers),
            &record.value[..],
        ])?;
        offsets.push(*end);
        *end += 1;
    }
    Ok(offsets)
}

fn commit(
    transaction: &Transaction<'_>,
    logs: &Logs,
    group: &str,
    next: &[(LogIndex, u64)],
) -> rusqlite::Result<()> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO committed (partition, consumers, next) VALUES (?, ?, ?)
         ON CONFLICT DO UPDATE SET next = excluded.next",
    )?;
    for (log, next) in next {
        upsert.execute(params![logs.all[*log].id, group, next])?;
    }
    Ok(())
}

/// Removes up to [`limits::BUS_SWEEP_ROWS`] of a partition's oldest records that were appended before
/// `before_ms` and that every group which ever committed here has behind it. Answers how many.
fn sweep(connection: &mut Connection, partition: u32, before_ms: u64) -> rusqlite::Result<usize> {
    let next: Option<u64> = connection
        .prepare_cached("SELECT min(next) FROM committed WHERE partition = ?")?
        .query_row([partition], |row| row.get(0))?;
    let end = next.map_or(file::row(partition + 1, 0), |next| {
        file::row(partition, next)
    });
    let oldest = "SELECT id, appended_ms FROM records WHERE id >= ? AND id < ? ORDER BY id LIMIT ?";
    let last: Option<i64> = connection
        .prepare_cached(&format!(
            "SELECT max(id) FROM ({oldest}) WHERE appended_ms < ?"
        ))?
        .query_row(
            params![
                file::row(partition, 0),
                end,
                limits::BUS_SWEEP_ROWS,
                before_ms
            ],
            |row| row.get(0),
        )
        .optional()?
        .flatten();
    let Some(last) = last else { return Ok(0) };
    connection
        .prepare_cached("DELETE FROM records WHERE id >= ? AND id <= ?")?
        .execute(params![file::row(partition, 0), last])
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;

    /// A partition with `records` of them, appended at 1, 2, 3 … ms.
    fn filled(records: u64) -> (tempfile::TempDir, Connection, Logs) {
        let dir = tempfile::tempdir().unwrap();
        let (mut connection, logs) = file::open(dir.path(), Options::default()).unwrap();
        let transaction = connection.transaction().unwrap();
        let mut ends = BTreeMap::new();
        for ms in 1..=records {
            let record = (0, Record::new("key", "value"));
            append(&transaction, &logs, &[record], ms, &mut ends).unwrap();
        }
        transaction.commit().unwrap();
        (dir, connection, logs)
    }

    fn offsets(connection: &Connection) -> Vec<u64> {
        let mut statement = connection
            .prepare("SELECT id FROM records ORDER BY id")
            .unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(|row| file::offset(row.unwrap())).collect()
    }

    #[test]
    fn a_sweep_removes_what_is_older_than_the_retention() {
        let (_dir, mut connection, logs) = filled(5);
        assert_eq!(sweep(&mut connection, logs.all[0].id, 3), Ok(2));
        assert_eq!(offsets(&connection), [2, 3, 4]);
        assert_eq!(sweep(&mut connection, logs.all[0].id, 3), Ok(0));
    }

    #[test]
    fn a_sweep_leaves_what_a_group_has_not_behind_it() {
        let (_dir, mut connection, logs) = filled(5);
        let transaction = connection.transaction().unwrap();
        commit(&transaction, &logs, "slow", &[(0, 1)]).unwrap();
        commit(&transaction, &logs, "fast", &[(0, 5)]).unwrap();
        transaction.commit().unwrap();
        assert_eq!(sweep(&mut connection, logs.all[0].id, 100), Ok(1));
        assert_eq!(offsets(&connection), [1, 2, 3, 4]);
    }

    #[test]
    fn a_sweep_goes_in_small_steps() {
        let rows = limits::BUS_SWEEP_ROWS as u64 + 10;
        let (_dir, mut connection, logs) = filled(rows);
        let id = logs.all[0].id;
        assert_eq!(
            sweep(&mut connection, id, u64::MAX >> 1),
            Ok(limits::BUS_SWEEP_ROWS)
        );
        assert_eq!(sweep(&mut connection, id, u64::MAX >> 1), Ok(10));
    }
}
