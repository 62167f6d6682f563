//! What a producer waits while Kafka is away: from the request to the answer 202 out of the spool. The broker is
//! killed before.
//!
//! The floor is what the same disk takes for one append and `fdatasync` at a time, with nobody else on it, in
//! the same minute.

use crate::Options;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    io::Write,
    path::Path,
    time::{Duration, Instant},
};
use testbed::{Fleet, fleet::API_KEY, kafka::KafkaBroker};

const PRODUCERS: [usize; 3] = [1, 8, 64];
const LASTS: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_secs(60);
/// As a spooled record is, about.
const BODY_BYTES: usize = 200;
const APPEND_BYTES: usize = 4096;

pub async fn run(options: &Options) -> Result<()> {
    let mut broker = tokio::task::spawn_blocking(KafkaBroker::start).await?;
    let fleet = Fleet::start_on(broker.brokers(), 1, &[("log.level", "warn")]).await;
    broker.kill();
    let began = Instant::now();
    let http = reqwest::Client::new();
    while !is_spooled(&post(&http, &fleet, 0).await?) {
        ensure!(began.elapsed() < WAIT, "nothing is spooled");
    }
    println!("\n### Answers out of the spool, Kafka killed\n");
    println!("| | a second | p50 ms | p99 ms | longest ms |");
    println!("|---|---|---|---|---|");
    for run in 1..=options.runs {
        let mut floor = appends(fleet.dir.path())?;
        print(
            &format!("floor: append and fdatasync, run {run}"),
            &mut floor,
        );
        for producers in PRODUCERS {
            let mut answers = produce(&fleet, producers).await?;
            print(&format!("{producers} producers, run {run}"), &mut answers);
        }
    }
    Ok(())
}

fn print(what: &str, took: &mut [Duration]) {
    took.sort();
    let ms = |at: usize| took[at.min(took.len() - 1)].as_secs_f64() * 1_000.0;
    let per_s = took.len() as f64 / LASTS.as_secs_f64();
    let (half, most) = (ms(took.len() / 2), ms(took.len() * 99 / 100));
    let longest = ms(took.len());
    println!("| {what} | {per_s:.0} | {half:.1} | {most:.1} | {longest:.1} |");
}

/// How long each took, one after the other.
fn appends(folder: &Path) -> Result<Vec<Duration>> {
    let path = folder.join("appends");
    let mut file = std::fs::File::create(&path)?;
    let (mut took, began) = (Vec::new(), Instant::now());
    while began.elapsed() < LASTS {
        let at = Instant::now();
        file.write_all(&[7; APPEND_BYTES])?;
        file.sync_data()?;
        took.push(at.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(took)
}

/// How long each answer took, of producers that post one notification after the other.
async fn produce(fleet: &Fleet, producers: usize) -> Result<Vec<Duration>> {
    let until = Instant::now() + LASTS;
    let one = async |n: usize| {
        let http = reqwest::Client::new();
        let mut took = Vec::new();
        while Instant::now() < until {
            let at = Instant::now();
            let answer = post(&http, fleet, n).await?;
            ensure!(is_spooled(&answer), "not spooled: {answer}");
            took.push(at.elapsed());
        }
        Ok(took)
    };
    let all = futures::future::try_join_all((0..producers).map(one)).await?;
    Ok(all.into_iter().flatten().collect())
}

async fn post(http: &reqwest::Client, fleet: &Fleet, n: usize) -> Result<Value> {
    let body = json!({
        "target": { "user": format!("u{n}") },
        "type": "bench",
        "priority": "normal",
        "channels": ["in_app"],
        "body": "b".repeat(BODY_BYTES),
    });
    let url = fleet.api.url("/v1/notifications");
    let request = http.post(url).bearer_auth(API_KEY).json(&body);
    let answer = request.send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    ensure!(status == 202, "{status}: {text}");
    serde_json::from_str(&text).with_context(|| text)
}

fn is_spooled(answer: &Value) -> bool {
    answer["durability"] == "spooled"
}
