//! What goes wrong in a store: what passes by itself, and what an operator has to look at.

use crate::position::Position;
use thiserror::Error;

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum StoreError {
    /// Passes by itself: the record waits on the bus.
    #[error("the store is away: {0}")]
    Unavailable(String),
    /// A defect or a damaged file: an operator has to look.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// Only at the opening.
    #[error("{file} belongs to namespace {owner:?}: give each namespace a store.path of its own")]
    Foreign { file: String, owner: String },
    /// Only at the opening: the text says what to run.
    #[error("{key}: {problem}")]
    Schema { key: &'static str, problem: String },
    #[error(transparent)]
    WentBack(#[from] WentBack),
}

/// The broker's offsets went back under the same generation. Stored, the row would be hidden from every cursor;
/// nothing of the call was stored.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{topic} gave position {pos} (generation {}, offset {}), which is not above the newest stored one {head} and \
     was never stored: the topic was made anew under its old name. Restore it with the offsets it had, then \
     restart the dispatchers; a new generation of it is not in this release",
    pos.generation(),
    pos.offset()
)]
pub struct WentBack {
    pub topic: &'static str,
    /// Which row of the call.
    pub row: usize,
    pub pos: Position,
    pub head: Position,
}

/// What trying again does not help is an answer.
pub fn or_went_back<T>(result: Result<T, StoreError>) -> Result<Result<T, WentBack>, StoreError> {
    match result {
        Err(StoreError::WentBack(went_back)) => Ok(Err(went_back)),
        other => other.map(Ok),
    }
}
