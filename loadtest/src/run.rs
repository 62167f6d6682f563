//! One run from the first connect to the result.

use crate::{
    capacity::Machine,
    cli::Merge,
    dialect::Dialect,
    flock::{Flock, Last, Link, Setup, Target},
    hdr, merge,
    options::Options,
    page,
    producer::{Ledger, Producer},
    progress::Progress,
    report::{Report, Wanted},
    roster::Roster,
    rules::Settings,
    series::Recorder,
    sys, table,
    tally::{Counters, Tally},
};
use anyhow::{Context, Result, anyhow};
use std::{
    io::{IsTerminal, Write},
    path::Path,
    sync::{Arc, Mutex, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::signal::unix::{SignalKind, signal};

/// How often the goals are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Says whether all went well.
pub fn run(options: &Options) -> Result<bool> {
    let roster = Arc::new(Roster::new(options)?);
    let run = options.run.clone();
    let run = run.unwrap_or_else(|| format!("{:08x}", rand::random::<u32>()));
    let producer = Producer::new(options, &roster, &run)?;
    let (setup, threads) = setup(options, &run, &roster)?;
    // Before the runtime opens descriptors of its own, which every thread would have copies of.
    let flocks = start(&setup, threads, options.connect_rate)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    let ledger = producer.as_ref().map(Producer::ledger);
    let recorder = Recorder::new(&options.watch)?;
    let mut watch = Watch {
        setup: &setup,
        recorder,
        began_unix_s: None,
        options,
        roster: &roster,
        flocks: &flocks,
        ledger: ledger.as_deref(),
        progress: Progress::new(),
        moved: Instant::now(),
        before: (0, 0, 0),
    };
    runtime.block_on(watch.follow(producer))?;
    watch.progress.end();
    drop(runtime);
    let (series, began_unix_s) = (watch.recorder.seconds, watch.began_unix_s);

    let started = setup.started;
    let (tally, lasts) = stop(flocks, options.accounting.is_some())?;
    let ledger = ledger
        .as_ref()
        .map(|ledger| ledger.lock().expect("no panics"));
    let wanted = Wanted {
        run: &run,
        load: &options.load,
        roster: &roster,
        ledger: ledger.as_deref(),
        expect: options.expect,
        elapsed: started.elapsed(),
        began_unix_s,
    };
    if let (Some(directory), Some(accounts)) = (&options.accounting, &tally.accounts) {
        let written = accounts.write(directory, &roster, &lasts, ledger.as_deref());
        written.with_context(|| format!("can't write to {}", directory.display()))?;
    }
    let report = Report::new(&wanted, tally, &lasts, series);
    write(&report, options.json.as_deref(), options.html.as_deref())?;
    Ok(report.ok)
}

/// Joins results of several hosts.
pub fn merge(merge: &Merge) -> Result<bool> {
    let report = merge::read(&merge.results)?;
    write(&report, merge.json.as_deref(), merge.html.as_deref())?;
    Ok(report.ok)
}

fn setup(options: &Options, run: &str, roster: &Arc<Roster>) -> Result<(Arc<Setup>, usize)> {
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
    let plan = Machine::look()?.plan(
        roster.clients(),
        options.threads,
        &options.sources,
        &addresses,
    )?;
    let setup = Setup {
        settings: Settings {
            run: run.to_owned(),
            acknowledge: !options.no_ack,
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

struct Running {
    thread: JoinHandle<Result<(Tally, Vec<Last>)>>,
    link: Arc<Link>,
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
                .name(format!("flock-{n}"))
                .spawn(work)
                .context("no thread")?;
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
        let (more, clients) = ended.map_err(|_| anyhow!("a thread panicked"))??;
        tally.add(more);
        lasts.extend(clients);
    }
    Ok((tally, lasts))
}

/// Follows the flocks until the goals are reached or given up.
struct Watch<'a> {
    options: &'a Options,
    roster: &'a Arc<Roster>,
    flocks: &'a [Running],
    ledger: Option<&'a Mutex<Ledger>>,
    setup: &'a Setup,
    recorder: Recorder,
    /// When everybody was there.
    began_unix_s: Option<u64>,
    progress: Progress,
    /// When something last arrived, connected, synced or was accepted.
    moved: Instant,
    before: (u64, u64, u64),
}

impl Watch<'_> {
    async fn follow(&mut self, producer: Option<Producer>) -> Result<()> {
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        let mut enough = signal(SignalKind::terminate()).context("no signals")?;
        let mut waiting = producer;
        let (started, mut all_there) = (Instant::now(), None);
        loop {
            tokio::select! {
                caught = &mut interrupted => {
                    caught.context("no signals")?;
                    self.progress.say("interrupted");
                    return Ok(());
                }
                _ = enough.recv() => {
                    let Some(ledger) = self.ledger else {
                        return Ok(());
                    };
                    ledger.lock().expect("no panics").enough = true;
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            let counters = self.look();
            if all_there.is_none() && self.everybody_came(&counters, started) {
                all_there = Some(Instant::now());
                self.begin();
                if let Some(producer) = waiting.take() {
                    producer.start(Arc::clone(self.roster))?;
                }
            }
            if let Some(since) = all_there
                && self.is_over(&counters, since)
            {
                return Ok(());
            }
            if self.flocks.iter().any(|flock| flock.thread.is_finished()) {
                // Its error comes out when it is joined.
                return Ok(());
            }
        }
    }

    fn look(&mut self) -> Counters {
        let mut counters = Counters::default();
        for flock in self.flocks {
            counters.add(&flock.link.published.lock().expect("no panics").counters);
        }
        let ledger = self.ledger.map(|ledger| {
            let ledger = ledger.lock().expect("no panics");
            (ledger.accepted, ledger.expected)
        });
        let accepted = ledger.map_or(0, |(accepted, _)| accepted);
        if self.recorder.is_due() {
            self.record(&counters, accepted);
        }
        let syncs = counters.syncs_recovered + counters.syncs_unrecovered;
        let now = (counters.unique + syncs, counters.ever_connected, accepted);
        if now != self.before {
            (self.before, self.moved) = (now, Instant::now());
        }
        self.progress.show(self.roster.clients(), &counters, ledger);
        counters
    }

    fn record(&mut self, counters: &Counters, accepted: u64) {
        let mut latency_us = hdr::rough();
        for flock in self.flocks {
            let mut published = flock.link.published.lock().expect("no panics");
            if !published.latency_us.is_empty() {
                latency_us.add(&published.latency_us).expect("same bounds");
                published.latency_us.reset();
            }
        }
        self.recorder.look(counters, accepted, latency_us);
    }

    /// Everybody is there: what the scenario does begins.
    fn begin(&mut self) {
        let now_ms = self.setup.now_ms();
        for flock in self.flocks {
            flock.link.began_ms.store(now_ms, Ordering::Relaxed);
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        self.began_unix_s = since.ok().map(|since| since.as_secs());
    }

    /// All are connected; or the rest has not come for so long that the run goes on without.
    fn everybody_came(&self, counters: &Counters, started: Instant) -> bool {
        let clients = u64::from(self.roster.clients());
        let seconds = started.elapsed().as_secs_f64();
        if counters.ever_connected >= clients {
            self.progress
                .say(&format!("all {clients} connected after {seconds:.1} s"));
            return true;
        }
        let there = counters.ever_connected;
        if self.has_stalled() || there + counters.gave_up >= clients {
            self.progress
                .say(&format!("going on with {there} of {clients} connected"));
            return true;
        }
        false
    }

    fn has_stalled(&self) -> bool {
        self.moved.elapsed() >= Duration::from_secs(self.options.give_up_s)
    }

    fn is_over(&self, counters: &Counters, all_there: Instant) -> bool {
        let held = all_there.elapsed() >= Duration::from_secs(self.options.hold_s);
        let has_goal = self.ledger.is_some() || self.options.expect.is_some();
        if !has_goal {
            return self.options.hold_s > 0 && held;
        }
        let (posted, arrived) = self.ledger.map_or((true, true), |ledger| {
            let ledger = ledger.lock().expect("no panics");
            (ledger.ended, counters.unique_own >= ledger.expected)
        });
        let clients = u64::from(self.roster.clients());
        let satisfied = self.options.expect.is_none() || counters.satisfied >= clients;
        let healed = counters.holes_seen <= counters.holes_healed;
        let acknowledged = self.options.no_ack || counters.acks_sent >= counters.received;
        let settled = counters.syncing == 0 && healed && acknowledged;
        let reached = posted && arrived && satisfied && settled;
        if posted && !reached && self.has_stalled() {
            self.progress.say("gave up on what is missing");
            return true;
        }
        held && reached
    }
}

/// A table for people; JSON on standard output for programs, and in a file.
fn write(report: &Report, json: Option<&Path>, html: Option<&Path>) -> Result<()> {
    let text = serde_json::to_string_pretty(report)?;
    if let Some(file) = json {
        write_file(file, &text)?;
    }
    if let Some(file) = html {
        write_file(file, &page::html(report))?;
    }
    eprint!("{}", table::text(report));
    let mut out = std::io::stdout();
    if !out.is_terminal() {
        writeln!(out, "{text}").context("can't write the result")?;
    }
    Ok(())
}

fn write_file(file: &Path, content: &str) -> Result<()> {
    std::fs::write(file, content).with_context(|| format!("can't write {}", file.display()))
}
