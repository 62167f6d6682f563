//! Connections to servers that only carry: see [`crate::dialect`].

use super::{Client, End};
use crate::{
    dialect::{
        Dialect, centrifugo,
        nats::{self, Saying},
    },
    flock::World,
    frame::ServerFrame,
    wire::ws,
};
use rand::RngExt;

impl Client {
    pub(super) fn user(&self, world: &World) -> String {
        let roster = &world.setup.roster;
        roster.user(self.number / roster.devices())
    }

    /// The WebSocket is open.
    pub(super) fn upgraded(&mut self, world: &mut World) -> Result<(), End> {
        match world.setup.dialect {
            Dialect::Herald => Ok(()),
            Dialect::Plain => {
                self.let_in(world);
                Ok(())
            }
            Dialect::Nats => self.say_nats(&nats::subscriptions(&self.user(world)), world),
            Dialect::Centrifugo => {
                self.say_text(&centrifugo::subscriptions(&self.user(world)), world)
            }
        }
    }

    fn let_in(&mut self, world: &mut World) {
        if !self.rules.is_welcomed() {
            self.rules.let_in();
            self.welcomed(world);
        }
    }

    /// A text of a server that only carries.
    pub(super) fn take_text(&mut self, text: &str, world: &mut World) -> Result<(), End> {
        if world.setup.dialect != Dialect::Centrifugo {
            self.take_carried(text, world);
            return Ok(());
        }
        for line in centrifugo::lines(text) {
            match centrifugo::parse(line).map_err(|bad| End::Broken(bad.0))? {
                centrifugo::Saying::Message(json) => self.take_carried(json, world),
                centrifugo::Saying::Ping => {
                    world.tally.counters.pings_answered += 1;
                    self.say_text(centrifugo::PING, world)?;
                }
                centrifugo::Saying::Subscribed => self.let_in(world),
                centrifugo::Saying::Other => {}
            }
        }
        Ok(())
    }

    fn take_carried(&mut self, json: &str, world: &mut World) {
        match ServerFrame::parse(json) {
            Ok(frame) if frame.kind == "notification" => {
                let mut context = world.context(self.number);
                self.rules.carried(&frame, &mut context);
            }
            // The bare loop greets as Herald does.
            Ok(_) => {}
            Err(_) => world.tally.counters.unreadable += 1,
        }
    }

    /// Bytes of NATS, after those that were not whole.
    pub(super) fn take_nats(&mut self, bytes: &[u8], world: &mut World) -> Result<(), End> {
        let mut all = std::mem::take(&mut self.work().partial);
        all.extend_from_slice(bytes);
        let mut used = 0;
        while let Some((saying, length)) =
            nats::parse(&all[used..]).map_err(|bad| End::Broken(bad.0))?
        {
            used += length;
            match saying {
                Saying::Message(payload) => match std::str::from_utf8(payload) {
                    Ok(json) => self.take_carried(json, world),
                    Err(_) => world.tally.counters.unreadable += 1,
                },
                Saying::Ping => {
                    world.tally.counters.pings_answered += 1;
                    self.say_nats("PONG\r\n", world)?;
                }
                Saying::Pong => self.let_in(world),
                Saying::Other => {}
            }
        }
        all.drain(..used);
        if !all.is_empty() {
            self.work().partial = all;
        }
        Ok(())
    }

    fn say_text(&mut self, text: &str, world: &mut World) -> Result<(), End> {
        ws::write_text(text, world.random.random(), &mut world.output);
        self.flush(world)
    }

    fn say_nats(&mut self, text: &str, world: &mut World) -> Result<(), End> {
        ws::write_binary(text.as_bytes(), world.random.random(), &mut world.output);
        self.flush(world)
    }
}
