//! Waiting for what must come, with a deadline and a word on what never came.

use std::time::{Duration, Instant};

/// What a loaded two-core machine may need for anything that normally takes well under a second.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until it holds; `explain` says why it does not, if that is known.
pub fn until(what: &str, mut holds: impl FnMut() -> bool, explain: impl Fn() -> String) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        let late = Instant::now() >= deadline;
        assert!(!late, "not within {PATIENCE:?}: {what}\n{}", explain());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Polls until nothing is missing any more.
pub async fn eventually(
    what: &str,
    within: Duration,
    mut missing: impl AsyncFnMut() -> usize,
    explain: impl Fn() -> String,
) {
    let deadline = Instant::now() + within;
    loop {
        let count = missing().await;
        if count == 0 {
            return;
        }
        let late = Instant::now() >= deadline;
        assert!(
            !late,
            "{what}: {count} missing after {within:?}\n{}",
            explain()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
