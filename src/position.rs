//! The order of a stream: where an item stands, what stood before it, and how a reader tells that
//! nothing is missing.
//!
//! Invariants:
//! * a position is given once, by the broker (generation of the topic and offset of the record), and
//!   reading the record again gives the same one; no clock takes part;
//! * positions of one stream only rise; `prev` of an item is the position of the item before it;
//! * every position fits an IEEE double exactly, so a JavaScript client may hold it as a number.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bits of a position that hold the offset; the generation stands above them.
const OFFSET_BITS: u32 = 40;
/// First integer a double can't tell from its neighbour.
const POSITION_END: u64 = 1 << 53;

/// `generation · 2⁴⁰ + offset`. Zero is "before the first item": generations start at 1.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Position(u64);

impl Position {
    /// Before the first item of any stream.
    pub const START: Position = Position(0);

    /// `None` when the generation is 0 or the result would not fit 53 bits.
    pub fn new(generation: u16, offset: u64) -> Option<Position> {
        let value = (u64::from(generation) << OFFSET_BITS).checked_add(offset)?;
        (generation > 0 && offset < 1 << OFFSET_BITS && value < POSITION_END)
            .then_some(Position(value))
    }

    /// Takes what a client presents; anything a broker could not have given is refused.
    pub fn from_wire(value: u64) -> Option<Position> {
        (value < POSITION_END).then_some(Position(value))
    }

    pub fn value(self) -> u64 {
        self.0
    }

    pub fn generation(self) -> u16 {
        (self.0 >> OFFSET_BITS) as u16
    }

    pub fn offset(self) -> u64 {
        self.0 & ((1 << OFFSET_BITS) - 1)
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Ranges a client keeps above its cursor while it waits for the hole below them to fill.
pub const AHEAD_PAIRS_MAX: usize = 256;

/// The client's rule: the highest contiguous position, and what is known above it.
///
/// An item, a range covered by a sync and one covered by a `gap` all say the same: everything in
/// `(from, to]` is known. What arrives above a hole is kept and counts once the hole is filled, so a
/// `gap` that overtook the items before it is not lost.
///
/// Used by every Rust client of ours (tests, swarm) and by the SSE side of the gateway, which has to
/// write the cursor into `id:` lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ContiguousCursor {
    at: Position,
    /// to → from of known ranges above the cursor; they neither touch nor overlap.
    ahead: BTreeMap<Position, Position>,
}

impl ContiguousCursor {
    pub fn starting_at(at: Position) -> Self {
        ContiguousCursor {
            at,
            ahead: BTreeMap::new(),
        }
    }

    pub fn position(&self) -> Position {
        self.at
    }

    /// An item is known to exist above the cursor, and what lies between is not.
    pub fn has_hole(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Takes an item that arrived. Over [`AHEAD_PAIRS_MAX`] the highest range is forgotten: the sync
    /// that closes the hole brings it again.
    pub fn advance(&mut self, prev: Position, pos: Position) {
        self.cover(prev, pos);
    }

    /// A sync (or a `gap` of cause `collapsed` or `expired`) covered everything in `(from, to]`.
    pub fn cover(&mut self, from: Position, to: Position) {
        if to <= self.at || to <= from {
            return;
        }
        if from > self.at {
            self.keep_ahead(from, to);
            return;
        }
        self.at = to;
        while let Some((&to, &from)) = self.ahead.first_key_value() {
            if from > self.at {
                break;
            }
            self.at = self.at.max(to);
            self.ahead.pop_first();
        }
    }

    /// Joins the range with every one it touches: those that end at or after its start and begin at or
    /// before its end.
    fn keep_ahead(&mut self, mut from: Position, mut to: Position) {
        while let Some((&end, &start)) = self.ahead.range(from..).next() {
            if start > to {
                break;
            }
            from = from.min(start);
            to = to.max(end);
            self.ahead.remove(&end);
        }
        self.ahead.insert(to, from);
        if self.ahead.len() > AHEAD_PAIRS_MAX {
            self.ahead.pop_last();
        }
    }
}

/// One cursor per stream name, as clients present and receive them. Bounded by the parser.
pub type Cursors = BTreeMap<String, Position>;

#[cfg(test)]
mod tests {
    use super::*;

    fn p(offset: u64) -> Position {
        Position::new(1, offset).unwrap()
    }

    #[test]
    fn a_position_is_an_integer_that_javascript_can_hold() {
        assert_eq!(p(7).value(), (1 << 40) + 7);
        assert_eq!((p(7).generation(), p(7).offset()), (1, 7));
        assert_eq!(Position::new(0, 1), None);
        assert_eq!(Position::new(1, 1 << 40), None);
        assert_eq!(Position::new(8192, 0), None);
        assert_eq!(Position::from_wire(1 << 53), None);
    }

    #[test]
    fn a_cursor_advances_only_over_what_is_contiguous() {
        let mut cursor = ContiguousCursor::starting_at(p(1));
        cursor.advance(p(5), p(9));
        assert_eq!((cursor.position(), cursor.has_hole()), (p(1), true));
        cursor.advance(p(1), p(5));
        assert_eq!((cursor.position(), cursor.has_hole()), (p(9), false));
    }

    #[test]
    fn a_repeated_item_changes_nothing() {
        let mut cursor = ContiguousCursor::starting_at(p(9));
        cursor.advance(p(1), p(5));
        assert_eq!(cursor, ContiguousCursor::starting_at(p(9)));
    }

    #[test]
    fn a_sync_that_starts_above_the_cursor_does_not_close_the_hole() {
        let mut cursor = ContiguousCursor::starting_at(p(1));
        cursor.cover(p(3), p(9));
        assert_eq!((cursor.position(), cursor.has_hole()), (p(1), true));
        cursor.cover(p(1), p(9));
        assert_eq!((cursor.position(), cursor.has_hole()), (p(9), false));
    }

    #[test]
    fn a_gap_that_overtook_the_items_before_it_still_counts() {
        let mut cursor = ContiguousCursor::starting_at(p(1));
        cursor.cover(p(2), p(5));
        cursor.advance(p(5), p(6));
        cursor.advance(p(1), p(2));
        assert_eq!((cursor.position(), cursor.has_hole()), (p(6), false));
    }

    #[test]
    fn a_range_that_says_nothing_changes_nothing() {
        let mut cursor = ContiguousCursor::starting_at(p(1));
        cursor.cover(p(9), p(9));
        cursor.cover(p(9), p(3));
        assert_eq!(cursor, ContiguousCursor::starting_at(p(1)));
    }

    #[test]
    fn what_follows_one_another_above_a_hole_is_kept_as_one() {
        let mut cursor = ContiguousCursor::starting_at(p(0));
        for i in (0..1000).rev() {
            cursor.advance(p(10 + i), p(11 + i));
        }
        assert_eq!(cursor.ahead.len(), 1);
        cursor.cover(p(0), p(10));
        assert_eq!(cursor.position(), p(1010));
    }

    #[test]
    fn ranges_above_a_hole_are_bounded_and_the_highest_is_forgotten() {
        let mut cursor = ContiguousCursor::starting_at(p(0));
        for i in 0..1000 {
            cursor.advance(p(10 + 2 * i), p(11 + 2 * i));
        }
        assert_eq!(cursor.ahead.len(), AHEAD_PAIRS_MAX);
        cursor.cover(p(0), p(10 + 2 * AHEAD_PAIRS_MAX as u64 - 2));
        assert_eq!(cursor.position(), p(9 + 2 * AHEAD_PAIRS_MAX as u64));
        assert!(!cursor.has_hole());
    }

    /// The rule in its plainest form: a set of known positions.
    #[test]
    fn the_cursor_agrees_with_a_plain_set_whatever_the_order() {
        let mut state = 7u64;
        let mut below = |bound: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % bound
        };
        for _ in 0..2_000 {
            let mut known = [false; 16];
            let mut cursor = ContiguousCursor::starting_at(p(0));
            for _ in 0..12 {
                let from = below(15);
                let to = from + 1 + below(15 - from);
                cursor.cover(p(from), p(to));
                known[from as usize..to as usize].fill(true);
                let contiguous = known.iter().take_while(|known| **known).count() as u64;
                assert_eq!(cursor.position(), p(contiguous));
                let beyond = known[contiguous as usize..].iter().any(|known| *known);
                assert_eq!(cursor.has_hole(), beyond);
            }
        }
    }
}
