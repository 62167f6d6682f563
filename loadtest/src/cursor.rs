//! A client's place in one stream, and the numbers it has seen of those we posted.
//!
//! Written apart from the server's code on purpose: the tool checks the rule, so it must not share the
//! mistake.

use smallvec::SmallVec;
use std::{collections::BTreeMap, mem::size_of};

/// Pairs kept above a hole; the sync that closes it brings the others again.
const AHEAD_MAX: usize = 256;

/// No position: they fit 53 bits.
const UNKNOWN: u64 = u64::MAX;

/// The highest position up to which nothing is missing. There are two for each of a million clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Unknown until a sync says where the stream stands.
    at: u64,
    /// Rarely there: most items arrive in order.
    ahead: Option<Box<Ahead>>,
}

const _: () = assert!(size_of::<Cursor>() <= 16);

/// Position → the one before it, of items that arrived above the cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ahead(BTreeMap<u64, u64>);

impl Default for Cursor {
    fn default() -> Cursor {
        Cursor {
            at: UNKNOWN,
            ahead: None,
        }
    }
}

impl Cursor {
    pub fn position(&self) -> Option<u64> {
        (self.at != UNKNOWN).then_some(self.at)
    }

    /// Something that arrived says that something else did not.
    pub fn has_hole(&self) -> bool {
        self.at != UNKNOWN && self.ahead.is_some()
    }

    /// An item at `pos` whose predecessor is at `prev`.
    pub fn advance(&mut self, prev: u64, pos: u64) {
        match self.position() {
            Some(at) if pos <= at => {}
            Some(at) if prev <= at => self.move_to(pos),
            _ => {
                let ahead = &mut self.ahead.get_or_insert_default().0;
                ahead.insert(pos, prev);
                if ahead.len() > AHEAD_MAX {
                    ahead.pop_last();
                }
            }
        }
    }

    /// Everything in `(from, to]` was delivered or is of no use any more. Says whether it joined up.
    pub fn cover(&mut self, from: u64, to: u64) -> bool {
        match self.position() {
            Some(at) if from > at => return false,
            Some(at) if to <= at => {}
            _ => self.move_to(to),
        }
        true
    }

    /// Goes on from there, whatever lies between.
    pub fn adopt(&mut self, pos: u64) {
        if self.position().is_none_or(|at| pos > at) {
            self.move_to(pos);
        }
    }

    fn move_to(&mut self, pos: u64) {
        self.at = pos;
        let Some(Ahead(ahead)) = self.ahead.as_deref_mut() else {
            return;
        };
        while let Some((&next, &prev)) = ahead.first_key_value() {
            if prev > self.at && next > self.at {
                return;
            }
            self.at = self.at.max(next);
            ahead.pop_first();
        }
        self.ahead = None;
    }
}

/// A set of numbers that mostly run on: kept as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Inclusive, apart from each other, ascending; mostly there is one.
    ranges: SmallVec<[(u32, u32); 1]>,
}

const _: () = assert!(size_of::<Numbers>() <= 24);

impl Numbers {
    /// Says whether it is new.
    pub fn insert(&mut self, number: u32) -> bool {
        // The first range that ends at or after the number's left neighbour.
        let at = self
            .ranges
            .partition_point(|&(_, last)| last.saturating_add(1) < number);
        let Some(range) = self.ranges.get_mut(at) else {
            self.ranges.push((number, number));
            return true;
        };
        if (range.0..=range.1).contains(&number) {
            return false;
        }
        if range.1.saturating_add(1) == number {
            range.1 = number;
            self.join_with_next(at);
        } else if number.saturating_add(1) == range.0 {
            range.0 = number;
        } else {
            self.ranges.insert(at, (number, number));
        }
        true
    }

    fn join_with_next(&mut self, at: usize) {
        if let Some(&(first, last)) = self.ranges.get(at + 1)
            && self.ranges[at].1.saturating_add(1) == first
        {
            self.ranges[at].1 = last;
            self.ranges.remove(at + 1);
        }
    }

    pub fn contains(&self, number: u32) -> bool {
        let at = self.ranges.partition_point(|&(_, last)| last < number);
        self.ranges
            .get(at)
            .is_some_and(|&(first, _)| first <= number)
    }

    /// First and last of each, both included.
    pub fn ranges(&self) -> &[(u32, u32)] {
        &self.ranges
    }

    pub fn len(&self) -> u64 {
        let of = |&(first, last): &(u32, u32)| u64::from(last - first) + 1;
        self.ranges.iter().map(of).sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ranges.iter().flat_map(|&(first, last)| first..=last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64) -> Cursor {
        let mut cursor = Cursor::default();
        cursor.adopt(position);
        cursor
    }

    #[test]
    fn items_in_order_move_the_cursor() {
        let mut cursor = at(0);
        cursor.advance(0, 4);
        cursor.advance(4, 9);
        assert_eq!((cursor.position(), cursor.has_hole()), (Some(9), false));
    }

    #[test]
    fn an_item_out_of_order_is_a_hole_until_the_one_before_it_arrives() {
        let mut cursor = at(1);
        cursor.advance(4, 9);
        assert_eq!((cursor.position(), cursor.has_hole()), (Some(1), true));
        cursor.advance(1, 4);
        assert_eq!((cursor.position(), cursor.has_hole()), (Some(9), false));
    }

    #[test]
    fn what_arrives_before_the_place_is_known_is_folded_in_later() {
        let mut cursor = Cursor::default();
        cursor.advance(4, 9);
        assert_eq!((cursor.position(), cursor.has_hole()), (None, false));
        cursor.adopt(4);
        assert_eq!(cursor.position(), Some(9));
    }

    #[test]
    fn a_range_that_does_not_join_up_closes_nothing() {
        let mut cursor = at(3);
        assert!(!cursor.cover(5, 9));
        assert_eq!(cursor.position(), Some(3));
        assert!(cursor.cover(3, 9));
        assert_eq!(cursor.position(), Some(9));
    }

    #[test]
    fn what_is_kept_above_a_hole_is_bounded() {
        let mut cursor = at(1);
        for pos in 10..10_000 {
            cursor.advance(pos - 1, pos);
        }
        assert_eq!(cursor.ahead.unwrap().0.len(), AHEAD_MAX);
    }

    #[test]
    fn numbers_are_taken_once_in_any_order() {
        let mut numbers = Numbers::default();
        let order = [5, 1, 3, 2, 9, 4, 7, 8];
        assert!(order.iter().all(|&n| numbers.insert(n)));
        assert!(order.iter().all(|&n| !numbers.insert(n)));
        assert_eq!(numbers.ranges[..], [(1, 5), (7, 9)]);
        assert_eq!(numbers.len(), 8);
        assert!(numbers.contains(9) && !numbers.contains(6) && !numbers.contains(10));
        assert_eq!(numbers.iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 7, 8, 9]);
    }
}
