//! Critical notifications while the bus is away: straight to the gateways, by gRPC `Deliver`.
//!
//! Invariants:
//! * what goes this way is in the spool already: whatever fails here is delivered by the replay;
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
    registry::SharedRegistry,
};
use futures::StreamExt;
use hashbrown::HashMap;
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
            metrics: metrics.clone(),
        };
        tokio::spawn(async move {
            ReceiverStream::new(waiting)
                .ready_chunks(limits::DIRECT_BATCH)
                .for_each_concurrent(limits::DIRECT_AT_ONCE, |batch| worker.deliver(batch))
                .await;
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
        let Ok(routes) = self.registry.lookup(&users).await else {
            self.metrics.count_direct("registry_away", users.len());
            return;
        };
        let entries: Vec<_> = batch
            .iter()
            .filter_map(|one| Some((one.head.id, one.user.clone()?, envelope::Channel::InApp)))
            .collect();
        if let Err(error) = self.store.pending(&entries, unix_ms()).await {
            tracing::debug!(%error, "direct deliveries are not in the log beforehand");
        }
        let mut calls: HashMap<String, Vec<Record>> = HashMap::new();
        for (routed, routes) in batch.into_iter().zip(routes) {
            let record = routed.into_record();
            let mut addresses: Vec<String> = routes
                .into_iter()
                .filter(|route| route.live)
                .filter_map(|route| route.grpc)
                .collect();
            addresses.sort_unstable();
            addresses.dedup();
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
