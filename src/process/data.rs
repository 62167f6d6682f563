//! The standalone's data directory: databases, and the secrets it makes for itself at the first start.

use super::StartError;
use crate::{
    config::{ConfigError, Secret},
    ctl::StandaloneFile,
};
use aws_lc_rs::rand;
use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Makes the directory of the databases, for its user only, where it is not there. Whether a file system
/// lets it be made only the attempt can tell.
pub(super) fn make(path: &Path) -> Result<(), ConfigError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| {
        let problem = format!(
            "can't make {}: {error}; name another directory",
            path.display()
        );
        ConfigError::new("store.path", problem)
    })
}

pub struct DataDirectory {
    path: PathBuf,
}

impl DataDirectory {
    /// Makes it (for its user only) where it is not there.
    pub fn open(path: &Path) -> Result<DataDirectory, StartError> {
        make(path)?;
        let path = fs::canonicalize(path).map_err(|error| StartError::host(error.to_string()))?;
        Ok(DataDirectory { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Signs the development tokens (HS256).
    pub fn token_secret_file(&self) -> PathBuf {
        self.path.join("token.key")
    }

    pub fn admin_key_file(&self) -> PathBuf {
        self.path.join("admin.key")
    }

    /// Reads a secret, or makes one of 256 random bits (hexadecimal).
    pub fn secret(&self, file: &Path) -> Result<Secret, StartError> {
        if !file.exists() {
            let mut random = [0; 32];
            rand::fill(&mut random)
                .map_err(|_| StartError::host("the system gives no random numbers".to_owned()))?;
            let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
            self.write(file, &text)?;
        }
        Ok(Secret::from_file("store.path", file)?)
    }

    /// Tells `herald ctl` where to find this process.
    pub fn tell_ctl(&self, url: String) -> Result<(), StartError> {
        let told = StandaloneFile {
            url,
            api_key_file: self.admin_key_file(),
            token_secret_file: self.token_secret_file(),
        };
        let text = serde_json::to_string_pretty(&told).expect("plain fields");
        self.write(&StandaloneFile::path(&self.path), &text)
    }

    /// Readable by its user only, and whole or not at all.
    fn write(&self, file: &Path, text: &str) -> Result<(), StartError> {
        let partial = file.with_extension("partial");
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)
            .and_then(|mut opened| {
                opened
                    .write_all(text.as_bytes())
                    .and_then(|()| opened.sync_all())
            })
            .and_then(|()| fs::rename(&partial, file));
        written
            .map_err(|error| StartError::host(format!("can't write {}: {error}", file.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_made_once_and_only_its_user_reads_it() {
        let temporary = tempfile::tempdir().unwrap();
        let data = DataDirectory::open(&temporary.path().join("data")).unwrap();
        let file = data.token_secret_file();
        let first = data.secret(&file).unwrap();
        assert_eq!(first.expose().len(), 64);
        assert!(data.secret(&file).unwrap() == first);
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
