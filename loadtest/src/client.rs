//! One client's connection: opening, open, away. What the frames mean is in [`crate::rules`].

use crate::{
    courier::{Errand, Posted},
    flock::{Last, World},
    frame::ServerFrame,
    rules::{Rules, Say, What, Wish, come_back_after_ms, unix_us},
    sys::{self, Interest},
    tally::count,
    wire::{
        head::{Answer, Request, expected_accept},
        sse::{self, Body},
        ws::{self, Frame},
    },
};
use rand::{Rng, RngExt};
use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

/// From `connect` to `welcome`.
const OPENING_MS: u64 = 20_000;
/// Unsent bytes of a client: a server that does not read loses it.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// There are up to a million; what is large is only there while it is needed.
#[derive(Debug)]
pub struct Client {
    pub rules: Rules,
    pub number: u32,
    /// Tells events of this socket from those of the one before it.
    generation: u32,
    /// Failed attempts since it was last welcomed.
    attempt: u32,
    url: u8,
    ever_welcomed: bool,
    wants_write: bool,
    phase: Phase,
    socket: Option<TcpStream>,
    /// What of the stream is not whole yet.
    input: Vec<u8>,
    output: Vec<u8>,
    /// Away: when to connect. Opening: when to give up. Open: when to leave, as asked.
    at_ms: u64,
    connecting_us: u64,
    /// When it was lost after it had been open; 0 while it is, and before.
    lost_us: u64,
}

const _: () = assert!(size_of::<Client>() <= 512);

#[derive(Debug)]
enum Phase {
    /// Its turn has not come.
    New,
    Away,
    /// Sent (or sends) its request; the key of a WebSocket.
    Opening([u8; 16]),
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
    /// The server asked to come back after so many ms.
    Sent(u64),
}

impl Client {
    pub fn new(number: u32, urls: usize) -> Client {
        Client {
            rules: Rules::default(),
            number,
            generation: 0,
            attempt: 0,
            url: (number as usize % urls) as u8,
            ever_welcomed: false,
            wants_write: false,
            phase: Phase::New,
            socket: None,
            input: Vec::new(),
            output: Vec::new(),
            at_ms: u64::MAX,
            connecting_us: 0,
            lost_us: 0,
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

    // ── opening ────────────────────────────────────────────────────────────────────────────────

    pub fn connect(&mut self, world: &mut World) {
        let setup = world.setup.clone();
        let target = &setup.targets[usize::from(self.url)];
        self.rules.connecting(world.now_ms);
        self.generation = self.generation.wrapping_add(1);
        self.at_ms = world.now_ms + OPENING_MS;
        self.connecting_us = world.now_us();
        world.tally.counters.connects += 1;

        let mut key = [0; 16];
        world.random.fill_bytes(&mut key);
        self.phase = Phase::Opening(key);
        let request = Request {
            host: &target.host,
            path: &target.path,
            token: &setup.roster.token(self.number),
            cursors: &self.rules.cursors_text(&world.streams),
        };
        self.output = match setup.sse {
            true => request.events(),
            false => request.websocket(key),
        };
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

    /// Something happened to the socket of this generation.
    pub fn ready(&mut self, generation: u32, writable: bool, world: &mut World) {
        if generation != self.generation || self.socket.is_none() {
            return;
        }
        let result = if writable { self.flush(world) } else { Ok(()) }
            .and_then(|()| self.read(world))
            .and_then(|()| self.say_what_is_due(world));
        if let Err(end) = result {
            self.end(end, world);
        }
    }

    fn read(&mut self, world: &mut World) -> Result<(), End> {
        let mut buffer = std::mem::take(&mut world.buffer);
        let result = self.read_into(&mut buffer, world);
        world.buffer = buffer;
        result
    }

    fn read_into(&mut self, buffer: &mut [u8], world: &mut World) -> Result<(), End> {
        loop {
            let Some(socket) = &mut self.socket else {
                return Ok(());
            };
            match socket.read(buffer) {
                Ok(0) => return Err(End::Broken(self.closed_silently())),
                Ok(length) => {
                    world.tally.counters.bytes += length as u64;
                    self.rules.heard(world.now_ms);
                    self.take(&buffer[..length], world)?;
                    if length < buffer.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(End::Failed(error)),
            }
        }
    }

    fn closed_silently(&self) -> &'static str {
        match &self.phase {
            Phase::Opening(_) if self.output.is_empty() => "closed without an answer",
            Phase::Opening(_) => "closed before the request was sent",
            _ => "closed without a close frame",
        }
    }

    /// Bytes of the connection, after those that were not whole.
    fn take(&mut self, bytes: &[u8], world: &mut World) -> Result<(), End> {
        if let Phase::Events(body) = &mut self.phase {
            let mut text = std::mem::take(&mut self.input);
            body.decode(bytes, &mut text)
                .map_err(|bad| End::Broken(bad.0))?;
            let used = self.take_events(&text, world)?;
            text.drain(..used);
            self.keep(text);
            return match &self.phase {
                Phase::Events(Body::Ended) => Err(End::Broken("the stream of events ended")),
                _ => Ok(()),
            };
        }
        if self.input.is_empty() {
            let used = self.take_whole(bytes, world)?;
            self.input.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut all = std::mem::take(&mut self.input);
        all.extend_from_slice(bytes);
        let used = self.take_whole(&all, world)?;
        all.drain(..used);
        // A head may have been followed by events, which are kept decoded.
        match self.input.is_empty() {
            true => self.keep(all),
            false => debug_assert!(all.is_empty()),
        }
        Ok(())
    }

    /// Gives memory back as soon as nothing is in it.
    fn keep(&mut self, bytes: Vec<u8>) {
        self.input = if bytes.is_empty() { Vec::new() } else { bytes };
    }

    fn take_whole(&mut self, bytes: &[u8], world: &mut World) -> Result<usize, End> {
        let mut used = 0;
        if let Phase::Opening(key) = self.phase {
            let head = Answer::parse(bytes).map_err(|_| End::Broken("no HTTP answer"))?;
            let Some(answer) = head else {
                return Ok(0);
            };
            used = answer.length;
            self.opened(answer, key, world)?;
            if matches!(self.phase, Phase::Events(_)) {
                self.take(&bytes[used..], world)?;
                return Ok(bytes.len());
            }
        }
        while let Some((frame, length)) =
            ws::parse(&bytes[used..]).map_err(|bad| End::Broken(bad.0))?
        {
            used += length;
            self.take_frame(frame, world)?;
        }
        Ok(used)
    }

    fn opened(&mut self, answer: Answer, key: [u8; 16], world: &World) -> Result<(), End> {
        self.phase = match (answer.status, world.setup.sse) {
            (101, false) if answer.accept.as_deref() != Some(&*expected_accept(key)) => {
                return Err(End::Broken("wrong Sec-WebSocket-Accept"));
            }
            (101, false) => Phase::WebSocket,
            (200, true) => Phase::Events(Body::new(answer.chunked)),
            (status, _) => return Err(End::Status(status, answer.retry_after_s)),
        };
        Ok(())
    }

    // ── open ───────────────────────────────────────────────────────────────────────────────────

    fn take_frame(&mut self, frame: Frame<'_>, world: &mut World) -> Result<(), End> {
        match frame {
            Frame::Text(text) => self.take_json(text, world),
            Frame::Ping(payload) => {
                ws::write_pong(payload, world.random.random(), &mut self.output);
                self.flush(world)
            }
            Frame::Pong => Ok(()),
            Frame::Close(code) => {
                let answer = code.unwrap_or(1000);
                ws::write_close(answer, world.random.random(), &mut self.output);
                // It may be gone already; then it does not need the answer.
                let _ = self.flush(world);
                Err(End::Closed(code))
            }
        }
    }

    fn take_events(&mut self, text: &[u8], world: &mut World) -> Result<usize, End> {
        let mut used = 0;
        while let Some((event, length)) =
            sse::parse(&text[used..]).map_err(|bad| End::Broken(bad.0))?
        {
            used += length;
            if !event.data.is_empty() {
                self.take_json(event.data, world)?;
            }
            if let Some(id) = event.id {
                self.rules
                    .check_event_id(id, &mut world.context(self.number));
            }
        }
        Ok(used)
    }

    fn take_json(&mut self, json: &str, world: &mut World) -> Result<(), End> {
        let Ok(frame) = ServerFrame::parse(json) else {
            world.tally.counters.unreadable += 1;
            return Ok(());
        };
        let was_welcomed = self.rules.is_welcomed();
        let wish = self.rules.receive(&frame, &mut world.context(self.number));
        if !was_welcomed && self.rules.is_welcomed() {
            self.welcomed(world);
        }
        match wish {
            Some(Wish::ReconnectAfter(after_ms)) => self.at_ms = world.now_ms + after_ms,
            Some(Wish::RefreshToken) => return self.refresh(world),
            None => {}
        }
        Ok(())
    }

    fn welcomed(&mut self, world: &mut World) {
        let counters = &mut world.tally.counters;
        counters.connected += 1;
        match self.ever_welcomed {
            true => counters.reconnects += 1,
            false => counters.ever_connected += 1,
        }
        if let Some(accounts) = &mut world.tally.accounts {
            accounts.welcomed(self.number, unix_us() / 1000);
        }
        self.ever_welcomed = true;
        self.attempt = 0;
        self.at_ms = u64::MAX;
        let took_us = world.now_us().saturating_sub(self.connecting_us);
        world.tally.connect_us.saturating_record(took_us.max(1));
        if self.lost_us > 0 {
            let away_us = world.now_us().saturating_sub(self.lost_us);
            world.tally.return_us.saturating_record(away_us.max(1));
            self.lost_us = 0;
        }
    }

    /// SSE can't: it is closed when the token runs out, and returns with a new one.
    fn refresh(&mut self, world: &mut World) -> Result<(), End> {
        if !matches!(self.phase, Phase::WebSocket) {
            return Ok(());
        }
        let token = world.setup.roster.token(self.number);
        let json = format!(r#"{{"type":"auth","token":"{token}"}}"#);
        ws::write_text(&json, world.random.random(), &mut self.output);
        self.flush(world)
    }

    fn say_what_is_due(&mut self, world: &mut World) -> Result<(), End> {
        if !self.is_open() {
            return Ok(());
        }
        let mut says = std::mem::take(&mut world.says);
        self.rules.due(&mut world.context(self.number), &mut says);
        for say in says.drain(..) {
            self.say(say, world);
        }
        world.says = says;
        self.flush(world)
    }

    fn say(&mut self, say: Say, world: &mut World) {
        match (&self.phase, say.what) {
            (Phase::Events(_), What::Ping) => {}
            (Phase::Events(_), _) => world.errands.push_back(Errand {
                client: self.number,
                url: self.url,
                tries: 0,
                say,
            }),
            _ => {
                world.tally.counters.acks_sent += say.ids.len() as u64;
                ws::write_text(&say.json, world.random.random(), &mut self.output);
            }
        }
    }

    /// What became of a `POST` beside a stream of events.
    pub fn posted(&mut self, say: &Say, answer: Posted, world: &mut World) {
        let Some(json) = answer else {
            self.rules.not_said(say, &mut world.context(self.number));
            return;
        };
        world.tally.counters.acks_sent += say.ids.len() as u64;
        let result = match say.what {
            What::Sync => self.take_json(&json, world),
            What::Ack | What::Ping => Ok(()),
        };
        if let Err(end) = result {
            self.end(end, world);
        }
    }

    fn flush(&mut self, world: &World) -> Result<(), End> {
        let token = world.token(self);
        let Some(socket) = &mut self.socket else {
            return Ok(());
        };
        let mut sent = 0;
        while sent < self.output.len() {
            match socket.write(&self.output[sent..]) {
                Ok(length) => sent += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(End::Failed(error)),
            }
        }
        self.output.drain(..sent);
        if self.output.is_empty() {
            self.output = Vec::new();
        } else if self.output.len() > OUTPUT_BYTES_MAX {
            return Err(End::Broken("the server does not read"));
        }
        let wants_write = !self.output.is_empty();
        if wants_write != self.wants_write {
            self.wants_write = wants_write;
            let interest = match wants_write {
                true => Interest::ReadWrite,
                false => Interest::Read,
            };
            let changed = world.epoll.change(socket, token, interest);
            changed.map_err(End::Failed)?;
        }
        Ok(())
    }

    // ── time ───────────────────────────────────────────────────────────────────────────────────

    /// A sweep of the thread passes by, about ten times a second.
    pub fn tick(&mut self, world: &mut World) {
        let now_ms = world.now_ms;
        let result = match &self.phase {
            Phase::New | Phase::Gone => Ok(()),
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
            ws::write_close(1000, world.random.random(), &mut self.output);
            let _ = self.flush(world);
        }
        self.socket = None;
        self.phase = Phase::Gone;
    }

    fn end(&mut self, end: End, world: &mut World) {
        if self.rules.is_welcomed() && self.socket.is_some() {
            world.tally.counters.connected -= 1;
            self.lost_us = world.now_us();
            if let Some(accounts) = &mut world.tally.accounts {
                accounts.ended(self.number, unix_us() / 1000);
            }
        }
        self.socket = None;
        self.input = Vec::new();
        self.output = Vec::new();
        let asked_to_leave_at_ms = match self.rules.is_welcomed() {
            true if self.at_ms != u64::MAX => Some(self.at_ms),
            _ => None,
        };
        let targets = world.setup.targets.len();
        if targets > 1 && !matches!(end, End::Status(503, Some(_))) {
            let step = world.random.random_range(1..targets);
            self.url = ((usize::from(self.url) + step) % targets) as u8;
        }
        let away_ms = match (&end, asked_to_leave_at_ms) {
            (End::Sent(after_ms), _) => Some(*after_ms),
            (_, Some(at_ms)) => Some(at_ms.saturating_sub(world.now_ms)),
            (End::Closed(Some(4500..)), _) => None,
            (End::Status(status, None), _) if is_final(*status) => None,
            (End::Status(_, Some(after_s)), _) => {
                Some(after_s * 1_000 + world.random.random_range(0..1_000))
            }
            _ => Some(come_back_after_ms(
                self.rules.slot(),
                self.attempt,
                world.setup.backoff_ms,
                &mut world.random,
            )),
        };
        self.attempt = self.attempt.saturating_add(1);
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
                world.tally.counters.gave_up += 1;
            }
        }
    }
}

/// Coming back with the same request would end the same way.
fn is_final(status: u16) -> bool {
    matches!(status, 204 | 400..=499) && !matches!(status, 408 | 429)
}

fn note(end: &End, world: &mut World) {
    let tally = &mut world.tally;
    match end {
        End::Closed(Some(code)) => count(&mut tally.closes, &code.to_string()),
        End::Closed(None) => count(&mut tally.closes, "none"),
        End::Status(status, _) => count(&mut tally.failures, &format!("HTTP {status}")),
        End::Broken(what) => count(&mut tally.failures, what),
        End::Failed(error) => count(&mut tally.failures, &error.kind().to_string()),
        End::Sent(_) => count(&mut tally.closes, "asked to reconnect"),
    }
}
