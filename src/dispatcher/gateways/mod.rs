//! The gateways' own gRPC doors, found by their leases. A connection is kept for the next call; how long a call may
//! take its caller decides.

mod orders;
mod room;

use crate::{
    api::{gateway_client::GatewayClient, secret::Present},
    limits,
    registry::{GatewayLease, RegistryError, SharedRegistry},
};
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::sync::Arc;
use thiserror::Error;
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
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
        "gateway {id} was sent the order and did not answer ({problem}): whether it took it up, `herald ctl drain {id} --status` says"
    )]
    Unanswered { id: String, problem: String },
    #[error(
        "somebody else is ordering a drain, and they are checked one after the other: try again in a few seconds"
    )]
    Ordering,
    #[error(
        "the order was not sent, for checking it took too long: the registry or gateway {0} is slow; try again"
    )]
    Slow(String),
    #[error(
        "gateway {id} is the only one in {region} that takes clients: its {clients} clients{} would lose their connection and find no gateway, and get nothing but what waits in their inboxes later. Start another gateway or take one back first (`herald ctl drain <id> --cancel`); to do it all the same, force it (--force, \"force\": true)",
        and_who_leave(*leaving)
    )]
    Only {
        id: String,
        region: String,
        clients: u64,
        /// Clients of those that are being drained.
        leaving: u64,
    },
    #[error(
        "the lease of gateway {0} has lapsed: it is gone, paused, or cut off from the registry, and can't be asked; one that is only paused goes on with what it was told before"
    )]
    Lapsed(String),
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

fn and_who_leave(clients: u64) -> String {
    match clients {
        0 => String::new(),
        _ => format!(", and {clients} of gateways that are being drained,"),
    }
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
