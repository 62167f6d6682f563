//! What is counted for the whole fleet: how many notifications a user has had lately, and rates that all processes draw
//! from. [`Tally`] counts the same in one process: of the standalone, and wherever the registry is away.
//!
//! Invariants:
//! * of one limit and user, no more ids are admitted in any window of its length than it says; an id that was admitted
//!   is admitted again and counts once, so that a record may be read twice;
//! * over any time t a rate gives at most its burst and t × rate; what was taken without asking is owed, two bursts at
//!   most.

use crate::{
    ids::{NotificationId, UserId},
    limits,
};
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

/// One notification that wants to reach a user.
#[derive(Clone, Debug)]
pub struct Admission {
    pub user: UserId,
    pub id: NotificationId,
    /// Which of the user's limits: a word, as in `push`.
    pub limit: &'static str,
    pub most: u32,
    pub window: Duration,
}

/// So many at a time, refilled evenly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// From one to the next, µs.
    pub each_us: f64,
    /// What may be taken at once, in the time that it takes to refill.
    pub burst_us: f64,
}

impl Rate {
    /// `burst` is how much of the rate's time may be taken at once; at least one.
    pub fn new(count: u32, per: Duration, burst: Duration) -> Rate {
        let each_us = per.as_micros() as f64 / f64::from(count.max(1));
        Rate {
            each_us,
            burst_us: (burst.as_micros() as f64).max(each_us),
        }
    }

    /// How many may be taken when so much is taken already.
    pub fn free(&self, ahead_us: f64) -> u32 {
        // A sum of many steps may be a hair beside the whole.
        ((self.burst_us - ahead_us) / self.each_us + 1e-6).max(0.0) as u32
    }

    /// Until one may be taken.
    pub fn wait(&self, ahead_us: f64) -> Duration {
        let wait_us = ahead_us + self.each_us - self.burst_us;
        Duration::from_micros(wait_us.max(0.0).ceil() as u64)
    }

    /// What is taken of it once `wanted` more are asked for, and how many of these are given.
    fn take(&self, ahead_us: f64, wanted: u32, forced: bool) -> Drawn {
        let taken = match forced {
            true => wanted,
            false => wanted.min(self.free(ahead_us)),
        };
        let ahead_us = ahead_us + f64::from(taken) * self.each_us;
        Drawn {
            taken,
            ahead_us: ahead_us.min(self.burst_us * 2.0),
        }
    }
}

/// A wish to take from a rate.
#[derive(Clone, Debug)]
pub struct Draw {
    /// Of the rate, as `provider:fcm`.
    pub name: String,
    pub rate: Rate,
    pub wanted: u32,
    /// It is taken, whether or not it is there.
    pub forced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drawn {
    pub taken: u32,
    /// How much is taken now, in the time that it takes to refill.
    pub ahead_us: f64,
}

/// Counts in memory.
#[derive(Default)]
pub struct Tally {
    /// When what was admitted happened, oldest first.
    admitted: HashMap<(UserId, &'static str), VecDeque<(u64, NotificationId)>>,
    /// At least as many as stand there.
    remembered: usize,
    /// When each rate will be whole again, µs.
    whole_at: HashMap<String, f64>,
}

impl Tally {
    /// `now_us` counts from any moment that stays the same.
    pub fn admit(&mut self, asked: &[Admission], now_us: u64) -> Vec<bool> {
        if self.remembered + asked.len() > limits::QUOTA_REMEMBERED {
            self.admitted.clear();
            self.remembered = 0;
        }
        self.remembered += asked.len();
        let admit = |one: &Admission| {
            let key = (one.user.clone(), one.limit);
            let known = self.admitted.entry(key).or_default();
            let window_us = one.window.as_micros() as u64;
            let is_over = |at: u64| at + window_us <= now_us;
            while known.front().is_some_and(|(at, _)| is_over(*at)) {
                known.pop_front();
            }
            if known.iter().any(|(_, id)| *id == one.id) {
                return true;
            }
            let fits = known.len() < one.most as usize;
            if fits {
                known.push_back((now_us, one.id));
            }
            fits
        };
        asked.iter().map(admit).collect()
    }

    pub fn draw(&mut self, draws: &[Draw], now_us: u64) -> Vec<Drawn> {
        if self.whole_at.len() >= limits::QUOTA_RATES {
            self.whole_at.clear();
        }
        let now_us = now_us as f64;
        let draw = |one: &Draw| {
            let whole_at = self.whole_at.entry(one.name.clone()).or_default();
            let ahead_us = (*whole_at - now_us).max(0.0);
            let drawn = one.rate.take(ahead_us, one.wanted, one.forced);
            *whole_at = now_us + drawn.ahead_us;
            drawn
        };
        draws.iter().map(draw).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_rate_gives_its_burst_and_then_as_much_as_is_refilled() {
        let (mut tally, rate) = (Tally::default(), Rate::new(60, MINUTE, MINUTE));
        let mut draw = |wanted, forced, at_s: u64| {
            let draw = Draw {
                name: "x".into(),
                rate,
                wanted,
                forced,
            };
            tally.draw(&[draw], 1_000_000_000 + at_s * 1_000_000)[0]
        };
        assert_eq!(draw(70, false, 0).taken, 60);
        let none = draw(1, false, 0);
        assert_eq!((none.taken, rate.free(none.ahead_us)), (0, 0));
        assert_eq!(rate.wait(none.ahead_us), Duration::from_secs(1));
        assert_eq!(draw(9, false, 3).taken, 3);
        // What is taken without asking is owed, two bursts at most.
        let owed = draw(1_000, true, 3);
        assert_eq!(owed.taken, 1_000);
        assert_eq!(rate.wait(owed.ahead_us), Duration::from_secs(61));
    }

    #[test]
    fn a_rate_below_one_a_burst_still_gives_one() {
        let rate = Rate::new(1, Duration::from_secs(1), Duration::from_millis(100));
        assert_eq!(rate.free(0.0), 1);
    }
}
