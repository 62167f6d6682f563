//! What disturbs a thread's clients on purpose: some leave and come back, all lose their connections at
//! once, some stop reading. Only when and how many; what it does to one is in [`crate::client`].

use crate::scenario::{Churn, Slow, Storm};

/// Times count from the moment everybody was connected.
#[derive(Debug)]
pub struct Unrest {
    churn: Option<Churn>,
    storm: Option<Storm>,
    slow: Option<Slow>,
    /// Nobody leaves after it.
    end_ms: u64,
    /// Of all clients, those of this thread.
    share: f64,
    left: u64,
    reading: Reading,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// All do, so far.
    Before,
    SomeDont,
    Again,
}

/// Something to do to clients now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    /// One at random leaves for so long.
    Leave(u64),
    /// These lose their connection.
    Break(Storm),
    /// These stop reading, and read again.
    Stop(f64),
    Go(f64),
}

impl Unrest {
    pub fn new(
        churn: Option<Churn>,
        storm: Option<Storm>,
        slow: Option<Slow>,
        duration_s: Option<u64>,
        share: f64,
    ) -> Unrest {
        Unrest {
            churn,
            storm,
            slow,
            end_ms: duration_s.map_or(u64::MAX, |s| s * 1_000),
            share,
            left: 0,
            reading: Reading::Before,
        }
    }

    /// Whether it has to be asked often.
    pub fn is_restless(&self) -> bool {
        self.churn.is_some()
    }

    /// What is due by now; to be asked until there is nothing.
    pub fn next(&mut self, since_ms: u64) -> Option<Act> {
        let since_s = since_ms as f64 / 1_000.0;
        if let Some(storm) = self.storm.take_if(|storm| storm.at_s <= since_s) {
            return Some(Act::Break(storm));
        }
        if let Some(slow) = self.slow {
            let until_s = slow
                .for_s
                .map_or(f64::INFINITY, |for_s| slow.from_s + for_s);
            match self.reading {
                Reading::Before if since_s >= slow.from_s => {
                    self.reading = Reading::SomeDont;
                    return Some(Act::Stop(slow.share));
                }
                Reading::SomeDont if since_s >= until_s => {
                    self.reading = Reading::Again;
                    return Some(Act::Go(slow.share));
                }
                _ => {}
            }
        }
        let churn = self.churn?;
        let due = since_ms.min(self.end_ms) as f64 / 1_000.0 * churn.rate * self.share;
        if (self.left as f64) < due.floor() {
            self.left += 1;
            return Some(Act::Leave(churn.away_ms));
        }
        None
    }
}

/// Whether a client is among an evenly spread share of all.
pub fn is_among(client: u32, share: f64) -> bool {
    let before = (f64::from(client) * share).floor();
    (f64::from(client) * share + share).floor() > before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acts(unrest: &mut Unrest, since_ms: u64) -> Vec<Act> {
        std::iter::from_fn(|| unrest.next(since_ms)).collect()
    }

    #[test]
    fn clients_leave_at_the_rate_of_this_thread_until_the_end() {
        let churn = Churn {
            rate: 10.0,
            away_ms: 5,
        };
        let mut unrest = Unrest::new(Some(churn), None, None, Some(2), 0.5);
        assert_eq!(acts(&mut unrest, 0), []);
        assert_eq!(acts(&mut unrest, 1_000), [Act::Leave(5); 5]);
        assert_eq!(acts(&mut unrest, 60_000).len(), 5);
    }

    #[test]
    fn a_storm_comes_once() {
        let storm = Storm {
            at_s: 1.0,
            share: 0.5,
            in_slot: true,
        };
        let mut unrest = Unrest::new(None, Some(storm), None, None, 1.0);
        assert_eq!(acts(&mut unrest, 999), []);
        assert_eq!(acts(&mut unrest, 1_000), [Act::Break(storm)]);
        assert_eq!(acts(&mut unrest, 5_000), []);
    }

    #[test]
    fn some_stop_reading_and_read_again() {
        let slow = Slow {
            share: 0.1,
            from_s: 1.0,
            for_s: Some(2.0),
        };
        let mut unrest = Unrest::new(None, None, Some(slow), None, 1.0);
        assert_eq!(acts(&mut unrest, 500), []);
        assert_eq!(acts(&mut unrest, 1_500), [Act::Stop(0.1)]);
        assert_eq!(acts(&mut unrest, 9_000), [Act::Go(0.1)]);
    }

    #[test]
    fn a_share_is_spread_evenly_and_exact() {
        for (share, count) in [(0.01, 10), (0.5, 500), (1.0, 1_000), (0.0, 0)] {
            let among = (0..1_000).filter(|&client| is_among(client, share)).count();
            assert_eq!(among, count, "{share}");
        }
    }
}
