//! The `POST`s of SSE clients: acknowledgements and syncs, over a few kept-alive connections a thread.
//! Each request carries the token of the client it is for.

use crate::{
    flock::World,
    rules::{Say, What},
    sys::{self, Interest},
    tally::count,
    tls::Tls,
    wire::head::{Answer, Request},
};
use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::TcpStream,
};

/// Connections per thread.
const LINES: usize = 32;
/// An errand that failed is tried at other gateways this often.
const TRIES_MAX: u8 = 3;
const ANSWER_MS: u64 = 10_000;

/// One `POST` to make.
#[derive(Clone, Debug)]
pub struct Errand {
    pub client: u32,
    pub url: u8,
    pub tries: u8,
    pub say: Say,
}

/// Body of the answer; `None`: it could not be had.
pub type Posted = Option<String>;

#[derive(Debug, Default)]
pub struct Courier {
    lines: Vec<Line>,
    answers: VecDeque<(Errand, Posted)>,
}

/// One connection and the errand it is on.
#[derive(Debug, Default)]
struct Line {
    socket: Option<TcpStream>,
    tls: Option<Tls>,
    url: u8,
    errand: Option<Errand>,
    /// The connection was used before: it may have been closed meanwhile.
    is_used: bool,
    output: Vec<u8>,
    input: Vec<u8>,
    until_ms: u64,
}

impl Courier {
    pub fn take_answer(&mut self) -> Option<(Errand, Posted)> {
        self.answers.pop_front()
    }

    /// Gives waiting errands to free lines.
    pub fn run_errands(&mut self, world: &mut World) {
        while let Some(line) = self.free_line(world) {
            let Some(errand) = world.errands.pop_front() else {
                return;
            };
            self.start(line, errand, world);
        }
    }

    fn free_line(&mut self, world: &World) -> Option<usize> {
        let url = world.errands.front()?.url;
        let free = |line: &&Line| line.errand.is_none();
        let fitting = self
            .lines
            .iter()
            .position(|line| free(&line) && line.socket.is_some() && line.url == url);
        if fitting.is_some() {
            return fitting;
        }
        if self.lines.len() < LINES {
            self.lines.push(Line::default());
            return Some(self.lines.len() - 1);
        }
        self.lines.iter().position(|line| free(&line))
    }

    fn start(&mut self, at: usize, errand: Errand, world: &mut World) {
        let line = &mut self.lines[at];
        let target = &world.setup.targets[usize::from(errand.url)];
        let path = match errand.say.what {
            What::Sync => "/sse/sync",
            What::Ack | What::Ping => "/sse/ack",
        };
        let request = Request {
            host: &target.host,
            path,
            token: &world.setup.roster.token(errand.client),
            cursors: "",
            away_ms: None,
        };
        let request = request.post(&errand.say.json);
        line.output.clear();
        line.input.clear();
        line.until_ms = world.now_ms + ANSWER_MS;
        if line.url != errand.url {
            line.socket = None;
        }
        line.url = errand.url;
        let client = errand.client;
        line.errand = Some(errand);
        line.is_used = line.socket.is_some();
        if !line.is_used {
            let connector = world.connector.as_ref().filter(|_| target.tls);
            let tls = connector
                .map(|connector| Tls::new(connector, &target.host, true))
                .transpose();
            match tls {
                Ok(tls) => line.tls = tls,
                Err(error) => return self.failed(at, &format!("TLS: {error}"), world),
            }
        }
        if let Err(error) = line.put(request) {
            return self.failed(at, &error.to_string(), world);
        }
        if line.is_used {
            self.ready(at, true, world);
            return;
        }
        let opened = sys::connect(target.address, world.setup.source(client));
        let added = opened.and_then(|socket| {
            world
                .epoll
                .add(&socket, World::line_token(at), Interest::ReadWrite)?;
            Ok(socket)
        });
        match added {
            Ok(socket) => line.socket = Some(socket),
            Err(error) => self.failed(at, &error.kind().to_string(), world),
        }
    }

    pub fn ready(&mut self, at: usize, writable: bool, world: &mut World) {
        let Some(line) = self.lines.get_mut(at) else {
            return;
        };
        let result = if writable {
            line.write(world, at)
        } else {
            Ok(())
        };
        let result = result.and_then(|()| line.read());
        // What TLS has to say to that, too.
        let result = result.and_then(|answer| match line.output.is_empty() {
            true => Ok(answer),
            false => line.write(world, at).map(|()| answer),
        });
        match result {
            Ok(None) => {}
            Ok(Some((answer, body))) => self.done(at, &answer, body, world),
            Err(error) => self.failed(at, &error.kind().to_string(), world),
        }
    }

    pub fn tick(&mut self, world: &mut World) {
        for at in 0..self.lines.len() {
            if self.lines[at].errand.is_some() && self.lines[at].until_ms <= world.now_ms {
                self.failed(at, "a POST was not answered in time", world);
            }
        }
    }

    fn done(&mut self, at: usize, answer: &Answer, body: String, world: &mut World) {
        let line = &mut self.lines[at];
        if answer.closes {
            line.socket = None;
        }
        if !matches!(answer.status, 200 | 204) {
            self.failed(at, &format!("POST: HTTP {}", answer.status), world);
            return;
        }
        if let Some(errand) = line.errand.take() {
            self.answers.push_back((errand, Some(body)));
        }
    }

    /// Tries again elsewhere, or tells the client.
    fn failed(&mut self, at: usize, why: &str, world: &mut World) {
        let line = &mut self.lines[at];
        line.socket = None;
        let Some(mut errand) = line.errand.take() else {
            return;
        };
        // A kept connection that was closed meanwhile is no failure of the server.
        if !line.is_used {
            count(&mut world.tally.failures, why);
            errand.tries += 1;
            let targets = world.setup.targets.len();
            errand.url = ((usize::from(errand.url) + 1) % targets) as u8;
        }
        line.is_used = false;
        if errand.tries < TRIES_MAX {
            world.errands.push_back(errand);
        } else {
            self.answers.push_back((errand, None));
        }
    }
}

impl Line {
    /// To be sent, sealed if TLS is spoken.
    fn put(&mut self, request: Vec<u8>) -> Result<(), rustls::Error> {
        match &mut self.tls {
            None => self.output = request,
            Some(tls) => tls.seal(&request, &mut self.output)?,
        }
        Ok(())
    }

    fn write(&mut self, world: &World, at: usize) -> io::Result<()> {
        let Some(socket) = &mut self.socket else {
            return Ok(());
        };
        while !self.output.is_empty() {
            match socket.write(&self.output) {
                Ok(length) => drop(self.output.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let token = World::line_token(at);
                    return world.epoll.change(socket, token, Interest::ReadWrite);
                }
                Err(error) => return Err(error),
            }
        }
        world
            .epoll
            .change(socket, World::line_token(at), Interest::Read)
    }

    /// The answer, once it is whole.
    fn read(&mut self) -> io::Result<Option<(Answer, String)>> {
        let Some(socket) = &mut self.socket else {
            return Ok(None);
        };
        let mut buffer = [0; 16 * 1024];
        let mut ended = false;
        loop {
            match socket.read(&mut buffer) {
                Ok(0) => {
                    ended = true;
                    break;
                }
                Ok(length) => match &mut self.tls {
                    None => self.input.extend_from_slice(&buffer[..length]),
                    Some(tls) => {
                        let opened =
                            tls.open(&mut buffer[..length], &mut self.input, &mut self.output);
                        opened.map_err(io::Error::other)?;
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let no_http = || io::Error::from(io::ErrorKind::InvalidData);
        let head = Answer::parse(&self.input).map_err(|_| no_http())?;
        let broken = || Err(io::ErrorKind::UnexpectedEof.into());
        let Some(mut answer) = head else {
            return if ended { broken() } else { Ok(None) };
        };
        // Herald's answers carry their length.
        let length = answer.content_length.unwrap_or(0);
        let Some(body) = self.input.get(answer.length..answer.length + length) else {
            return if ended { broken() } else { Ok(None) };
        };
        let body = String::from_utf8(body.to_vec()).map_err(|_| no_http())?;
        answer.closes |= ended;
        self.input.clear();
        Ok(Some((answer, body)))
    }
}
