//! The dispatcher's CPU for a notification, from its request to the record in the gateway's shard: intake, `raw`,
//! router, store, look-up, `in_app`; on a real Kafka and Redis, with the store on SQLite and on one node of Cassandra.
//!
//! The users are connected. Their gateway stands still from the first request until all is on the bus, so that what it
//! tells the dispatcher then, the outcomes, is counted by itself. Nothing is bound to a CPU.

mod posts;

use crate::{
    Options,
    fleet::Fleet,
    parts::Folder,
    process::{Cpu, Meter, cpu_of, sibling},
    standalone::Samples,
    swarm::Swarm,
};
use anyhow::{Result, ensure};
use posts::{Door, Posts};
use std::{
    process::Command,
    time::{Duration, Instant},
};
use testbed::cassandra::{CassandraNode, DATACENTER, fresh_keyspace};

const USERS: u32 = 2_000;
const SQLITE_RATES: [u32; 4] = [500, 1_000, 2_000, 8_000];
/// More than one node on the same CPUs takes leaves the gateway none, whose lease then ends.
const CASSANDRA_RATES: [u32; 2] = [500, 1_000];
const WARM_S: u32 = 10;
/// A gateway that stands still for longer than its lease is another case.
const POSTS_S: u32 = 4;
const STILL_MAX: Duration = Duration::from_secs(9);

type Settings = Vec<(&'static str, String)>;

/// µs of the dispatcher's CPU for each notification, and ms that a producer waited for its answer.
struct Measured {
    to_bus: Cpu,
    outcomes_us: f64,
    /// What the store's own process took meanwhile.
    store_us: Option<f64>,
    answers_ms: [f64; 2],
}

pub async fn run(options: &Options) -> Result<()> {
    println!("\n### From a request to the gateway's shard, {USERS} users, 200 B\n");
    println!(
        "CPU of the dispatcher for each notification through intake, `raw`, router, store, look-up and `in_app` (\"to the \
         bus\"), then for what the gateway tells it of the delivery (\"outcomes\"); meanwhile that of Cassandra's process. \
         What an idle dispatcher takes is not counted.\n"
    );
    println!(
        "| | dispatcher, µs CPU each: to the bus | of it threads of SQLite, of librdkafka, others | outcomes | \
         Cassandra | answer, ms: 50 %, 99 % |"
    );
    println!("|---|---|---|---|---|---|");
    let wants =
        |store: &str| options.only.is_empty() || options.only.iter().any(|one| one == store);
    for run in 1..=options.runs {
        if wants("sqlite") {
            let on = On {
                name: "SQLite",
                settings: Settings::new(),
                node: None,
                rates: &SQLITE_RATES,
            };
            measure(on, run, options).await?;
        }
        if wants("cassandra") {
            // Held until it was measured.
            let node = tokio::task::spawn_blocking(CassandraNode::start).await?;
            measure(on_cassandra(&node)?, run, options).await?;
        }
    }
    Ok(())
}

/// What stores.
struct On {
    name: &'static str,
    settings: Settings,
    /// Its own process.
    node: Option<u32>,
    rates: &'static [u32],
}

fn on_cassandra(node: &CassandraNode) -> Result<On> {
    let settings = settings_of(node);
    let migrated = Command::new(sibling("herald")?)
        .args(["dispatcher", "migrate"])
        .envs(settings.iter().map(|(key, value)| (key, value)))
        .stdout(std::io::stderr())
        .status()?;
    ensure!(migrated.success(), "no tables: {migrated}");
    Ok(On {
        name: "Cassandra",
        settings,
        node: Some(node.pid()),
        rates: &CASSANDRA_RATES,
    })
}

fn settings_of(node: &CassandraNode) -> Settings {
    vec![
        ("HERALD_STORE__KIND", "cassandra".into()),
        (
            "HERALD_STORE__CONTACT_POINTS",
            format!("[{:?}]", node.address()),
        ),
        ("HERALD_STORE__KEYSPACE", fresh_keyspace()),
        ("HERALD_STORE__DATACENTER", DATACENTER.into()),
        ("HERALD_STORE__REPLICATION", "1".into()),
    ]
}

async fn measure(on: On, run: usize, options: &Options) -> Result<()> {
    let (store, node) = (on.name, on.node);
    eprintln!("path: {store}, run {run} of {}", options.runs);
    let folder = Folder::new()?;
    let more = [("HERALD_GATEWAY__PIN", "false")];
    let mut fleet = Fleet::start_on(&folder, &more, &on.settings).await?;
    let secret = folder.text("token.key");
    let swarm = Swarm::start(&folder, fleet.doors.clients, &secret, USERS, true)?;
    fleet.doors.connected(USERS).await?;
    let rates = match options.rate[..] {
        [] => on.rates.to_vec(),
        _ => options.rate.clone(),
    };
    let warm = Posts {
        rate: rates[0],
        door: Door::HttpKeyed,
    };
    let mut posted = posts::send(&fleet, warm, WARM_S, USERS).await?.len() as f64;
    fleet.doors.sends(posted).await?;
    for rate in rates {
        for door in Door::ALL {
            let posts = Posts { rate, door };
            posted += f64::from(rate * POSTS_S);
            let measured = of_each(&mut fleet, posts, posted, node).await?;
            println!("| {store}, run {run}: {rate}/s {door} | {measured} |");
        }
    }
    let seen = swarm.finish().await?;
    ensure!(
        (seen.unique as f64, seen.repeated) == (posted, 0),
        "of {posted} posted {} came, {} twice",
        seen.unique,
        seen.repeated
    );
    Ok(())
}

/// `sent` is what the gateway will have sent once these are.
async fn of_each(
    fleet: &mut Fleet,
    posts: Posts,
    sent: f64,
    node: Option<u32>,
) -> Result<Measured> {
    let store = || node.map(|id| Ok::<_, anyhow::Error>(cpu_of(id)?.whole_us));
    let at_rest = fleet.dispatcher.at_rest().await?;
    let before = on_bus(fleet).await?;
    let (meter, store_before) = (
        Meter::start(&fleet.dispatcher, at_rest)?,
        store().transpose()?,
    );
    fleet.gateway.signal("STOP")?;
    let began = Instant::now();
    let mut answers = posts::send(fleet, posts, POSTS_S, USERS).await?;
    let count = answers.len() as f64;
    while on_bus(fleet).await? < before + count {
        ensure!(began.elapsed() < STILL_MAX, "too much for this machine");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let to_bus = meter.stop(&mut fleet.dispatcher, count).await?;
    let store_us = store().transpose()?.zip(store_before);
    let meter = Meter::start(&fleet.dispatcher, at_rest)?;
    fleet.gateway.signal("CONT")?;
    ensure!(began.elapsed() < STILL_MAX, "the gateway's lease has ended");
    fleet.doors.sends(sent).await?;
    let outcomes = meter.stop(&mut fleet.dispatcher, count).await?;
    answers.sort();
    let ms = |share: usize| answers[answers.len() * share / 100].as_secs_f64() * 1_000.0;
    Ok(Measured {
        to_bus,
        outcomes_us: outcomes.whole_us,
        store_us: store_us.map(|(after, before)| (after - before) / count),
        answers_ms: [ms(50), ms(99)],
    })
}

async fn on_bus(fleet: &Fleet) -> Result<f64> {
    let samples = Samples::of(&fleet.doors.http, fleet.dispatcher_admin).await?;
    Ok(samples.sum_of("herald_records_out_total{topic=\"in_app\"}"))
}

impl std::fmt::Display for Measured {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let store = self.store_us.map_or("".into(), |us| format!("{us:.0}"));
        let [half, most] = self.answers_ms;
        let Cpu {
            store_us,
            kafka_us,
            whole_us,
            ..
        } = self.to_bus;
        let rest_us = whole_us - store_us - kafka_us;
        write!(
            out,
            "{whole_us:.0} | {store_us:.0}, {kafka_us:.0}, {rest_us:.0} | {:.0} | {store} | {half:.1}, {most:.1}",
            self.outcomes_us
        )
    }
}
