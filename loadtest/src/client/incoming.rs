//! What arrives: bytes, then the head of the answer, then frames or events.

use super::{Client, End, Phase};
use crate::{
    dialect::Dialect,
    flock::World,
    frame::ServerFrame,
    rules::{Wish, unix_us},
    wire::{
        head::{Answer, expected_accept},
        sse::{self, Body},
        ws::{self, Frame},
    },
};
use rand::RngExt;
use std::io::{self, Read};

impl Client {
    pub(super) fn read(&mut self, world: &mut World) -> Result<(), End> {
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
                    self.take_bytes(&mut buffer[..length], world)?;
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

    /// Out of TLS, where it is spoken.
    fn take_bytes(&mut self, bytes: &mut [u8], world: &mut World) -> Result<(), End> {
        let Some(tls) = &mut self.tls else {
            return self.take(bytes, world);
        };
        let mut plain = std::mem::take(&mut world.opened);
        let result = tls.open(bytes, &mut plain, &mut world.sealed);
        match tls.take_resumed() {
            Some(true) => world.tally.counters.tls_resumed += 1,
            Some(false) => world.tally.counters.tls_full += 1,
            None => {}
        }
        let result = result.map_err(End::Tls).and_then(|()| self.flush(world));
        let result = result.and_then(|()| match plain.is_empty() {
            true => Ok(()),
            false => self.take(&plain, world),
        });
        plain.clear();
        world.opened = plain;
        result
    }

    fn closed_silently(&self) -> &'static str {
        let is_sent = self.work.as_deref().is_none_or(|w| w.output.is_empty());
        match &self.phase {
            Phase::Opening if is_sent => "closed without an answer",
            Phase::Opening => "closed before the request was sent",
            _ => "closed without a close frame",
        }
    }

    /// What of the stream was not whole.
    fn held(&mut self) -> Vec<u8> {
        let work = self.work.as_deref_mut();
        work.map(|work| std::mem::take(&mut work.input))
            .unwrap_or_default()
    }

    fn hold(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.work().input = bytes;
        }
    }

    /// Bytes of the connection, after those that were not whole.
    fn take(&mut self, bytes: &[u8], world: &mut World) -> Result<(), End> {
        if let Phase::Events(body) = &mut self.phase {
            let mut decoded = std::mem::take(&mut world.decoded);
            let result = body.decode(bytes, &mut decoded);
            let result = result
                .map_err(|bad| End::Broken(bad.0))
                .and_then(|()| self.take_decoded(&decoded, world));
            decoded.clear();
            world.decoded = decoded;
            return result;
        }
        let held = self.held();
        if held.is_empty() {
            let used = self.take_whole(bytes, world)?;
            self.hold(bytes[used..].to_vec());
            return Ok(());
        }
        let mut all = held;
        all.extend_from_slice(bytes);
        let used = self.take_whole(&all, world)?;
        all.drain(..used);
        self.hold_more(all);
        Ok(())
    }

    /// A head may have been followed by events, which are kept decoded.
    fn hold_more(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            debug_assert!(self.work().input.is_empty());
            self.hold(bytes);
        }
    }

    fn take_decoded(&mut self, text: &[u8], world: &mut World) -> Result<(), End> {
        let held = self.held();
        if held.is_empty() {
            let used = self.take_events(text, world)?;
            self.hold(text[used..].to_vec());
        } else {
            let mut all = held;
            all.extend_from_slice(text);
            let used = self.take_events(&all, world)?;
            all.drain(..used);
            self.hold(all);
        }
        match &self.phase {
            Phase::Events(Body::Ended) => Err(End::Broken("the stream of events ended")),
            _ => Ok(()),
        }
    }

    fn take_whole(&mut self, bytes: &[u8], world: &mut World) -> Result<usize, End> {
        let mut used = 0;
        if matches!(self.phase, Phase::Opening) {
            let head = Answer::parse(bytes).map_err(|_| End::Broken("no HTTP answer"))?;
            let Some(answer) = head else {
                return Ok(0);
            };
            used = answer.length;
            self.opened(answer, world)?;
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

    fn opened(&mut self, answer: Answer, world: &mut World) -> Result<(), End> {
        let key = self.work().key;
        self.phase = match (answer.status, world.setup.sse) {
            (101, false) if answer.accept.as_deref() != Some(&*expected_accept(key)) => {
                return Err(End::Broken("wrong Sec-WebSocket-Accept"));
            }
            (101, false) => Phase::WebSocket,
            (200, true) => Phase::Events(Body::new(answer.chunked)),
            (status, _) => return Err(End::Status(status, answer.retry_after_s)),
        };
        self.upgraded(world)
    }

    fn take_frame(&mut self, frame: Frame<'_>, world: &mut World) -> Result<(), End> {
        match frame {
            Frame::Text(text) if world.setup.dialect.only_carries() => self.take_text(text, world),
            Frame::Text(text) => self.take_json(text, world),
            Frame::Binary(bytes) if world.setup.dialect == Dialect::Nats => {
                self.take_nats(bytes, world)
            }
            Frame::Binary(_) => Err(End::Broken("unexpected opcode")),
            Frame::Ping(payload) => {
                world.tally.counters.pings_answered += 1;
                ws::write_pong(payload, world.random.random(), &mut world.output);
                self.flush(world)
            }
            Frame::Pong => Ok(()),
            Frame::Close(code) => {
                let answer = code.unwrap_or(1000);
                ws::write_close(answer, world.random.random(), &mut world.output);
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

    pub(super) fn take_json(&mut self, json: &str, world: &mut World) -> Result<(), End> {
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
            // A WebSocket says it by a frame of its own.
            Some(Wish::Close(code)) if world.setup.sse => return Err(End::Closed(Some(code))),
            Some(Wish::Close(_)) => {}
            None => {}
        }
        Ok(())
    }

    pub(super) fn welcomed(&mut self, world: &mut World) {
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
        let now_us = world.now_us();
        let work = self.work();
        let took_us = now_us.saturating_sub(work.connecting_us);
        let lost_us = std::mem::take(&mut work.lost_us);
        world.tally.connect_us.saturating_record(took_us.max(1));
        if lost_us > 0 {
            let away_us = now_us.saturating_sub(lost_us);
            world.tally.return_us.saturating_record(away_us.max(1));
        }
    }
}
