//! What a client says: written in the thread's one buffer, and kept by the client only if the socket does
//! not take it.

use super::{Client, End, Phase};
use crate::{
    courier::{Errand, Posted},
    flock::World,
    rules::{Say, What},
    sys::Interest,
    wire::ws,
};
use rand::RngExt;
use std::io::{self, Write};

/// Unsent bytes of a client: a server that does not read loses it.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

impl Client {
    /// SSE can't: it is closed when the token runs out, and returns with a new one.
    pub(super) fn refresh(&mut self, world: &mut World) -> Result<(), End> {
        if !matches!(self.phase, Phase::WebSocket) {
            return Ok(());
        }
        let token = world.setup.roster.token(self.number);
        let json = format!(r#"{{"type":"auth","token":"{token}"}}"#);
        ws::write_text(&json, world.random.random(), &mut world.output);
        self.flush(world)
    }

    pub(super) fn say_what_is_due(&mut self, world: &mut World) -> Result<(), End> {
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
                ws::write_text(&say.json, world.random.random(), &mut world.output);
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

    /// Sends what was kept, then what the thread's buffer holds for this client.
    pub(super) fn flush(&mut self, world: &mut World) -> Result<(), End> {
        let mut fresh = std::mem::take(&mut world.output);
        let result = match &mut self.tls {
            None => self.send(&fresh, world),
            Some(tls) => {
                let mut sealed = std::mem::take(&mut world.sealed);
                let result = match fresh.is_empty() {
                    true => Ok(()),
                    false => tls.seal(&fresh, &mut sealed).map_err(End::Tls),
                };
                let result = result.and_then(|()| self.send(&sealed, world));
                sealed.clear();
                world.sealed = sealed;
                result
            }
        };
        fresh.clear();
        world.output = fresh;
        result
    }

    fn send(&mut self, fresh: &[u8], world: &World) -> Result<(), End> {
        let token = world.token(self);
        let Some(socket) = &mut self.socket else {
            return Ok(());
        };
        let kept = match self.work.as_deref_mut() {
            Some(work) if !work.output.is_empty() => {
                work.output.extend_from_slice(fresh);
                let sent = write(socket, &work.output)?;
                work.output.drain(..sent);
                work.output.len()
            }
            _ if fresh.is_empty() => 0,
            _ => {
                let sent = write(socket, fresh)?;
                if sent < fresh.len() {
                    let work = self.work.get_or_insert_default();
                    work.output.extend_from_slice(&fresh[sent..]);
                }
                fresh.len() - sent
            }
        };
        if kept > OUTPUT_BYTES_MAX {
            return Err(End::Broken("the server does not read"));
        }
        if (kept > 0) != self.wants_write {
            self.wants_write = kept > 0;
            let interest = match kept {
                0 => Interest::Read,
                _ => Interest::ReadWrite,
            };
            let changed = world.epoll.change(socket, token, interest);
            changed.map_err(End::Failed)?;
        }
        Ok(())
    }
}

/// As much as the socket takes.
fn write(socket: &mut impl Write, bytes: &[u8]) -> Result<usize, End> {
    let mut sent = 0;
    while sent < bytes.len() {
        match socket.write(&bytes[sent..]) {
            Ok(length) => sent += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(End::Failed(error)),
        }
    }
    Ok(sent)
}
