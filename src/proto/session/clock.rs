//! Times and spreads in four bytes: a connection exists half a million times.

use crate::proto::Now;
use std::ops::RangeInclusive;

/// Monotonic milliseconds modulo 2³²: right for intervals under 24 days, and every interval here is
/// looked at once a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp(u32);

impl Stamp {
    pub fn at(now: Now) -> Stamp {
        Stamp(now.mono_ms as u32)
    }

    pub fn after(self, ms: u32) -> Stamp {
        Stamp(self.0.wrapping_add(ms))
    }

    /// Milliseconds from here to now; 0 for a stamp ahead of now.
    pub fn since(self, now: Now) -> u32 {
        self.passed(now).max(0) as u32
    }

    /// Milliseconds from now to here; 0 for a stamp in the past.
    pub fn until(self, now: Now) -> u32 {
        self.passed(now).min(0).unsigned_abs()
    }

    pub fn is_due(self, now: Now) -> bool {
        self.passed(now) >= 0
    }

    fn passed(self, now: Now) -> i32 {
        (now.mono_ms as u32).wrapping_sub(self.0) as i32
    }
}

/// Spreads connections over a range by their salt; `turn` gives another place in it each time.
pub fn spread(salt: u32, turn: u32, range: RangeInclusive<u32>) -> u32 {
    let mut hash = u64::from(salt) << 32 | u64::from(turn);
    // The finaliser of splitmix64: neighbours end up far apart.
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    let width = u64::from(range.end().saturating_sub(*range.start())) + 1;
    range.start() + (hash % width) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(mono_ms: u64) -> Now {
        Now {
            mono_ms,
            unix_ms: 0,
        }
    }

    #[test]
    fn a_stamp_survives_the_end_of_its_range() {
        let stamp = Stamp::at(now(u64::from(u32::MAX) - 5));
        let later = now(u64::from(u32::MAX) + 5);
        assert_eq!(stamp.since(later), 10);
        assert!(stamp.after(10).is_due(later));
        assert!(!stamp.after(11).is_due(later));
        assert_eq!(stamp.after(15).until(later), 5);
    }

    #[test]
    fn neighbours_are_spread_over_the_whole_range() {
        let mut seen = [0u32; 10];
        for salt in 0..10_000 {
            seen[spread(salt, 0, 0..=9) as usize] += 1;
        }
        assert!(
            seen.iter().all(|count| (800..1200).contains(count)),
            "{seen:?}"
        );
        assert_eq!(spread(1, 1, 7..=7), 7);
    }
}
