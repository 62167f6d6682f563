//! SIGTERM and SIGINT leave in good order, a second one leaves at once, SIGHUP re-reads.

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
pub fn listen(
    shutdown: Shutdown,
    mut on_reload: impl FnMut() + Send + 'static,
) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hang_up.recv() => { on_reload(); continue; }
            }
            if shutdown.gracefully.is_cancelled() {
                tracing::warn!("second signal: ending at once");
                shutdown.at_once.cancel();
            } else {
                tracing::info!("signal: leaving in good order; a second one ends at once");
                shutdown.gracefully.cancel();
            }
        }
    });
    Ok(())
}
