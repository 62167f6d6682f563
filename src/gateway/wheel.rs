//! When to look at a connection again: one wheel per core, its lists threaded through the slab.
//!
//! Invariants:
//! * a connection hangs on exactly one spoke, so what the wheel takes is 12 B of its slab entry and never
//!   grows with how often it is set anew;
//! * setting, clearing and firing are O(1): an idle half million costs what fires, not what exists;
//! * it fires late by at most one tick, and never early but for times beyond its span, which fire at the
//!   span and are set again.

use super::slots::{Links, NONE, Slots, UNLINKED};

/// Length of a tick. Every limit in time of the gateway is a multiple of it, rounded up.
pub(super) const TICK_MS: u64 = 50;
/// 1024 ticks are 51 s: over a heartbeat, so that an idle connection is touched once each.
const SPOKES: usize = 1024;

pub(super) struct Wheel {
    heads: Box<[u32; SPOKES]>,
    /// Ticks since the start that have been fired; 32 bits are 6 years.
    fired: u32,
}

impl Wheel {
    pub fn new(now_ms: u64) -> Wheel {
        Wheel {
            heads: Box::new([NONE; SPOKES]),
            fired: (now_ms / TICK_MS) as u32,
        }
    }

    /// Fires at `at_ms` or within a tick after it; replaces what was set before.
    pub fn set<T>(&mut self, slots: &mut Slots<T>, index: u32, at_ms: u64) {
        let due = self.tick_of(at_ms);
        if slots.links(index).due == due {
            return;
        }
        self.clear(slots, index);
        let head = std::mem::replace(&mut self.heads[spoke(due)], index);
        *slots.links(index) = Links {
            next: head,
            previous: NONE,
            due,
        };
        if head != NONE {
            slots.links(head).previous = index;
        }
    }

    /// Like [`Wheel::set`], but never later than set before: what happens to a connection between two
    /// firings costs a comparison, and is looked at when it fires.
    pub fn bring_forward<T>(&mut self, slots: &mut Slots<T>, index: u32, at_ms: u64) {
        let set = slots.links(index).due;
        if set == NONE || self.tick_of(at_ms) < set {
            self.set(slots, index, at_ms);
        }
    }

    pub fn clear<T>(&mut self, slots: &mut Slots<T>, index: u32) {
        let Links {
            next,
            previous,
            due,
        } = std::mem::replace(slots.links(index), UNLINKED);
        if due == NONE {
            return;
        }
        match previous {
            NONE => self.heads[spoke(due)] = next,
            _ => slots.links(previous).next = next,
        }
        if next != NONE {
            slots.links(next).previous = previous;
        }
    }

    fn tick_of(&self, at_ms: u64) -> u32 {
        let latest = self.fired + SPOKES as u32 - 1;
        let tick = at_ms.div_ceil(TICK_MS).min(u64::from(latest)) as u32;
        tick.max(self.fired + 1)
    }

    /// The next connection whose time has come, taken off the wheel.
    pub fn fire<T>(&mut self, slots: &mut Slots<T>, now_ms: u64) -> Option<u32> {
        let now = (now_ms / TICK_MS) as u32;
        while self.fired < now {
            match self.heads[spoke(self.fired + 1)] {
                NONE => self.fired += 1,
                index => {
                    self.clear(slots, index);
                    return Some(index);
                }
            }
        }
        None
    }
}

fn spoke(tick: u32) -> usize {
    tick as usize % SPOKES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired_at(wheel: &mut Wheel, slots: &mut Slots<u8>, until_ms: u64) -> Vec<(u64, u32)> {
        let mut fired = Vec::new();
        for now in (0..=until_ms).step_by(TICK_MS as usize) {
            while let Some(index) = wheel.fire(slots, now) {
                fired.push((now, index));
            }
        }
        fired
    }

    #[test]
    fn each_fires_once_at_its_time() {
        let (mut slots, mut wheel) = (Slots::new(), Wheel::new(0));
        for at in [70, 1, 0, 50_000] {
            let (index, _) = slots.insert(0);
            wheel.set(&mut slots, index, at);
        }
        let fired = fired_at(&mut wheel, &mut slots, 60_000);
        assert_eq!(fired, [(50, 2), (50, 1), (100, 0), (50_000, 3)]);
    }

    #[test]
    fn setting_anew_replaces_and_clearing_removes() {
        let (mut slots, mut wheel) = (Slots::new(), Wheel::new(0));
        for _ in 0..3 {
            let (index, _) = slots.insert(0);
            wheel.set(&mut slots, index, 500);
        }
        wheel.set(&mut slots, 1, 100);
        wheel.clear(&mut slots, 0);
        let fired = fired_at(&mut wheel, &mut slots, 1_000);
        assert_eq!(fired, [(100, 1), (500, 2)]);
    }

    #[test]
    fn bringing_forward_never_postpones() {
        let (mut slots, mut wheel) = (Slots::new(), Wheel::new(0));
        let (index, _) = slots.insert(0);
        for at in [300, 100, 200] {
            wheel.bring_forward(&mut slots, index, at);
        }
        assert_eq!(fired_at(&mut wheel, &mut slots, 1_000), [(100, 0)]);
    }

    #[test]
    fn a_time_beyond_the_span_fires_at_the_span() {
        let (mut slots, mut wheel) = (Slots::new(), Wheel::new(0));
        let (index, _) = slots.insert(0);
        wheel.set(&mut slots, index, 3_600_000);
        let fired = fired_at(&mut wheel, &mut slots, 60_000);
        assert_eq!(fired, [((SPOKES as u64 - 1) * TICK_MS, 0)]);
    }

    #[test]
    fn a_late_look_fires_all_that_was_missed() {
        let (mut slots, mut wheel) = (Slots::new(), Wheel::new(0));
        for at in [100, 200, 300] {
            let (index, _) = slots.insert(0);
            wheel.set(&mut slots, index, at);
        }
        let mut fired = Vec::new();
        while let Some(index) = wheel.fire(&mut slots, 1_000_000) {
            fired.push(index);
        }
        assert_eq!(fired, [0, 1, 2]);
    }
}
