//! Drain and crash slots: the product's pacing and slot, fed by the siblings' leases.

use super::{ConnEvent, GatewayDone, GatewayEvent};
use crate::{
    plan::Broken,
    world::{Event, World},
};
use herald::{
    control::leaving::pacing::{Pacer, Sibling},
    limits,
    proto::client::frames,
    registry::{GatewayLease, Registry},
};

/// Clients a second that are sent away by who looks at nobody.
const BLIND_RATE_PER_S: u32 = 1_000;

impl World {
    pub fn drain(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        if !gateway.process.up || gateway.draining {
            return;
        }
        gateway.draining = true;
        gateway.pacer = Pacer::default();
        gateway.drain_turn += 1;
        let turn = gateway.drain_turn;
        self.keep_soon(number, 0);
        let owner = self.gateway_owner(number);
        self.after(1_000, owner, Event::Gateway(GatewayEvent::Evict(turn)));
    }

    pub fn end_drain(&mut self, number: usize) {
        let gateway = &mut self.gateways[number];
        if gateway.process.up && gateway.draining {
            gateway.draining = false;
            gateway.drain_turn += 1;
            self.keep_soon(number, 0);
        }
    }

    pub(super) fn look_at_siblings(&mut self, number: usize, turn: Option<u64>) {
        let link = self.gateways[number].link();
        self.own_call(number, async move {
            GatewayDone::Siblings(link.gateways().await.ok(), turn)
        });
    }

    pub(super) fn evict(&mut self, number: usize, turn: u64) {
        let gateway = &self.gateways[number];
        if !gateway.draining || gateway.drain_turn != turn {
            return;
        }
        self.look_at_siblings(number, Some(turn));
        let owner = self.gateway_owner(number);
        self.after(1_000, owner, Event::Gateway(GatewayEvent::Evict(turn)));
    }

    pub(super) fn seen_siblings(
        &mut self,
        number: usize,
        leases: Option<Vec<GatewayLease>>,
        turn: Option<u64>,
    ) {
        let gateway = &mut self.gateways[number];
        let Some(leases) = leases else { return };
        let siblings: Vec<&GatewayLease> = leases
            .iter()
            .filter(|lease| {
                lease.live
                    && !lease.info.draining
                    && lease.info.accepts_limit_per_s > 0
                    && lease.owner.gateway != gateway.id
            })
            .collect();
        let limits = siblings
            .iter()
            .map(|lease| u64::from(lease.info.accepts_limit_per_s));
        match turn {
            None => {
                gateway.accepts_of_siblings = Some(limits.sum());
                self.keep_slot(number);
            }
            Some(turn) if turn == gateway.drain_turn && gateway.draining => {
                let takers: Vec<Sibling> = siblings
                    .iter()
                    .map(|lease| Sibling {
                        limit_per_s: lease.info.accepts_limit_per_s,
                        spare_per_s: lease.info.spare_accepts_per_s,
                        room: lease.info.room(),
                    })
                    .collect();
                let others_leave = leases.iter().filter(|lease| {
                    lease.live
                        && lease.info.draining
                        && lease.info.connections > 0
                        && lease.owner.gateway != gateway.id
                });
                let leaving = 1 + others_leave.count() as u32;
                let paced = gateway.pacer.step(&takers, leaving);
                let clients = match self.plan.broken {
                    Broken::EvictBlindly => BLIND_RATE_PER_S,
                    _ => paced,
                };
                self.send_away(number, clients);
            }
            Some(_) => {}
        }
    }

    fn send_away(&mut self, number: usize, clients: u32) {
        let owner = self.gateway_owner(number);
        let staying = self.gateways[number].conns.iter_mut();
        let staying = staying.filter(|(_, conn)| !conn.asked_to_leave);
        let conns: Vec<_> = staying
            .take(clients as usize)
            .map(|(id, conn)| {
                conn.asked_to_leave = true;
                *id
            })
            .collect();
        for conn in conns {
            let at_ms = self.random_ms(0..1_000);
            let after_ms = self.random_ms(0..u64::from(limits::EVICTED_BACK_WITHIN_MS)) as u32;
            let evict = ConnEvent::Evict { conn, after_ms };
            self.after(at_ms, owner, Event::Conn(evict));
        }
    }

    /// The window is told with the welcome and, when it changes, to everyone over a heartbeat.
    fn keep_slot(&mut self, number: usize) {
        let own = u64::from(self.plan.accepts_per_s);
        let gateway = &mut self.gateways[number];
        let takers_per_s = gateway
            .accepts_of_siblings
            .filter(|&sum| sum > 0)
            .unwrap_or(own);
        let connections = gateway.table.connections();
        let Some(after_ms_max) = gateway.slot.update(connections, takers_per_s) else {
            return;
        };
        gateway.window = frames::Slot {
            after_ms_min: 0,
            after_ms_max,
        };
        self.tell(None, || {
            format!("gw-{number} advertises a crash slot of {after_ms_max} ms")
        });
        let owner = self.gateway_owner(number);
        let conns: Vec<_> = self.gateways[number].conns.keys().copied().collect();
        for conn in conns {
            let at_ms = self.random_ms(0..u64::from(self.session.heartbeat_ms));
            self.after(at_ms, owner, Event::Conn(ConnEvent::Slot(conn)));
        }
    }
}
