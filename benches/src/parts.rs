//! A folder for a run, and the real servers that scripts start.

use anyhow::{Context, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::Command,
};
use testbed::free_port;

/// Goes with the value.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Result<Folder> {
        let name = format!("herald-bench-{:08x}", rand::random::<u32>());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| format!("can't make {}", path.display()))?;
        Ok(Folder(path))
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The broker with room and the collector that its own start script gives it; what tests make do with stops
/// the world for longer than a message takes.
const BROKER_JVM: (&str, &str) = (
    "HERALD_KAFKA_JVM",
    "-Xms1g -Xmx1g -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35",
);

/// A Redis or a Kafka, started and stopped by its script.
pub struct Server {
    script: &'static str,
    pub port: u16,
    data: PathBuf,
}

impl Server {
    pub fn start(script: &'static str, data: &Path) -> Result<Server> {
        let server = Server {
            script,
            port: free_port(),
            data: data.to_owned(),
        };
        server.call(&["start", &server.port.to_string()])?;
        Ok(server)
    }

    /// Of the process that the script started.
    pub fn id(&self) -> Result<u32> {
        let text = std::fs::read_to_string(self.data.join("pid")).context("no pid")?;
        Ok(text.trim().parse()?)
    }

    fn call(&self, arguments: &[&str]) -> Result<()> {
        // Standard output is for tables.
        let status = Command::new(self.script)
            .args(arguments)
            .arg(&self.data)
            .env(BROKER_JVM.0, BROKER_JVM.1)
            .stdout(std::io::stderr())
            .status()
            .with_context(|| format!("{}: run this from the project's folder", self.script))?;
        if !status.success() {
            bail!("{} {arguments:?}: {status}", self.script);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.call(&["stop"]);
    }
}
