//! One run from the first connect to the result.

use crate::{
    accounting,
    capacity::{self, Machine},
    cli::Merge,
    dialect::Dialect,
    flock::{Flock, Last, Link, Setup, Target},
    merge,
    options::Options,
    outputs::Outputs,
    panics::{self, locked},
    producer::Producer,
    report::{Report, Wanted},
    roster::Roster,
    rules::Settings,
    series::{FLOCKS, Recorder},
    sys,
    tally::Tally,
    watch::Watch,
};
use anyhow::{Context, Result, anyhow};
use std::{
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Instant,
};

/// Says whether all went well.
pub fn run(options: &Options) -> Result<bool> {
    panics::note();
    // First of all: with too few descriptors nothing else can be read.
    let machine = Machine::look()?;
    let roster = Arc::new(Roster::new(options)?);
    let run = options.run.clone();
    let run = run.unwrap_or_else(|| format!("{:08x}", rand::random::<u32>()));
    let producer = Producer::new(options, &roster, &run)?;
    let recorder = Recorder::new(&options.watch)?;
    let (setup, threads) = setup(&machine, options, &run, &roster)?;
    let outputs = outputs(options)?;
    // Before the runtime opens descriptors of its own, which every thread would have copies of.
    let flocks = start(&setup, threads, options.connect_rate)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    let ledger = producer.as_ref().map(Producer::ledger);
    let mut watch = Watch::new(options, &setup, &flocks, ledger.as_deref(), recorder);
    let followed = runtime.block_on(watch.follow(producer));
    drop(runtime);
    let early = watch.remark();
    let (recorder, began_unix_s) = watch.end();

    let started = setup.started;
    let (tally, lasts) = match stop(flocks, options.accounting.is_some()) {
        Ok(ended) => ended,
        // What a thread that panicked has counted is lost.
        Err(error) => return Err(followed.err().unwrap_or(error)),
    };
    let ledger = ledger.as_ref().map(|ledger| locked(ledger));
    let wanted = Wanted {
        run: &run,
        load: &options.load,
        roster: &roster,
        ledger: ledger.as_deref(),
        expect: options.expect,
        elapsed: started.elapsed(),
        began_unix_s,
        producer_short: recorder.producer_short,
    };
    let accounted = match (&options.accounting, &tally.accounts) {
        (Some(directory), Some(accounts)) => {
            let written = accounts.write(directory, &roster, &lasts, ledger.as_deref());
            written.with_context(|| format!("can't write to {}", directory.display()))
        }
        _ => Ok(()),
    };
    let mut report = Report::new(&wanted, tally, &lasts, recorder.seconds);
    report.ok &= followed.is_ok();
    report.remarks.extend(early);
    let written = outputs.write(&report);
    followed.and(accounted).and(written)?;
    Ok(report.ok)
}

/// What can't be written is said before anybody connects.
fn outputs(options: &Options) -> Result<Outputs<'_>> {
    let outputs = Outputs {
        json: options.json.as_deref(),
        html: options.html.as_deref(),
    };
    outputs.check()?;
    if let Some(directory) = &options.accounting {
        accounting::check(directory)
            .with_context(|| format!("--accounting: can't write to {}", directory.display()))?;
    }
    Ok(outputs)
}

/// Joins results of several hosts.
pub fn merge(merge: &Merge) -> Result<bool> {
    let outputs = Outputs {
        json: merge.json.as_deref(),
        html: merge.html.as_deref(),
    };
    outputs.check()?;
    let report = merge::read(&merge.results)?;
    outputs.write(&report)?;
    Ok(report.ok)
}

fn setup(
    machine: &Machine,
    options: &Options,
    run: &str,
    roster: &Arc<Roster>,
) -> Result<(Arc<Setup>, usize)> {
    let path = match options.dialect {
        Dialect::Herald if options.sse => "/sse/notifications",
        Dialect::Herald => "/ws/notifications",
        Dialect::Centrifugo => "/connection/websocket",
        Dialect::Plain | Dialect::Nats => "/",
    };
    let targets = options
        .urls
        .iter()
        .map(|url| {
            Ok(Target {
                address: url.resolve()?,
                host: url.host.clone(),
                tls: url.tls,
                path: match url.path.as_str() {
                    "" => path.to_owned(),
                    given => given.to_owned(),
                },
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let addresses: Vec<_> = targets.iter().map(|target| target.address).collect();
    let plan = machine.plan(
        roster.clients(),
        options.threads,
        &options.sources,
        &addresses,
    )?;
    let setup = Setup {
        settings: Settings {
            run: run.to_owned(),
            acknowledge: !options.no_ack,
            events: options.sse,
            tail: options.tail,
            hole_wait_ms: options.hole_wait_ms,
            expect: options.expect,
            slow_share: options.load.slow_share(),
            slow_return: options.load.slow_return(),
        },
        roster: Arc::clone(roster),
        targets,
        sources: plan.sources,
        sse: options.sse,
        dialect: options.dialect,
        trust: options.trust(),
        backoff_ms: options.backoff_ms,
        with_accounts: options.accounting.is_some(),
        churn: options.load.churn,
        storm: options.load.storm,
        slow: options.load.slow,
        duration_s: options.load.duration_s,
        started: Instant::now(),
    };
    Ok((Arc::new(setup), plan.threads))
}

/// A thread of clients.
pub struct Running {
    pub thread: JoinHandle<Result<(Tally, Vec<Last>)>>,
    pub link: Arc<Link>,
}

fn start(setup: &Arc<Setup>, threads: usize, connect_rate: u32) -> Result<Vec<Running>> {
    let clients = u64::from(setup.roster.clients());
    let border = |n: usize| (clients * n as u64 / threads as u64) as u32;
    (0..threads)
        .map(|n| {
            let numbers = border(n)..border(n + 1);
            let share = numbers.len() as f64 / clients.max(1) as f64;
            let connects_per_s = f64::from(connect_rate) * share;
            let (setup, link) = (Arc::clone(setup), Arc::new(Link::default()));
            let linked = Arc::clone(&link);
            let work = move || -> Result<(Tally, Vec<Last>)> {
                // Refused only where one table is enough for all: see `capacity`.
                let _ = sys::own_descriptor_table();
                Ok(Flock::new(setup, numbers, connects_per_s, linked)?.run()?)
            };
            let thread = std::thread::Builder::new()
                .name(format!("{FLOCKS}{n}"))
                .spawn(work)
                .map_err(|error| capacity::no_thread(threads, &error))?;
            Ok(Running { thread, link })
        })
        .collect()
}

fn stop(flocks: Vec<Running>, with_accounts: bool) -> Result<(Tally, Vec<Last>)> {
    for flock in &flocks {
        flock.link.stop.store(true, Ordering::Relaxed);
    }
    let (mut tally, mut lasts) = (Tally::new(with_accounts), Vec::new());
    for flock in flocks {
        let ended = flock.thread.join();
        let (more, clients) =
            ended.map_err(|_| anyhow!(panics::first().unwrap_or("a thread panicked")))??;
        tally.add(more);
        lasts.extend(clients);
    }
    Ok((tally, lasts))
}
