//! Clients that come, go and vanish while items flow, from a seed: what control is told stays exact.

use crate::{on_both_engines, support::*};
use herald::{
    config::Engine,
    envelope::Fate,
    gateway::mailbox::{ConnId, FromCore, ToCore},
    proto::{close::CloseCode, session::Ticket},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::collections::{BTreeMap, BTreeSet};

on_both_engines!(also_by_tls: every_opening_has_one_end_and_every_delivery_an_answer);

#[derive(Default)]
struct Ledger {
    open: BTreeSet<ConnId>,
    ended: BTreeSet<ConnId>,
    /// Devices sent to, devices that met a final fate, devices that were deferred.
    tickets: BTreeMap<Ticket, (u32, u32, u32)>,
}

impl Ledger {
    fn enter(&mut self, message: FromCore) {
        match message {
            FromCore::Opened { conn, .. } => {
                assert!(
                    !self.ended.contains(&conn) && self.open.insert(conn),
                    "{conn:?} opened twice"
                );
            }
            FromCore::Closed { conn, .. } => {
                assert!(self.open.remove(&conn), "{conn:?} closed, and was not open");
                self.ended.insert(conn);
            }
            FromCore::Fate {
                ticket,
                fate,
                devices,
            } => {
                let (_, finals, deferred) =
                    self.tickets.get_mut(&ticket).expect("a ticket of ours");
                match fate {
                    Fate::Deferred => *deferred += devices,
                    _ => *finals += devices,
                }
            }
            other => panic!("nobody said {other:?}"),
        }
    }

    fn is_settled(&self) -> bool {
        let answered = |&(sent, finals, deferred): &_| finals + deferred >= sent;
        self.open.is_empty() && self.tickets.values().all(answered)
    }
}

fn every_opening_has_one_end_and_every_delivery_an_answer(engine: Engine) {
    const SEED: u64 = 7;
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut gateway = Gateway::with(engine, |cfg| {
        cfg.cores = 3;
        cfg.deferred_after_ms = 50;
    });
    let mut clients: Vec<Client> = Vec::new();
    let mut ledger = Ledger::default();
    for step in 0..3_000 {
        for message in gateway.told() {
            ledger.enter(message);
        }
        let known: Vec<ConnId> = ledger.open.iter().chain(&ledger.ended).copied().collect();
        match random.random_range(0..10) {
            0..3 => clients.push(gateway.connect(&step.to_string())),
            // Gone without a word, with whatever it has not read.
            3 if !clients.is_empty() => {
                clients.swap_remove(random.random_range(0..clients.len()));
            }
            4 if !clients.is_empty() => {
                let mut client = clients.swap_remove(random.random_range(0..clients.len()));
                let _ = client.socket.close(None);
            }
            5 if !known.is_empty() => {
                let conn = known[random.random_range(0..known.len())];
                let close = ToCore::Close {
                    conn,
                    code: CloseCode::Disconnected,
                    reason: "turmoil",
                };
                gateway.send(conn.core, close);
            }
            _ if !known.is_empty() => {
                let conn = known[random.random_range(0..known.len())];
                let pad = "x".repeat(random.random_range(0..40_000));
                let item = item(
                    step + 1,
                    &format!(r#"{{"type":"notification","pad":"{pad}"}}"#),
                );
                // Not by `expect`: fates are entered as they come.
                let ticket = gateway.push(&item, &[conn]);
                ledger.tickets.insert(ticket, (1, 0, 0));
            }
            _ => {}
        }
    }
    drop(clients);
    let from = std::time::Instant::now();
    while !ledger.is_settled() {
        assert!(from.elapsed() < DEADLINE, "{} open", ledger.open.len());
        for message in gateway.told() {
            ledger.enter(message);
        }
    }
    for (ticket, (sent, finals, _)) in &ledger.tickets {
        assert!(
            finals <= sent,
            "ticket {ticket}: {finals} ends of {sent} devices"
        );
    }
    assert!(ledger.ended.len() > 500, "{}", ledger.ended.len());
}
