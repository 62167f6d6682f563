//! The gateways' own gRPC doors, found by their leases. A connection is kept for the next call; how long a call may
//! take its caller decides.

use crate::{
    api::{LeaveReply, LeaveRequest, gateway_client::GatewayClient, secret::Present},
    envelope::VERSION,
    ids::GatewayId,
    limits,
    registry::{GatewayLease, RegistryError, SharedRegistry},
};
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::sync::Arc;
use thiserror::Error;
use tonic::{
    Request, Status, service::interceptor::InterceptedService, transport::Channel,
    transport::Endpoint,
};

type Client = GatewayClient<InterceptedService<Channel, Present>>;

/// Why a gateway could not be asked, or would not do it.
#[derive(Debug, Error)]
pub enum GatewayError {
    #[error("no live gateway has the id {0:?}")]
    Unknown(String),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("gateway {id} does not answer at {address:?}: {problem}")]
    Unreachable {
        id: String,
        address: String,
        problem: String,
    },
    #[error("gateway {id}: {problem}")]
    Refused { id: String, problem: String },
    #[error(
        "gateway {id} is the only one in {region} that takes clients: its {clients} clients would lose their connection and find no gateway, and get nothing but what waits in their inboxes later. Start another gateway or take one back first (`herald ctl drain <id> --cancel`); to do it all the same, force it (--force, \"force\": true)"
    )]
    Only {
        id: String,
        region: String,
        clients: u64,
    },
    #[error(
        "gateway {id} has {clients} clients, and the others in {region} have room for {room}{}: the rest would stay until the deadline, then be refused with 503 until there is room. Add a gateway or raise gateway.connections_soft first; to do it all the same, force it (--force, \"force\": true)",
        who_leave(*leaving)
    )]
    NoRoom {
        id: String,
        region: String,
        clients: u64,
        /// Clients of those that are being drained.
        leaving: u64,
        room: u64,
    },
    #[error(
        "{0} is a standalone, which nobody could take clients from or give them to: stop it by SIGTERM, it leaves in good order"
    )]
    Standalone(String),
    #[error("no gateway lives: start one")]
    NobodyLives,
    #[error(
        "no gateway takes clients: {} drained; take one back with `herald ctl drain <id> --cancel`", are(.0)
    )]
    AllDrained(Vec<String>),
}

fn who_leave(clients: u64) -> String {
    match clients {
        0 => String::new(),
        _ => format!(", into which {clients} clients of gateways that are being drained go"),
    }
}

fn are(ids: &[String]) -> String {
    let verb = if ids.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", ids.join(", "))
}

#[derive(Clone)]
pub struct Gateways {
    registry: SharedRegistry,
    present: Present,
    /// By address.
    channels: Arc<Mutex<HashMap<String, Channel>>>,
}

impl Gateways {
    pub fn new(registry: SharedRegistry, present: Present) -> Gateways {
        Gateways {
            registry,
            present,
            channels: Arc::default(),
        }
    }

    pub async fn live(&self) -> Result<Vec<GatewayLease>, GatewayError> {
        let leases = self.registry.gateways().await?;
        Ok(leases.into_iter().filter(|lease| lease.live).collect())
    }

    /// Whether the others could take the clients of a gateway that is to be drained.
    pub async fn can_be_spared(&self, id: &str) -> Result<(), GatewayError> {
        can_be_spared(id, &self.live().await?)
    }

    /// Live gateways that are not being drained; at least one.
    pub async fn serving(&self) -> Result<Vec<GatewayLease>, GatewayError> {
        let live = self.live().await?;
        if live.is_empty() {
            return Err(GatewayError::NobodyLives);
        }
        let (drained, serving): (Vec<_>, Vec<_>) =
            live.into_iter().partition(|lease| lease.info.draining);
        match serving.is_empty() {
            true => Err(GatewayError::AllDrained(
                drained.iter().map(id_of).collect(),
            )),
            false => Ok(serving),
        }
    }

    /// `wish` is `stay`, `drain`, `rebalance`, or nothing to ask only. Answers how far the gateway is.
    pub async fn leave(
        &self,
        id: &str,
        wish: &str,
        deadline_ms: Option<u64>,
    ) -> Result<LeaveReply, GatewayError> {
        let unknown = || GatewayError::Unknown(id.to_owned());
        let id: GatewayId = id.parse().map_err(|_| unknown())?;
        let live = self.live().await?;
        let lease = live.into_iter().find(|lease| lease.owner.gateway == id);
        let lease = lease.ok_or_else(unknown)?;
        is_no_standalone(&lease)?;
        let address = lease.info.grpc;
        let failed = |problem: String| GatewayError::Unreachable {
            id: id.to_string(),
            address: address.clone(),
            problem,
        };
        let request = LeaveRequest {
            v: u32::from(VERSION),
            wish: wish.to_owned(),
            deadline_ms,
        };
        let mut client = self.client(&address).map_err(&failed)?;
        let leave = client.leave(Request::new(request));
        let answer = tokio::time::timeout(limits::GATEWAY_CALL, leave).await;
        let late = |_| failed(format!("no answer within {:?}", limits::GATEWAY_CALL));
        answer
            .map_err(late)?
            .map(tonic::Response::into_inner)
            .map_err(|status| match status.code() {
                tonic::Code::FailedPrecondition | tonic::Code::InvalidArgument => {
                    let problem = status.message().to_owned();
                    let id = id.to_string();
                    GatewayError::Refused { id, problem }
                }
                _ => failed(explain(&status)),
            })
    }

    /// Connects when it is used.
    pub fn client(&self, address: &str) -> Result<Client, String> {
        let channel = self.channel(address)?;
        Ok(GatewayClient::with_interceptor(
            channel,
            self.present.clone(),
        ))
    }

    fn channel(&self, address: &str) -> Result<Channel, String> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.map_err(|error| error.to_string())?;
        let channel = endpoint
            .connect_timeout(limits::GATEWAY_CALL)
            .connect_lazy();
        if channels.len() >= limits::SHARDS_MAX as usize {
            // Addresses of gateways long gone; the others are dialled anew.
            channels.clear();
        }
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

fn id_of(lease: &GatewayLease) -> String {
    lease.owner.gateway.to_string()
}

/// A standalone opens no gRPC port.
fn is_no_standalone(lease: &GatewayLease) -> Result<(), GatewayError> {
    match lease.info.grpc.is_empty() {
        true => Err(GatewayError::Standalone(id_of(lease))),
        false => Ok(()),
    }
}

/// A gateway that nobody knows, or that is being drained already, is none to object to.
fn can_be_spared(id: &str, live: &[GatewayLease]) -> Result<(), GatewayError> {
    let own = live.iter().find(|lease| lease.owner.gateway.as_str() == id);
    let Some(own) = own.filter(|lease| !lease.info.draining) else {
        return Ok(());
    };
    is_no_standalone(own)?;
    let region = &own.info.region;
    let stays = |lease: &&GatewayLease| {
        lease.owner.gateway != own.owner.gateway
            && !lease.info.draining
            && lease.info.region == *region
    };
    let others: Vec<&GatewayLease> = live.iter().filter(stays).collect();
    let (id, region) = (id.to_owned(), region.to_string());
    let clients = own.info.connections;
    if others.is_empty() {
        return Err(GatewayError::Only {
            id,
            region,
            clients,
        });
    }
    let room = others.iter().map(|lease| lease.info.room());
    let room = room.fold(0, u64::saturating_add);
    // Who is being drained sends its clients there too.
    let leave = |lease: &&GatewayLease| lease.info.draining && lease.info.region == own.info.region;
    let leaving: u64 = live
        .iter()
        .filter(leave)
        .map(|lease| lease.info.connections)
        .sum();
    match room < (clients + leaving).max(1) {
        true => Err(GatewayError::NoRoom {
            id,
            region,
            clients,
            leaving,
            room,
        }),
        false => Ok(()),
    }
}

/// The status' own words, and the cause below them.
fn explain(status: &Status) -> String {
    let mut words = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        words = error.to_string();
        cause = error.source();
    }
    words
}
