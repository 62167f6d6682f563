//! A disk so small that a test can fill it.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// Room for the spool and its reserve.
const BYTES: &str = "8m";
const FILLER: &str = "filler";

#[derive(Clone)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one there. `None` where the mount would be the host's: it goes with this run's own namespace.
    pub fn mount(place: &Path) -> Option<SmallDisk> {
        let ours = fs::read_link("/proc/self/ns/mnt").ok()?;
        if fs::read_link("/proc/1/ns/mnt").is_ok_and(|hosts| hosts == ours) {
            return None;
        }
        fs::create_dir_all(place).expect("a directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={BYTES}"), "none"])
            .arg(place)
            .status();
        let mounted = mounted.is_ok_and(|status| status.success());
        mounted.then(|| SmallDisk(place.to_owned()))
    }

    /// Until nothing more fits.
    pub fn fill(&self) {
        let mut filler = File::create(self.0.join(FILLER)).expect("a file");
        for block in [64 * 1024, 512, 1] {
            let block = vec![0; block];
            while filler.write_all(&block).is_ok() {}
        }
    }

    pub fn make_room(&self) {
        fs::remove_file(self.0.join(FILLER)).expect("it was filled");
    }
}
