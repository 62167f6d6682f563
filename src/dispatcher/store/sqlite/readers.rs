//! A few connections that read, each in one snapshot, on blocking threads.

use super::schema::{self, Failure};
use crate::{dispatcher::store::StoreError, limits};
use parking_lot::Mutex;
use rusqlite::{Connection, TransactionBehavior};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::Semaphore;

/// Never more reads at once than connections; the others wait their turn.
#[derive(Debug)]
pub struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    turns: Arc<Semaphore>,
    damaged: Arc<AtomicBool>,
}

impl Readers {
    pub fn open(path: &Path) -> Result<Readers, StoreError> {
        let connections = (0..limits::STORE_READERS)
            .map(|_| schema::open_reader(path))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Readers {
            turns: Arc::new(Semaphore::new(connections.len())),
            idle: Arc::new(Mutex::new(connections)),
            damaged: Arc::default(),
        })
    }

    /// Runs `work` in one read transaction: everything it sees is of one moment.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.expect("never closed");
        let (idle, damaged) = (Arc::clone(&self.idle), Arc::clone(&self.damaged));
        let read = tokio::task::spawn_blocking(move || {
            let mut connection = idle.lock().pop().expect("a connection per turn");
            let result = in_snapshot(&mut connection, work)
                .map_err(|failure| failure.explain(connection.path().unwrap_or_default()));
            if matches!(result, Err(StoreError::Corrupt(_))) {
                damaged.store(true, Ordering::Relaxed);
            }
            idle.lock().push(connection);
            drop(turn);
            result
        });
        read.await
            .map_err(|error| StoreError::Unavailable(format!("a read was broken off: {error}")))?
    }

    /// No read has met damage. Once one did, only an operator can help.
    pub fn healthy(&self) -> bool {
        !self.damaged.load(Ordering::Relaxed)
    }
}

fn in_snapshot<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Connection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let snapshot = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
    let result = work(&snapshot)?;
    snapshot.commit()?;
    Ok(result)
}
