//! What each server goes through: connects, rest, notifications to all, notifications to one user each; and, with few
//! others connected, clients that stop reading.

use super::servers::Server;
use crate::{
    parts::Folder,
    process::Meter,
    slabs,
    swarm::{Scenario, remarks},
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{fs, time::Duration};

/// Seconds from everybody being there: until what is measured at rest is measured, and between parts.
const TO_ALL_FROM_S: f64 = 11.0;
const TO_ALL_S: f64 = 7.0;
const TO_ALL_PER_S: f64 = 2.0;
const TO_ONE_FROM_S: f64 = 23.0;
const TO_ONE_S: f64 = 8.0;
const TO_ONE_PER_S: f64 = 1_000.0;
const END_S: f64 = 35.0;

const SLOW_CLIENTS: u32 = 300;
const SLOW_SHARE: f64 = 0.1;
/// More than the kernel takes for one who does not read: 150 × 4 KiB a second for 10 s.
const SLOW_PER_S: f64 = 150.0;
const SLOW_S: f64 = 10.0;
const SLOW_END_S: f64 = 15.0;

/// Of one server in one run.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Bytes of each idle connection.
    pub proportional: f64,
    pub resident: f64,
    /// In the kernel, both ends.
    pub kernel: f64,
    /// µs of CPU.
    pub connect: f64,
    pub to_all: f64,
    pub to_one: f64,
    pub to_all_p99_ms: f64,
    pub to_one_p50_ms: f64,
    pub to_one_p99_ms: f64,
    /// Bytes of each client that does not read, at their most.
    pub slow_user: f64,
    pub slow_kernel: f64,
    /// What stands against a figure.
    pub remarks: Vec<String>,
}

async fn begin(
    server: &mut Server,
    folder: &Folder,
    name: &'static str,
    text: &str,
) -> Result<Scenario> {
    let mut arguments = server.arguments.clone();
    arguments.extend(["--threads=1".into(), "--give-up-s=5".into()]);
    let mut swarm = Scenario::start(folder, name, text, Some(1), arguments)?;
    swarm.everybody(server.process()).await?;
    Ok(swarm)
}

pub async fn main(server: &mut Server, folder: &Folder, clients: u32) -> Result<Measured> {
    // Tiers tell the two apart in the result.
    let scenario = format!(
        "about = 'peers'\nusers = {clients}\nconnect_rate = 3000\nduration_s = {END_S:.0}\n\
         acknowledge = false\ntail = true\n\
         [[send]]\nto = 'all'\nrate = {TO_ALL_PER_S:.1}\nsize = 200\npriorities = {{ high = 1.0 }}\n\
         from_s = {TO_ALL_FROM_S:.1}\nfor_s = {TO_ALL_S:.1}\n\
         [[send]]\nto = 'users'\nrate = {TO_ONE_PER_S:.1}\nsize = 200\npriorities = {{ normal = 1.0 }}\n\
         from_s = {TO_ONE_FROM_S:.1}\nfor_s = {TO_ONE_S:.1}\n"
    );
    let at_rest = server.process().at_rest().await?;
    let before = Held::now(server)?;
    let meter = Meter::start(server.process(), at_rest)?;
    let swarm = begin(server, folder, "main", &scenario).await?;
    let each = f64::from(clients);
    let connect = meter.stop(server.process(), each).await?.whole_us;
    let at_rest = server.process().at_rest().await?;
    let held = Held::now(server)?;

    swarm.at(TO_ALL_FROM_S - 0.5).await?;
    let meter = Meter::start(server.process(), at_rest)?;
    swarm.at(TO_ALL_FROM_S + TO_ALL_S).await?;
    let to_all = meter.stop(server.process(), 1.0).await?.whole_us;
    swarm.at(TO_ONE_FROM_S - 0.5).await?;
    let meter = Meter::start(server.process(), at_rest)?;
    swarm.at(TO_ONE_FROM_S + TO_ONE_S).await?;
    let to_one = meter.stop(server.process(), 1.0).await?.whole_us;

    let result = swarm.finish().await?;
    let of_tier = |tier: &str, what: &str| {
        let figure = result["latency_ms_by_priority"][tier][what].as_f64();
        figure.with_context(|| format!("no {what} of {tier}"))
    };
    Ok(Measured {
        proportional: (held.proportional - before.proportional) / each,
        resident: (held.resident - before.resident) / each,
        kernel: (held.kernel - before.kernel) / each,
        connect,
        to_all: to_all / of_tier("high", "count")?,
        to_one: to_one / of_tier("normal", "count")?,
        to_all_p99_ms: of_tier("high", "p99")?,
        to_one_p50_ms: of_tier("normal", "p50")?,
        to_one_p99_ms: of_tier("normal", "p99")?,
        remarks: remarks(&result, "main"),
        ..Measured::default()
    })
}

/// Of memory, what clients that do not read cost; everything goes to everybody, so that nothing but theirs waits.
pub async fn slow(server: &mut Server, folder: &Folder, measured: &mut Measured) -> Result<()> {
    let scenario = format!(
        "about = 'peers'\nusers = {SLOW_CLIENTS}\nconnect_rate = 3000\nduration_s = {SLOW_END_S:.0}\n\
         acknowledge = false\ntail = true\n\
         [slow]\nshare = {SLOW_SHARE}\nfrom_s = 2.0\n\
         [[send]]\nto = 'all'\nrate = {SLOW_PER_S:.1}\nsize = 4096\nfrom_s = 4.0\nfor_s = {SLOW_S:.1}\n"
    );
    server.process().settle().await?;
    let swarm = begin(server, folder, "slow", &scenario).await?;
    swarm.at(3.0).await?;
    let before = Held::now(server)?;
    let mut most = before;
    while swarm.since_s() < 4.0 + SLOW_S {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = Held::now(server)?;
        most.proportional = most.proportional.max(now.proportional);
        most.buffers = most.buffers.max(now.buffers);
    }
    let result = swarm.finish().await?;
    let count = |value: &Value| value.as_f64().unwrap_or(0.0);
    let cut = count(&result["failures"]["broke while it did not read"]);
    let slow = count(&result["stalled"]) + cut;
    ensure!(slow > 0.0, "nobody was slow");
    measured.slow_user = (most.proportional - before.proportional) / slow;
    measured.slow_kernel = (most.buffers - before.buffers) / slow;
    if cut > 0.0 {
        let note = format!("slow: {cut:.0} of {slow:.0} were cut off");
        measured.remarks.push(note);
    }
    measured.remarks.extend(remarks(&result, "slow"));
    Ok(())
}

/// Memory at one moment, in bytes.
#[derive(Clone, Copy)]
struct Held {
    proportional: f64,
    resident: f64,
    /// Objects and buffers of sockets, of both ends.
    kernel: f64,
    buffers: f64,
}

impl Held {
    fn now(server: &mut Server) -> Result<Held> {
        let buffers = buffers()?;
        Ok(Held {
            proportional: server.process().proportional_bytes()?,
            resident: server.process().resident_bytes()?,
            kernel: slabs::of_sockets().context("/proc/slabinfo is root's")? as f64 + buffers,
            buffers,
        })
    }
}

/// Of TCP, in this network namespace.
fn buffers() -> Result<f64> {
    let text = fs::read_to_string("/proc/net/sockstat")?;
    let line = text.lines().find(|line| line.starts_with("TCP:"));
    let pages = line.and_then(|line| line.rsplit_once("mem ")?.1.trim().parse::<f64>().ok());
    Ok(pages.context("no TCP in /proc/net/sockstat")? * 4096.0)
}
