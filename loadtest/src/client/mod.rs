//! One client's connection: opening, open, away. What the frames mean is in [`crate::rules`].

mod carried;
mod incoming;
mod outgoing;

use crate::{
    flock::{Last, Target, World},
    rules::{Rules, Settings, come_back_after_ms, comes_back, unix_us},
    sys::{self, Interest},
    tally::count,
    tls::Tls,
    wheel::NEVER,
    wire::{head::Request, sse::Body, ws},
};
use rand::{Rng, RngExt};
use std::{borrow::Cow, io, mem::size_of, net::TcpStream};

/// From `connect` to `welcome`.
const OPENING_MS: u64 = 20_000;

/// There are up to a million; what is only there at times is boxed.
#[derive(Debug)]
pub struct Client {
    pub rules: Rules,
    pub number: u32,
    /// Tells events of this socket from those of the one before it.
    generation: u32,
    /// For when it stands in the thread's wheel.
    pub armed: u32,
    socket: Option<TcpStream>,
    /// Away: when to connect. Opening: when to give up. Open: when to leave, as asked.
    at_ms: u64,
    phase: Phase,
    /// Failed attempts since it was last welcomed.
    attempt: u8,
    url: u8,
    ever_welcomed: bool,
    wants_write: bool,
    /// Does not read, as the scenario has it.
    is_stalled: bool,
    /// Is away as the scenario has it, and its time to come back is still to come.
    is_sent_away: bool,
    /// Whether it is among those counted as syncing.
    pub counted_syncing: bool,
    work: Option<Box<Work>>,
    tls: Option<Box<Tls>>,
}

const _: () = assert!(size_of::<Client>() <= 232);

/// What an open connection at rest has not.
#[derive(Debug, Default)]
struct Work {
    /// What of the stream is not whole yet.
    input: Vec<u8>,
    /// What of a saying of NATS is not whole yet, out of its frames.
    partial: Vec<u8>,
    /// What the socket did not take yet.
    output: Vec<u8>,
    /// Of a WebSocket that opens.
    key: [u8; 16],
    connecting_us: u64,
    /// When it was lost after it had been open; 0 while it is, and before.
    lost_us: u64,
}

#[derive(Debug)]
enum Phase {
    /// Its turn has not come.
    New,
    Away,
    /// Sent (or sends) its request.
    Opening,
    WebSocket,
    Events(Body),
    /// Stays away for good.
    Gone,
}

/// Why a connection ended.
#[derive(Debug)]
enum End {
    /// The server closed it, with this code.
    Closed(Option<u16>),
    /// The server answered something else than a stream.
    Status(u16, Option<u64>),
    /// The connection broke, or was given up.
    Broken(&'static str),
    Failed(io::Error),
    Tls(rustls::Error),
    /// The server asked to come back after so many ms.
    Sent(u64),
    /// The scenario wants it away for so many ms.
    Left(u64),
    /// The scenario broke it; whether it comes back in its slot or at once.
    Cut(bool),
}

impl Client {
    pub fn new(number: u32, urls: usize) -> Client {
        Client {
            rules: Rules::default(),
            number,
            generation: 0,
            armed: NEVER,
            socket: None,
            at_ms: u64::MAX,
            phase: Phase::New,
            attempt: 0,
            url: (number as usize % urls) as u8,
            ever_welcomed: false,
            wants_write: false,
            is_stalled: false,
            is_sent_away: false,
            counted_syncing: false,
            work: None,
            tls: None,
        }
    }

    /// What stands at the end of the run.
    pub fn into_last(self, world: &World) -> Last {
        Last {
            cursors: match world.setup.with_accounts {
                true => self.rules.cursors_text(&world.streams),
                false => String::new(),
            },
            number: self.number,
            unique: self.rules.unique(),
            has_hole: self.rules.has_hole(),
            is_syncing: self.rules.is_syncing(),
            is_stalled: self.is_stalled,
            is_sent_away: self.is_sent_away,
            ever_welcomed: self.ever_welcomed,
            own: self.rules.own,
            all: self.rules.all,
        }
    }

    pub fn generation(&self) -> u32 {
        self.generation
    }

    fn is_open(&self) -> bool {
        matches!(self.phase, Phase::WebSocket | Phase::Events(_))
    }

    fn work(&mut self) -> &mut Work {
        self.work.get_or_insert_default()
    }

    /// When it has to be looked at, should nothing happen to it.
    pub fn next_ms(&self, settings: &Settings) -> u64 {
        match self.phase {
            Phase::New | Phase::Gone => u64::MAX,
            _ if self.is_stalled => u64::MAX,
            Phase::Away | Phase::Opening => self.at_ms,
            Phase::WebSocket | Phase::Events(_) => self.at_ms.min(self.rules.next_ms(settings)),
        }
    }

    /// Gives memory back that a connection at rest does not need.
    pub fn rest(&mut self) {
        let idle = |work: &Work| {
            work.input.is_empty() && work.partial.is_empty() && work.output.is_empty()
        };
        if self.is_open() && self.rules.is_welcomed() && self.work.as_deref().is_some_and(idle) {
            self.work = None;
        }
    }

    // ── opening ────────────────────────────────────────────────────────────────────────────────

    pub fn connect(&mut self, world: &mut World) {
        let setup = world.setup.clone();
        let target = &setup.targets[usize::from(self.url)];
        self.rules.connecting(world.now_ms);
        self.generation = self.generation.wrapping_add(1);
        self.is_sent_away = false;
        self.at_ms = world.now_ms + OPENING_MS;
        world.tally.counters.connects += 1;

        let mut key = [0; 16];
        world.random.fill_bytes(&mut key);
        self.phase = Phase::Opening;
        let request = self.request(target, key, world);
        let first = self.first_bytes(target, request, world);
        let work = self.work.get_or_insert_default();
        (work.key, work.connecting_us) = (key, world.now_us());
        match first {
            Ok(bytes) => work.output = bytes,
            Err(end) => return self.end(end, world),
        }
        let source = setup.source(self.number);
        let opened = sys::connect(target.address, source).and_then(|socket| {
            world
                .epoll
                .add(&socket, world.token(self), Interest::ReadWrite)?;
            Ok(socket)
        });
        self.wants_write = true;
        match opened {
            Ok(socket) => self.socket = Some(socket),
            Err(error) => self.end(End::Failed(error), world),
        }
    }

    fn request(&self, target: &Target, key: [u8; 16], world: &World) -> Vec<u8> {
        let setup = &world.setup;
        if setup.dialect.only_carries() {
            let (host, path) = (&target.host, &target.path);
            return setup.dialect.upgrade(host, path, &self.user(world), key);
        }
        let request = Request {
            host: &target.host,
            path: &target.path,
            token: &setup.roster.token(self.number),
            cursors: &self.rules.cursors_text(&world.streams),
            away_ms: self.away_ms(world),
        };
        match setup.sse {
            true => request.events(),
            false => request.websocket(key),
        }
    }

    /// Since it lost its last connection, if nobody asked it to leave.
    fn away_ms(&self, world: &World) -> Option<u64> {
        let lost_us = self.work.as_ref().map_or(0, |work| work.lost_us);
        (lost_us > 0).then(|| world.now_us().saturating_sub(lost_us) / 1_000)
    }

    /// The request, or what TLS begins with; the request follows its handshake.
    fn first_bytes(
        &mut self,
        target: &Target,
        request: Vec<u8>,
        world: &World,
    ) -> Result<Vec<u8>, End> {
        let Some(connector) = world.connector.as_ref().filter(|_| target.tls) else {
            self.tls = None;
            return Ok(request);
        };
        let mut tls = Tls::new(connector, &target.host, self.ever_welcomed).map_err(End::Tls)?;
        let mut hello = Vec::new();
        tls.seal(&request, &mut hello).map_err(End::Tls)?;
        self.tls = Some(Box::new(tls));
        Ok(hello)
    }

    /// Something happened to the socket of this generation.
    pub fn ready(&mut self, generation: u32, writable: bool, world: &mut World) {
        if generation != self.generation || self.socket.is_none() {
            return;
        }
        if self.is_stalled {
            self.end(End::Broken("broke while it did not read"), world);
            return;
        }
        let result = if writable { self.flush(world) } else { Ok(()) }
            .and_then(|()| self.read(world))
            .and_then(|()| self.say_what_is_due(world));
        if let Err(end) = result {
            self.end(end, world);
        }
    }

    // ── time ───────────────────────────────────────────────────────────────────────────────────

    /// Something may be due.
    pub fn tick(&mut self, world: &mut World) {
        let now_ms = world.now_ms;
        let result = match &self.phase {
            Phase::New | Phase::Gone => Ok(()),
            _ if self.is_stalled => Ok(()),
            Phase::Away if now_ms >= self.at_ms => {
                self.connect(world);
                Ok(())
            }
            Phase::Away => Ok(()),
            _ if now_ms >= self.at_ms && self.rules.is_welcomed() => Err(End::Sent(0)),
            _ if now_ms >= self.at_ms => Err(End::Broken("not welcomed in time")),
            _ if self.is_open() && self.rules.is_dead(now_ms) => Err(End::Broken("silent")),
            _ => self.say_what_is_due(world),
        };
        if let Err(end) = result {
            self.end(end, world);
        }
    }

    /// Leaves for good, in good order. It still counts as connected: it was, at the end of the run.
    pub fn leave(&mut self, world: &mut World) {
        if matches!(self.phase, Phase::WebSocket) {
            ws::write_close(1000, world.random.random(), &mut world.output);
            let _ = self.flush(world);
        }
        self.socket = None;
        (self.work, self.tls) = (None, None);
        self.phase = Phase::Gone;
    }

    // ── what the scenario does to it ───────────────────────────────────────────────────────────

    /// In good order, and comes back.
    pub fn leave_for(&mut self, away_ms: u64, world: &mut World) {
        if !self.is_open() || !self.rules.is_welcomed() || self.is_stalled {
            return;
        }
        if matches!(self.phase, Phase::WebSocket) {
            ws::write_close(1000, world.random.random(), &mut world.output);
            let _ = self.flush(world);
        }
        self.end(End::Left(away_ms), world);
    }

    pub fn lose_connection(&mut self, in_slot: bool, world: &mut World) {
        if self.socket.is_some() {
            self.end(End::Cut(in_slot), world);
        }
    }

    pub fn stop_reading(&mut self, world: &mut World) {
        if self.is_open() {
            self.is_stalled = true;
            self.listen_for(Interest::Nothing, world);
        }
    }

    pub fn read_again(&mut self, world: &mut World) {
        if self.is_stalled {
            self.is_stalled = false;
            // Its own silence is not the server's.
            self.rules.heard(world.now_ms);
            self.wants_write = true;
            self.listen_for(Interest::ReadWrite, world);
        }
    }

    fn listen_for(&mut self, interest: Interest, world: &mut World) {
        let token = world.token(self);
        let Some(socket) = &self.socket else {
            return;
        };
        if let Err(error) = world.epoll.change(socket, token, interest) {
            self.end(End::Failed(error), world);
        }
    }

    fn end(&mut self, end: End, world: &mut World) {
        let was_open = self.rules.is_welcomed() && self.socket.is_some();
        if was_open {
            world.tally.counters.connected -= 1;
            if let Some(accounts) = &mut world.tally.accounts {
                accounts.ended(self.number, unix_us() / 1000);
            }
        }
        self.socket = None;
        self.tls = None;
        world.output.clear();
        world.sealed.clear();
        let work = self.work.get_or_insert_default();
        (work.input, work.partial, work.output) = Default::default();
        if was_open && !matches!(end, End::Left(_)) {
            work.lost_us = world.now_us();
        }
        self.is_stalled = false;
        self.is_sent_away = matches!(end, End::Left(_) | End::Cut(_));
        let asked_to_leave_at_ms = match self.rules.is_welcomed() {
            true if self.at_ms != u64::MAX => Some(self.at_ms),
            _ => None,
        };
        let (targets, url) = (world.setup.targets.len(), self.url);
        if targets > 1 && !matches!(end, End::Status(503, Some(_))) {
            let step = world.random.random_range(1..targets);
            self.url = ((usize::from(self.url) + step) % targets) as u8;
        }
        let away_ms = match (&end, asked_to_leave_at_ms) {
            (End::Closed(Some(code)), _) if !comes_back(*code) => None,
            (End::Sent(after_ms) | End::Left(after_ms), _) => Some(*after_ms),
            (End::Cut(false), _) => Some(0),
            (_, Some(at_ms)) => Some(at_ms.saturating_sub(world.now_ms)),
            (End::Status(status, None), _) if is_final(*status) => None,
            (End::Status(_, Some(after_s)), _) => {
                Some(after_s * 1_000 + world.random.random_range(0..1_000))
            }
            _ => Some(come_back_after_ms(
                self.rules.slot(),
                self.attempt.into(),
                world.setup.backoff_ms,
                &mut world.random,
            )),
        };
        self.attempt = self.attempt.saturating_add(1);
        if !self.ever_welcomed && world.tally.first_failure.is_none() {
            let host = &world.setup.targets[usize::from(url)].host;
            world.tally.first_failure = failure(&end).map(|why| format!("{host}: {why}"));
        }
        note(&end, world);
        // No longer welcomed: the next connection starts anew.
        self.rules.connecting(world.now_ms);
        match away_ms {
            Some(away_ms) => {
                self.phase = Phase::Away;
                self.at_ms = world.now_ms + away_ms;
            }
            None => {
                self.phase = Phase::Gone;
                self.work = None;
                world.tally.counters.gave_up += 1;
            }
        }
    }
}

/// Coming back with the same request would end the same way.
fn is_final(status: u16) -> bool {
    matches!(status, 204 | 400..=499) && !matches!(status, 408 | 429)
}

/// What went wrong, in words; `None`: nothing did, it is as it was asked for.
fn failure(end: &End) -> Option<Cow<'static, str>> {
    Some(match end {
        End::Closed(Some(code)) => format!("closed with {code}").into(),
        End::Closed(None) => "closed without a code".into(),
        // The shaping of a crowd rests on it.
        End::Status(503, None) => "HTTP 503 without Retry-After".into(),
        End::Status(status, _) => format!("HTTP {status}").into(),
        End::Broken(what) => (*what).into(),
        End::Tls(error) => format!("TLS: {error}").into(),
        End::Failed(error) => error.kind().to_string().into(),
        End::Sent(_) | End::Left(_) | End::Cut(_) => return None,
    })
}

fn note(end: &End, world: &mut World) {
    let tally = &mut world.tally;
    match end {
        End::Closed(Some(code)) => count(&mut tally.closes, &code.to_string()),
        End::Closed(None) => count(&mut tally.closes, "none"),
        End::Sent(_) => count(&mut tally.closes, "asked to reconnect"),
        End::Left(_) | End::Cut(_) => tally.counters.left += 1,
        End::Status(..) | End::Broken(_) | End::Tls(_) | End::Failed(_) => {
            count(&mut tally.failures, &failure(end).unwrap_or_default());
        }
    }
}
