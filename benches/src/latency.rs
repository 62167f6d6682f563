//! From the moment a notification to one user was due to its client, and the CPU a message takes meanwhile: open loop,
//! straight into a real Kafka, through a gateway; beside the floor, which the same load tool gives the same at the same
//! rates, and beside a plain reader of the same Kafka. Then bursts for one user: in how many writes they leave.
//!
//! Nothing is bound to a CPU: broker, registry, dispatcher, gateway and clients share the machine. The gateway's whole
//! process counts, rdkafka's threads included; the dispatcher that takes its outcomes does not.

use crate::{
    Options,
    alone::Reader,
    fleet::{Fleet, posts_to_kafka},
    floor::Floor,
    parts::{Folder, Server},
    process::{Cpu, Meter, Process, cpu_of},
    swarm::{Scenario, remarks},
    table::{self, Figure},
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

const RATES: [u32; 2] = [10_000, 20_000];
/// Each rate has a tier of its own, which tells them apart in the result; all of them take the same way.
const TIERS: [&str; 2] = ["normal", "high"];
/// Seconds from everybody being there: first for as long as the broker's JVM compiles itself, then each rate, then
/// the bursts.
const WARM_FROM_S: u32 = 12;
const WARM_S: u32 = 30;
const FROM_S: [u32; 2] = [45, 72];
const FOR_S: u32 = 15;
const BURSTS_FROM_S: u32 = 99;
const BURSTS_S: u32 = 5;
const END_S: u32 = 107;
/// For one user at once.
const BURST: u32 = 50;
const BURSTS_PER_S: u32 = 20;

/// Of one subject, by rate.
#[derive(Debug, Default)]
struct Measured {
    cpu: [Cpu; 2],
    p50: [f64; 2],
    p99: [f64; 2],
    p999: [f64; 2],
    max: [f64; 2],
    /// Of those beside it that share the CPUs.
    beside: [Beside; 2],
    remarks: Vec<String>,
}

/// µs of CPU per message, whatever they use at rest.
#[derive(Clone, Copy, Debug, Default)]
struct Beside {
    load_tool: f64,
    dispatcher: f64,
    broker: f64,
}

pub async fn run(options: &Options) -> Result<()> {
    let rates: Vec<u32> = match options.rate[..] {
        [] => RATES.to_vec(),
        _ => options.rate.clone(),
    };
    ensure!(rates.len() == 2, "--rate: two, separated by a comma");
    eprintln!("latency: Redis, Kafka, dispatcher and gateway start");
    let (mut of_fleet, mut of_floor, mut writes) = (Vec::new(), Vec::new(), Vec::new());
    for run in 1..=options.runs {
        eprintln!("latency: run {run} of {}", options.runs);
        let folder = Folder::new()?;
        let more = [("HERALD_GATEWAY__PIN", "false")];
        let mut fleet = Fleet::start_with(&folder, &more).await?;
        let (measured, of_burst) = through_fleet(&mut fleet, &folder, options, &rates).await?;
        eprintln!("  herald {measured:.2?}");
        of_fleet.push(measured);
        writes.push(of_burst);
        // While the others are still there: they use little at rest, and they are there in either case.
        let measured = through_floor(options, &rates).await?;
        eprintln!("  floor {measured:.2?}");
        of_floor.push(measured);
        let Fleet {
            gateway,
            dispatcher,
            kafka,
            ..
        } = fleet;
        drop((gateway, dispatcher));
        by_kafka(&kafka, options, &rates).await?;
    }
    print(options, &rates, &of_fleet, &of_floor, writes);
    Ok(())
}

fn print(options: &Options, rates: &[u32], own: &[Measured], floor: &[Measured], writes: Vec<f64>) {
    type Part = fn(&Measured, usize) -> f64;
    let rows: [(&str, &'static str, Part, Part); 9] = [
        (
            "process",
            "µs CPU",
            |m, n| m.cpu[n].whole_us,
            |m, n| m.cpu[n].whole_us,
        ),
        (
            "core threads",
            "µs CPU",
            |m, n| m.cpu[n].cores_us,
            |m, n| m.cpu[n].whole_us,
        ),
        ("50 %", "ms", |m, n| m.p50[n], |m, n| m.p50[n]),
        ("99 %", "ms", |m, n| m.p99[n], |m, n| m.p99[n]),
        ("99.9 %", "ms", |m, n| m.p999[n], |m, n| m.p999[n]),
        ("longest", "ms", |m, n| m.max[n], |m, n| m.max[n]),
        (
            "beside it the load tool",
            "µs CPU",
            |m, n| m.beside[n].load_tool,
            |m, n| m.beside[n].load_tool,
        ),
        (
            "beside it the dispatcher",
            "µs CPU",
            |m, n| m.beside[n].dispatcher,
            |_, _| 0.0,
        ),
        (
            "beside it the broker",
            "µs CPU",
            |m, n| m.beside[n].broker,
            |_, _| 0.0,
        ),
    ];
    let mut figures = Vec::new();
    for (n, rate) in rates.iter().enumerate() {
        for (name, unit, of_own, of_floor) in rows {
            let mut figure = Figure::new(format!("{rate}/s, {name}"), unit);
            figure.runs.extend(own.iter().map(|run| of_own(run, n)));
            figure
                .floor
                .extend(floor.iter().map(|run| of_floor(run, n)));
            figures.push(figure);
        }
    }
    let mut burst = Figure::new(format!("burst of {BURST} for one user"), "writes");
    burst.runs = writes;
    figures.push(burst);
    let title = format!(
        "Kafka to client, {} connections, 200 B, {FOR_S} s at each rate, linger 1 ms, {} runs",
        options.clients, options.runs
    );
    table::print(&title, "floor", &figures);
    println!();
    for (name, runs) in [("herald", own), ("floor", floor)] {
        for remark in runs.iter().flat_map(|run| &run.remarks) {
            println!("* {name}: {remark}");
        }
    }
}

/// And the writes that a burst left in.
async fn through_fleet(
    fleet: &mut Fleet,
    folder: &Folder,
    options: &Options,
    rates: &[u32],
) -> Result<(Measured, f64)> {
    let mut arguments = fleet.arguments(folder);
    arguments.push(format!("--watch=gateway={}", fleet.gateway.id()));
    if let Some(page) = &options.html {
        arguments.push(format!("--html={}", page.display()));
    }
    let text = scenario(options, rates);
    let mut swarm = Scenario::start(folder, "latency", &text, None, arguments)?;
    swarm.everybody(&mut fleet.gateway).await?;
    let others = (fleet.dispatcher.id(), fleet.kafka.id()?);
    let cpu = meter(&mut fleet.gateway, &swarm, Some(others), rates).await?;
    swarm.at(f64::from(BURSTS_FROM_S) - 0.5).await?;
    let before = fleet.doors.metric("herald_writes_total").await?;
    swarm.at(f64::from(BURSTS_FROM_S + BURSTS_S) + 2.0).await?;
    let writes = fleet.doors.metric("herald_writes_total").await? - before;
    let measured = judge(cpu, &swarm.finish().await?)?;
    Ok((measured, writes / f64::from(BURSTS_PER_S * BURSTS_S)))
}

async fn through_floor(options: &Options, rates: &[u32]) -> Result<Measured> {
    let folder = Folder::new()?;
    let mut floor = Floor::start_on(None, &folder)?;
    let arguments = vec![
        "--dialect=plain".into(),
        format!("--url=ws://127.0.0.1:{}/", floor.port),
        format!("--post-url=tcp://127.0.0.1:{}", floor.port),
        format!("--watch=floor={}", floor.process.id()),
    ];
    let text = scenario(options, rates);
    let mut swarm = Scenario::start(&folder, "floor", &text, None, arguments)?;
    swarm.everybody(&mut floor.process).await?;
    let cpu = meter(&mut floor.process, &swarm, None, rates).await?;
    judge(cpu, &swarm.finish().await?)
}

/// Clients are there as in the other runs, and get nothing.
async fn by_kafka(kafka: &Server, options: &Options, rates: &[u32]) -> Result<()> {
    let folder = Folder::new()?;
    let mut floor = Floor::start_on(None, &folder)?;
    let arguments = vec![
        "--dialect=plain".into(),
        format!("--url=ws://127.0.0.1:{}/", floor.port),
        posts_to_kafka(kafka.port),
    ];
    let text = scenario(options, rates);
    let mut swarm = Scenario::start(&folder, "kafka", &text, None, arguments)?;
    swarm.everybody(&mut floor.process).await?;
    let reader = Reader::start(kafka).await?;
    for (rate, from_s) in rates.iter().zip(FROM_S) {
        swarm.at(f64::from(from_s) - 0.5).await?;
        reader.take();
        swarm.at(f64::from(from_s + FOR_S) + 1.0).await?;
        let ages = reader.take();
        ensure!(ages.count() > 0, "nothing came by Kafka: {}", swarm.log());
        println!(
            "* Kafka by itself, {rate}/s, {} records, from posted to read, ms: 50 % {}, 99 % {}, 99.9 % {}, longest {}",
            ages.count(),
            ages.at(0.5),
            ages.at(0.99),
            ages.at(0.999),
            ages.at(1.0)
        );
    }
    Ok(())
}

fn scenario(options: &Options, rates: &[u32]) -> String {
    let mut text = format!(
        "about = 'From Kafka to the client at two rates, then bursts.'\nusers = {}\nconnect_rate = 3000\n\
         duration_s = {END_S}\nacknowledge = false\ntail = true\n",
        options.clients
    );
    let mut send = |to: &str, rate: u32, at_once: u32, tier: &str, from_s: u32, for_s: u32| {
        text += &format!(
            "[[send]]\nto = '{to}'\nrate = {rate}.0\nat_once = {at_once}\nsize = 200\n\
             priorities = {{ {tier} = 1.0 }}\nfrom_s = {from_s}.0\nfor_s = {for_s}.0\n"
        );
    };
    send("users", rates[0], 1, "low", WARM_FROM_S, WARM_S);
    for ((rate, tier), from_s) in rates.iter().zip(TIERS).zip(FROM_S) {
        send("users", *rate, 1, tier, from_s, FOR_S);
    }
    let bursts = BURST * BURSTS_PER_S;
    send("one_user", bursts, BURST, "low", BURSTS_FROM_S, BURSTS_S);
    text
}

/// CPU per message at each rate, of the process and of those beside it.
async fn meter(
    process: &mut Process,
    swarm: &Scenario,
    others: Option<(u32, u32)>,
    rates: &[u32],
) -> Result<([Cpu; 2], [Beside; 2])> {
    let look = || -> Result<Beside> {
        let whole = |id: u32| Ok::<_, anyhow::Error>(cpu_of(id)?.whole_us);
        let (dispatcher, broker) = match others {
            Some((dispatcher, broker)) => (whole(dispatcher)?, whole(broker)?),
            None => (0.0, 0.0),
        };
        Ok(Beside {
            load_tool: whole(swarm.id())?,
            dispatcher,
            broker,
        })
    };
    let at_rest = process.at_rest().await?;
    let (mut cpu, mut beside) = ([Cpu::default(); 2], [Beside::default(); 2]);
    for (n, (rate, from_s)) in rates.iter().zip(FROM_S).enumerate() {
        let count = f64::from(rate * FOR_S);
        swarm.at(f64::from(from_s) - 0.5).await?;
        let (meter, before) = (Meter::start(process, at_rest)?, look()?);
        swarm.at(f64::from(from_s + FOR_S)).await?;
        let after = look()?;
        beside[n] = Beside {
            load_tool: (after.load_tool - before.load_tool) / count,
            dispatcher: (after.dispatcher - before.dispatcher) / count,
            broker: (after.broker - before.broker) / count,
        };
        cpu[n] = meter.stop(process, count).await?;
    }
    Ok((cpu, beside))
}

fn judge((cpu, beside): ([Cpu; 2], [Beside; 2]), result: &Value) -> Result<Measured> {
    let mut measured = Measured {
        cpu,
        beside,
        remarks: remarks(result, "run"),
        ..Measured::default()
    };
    for (n, tier) in TIERS.into_iter().enumerate() {
        let of_tier = &result["latency_ms_by_priority"][tier];
        let ms = |what: &str| of_tier[what].as_f64().with_context(|| format!("no {what}"));
        measured.p50[n] = ms("p50")?;
        measured.p99[n] = ms("p99")?;
        measured.p999[n] = ms("p999")?;
        measured.max[n] = ms("max")?;
    }
    ensure!(result["missing"] == 0, "{} are missing", result["missing"]);
    Ok(measured)
}
