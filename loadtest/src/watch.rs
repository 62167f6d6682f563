//! Follows a run until its goals are reached or given up, and tells how it goes.
//!
//! A run ends within bounds whatever the server does: the producer is done [`Options::give_up_s`] after the last
//! moment of its schedule, and nothing is waited for longer than [`PATIENCE`] of those after the planned end, which without
//! a producer is that of `--hold-s`. SIGTERM and SIGHUP move the planned end to now, SIGINT and a second one of them end the
//! run at once.

use crate::{
    flock::Setup,
    hdr,
    options::Options,
    panics::{self, locked},
    procfs,
    producer::{Ledger, Producer},
    progress::Progress,
    run::Running,
    series::Recorder,
    tally::Counters,
};
use anyhow::{Context, Result, bail};
use std::{
    future::pending,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often the goals are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// So many times `--give-up-s` after its planned end a run ends, though something may still arrive now and then.
const PATIENCE: u32 = 4;

pub struct Watch<'a> {
    options: &'a Options,
    setup: &'a Setup,
    flocks: &'a [Running],
    ledger: Option<&'a Mutex<Ledger>>,
    recorder: Recorder,
    /// When everybody was there.
    began_unix_s: Option<u64>,
    progress: Progress,
    /// When something last arrived, synced or was accepted; and what there was of it.
    moved: Instant,
    before: (u64, u64),
    /// The same of clients that came for the first time.
    came: Instant,
    there: u64,
    /// It was said why somebody does not get in.
    has_said_why: bool,
    /// Was told that it is enough.
    is_told: bool,
    /// A signal ended it.
    is_early: bool,
    /// When it should be over; `None`: not known.
    planned_end: Option<Instant>,
}

impl<'a> Watch<'a> {
    pub fn new(
        options: &'a Options,
        setup: &'a Setup,
        flocks: &'a [Running],
        ledger: Option<&'a Mutex<Ledger>>,
        recorder: Recorder,
    ) -> Watch<'a> {
        let now = Instant::now();
        Watch {
            options,
            setup,
            flocks,
            ledger,
            recorder,
            began_unix_s: None,
            progress: Progress::new(),
            moved: now,
            before: (0, 0),
            came: now,
            there: 0,
            has_said_why: false,
            is_told: false,
            is_early: false,
            planned_end: None,
        }
    }

    /// Of one that a signal ended: what it says counts for the time until then.
    pub fn remark(&self) -> Option<String> {
        let early = "a signal ended this run: what was planned for later was not done".to_owned();
        self.is_early.then_some(early)
    }

    /// What was seen second by second, and the Unix second at which everybody was there.
    pub fn end(self) -> (Recorder, Option<u64>) {
        self.progress.end();
        (self.recorder, self.began_unix_s)
    }

    pub async fn follow(&mut self, producer: Option<Producer>) -> Result<()> {
        let mut signals = Signals::new().context("no signals")?;
        let (mut waiting, mut all_there) = (producer, None);
        loop {
            tokio::select! {
                ends = signals.next() => {
                    self.is_early = true;
                    if ends == Ends::Now || self.is_told || !self.enough(all_there) {
                        self.progress.say("interrupted");
                        return Ok(());
                    }
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            let counters = self.look();
            if let Some(panic) = panics::first() {
                bail!("{panic}");
            }
            if all_there.is_none() && self.everybody_came(&counters) {
                all_there = Some(Instant::now());
                self.begin();
                let producer = waiting.take();
                self.planned_end = self.plan(producer.as_ref());
                if let Some(producer) = producer {
                    producer.start(Arc::clone(&self.setup.roster))?;
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

    /// When a run that begins now should be over.
    fn plan(&self, producer: Option<&Producer>) -> Option<Instant> {
        let span = producer.map_or(Some(Duration::ZERO), Producer::span)?;
        let held = Duration::from_secs(self.options.hold_s);
        Instant::now().checked_add(span.max(held))
    }

    /// Posts no more. Says whether there is something to wait for.
    fn enough(&mut self, all_there: Option<Instant>) -> bool {
        let (Some(ledger), Some(_)) = (self.ledger, all_there) else {
            return false;
        };
        self.progress
            .say("posting no more, waiting for what was posted");
        locked(ledger).enough.notify_one();
        self.is_told = true;
        self.planned_end = Some(Instant::now());
        true
    }

    fn look(&mut self) -> Counters {
        let mut counters = Counters::default();
        for flock in self.flocks {
            counters.add(&locked(&flock.link.published).counters);
        }
        let ledger = self.ledger.map(|ledger| {
            let ledger = locked(ledger);
            (ledger.accepted, ledger.expected)
        });
        let accepted = ledger.map_or(0, |(accepted, _)| accepted);
        if self.recorder.is_due() {
            self.record(&counters, accepted);
        }
        let syncs = counters.syncs_recovered + counters.syncs_unrecovered;
        let now = (counters.unique + syncs, accepted);
        if now != self.before {
            (self.before, self.moved) = (now, Instant::now());
        }
        if counters.ever_connected != self.there {
            (self.there, self.came) = (counters.ever_connected, Instant::now());
            self.moved = self.came;
        }
        self.say_why();
        self.progress
            .show(self.setup.roster.clients(), &counters, ledger);
        counters
    }

    /// The first reason at once: the others are in the table at the end.
    fn say_why(&mut self) {
        if self.has_said_why {
            return;
        }
        let published = self.flocks.iter().map(|flock| &flock.link.published);
        let why = published
            .into_iter()
            .find_map(|of| locked(of).first_failure.clone());
        if let Some(why) = why {
            let hint = match why.contains("UnknownIssuer") {
                true => "; who signed it: --ca-file",
                false => "",
            };
            self.progress
                .say(&format!("a client does not get in: {why}{hint}"));
            self.has_said_why = true;
        }
    }

    fn record(&mut self, counters: &Counters, accepted: u64) {
        let mut latency_us = hdr::rough();
        for flock in self.flocks {
            let mut published = locked(&flock.link.published);
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
    fn everybody_came(&self, counters: &Counters) -> bool {
        let clients = u64::from(self.setup.roster.clients());
        let seconds = self.setup.started.elapsed().as_secs_f64();
        if counters.ever_connected >= clients {
            self.progress
                .say(&format!("all {clients} connected after {seconds:.1} s"));
            return true;
        }
        let there = counters.ever_connected;
        if self.came.elapsed() >= self.give_up() || there + counters.gave_up >= clients {
            self.progress
                .say(&format!("going on with {there} of {clients} connected"));
            return true;
        }
        false
    }

    fn give_up(&self) -> Duration {
        Duration::from_secs(self.options.give_up_s)
    }

    fn is_over(&self, counters: &Counters, all_there: Instant) -> bool {
        let held = all_there.elapsed() >= Duration::from_secs(self.options.hold_s) || self.is_told;
        let has_goal = self.ledger.is_some() || self.options.expect.is_some();
        if !has_goal {
            return self.options.hold_s > 0 && held;
        }
        let (posted, arrived) = self.ledger.map_or((true, true), |ledger| {
            let ledger = locked(ledger);
            (ledger.ended, counters.unique_own >= ledger.expected)
        });
        let clients = u64::from(self.setup.roster.clients());
        let satisfied = self.options.expect.is_none() || counters.satisfied >= clients;
        let healed = counters.holes_seen <= counters.holes_healed;
        let acknowledged = self.options.no_ack || counters.acks_sent >= counters.received;
        let settled = counters.syncing == 0 && healed && acknowledged;
        let reached = posted && arrived && satisfied && settled;
        let has_stalled = self.moved.elapsed() >= self.give_up();
        if posted && !reached && (has_stalled || self.is_out_of_patience()) {
            self.progress.say("gave up on what is missing");
            return true;
        }
        held && reached
    }

    fn is_out_of_patience(&self) -> bool {
        let patience = self.give_up().saturating_mul(PATIENCE);
        self.planned_end
            .and_then(|end| end.checked_add(patience))
            .is_some_and(|end| Instant::now() >= end)
    }
}

/// How soon a signal ends the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    WhenAllArrived,
    Now,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// `None`: it is to be ignored, as under nohup.
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: match procfs::ignores_hangup() {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    async fn next(&mut self) -> Ends {
        let Signals {
            interrupt,
            terminate,
            hangup,
        } = self;
        let hangup = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => Ends::Now,
            _ = terminate.recv() => Ends::WhenAllArrived,
            _ = hangup => Ends::WhenAllArrived,
        }
    }
}
