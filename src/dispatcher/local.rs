//! The dispatcher as the standalone's gateway meets it: the same code, without a wire.

use super::{sync::Sync, tracker::Tracker};
use crate::{
    control::upstream::{Accepted, SyncReply, Upstream, UpstreamError},
    dispatcher::store::SharedStore,
    envelope::Outcome,
    ids::{GatewayEpoch, UserId},
    position::Cursors,
};
use async_trait::async_trait;
use std::sync::Arc;

pub struct Local {
    tracker: Arc<Tracker>,
    sync: Arc<Sync>,
    store: SharedStore,
}

impl Local {
    pub fn new(tracker: Arc<Tracker>, sync: Arc<Sync>, store: SharedStore) -> Local {
        Local {
            tracker,
            sync,
            store,
        }
    }
}

#[async_trait]
impl Upstream for Local {
    async fn report(
        &self,
        gateway: &GatewayEpoch,
        shard: Option<u32>,
        outcomes: Vec<Outcome>,
    ) -> Result<Accepted, UpstreamError> {
        let accepted = self.tracker.accept(gateway, shard, outcomes).await;
        accepted.map_err(|error| UpstreamError::Unavailable(error.to_string()))
    }

    async fn sync(
        &self,
        user: &UserId,
        cursors: Cursors,
        limit: usize,
    ) -> Result<SyncReply, UpstreamError> {
        let reply = self.sync.serve(user, cursors, limit).await;
        reply.map_err(|error| UpstreamError::Unavailable(error.to_string()))
    }

    async fn accepts(&self, gateway: &GatewayEpoch) -> bool {
        let accepted = self.tracker.accept(gateway, None, Vec::new());
        accepted.await.is_ok()
    }

    fn health(&self) -> Result<(), UpstreamError> {
        match self.store.healthy() {
            true => Ok(()),
            false => Err(UpstreamError::Unavailable(
                "its store does not answer".to_owned(),
            )),
        }
    }
}
