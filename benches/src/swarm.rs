//! The load tool as a running process.

use crate::{
    parts::Folder,
    process::{Process, sibling},
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Until everybody is there, or the load tool gives up on some.
const CONNECTING: Duration = Duration::from_secs(120);
/// From when it is waited for to its result.
const ENDING: Duration = Duration::from_secs(90);

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

/// The load tool on its way through a scenario.
pub struct Scenario {
    process: Process,
    folder: PathBuf,
    name: &'static str,
    /// When everybody was there.
    began: Instant,
}

impl Scenario {
    /// `text` is the scenario, `arguments` say where it happens.
    pub fn start(
        folder: &Folder,
        name: &'static str,
        text: &str,
        cpu: Option<usize>,
        arguments: Vec<String>,
    ) -> Result<Scenario> {
        let file = |end: &str| folder.text(&format!("{name}.{end}"));
        fs::write(file("toml"), text)?;
        let mut all = vec!["run".into(), file("toml")];
        all.extend(arguments);
        all.push(format!("--json={}", file("json")));
        let log = folder.join(&format!("{name}.log"));
        let mut process = Process::start(&sibling("swarm")?, &all, cpu, &log)?;
        // Its result is read from the file.
        process.drop_output();
        Ok(Scenario {
            process,
            folder: folder.join(""),
            name,
            began: Instant::now(),
        })
    }

    /// Until everybody is there.
    pub async fn everybody(&mut self, server: &mut Process) -> Result<()> {
        match self.as_many_as_come(server).await? {
            true => Ok(()),
            false => bail!("not everybody came: {}", self.log()),
        }
    }

    /// Until everybody is there (true), or the tool goes on with those who are.
    pub async fn as_many_as_come(&mut self, server: &mut Process) -> Result<bool> {
        let started = Instant::now();
        loop {
            let log = self.log();
            let came = log.contains("connected after");
            if came || log.contains("going on with") {
                self.began = Instant::now();
                return Ok(came);
            }
            self.process.check()?;
            server.check()?;
            ensure!(started.elapsed() < CONNECTING, "nobody comes: {log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join(format!("{}.log", self.name))).unwrap_or_default()
    }

    pub fn since_s(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Until so many seconds after everybody was there; that they have not passed yet is what figures lean on.
    pub async fn at(&self, seconds: f64) -> Result<()> {
        let moment = self.began + Duration::from_secs_f64(seconds);
        ensure!(Instant::now() < moment, "it did not come to rest in time");
        tokio::time::sleep_until(moment.into()).await;
        Ok(())
    }

    /// Posts nothing more from here on.
    pub fn post_no_more(&self) -> Result<()> {
        self.process.signal("TERM")
    }

    /// Sends everybody home, and asks what they saw.
    pub async fn interrupt(self) -> Result<Value> {
        self.process.signal("INT")?;
        self.finish().await
    }

    /// Waits for its end.
    pub async fn finish(mut self) -> Result<Value> {
        self.process.ended(ENDING).await?;
        let file = self.folder.join(format!("{}.json", self.name));
        let text = fs::read_to_string(file)
            .with_context(|| format!("no result of the load tool: {}", self.log()))?;
        Ok(serde_json::from_str(&text)?)
    }
}

/// What stands against the figures of a result.
pub fn remarks(result: &Value, part: &str) -> Vec<String> {
    let mut remarks = Vec::new();
    for what in ["missing", "repeated"] {
        match result[what].as_u64() {
            Some(0) => {}
            count => remarks.push(format!("{part}: {} {what}", count.unwrap_or_default())),
        }
    }
    for (what, count) in result["posted"]["refused"]
        .as_object()
        .into_iter()
        .flatten()
    {
        remarks.push(format!("{part}: posts refused: {what} ({count})"));
    }
    for line in result["bottlenecks"].as_array().into_iter().flatten() {
        remarks.push(format!("{part}: {}", line.as_str().unwrap_or_default()));
    }
    remarks
}
