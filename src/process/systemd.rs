//! What systemd is told, where it listens: that the process is up, what it does, that it goes.

use sd_notify::NotifyState;
use std::time::Duration;
use tokio::task::AbortHandle;

/// How often the line of `systemctl status` is looked at; it is sent when it changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// While the process is on its way out: this much longer than the next look, whatever `TimeoutStopSec` says.
/// It ends by its own bounds; one that hangs is killed after this.
const STOP_EXTENDED: Duration = Duration::from_secs(30);

/// The process is up. From here on `status` is what `systemctl status` shows, until the handle is aborted;
/// once it `is_ending`, it is given the time that takes.
pub(super) fn started(
    status: impl Fn() -> String + Send + 'static,
    is_ending: impl Fn() -> bool + Send + 'static,
) -> AbortHandle {
    tell(NotifyState::Ready);
    tokio::spawn(follow(status, is_ending)).abort_handle()
}

/// The process is on its way out.
pub(super) fn stopping() {
    tell(NotifyState::Stopping);
}

async fn follow(status: impl Fn() -> String, is_ending: impl Fn() -> bool) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let mut told = String::new();
    let mut told_ending = false;
    loop {
        if is_ending() {
            if !std::mem::replace(&mut told_ending, true) {
                tell(NotifyState::Stopping);
            }
            let micros = STOP_EXTENDED.as_micros() as u32;
            tell(NotifyState::ExtendTimeoutUsec(micros));
        }
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
