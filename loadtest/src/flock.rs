//! One thread's clients and the loop that drives them: an epoll set, one receive buffer, one sweep.

use crate::{
    client::Client,
    courier::{Courier, Errand},
    cursor::Numbers,
    roster::Roster,
    rules::{Context, Say, Settings, StreamNames},
    sys::{Epoll, Ready},
    tally::{Counters, Tally},
};
use rand::{SeedableRng, rngs::SmallRng};
use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// One receive buffer per thread.
const BUFFER_BYTES: usize = 256 * 1024;
/// How long the loop may wait: the grain of first connects.
const WAIT: Duration = Duration::from_millis(10);
/// Every client is looked at this often.
const SWEEP_MS: u64 = 100;
/// First connects between two looks at the sockets.
const CONNECTS_PER_TURN: usize = 64;
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
    pub backoff_ms: u64,
    pub with_accounts: bool,
    pub started: Instant,
}

#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    pub host: String,
    pub path: String,
}

impl Setup {
    pub fn source(&self, client: u32) -> Option<IpAddr> {
        match self.sources.len() {
            0 => None,
            count => Some(self.sources[client as usize % count]),
        }
    }
}

/// How the main thread follows and ends a flock.
#[derive(Debug, Default)]
pub struct Link {
    pub stop: AtomicBool,
    pub counters: Mutex<Counters>,
}

/// What a thread lends to each of its clients.
pub struct World {
    pub setup: Arc<Setup>,
    pub epoll: Epoll,
    pub streams: StreamNames,
    pub tally: Tally,
    pub random: SmallRng,
    pub buffer: Vec<u8>,
    pub says: Vec<Say>,
    /// `POST`s of SSE clients on their way to a courier.
    pub errands: VecDeque<Errand>,
    pub now_ms: u64,
    /// Number of the thread's first client.
    first: u32,
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
    pub ever_welcomed: bool,
}

pub struct Flock {
    world: World,
    clients: Vec<Client>,
    courier: Courier,
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
    ) -> io::Result<Flock> {
        let urls = setup.targets.len();
        Ok(Flock {
            clients: numbers
                .clone()
                .map(|number| Client::new(number, urls))
                .collect(),
            courier: Courier::default(),
            world: World {
                epoll: Epoll::new()?,
                streams: StreamNames::default(),
                tally: Tally::new(setup.with_accounts),
                random: SmallRng::seed_from_u64(rand::random()),
                buffer: vec![0; BUFFER_BYTES],
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
        let mut ready = Vec::new();
        let (mut swept_ms, mut turned) = (0, Instant::now());
        let began_ms = self.world.setup.started.elapsed().as_millis() as u64;
        while !self.link.stop.load(Ordering::Relaxed) {
            let waited_from = Instant::now();
            self.world.tally.busy(waited_from - turned);
            self.world.epoll.wait(&mut ready, WAIT)?;
            turned = Instant::now();
            self.world.now_ms = self.world.setup.started.elapsed().as_millis() as u64;
            for event in &ready {
                self.handle(event);
            }
            self.begin_connects(self.world.now_ms - began_ms);
            if self.world.now_ms >= swept_ms + SWEEP_MS {
                swept_ms = self.world.now_ms;
                let mut syncing = 0;
                for client in &mut self.clients {
                    client.tick(&mut self.world);
                    syncing += u64::from(client.rules.is_syncing());
                }
                self.world.tally.counters.syncing = syncing;
                self.courier.tick(&mut self.world);
                *self.link.counters.lock().expect("no panics") = self.world.tally.counters;
            }
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
        }
    }

    /// As many as the rate allows by now.
    fn begin_connects(&mut self, elapsed_ms: u64) {
        let allowed = (elapsed_ms as f64 / 1_000.0 * self.connects_per_s) as usize + 1;
        let turn_end = self.begun + CONNECTS_PER_TURN;
        while self.begun < allowed.min(self.clients.len()).min(turn_end) {
            self.clients[self.begun].connect(&mut self.world);
            self.begun += 1;
        }
    }

    /// Answers to `POST`s go to the clients that asked.
    fn answered(&mut self) {
        while let Some((errand, answer)) = self.courier.take_answer() {
            let at = errand.client - self.world.first;
            let client = &mut self.clients[at as usize];
            client.posted(&errand.say, answer, &mut self.world);
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
            client,
            now_ms: self.now_ms,
        }
    }
}
