//! Critical notifications while the bus is away: straight to the gateways, by gRPC `Deliver`.
//!
//! Invariants:
//! * what goes this way is in the spool already: whatever fails here is delivered by the replay;
//! * with the registry away too, it goes to every gateway that lived when the registry last answered: those that hold
//!   the user deliver it, the others say `not_here`;
//! * it has no position (0, which moves no cursor). The replay brings the same id once more with its position;
//!   clients drop the repeat;
//! * it has no row, so it is entered in the log first: a client may acknowledge it before we hear that it was
//!   written, and speaks only of what its user has.

use super::metrics::SpoolMetrics;
use crate::{
    api::{
        DeliverRequest,
        convert::{outcome_from_wire, record_to_wire},
    },
    bus::Record,
    dispatcher::{gateways::Gateways, store::SharedStore, unix_ms},
    envelope::{self, Fate, Routed, VERSION},
    ids::UserId,
    limits,
    registry::{Route, SharedRegistry},
};
use futures::StreamExt;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// The way in. Its task ends when the last of it is dropped.
pub struct Direct {
    queue: mpsc::Sender<Routed>,
    metrics: SpoolMetrics,
}

struct Worker {
    registry: SharedRegistry,
    store: SharedStore,
    gateways: Gateways,
    /// Where gateways were when the registry last said it.
    last_known: Mutex<Vec<String>>,
    metrics: SpoolMetrics,
}

impl Direct {
    /// Needs a runtime.
    pub fn start(
        registry: SharedRegistry,
        store: SharedStore,
        gateways: Gateways,
        metrics: SpoolMetrics,
    ) -> Direct {
        let (queue, waiting) = mpsc::channel(limits::DIRECT_WAITING);
        let worker = Worker {
            registry,
            store,
            gateways,
            last_known: Mutex::default(),
            metrics: metrics.clone(),
        };
        tokio::spawn(async move {
            let deliveries = ReceiverStream::new(waiting)
                .ready_chunks(limits::DIRECT_BATCH)
                .for_each_concurrent(limits::DIRECT_AT_ONCE, |batch| worker.deliver(batch));
            tokio::select! {
                () = deliveries => {}
                () = worker.keep_looking() => {}
            }
        });
        Direct { queue, metrics }
    }

    /// Tries it; nothing is promised.
    pub fn offer(&self, routed: Routed) {
        if self.queue.try_send(routed).is_err() {
            self.metrics.count_direct("busy", 1);
        }
    }
}

impl Worker {
    async fn deliver(&self, batch: Vec<Routed>) {
        let users: Vec<UserId> = batch.iter().filter_map(|one| one.user.clone()).collect();
        let addresses = self.addresses(&users).await;
        if addresses.is_empty() {
            return self.metrics.count_direct("registry_away", users.len());
        }
        let entries: Vec<_> = batch
            .iter()
            .filter_map(|one| Some((one.head.id, one.user.clone()?, envelope::Channel::InApp)))
            .collect();
        if let Err(error) = self.store.pending(&entries, unix_ms()).await {
            tracing::debug!(%error, "direct deliveries are not in the log beforehand");
        }
        let mut calls: HashMap<String, Vec<Record>> = HashMap::new();
        for (routed, addresses) in batch.into_iter().zip(addresses) {
            let record = routed.into_record();
            if addresses.is_empty() {
                self.metrics.count_direct("absent", 1);
            }
            for address in addresses {
                calls.entry(address).or_default().push(record.clone());
            }
        }
        let calls = calls
            .into_iter()
            .map(|(address, records)| self.call(address, records));
        futures::future::join_all(calls).await;
    }

    /// Where each of the users may be. Nothing at all: nobody knows a gateway.
    async fn addresses(&self, users: &[UserId]) -> Vec<Vec<String>> {
        if let Ok(routes) = self.registry.lookup(users).await {
            return routes.into_iter().map(distinct).collect();
        }
        let everyone = self.last_known.lock().clone();
        match everyone.is_empty() {
            true => Vec::new(),
            false => vec![everyone; users.len()],
        }
    }

    /// Notes where gateways are. Runs until dropped.
    async fn keep_looking(&self) {
        loop {
            if let Ok(live) = self.gateways.live().await {
                let addresses = live.into_iter().map(|lease| lease.info.grpc);
                *self.last_known.lock() = addresses.collect();
            }
            tokio::time::sleep(limits::DIRECT_LOOK).await;
        }
    }

    async fn call(&self, address: String, records: Vec<Record>) {
        let count = records.len();
        let request = DeliverRequest {
            v: u32::from(VERSION),
            records: records.into_iter().map(record_to_wire).collect(),
        };
        let Ok(mut client) = self.gateways.client(&address) else {
            return self.metrics.count_direct("failed", count);
        };
        // A gateway answers after this wait at the latest; the way there takes time too.
        let wait = limits::REPORT_WAIT * 2;
        let reply = match tokio::time::timeout(wait, client.deliver(request)).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "a gateway took nothing directly");
                return self.metrics.count_direct("failed", count);
            }
            Err(_) => return self.metrics.count_direct("failed", count),
        };
        let mut written = Vec::new();
        for outcome in reply.outcomes {
            // Whose outcome it is, the acknowledgement says later.
            let Ok(outcome) = outcome_from_wire(outcome, "") else {
                continue;
            };
            self.metrics.count_direct(outcome.fate.as_str(), 1);
            if outcome.fate == Fate::Written {
                written.push(outcome);
            }
        }
        if let Err(error) = self.store.record(&written).await {
            tracing::debug!(%error, "direct deliveries are not in the log");
        }
    }
}

/// Of the gateways that live.
fn distinct(routes: Vec<Route>) -> Vec<String> {
    let live = routes.into_iter().filter(|route| route.live);
    let mut addresses: Vec<String> = live.filter_map(|route| route.grpc).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
