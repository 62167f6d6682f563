//! The gateway's gRPC door, for dispatchers.
//!
//! `Deliver`: one that can't use the bus hands critical records straight to the sockets. The answer carries
//! their outcomes; nothing is committed, for nothing was consumed. `Leave`: what an operator wants of this
//! host.

use super::{flights::Waiter, host::Host, leaving::Wish, place::Batch};
use crate::{
    api::{
        DeliverReply, DeliverRequest, LeaveReply, LeaveRequest,
        convert::{outcome_to_wire, record_from_wire},
        gateway_server::{Gateway, GatewayServer},
        secret::{Demand, SharedSecret},
    },
    envelope::{Outcome, VERSION},
    limits,
    registry::GatewayLease,
};
use std::sync::Arc;
use tokio::{sync::oneshot, time::Instant};
use tonic::{Request, Response, Status, service::Routes};

struct Deliveries {
    host: Arc<Host>,
    started: Instant,
}

pub fn router(host: Arc<Host>, secret: SharedSecret) -> axum::Router {
    let started = Instant::now();
    let service =
        GatewayServer::with_interceptor(Deliveries { host, started }, Demand::new(secret));
    Routes::new(service).into_axum_router()
}

#[tonic::async_trait]
impl Gateway for Deliveries {
    async fn deliver(
        &self,
        request: Request<DeliverRequest>,
    ) -> Result<Response<DeliverReply>, Status> {
        let request = request.into_inner();
        if request.v == 0 || request.v > u32::from(VERSION) {
            return Err(Status::unimplemented("a newer version of Deliver"));
        }
        if request.records.len() > limits::DELIVER_RECORDS {
            let limit = limits::DELIVER_RECORDS;
            return Err(Status::resource_exhausted(format!(
                "more than {limit} records"
            )));
        }
        let mut calls = Vec::with_capacity(request.records.len());
        let mut batch = Batch::new(&self.host);
        for record in request.records {
            let (settled, call) = oneshot::channel();
            batch.place(&record_from_wire(record), Waiter::Call(settled));
            calls.push(call);
        }
        let dead = batch.send();
        if !dead.is_empty() {
            // The dispatcher made it, and still has it: nothing for `dlq`.
            return Err(Status::invalid_argument(dead[0].reason.clone()));
        }
        let outcomes = collect(calls).await;
        Ok(Response::new(DeliverReply {
            outcomes: outcomes.iter().map(outcome_to_wire).collect(),
            v: u32::from(VERSION),
        }))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaveReply>, Status> {
        let request = request.into_inner();
        let wish = match request.wish.as_str() {
            "" => None,
            "stay" => Some(Wish::Stay),
            "rebalance" => Some(Wish::Rebalance),
            "drain" => Some(Wish::Drain {
                deadline_ms: request.deadline_ms.map(checked).transpose()?,
            }),
            other => {
                let problem = format!("{other:?} is nothing this gateway can do");
                return Err(Status::invalid_argument(problem));
            }
        };
        let leaving = &self.host.leaving;
        if let Some(wish) = wish {
            self.is_in_time(request.until_ms)?;
            let refused =
                |why: super::leaving::Unwished| Status::failed_precondition(why.to_string());
            leaving.wish(wish).map_err(refused)?;
        }
        leaving.taken_up().await;
        let leases = self.host.leases().await;
        let siblings = leases.as_ref().map(|leases| self.host.siblings(leases));
        let spare = |siblings: &Vec<&GatewayLease>| {
            let spare = siblings.iter().map(|lease| lease.info.spare_accepts_per_s);
            spare.map(u64::from).sum()
        };
        let progress = leaving.progress();
        Ok(Response::new(LeaveReply {
            phase: progress.phase.to_string(),
            began_with: progress.began_with,
            left: self.host.table.connections(),
            rate_per_s: progress.rate_per_s,
            siblings: siblings.as_ref().map(|siblings| siblings.len() as u32),
            spare_per_s: siblings.as_ref().map(spare),
            v: u32::from(VERSION),
            clock_ms: Some(self.clock_ms()),
            waits: progress.waits.map(str::to_owned),
            reason: progress.reason.map(str::to_owned),
            process: self.host.process.clone(),
        }))
    }
}

impl Deliveries {
    fn clock_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// An order that lay in the socket while this process was paused is nobody's wish any more.
    fn is_in_time(&self, until_ms: Option<u64>) -> Result<(), Status> {
        let late_ms = self.clock_ms().saturating_sub(until_ms.unwrap_or(u64::MAX));
        match late_ms {
            0 => Ok(()),
            late_ms => {
                let problem = format!("the order came {late_ms} ms too late and was not taken up");
                tracing::warn!("{problem}");
                Err(Status::deadline_exceeded(problem))
            }
        }
    }
}

fn checked(deadline_ms: u64) -> Result<u64, Status> {
    let allowed = limits::DRAIN_DEADLINE_MS_ALLOWED;
    match allowed.contains(&deadline_ms) {
        true => Ok(deadline_ms),
        false => Err(Status::invalid_argument(format!(
            "a deadline of {deadline_ms} ms is not allowed: {} to {} ms",
            allowed.start(),
            allowed.end()
        ))),
    }
}

/// Waits until all have settled, for a bounded time; who has not by then is left out.
async fn collect(calls: Vec<oneshot::Receiver<Vec<Outcome>>>) -> Vec<Outcome> {
    let until = Instant::now() + limits::REPORT_WAIT;
    let mut outcomes = Vec::new();
    for call in calls {
        if let Ok(Ok(settled)) = tokio::time::timeout_at(until, call).await {
            outcomes.extend(settled);
        }
    }
    outcomes
}
