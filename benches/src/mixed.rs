//! Notifications to one user each while others go to everybody, beside the same without those, in one run: what a
//! broadcast makes the rest wait.
//!
//! Those who get their own are few and have a process of the load tool to themselves: in the one that reads everybody's
//! a notification would wait behind thousands of others, on the client's side.

use crate::{
    Options,
    fleet::Fleet,
    parts::Folder,
    swarm::{Scenario, remarks},
    table::{self, Figure},
};
use anyhow::{Context, Result, ensure};
use std::time::{SystemTime, UNIX_EPOCH};
use swarm::report::{Latency, Report};

const LISTENERS: u32 = 500;
/// To one user each, in a second.
const RATE: u32 = 500;
/// To everybody, in a second: one is under way for a good part of the time.
const TO_ALL_PER_S: f64 = 2.0;
/// Seconds from everybody being there.
const QUIET_FROM_S: u32 = 5;
const TO_ALL_FROM_S: u32 = 25;
const FOR_S: u32 = 20;
const END_S: u32 = 50;

/// Latencies without and with those to everybody.
struct Measured {
    quiet: Latency,
    beside: Latency,
    remarks: Vec<String>,
}

pub async fn run(options: &Options) -> Result<()> {
    ensure!(options.clients > LISTENERS, "--clients: above {LISTENERS}");
    eprintln!("mixed: Redis, Kafka, dispatcher and gateway start");
    let folder = Folder::new()?;
    let mut fleet = Fleet::start(&folder).await?;
    let mut runs = Vec::new();
    for run in 1..=options.runs {
        eprintln!("mixed: run {run} of {}", options.runs);
        runs.push(measure(&mut fleet, &folder, options).await?);
    }
    type Part = fn(&Latency) -> f64;
    let parts: [(&str, Part); 4] = [
        ("50 %", |of| of.p50),
        ("99 %", |of| of.p99),
        ("99.9 %", |of| of.p999),
        ("longest", |of| of.max),
    ];
    let figures = parts.map(|(name, part)| {
        let mut figure = Figure::new(name, "ms");
        figure.runs.extend(runs.iter().map(|run| part(&run.beside)));
        figure.floor.extend(runs.iter().map(|run| part(&run.quiet)));
        figure
    });
    let title = format!(
        "{}/s to one of {LISTENERS} users each while {TO_ALL_PER_S} a second go to all {}, 200 B, {} runs",
        options.rate_or(RATE),
        options.clients,
        options.runs
    );
    table::print(&title, "without", &figures);
    println!();
    for remark in runs.iter().flat_map(|run| &run.remarks) {
        println!("* {remark}");
    }
    Ok(())
}

async fn measure(fleet: &mut Fleet, folder: &Folder, options: &Options) -> Result<Measured> {
    let crowd_text = format!(
        "{}[[send]]\nto = 'all'\nrate = {TO_ALL_PER_S:.1}\nsize = 200\nfrom_s = {TO_ALL_FROM_S}.0\nfor_s = {FOR_S}.0\n",
        head(options.clients - LISTENERS)
    );
    let mut arguments = fleet.arguments(folder);
    arguments.push("--threads=1".into());
    let mut crowd = Scenario::start(folder, "crowd", &crowd_text, Some(1), arguments)?;
    let text = format!(
        "{}[[send]]\nto = 'users'\nrate = {}.0\nsize = 200\n",
        head(LISTENERS),
        options.rate_or(RATE)
    );
    let first = options.clients - LISTENERS + 1;
    let mut arguments = fleet.arguments(folder);
    arguments.push("--threads=1".into());
    arguments.push(format!("--users={first}..{}", options.clients));
    crowd.everybody(&mut fleet.gateway).await?;
    let mut listeners = Scenario::start(folder, "listeners", &text, None, arguments)?;
    listeners.everybody(&mut fleet.gateway).await?;
    let mut moments = Vec::new();
    for seconds in [QUIET_FROM_S, TO_ALL_FROM_S, TO_ALL_FROM_S + FOR_S] {
        crowd.at(seconds.into()).await?;
        moments.push(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
    }
    let mut notes = remarks(&crowd.finish().await?, "all");
    let result = listeners.finish().await?;
    notes.extend(remarks(&result, "one"));
    let report: Report = serde_json::from_value(result)?;
    let between = |n: usize| {
        let found = report.latency_between(moments[n] + 1, moments[n + 1]);
        found.context("nothing arrived")
    };
    Ok(Measured {
        quiet: between(0)?,
        beside: between(1)?,
        remarks: notes,
    })
}

fn head(clients: u32) -> String {
    format!(
        "about = 'One and all.'\nusers = {clients}\nconnect_rate = 3000\nduration_s = {END_S}\n\
         acknowledge = false\ntail = true\n"
    )
}
