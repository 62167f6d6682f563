//! What is looked at every second: the shared parts' health, old deliveries, full cores, the slot.

use super::{behind::Missed, health::Cause, host::Host, link::Relief, upstream::UpstreamError};
use crate::{
    envelope::{Fate, Kind},
    gateway::mailbox::ToCore,
};
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::Instant;

const TICK: Duration = Duration::from_millis(500);
/// Ticks over which the rate of newcomers is measured.
const RATE_TICKS: usize = 6;

/// Runs until dropped.
pub async fn run(host: Arc<Host>) {
    let mut tick = tokio::time::interval(TICK);
    let mut opened = VecDeque::from([0; RATE_TICKS]);
    let mut was_accepted = false;
    loop {
        tick.tick().await;
        watch_parts(&host);
        watch_dispatchers(&host, &mut was_accepted);
        measure_newcomers(&host, &mut opened);
        let swept = host.flights.sweep(Instant::now(), &host.speaker());
        host.metrics.unanswered.inc_by(swept.unanswered);
        host.metrics.tickets.set(host.flights.open() as i64);
        host.settle(swept.settled);
        let tables_bytes = host.table.held_bytes();
        host.outboxes.link().memory().set_tables_bytes(tables_bytes);
    }
}

fn measure_newcomers(host: &Host, opened: &mut VecDeque<u64>) {
    let now = host.opened.load(Ordering::Relaxed);
    opened.push_back(now);
    let before = opened.pop_front().unwrap_or(now);
    let per_s = (now - before) * 1_000 / (TICK.as_millis() as u64 * RATE_TICKS as u64);
    host.opened_per_s.store(per_s as u32, Ordering::Relaxed);
}

fn watch_parts(host: &Host) {
    let registry = host.registry.fault();
    let alone = host.cut_off.is_alone(registry.is_some()).then(|| {
        "the registry answers dispatchers and not this host: newcomers can't be entered here; check the way from here to redis.url"
            .to_owned()
    });
    let registry =
        registry.map(|why| format!("the registry is away: the last ownership is kept ({why})"));
    let bus = (!host.bus.healthy()).then(|| {
        "the bus does not answer: records wait in it; check the brokers and kafka.brokers"
            .to_owned()
    });
    for (cause, fault) in [
        (Cause::Registry, registry),
        (Cause::CutOff, alone),
        (Cause::Bus, bus),
    ] {
        match fault {
            None => host.health.works(cause),
            Some(text) => host.fails(cause, text),
        }
    }
}

/// Dispatchers that nobody reaches are a shared part that is away. What refuses us from the start would let others
/// in: a secret or an address of ours is wrong. Refused later, all gateways are.
fn watch_dispatchers(host: &Host, was_accepted: &mut bool) {
    match host.upstream.health() {
        Ok(()) => {
            *was_accepted = true;
            host.health.works(Cause::Dispatcher);
            host.behind.ended(Missed::Dispatcher);
        }
        Err(UpstreamError::Untried) => return,
        Err(error @ UpstreamError::Refused(_)) if !*was_accepted => {
            host.health.works(Cause::Dispatcher);
            return host.fails(
                Cause::DispatcherRefused,
                format!("{error}; check grpc.secret_file and dispatchers.addresses"),
            );
        }
        Err(error) => host.fails(
            Cause::Dispatcher,
            format!("no dispatcher answers: outcomes go to `delivery`, clients get no catch-up ({error}); check dispatchers.addresses"),
        ),
    }
    host.health.works(Cause::DispatcherRefused);
}

/// Retries what full cores did not take, and accounts for what they lose by it. Runs until dropped.
pub async fn relieve_cores(host: Arc<Host>) {
    loop {
        for relief in host.outboxes.relieve().await {
            match relief {
                Relief::Shed { core, messages } => {
                    tracing::warn!(
                        core,
                        messages = messages.len(),
                        "a core does not take its messages: shed"
                    );
                    messages
                        .into_iter()
                        .for_each(|message| shed(&host, core, message));
                }
                Relief::Recovered { core } => host.behind.ended(Missed::Core(core)),
            }
        }
    }
}

/// A message dropped: deliveries become `deferred`, and whom it concerns will be told to sync.
fn shed(host: &Host, core: u16, message: ToCore) {
    let kind = match message {
        ToCore::Deliver(deliveries) => {
            let speaker = host.speaker();
            let mut settled = Vec::new();
            for delivery in deliveries {
                if delivery.item.kind == Kind::Probe {
                    continue;
                }
                let devices = delivery.conns.len() as u32;
                let flights = &host.flights;
                settled.extend(flights.fate(delivery.ticket, Fate::Deferred, devices, &speaker));
                host.behind.mark(Missed::Core(core), delivery.conns);
            }
            host.settle(settled);
            "deliver"
        }
        ToCore::Broadcast { .. } => {
            let everyone = host.table.connections_on(core);
            host.behind.mark(Missed::Core(core), everyone);
            "broadcast"
        }
        ToCore::Synced { conn, .. } | ToCore::Behind { conn, .. } => {
            host.behind.mark(Missed::Core(core), [conn]);
            "synced"
        }
        ToCore::Control { .. } => "control",
        ToCore::Slot { .. } => "slot",
        // Never shed.
        ToCore::Answer { .. }
        | ToCore::Close { .. }
        | ToCore::Reload(_)
        | ToCore::StopAccepting
        | ToCore::Leave(_)
        | ToCore::Evict { .. }
        | ToCore::Shutdown => "end",
    };
    host.metrics.shed.with_label_values(&[kind]).inc();
}
