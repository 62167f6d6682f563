//! What goes wrong, and how it ends.

use crate::{
    plan::What,
    world::{Event, Owner, World},
};
use rand::RngExt;

impl World {
    pub fn fault_begins(&mut self, number: usize) {
        let fault = self.plan.faults[number];
        self.tell(None, || match fault.what {
            What::Forget | What::LosePart | What::Move(_) => fault.what.to_string(),
            what => format!("{what}, for {} ms", fault.for_ms),
        });
        match fault.what {
            What::CrashGateway(gateway) => self.crash_gateway(gateway),
            What::PauseGateway(gateway) => self.stop(self.gateway_owner(gateway), true),
            What::CutGateway(gateway) => self.gateways[gateway].cut(true),
            What::DrainGateway(gateway) => self.drain(gateway),
            What::CrashDispatcher(dispatcher) => self.crash_dispatcher(dispatcher),
            What::PauseDispatcher(dispatcher) => {
                self.stop(self.dispatcher_owner(dispatcher), true);
                self.after(10_000, Owner::World, Event::Rebalance);
            }
            What::CutDispatcher(dispatcher) => self.dispatchers[dispatcher].cut(true),
            What::Forget => self.redis.forget(),
            What::LosePart => self.redis.lose(|entry| entry % 2 == 0),
            What::Stall(client) => self.stall(client, fault.for_ms),
            What::Move(client) => self.leave(client),
        }
        self.after(fault.for_ms, Owner::World, Event::FaultEnds(number));
    }

    /// A dispatcher that can't reach the registry routes by its memory: whom it does not know of may miss
    /// something without being told, until the next sync. With that fault everybody comes back once.
    pub fn everybody_syncs(&mut self) {
        for client in 0..self.clients.len() {
            self.leave(client);
        }
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
            // A process that was killed restarts by itself, the others have ended.
            _ => return,
        }
        self.tell(None, || format!("it is over that {}", fault.what));
    }

    fn crash_gateway(&mut self, gateway: usize) {
        if !self.gateways[gateway].process.up {
            return;
        }
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
