//! What systemd is told, where it listens: that the process is up, what it does, that it goes.

use sd_notify::NotifyState;
use std::time::Duration;
use tokio::task::AbortHandle;

/// How often the line of `systemctl status` is looked at; it is sent when it changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The process is up. From here on `status` is what `systemctl status` shows, until the handle is aborted.
pub(super) fn started(status: impl Fn() -> String + Send + 'static) -> AbortHandle {
    tell(NotifyState::Ready);
    tokio::spawn(follow(status)).abort_handle()
}

/// The process is on its way out.
pub(super) fn stopping() {
    tell(NotifyState::Stopping);
}

async fn follow(status: impl Fn() -> String) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let mut told = String::new();
    loop {
        let line = status();
        if line != told {
            tell(NotifyState::Status(&line));
            told = line;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn tell(state: NotifyState) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd can't be told");
    }
}
