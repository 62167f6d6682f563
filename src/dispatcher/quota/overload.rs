//! How many notifications came lately, and whom that is too many for.

use crate::{
    envelope::Priority,
    limits::{OVERLOAD_HIGH, OVERLOAD_LOW, OVERLOAD_NORMAL},
};

/// The last second, in parts.
const PARTS: usize = 10;
const PART_US: u64 = 1_000_000 / PARTS as u64;

/// Counts what was taken in: what was refused is no load.
#[derive(Default)]
pub struct Meter {
    parts: [u64; PARTS],
    /// Number of the part that is counted now.
    at: u64,
}

impl Meter {
    /// Whether one more of this priority is above its share of `design_per_s`, which is any number if it is 0.
    pub fn is_above(&mut self, design_per_s: u32, priority: Priority, now_us: u64) -> bool {
        self.move_to(now_us / PART_US);
        let share = match priority {
            Priority::Critical => return false,
            Priority::High => OVERLOAD_HIGH,
            Priority::Normal => OVERLOAD_NORMAL,
            Priority::Low => OVERLOAD_LOW,
        };
        design_per_s > 0 && self.percent(design_per_s) >= share
    }

    pub fn percent(&self, design_per_s: u32) -> u64 {
        self.parts.iter().sum::<u64>() * 100 / u64::from(design_per_s.max(1))
    }

    /// Of the moment that was asked about last.
    pub fn count(&mut self) {
        self.parts[self.at as usize % PARTS] += 1;
    }

    fn move_to(&mut self, at: u64) {
        let passed = at.saturating_sub(self.at).min(PARTS as u64);
        for step in 1..=passed {
            self.parts[(at - passed + step) as usize % PARTS] = 0;
        }
        self.at = self.at.max(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{Critical, High, Low, Normal};

    /// How many of 100 offered at this moment are taken.
    fn taken(meter: &mut Meter, priority: Priority, at_ms: u64) -> usize {
        let mut take = || {
            let above = meter.is_above(10, priority, at_ms * 1000);
            if !above {
                meter.count();
            }
            !above
        };
        (0..100).filter(|_| take()).count()
    }

    #[test]
    fn above_its_share_of_the_design_low_is_refused_first_and_critical_never() {
        let mut meter = Meter::default();
        assert_eq!(taken(&mut meter, Low, 5_000), 15);
        assert_eq!(taken(&mut meter, Low, 5_100), 0);
        assert_eq!(taken(&mut meter, Normal, 5_200), 3, "above 175 %");
        assert_eq!(taken(&mut meter, High, 5_300), 2);
        assert_eq!(taken(&mut meter, Critical, 5_400), 100);
        assert_eq!(taken(&mut meter, High, 6_399), 0);
        // What was taken more than a second ago is no load any more, and what is refused never was.
        assert_eq!(taken(&mut meter, Low, 6_400), 15);
    }
}
