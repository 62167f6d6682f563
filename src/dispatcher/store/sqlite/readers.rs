//! A few threads read, each on a connection of its own. Calls that wait share a snapshot: when many clients
//! connect at once, beginning and ending one for each read costs more than the reads.
//!
//! Invariants:
//! * a snapshot is not older than any call it serves: whoever asks after a commit returned sees it;
//! * a thread takes no more than its share of what waits, so that a slow read holds up few others;
//! * calls are taken in the order they came.

use super::schema::{self, Failure};
use crate::{dispatcher::store::StoreError, limits};
use crossbeam::channel::{Receiver, Sender, unbounded};
use rusqlite::{Connection, TransactionBehavior};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};
use tokio::sync::{Semaphore, oneshot};

/// One call: it is run in a snapshot, or told why there is none.
type Job = Box<dyn FnOnce(Result<&Connection, StoreError>) + Send>;

/// Dropping it waits for the reads on their way, so that whoever closes the file last finds nobody in it.
#[derive(Debug)]
pub struct Readers {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
    /// Bounds the calls that wait.
    places: Semaphore,
    damaged: Arc<AtomicBool>,
}

impl Readers {
    pub fn open(path: &Path) -> Result<Readers, StoreError> {
        let (jobs, waiting) = unbounded();
        let start = |number: usize| {
            let (connection, waiting) = (schema::open_reader(path)?, waiting.clone());
            std::thread::Builder::new()
                .name(format!("store-reader-{number}"))
                .spawn(move || read_until_closed(connection, &waiting))
                .map_err(|error| StoreError::Unavailable(format!("no thread to read: {error}")))
        };
        Ok(Readers {
            jobs: Some(jobs),
            threads: (0..limits::STORE_READERS)
                .map(start)
                .collect::<Result<_, _>>()?,
            places: Semaphore::new(limits::STORE_QUEUE),
            damaged: Arc::default(),
        })
    }

    /// Runs `work` in one read transaction: everything it sees is of one moment. With too many waiting
    /// the caller waits.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _place = self.places.acquire().await.expect("never closed");
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let result = connection.and_then(|connection| {
                work(connection).map_err(|failure| explain(connection, failure))
            });
            // Nobody listens any more when the caller was cancelled.
            let _ = answer.send(result);
        });
        let jobs = self.jobs.as_ref().expect("open until dropped");
        jobs.send(job).expect("threads live as long as this end");
        let broken_off = || StoreError::Unavailable("a read was broken off".into());
        let result = answered.await.unwrap_or_else(|_| Err(broken_off()));
        if matches!(result, Err(StoreError::Corrupt(_))) {
            self.damaged.store(true, Ordering::Relaxed);
        }
        result
    }

    /// No read has met damage. Once one did, only an operator can help.
    pub fn healthy(&self) -> bool {
        !self.damaged.load(Ordering::Relaxed)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // What panics in a thread is caught there.
            let _ = thread.join();
        }
    }
}

fn read_until_closed(mut connection: Connection, waiting: &Receiver<Job>) {
    while let Ok(first) = waiting.recv() {
        let share = (waiting.len() / limits::STORE_READERS).min(limits::STORE_READ_GROUP - 1);
        let mut group = vec![first];
        group.extend(waiting.try_iter().take(share));
        // A read that panics has said so, and its caller is told; the thread goes on.
        let _ = catch_unwind(AssertUnwindSafe(|| in_snapshot(&mut connection, group)));
    }
}

/// The snapshot is taken by the first read, after the last call of the group has come.
fn in_snapshot(connection: &mut Connection, group: Vec<Job>) {
    let file = connection.path().unwrap_or_default().to_owned();
    match connection.transaction_with_behavior(TransactionBehavior::Deferred) {
        // Ended by being dropped: there is nothing to commit.
        Ok(snapshot) => group.into_iter().for_each(|job| job(Ok(&snapshot))),
        Err(error) => {
            let error = Failure::from(error).explain(&file);
            group.into_iter().for_each(|job| job(Err(error.clone())));
        }
    }
}

fn explain(connection: &Connection, failure: Failure) -> StoreError {
    failure.explain(connection.path().unwrap_or_default())
}
