//! What this host's clock says, in Unix time: by it is dated whatever crosses processes or outlives one. How long
//! something takes is measured by an `Instant`, which nobody sets.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Since 1970; before it: zero.
pub fn unix() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

pub fn unix_ms() -> u64 {
    unix().as_millis() as u64
}

pub fn unix_s() -> u64 {
    unix().as_secs()
}
