//! The way to the cluster: found at the start, or looked for until it is.
//!
//! Invariants:
//! * it is found once; what happens to the cluster later is the driver's, and [`Link`]'s to say;
//! * a cluster that answers and is not ours (no tables, another schema, another namespace) is never used, whenever that
//!   shows.

use super::{
    connect,
    link::{Link, LinkMetrics},
    schema,
};
use crate::{
    config::{DispatcherStore, Node},
    dispatcher::store::StoreError,
    limits,
    metrics::Metrics,
};
use parking_lot::Mutex;
use std::sync::OnceLock;
use tokio::sync::watch;

pub struct Way {
    config: DispatcherStore,
    node: Node,
    metrics: LinkMetrics,
    link: OnceLock<Link>,
    /// Why there is none yet.
    missing: Mutex<String>,
    refused: watch::Sender<Option<StoreError>>,
}

impl Way {
    pub fn new(config: &DispatcherStore, node: &Node, metrics: &Metrics) -> Way {
        Way {
            config: config.clone(),
            node: node.clone(),
            metrics: LinkMetrics::new(metrics),
            link: OnceLock::new(),
            missing: Mutex::default(),
            refused: watch::Sender::new(None),
        }
    }

    pub fn link(&self) -> Result<&Link, StoreError> {
        let missing = || StoreError::Unavailable(self.missing.lock().clone());
        self.link.get().ok_or_else(missing)
    }

    pub async fn find(&self) -> Result<(), StoreError> {
        let session = connect::session(&self.config).await?;
        schema::is_ours(&session, &self.config.keyspace, &self.node.namespace).await?;
        let link = Link::open(session, &self.config, self.metrics.clone()).await?;
        // Nobody else looks at the same time.
        let _ = self.link.set(link);
        Ok(())
    }

    /// Said once; it is looked for until it is there.
    pub fn is_missing(&self, why: String) {
        tracing::warn!(
            "the store is away and is looked for; what is posted waits on the bus, or is refused where it needs the store at once: {why}"
        );
        *self.missing.lock() = why;
    }

    /// Looks for it, and then at it, for ever.
    pub async fn keep(&self) {
        while self.link.get().is_none() {
            tokio::time::sleep(limits::CASSANDRA_PROBE).await;
            match self.find().await {
                Ok(()) => tracing::info!("the store answers"),
                Err(StoreError::Unavailable(why)) => *self.missing.lock() = why,
                Err(refused) => return drop(self.refused.send_replace(Some(refused))),
            }
        }
        if let Some(link) = self.link.get() {
            link.probe_while_away().await;
        }
    }

    /// Pending until a cluster has shown that it is not ours.
    pub async fn refusal(&self) -> StoreError {
        let mut refused = self.refused.subscribe();
        let refused = refused.wait_for(Option::is_some).await;
        let refused = refused.expect("the sender is ours");
        refused.clone().expect("just seen")
    }
}
