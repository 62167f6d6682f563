//! What was spent on a day by a channel, of all dispatchers together.

use crate::envelope::Channel;

/// Something to be paid, or given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spend {
    pub channel: Channel,
    /// Since 1970, of UTC.
    pub day: u32,
    /// Millionths of the currency; below 0 it was not paid after all.
    pub cost: i64,
    /// Refused if the day's sum would be above it.
    pub limit: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    pub granted: bool,
    /// Of the day by now.
    pub total: u64,
}

impl Spend {
    /// What becomes of a day's sum. Nothing is given back that was not paid.
    pub(super) fn onto(&self, total: u64) -> Spent {
        let sum = total.saturating_add_signed(self.cost);
        match self.limit {
            Some(limit) if self.cost > 0 && sum > limit => Spent {
                granted: false,
                total,
            },
            _ => Spent {
                granted: true,
                total: sum,
            },
        }
    }
}
