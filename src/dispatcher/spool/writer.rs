//! The thread that holds the file: calls that wait together share one transaction and one fsync.
//!
//! Invariants:
//! * what is answered with `Ok` stood under the path after its fsync. A file that was removed is put back there
//!   first; while that can't be, nothing new is taken;
//! * a file that was removed stays open while it holds something: its records still go to the bus.

use super::{
    SpoolError,
    file::{Entry, File, Waiting, is_harmless},
    metrics::SpoolMetrics,
};
use crate::{bus::Topic, held::Held, limits};
use std::{io, path::PathBuf, time::Instant};
use tokio::sync::{mpsc, oneshot, watch};

type Answer<T> = oneshot::Sender<Result<T, SpoolError>>;

pub enum Call {
    Append(Entry, Answer<()>),
    /// So many, but none of these topics.
    First(usize, Vec<Topic>, Answer<Vec<Waiting>>),
    Remove(Vec<i64>, Answer<()>),
    /// Whether it would take something now.
    Try(Answer<()>),
}

pub struct Writer {
    pub directory: PathBuf,
    pub bytes_max: u64,
    /// Gone after an error that says nothing about what the file holds: the next call opens it anew.
    pub file: Option<File>,
    pub held: Held,
    /// The file was removed and could not be put back: why, and when it was tried.
    pub homeless: Option<(String, Instant)>,
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
                    // Where it can't be put back, it is read all the same.
                    let _ = self.put_back();
                    let first = self.with_file(|file| file.first(records_max, &but));
                    let _ = answer.send(first);
                }
                Call::Remove(rows, answer) => {
                    let removed = self.with_file(|file| file.remove(&rows));
                    self.tell();
                    self.discard_if_empty();
                    let _ = answer.send(removed);
                }
                Call::Try(answer) => {
                    let tried = self.put_back();
                    let tried = tried.and_then(|()| self.with_file(File::try_disk));
                    let _ = answer.send(tried);
                }
            }
            self.tell();
        }
        self.homeless = None;
        if let Err(error) = self.put_back() {
            let records = self.file.map_or(0, |file| file.records);
            tracing::error!(records, %error, "what was spooled is lost with this process");
        }
    }

    fn append(&mut self, entries: &[Entry], answers: Vec<Answer<()>>) {
        match self.keep(entries) {
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

    fn keep(&mut self, entries: &[Entry]) -> Result<Vec<bool>, SpoolError> {
        self.put_back()?;
        let kept = self.with_file(|file| file.append(entries))?;
        // Removed meanwhile, it would be lost with the process.
        self.put_back()?;
        Ok(kept)
    }

    /// Where somebody removed the file, all it holds is put under the path again.
    fn put_back(&mut self) -> Result<(), SpoolError> {
        let Some(file) = self.file.take_if(|file| !file.is_in_place()) else {
            return Ok(());
        };
        let place = self.directory.display().to_string();
        if let Some((why, tried)) = &self.homeless
            && tried.elapsed() < limits::SPOOL_PUT_BACK_EVERY
        {
            self.file = Some(file);
            return Err(SpoolError::Failed(why.clone()));
        }
        let held = self.held.keep().map_err(io::Error::other);
        if let Err(error) = held.and_then(|()| file.put_back()) {
            let why = format!(
                "{place}: its files were removed while in use, and can't be put back: {error}; mend the directory, and let nobody clean it up"
            );
            if self.homeless.is_none() {
                let records = file.records;
                tracing::error!(
                    records,
                    "the spool at {why}; until then it takes nothing, and what it holds is lost with this process unless the bus comes back first"
                );
            }
            self.homeless = Some((why.clone(), Instant::now()));
            self.file = Some(file);
            return Err(SpoolError::Failed(why));
        }
        let records = file.records;
        drop(file);
        self.homeless = None;
        self.metrics.put_back.inc();
        tracing::warn!(
            place,
            records,
            "the spool's files were removed while in use: everything in them was put back; let nobody clean that directory up"
        );
        self.with_file(|_| Ok(()))
    }

    fn with_file<T>(
        &mut self,
        work: impl FnOnce(&mut File) -> Result<T, rusqlite::Error>,
    ) -> Result<T, SpoolError> {
        let failed = |error| SpoolError::unusable(&self.directory, &error);
        let mut file = match self.file.take() {
            Some(file) => file,
            None => {
                self.held
                    .keep()
                    .map_err(|error| SpoolError::unusable(&self.directory, &error))?;
                File::open(&self.directory, self.bytes_max).map_err(failed)?
            }
        };
        let done = work(&mut file);
        // Another look would not find one that was removed.
        if done.as_ref().err().is_none_or(is_harmless) || !file.is_in_place() {
            self.file = Some(file);
        }
        done.map_err(failed)
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
