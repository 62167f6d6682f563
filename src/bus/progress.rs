//! Whether a reader keeps up with its partition, told from where it reads and where the partition ends.
//!
//! Invariants:
//! * nothing is said that was not seen: a reader that has read nothing yet is called halted only when the
//!   partition grew while it was looked at, since what lies before may have expired;
//! * time is what this process was there for: a pause, however long, counts as one [`limits::READER_LAPSE`].
//!   A process that was stopped finds its readers where it left them, and they are not to blame.

use crate::limits;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Why records wait.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Slow {
    #[error(
        "{behind} records wait: more come than are read, or the reader was away; it goes on by itself unless the figure grows"
    )]
    Behind { behind: u64 },
    #[error(
        "records wait and none was finished for {} s: look in the log for what it tries again, else restart it",
        limits::READER_HALTED.as_secs()
    )]
    Halted,
    #[error(
        "{next} is the next offset to read, but the partition ends at {end}: was the topic deleted and made anew? Restart it; `herald ctl topics --check` tells whether the topic is as it should be"
    )]
    Remade { next: u64, end: u64 },
}

/// One partition as it was seen when its reader last moved, or had nothing to read.
#[derive(Clone, Copy, Debug)]
struct Seen {
    next: Option<u64>,
    end: u64,
    at: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    seen: Option<Seen>,
    looked: Option<Instant>,
    /// Time that went by between looks.
    now: Duration,
}

impl Progress {
    /// `next` is the offset the reader goes on with, where it has read at all; it has to be taken before
    /// `end` is asked for.
    pub fn look(&mut self, next: Option<u64>, end: u64, now: Instant) -> Option<Slow> {
        let before = self.looked.replace(now).unwrap_or(now);
        self.now += (now - before).min(limits::READER_LAPSE);
        let now = self.now;
        let fresh = Seen { next, end, at: now };
        let seen = *self.seen.get_or_insert(fresh);
        let waits = match next {
            Some(next) => end > next,
            None => end > seen.end,
        };
        if !waits || next != seen.next {
            self.seen = Some(fresh);
        }
        match next {
            Some(next) if next > end => Some(Slow::Remade { next, end }),
            _ if waits && next == seen.next && now - seen.at >= limits::READER_HALTED => {
                Some(Slow::Halted)
            }
            Some(next) if end - next > limits::LAG_RECORDS => {
                Some(Slow::Behind { behind: end - next })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// What is said of each look, one in half the time that a reader may stand still.
    fn looks(looks: &[(Option<u64>, u64)]) -> Vec<Option<Slow>> {
        let mut progress = Progress::default();
        let mut now = Instant::now();
        let looks = looks.iter().map(|(next, end)| {
            now += limits::READER_HALTED / 2;
            progress.look(*next, *end, now)
        });
        looks.collect()
    }

    #[test]
    fn a_process_that_was_stopped_for_minutes_finds_no_reader_halted() {
        let mut progress = Progress::default();
        let mut now = Instant::now();
        assert_eq!(progress.look(Some(1), 2, now), None);
        now += Duration::from_secs(600);
        assert_eq!(progress.look(Some(1), 2, now), None);
        now += limits::READER_HALTED - limits::READER_LAPSE;
        assert_eq!(progress.look(Some(1), 2, now), Some(Slow::Halted));
    }

    #[test]
    fn a_reader_that_moves_or_has_nothing_to_read_is_not_slow() {
        let said = looks(&[
            (Some(1), 9),
            (Some(2), 20),
            (Some(3), 3),
            (Some(3), 3),
            (Some(3), 5),
        ]);
        assert_eq!(said, [None; 5]);
    }

    #[test]
    fn a_reader_that_stays_where_it_is_while_records_wait_is_halted_until_it_moves() {
        let said = looks(&[(Some(1), 1), (Some(1), 2), (Some(1), 2), (Some(2), 3)]);
        assert_eq!(said, [None, None, Some(Slow::Halted), None]);
    }

    #[test]
    fn a_reader_that_never_read_is_halted_only_by_records_that_came_since() {
        assert_eq!(looks(&[(None, 9), (None, 9), (None, 9)]), [None; 3]);
        let said = looks(&[(None, 9), (None, 10), (None, 10)]);
        assert_eq!(said[2], Some(Slow::Halted));
    }

    #[test]
    fn a_reader_that_moves_but_is_far_behind_says_by_how_much() {
        let end = limits::LAG_RECORDS + 2;
        let said = looks(&[(Some(0), 1), (Some(1), end), (Some(2), end)]);
        let behind = limits::LAG_RECORDS + 1;
        assert_eq!(said, [None, Some(Slow::Behind { behind }), None]);
    }

    #[test]
    fn a_partition_that_ends_before_what_was_read_was_made_anew() {
        let said = looks(&[(Some(7), 7), (Some(7), 0)]);
        assert_eq!(said[1], Some(Slow::Remade { next: 7, end: 0 }));
    }
}
