//! Orders to gateways.
//!
//! A gateway that was paused finds an order in its socket long after its operator was told that it failed. So it is
//! asked for its clock first, and the order says until when on that clock it counts.
//!
//! Two drains at the same moment, each checked before the other shows, could leave nobody to serve. So a drain holds a
//! lock in the registry from its check until the gateway's lease shows it. A dispatcher that was paused may hold the
//! lock no more: it looks after it has asked for the clock, and if it is paused only then, its order comes too late.

use super::{Client, GatewayError, Gateways, is_no_standalone, room::can_be_spared};
use crate::{
    api::{LeaveReply, LeaveRequest},
    envelope::VERSION,
    ids::GatewayId,
    limits,
    registry::{RegistryError, SharedRegistry},
};
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Code, Request, Status};

const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Gateways {
    /// How far the gateway is.
    pub async fn progress(&self, id: &str) -> Result<LeaveReply, GatewayError> {
        self.reach(id).await?.ask().await
    }

    /// `wish` is `stay` or `rebalance`. Answers how far the gateway is.
    pub async fn order(&self, id: &str, wish: &str) -> Result<LeaveReply, GatewayError> {
        let mut gateway = self.reach(id).await?;
        let clock_ms = gateway.ask().await?.clock_ms;
        gateway.order(wish, None, clock_ms).await
    }

    /// Empties a gateway. Unless it is forced the others must have room for its clients.
    pub async fn drain(
        &self,
        id: &str,
        deadline_ms: Option<u64>,
        force: bool,
    ) -> Result<LeaveReply, GatewayError> {
        let lock = Lock::take(self.registry.clone()).await?;
        let drained = self.drain_holding(&lock, id, deadline_ms, force).await;
        match &drained {
            Ok(_) => drop(tokio::spawn(
                self.clone().release_when_shown(lock, id.to_owned()),
            )),
            // It may yet be taken up, and show.
            Err(GatewayError::Unanswered { .. }) => {}
            Err(_) => lock.release().await,
        }
        drained
    }

    async fn drain_holding(
        &self,
        lock: &Lock,
        id: &str,
        deadline_ms: Option<u64>,
        force: bool,
    ) -> Result<LeaveReply, GatewayError> {
        if !force {
            can_be_spared(id, &self.live().await?)?;
        }
        let mut gateway = self.reach(id).await?;
        let clock_ms = gateway.ask().await?.clock_ms;
        if !lock.lasts(limits::ORDER_COUNTS + limits::ORDER_SHOWS) {
            return Err(GatewayError::Slow(id.to_owned()));
        }
        gateway.order("drain", deadline_ms, clock_ms).await
    }

    async fn release_when_shown(self, lock: Lock, id: String) {
        while lock.lasts(Duration::ZERO) {
            let live = self.live().await.unwrap_or_default();
            let mut draining = live.iter().filter(|lease| lease.info.draining);
            if draining.any(|lease| lease.owner.gateway.as_str() == id) {
                return lock.release().await;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn reach(&self, id: &str) -> Result<Reached, GatewayError> {
        let unknown = || GatewayError::Unknown(id.to_owned());
        let id: GatewayId = id.parse().map_err(|_| unknown())?;
        let mut leases = self.registry.gateways().await?.into_iter();
        let lease = leases.find(|lease| lease.owner.gateway == id);
        let lease = lease.ok_or_else(unknown)?;
        if !lease.live {
            return Err(GatewayError::Lapsed(id.to_string()));
        }
        is_no_standalone(&lease)?;
        let address = lease.info.grpc;
        match self.client(&address) {
            Ok(client) => Ok(Reached {
                id,
                address,
                client,
            }),
            Err(problem) => Err(GatewayError::Unreachable {
                id: id.to_string(),
                address,
                problem,
            }),
        }
    }
}

/// A gateway and the way to it.
struct Reached {
    id: GatewayId,
    address: String,
    client: Client,
}

impl Reached {
    async fn ask(&mut self) -> Result<LeaveReply, GatewayError> {
        let call = self.call(LeaveRequest::default(), limits::GATEWAY_CALL);
        let answer = call.await;
        answer.map_err(|failure| match failure.refusal() {
            Some(problem) => self.refused(problem),
            None => GatewayError::Unreachable {
                id: self.id.to_string(),
                address: self.address.clone(),
                problem: failure.problem(),
            },
        })
    }

    /// `clock_ms`: the gateway's clock, just asked for.
    async fn order(
        &mut self,
        wish: &str,
        deadline_ms: Option<u64>,
        clock_ms: Option<u64>,
    ) -> Result<LeaveReply, GatewayError> {
        let counts_ms = limits::ORDER_COUNTS.as_millis() as u64;
        let request = LeaveRequest {
            wish: wish.to_owned(),
            deadline_ms,
            until_ms: clock_ms.map(|now_ms| now_ms + counts_ms),
            ..LeaveRequest::default()
        };
        let call = self.call(request, limits::ORDER_COUNTS + Duration::from_secs(1));
        let answer = call.await;
        answer.map_err(|failure| match failure.refusal() {
            Some(problem) => self.refused(problem),
            None => GatewayError::Unanswered {
                id: self.id.to_string(),
                problem: failure.problem(),
            },
        })
    }

    fn refused(&self, problem: String) -> GatewayError {
        let id = self.id.to_string();
        GatewayError::Refused { id, problem }
    }

    async fn call(
        &mut self,
        request: LeaveRequest,
        within: Duration,
    ) -> Result<LeaveReply, Failure> {
        let v = u32::from(VERSION);
        let leave = self
            .client
            .leave(Request::new(LeaveRequest { v, ..request }));
        match tokio::time::timeout(within, leave).await {
            Ok(answer) => answer
                .map(tonic::Response::into_inner)
                .map_err(Failure::Status),
            Err(_) => Err(Failure::Late(within)),
        }
    }
}

enum Failure {
    Late(Duration),
    Status(Status),
}

impl Failure {
    /// What the gateway itself says, having done nothing.
    fn refusal(&self) -> Option<String> {
        let Failure::Status(status) = self else {
            return None;
        };
        let says = [
            Code::FailedPrecondition,
            Code::InvalidArgument,
            Code::DeadlineExceeded,
        ];
        says.contains(&status.code())
            .then(|| status.message().to_owned())
    }

    /// The status' own words, or the cause below them.
    fn problem(&self) -> String {
        let status = match self {
            Failure::Late(within) => return format!("no answer within {within:?}"),
            Failure::Status(status) => status,
        };
        let mut words = status.message().to_owned();
        let mut cause = std::error::Error::source(status);
        while let Some(error) = cause {
            words = error.to_string();
            cause = error.source();
        }
        words
    }
}

/// The right to order a drain.
struct Lock {
    registry: SharedRegistry,
    holder: String,
    until: Instant,
}

impl Lock {
    async fn take(registry: SharedRegistry) -> Result<Lock, GatewayError> {
        // Of this order alone: two at this dispatcher are two as well.
        let holder = format!("{:016x}", rand::random::<u64>());
        let for_ms = limits::ORDERS_LOCK.as_millis() as u64;
        let give_up = Instant::now() + limits::ORDERS_LOCK_WAIT;
        loop {
            let until = Instant::now() + limits::ORDERS_LOCK;
            match registry.lock_orders(&holder, for_ms).await {
                Ok(()) => {
                    return Ok(Lock {
                        registry,
                        holder,
                        until,
                    });
                }
                Err(RegistryError::Held { .. }) if Instant::now() < give_up => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(RegistryError::Held { .. }) => return Err(GatewayError::Ordering),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether it lasts so much longer.
    fn lasts(&self, longer: Duration) -> bool {
        Instant::now() + longer < self.until
    }

    /// One that can't be given back ends by itself.
    async fn release(self) {
        if let Err(error) = self.registry.unlock_orders(&self.holder).await {
            tracing::debug!(%error, "the lock on orders stays until it ends");
        }
    }
}
