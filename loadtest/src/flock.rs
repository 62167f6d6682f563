//! One thread's clients and the loop that drives them: an epoll set, one receive buffer, one sweep.

use crate::{
    client::Client,
    courier::{Courier, Errand},
    cursor::Numbers,
    dialect::Dialect,
    hdr,
    options::Trust,
    panics::locked,
    roster::Roster,
    rules::{Context, Say, Settings, StreamNames},
    scenario::{Churn, Slow, Storm},
    sys::{Epoll, Ready},
    tally::{Counters, Tally},
    tls::Connector,
    unrest::{Act, Unrest, is_among},
    wheel::{NEVER, Wheel},
};
use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// One receive buffer per thread.
const BUFFER_BYTES: usize = 256 * 1024;
/// How long the loop may wait while first connects are due, or clients leave: their grain.
const GRAIN_MS: u64 = 10;
/// How often the main thread learns what was counted; `POST`s are looked at as often.
const PUBLISH_MS: u64 = 200;
/// First connects between two looks at the sockets.
const CONNECTS_PER_TURN: usize = 64;
/// Tickets a thread keeps of a TLS server where nobody is made to come back.
const SESSIONS_MIN: usize = 64;
/// Bit of an epoll token that tells a courier's socket from a client's.
const COURIER: u64 = 1 << 31;

/// What every thread of the run shares, read only.
#[derive(Debug)]
pub struct Setup {
    pub settings: Settings,
    pub roster: Arc<Roster>,
    pub targets: Vec<Target>,
    pub sources: Vec<IpAddr>,
    pub sse: bool,
    pub dialect: Dialect,
    pub trust: Trust,
    pub backoff_ms: u64,
    pub with_accounts: bool,
    pub churn: Option<Churn>,
    pub storm: Option<Storm>,
    pub slow: Option<Slow>,
    pub duration_s: Option<u64>,
    pub started: Instant,
}

#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub tls: bool,
    pub host: String,
    pub path: String,
}

impl Setup {
    pub fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// `None`: no target speaks TLS.
    fn connector(&self, clients: usize) -> Result<Option<Connector>> {
        if !self.targets.iter().any(|target| target.tls) {
            return Ok(None);
        }
        let come_back = self.churn.is_some() || self.storm.is_some();
        let sessions = if come_back { clients } else { SESSIONS_MIN };
        Connector::new(&self.trust, sessions).map(Some)
    }

    pub fn source(&self, client: u32) -> Option<IpAddr> {
        match self.sources.len() {
            0 => None,
            count => Some(self.sources[client as usize % count]),
        }
    }
}

/// How the main thread follows and ends a flock.
#[derive(Debug)]
pub struct Link {
    pub stop: AtomicBool,
    /// When everybody was there, in ms of the run; [`NOT_YET`] before.
    pub began_ms: AtomicU64,
    pub published: Mutex<Published>,
}

pub const NOT_YET: u64 = u64::MAX;

/// What a thread counted so far.
#[derive(Debug)]
pub struct Published {
    pub counters: Counters,
    /// µs; since the main thread took it.
    pub latency_us: Histogram<u64>,
    /// See [`Tally::first_failure`].
    pub first_failure: Option<String>,
}

impl Default for Link {
    fn default() -> Link {
        Link {
            stop: AtomicBool::new(false),
            began_ms: AtomicU64::new(NOT_YET),
            published: Mutex::new(Published {
                counters: Counters::default(),
                latency_us: hdr::rough(),
                first_failure: None,
            }),
        }
    }
}

/// What a thread lends to each of its clients.
pub struct World {
    pub setup: Arc<Setup>,
    pub epoll: Epoll,
    pub streams: StreamNames,
    pub tally: Tally,
    pub random: SmallRng,
    pub buffer: Vec<u8>,
    /// Of the client whose turn it is: what it sends, and events without their chunks.
    pub output: Vec<u8>,
    pub decoded: Vec<u8>,
    /// The same with TLS: what was opened, and what is sealed.
    pub opened: Vec<u8>,
    pub sealed: Vec<u8>,
    pub connector: Option<Connector>,
    pub says: Vec<Say>,
    /// `POST`s of SSE clients on their way to a courier.
    pub errands: VecDeque<Errand>,
    pub now_ms: u64,
    /// Number of the thread's first client.
    first: u32,
}

impl Last {
    /// Nothing is expected of it: the scenario has it so.
    pub fn is_excused(&self) -> bool {
        self.is_stalled || self.is_sent_away
    }
}

impl World {
    pub fn now_us(&self) -> u64 {
        self.setup.started.elapsed().as_micros() as u64
    }

    /// Names a client's present socket to epoll.
    pub fn token(&self, client: &Client) -> u64 {
        u64::from(client.generation()) << 32 | u64::from(client.number - self.first)
    }

    /// Names a courier's line to epoll.
    pub fn line_token(line: usize) -> u64 {
        COURIER | line as u64
    }
}

/// What a client ended with.
#[derive(Debug)]
pub struct Last {
    pub number: u32,
    pub own: Numbers,
    pub all: Numbers,
    pub unique: u64,
    pub has_hole: bool,
    /// `name=position,…`; empty unless accounts are kept.
    pub cursors: String,
    /// It never learned whether something is missing.
    pub is_syncing: bool,
    /// It was not reading.
    pub is_stalled: bool,
    /// It was away.
    pub is_sent_away: bool,
    pub ever_welcomed: bool,
}

pub struct Flock {
    world: World,
    clients: Vec<Client>,
    wheel: Wheel,
    courier: Courier,
    unrest: Unrest,
    /// First connects per second, of this thread.
    connects_per_s: f64,
    /// Clients whose turn to connect has come.
    begun: usize,
    link: Arc<Link>,
}

impl Flock {
    pub fn new(
        setup: Arc<Setup>,
        numbers: Range<u32>,
        connects_per_s: f64,
        link: Arc<Link>,
    ) -> Result<Flock> {
        let connector = setup.connector(numbers.len())?;
        let urls = setup.targets.len();
        let share = numbers.len() as f64 / f64::from(setup.roster.clients().max(1));
        let unrest = Unrest::new(
            setup.churn,
            setup.storm,
            setup.slow,
            setup.duration_s,
            share,
        );
        let clients = numbers.clone().map(|number| Client::new(number, urls));
        Ok(Flock {
            clients: clients.collect(),
            wheel: Wheel::new(setup.now_ms()),
            courier: Courier::default(),
            unrest,
            world: World {
                epoll: Epoll::new().context("no epoll")?,
                streams: StreamNames::default(),
                tally: Tally::new(setup.with_accounts),
                random: SmallRng::seed_from_u64(rand::random()),
                buffer: vec![0; BUFFER_BYTES],
                output: Vec::new(),
                decoded: Vec::new(),
                opened: Vec::new(),
                sealed: Vec::new(),
                connector,
                says: Vec::new(),
                errands: VecDeque::new(),
                now_ms: 0,
                first: numbers.start,
                setup,
            },
            connects_per_s,
            begun: 0,
            link,
        })
    }

    /// Drives the clients until told to stop.
    pub fn run(mut self) -> io::Result<(Tally, Vec<Last>)> {
        let (mut ready, mut due) = (Vec::new(), Vec::new());
        let (mut published_ms, mut turned) = (0, Instant::now());
        let began_ms = self.world.setup.now_ms();
        while !self.link.stop.load(Ordering::Relaxed) {
            let wait_ms = self.wait_ms();
            let waited_from = Instant::now();
            self.world.tally.busy(waited_from - turned);
            let wait = Duration::from_millis(wait_ms);
            self.world.epoll.wait(&mut ready, wait)?;
            turned = Instant::now();
            self.world.now_ms = self.world.setup.now_ms();
            for event in &ready {
                self.handle(event);
            }
            self.begin_connects(self.world.now_ms - began_ms);
            self.wheel.turn(self.world.now_ms, &mut due);
            for (at, tick) in due.drain(..) {
                self.come_up(at as usize, tick);
            }
            if self.world.now_ms >= published_ms + PUBLISH_MS {
                published_ms = self.world.now_ms;
                self.courier.tick(&mut self.world);
                self.publish();
            }
            self.disturb();
            self.courier.run_errands(&mut self.world);
            self.answered();
        }
        for client in &mut self.clients {
            client.leave(&mut self.world);
        }
        let world = self.world;
        let lasts = self.clients.into_iter();
        let lasts = lasts.map(|client| client.into_last(&world)).collect();
        Ok((world.tally, lasts))
    }

    fn wait_ms(&self) -> u64 {
        let is_busy = self.begun < self.clients.len() || self.unrest.is_restless();
        let bound_ms = match is_busy {
            true => GRAIN_MS,
            false => PUBLISH_MS,
        };
        self.wheel.rest_ms(self.world.now_ms, bound_ms)
    }

    fn publish(&mut self) {
        let tally = &mut self.world.tally;
        let mut published = locked(&self.link.published);
        published.counters = tally.counters;
        if published.first_failure.is_none() {
            published.first_failure = tally.first_failure.clone();
        }
        if !tally.recent_us.is_empty() {
            let added = published.latency_us.add(&tally.recent_us);
            added.expect("same bounds");
            tally.recent_us.reset();
        }
    }

    /// What the scenario does to clients.
    fn disturb(&mut self) {
        let began_ms = self.link.began_ms.load(Ordering::Relaxed);
        if began_ms == NOT_YET {
            return;
        }
        let since_ms = self.world.now_ms.saturating_sub(began_ms);
        while let Some(act) = self.unrest.next(since_ms) {
            match act {
                Act::Leave(away_ms) => {
                    let at = self.world.random.random_range(0..self.clients.len());
                    self.clients[at].leave_for(away_ms, &mut self.world);
                    self.settle(at);
                }
                Act::Break(storm) => self.each_of(storm.share, |client, world| {
                    client.lose_connection(storm.in_slot, world);
                }),
                Act::Stop(share) => self.each_of(share, Client::stop_reading),
                Act::Go(share) => self.each_of(share, Client::read_again),
            }
        }
    }

    fn each_of(&mut self, share: f64, act: impl Fn(&mut Client, &mut World)) {
        for at in 0..self.clients.len() {
            if is_among(self.clients[at].number, share) {
                act(&mut self.clients[at], &mut self.world);
                self.settle(at);
            }
        }
    }

    /// It stands in the wheel for now, unless it came up sooner by another entry.
    fn come_up(&mut self, at: usize, tick: u32) {
        let client = &mut self.clients[at];
        if client.armed == tick {
            client.armed = NEVER;
            client.tick(&mut self.world);
            self.settle(at);
        }
    }

    /// After anything happened to a client.
    fn settle(&mut self, at: usize) {
        let client = &mut self.clients[at];
        client.rest();
        let is_syncing = client.rules.is_syncing();
        if is_syncing != client.counted_syncing {
            client.counted_syncing = is_syncing;
            let syncing = &mut self.world.tally.counters.syncing;
            match is_syncing {
                true => *syncing += 1,
                false => *syncing -= 1,
            }
        }
        let next_ms = client.next_ms(&self.world.setup.settings);
        client.armed = self.wheel.arm(at as u32, client.armed, next_ms);
    }

    fn handle(&mut self, event: &Ready) {
        let low = event.token & 0xffff_ffff;
        if low & COURIER != 0 {
            let line = (low & !COURIER) as usize;
            self.courier.ready(line, event.writable, &mut self.world);
            return;
        }
        let generation = (event.token >> 32) as u32;
        if let Some(client) = self.clients.get_mut(low as usize) {
            client.ready(generation, event.writable, &mut self.world);
            self.settle(low as usize);
        }
    }

    /// As many as the rate allows by now.
    fn begin_connects(&mut self, elapsed_ms: u64) {
        let allowed = (elapsed_ms as f64 / 1_000.0 * self.connects_per_s) as usize + 1;
        let turn_end = self.begun + CONNECTS_PER_TURN;
        while self.begun < allowed.min(self.clients.len()).min(turn_end) {
            self.clients[self.begun].connect(&mut self.world);
            self.settle(self.begun);
            self.begun += 1;
        }
    }

    /// Answers to `POST`s go to the clients that asked.
    fn answered(&mut self) {
        while let Some((errand, answer)) = self.courier.take_answer() {
            let at = (errand.client - self.world.first) as usize;
            self.clients[at].posted(&errand.say, answer, &mut self.world);
            self.settle(at);
        }
    }
}

impl World {
    /// What a client's rules may touch.
    pub fn context(&mut self, client: u32) -> Context<'_> {
        Context {
            settings: &self.setup.settings,
            streams: &mut self.streams,
            tally: &mut self.tally,
            random: &mut self.random,
            roster: Some(&self.setup.roster),
            client,
            now_ms: self.now_ms,
        }
    }
}
