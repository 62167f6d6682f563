//! Gateways report outcomes and ask for syncs.

use crate::{
    api::{self, convert},
    dispatcher::{metrics::DispatcherMetrics, sync::Sync, tracker::Tracker},
    envelope::{Outcome, VERSION},
    ids::{GatewayEpoch, UserId},
    limits,
};
use futures::{Stream, StreamExt};
use std::{pin::Pin, sync::Arc};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

pub struct Gateways {
    pub tracker: Arc<Tracker>,
    pub sync: Arc<Sync>,
    pub metrics: DispatcherMetrics,
    pub shutdown: CancellationToken,
}

#[tonic::async_trait]
impl api::dispatcher_server::Dispatcher for Gateways {
    type OutcomesStream = Pin<Box<dyn Stream<Item = Result<api::OutcomeReply, Status>> + Send>>;

    /// Answers in the order of the batches, each after it is durable. The first batch that can't be made
    /// so ends the stream: the gateway keeps what was not answered.
    async fn outcomes(
        &self,
        request: Request<Streaming<api::OutcomeBatch>>,
    ) -> Result<Response<Self::OutcomesStream>, Status> {
        let (tracker, metrics) = (self.tracker.clone(), self.metrics.clone());
        let shutdown = self.shutdown.clone();
        let replies = request
            .into_inner()
            // A stream has no end of its own: the process could not leave.
            .take_until(async move { shutdown.cancelled().await })
            .map(move |batch| {
                let (tracker, metrics) = (tracker.clone(), metrics.clone());
                async move { accept(&tracker, &metrics, batch?).await }
            })
            .buffered(limits::OUTCOME_BATCHES_AT_ONCE);
        Ok(Response::new(Box::pin(replies)))
    }

    async fn sync(
        &self,
        request: Request<api::SyncRequest>,
    ) -> Result<Response<api::SyncReply>, Status> {
        let reply = serve(&self.sync, request.into_inner()).await?;
        Ok(Response::new(reply))
    }

    type SyncsStream = Pin<Box<dyn Stream<Item = Result<api::SyncReply, Status>> + Send>>;

    async fn syncs(
        &self,
        request: Request<Streaming<api::SyncRequest>>,
    ) -> Result<Response<Self::SyncsStream>, Status> {
        let (sync, shutdown) = (self.sync.clone(), self.shutdown.clone());
        let replies = request
            .into_inner()
            .take_until(async move { shutdown.cancelled().await })
            .map(move |request| {
                let sync = sync.clone();
                async move { Ok(numbered(&sync, request?).await) }
            })
            .buffer_unordered(limits::SYNCS);
        Ok(Response::new(Box::pin(replies)))
    }
}

async fn numbered(sync: &Sync, request: api::SyncRequest) -> api::SyncReply {
    let sequence = request.sequence;
    let reply = serve(sync, request).await;
    let reply = reply.unwrap_or_else(|status| api::SyncReply {
        v: u32::from(VERSION),
        code: status.code() as i32,
        problem: status.message().to_owned(),
        ..api::SyncReply::default()
    });
    api::SyncReply { sequence, ..reply }
}

async fn serve(sync: &Sync, request: api::SyncRequest) -> Result<api::SyncReply, Status> {
    check_version(request.v)?;
    let user: UserId = request.user.parse().map_err(bad_request)?;
    let cursors = convert::cursors_from_wire(request.cursors).map_err(bad_request)?;
    let limit = match request.limit {
        0 => limits::SYNC_ITEMS,
        limit => limit as usize,
    };
    let served = sync.serve(&user, cursors, limit);
    let reply = tokio::time::timeout(limits::SYNC_SERVED, served).await;
    let reply = reply.map_err(|_| Status::deadline_exceeded("the store did not answer in time"))?;
    let reply = reply.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(convert::sync_reply_to_wire(reply))
}

async fn accept(
    tracker: &Tracker,
    metrics: &DispatcherMetrics,
    batch: api::OutcomeBatch,
) -> Result<api::OutcomeReply, Status> {
    check_version(batch.v)?;
    let gateway: GatewayEpoch = batch.gateway.parse().map_err(bad_request)?;
    let outcomes = readable(batch.outcomes, &batch.gateway, metrics);
    let accepted = tracker.accept(&gateway, batch.shard, outcomes).await;
    let accepted = accepted.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(api::OutcomeReply {
        sequence: batch.sequence,
        shard_epoch: accepted.shard_epoch.unwrap_or(0),
        has_registry: accepted.has_registry,
        v: u32::from(VERSION),
    })
}

/// Leaves out what a gateway of a later release may say and this one can't read: holding its batch up
/// would hold up the shard.
fn readable(
    outcomes: Vec<api::Outcome>,
    gateway: &str,
    metrics: &DispatcherMetrics,
) -> Vec<Outcome> {
    let read = |outcome| {
        convert::outcome_from_wire(outcome, gateway)
            .inspect_err(|convert::BadField(field)| {
                let counter = &metrics.outcomes_refused;
                counter.with_label_values(&[field]).inc();
            })
            .ok()
    };
    outcomes.into_iter().filter_map(read).collect()
}

fn check_version(v: u32) -> Result<(), Status> {
    match v {
        v if (1..=u32::from(VERSION)).contains(&v) => Ok(()),
        v => Err(Status::unimplemented(format!(
            "message version {v}; this release knows 1 to {VERSION}"
        ))),
    }
}

fn bad_request(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}
