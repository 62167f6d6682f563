//! The window in which clients should come back were this host to vanish.
//!
//! The simple rule: as long as a sibling would need to accept this host's connections one after the
//! other at the rate it shapes accepting to. A change is told only when it exceeds 20 %.

/// Bounds of the window. Below the least, jitter alone spreads clients well enough.
const WINDOW_MS_MIN: u32 = 5_000;
const WINDOW_MS_MAX: u32 = 300_000;

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
    pub fn update(&mut self, connections: u64, accepts_per_s: u32) -> Option<u32> {
        let needed_ms = connections * 1000 / u64::from(accepts_per_s.max(1));
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
        assert_eq!(slot.update(500_000, 5_000), Some(100_000));
        assert_eq!(slot.update(590_000, 5_000), None);
        assert_eq!(slot.update(610_000, 5_000), Some(122_000));
    }

    #[test]
    fn the_window_is_bounded_both_ways() {
        let mut slot = Slot::default();
        assert_eq!(slot.update(u64::from(u32::MAX), 1), Some(WINDOW_MS_MAX));
        assert_eq!(slot.update(0, 0), Some(WINDOW_MS_MIN));
    }
}
