//! When each client of a thread has to be looked at again, without looking at all of them: a million idle
//! clients cost what is due, not what is there.
//!
//! A client stands in the wheel once; when it turns out to be due sooner, it stands in it again, and the
//! later entry is passed over when it comes up. Entries may come up too early; the client then says anew.

/// Grain of everything that waits.
const TICK_MS: u64 = 40;
/// What is due later comes up at the end of the turn and is put off.
const SLOTS: u32 = 1024;
/// What is due later than this is due in steps, so that a thread sleeps longer.
const FAR: u32 = 100;
const FAR_STEP: u32 = 10;

/// Stands in no wheel.
pub const NEVER: u32 = u32::MAX;

#[derive(Debug)]
pub struct Wheel {
    /// Clients by the tick they are due at, modulo [`SLOTS`].
    slots: Vec<Vec<u32>>,
    /// The last one that was looked at.
    tick: u32,
}

impl Wheel {
    pub fn new(now_ms: u64) -> Wheel {
        Wheel {
            slots: vec![Vec::new(); SLOTS as usize],
            tick: (now_ms / TICK_MS) as u32,
        }
    }

    /// Puts a client in that stands in it for tick `armed`; answers what it stands for now.
    pub fn arm(&mut self, client: u32, armed: u32, at_ms: u64) -> u32 {
        if at_ms == u64::MAX {
            return armed;
        }
        let first = self.tick + 1;
        let wanted = at_ms.div_ceil(TICK_MS).min(u64::from(NEVER - 1)) as u32;
        let mut tick = wanted.clamp(first, self.tick + SLOTS - FAR_STEP);
        if tick > self.tick + FAR {
            tick = tick.next_multiple_of(FAR_STEP);
        }
        if armed <= tick {
            return armed;
        }
        self.slots[(tick % SLOTS) as usize].push(client);
        tick
    }

    /// Adds what is due by now to `due`, each with the tick it stood for.
    pub fn turn(&mut self, now_ms: u64, due: &mut Vec<(u32, u32)>) {
        let now = (now_ms / TICK_MS) as u32;
        while self.tick < now {
            self.tick += 1;
            let slot = std::mem::take(&mut self.slots[(self.tick % SLOTS) as usize]);
            due.extend(slot.into_iter().map(|client| (client, self.tick)));
        }
    }

    /// How long nothing is due, up to a bound.
    pub fn rest_ms(&self, now_ms: u64, bound_ms: u64) -> u64 {
        let bound = self.tick + (bound_ms / TICK_MS) as u32;
        let is_due = |tick: &u32| !self.slots[(tick % SLOTS) as usize].is_empty();
        match (self.tick + 1..=bound).find(is_due) {
            Some(tick) => (u64::from(tick) * TICK_MS).saturating_sub(now_ms),
            None => bound_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turned(wheel: &mut Wheel, now_ms: u64) -> Vec<u32> {
        let mut due = Vec::new();
        wheel.turn(now_ms, &mut due);
        due.into_iter().map(|(client, _)| client).collect()
    }

    #[test]
    fn a_client_comes_up_when_it_is_due_and_not_before() {
        let mut wheel = Wheel::new(1_000);
        assert_ne!(wheel.arm(7, NEVER, 1_100), NEVER);
        assert_eq!(wheel.rest_ms(1_000, 1_000), 120);
        assert!(turned(&mut wheel, 1_099).is_empty());
        assert_eq!(turned(&mut wheel, 1_120), [7]);
        assert!(turned(&mut wheel, 900_000).is_empty());
    }

    #[test]
    fn one_that_is_due_sooner_stands_in_it_again_and_later_ones_change_nothing() {
        let mut wheel = Wheel::new(0);
        let far = wheel.arm(7, NEVER, 20_000);
        let near = wheel.arm(7, far, 200);
        assert_eq!(wheel.arm(7, near, 30_000), near);
        let mut due = Vec::new();
        wheel.turn(21_000, &mut due);
        assert_eq!(due, [(7, near), (7, far)]);
    }

    #[test]
    fn what_is_beyond_a_turn_of_the_wheel_comes_up_early() {
        let mut wheel = Wheel::new(0);
        wheel.arm(7, NEVER, 1_000_000);
        let turn_ms = u64::from(SLOTS) * TICK_MS;
        assert_eq!(turned(&mut wheel, turn_ms), [7]);
    }

    #[test]
    fn what_never_happens_stands_nowhere() {
        let mut wheel = Wheel::new(0);
        assert_eq!(wheel.arm(7, NEVER, u64::MAX), NEVER);
        assert_eq!(wheel.rest_ms(0, 240), 240);
    }
}
