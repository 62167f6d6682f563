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

/// Pairs a client keeps above its cursor while it waits for the hole below them to fill.
pub const AHEAD_PAIRS_MAX: usize = 256;

/// The client's rule: the highest contiguous position, and what is known above it.
///
/// Used by every Rust client of ours (tests, swarm) and by the SSE side of the gateway, which has to
/// write the cursor into `id:` lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContiguousCursor {
    at: Position,
    /// pos → prev of items above the cursor.
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

    /// Takes an item that arrived. Over [`AHEAD_PAIRS_MAX`] the highest pair is forgotten: the sync
    /// that closes the hole brings it again.
    pub fn advance(&mut self, prev: Position, pos: Position) {
        if pos <= self.at {
            return;
        }
        if prev > self.at {
            self.ahead.insert(pos, prev);
            if self.ahead.len() > AHEAD_PAIRS_MAX {
                self.ahead.pop_last();
            }
            return;
        }
        self.at = pos;
        self.fold();
    }

    /// A sync (or a `gap` of cause `collapsed` or `expired`) covered everything in `(from, to]`.
    pub fn cover(&mut self, from: Position, to: Position) {
        if from <= self.at && to > self.at {
            self.at = to;
            self.fold();
        }
    }

    fn fold(&mut self) {
        while let Some((&pos, &prev)) = self.ahead.first_key_value() {
            if pos > self.at {
                if prev > self.at {
                    break;
                }
                self.at = pos;
            }
            self.ahead.pop_first();
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
        assert_eq!(cursor.position(), p(1));
        cursor.cover(p(1), p(9));
        assert_eq!(cursor.position(), p(9));
    }

    #[test]
    fn pairs_above_a_hole_are_bounded() {
        let mut cursor = ContiguousCursor::starting_at(p(0));
        for i in 0..1000 {
            cursor.advance(p(10 + i), p(11 + i));
        }
        assert_eq!(cursor.ahead.len(), AHEAD_PAIRS_MAX);
        cursor.cover(p(0), p(10));
        assert_eq!(cursor.position(), p(10 + AHEAD_PAIRS_MAX as u64));
    }
}
