//! Memory per idle connection, CPU per connect, CPU per delivery to all: the standalone beside the floor.

use crate::{
    Options,
    floor::Floor,
    parts::Folder,
    process::{Cpu, Meter, Process},
    standalone::Standalone,
    swarm::Swarm,
    table::{self, Figure},
};
use anyhow::{Result, ensure};
use serde_json::json;
use std::time::Duration;

/// From one notification to all to the next: longer than it takes to send one, so none waits.
const EVERY: Duration = Duration::from_millis(300);

/// What is measured of either.
#[derive(Debug)]
pub struct Measured {
    pub memory: f64,
    pub connect: Cpu,
    pub delivery: Cpu,
}

pub async fn run(options: &Options) -> Result<()> {
    let mut memory = Figure::new("user memory per idle connection", "B");
    let mut connect = Figure::new("connect, core threads", "µs CPU");
    let mut connect_whole = Figure::new("connect, whole process", "µs CPU");
    let mut delivery = Figure::new("delivery to all, core threads", "µs CPU");
    let mut delivery_whole = Figure::new("delivery to all, whole process", "µs CPU");
    for run in 1..=options.runs {
        eprintln!("broadcast: run {run} of {}", options.runs);
        let floor = of_floor(options).await?;
        let herald = of_herald(options, &[]).await?;
        eprintln!("  floor  {floor:.2?}\n  herald {herald:.2?}");
        let note = |figure: &mut Figure, own: f64, beside: f64| {
            figure.runs.push(own);
            figure.floor.push(beside);
        };
        note(&mut memory, herald.memory, floor.memory);
        note(
            &mut connect,
            herald.connect.cores_us,
            floor.connect.whole_us,
        );
        note(
            &mut connect_whole,
            herald.connect.whole_us,
            floor.connect.whole_us,
        );
        note(
            &mut delivery,
            herald.delivery.cores_us,
            floor.delivery.whole_us,
        );
        note(
            &mut delivery_whole,
            herald.delivery.whole_us,
            floor.delivery.whole_us,
        );
    }
    let title = format!(
        "Standalone, {} connections, {} × 200 B to all, {} runs",
        options.clients, options.broadcasts, options.runs
    );
    let figures = [memory, connect, connect_whole, delivery, delivery_whole];
    table::print(&title, "floor", &figures);
    Ok(())
}

async fn of_floor(options: &Options) -> Result<Measured> {
    let folder = Folder::new()?;
    let secret = folder.join("token.key");
    std::fs::write(
        &secret,
        "the floor looks at no token, but the swarm makes them",
    )?;
    let mut floor = Floor::start(&folder)?;
    let empty = Empty::of(&mut floor.process).await?;
    let text = secret.display().to_string();
    let mut swarm = Swarm::start(&folder, floor.port, &text, options.clients, true)?;
    floor.reached(options.clients).await?;
    let (memory, connect) = empty.full(&mut floor.process, options.clients).await?;

    let at_rest = floor.process.at_rest().await?;
    let meter = Meter::start(&floor.process, at_rest)?;
    let mut sent = 0;
    for number in 1..=options.broadcasts {
        sent += floor.send_all(number)?;
        tokio::time::sleep(EVERY).await;
    }
    let delivery = meter.stop(&mut floor.process, sent as f64).await?;
    swarm.check()?;
    received(swarm, sent).await?;
    Ok(Measured {
        memory,
        connect,
        delivery,
    })
}

/// With other settings than those that are measured with.
pub async fn of_herald(options: &Options, own: &[(&'static str, String)]) -> Result<Measured> {
    let folder = Folder::new()?;
    let mut herald = Standalone::start_with(&folder, own).await?;
    let empty = Empty::of(&mut herald.process).await?;
    let secret = folder.text("data/token.key");
    let mut swarm = Swarm::start(
        &folder,
        herald.doors.clients,
        &secret,
        options.clients,
        false,
    )?;
    herald.doors.connected(options.clients).await?;
    let (memory, connect) = empty.full(&mut herald.process, options.clients).await?;

    let at_rest = herald.process.at_rest().await?;
    let meter = Meter::start(&herald.process, at_rest)?;
    for _ in 0..options.broadcasts {
        herald.doors.post(json!({ "all": true })).await?;
        tokio::time::sleep(EVERY).await;
    }
    let sent = u64::from(options.broadcasts) * u64::from(options.clients);
    herald.doors.sends(sent as f64).await?;
    let delivery = meter.stop(&mut herald.process, sent as f64).await?;
    swarm.check()?;
    received(swarm, sent).await?;
    Ok(Measured {
        memory,
        connect,
        delivery,
    })
}

/// A server before anybody came.
pub struct Empty {
    resident_bytes: f64,
    meter: Meter,
}

impl Empty {
    pub async fn of(process: &mut Process) -> Result<Empty> {
        let at_rest = process.at_rest().await?;
        Ok(Empty {
            resident_bytes: process.resident_bytes()?,
            meter: Meter::start(process, at_rest)?,
        })
    }

    /// Memory and CPU per client, once all are there and quiet.
    pub async fn full(self, process: &mut Process, clients: u32) -> Result<(f64, Cpu)> {
        let clients = f64::from(clients);
        let cpu = self.meter.stop(process, clients).await?;
        let memory = (process.resident_bytes()? - self.resident_bytes) / clients;
        Ok((memory, cpu))
    }
}

/// A figure counts only if everything arrived, once.
pub async fn received(swarm: Swarm, sent: u64) -> Result<()> {
    let seen = swarm.finish().await?;
    ensure!(
        seen.unique == sent && seen.repeated == 0,
        "{sent} sent, {} received, {} repeated",
        seen.unique,
        seen.repeated
    );
    Ok(())
}
