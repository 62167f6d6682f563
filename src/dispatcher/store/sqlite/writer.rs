//! One thread writes. Calls that arrive while a commit is on its way to the disk share the next one.
//!
//! Invariants:
//! * a call is answered after the commit that holds its work returned, never before;
//! * one call's failure leaves nothing of that call and everything of the others in its group;
//! * the order of commits is the order in which calls entered the queue.

use super::{schema::Failure, sweep};
use crate::{
    dispatcher::{store::StoreError, unix_ms},
    limits,
};
use rusqlite::Connection;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};
use tokio::sync::{mpsc, oneshot};

/// Hands work to the thread. Dropping it lets the thread finish what is queued and end.
#[derive(Debug)]
pub struct Writer {
    queue: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
    healthy: Arc<AtomicBool>,
}

impl Writer {
    pub fn start(connection: Connection) -> Result<Writer, StoreError> {
        let (queue, jobs) = mpsc::channel(limits::STORE_QUEUE);
        let healthy = Arc::new(AtomicBool::new(true));
        let told = Arc::clone(&healthy);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || write_until_closed(connection, jobs, &told))
            .map_err(|error| StoreError::Unavailable(format!("no thread to write: {error}")))?;
        Ok(Writer {
            queue: Some(queue),
            thread: Some(thread),
            healthy,
        })
    }

    /// Runs `work` inside the group's transaction and answers once that is committed. Where another call of the group
    /// failed it is run again, what it did before having been undone. A full queue makes the caller wait.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl Fn(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let job = Call {
            work,
            result: None,
            answer,
        };
        let queue = self.queue.as_ref().expect("open until dropped");
        queue.send(Box::new(job)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// The last group was committed.
    pub fn healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was already reported as `Unavailable` to every caller.
            let _ = thread.join();
        }
    }
}

fn ended() -> StoreError {
    StoreError::Unavailable("the thread that writes has ended; restart the process".into())
}

/// One call's work, its type erased.
trait Job: Send {
    fn run(&mut self, connection: &Connection) -> Result<(), Failure>;
    /// Ends the call: with its result if the group was committed, with the group's error otherwise.
    fn answer(self: Box<Self>, group: Result<(), StoreError>);
}

struct Call<T, W> {
    work: W,
    result: Option<T>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, W> Job for Call<T, W>
where
    T: Send,
    W: Fn(&Connection) -> Result<T, Failure> + Send,
{
    fn run(&mut self, connection: &Connection) -> Result<(), Failure> {
        self.result = Some((self.work)(connection)?);
        Ok(())
    }

    fn answer(self: Box<Self>, group: Result<(), StoreError>) {
        let Call { result, answer, .. } = *self;
        let result = group.map(|()| result.expect("ran before the commit"));
        // Nobody listens any more when the caller was cancelled; the work stands all the same.
        let _ = answer.send(result);
    }
}

fn write_until_closed(
    connection: Connection,
    mut jobs: mpsc::Receiver<Box<dyn Job>>,
    healthy: &AtomicBool,
) {
    let file = connection.path().unwrap_or_default().to_owned();
    let mut sweep_due = Instant::now();
    while let Some(first) = jobs.blocking_recv() {
        let written = write_group(&connection, first, &mut jobs, &file);
        healthy.store(written, Ordering::Relaxed);
        // Only writing makes the file grow, so writing is what pays for keeping it small.
        if written && sweep_due <= Instant::now() {
            sweep_due = Instant::now() + sweep_step(&connection, &file);
        }
    }
}

/// One transaction: the first call and whatever else is waiting. Says whether it was committed.
fn write_group(
    connection: &Connection,
    first: Box<dyn Job>,
    jobs: &mut mpsc::Receiver<Box<dyn Job>>,
    file: &str,
) -> bool {
    let mut group = vec![first];
    let written = match run_together(connection, &mut group, jobs) {
        Ok(()) => commit(connection),
        // It did not begin, or an error (disk full, I/O) rolled it back under us.
        Err(failure) if connection.is_autocommit() => Err(failure),
        Err(_) => run_apart(connection, &mut group, file),
    };
    let written = written.map_err(|failure| failure.explain(file));
    if let Err(error) = &written {
        tracing::error!(%error, calls = group.len(), "a group of writes was not committed");
    }
    for job in group {
        job.answer(written.clone());
    }
    written.is_ok()
}

/// Without savepoints, for which SQLite copies each page that a call changes. Few calls fail.
fn run_together(
    connection: &Connection,
    group: &mut Vec<Box<dyn Job>>,
    jobs: &mut mpsc::Receiver<Box<dyn Job>>,
) -> Result<(), Failure> {
    begin(connection)?;
    let began = Instant::now();
    let mut at = 0;
    while let Some(job) = group.get_mut(at) {
        job.run(connection)?;
        at += 1;
        if at < limits::STORE_GROUP && began.elapsed() < limits::STORE_GROUP_WORK {
            group.extend(jobs.try_recv().ok());
        }
    }
    Ok(())
}

/// Once more, after one of them failed: those that fail are answered, the others stand.
fn run_apart(
    connection: &Connection,
    group: &mut Vec<Box<dyn Job>>,
    file: &str,
) -> Result<(), Failure> {
    connection.prepare_cached("ROLLBACK")?.execute([])?;
    begin(connection)?;
    let mut at = 0;
    while let Some(job) = group.get_mut(at) {
        match run_alone(connection, job.as_mut()) {
            Ok(()) => at += 1,
            Err(failure) if connection.is_autocommit() => return Err(failure),
            Err(failure) => group.remove(at).answer(Err(failure.explain(file))),
        }
    }
    commit(connection)
}

fn begin(connection: &Connection) -> Result<(), Failure> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
    Ok(())
}

fn commit(connection: &Connection) -> Result<(), Failure> {
    let committed = connection.prepare_cached("COMMIT")?.execute([]);
    if committed.is_err() && !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK")?;
    }
    committed?;
    Ok(())
}

/// Undoes the call's own work if it fails half-way.
fn run_alone(connection: &Connection, job: &mut dyn Job) -> Result<(), Failure> {
    connection.prepare_cached("SAVEPOINT call")?.execute([])?;
    let result = job.run(connection);
    if connection.is_autocommit() {
        return result;
    }
    if result.is_err() {
        connection.prepare_cached("ROLLBACK TO call")?.execute([])?;
    }
    connection.prepare_cached("RELEASE call")?.execute([])?;
    result
}

/// A step of retention in a transaction of its own; answers how long the next one may wait.
fn sweep_step(connection: &Connection, file: &str) -> std::time::Duration {
    let swept = begin(connection).and_then(|()| {
        let removed = sweep::step(connection, unix_ms())?;
        commit(connection)?;
        Ok(removed)
    });
    match swept {
        Ok(removed) if removed > 0 => limits::STORE_SWEEP_PAUSE,
        Ok(_) => limits::STORE_SWEEP_EVERY,
        Err(failure) => {
            if !connection.is_autocommit() {
                let _ = connection.execute_batch("ROLLBACK");
            }
            tracing::warn!(error = %failure.explain(file), "retention will be tried again");
            limits::STORE_SWEEP_EVERY
        }
    }
}
