//! A gateway to measure: the standalone here, a part of a fleet in [`crate::fleet`]; both are asked the same.

use crate::{
    parts::Folder,
    process::{Process, sibling},
};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use testbed::free_port;

/// One core on a CPU of its own, as the floor has it, and nobody pinged while something is measured.
pub const SETTINGS: [(&str, &str); 5] = [
    ("HERALD_GATEWAY__CORES", "1"),
    ("HERALD_GATEWAY__PIN", "true"),
    ("HERALD_GATEWAY__HEARTBEAT_MS", "3600000"),
    ("HERALD_GATEWAY__DEAD_AFTER_MS", "10800000"),
    ("HERALD_LOG__LEVEL", "warn"),
];

/// Where to ask what.
pub struct Doors {
    pub clients: u16,
    pub producers: u16,
    pub admin: u16,
    pub api_key: PathBuf,
    pub http: reqwest::Client,
}

pub struct Standalone {
    pub process: Process,
    pub doors: Doors,
}

impl Standalone {
    /// With settings of its own.
    pub async fn start_with(folder: &Folder, own: &[(&'static str, String)]) -> Result<Standalone> {
        Standalone::start_on(None, folder, own).await
    }

    /// All of it bound to a CPU.
    pub async fn start_on(
        cpu: Option<usize>,
        folder: &Folder,
        own: &[(&'static str, String)],
    ) -> Result<Standalone> {
        let doors = Doors {
            clients: free_port(),
            producers: free_port(),
            admin: free_port(),
            api_key: folder.join("data/admin.key"),
            http: reqwest::Client::new(),
        };
        let address = |port: u16| format!("127.0.0.1:{port}");
        let mut environment = settings();
        environment.extend([
            ("HERALD_GATEWAY__LISTEN", address(doors.clients)),
            ("HERALD_HTTP__LISTEN", address(doors.producers)),
            ("HERALD_ADMIN__LISTEN", address(doors.admin)),
        ]);
        environment.extend(unlimited());
        environment.extend_from_slice(own);
        let arguments = ["standalone".into(), "--data".into(), folder.text("data")];
        let log = folder.join("herald.log");
        let herald = sibling("herald")?;
        let mut process = Process::start_with(&herald, &arguments, &environment, cpu, &log)?;
        doors.ready(&mut process, doors.admin).await?;
        Ok(Standalone { process, doors })
    }
}

/// Of a dispatcher: one producer posts all there is, and users get more than people want.
pub fn unlimited() -> [(&'static str, String); 3] {
    [
        ("HERALD_LIMITS__IN_APP_PER_HOUR", "0".into()),
        ("HERALD_LIMITS__PRODUCER_PER_MINUTE", "0".into()),
        ("HERALD_LIMITS__DESIGN_PER_S", "0".into()),
    ]
}

pub fn settings() -> Vec<(&'static str, String)> {
    SETTINGS
        .map(|(key, value)| (key, value.to_owned()))
        .to_vec()
}

/// 200 bytes of text; the floor sends a frame of the same length.
pub fn content(target: Value) -> Value {
    json!({
        "target": target,
        "type": "bench",
        "priority": "normal",
        "title": "A title",
        "body": "x".repeat(200),
    })
}

/// What an admin port says at one moment.
pub struct Samples(String);

impl Samples {
    /// Of an admin port of this host.
    pub async fn of(http: &reqwest::Client, admin: u16) -> Result<Samples> {
        let answer = http.get(format!("http://127.0.0.1:{admin}/metrics"));
        Ok(Samples(answer.send().await?.text().await?))
    }

    /// Over a family, or of one sample of it.
    pub fn sum_of(&self, name: &str) -> f64 {
        let samples = self.0.lines().filter_map(|line| line.strip_prefix(name));
        let values = samples.filter(|rest| rest.starts_with([' ', '{']));
        values
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// The samples of a family that are not 0, by their labels.
    pub fn by_labels(&self, name: &str) -> String {
        let samples = self.0.lines().filter_map(|line| line.strip_prefix(name));
        let samples = samples.filter(|rest| rest.starts_with('{') && !rest.ends_with(" 0"));
        samples.collect::<Vec<_>>().join(", ")
    }
}

impl Doors {
    pub async fn ready(&self, process: &mut Process, admin: u16) -> Result<()> {
        let began = Instant::now();
        loop {
            process.check()?;
            let answer = self.http.get(format!("http://127.0.0.1:{admin}/readyz"));
            if answer
                .send()
                .await
                .is_ok_and(|answer| answer.status() == 200)
            {
                return Ok(());
            }
            if began.elapsed() > Duration::from_secs(60) {
                bail!("not ready within a minute");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Again under the same key while it is refused for the moment, as a producer does: a disk that others
    /// keep busy must not end a run.
    pub async fn post(&self, target: Value) -> Result<()> {
        let (key, content) = (format!("{:032x}", rand::random::<u128>()), content(target));
        for _ in 0..20 {
            match self.try_post(&key, &content).await? {
                (202, _) => return Ok(()),
                (503, _) => tokio::time::sleep(Duration::from_millis(250)).await,
                (status, text) => bail!("refused: {status} {text}"),
            }
        }
        bail!("refused as unavailable for 5 s")
    }

    async fn try_post(&self, idempotency_key: &str, content: &Value) -> Result<(u16, String)> {
        let key = std::fs::read_to_string(&self.api_key).context("no API key")?;
        let answer = self
            .http
            .post(format!(
                "http://127.0.0.1:{}/v1/notifications",
                self.producers
            ))
            .bearer_auth(key.trim())
            .header("Idempotency-Key", idempotency_key)
            .json(content)
            .send()
            .await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }

    /// The sum of a family's samples on the gateway's admin port.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        Ok(self.metrics().await?.sum_of(name))
    }

    /// All of them at one moment.
    pub async fn metrics(&self) -> Result<Samples> {
        Samples::of(&self.http, self.admin).await
    }

    /// Until so many clients are open, and the registry knows them.
    pub async fn connected(&self, clients: u32) -> Result<()> {
        self.reaches("herald_connections_open", f64::from(clients))
            .await?;
        let began = Instant::now();
        while self.metric("herald_registrations_owed").await? > 0.0 {
            if began.elapsed() > Duration::from_secs(30) {
                bail!("registrations are owed");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    pub async fn sent(&self) -> Result<f64> {
        self.metric("herald_sent_total").await
    }

    /// Until the cores have written so many items.
    pub async fn sends(&self, items: f64) -> Result<()> {
        self.reaches("herald_sent_total", items).await
    }

    async fn reaches(&self, name: &str, wanted: f64) -> Result<()> {
        let began = Instant::now();
        loop {
            let value = self.metric(name).await?;
            if value >= wanted {
                return Ok(());
            }
            if began.elapsed() > Duration::from_secs(90) {
                bail!("{name} is {value}, not {wanted}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
