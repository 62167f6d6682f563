//! What goes wrong, and how it ends.

use crate::{
    plan::What,
    world::{Event, Owner, World, id, user},
};
use herald::position::Position;
use rand::RngExt;

/// From the end of the last trouble until everything is as it should be: leases, owed entries, comparisons.
const AFTERMATH_MS: u64 = 40_000;
/// In calm a notification needs no longer than this, and a newcomer's first sync neither.
pub const IN_CALM_MS: u64 = 10_000;
const NEWCOMER_MS: u64 = 8_000;

/// What goes wrong now, and when something last did.
#[derive(Default)]
pub struct Troubles {
    now: u32,
    ended_ms: u64,
}

impl World {
    fn trouble_begins(&mut self) {
        self.troubles.now += 1;
    }

    pub fn trouble_ends(&mut self) {
        self.troubles.now = self.troubles.now.saturating_sub(1);
        self.troubles.ended_ms = self.now_ms();
    }

    /// In calm, who is connected has it soon: live, or by a sync it was told to ask for.
    pub fn expected(&mut self, post: usize) {
        let (at_ms, now_ms) = (self.plan.posts[post].at_ms, self.now_ms());
        if self.troubles.now > 0 || self.troubles.ended_ms + AFTERMATH_MS > at_ms {
            return;
        }
        let number = self.plan.posts[post].user;
        let owner = user(number);
        let rows = self
            .rows
            .between(&owner, Position::START, self.rows.head(&owner));
        let superseded = rows
            .iter()
            .any(|(_, known, superseded)| *known == id(post) && *superseded);
        let waits = self.clients.iter().position(|client| {
            client.user == number
                && client.is_open()
                && client.welcomed_ms() + NEWCOMER_MS <= now_ms
                && !client.received.contains(&id(post))
        });
        if let Some(client) = waits.filter(|_| !superseded) {
            let text = format!(
                "all is calm, and device {client} has not received n{post} within {IN_CALM_MS} ms"
            );
            self.ledger
                .violated("in calm everything arrives at once", Some(number), text);
        }
    }

    pub fn fault_begins(&mut self, number: usize) {
        let fault = self.plan.faults[number];
        self.tell(None, || match fault.what {
            What::Forget | What::LosePart | What::Move(_) => fault.what.to_string(),
            what => format!("{what}, for {} ms", fault.for_ms),
        });
        match fault.what {
            What::CrashGateway(gateway) => return self.crash_gateway(gateway),
            What::PauseGateway(gateway) => self.stop(self.gateway_owner(gateway), true),
            What::CutGateway(gateway) => self.gateways[gateway].cut(true),
            What::DrainGateway(gateway) => self.drain(gateway),
            What::CrashDispatcher(dispatcher) => return self.crash_dispatcher(dispatcher),
            What::PauseDispatcher(dispatcher) => {
                self.stop(self.dispatcher_owner(dispatcher), true);
                self.after(10_000, Owner::World, Event::Rebalance);
            }
            What::CutDispatcher(dispatcher) => self.dispatchers[dispatcher].cut(true),
            What::CutEveryone => self.cut_everyone(true),
            What::Forget => self.redis.forget(),
            What::LosePart => self.redis.lose(|entry| entry % 2 == 0),
            What::Stall(client) => self.stall(client, fault.for_ms),
            What::Move(client) => return self.leave(client),
        }
        self.trouble_begins();
        self.after(fault.for_ms, Owner::World, Event::FaultEnds(number));
    }

    pub fn fault_ends(&mut self, number: usize) {
        let fault = self.plan.faults[number];
        match fault.what {
            What::PauseGateway(gateway) => self.stop(self.gateway_owner(gateway), false),
            What::CutGateway(gateway) => self.gateways[gateway].cut(false),
            What::DrainGateway(gateway) => self.end_drain(gateway),
            What::PauseDispatcher(dispatcher) => {
                self.stop(self.dispatcher_owner(dispatcher), false);
                self.after(100, Owner::World, Event::Rebalance);
            }
            What::CutDispatcher(dispatcher) => self.dispatchers[dispatcher].cut(false),
            What::CutEveryone => self.cut_everyone(false),
            _ => {}
        }
        self.trouble_ends();
        self.tell(None, || format!("it is over that {}", fault.what));
    }

    fn cut_everyone(&mut self, cut: bool) {
        self.gateways.iter_mut().for_each(|one| one.cut(cut));
        self.dispatchers.iter_mut().for_each(|one| one.cut(cut));
    }

    fn crash_gateway(&mut self, gateway: usize) {
        if !self.gateways[gateway].process.up {
            return;
        }
        self.trouble_begins();
        let owner = self.gateway_owner(gateway);
        self.kill(owner);
        self.connections_break(gateway);
        let after_ms = self.restarts_after_ms();
        self.after(after_ms, Owner::World, Event::Restart(owner));
    }

    fn crash_dispatcher(&mut self, dispatcher: usize) {
        if !self.dispatchers[dispatcher].process.up {
            return;
        }
        self.trouble_begins();
        let owner = self.dispatcher_owner(dispatcher);
        self.kill(owner);
        self.after(6_000, Owner::World, Event::Rebalance);
        let after_ms = self.restarts_after_ms();
        self.after(after_ms, Owner::World, Event::Restart(owner));
    }

    /// By its supervisor at once, or by somebody after a while.
    fn restarts_after_ms(&mut self) -> u64 {
        match self.random.random_ratio(1, 3) {
            true => self.random.random_range(30_000..80_000),
            false => self.random.random_range(500..5_000),
        }
    }
}
