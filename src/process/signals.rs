//! SIGTERM and SIGINT leave in good order, a second one leaves at once, SIGHUP re-reads.

use super::StartError;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Tokens the rest of the process waits on.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Drain, then end.
    pub gracefully: CancellationToken,
    /// End now, still cleanly.
    pub at_once: CancellationToken,
}

/// Listens until the process ends. `on_reload` runs at every SIGHUP.
pub fn listen(mut on_reload: impl FnMut() + Send + 'static) -> Result<Shutdown, StartError> {
    let open = |kind| {
        signal(kind).map_err(|error| StartError::host(format!("can't listen for signals: {error}")))
    };
    let mut terminate = open(SignalKind::terminate())?;
    let mut interrupt = open(SignalKind::interrupt())?;
    let mut hang_up = open(SignalKind::hangup())?;
    let shutdown = Shutdown::default();
    let told = shutdown.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hang_up.recv() => {
                    on_reload();
                    continue;
                }
            }
            if told.gracefully.is_cancelled() {
                tracing::warn!("second signal: ending at once");
                told.at_once.cancel();
            } else {
                tracing::info!("signal: leaving in good order; a second one ends at once");
                told.gracefully.cancel();
            }
        }
    });
    Ok(shutdown)
}
