//! CPU per message to one user, from a real Kafka through the gateway to the socket, beside the floor's
//! `send`; and the memory of a connection in a gateway that shares its process with nothing else.
//!
//! The gateway's whole process counts: consuming, the user table, the outcome of each message told to the
//! dispatcher, the commits. The floor does none of it.

use crate::{
    Options,
    broadcast::{Empty, received},
    fleet::Fleet,
    floor::Floor,
    parts::Folder,
    process::{Cpu, Meter},
    swarm::Swarm,
    table::{self, Figure},
};
use anyhow::Result;
use serde_json::json;
use std::time::Duration;

/// Messages a second where they come one by one.
const RATE: u32 = 200;
/// How long they come.
const PACED: Duration = Duration::from_secs(10);
/// Producers never name more users at once.
const LIST_MAX: u32 = 10_000;

/// In a burst, and at a pace.
#[derive(Debug)]
struct Measured {
    burst: Cpu,
    paced: Cpu,
}

pub async fn run(options: &Options) -> Result<()> {
    eprintln!("unicast: Redis, Kafka, dispatcher and gateway start");
    let folder = Folder::new()?;
    let mut fleet = Fleet::start(&folder).await?;
    let empty = Empty::of(&mut fleet.gateway).await?;
    let (port, secret) = (fleet.doors.clients, folder.text("token.key"));
    let swarm = Swarm::start(&folder, port, &secret, options.clients, false)?;
    fleet.doors.connected(options.clients).await?;
    let (memory, connect) = empty.full(&mut fleet.gateway, options.clients).await?;
    let mut of_fleet = Vec::new();
    for run in 1..=options.runs {
        eprintln!("unicast: run {run} of {}", options.runs);
        let measured = through_fleet(&mut fleet, options).await?;
        eprintln!("  {measured:.2?}");
        of_fleet.push(measured);
    }
    let sent = (burst(options) + paced()) * options.runs as u32;
    received(swarm, u64::from(sent)).await?;
    drop(fleet);
    let of_floor = through_floor(options).await?;

    let mut alone = [
        Figure::new("user memory per idle connection, gateway alone", "B"),
        Figure::new("connect, gateway process", "µs CPU"),
    ];
    alone[0].runs.push(memory);
    alone[1].runs.push(connect.whole_us);
    let mut figures = Vec::new();
    let cores = |cpu: Cpu| cpu.cores_us;
    let whole = |cpu: Cpu| cpu.whole_us;
    let in_burst = |measured: &Measured| measured.burst;
    let at_pace = |measured: &Measured| measured.paced;
    let mut add = |name: String, of: fn(&Measured) -> Cpu, part: fn(Cpu) -> f64| {
        let mut figure = Figure::new(name, "µs CPU");
        figure.runs.extend(of_fleet.iter().map(|run| part(of(run))));
        figure
            .floor
            .extend(of_floor.iter().map(|run| whole(of(run))));
        figures.push(figure);
    };
    let count = burst(options);
    add(format!("burst of {count}, core threads"), in_burst, cores);
    add(
        format!("burst of {count}, gateway process"),
        in_burst,
        whole,
    );
    add(format!("{RATE}/s, core threads"), at_pace, cores);
    add(format!("{RATE}/s, gateway process"), at_pace, whole);
    let title = format!(
        "Gateway on Kafka and Redis, {} connections",
        options.clients
    );
    table::print(&title, "floor", &alone);
    let title = format!(
        "Unicast from Kafka to the socket, 200 B, {} runs",
        options.runs
    );
    table::print(&title, "floor", &figures);
    Ok(())
}

fn burst(options: &Options) -> u32 {
    options.unicasts.min(options.clients).min(LIST_MAX)
}

fn paced() -> u32 {
    RATE * PACED.as_secs() as u32
}

async fn through_fleet(fleet: &mut Fleet, options: &Options) -> Result<Measured> {
    let count = burst(options);
    let at_rest = fleet.gateway.at_rest().await?;
    let before = fleet.doors.sent().await?;
    let meter = Meter::start(&fleet.gateway, at_rest)?;
    let users: Vec<String> = (1..=count).map(|user| user.to_string()).collect();
    fleet.doors.post(json!({ "users": users })).await?;
    fleet.doors.sends(before + f64::from(count)).await?;
    let burst = meter.stop(&mut fleet.gateway, f64::from(count)).await?;

    let before = fleet.doors.sent().await?;
    let meter = Meter::start(&fleet.gateway, at_rest)?;
    let mut due = tokio::time::interval(Duration::from_secs(1) / RATE);
    for number in 0..paced() {
        due.tick().await;
        let user = 1 + number % options.clients;
        fleet
            .doors
            .post(json!({ "user": user.to_string() }))
            .await?;
    }
    fleet.doors.sends(before + f64::from(paced())).await?;
    let paced = meter.stop(&mut fleet.gateway, f64::from(paced())).await?;
    Ok(Measured { burst, paced })
}

async fn through_floor(options: &Options) -> Result<Vec<Measured>> {
    let folder = Folder::new()?;
    let secret = folder.join("token.key");
    std::fs::write(
        &secret,
        "the floor looks at no token, but the swarm makes them",
    )?;
    let mut floor = Floor::start(&folder)?;
    let text = secret.display().to_string();
    let swarm = Swarm::start(&folder, floor.port, &text, options.clients, true)?;
    floor.reached(options.clients).await?;
    let at_rest = floor.process.at_rest().await?;
    let mut runs = Vec::new();
    for _ in 0..options.runs {
        let mut series = [Cpu::default(); 2];
        for (cpu, (rate, count)) in series
            .iter_mut()
            .zip([(0, burst(options)), (RATE, paced())])
        {
            let meter = Meter::start(&floor.process, at_rest)?;
            let sent = floor.send_each(rate, count)?;
            *cpu = meter.stop(&mut floor.process, sent as f64).await?;
        }
        let [burst, paced] = series;
        runs.push(Measured { burst, paced });
    }
    drop(swarm);
    Ok(runs)
}
