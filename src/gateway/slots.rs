//! The slab of a core's connections.
//!
//! Invariants:
//! * an entry never moves: growing adds a page, so half a million connections are never copied and no
//!   wake-up pays for it;
//! * `reuse` tells two tenants of one slot apart: it rises with every removal, so an address that control
//!   still holds never reaches a later connection (short of 65,536 tenants within one message's flight);
//! * the links belong to the wheel of `sweep.rs` while a slot is taken, to the free list otherwise.

/// Entries of one page.
const PAGE: usize = 1024;
/// "No slot" in a link.
pub(super) const NONE: u32 = u32::MAX;

/// A slot's place in a list of the wheel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Links {
    pub next: u32,
    pub previous: u32,
    /// Tick at which it fires, or `NONE`; the spoke it hangs on follows from it.
    pub due: u32,
}

pub(super) const UNLINKED: Links = Links {
    next: NONE,
    previous: NONE,
    due: NONE,
};

struct Slot<T> {
    value: Option<T>,
    links: Links,
    reuse: u16,
}

pub(super) struct Slots<T> {
    pages: Vec<Box<[Slot<T>]>>,
    /// First slot of the free list, threaded through `links.next`.
    free: u32,
    len: usize,
}

impl<T> Slots<T> {
    /// Bytes one connection takes here.
    pub const ENTRY_BYTES: usize = size_of::<Slot<T>>();

    pub fn new() -> Self {
        Slots {
            pages: Vec::new(),
            free: NONE,
            len: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// One above the highest slot that was ever taken; what a walk over all of them ends at.
    pub fn end(&self) -> u32 {
        (self.pages.len() * PAGE) as u32
    }

    /// Takes the slot that was freed last (its memory is warm), or adds a page.
    pub fn insert(&mut self, value: T) -> (u32, u16) {
        if self.free == NONE {
            self.grow();
        }
        let index = self.free;
        let slot = self.slot_mut(index);
        let next = slot.links.next;
        slot.links = UNLINKED;
        slot.value = Some(value);
        let reuse = slot.reuse;
        self.free = next;
        self.len += 1;
        (index, reuse)
    }

    /// The caller has taken it off the wheel.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let free = self.free;
        let slot = self.slot_mut(index);
        let value = slot.value.take()?;
        debug_assert_eq!(slot.links, UNLINKED);
        slot.reuse = slot.reuse.wrapping_add(1);
        slot.links.next = free;
        self.free = index;
        self.len -= 1;
        Some(value)
    }

    pub fn at(&mut self, index: u32) -> Option<(u16, &mut T)> {
        let page = self.pages.get_mut(index as usize / PAGE)?;
        let slot = &mut page[index as usize % PAGE];
        let reuse = slot.reuse;
        slot.value.as_mut().map(|value| (reuse, value))
    }

    /// Whoever was there under this `reuse`, if it still is.
    pub fn tenant(&mut self, index: u32, reuse: u16) -> Option<&mut T> {
        self.at(index)
            .and_then(|(now, value)| (now == reuse).then_some(value))
    }

    pub fn links(&mut self, index: u32) -> &mut Links {
        &mut self.slot_mut(index).links
    }

    fn slot_mut(&mut self, index: u32) -> &mut Slot<T> {
        &mut self.pages[index as usize / PAGE][index as usize % PAGE]
    }

    /// The lowest new slot comes first.
    fn grow(&mut self) {
        let start = self.end();
        let next_of = |index: u32| match index + 1 < start + PAGE as u32 {
            true => index + 1,
            false => NONE,
        };
        let page = (start..start + PAGE as u32).map(|index| Slot {
            value: None,
            links: Links {
                next: next_of(index),
                ..UNLINKED
            },
            reuse: 0,
        });
        self.pages.push(page.collect());
        self.free = start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_address_never_reaches_the_next_tenant() {
        let mut slots = Slots::new();
        let (index, reuse) = slots.insert("first");
        assert_eq!(slots.remove(index), Some("first"));
        let (again, next_reuse) = slots.insert("second");
        assert_eq!((again, next_reuse), (index, reuse + 1));
        assert_eq!(slots.tenant(index, reuse), None);
        assert_eq!(slots.tenant(index, next_reuse), Some(&mut "second"));
    }

    #[test]
    fn an_entry_stays_where_it_is_while_pages_are_added() {
        let mut slots = Slots::new();
        let (first, _) = slots.insert(0usize);
        let at = std::ptr::from_ref(slots.at(first).unwrap().1);
        for value in 1..PAGE * 3 {
            slots.insert(value);
        }
        assert_eq!(at, std::ptr::from_ref(slots.at(first).unwrap().1));
        assert_eq!((slots.len(), slots.end() as usize), (PAGE * 3, PAGE * 3));
    }

    #[test]
    fn a_slot_that_never_was_is_nobody() {
        let mut slots = Slots::<u8>::new();
        assert_eq!(slots.at(0), None);
        slots.insert(1);
        assert_eq!(slots.at(1), None);
        assert_eq!(slots.remove(1), None);
    }
}
