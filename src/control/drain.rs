//! Leaving in good order.
//!
//! The order: not ready → the load balancer's grace → no more accepting → clients asked to come back
//! elsewhere, spread over the window → every connection gone → outcomes in flight accepted and committed →
//! users, shard and lease given back. Each step is bounded in time, so that leaving always ends.

use super::{health::Cause, host::Host};
use crate::{config::Drain, gateway::mailbox::ToCore, limits};
use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// From the wish to leave until every connection is gone.
pub async fn empty(host: &Arc<Host>, drain: Drain, mut drained: watch::Receiver<BTreeSet<u16>>) {
    tracing::info!(
        connections = host.table.connections(),
        "leaving: not ready from now on"
    );
    host.draining.store(true, Ordering::Relaxed);
    host.fails(Cause::Draining, "leaving: clients are sent elsewhere");
    tokio::time::sleep(Duration::from_millis(drain.grace_ms)).await;
    host.outboxes.send_all(|| ToCore::StopAccepting);
    let window_ms = drain.window_ms;
    host.outboxes.send_all(|| ToCore::Drain { window_ms });
    let cores = host.outboxes.cores().count();
    let all = drained.wait_for(|drained| drained.len() >= cores);
    let patience = Duration::from_millis(window_ms) + limits::DRAIN_SLACK;
    if tokio::time::timeout(patience, all).await.is_err() {
        let left = host.table.connections();
        tracing::warn!(
            left,
            "connections were left when the drain window ended: closed"
        );
    }
}

/// Until what cores said last has been reported; bounded.
pub async fn settle(host: &Host) {
    let until = Instant::now() + limits::DRAIN_FINISH;
    while Instant::now() < until && !(host.flights.unsettled() == 0 && host.outcomes.is_idle()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Ends the core threads. Answers when each has been told, or will not listen.
pub async fn end_cores(host: &Host) {
    host.outboxes.send_all(|| ToCore::Shutdown);
    let until = Instant::now() + limits::REGISTRY_WAIT;
    while Instant::now() < until && !host.outboxes.is_empty() {
        tokio::time::sleep(limits::CORE_RETRY).await;
    }
}
