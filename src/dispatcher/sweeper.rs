//! Removes what ended gateways left in the registry, at a bounded rate. Every dispatcher does it: the
//! registry's own rules keep them out of each other's way.

use crate::{limits, registry::SharedRegistry};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const PAUSE: Duration = Duration::from_secs(1);

pub async fn run(registry: SharedRegistry, shutdown: CancellationToken) -> &'static str {
    while shutdown
        .run_until_cancelled(tokio::time::sleep(PAUSE))
        .await
        .is_some()
    {
        match registry.sweep(limits::SWEEP_PER_S).await {
            Ok(swept) if swept.raised > 0 => {
                tracing::info!(
                    gateways = swept.raised,
                    "swept the leases of gateways that are gone"
                );
            }
            Ok(_) => {}
            // It says so itself when it goes away and when it comes back.
            Err(error) => tracing::debug!(%error, "not swept"),
        }
    }
    "sweeper"
}
