//! The floor: one thread, one epoll set, `send`, and nothing around it.
//!
//! It accepts WebSocket clients, greets each with a `welcome` that names no heartbeat worth speaking of, and
//! sends what standard input says:
//!
//! * `all JSON`: one text frame to every client;
//! * `each RATE COUNT JSON`: COUNT frames to one client after the other, RATE a second (0: as fast as it
//!   goes). The first run of twelve zeroes in JSON is the end of an id and becomes the number of the frame;
//! * `ping MS`: from now on a ping to everyone in so many ms, those that are due every 50 ms;
//! * `count`: how many clients there are.
//!
//! Each is answered by one line: `sent N blocked M`, `pinging`, or `clients N`. The same is had by HTTP, one request in one piece:
//! `POST /all`, or `POST /USER` for whoever came by a path that ends with that number; and over one connection that
//! carries one after the other, answered by nothing: see [`publisher`].
//!
//! It keeps four bytes of a socket, one of state and four of a number per client, judges no token and no frame, and
//! answers no ping: below this a server can't go.

mod publisher;
mod sys;

use anyhow::{Context, Result, bail};
use publisher::{ALL, Publisher};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};
use sys::Epoll;
use tungstenite::handshake::derive_accept_key;

const LISTENER: u64 = u64::MAX;
const INPUT: u64 = u64::MAX - 1;
/// How often what is due of the pings is sent, as Herald does.
const TICK: Duration = Duration::from_millis(50);
const PING: [u8; 2] = [0x89, 0];
/// No slot.
const NOBODY: u32 = u32::MAX;
const WELCOME: &str = r#"{"type":"welcome","connection":"floor","heartbeat_ms":3600000,"slot":{"after_ms_min":0,"after_ms_max":1000}}"#;

struct Floor {
    epoll: Epoll,
    listener: TcpListener,
    clients: Vec<Option<TcpStream>>,
    /// Whether the client has been answered.
    upgraded: Vec<bool>,
    /// Slots by the numbers that clients came with.
    users: Vec<u32>,
    free: Vec<u32>,
    open: usize,
    buffer: Box<[u8]>,
    /// What of standard input is not a line yet.
    line: Vec<u8>,
    series: Option<Series>,
    publisher: Option<Publisher>,
    pings: Option<Pings>,
}

struct Pings {
    /// In which everyone is pinged once.
    round: Duration,
    began: Instant,
    ticked: Instant,
    done: u64,
    next_client: usize,
    tally: Tally,
}

impl Pings {
    /// Until the next tick.
    fn pause(&self) -> Duration {
        TICK.saturating_sub(self.ticked.elapsed())
    }
}

/// An `each` under way.
struct Series {
    frame: Vec<u8>,
    /// Where the number stands in the frame.
    number_at: usize,
    rate: f64,
    count: u64,
    done: u64,
    next_client: usize,
    began: Instant,
    tally: Tally,
}

impl Series {
    /// Until the next frame is due.
    fn pause(&self) -> Duration {
        let due_s = match self.rate {
            0.0 => 0.0,
            rate => (self.done + 1) as f64 / rate,
        };
        Duration::from_secs_f64(due_s).saturating_sub(self.began.elapsed())
    }
}

#[derive(Default)]
struct Tally {
    sent: u64,
    blocked: u64,
}

fn main() -> Result<()> {
    let address = std::env::args().nth(1).context("usage: floor ADDRESS")?;
    sys::raise_descriptor_limit()?;
    let listener = sys::listen(address.parse().context("no address")?)?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new()?;
    epoll.add(&listener, LISTENER)?;
    epoll.add(&io::stdin(), INPUT)?;
    let mut floor = Floor {
        epoll,
        listener,
        clients: Vec::new(),
        upgraded: Vec::new(),
        users: Vec::new(),
        free: Vec::new(),
        open: 0,
        buffer: vec![0; 64 * 1024].into(),
        line: Vec::new(),
        series: None,
        pings: None,
        publisher: None,
    };
    say(format_args!("ready"))?;
    while floor.turn()? {}
    Ok(())
}

fn say(line: std::fmt::Arguments<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

impl Floor {
    /// False once standard input has ended.
    fn turn(&mut self) -> Result<bool> {
        let pause = self.series.as_ref().map(Series::pause);
        let tick = self.pings.as_ref().map(Pings::pause);
        let timeout = pause.into_iter().chain(tick).min();
        let mut tokens = [0; sys::EVENTS];
        let count = self.epoll.wait(&mut tokens, timeout)?;
        for &token in &tokens[..count] {
            match token {
                LISTENER => self.accept()?,
                INPUT => {
                    if !self.listen_to_input()? {
                        return Ok(false);
                    }
                }
                slot => self.hear(slot as usize),
            }
        }
        self.go_on()?;
        self.ping();
        Ok(true)
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            match self.listener.accept() {
                Ok((socket, _)) => {
                    socket.set_nonblocking(true)?;
                    socket.set_nodelay(true)?;
                    let slot = self.free.pop().unwrap_or(self.clients.len() as u32) as usize;
                    self.epoll.add(&socket, slot as u64)?;
                    if slot == self.clients.len() {
                        self.clients.push(None);
                        self.upgraded.push(false);
                    }
                    self.clients[slot] = Some(socket);
                    self.upgraded[slot] = false;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("accept"),
            }
        }
    }

    /// Whatever a client says after its request is read and forgotten.
    fn hear(&mut self, slot: usize) {
        let Some(mut socket) = self.clients[slot].as_ref() else {
            return;
        };
        let length = match socket.read(&mut self.buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(_) => 0,
        };
        let alive = match (length, self.upgraded[slot]) {
            (0, _) => false,
            (_, true) => return,
            (_, false) if self.publish(slot, length) => return,
            // A request of the load tool comes in one piece.
            (_, false) if self.buffer.starts_with(b"POST ") => {
                if self.post(slot, length).is_none() {
                    self.clients[slot] = None;
                    self.free.push(slot as u32);
                }
                return;
            }
            (_, false) => {
                let socket = self.clients[slot].as_ref();
                socket
                    .and_then(|socket| answer(socket, &self.buffer[..length]))
                    .is_some()
            }
        };
        if alive && let Some(user) = user_of(&self.buffer[..length]) {
            self.users.resize(self.users.len().max(user + 1), NOBODY);
            self.users[user] = slot as u32;
        }
        self.upgraded[slot] |= alive;
        match alive {
            true => self.open += 1,
            false => {
                self.open -= usize::from(self.upgraded[slot]);
                self.publisher.take_if(|publisher| publisher.slot == slot);
                self.clients[slot] = None;
                self.free.push(slot as u32);
            }
        }
    }

    /// Sends a request's body, and says so.
    fn post(&self, slot: usize, length: usize) -> Option<()> {
        let request = std::str::from_utf8(&self.buffer[..length]).ok()?;
        let (_, body) = request.split_once("\r\n\r\n")?;
        let (frame, mut tally) = (text_frame(body), Tally::default());
        match user_of(request.as_bytes()) {
            Some(user) => self.send(*self.users.get(user)? as usize, &frame, &mut tally),
            None => self.send_all(&frame, &mut tally),
        }
        let answer: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
        let mut socket = self.clients[slot].as_ref()?;
        (socket.write(answer).ok()? == answer.len()).then_some(())
    }

    /// False: it is another who speaks.
    fn publish(&mut self, slot: usize, length: usize) -> bool {
        let bytes = &self.buffer[..length];
        let is_known = |publisher: &Publisher| publisher.slot == slot;
        let publisher = match self.publisher.take_if(|publisher| is_known(publisher)) {
            Some(publisher) => Some(publisher),
            None => Publisher::greeted(slot, bytes),
        };
        let Some(mut publisher) = publisher else {
            return false;
        };
        publisher.arrived(bytes);
        let mut tally = Tally::default();
        while let Some((user, text)) = publisher.next() {
            let frame = text_frame(text);
            match user {
                ALL => self.send_all(&frame, &mut tally),
                user => {
                    let slot = user
                        .parse()
                        .ok()
                        .and_then(|user: usize| self.users.get(user));
                    self.send(*slot.unwrap_or(&NOBODY) as usize, &frame, &mut tally);
                }
            }
        }
        publisher.done();
        self.publisher = Some(publisher);
        true
    }

    fn send_all(&self, frame: &[u8], tally: &mut Tally) {
        for slot in (0..self.clients.len()).filter(|slot| self.upgraded[*slot]) {
            self.send(slot, frame, tally);
        }
    }

    fn listen_to_input(&mut self) -> Result<bool> {
        let length = io::stdin().read(&mut self.buffer)?;
        if length == 0 {
            return Ok(false);
        }
        self.line.extend_from_slice(&self.buffer[..length]);
        while let Some(end) = self.line.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            self.obey(std::str::from_utf8(&line)?.trim_end())?;
        }
        Ok(true)
    }

    fn obey(&mut self, line: &str) -> Result<()> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        match command {
            "count" => say(format_args!("clients {}", self.open))?,
            "all" => {
                let frame = text_frame(rest);
                let mut tally = Tally::default();
                self.send_all(&frame, &mut tally);
                say(format_args!(
                    "sent {} blocked {}",
                    tally.sent, tally.blocked
                ))?;
            }
            "each" => {
                let mut words = rest.splitn(3, ' ');
                let mut word = || words.next().context("each RATE COUNT JSON");
                let (rate, count) = (word()?.parse()?, word()?.parse()?);
                let frame = text_frame(word()?);
                let zeroes = frame.windows(12).position(|window| window == [b'0'; 12]);
                self.series = Some(Series {
                    frame,
                    number_at: zeroes.context("no twelve zeroes")?,
                    rate,
                    count,
                    done: 0,
                    next_client: 0,
                    began: Instant::now(),
                    tally: Tally::default(),
                });
            }
            "ping" => {
                self.pings = Some(Pings {
                    round: Duration::from_millis(rest.parse()?),
                    began: Instant::now(),
                    ticked: Instant::now(),
                    done: 0,
                    next_client: 0,
                    tally: Tally::default(),
                });
                say(format_args!("pinging"))?;
            }
            _ => bail!("unknown command {command:?}"),
        }
        Ok(())
    }

    /// Sends what is due of the series.
    fn go_on(&mut self) -> Result<()> {
        let Some(mut series) = self.series.take() else {
            return Ok(());
        };
        let due = match series.rate {
            0.0 => series.count,
            rate => (series.began.elapsed().as_secs_f64() * rate) as u64,
        };
        while series.done < due.min(series.count) && self.open > 0 {
            series.done += 1;
            let number = format!("{:012}", series.done);
            series.frame[series.number_at..][..12].copy_from_slice(number.as_bytes());
            while self.clients[series.next_client].is_none() {
                series.next_client = (series.next_client + 1) % self.clients.len();
            }
            self.send(series.next_client, &series.frame, &mut series.tally);
            series.next_client = (series.next_client + 1) % self.clients.len();
        }
        match series.done < series.count && self.open > 0 {
            true => self.series = Some(series),
            false => {
                let Tally { sent, blocked } = series.tally;
                say(format_args!("sent {sent} blocked {blocked}"))?;
            }
        }
        Ok(())
    }

    /// Pings whoever's turn has come, once a tick.
    fn ping(&mut self) {
        let Some(mut pings) = self.pings.take_if(|pings| pings.pause().is_zero()) else {
            return;
        };
        pings.ticked = Instant::now();
        let rounds = pings.began.elapsed().as_secs_f64() / pings.round.as_secs_f64();
        let due = (rounds * self.open as f64) as u64;
        while pings.done < due && self.open > 0 {
            pings.done += 1;
            self.send(pings.next_client, &PING, &mut pings.tally);
            pings.next_client = (pings.next_client + 1) % self.clients.len();
        }
        self.pings = Some(pings);
    }

    /// What the kernel does not take whole is lost, and counted: such a run is no floor.
    fn send(&self, slot: usize, frame: &[u8], tally: &mut Tally) {
        if let Some(Some(mut socket)) = self.clients.get(slot).map(Option::as_ref) {
            match socket.write(frame) {
                Ok(length) if length == frame.len() => tally.sent += 1,
                _ => tally.blocked += 1,
            }
        }
    }
}

/// The number at the end of a request's path.
fn user_of(request: &[u8]) -> Option<usize> {
    let line = request.split(|byte| *byte == b'\r').next()?;
    let path = std::str::from_utf8(line).ok()?.split(' ').nth(1)?;
    path.rsplit('/').next()?.parse().ok()
}

/// Upgrades, and greets.
fn answer(mut socket: &TcpStream, request: &[u8]) -> Option<()> {
    let text = std::str::from_utf8(request).ok()?;
    let key = text.split("Sec-WebSocket-Key: ").nth(1)?;
    let key = key.split("\r\n").next()?;
    let accept = derive_accept_key(key.as_bytes());
    let mut answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: herald.v1\r\n\r\n"
    )
    .into_bytes();
    answer.extend_from_slice(&text_frame(WELCOME));
    (socket.write(&answer).ok()? == answer.len()).then_some(())
}

/// A text frame of less than 64 KiB.
fn text_frame(json: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match json.len() {
        length @ 0..126 => frame.push(length as u8),
        length => {
            frame.push(126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(json.as_bytes());
    frame
}
