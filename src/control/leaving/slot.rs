//! The window in which clients should come back were this host to vanish.
//!
//! As long as its siblings would need for this host's connections, each at [`LOAD`] of the rate it shapes
//! accepting to. A change is told only when it exceeds 20 %.

use crate::{control::host::Host, gateway::mailbox::ToCore, limits};
use std::sync::{Arc, atomic::Ordering};

/// Bounds of the window. Below the least, jitter alone spreads clients well enough.
const WINDOW_MS_MIN: u32 = 5_000;
const WINDOW_MS_MAX: u32 = 300_000;
/// Share of the siblings' accept limits that this host's clients may take, per cent: they come by dice, not
/// in step, and others come too.
const LOAD: u64 = 80;

/// Keeps the crash slot as wide as the siblings need it. Runs until dropped.
pub async fn keep_slot(host: Arc<Host>) {
    let mut tick = tokio::time::interval(limits::SIBLINGS_EVERY);
    let mut slot = Slot::default();
    let told = &host.metrics.leaving.slot_s;
    told.set(f64::from(slot.window_ms) / 1_000.0);
    let mut lived = 0;
    // Of the siblings together, when last heard of.
    let mut accepts_per_s = None;
    loop {
        tick.tick().await;
        if let Ok(leases) = host.registry.gateways().await {
            let live = leases.iter().filter(|lease| lease.live).count() as u32;
            // A registry that came back empty has not heard of all of them yet.
            host.live_gateways.store(live.max(lived), Ordering::Relaxed);
            lived = live;
            let siblings = host.siblings(&leases).into_iter();
            let limits = siblings.map(|lease| u64::from(lease.info.accepts_limit_per_s));
            accepts_per_s = Some(limits.sum());
        }
        // Alone it is the host itself that comes back.
        let own = u64::from(host.gateway().accepts_per_s);
        let takers_per_s = accepts_per_s.filter(|&sum| sum > 0).unwrap_or(own);
        if let Some(after_ms_max) = slot.update(host.table.connections(), takers_per_s) {
            told.set(f64::from(after_ms_max) / 1_000.0);
            host.outboxes.send_all(|| ToCore::Slot {
                after_ms_min: 0,
                after_ms_max,
            });
        }
    }
}

/// The window as advertised last.
#[derive(Debug)]
pub struct Slot {
    window_ms: u32,
}

impl Default for Slot {
    fn default() -> Self {
        Slot {
            window_ms: WINDOW_MS_MIN,
        }
    }
}

impl Slot {
    /// The new window, when it differs from the advertised one by more than a fifth.
    pub fn update(&mut self, connections: u64, takers_per_s: u64) -> Option<u32> {
        let needed_ms = connections * 1000 * 100 / (takers_per_s.max(1) * LOAD);
        let window_ms = u32::try_from(needed_ms).unwrap_or(u32::MAX);
        let window_ms = window_ms.clamp(WINDOW_MS_MIN, WINDOW_MS_MAX);
        if window_ms.abs_diff(self.window_ms) <= self.window_ms / 5 {
            return None;
        }
        self.window_ms = window_ms;
        Some(window_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_change_is_not_worth_a_frame() {
        let mut slot = Slot::default();
        assert_eq!(slot.update(1_000, 5_000), None);
        assert_eq!(slot.update(500_000, 10_000), Some(62_500));
        assert_eq!(slot.update(590_000, 10_000), None);
        assert_eq!(slot.update(610_000, 10_000), Some(76_250));
    }

    #[test]
    fn the_window_is_bounded_both_ways() {
        let mut slot = Slot::default();
        assert_eq!(slot.update(600_000, 1), Some(WINDOW_MS_MAX));
        assert_eq!(slot.update(0, 0), Some(WINDOW_MS_MIN));
    }
}
