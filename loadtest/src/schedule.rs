//! When each notification is due and for whom: fixed beforehand, so that no slow answer moves it.

use crate::scenario::{Sending, To};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::time::Duration;

/// Where a shape is 0 nothing is due; it is looked at again after this.
const SILENCE_S: f64 = 0.1;

/// One notification to come.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    /// From the start of the schedule.
    pub at: Duration,
    /// `None`: to all.
    pub user: Option<u32>,
    pub priority: String,
    pub size: u32,
}

/// All sendings of a run, in the order of time.
#[derive(Debug)]
pub struct Schedule {
    lines: Vec<Line>,
    users: u32,
    random: SmallRng,
}

#[derive(Debug)]
struct Line {
    sending: Sending,
    /// Seconds; infinite: no more.
    next_s: f64,
    end_s: f64,
    sent: u32,
    /// Of those due at one moment: how many are left, and who gets them.
    left: u32,
    user: u32,
}

impl Schedule {
    pub fn new(sendings: &[Sending], duration_s: f64, users: u32, seed: u64) -> Schedule {
        let lines = sendings.iter().map(|sending| Line {
            next_s: sending.from_s,
            end_s: sending
                .for_s
                .map_or(duration_s, |for_s| (sending.from_s + for_s).min(duration_s)),
            sending: sending.clone(),
            sent: 0,
            left: sending.at_once,
            user: 0,
        });
        Schedule {
            lines: lines.collect(),
            users,
            random: SmallRng::seed_from_u64(seed),
        }
    }

    /// When the last one is due at the latest; `None`: there is no end.
    pub fn span(&self) -> Option<Duration> {
        let ends = self.lines.iter().map(Line::last_s);
        Duration::try_from_secs_f64(ends.fold(0.0, f64::max)).ok()
    }
}

impl Iterator for Schedule {
    type Item = Due;

    fn next(&mut self) -> Option<Due> {
        let (users, random) = (self.users, &mut self.random);
        loop {
            let line = self.lines.iter_mut().filter(|line| !line.is_over());
            let line = line.min_by(|a, b| a.next_s.total_cmp(&b.next_s))?;
            if line.rate() > 0.0 {
                return Some(line.take(users, random));
            }
            line.next_s += SILENCE_S;
        }
    }
}

impl Line {
    fn is_over(&self) -> bool {
        self.next_s >= self.end_s || self.sending.count.is_some_and(|count| self.sent >= count)
    }

    fn last_s(&self) -> f64 {
        let Sending {
            from_s,
            rate,
            count,
            ..
        } = self.sending;
        match count {
            Some(count) if self.sending.shape.is_empty() => {
                self.end_s.min(from_s + f64::from(count) / rate)
            }
            _ => self.end_s,
        }
    }

    /// Notifications per second at its next moment.
    fn rate(&self) -> f64 {
        let shape = &self.sending.shape;
        let factor = match shape.len() {
            0 => 1.0,
            1 => shape[0],
            points => {
                let span = (self.end_s - self.sending.from_s).max(f64::MIN_POSITIVE);
                let place = (self.next_s - self.sending.from_s) / span * (points - 1) as f64;
                let at = (place as usize).min(points - 2);
                let part = place - at as f64;
                shape[at] * (1.0 - part) + shape[at + 1] * part
            }
        };
        self.sending.rate * factor
    }

    fn take(&mut self, users: u32, random: &mut SmallRng) -> Due {
        let is_first = self.left == self.sending.at_once;
        if is_first || self.sending.to != To::OneUser {
            self.user = random.random_range(0..users);
        }
        let due = Due {
            at: Duration::from_secs_f64(self.next_s),
            user: match self.sending.to {
                To::All => None,
                To::Mixed if self.sent % 10 == 9 => None,
                To::Users | To::Mixed | To::OneUser => Some(self.user),
            },
            priority: self.priority(random),
            size: self.sending.size,
        };
        self.sent += 1;
        self.left -= 1;
        if self.left == 0 {
            self.left = self.sending.at_once;
            // By its own count where the rate is even: steps would add up their rounding.
            self.next_s = match self.sending.shape.len() {
                0 => self.sending.from_s + f64::from(self.sent) / self.sending.rate,
                _ => self.next_s + f64::from(self.sending.at_once) / self.rate(),
            };
        }
        due
    }

    fn priority(&self, random: &mut SmallRng) -> String {
        let tiers = &self.sending.priorities;
        let mut at = random.random_range(0.0..tiers.values().sum::<f64>());
        let chosen = tiers.iter().find(|(_, weight)| {
            at -= **weight;
            at < 0.0
        });
        let chosen = chosen.or_else(|| tiers.last_key_value());
        chosen.map_or_else(String::new, |(tier, _)| tier.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn sending(rate: f64) -> Sending {
        Sending {
            to: To::Users,
            rate,
            at_once: 1,
            size: 10,
            priorities: BTreeMap::from([("normal".into(), 1.0)]),
            from_s: 0.0,
            for_s: None,
            count: None,
            shape: Vec::new(),
        }
    }

    fn due(sendings: &[Sending], duration_s: f64) -> Vec<Due> {
        Schedule::new(sendings, duration_s, 100, 1).collect()
    }

    #[test]
    fn an_even_rate_is_due_at_even_distances_until_the_end() {
        let due = due(&[sending(4.0)], 2.0);
        let at: Vec<_> = due.iter().map(|due| due.at.as_millis()).collect();
        assert_eq!(at, [0, 250, 500, 750, 1000, 1250, 1500, 1750]);
    }

    #[test]
    fn its_span_ends_with_the_run_or_with_the_last_that_is_counted() {
        let span = |sendings: &[Sending], duration_s: f64| {
            Schedule::new(sendings, duration_s, 1, 1).span()
        };
        let (endless, mut counted) = (sending(4.0), sending(4.0));
        (counted.count, counted.from_s) = (Some(8), 1.0);
        let s = Duration::from_secs;
        assert_eq!(span(std::slice::from_ref(&counted), 60.0), Some(s(3)));
        assert_eq!(span(&[counted.clone(), endless.clone()], 60.0), Some(s(60)));
        assert_eq!(span(&[counted, endless], f64::INFINITY), None);
    }

    #[test]
    fn sendings_are_mixed_in_the_order_of_time() {
        let (even, mut late) = (sending(2.0), sending(5.0));
        (late.to, late.from_s, late.for_s) = (To::All, 0.9, Some(0.5));
        let due = due(&[even, late], 2.0);
        assert!(due.is_sorted_by_key(|due| due.at));
        assert_eq!(due.iter().filter(|due| due.user.is_none()).count(), 3);
        assert_eq!(due.len(), 7);
    }

    #[test]
    fn what_is_due_at_once_is_due_at_the_same_moment_for_one_user() {
        let mut burst = sending(10.0);
        (burst.to, burst.at_once) = (To::OneUser, 5);
        let due = due(&[burst], 1.0);
        assert_eq!(due.len(), 10);
        for five in due.chunks(5) {
            assert!(
                five.iter()
                    .all(|due| due.at == five[0].at && due.user == five[0].user)
            );
        }
    }

    #[test]
    fn a_shape_bends_the_rate_and_is_silent_where_it_is_0() {
        let mut shaped = sending(100.0);
        shaped.shape = vec![0.0, 0.0, 1.0, 1.0];
        let due = due(&[shaped], 30.0);
        let before = |s: u64| due.iter().filter(|due| due.at.as_secs() < s).count();
        assert_eq!(before(10), 0);
        assert!((450..=550).contains(&before(20)), "{}", before(20));
        assert!((1_450..=1_550).contains(&before(30)), "{}", before(30));
    }

    #[test]
    fn tiers_come_by_their_weight_and_the_seed_repeats_them() {
        let mut mixed = sending(1_000.0);
        mixed.priorities = BTreeMap::from([("critical".into(), 1.0), ("low".into(), 9.0)]);
        mixed.count = Some(1_000);
        let first = due(std::slice::from_ref(&mixed), 10.0);
        let critical = first
            .iter()
            .filter(|due| due.priority == "critical")
            .count();
        assert!((50..=150).contains(&critical), "{critical}");
        assert_eq!(first, due(&[mixed], 10.0));
    }
}
