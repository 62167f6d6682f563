//! How far a partition may be committed: an offset counts only when everything before it is finished.
//!
//! Invariant: `next()` is at most one above the highest offset below which nothing is in flight.

use std::collections::VecDeque;

/// In-flight records of one partition, in the order they were read.
#[derive(Debug, Default)]
pub struct LowWater {
    /// Offset, and whether it is finished. The front never is.
    window: VecDeque<(u64, bool)>,
    next: Option<u64>,
    highest: Option<u64>,
}

impl LowWater {
    /// A record was read. `false` when it is not above every record read before: it is in flight or
    /// finished already and must not be taken a second time.
    pub fn start(&mut self, offset: u64) -> bool {
        if self.highest.is_some_and(|highest| offset <= highest) {
            return false;
        }
        self.highest = Some(offset);
        self.window.push_back((offset, false));
        true
    }

    /// What follows from a record is durable. `true` when the low-water moved. Unknown offsets and repetitions
    /// change nothing.
    pub fn finish(&mut self, offset: u64) -> bool {
        let Ok(index) = self.window.binary_search_by_key(&offset, |(at, _)| *at) else {
            return false;
        };
        self.window[index].1 = true;
        let before = self.next;
        while let Some((offset, true)) = self.window.front() {
            self.next = Some(offset + 1);
            self.window.pop_front();
        }
        self.next != before
    }

    /// The offset to commit: the next one a new owner would read. `None` until something finished.
    pub fn next(&self) -> Option<u64> {
        self.next
    }

    /// As if what is finished behind one in flight stood before it: it moves with every record. `None` until something
    /// finished.
    pub fn finished_to(&self) -> Option<u64> {
        let finished = self.window.iter().filter(|(_, finished)| *finished).count();
        match self.window.front() {
            Some((front, _)) if finished > 0 => Some(front + finished as u64),
            _ => self.next,
        }
    }

    pub fn in_flight(&self) -> usize {
        self.window.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_offset_is_committed_only_when_everything_before_it_finished() {
        let mut water = LowWater::default();
        for offset in [3, 4, 9] {
            assert!(water.start(offset));
        }
        assert!(!water.finish(4));
        assert_eq!(water.next(), None);
        assert!(water.finish(3));
        assert_eq!(water.next(), Some(5));
        assert!(water.finish(9));
        assert_eq!((water.next(), water.in_flight()), (Some(10), 0));
    }

    #[test]
    fn what_is_finished_behind_one_in_flight_shows_and_is_not_committed() {
        let mut water = LowWater::default();
        for offset in 3..6 {
            water.start(offset);
        }
        assert_eq!(water.finished_to(), None);
        water.finish(4);
        assert_eq!((water.next(), water.finished_to()), (None, Some(4)));
        water.finish(5);
        assert_eq!((water.next(), water.finished_to()), (None, Some(5)));
        water.finish(3);
        assert_eq!((water.next(), water.finished_to()), (Some(6), Some(6)));
    }

    #[test]
    fn a_record_is_taken_once() {
        let mut water = LowWater::default();
        assert!(water.start(3));
        assert!(!water.start(3));
        water.finish(3);
        assert!(!water.start(2));
    }

    proptest! {
        #[test]
        fn in_any_order_of_completion_nothing_unfinished_is_ever_committed(
            gaps in proptest::collection::vec(1u64..4, 1..200),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..400),
        ) {
            let mut water = LowWater::default();
            let mut offsets = Vec::new();
            let mut at = 0;
            for gap in gaps {
                at += gap;
                offsets.push(at);
                water.start(at);
            }
            let mut finished = std::collections::BTreeSet::new();
            let mut committed = 0;
            for index in order {
                let offset = offsets[index.index(offsets.len())];
                water.finish(offset);
                finished.insert(offset);
                let next = water.next().unwrap_or(0);
                prop_assert!(next >= committed, "the low-water went back");
                committed = next;
                prop_assert!(offsets.iter().all(|o| *o >= next || finished.contains(o)));
                let first_open = offsets.iter().find(|o| !finished.contains(*o));
                prop_assert!(first_open.is_none_or(|open| *open >= next));
            }
            prop_assert_eq!(water.in_flight(), offsets.len() - offsets.iter().filter(|o| **o < committed).count());
        }
    }
}
