//! The load tool as a running process.

use crate::{
    parts::Folder,
    process::{Process, sibling},
};
use anyhow::{Context, Result};
use std::{path::PathBuf, time::Duration};

pub struct Swarm {
    process: Process,
    result: PathBuf,
}

/// What the clients saw.
pub struct Seen {
    pub unique: u64,
    pub repeated: u64,
}

impl Swarm {
    /// Clients that take everything, acknowledge nothing and stay until told.
    pub fn start(
        folder: &Folder,
        port: u16,
        secret: &str,
        clients: u32,
        tail: bool,
    ) -> Result<Swarm> {
        let result = folder.join("swarm.json");
        let mut arguments = vec![
            format!("--url=ws://127.0.0.1:{port}/ws/notifications"),
            format!("--secret-file={secret}"),
            format!("--users=1..{clients}"),
            "--connect-rate=3000".into(),
            "--no-ack".into(),
            "--threads=1".into(),
            "--hold-s=3600".into(),
            format!("--json={}", result.display()),
        ];
        if tail {
            arguments.push("--tail".into());
        }
        let log = folder.join("swarm.log");
        let process = Process::start(&sibling("swarm")?, &arguments, Some(1), &log)?;
        Ok(Swarm { process, result })
    }

    pub fn check(&mut self) -> Result<()> {
        self.process.check()
    }

    /// Sends everybody home and asks what they saw.
    pub async fn finish(mut self) -> Result<Seen> {
        self.process.signal("INT")?;
        self.process.ended(Duration::from_secs(20)).await?;
        let text = std::fs::read_to_string(&self.result).context("no result of the swarm")?;
        let result: serde_json::Value = serde_json::from_str(&text)?;
        let count = |value: &serde_json::Value| value.as_u64().context("no count");
        Ok(Seen {
            unique: count(&result["counters"]["unique"])?,
            repeated: count(&result["repeated"])?,
        })
    }
}
