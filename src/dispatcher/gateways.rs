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
        let address = lease.ok_or_else(unknown)?.info.grpc;
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
