//! The dispatcher's CPU for a notification, from its request by HTTP to the record in the gateway's shard: intake, `raw`,
//! router, store, look-up, `in_app`; on a real Kafka and Redis, with the store on SQLite and on one node of Cassandra.
//!
//! The users are connected. Their gateway stands still from the first request until all is on the bus, so that what it
//! tells the dispatcher then, the outcomes, is counted by itself. Nothing is bound to a CPU.

use crate::{
    Options,
    fleet::Fleet,
    parts::Folder,
    process::{Meter, cpu_of, sibling},
    standalone::{Samples, content},
    swarm::Swarm,
};
use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use std::{
    process::Command,
    time::{Duration, Instant},
};
use testbed::cassandra::{CassandraNode, DATACENTER, fresh_keyspace};

const USERS: u32 = 2_000;
const RATES: [u32; 3] = [500, 1_000, 2_000];
const WARM_S: u32 = 10;
/// A gateway that stands still for longer than its lease is another case.
const POSTS_S: u32 = 4;
const STILL_MAX: Duration = Duration::from_secs(9);
const AT_ONCE: usize = 256;

type Settings = Vec<(&'static str, String)>;

/// How it is posted.
#[derive(Clone, Copy)]
struct Posts {
    rate: u32,
    /// With an `Idempotency-Key` each, as most producers do: two more writes of the store.
    keyed: bool,
}

/// µs of the dispatcher's CPU for each notification, and ms that a producer waited for its answer.
struct Measured {
    to_bus_us: f64,
    outcomes_us: f64,
    /// What the store's own process took meanwhile.
    store_us: Option<f64>,
    answers_ms: [f64; 2],
}

pub async fn run(options: &Options) -> Result<()> {
    println!("\n### From a request to the gateway's shard, {USERS} users, 200 B, by HTTP\n");
    println!(
        "CPU of the dispatcher for each notification through intake, `raw`, router, store, look-up and `in_app` (\"to the \
         bus\"), then for what the gateway tells it of the delivery (\"outcomes\"); meanwhile that of Cassandra's process. \
         What an idle dispatcher takes is not counted.\n"
    );
    println!(
        "| | dispatcher, µs CPU each: to the bus | outcomes | Cassandra | answer, ms: 50 %, 99 % |"
    );
    println!("|---|---|---|---|---|");
    for run in 1..=options.runs {
        measure("SQLite", run, options, &Settings::new(), None).await?;
        let node = tokio::task::spawn_blocking(CassandraNode::start).await?;
        let settings = on(&node);
        let migrated = Command::new(sibling("herald")?)
            .args(["dispatcher", "migrate"])
            .envs(settings.iter().map(|(key, value)| (key, value)))
            .stdout(std::io::stderr())
            .status()?;
        ensure!(migrated.success(), "no tables: {migrated}");
        let pid = Some(node.pid());
        measure("Cassandra", run, options, &settings, pid).await?;
    }
    Ok(())
}

fn on(node: &CassandraNode) -> Settings {
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

async fn measure(
    store: &str,
    run: usize,
    options: &Options,
    settings: &Settings,
    node: Option<u32>,
) -> Result<()> {
    eprintln!("path: {store}, run {run} of {}", options.runs);
    let folder = Folder::new()?;
    let more = [("HERALD_GATEWAY__PIN", "false")];
    let mut fleet = Fleet::start_on(&folder, &more, settings).await?;
    let secret = folder.text("token.key");
    let swarm = Swarm::start(&folder, fleet.doors.clients, &secret, USERS, true)?;
    fleet.doors.connected(USERS).await?;
    let rates = match options.rate[..] {
        [] => RATES.to_vec(),
        _ => options.rate.clone(),
    };
    let warm = Posts {
        rate: rates[0],
        keyed: true,
    };
    let mut posted = post(&fleet, warm, WARM_S).await?.len() as f64;
    fleet.doors.sends(posted).await?;
    for rate in rates {
        for keyed in [false, true] {
            let posts = Posts { rate, keyed };
            posted += f64::from(rate * POSTS_S);
            let measured = of_each(&mut fleet, posts, posted, node).await?;
            let key = if keyed { ", with a key" } else { "" };
            println!("| {store}, run {run}: {rate}/s{key} | {measured} |");
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
    let mut answers = post(fleet, posts, POSTS_S).await?;
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
        to_bus_us: to_bus.whole_us,
        outcomes_us: outcomes.whole_us,
        store_us: store_us.map(|(after, before)| (after - before) / count),
        answers_ms: [ms(50), ms(99)],
    })
}

async fn on_bus(fleet: &Fleet) -> Result<f64> {
    let samples = Samples::of(&fleet.doors.http, fleet.dispatcher_admin).await?;
    Ok(samples.sum_of("herald_records_out_total{topic=\"in_app\"}"))
}

/// Each when it is due; how long its answer took from then.
async fn post(fleet: &Fleet, posts: Posts, for_s: u32) -> Result<Vec<Duration>> {
    let doors = &fleet.doors;
    let key = std::fs::read_to_string(&doors.api_key).context("no API key")?;
    let (key, began) = (key.trim(), Instant::now());
    let url = format!("http://127.0.0.1:{}/v1/notifications", doors.producers);
    let each = stream::iter(0..posts.rate * for_s).map(|n| {
        let url = &url;
        async move {
            let due = began + Duration::from_secs_f64(f64::from(n) / f64::from(posts.rate));
            tokio::time::sleep_until(due.into()).await;
            let target = json!({ "user": (1 + n % USERS).to_string() });
            let mut request = doors.http.post(url).bearer_auth(key).json(&content(target));
            if posts.keyed {
                request = request.header(
                    "Idempotency-Key",
                    format!("{:032x}", rand::random::<u128>()),
                );
            }
            let answer = request.send().await?;
            if answer.status() != 202 {
                bail!("refused: {} {}", answer.status(), answer.text().await?);
            }
            answer.bytes().await?;
            Ok(due.elapsed())
        }
    });
    each.buffer_unordered(AT_ONCE).try_collect().await
}

impl std::fmt::Display for Measured {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let store = self.store_us.map_or("".into(), |us| format!("{us:.0}"));
        let [half, most] = self.answers_ms;
        write!(
            out,
            "{:.0} | {:.0} | {store} | {half:.1}, {most:.1}",
            self.to_bus_us, self.outcomes_us
        )
    }
}
