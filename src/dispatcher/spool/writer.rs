//! The thread that holds the file: calls that wait together share one transaction and one fsync.

use super::{
    SpoolError,
    file::{Entry, File, Waiting, is_harmless},
    metrics::SpoolMetrics,
};
use crate::{bus::Topic, limits};
use std::path::PathBuf;
use tokio::sync::{mpsc, oneshot, watch};

type Answer<T> = oneshot::Sender<Result<T, SpoolError>>;

pub enum Call {
    Append(Entry, Answer<()>),
    /// So many, but none of these topics.
    First(usize, Vec<Topic>, Answer<Vec<Waiting>>),
    Remove(Vec<i64>, Answer<()>),
}

pub struct Writer {
    pub directory: PathBuf,
    pub bytes_max: u64,
    /// Gone after an error that says nothing about what the file holds: the next call opens it anew.
    pub file: Option<File>,
    pub records: watch::Sender<u64>,
    pub metrics: SpoolMetrics,
}

impl Writer {
    /// Until every handle is gone; what was handed over is done.
    pub fn run(mut self, mut calls: mpsc::Receiver<Call>) {
        let mut held = None;
        while let Some(call) = held.take().or_else(|| calls.blocking_recv()) {
            match call {
                Call::Append(entry, answer) => {
                    let (mut entries, mut answers) = (vec![entry], vec![answer]);
                    let mut bytes = entries[0].record.len();
                    while entries.len() < limits::SPOOL_GROUP && bytes < limits::SPOOL_GROUP_BYTES {
                        match calls.try_recv() {
                            Ok(Call::Append(entry, answer)) => {
                                bytes += entry.record.len();
                                entries.push(entry);
                                answers.push(answer);
                            }
                            Ok(other) => {
                                held = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.append(&entries, answers);
                }
                Call::First(records_max, but, answer) => {
                    let first = self.with_file(|file| file.first(records_max, &but));
                    let _ = answer.send(first);
                }
                Call::Remove(rows, answer) => {
                    let removed = self.with_file(|file| file.remove(&rows));
                    self.tell();
                    self.discard_if_empty();
                    let _ = answer.send(removed);
                }
            }
            self.tell();
        }
    }

    fn append(&mut self, entries: &[Entry], answers: Vec<Answer<()>>) {
        match self.with_file(|file| file.append(entries)) {
            Ok(kept) => {
                for ((answer, kept), entry) in answers.into_iter().zip(kept).zip(entries) {
                    let answered = match kept {
                        true => Ok(()),
                        false => Err(SpoolError::Full(entry.priority)),
                    };
                    let _ = answer.send(answered);
                }
            }
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    fn with_file<T>(
        &mut self,
        work: impl FnOnce(&mut File) -> Result<T, rusqlite::Error>,
    ) -> Result<T, SpoolError> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.directory, self.bytes_max).map_err(SpoolError::failed)?,
        };
        let done = work(&mut file);
        if done.as_ref().err().is_none_or(is_harmless) {
            self.file = Some(file);
        }
        done.map_err(SpoolError::failed)
    }

    fn discard_if_empty(&mut self) {
        if let Some(file) = self.file.take_if(|file| file.records == 0)
            && let Err(error) = file.discard()
        {
            tracing::warn!(%error, "the empty spool keeps its disk");
        }
    }

    fn tell(&self) {
        let Some(file) = &self.file else { return };
        self.records.send_replace(file.records);
        self.metrics.records.set(file.records as i64);
        if let Ok(bytes) = file.bytes() {
            self.metrics.bytes.set(bytes as i64);
        }
    }
}
