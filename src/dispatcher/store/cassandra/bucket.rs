//! Buckets: 30 days of time, numbered from 1970.

use crate::{ids::NotificationId, limits};
use std::ops::RangeInclusive;

const DAY_MS: u64 = 24 * 3600 * 1000;

pub fn of_ms(at_ms: u64) -> i32 {
    i32::try_from(at_ms / (limits::BUCKET_DAYS * DAY_MS)).unwrap_or(i32::MAX)
}

/// The bucket of what is found by an id alone: that of the time in it.
pub fn of_id(id: NotificationId) -> i32 {
    of_ms(id.unix_ms())
}

/// Buckets that a row of this id can stand in, as of now: it was given before the broker took the record, by a
/// clock that is not more than a day ahead.
pub fn with_id(id: NotificationId, newest: i32) -> RangeInclusive<i32> {
    let first = of_ms(id.unix_ms().saturating_sub(DAY_MS));
    first.max(newest.saturating_sub(limits::BUCKETS_BACK))..=newest
}

/// The newest there can be by this host's clock.
pub fn newest(now_ms: u64) -> i32 {
    of_ms(now_ms + DAY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_looked_for_from_the_bucket_it_was_given_in() {
        let id = NotificationId::generate();
        let now_ms = id.unix_ms();
        assert_eq!(of_id(id), of_ms(now_ms));
        let begin_ms = u64::from(of_id(id).unsigned_abs()) * limits::BUCKET_DAYS * DAY_MS;
        let first = if now_ms - begin_ms < DAY_MS { -1 } else { 0 };
        let here = of_id(id);
        assert_eq!(with_id(id, here), here + first..=here);
        assert_eq!(with_id(id, here + 9), here + 6..=here + 9);
        assert!(with_id(id, here - 5).is_empty());
    }
}
