//! What is known of a shard without an owner, from one look to the next: whether somebody has to finish it.

use crate::limits;
use tokio::time::Instant;

/// How far a partition is read and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub committed: Option<u64>,
    pub end: u64,
}

impl Extent {
    pub fn is_read(self) -> bool {
        self.committed.unwrap_or(0) >= self.end
    }
}

/// Of `critical` and of `in_app`.
pub type Extents = [Extent; 2];

/// A shard without an owner, as it looked before.
pub struct Sight {
    pub extents: Extents,
    /// Since when the committed offsets stand still.
    still_since: Instant,
    /// What was left when a finisher found nothing more to read.
    given_up: Option<Instant>,
}

impl Sight {
    pub fn new(extents: Extents, now: Instant) -> Sight {
        Sight {
            extents,
            still_since: now,
            given_up: None,
        }
    }

    /// Whatever could be read was read: if an end still lies further on, it is left for a while.
    pub fn was_read(&mut self, now: Instant) {
        self.given_up = Some(now);
    }

    /// Whether somebody has to finish it.
    pub fn moved_to(&mut self, extents: Extents, now: Instant) -> bool {
        let committed = |extents: &Extents| extents.map(|extent| extent.committed);
        if committed(&extents) != committed(&self.extents) {
            self.still_since = now;
        }
        if extents != self.extents {
            self.given_up = None;
        }
        self.extents = extents;
        if extents.iter().all(|extent| extent.is_read()) {
            self.still_since = now;
            return false;
        }
        let again = |at: Instant| now.duration_since(at) >= limits::FINISHER_AGAIN;
        now.duration_since(self.still_since) >= limits::FINISHER_STILL
            && self.given_up.is_none_or(again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn extents(committed: Option<u64>, end: u64) -> Extents {
        [Extent { committed, end }; 2]
    }

    #[test]
    fn a_shard_is_stuck_when_records_wait_and_the_committed_offset_stands_still() {
        let start = Instant::now();
        let mut sight = Sight::new(extents(Some(3), 3), start);
        let at = |n: u32| start + n * limits::FINISHER_STILL;
        assert!(!sight.moved_to(extents(Some(3), 3), at(5)), "nothing waits");
        assert!(
            !sight.moved_to(extents(Some(3), 4), at(5)),
            "it came just now"
        );
        assert!(
            !sight.moved_to(extents(Some(4), 9), at(6)),
            "somebody reads"
        );
        assert!(sight.moved_to(extents(Some(4), 9), at(7)));
    }

    #[test]
    fn what_can_not_be_read_is_left_for_a_while_unless_more_comes() {
        let start = Instant::now();
        let mut sight = Sight::new(extents(None, 9), start);
        let later = start + limits::FINISHER_STILL;
        assert!(sight.moved_to(extents(None, 9), later));
        sight.was_read(later);
        assert!(!sight.moved_to(extents(None, 9), later + Duration::from_secs(1)));
        assert!(sight.moved_to(extents(None, 9), later + limits::FINISHER_AGAIN));
        sight.was_read(later);
        assert!(sight.moved_to(extents(None, 10), later));
    }
}
