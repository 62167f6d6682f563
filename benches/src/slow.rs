//! One client in a hundred stops reading while 4 KB go to everybody, beside the same without them in the same run: what
//! the others wait for theirs, what memory the slow ones take, and what they are told.
//!
//! The rate is what this machine carries in full, and then less of it: both ends share two CPUs.

use crate::{
    Options,
    fleet::Fleet,
    memory::{self, Seen},
    parts::Folder,
    swarm::{Scenario, remarks},
    table::short,
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};
use swarm::report::Latency;

const SHARE: f64 = 0.01;
const BYTES: u32 = 4_096;
/// Seconds from everybody being there: they stop, what is sent begins, they read again.
const STOP_S: u32 = 2;
const FROM_S: u32 = 4;
const AGAIN_S: u32 = 49;
const END_S: u32 = 60;
/// How many at once tell what the machine carries, and how much of that is sent.
const TRIED: u32 = 8;
const PART: f64 = 0.5;

/// What one run came to.
struct Course {
    /// Of those who read, while the slow ones did not.
    latency: Latency,
    /// When most memory was held.
    most: Seen,
    result: Value,
    shed: f64,
}

pub async fn run(options: &Options) -> Result<()> {
    eprintln!("slow: Redis, Kafka, dispatcher and gateway start");
    let folder = Folder::new()?;
    let mut fleet = Fleet::start(&folder).await?;
    let carried = match options.rate.first() {
        Some(rate) => f64::from(*rate),
        None => carried(&mut fleet, &folder, options).await?,
    };
    let rate = if options.rate.is_empty() {
        carried * PART
    } else {
        carried
    };
    eprintln!("slow: {carried:.1}/s are carried, {rate:.1}/s are sent");
    let without = course(&mut fleet, &folder, options, rate, 0.0).await?;
    let with = course(&mut fleet, &folder, options, rate, SHARE).await?;
    print(options, carried, rate, &without, &with);
    Ok(())
}

/// Notifications to everybody in a second, when as many as that wait.
async fn carried(fleet: &mut Fleet, folder: &Folder, options: &Options) -> Result<f64> {
    let text = format!(
        "{}[[send]]\nto = 'all'\nrate = 1000.0\nat_once = {TRIED}\ncount = {TRIED}\nsize = {BYTES}\nfrom_s = 4.0\n",
        head(options.clients, 30)
    );
    let mut swarm = Scenario::start(folder, "tried", &text, Some(1), arguments(fleet, folder))?;
    swarm.everybody(&mut fleet.gateway).await?;
    swarm.at(3.0).await?;
    let before = fleet.doors.sent().await?;
    let each = f64::from(options.clients);
    // From the first one's end on: how soon it is let in is no matter of the gateway's.
    fleet.doors.sends(before + each).await?;
    let began = Instant::now();
    fleet.doors.sends(before + each * f64::from(TRIED)).await?;
    let took = began.elapsed();
    ensure!(
        swarm.interrupt().await?["missing"] == 0,
        "the machine does not carry {TRIED}"
    );
    Ok(f64::from(TRIED - 1) / took.as_secs_f64())
}

fn head(clients: u32, duration_s: u32) -> String {
    format!(
        "about = 'Large ones to everybody.'\nusers = {clients}\nconnect_rate = 3000\nduration_s = {duration_s}\n\
         acknowledge = false\ntail = true\n"
    )
}

fn arguments(fleet: &Fleet, folder: &Folder) -> Vec<String> {
    let mut arguments = fleet.stored_arguments(folder);
    arguments.push("--threads=1".into());
    arguments.push(format!("--watch=gateway={}", fleet.gateway.id()));
    arguments
}

async fn course(
    fleet: &mut Fleet,
    folder: &Folder,
    options: &Options,
    rate: f64,
    share: f64,
) -> Result<Course> {
    let name = if share > 0.0 { "slow" } else { "quick" };
    let (not_reading_s, for_s) = (AGAIN_S - STOP_S, AGAIN_S - FROM_S - 4);
    let text = format!(
        "{}[slow]\nshare = {share}\nfrom_s = {STOP_S}.0\nfor_s = {not_reading_s}.0\n\
         [[send]]\nto = 'all'\nrate = {rate:.3}\nsize = {BYTES}\nfrom_s = {FROM_S}.0\nfor_s = {for_s}.0\n",
        head(options.clients, END_S)
    );
    let shed = fleet.doors.metric("herald_shed_total").await?;
    let mut swarm = Scenario::start(folder, name, &text, Some(1), arguments(fleet, folder))?;
    swarm.everybody(&mut fleet.gateway).await?;
    let mut most = Seen::of(fleet).await?;
    while swarm.since_s() < f64::from(AGAIN_S) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let seen = Seen::of(fleet).await?;
        if seen.total() > most.total() {
            most = seen;
        }
    }
    let result = swarm.finish().await?;
    let windows = result["windows"].as_array().into_iter().flatten();
    let mut windows = windows.filter(|window| window["name"] == "while some don't read");
    let latency = windows.next().context("no such window")?["latency_ms"].clone();
    Ok(Course {
        latency: serde_json::from_value(latency).context("nothing arrived")?,
        most,
        result,
        shed: fleet.doors.metric("herald_shed_total").await? - shed,
    })
}

fn print(options: &Options, carried: f64, rate: f64, without: &Course, with: &Course) {
    println!(
        "\n### {} connections, 4 KB to everybody, one in a hundred does not read\n",
        options.clients
    );
    println!(
        "{carried:.1} a second are carried when {TRIED} wait; {rate:.2} a second were sent.\n"
    );
    println!("| | all read | 1 % do not |\n|---|---|---|");
    let row = |what: &str, of: &dyn Fn(&Course) -> String| {
        println!("| {what} | {} | {} |", of(without), of(with));
    };
    let at = |pointer: &'static str| {
        move |course: &Course| {
            course
                .result
                .pointer(pointer)
                .map_or("–".into(), Value::to_string)
        }
    };
    row("posted", &at("/posted/accepted"));
    row("arrived while some don't read", &|course| {
        course.latency.count.to_string()
    });
    row("50 %, ms", &|course| short(course.latency.p50));
    row("99 %, ms", &|course| short(course.latency.p99));
    row("99.9 %, ms", &|course| short(course.latency.p999));
    row("gaps told", &at("/gaps"));
    row("closed, by code", &at("/closes"));
    row("ended otherwise", &at("/failures"));
    row("items shed from lanes", &|course| short(course.shed));
    row("first seen in a sync", &at("/counters/by_sync"));
    row("missing", &at("/missing"));
    row(
        "syncs with recovered:true over a hole",
        &at("/counters/syncs_false"),
    );
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    row("memory at most, MiB", &|course| {
        short(mib(course.most.total()))
    });
    for kind in ["socket_buffers", "lanes", "process"] {
        row(&format!("of it {kind}"), &|course| {
            short(mib(course.most.measured[kind]))
        });
    }
    println!(
        "\n99 % with slow ones: {:.2} times that without.",
        with.latency.p99 / without.latency.p99
    );
    let slow = f64::from(options.clients) * SHARE;
    let more = with.most.total() - without.most.total();
    println!(
        "Memory at most: {:.0} KB more for each of {slow:.0} slow ones.\n",
        more / slow / 1e3
    );
    for (name, course) in [("all read", without), ("1 % do not", with)] {
        for remark in remarks(&course.result, name) {
            println!("* {remark}");
        }
    }
    memory::print("at most, 1 % do not read", &with.most);
}
