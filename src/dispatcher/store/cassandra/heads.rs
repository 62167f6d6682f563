//! Where streams end, as this process remembers it: only of users whose partitions it has.

use super::recent::Recent;
use crate::{limits, position::Position};
use parking_lot::Mutex;

/// Of a stream that has rows, or had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub pos: Position,
    pub bucket: i32,
}

#[derive(Debug)]
pub struct Heads(Mutex<Remembered>);

#[derive(Debug)]
struct Remembered {
    heads: Recent<String, Head>,
    /// Counts [`Heads::forget`].
    assignment: u64,
}

/// When something was read: what is older than the last [`Heads::forget`] is not remembered.
#[derive(Clone, Copy, Debug)]
pub struct Assignment(u64);

impl Default for Heads {
    fn default() -> Self {
        Heads(Mutex::new(Remembered {
            heads: Recent::new(limits::HEADS_REMEMBERED),
            assignment: 0,
        }))
    }
}

impl Heads {
    pub fn assignment(&self) -> Assignment {
        Assignment(self.0.lock().assignment)
    }

    pub fn find(&self, stream: &str) -> Option<Head> {
        self.0.lock().heads.find(&stream.to_owned())
    }

    pub fn put(&self, read_in: Assignment, stream: &str, head: Head) {
        let mut remembered = self.0.lock();
        if remembered.assignment == read_in.0 {
            remembered.heads.put(stream.to_owned(), head);
        }
    }

    /// Its rows may stand, or not: they are read again.
    pub fn remove(&self, stream: &str) {
        self.0.lock().heads.remove(&stream.to_owned());
    }

    pub fn forget(&self) {
        let mut remembered = self.0.lock();
        remembered.heads.clear();
        remembered.assignment += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_under_an_earlier_assignment_is_not_remembered() {
        let heads = Heads::default();
        let head = Head {
            pos: Position::new(1, 5).unwrap(),
            bucket: 7,
        };
        let before = heads.assignment();
        heads.put(before, "ada", head);
        assert_eq!(heads.find("ada"), Some(head));
        heads.forget();
        heads.put(before, "ada", head);
        assert_eq!(heads.find("ada"), None);
        heads.put(heads.assignment(), "ada", head);
        heads.remove("ada");
        assert_eq!(heads.find("ada"), None);
    }
}
