//! A directory that belongs to one process, however many are started on it by mistake.
//!
//! A lock of the kernel's on a file in it, which lets go however the process ends. The file stays, with the number
//! of the last holder in it.

use crate::limits;
use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Instant,
};
use thiserror::Error;

#[derive(Debug, Error, PartialEq, Eq)]
pub enum HeldError {
    #[error("{directory} is in use by {holder}: stop that, or choose another directory")]
    ByAnother { directory: PathBuf, holder: Holder },
    #[error("can't use {path}: {problem}")]
    Unusable { path: PathBuf, problem: String },
}

/// Another Herald process, and its number where it could be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Holder(pub Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("another Herald process")?;
        self.0.map_or(Ok(()), |pid| write!(f, " ({pid})"))
    }
}

/// Held until it is dropped.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    file: File,
}

impl Held {
    /// Makes the directory where it is not there. `name` is the lock's: parts that may share a directory have
    /// names of their own.
    pub fn take(directory: &Path, name: &str) -> Result<Held, HeldError> {
        let path = directory.join(name);
        let unusable = |error: io::Error| HeldError::Unusable {
            path: path.clone(),
            problem: error.to_string(),
        };
        fs::create_dir_all(directory).map_err(unusable)?;
        // What is in it is the holder's until the lock is ours.
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let mut file = file.map_err(unusable)?;
        match lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let number = fs::read_to_string(&path).ok();
                let number = number.and_then(|text| text.trim().parse().ok());
                return Err(HeldError::ByAnother {
                    directory: directory.to_owned(),
                    holder: Holder(number),
                });
            }
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        // On a full disk it is held without.
        let _ = file
            .set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Held { path, file })
    }

    /// Takes the directory again should somebody have removed the lock: until then another process could.
    pub fn keep(&mut self) -> Result<(), HeldError> {
        let identity = |found: fs::Metadata| (found.dev(), found.ino());
        let found = fs::metadata(&self.path).map(identity);
        if found.ok() == self.file.metadata().map(identity).ok() {
            return Ok(());
        }
        let directory = self.path.parent().expect("a file in a directory");
        let name = self.path.file_name().and_then(|name| name.to_str());
        *self = Held::take(directory, name.expect("given as a string"))?;
        Ok(())
    }
}

/// A child that was forked a moment ago shares the lock until it becomes another program, though its holder has let go.
fn lock(file: &File) -> Result<(), TryLockError> {
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if began.elapsed() < limits::HELD_PATIENCE => {
                std::thread::sleep(limits::HELD_PAUSE);
            }
            tried => return tried,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_holder_who_is_named_and_takes_it_again_when_the_lock_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let mut held = Held::take(place.path(), "lock").unwrap();
        let by_another = HeldError::ByAnother {
            directory: place.path().to_owned(),
            holder: Holder(Some(std::process::id())),
        };
        assert_eq!(Held::take(place.path(), "lock").unwrap_err(), by_another);
        Held::take(place.path(), "another").unwrap();

        fs::remove_file(place.path().join("lock")).unwrap();
        held.keep().unwrap();
        assert_eq!(Held::take(place.path(), "lock").unwrap_err(), by_another);
        drop(held);
        Held::take(place.path(), "lock").unwrap();
    }
}
