//! The gateway's way to a dispatcher: over gRPC in a fleet, by a call in the standalone.

use crate::{
    envelope::Outcome,
    ids::{GatewayEpoch, UserId},
    position::{Cursors, Position},
};
use async_trait::async_trait;
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc};
use thiserror::Error;

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum UpstreamError {
    #[error("no dispatcher answers: {0}")]
    Unavailable(String),
    /// It answered and refused: a wrong secret, a message it can't read.
    #[error("the dispatcher refused: {0}")]
    Refused(String),
    #[error("not every dispatcher was tried yet")]
    Untried,
}

/// A batch was durably accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Epoch of the gateway's shard as the dispatcher knows it: a higher one than ours says we lost it.
    pub shard_epoch: Option<u64>,
    /// The registry answers the dispatcher.
    pub has_registry: bool,
}

/// Rows after the cursors, as the client's `sync` frame needs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncReply {
    /// Client frames (JSON objects) in the order to show them.
    pub items: Vec<Bytes>,
    /// Per stream the range `(from, to]` that is covered.
    pub ranges: BTreeMap<String, (Position, Position)>,
    pub cursors: Cursors,
    pub recovered: bool,
    pub has_more: bool,
    /// Not recovered for a cause that ends by itself (registry away, no quorum): whoever is told so may be
    /// missed by what comes meanwhile, and has to sync again.
    pub unsettled: bool,
}

#[async_trait]
pub trait Upstream: Send + Sync + 'static {
    /// Returns once the batch is in the store (or on `delivery`). Several may be on the way at once.
    async fn report(
        &self,
        gateway: &GatewayEpoch,
        shard: Option<u32>,
        outcomes: Vec<Outcome>,
    ) -> Result<Accepted, UpstreamError>;

    /// `cursors` empty: the newest rows and the head.
    async fn sync(
        &self,
        user: &UserId,
        cursors: Cursors,
        limit: usize,
    ) -> Result<SyncReply, UpstreamError>;

    /// Whether a dispatcher accepts outcomes, none in this case, that come over a connection of their own: what
    /// is stuck then is between here and there, and here.
    async fn accepts(&self, gateway: &GatewayEpoch) -> bool;

    /// Whether a dispatcher answered lately; if one refused, that rather than others being away.
    fn health(&self) -> Result<(), UpstreamError>;

    fn healthy(&self) -> bool {
        self.health().is_ok()
    }
}

pub type SharedUpstream = Arc<dyn Upstream>;
