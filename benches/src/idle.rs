//! CPU of connections that are idle: everybody is pinged every 30 s and answers, nothing else happens. The standalone
//! beside the floor.

use crate::{
    Options,
    floor::Floor,
    parts::Folder,
    process::{Cpu, Process},
    standalone::Standalone,
    swarm::Swarm,
    table::{self, Figure},
};
use anyhow::Result;
use std::time::Duration;

const ROUND: Duration = Duration::from_secs(30);
/// Until what the connects left behind is done.
const SETTLING: Duration = Duration::from_secs(15);
/// Everybody is pinged as often in it.
const ROUNDS: u32 = 2;

pub async fn run(options: &Options) -> Result<()> {
    let mut cores = Figure::new("a ping and its answer, core threads", "µs CPU");
    let mut whole = Figure::new("a ping and its answer, whole process", "µs CPU");
    for run in 1..=options.runs {
        eprintln!("idle: run {run} of {}", options.runs);
        let floor = of_floor(options).await?;
        let herald = of_herald(options).await?;
        eprintln!("  floor  {floor:.2?}\n  herald {herald:.2?}");
        cores.runs.push(herald.cores_us);
        whole.runs.push(herald.whole_us);
        cores.floor.push(floor.whole_us);
        whole.floor.push(floor.whole_us);
    }
    let title = format!(
        "Standalone, {} idle connections, pinged every {} s, {} runs",
        options.clients,
        ROUND.as_secs(),
        options.runs
    );
    table::print(&title, "floor", &[cores, whole]);
    Ok(())
}

async fn of_floor(options: &Options) -> Result<Cpu> {
    let folder = Folder::new()?;
    let secret = folder.join("token.key");
    let text = "the floor looks at no token, but the swarm makes them";
    std::fs::write(&secret, text)?;
    let mut floor = Floor::start(&folder)?;
    let empty = floor.process.at_rest().await?;
    let secret = secret.display().to_string();
    let mut swarm = Swarm::start(&folder, floor.port, &secret, options.clients, true)?;
    floor.reached(options.clients).await?;
    floor.ping_all_in(ROUND)?;
    let ping = of_a_ping(&floor.process, empty, options.clients).await?;
    swarm.check()?;
    Ok(ping)
}

async fn of_herald(options: &Options) -> Result<Cpu> {
    let folder = Folder::new()?;
    let own = [
        (
            "HERALD_GATEWAY__HEARTBEAT_MS",
            ROUND.as_millis().to_string(),
        ),
        ("HERALD_GATEWAY__DEAD_AFTER_MS", "90000".to_owned()),
    ];
    let mut herald = Standalone::start_with(&folder, &own).await?;
    let empty = herald.process.at_rest().await?;
    let (port, secret) = (herald.doors.clients, folder.text("data/token.key"));
    let mut swarm = Swarm::start(&folder, port, &secret, options.clients, false)?;
    herald.doors.connected(options.clients).await?;
    let ping = of_a_ping(&herald.process, empty, options.clients).await?;
    swarm.check()?;
    Ok(ping)
}

/// What is used above what nobody's process uses.
async fn of_a_ping(process: &Process, empty_per_s: Cpu, clients: u32) -> Result<Cpu> {
    tokio::time::sleep(SETTLING).await;
    let before = process.cpu()?;
    tokio::time::sleep(ROUND * ROUNDS).await;
    let used = process.cpu()?.since(before);
    let seconds = (ROUND * ROUNDS).as_secs_f64();
    let pings = f64::from(clients * ROUNDS);
    Ok(used.each(pings, empty_per_s, seconds))
}
