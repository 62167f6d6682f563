//! The files of the spool under the configured path, and whether those that are open still are these.
//!
//! What is written into a file that somebody removed is lost with the process. SQLite goes on writing there.

use crate::{limits, sys};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

pub const DATABASE: &str = "spool.db";
const LOG: &str = "spool.db-wal";
const RESERVE: &str = "spool.reserve";
/// Of a file that was removed, until it is whole.
const COPY: &str = "spool.copy";

/// Device and number: no other file has them while this one is open.
type Identity = (u64, u64);

/// Where open files stand, or stood.
pub struct Place {
    directory: PathBuf,
    open: [Identity; 2],
}

impl Place {
    /// Database and log were just opened by these names.
    pub fn of_open(directory: &Path) -> io::Result<Place> {
        Ok(Place {
            directory: directory.to_owned(),
            open: [
                identity(&directory.join(DATABASE))?,
                identity(&directory.join(LOG))?,
            ],
        })
    }

    /// Two `stat`s, some microseconds: little beside the fsync of each transaction.
    pub fn is_theirs(&self) -> bool {
        let [database, log] = self.open;
        self.has(DATABASE, database) && self.has(LOG, log)
    }

    /// That the disk still has; no bound where it does not say.
    pub fn free_bytes(&self) -> u64 {
        sys::free_bytes(&self.directory).unwrap_or(u64::MAX)
    }

    fn has(&self, name: &str, open: Identity) -> bool {
        identity(&self.directory.join(name)).is_ok_and(|found| found == open)
    }

    /// Puts a whole copy of the database where it was. The open files may be closed then, and must be before
    /// the copy is opened: SQLite removes their log by its name.
    pub fn fill(&self, copy: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        make(&self.directory)?;
        let database = self.directory.join(DATABASE);
        if fs::metadata(&database).is_ok_and(|found| found.len() > 0)
            && !self.has(DATABASE, self.open[0])
        {
            let problem = format!("another {DATABASE} stands there: move it away");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
        }
        let partial = self.directory.join(COPY);
        remove(&partial)?;
        let copied = copy(&partial).and_then(|()| fs::File::open(&partial)?.sync_all());
        if let Err(error) = copied {
            let _ = remove(&partial);
            return Err(error);
        }
        // It belongs to the files that are open: SQLite would apply it to the copy.
        remove(&self.directory.join(LOG))?;
        fs::rename(&partial, &database)?;
        fs::File::open(&self.directory)?.sync_all()
    }

    /// The disk's room is given back.
    pub fn clear(&self) -> io::Result<()> {
        remove(&self.directory.join(DATABASE))?;
        remove(&self.directory.join(LOG))
    }

    /// Written, because a hole in a file keeps no room.
    pub fn reserve(&self) -> io::Result<()> {
        let path = self.directory.join(RESERVE);
        let wanted = limits::SPOOL_RESERVE_BYTES;
        if fs::metadata(&path).is_ok_and(|found| found.len() == wanted as u64) {
            return Ok(());
        }
        let written = fs::File::create(&path).and_then(|mut file| {
            file.write_all(&vec![0; wanted])?;
            file.sync_all()
        });
        if written.is_err() {
            // Half of it is of no use to anybody.
            let _ = remove(&path);
        }
        written
    }

    pub fn give_up_reserve(&self) -> io::Result<()> {
        remove(&self.directory.join(RESERVE))
    }
}

/// The entry of a fresh directory is made durable too: the file's own is synced by SQLite.
pub fn make(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let directory = fs::canonicalize(directory)?;
    match directory.parent() {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
