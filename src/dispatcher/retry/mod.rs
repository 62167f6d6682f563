//! When a send that failed is tried again: a pure function of what is known of it. Each delay is a topic, so that nobody
//! sleeps: [`Delayed`] moves a record back to its channel when its time in there is over.

mod delayed;

use crate::{
    bus::{RETRY_DELAYS_S, Topic},
    envelope::Priority,
};
use std::time::Duration;

pub use delayed::Delayed;

/// Where the record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// For the delay of this topic.
    Wait(Topic),
    /// It was tried as often, or for as long, as its tier asks for.
    Exhausted,
}

/// Pauses before the second, third, … attempt, in seconds.
fn schedule(priority: Priority) -> &'static [u32] {
    match priority {
        Priority::Critical => &[5, 15, 30, 60, 120, 300],
        Priority::High => &[10, 30, 120, 600, 1800],
        Priority::Normal => &[60, 900, 3600],
        Priority::Low => &[],
    }
}

/// The pause after so many attempts; critical goes on with its longest.
fn pause_s(priority: Priority, attempts: u32) -> Option<u32> {
    let schedule = schedule(priority);
    let at = attempts.saturating_sub(1) as usize;
    match priority {
        Priority::Critical => schedule.get(at).or(schedule.last()).copied(),
        _ => schedule.get(at).copied(),
    }
}

/// After `attempts` that failed, at `now_ms`. `after` is what the provider asked for: the next delay that is not
/// shorter is taken, or the longest there is. An attempt that would come after `expires_ms` is not made.
pub fn next(
    priority: Priority,
    attempts: u32,
    after: Option<Duration>,
    expires_ms: Option<u64>,
    now_ms: u64,
) -> Next {
    let Some(pause_s) = pause_s(priority, attempts) else {
        return Next::Exhausted;
    };
    let pause_s = not_shorter(Duration::from_secs(pause_s.into()).max(after.unwrap_or_default()));
    let due_ms = now_ms + u64::from(pause_s) * 1000;
    match expires_ms {
        Some(expires_ms) if due_ms > expires_ms => Next::Exhausted,
        _ => Next::Wait(Topic::Retry(pause_s)),
    }
}

/// For what was not tried because another has it, whose time ends after `wait`: it counts as no attempt.
pub fn aside(wait: Duration) -> Topic {
    Topic::Retry(not_shorter(wait))
}

/// For what is not to be sent for so long: as far towards it as one delay goes, the last step a little beyond.
pub fn towards(wait: Duration) -> Topic {
    let fits = |delay_s: &u32| Duration::from_secs(u64::from(*delay_s)) <= wait;
    let longest = RETRY_DELAYS_S.into_iter().rfind(fits);
    Topic::Retry(longest.unwrap_or(RETRY_DELAYS_S[0]))
}

fn not_shorter(pause: Duration) -> u32 {
    let mut delays = RETRY_DELAYS_S.into_iter();
    let longest = RETRY_DELAYS_S[RETRY_DELAYS_S.len() - 1];
    delays
        .find(|delay_s| Duration::from_secs(u64::from(*delay_s)) >= pause)
        .unwrap_or(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The delays of attempts that all fail, as far as `most` goes.
    fn delays(priority: Priority, expires_s: Option<u64>, most: usize) -> Vec<u32> {
        let mut now_ms = 0;
        let mut delays = Vec::new();
        for attempts in 1..=most {
            let expires_ms = expires_s.map(|s| s * 1000);
            match next(priority, attempts as u32, None, expires_ms, now_ms) {
                Next::Wait(Topic::Retry(delay_s)) => {
                    now_ms += u64::from(delay_s) * 1000;
                    delays.push(delay_s);
                }
                _ => break,
            }
        }
        delays
    }

    #[test]
    fn each_tier_has_its_table() {
        assert_eq!(delays(Priority::High, None, 99), [10, 30, 120, 600, 1800]);
        assert_eq!(delays(Priority::Normal, None, 99), [60, 900, 3600]);
        assert_eq!(delays(Priority::Low, None, 99), [0; 0]);
    }

    #[test]
    fn critical_goes_on_every_five_minutes_until_its_time_is_over() {
        let day = delays(Priority::Critical, Some(24 * 3600), 999);
        assert_eq!(day[..8], [5, 15, 30, 60, 120, 300, 300, 300]);
        assert!(day[6..].iter().all(|delay_s| *delay_s == 300));
        let total: u32 = day.iter().sum();
        assert!((24 * 3600 - 300..=24 * 3600).contains(&total), "{total}");
        assert_eq!(delays(Priority::Critical, Some(19), 99), [5]);
        assert_eq!(delays(Priority::Critical, Some(4), 99), [0; 0]);
    }

    #[test]
    fn every_pause_of_a_tier_has_a_topic_of_its_own() {
        for priority in [Priority::Critical, Priority::High, Priority::Normal] {
            for pause_s in schedule(priority) {
                assert!(RETRY_DELAYS_S.contains(pause_s), "{pause_s}");
            }
        }
        assert!(RETRY_DELAYS_S.is_sorted());
    }

    #[test]
    fn what_a_provider_asks_for_picks_the_next_longer_delay() {
        let after = |s| next(Priority::Normal, 1, Some(Duration::from_secs(s)), None, 0);
        assert_eq!(
            after(5),
            Next::Wait(Topic::Retry(60)),
            "the table's is longer"
        );
        assert_eq!(after(60), Next::Wait(Topic::Retry(60)));
        assert_eq!(after(61), Next::Wait(Topic::Retry(120)));
        assert_eq!(
            after(100_000),
            Next::Wait(Topic::Retry(3600)),
            "the longest"
        );
        assert_eq!(
            next(Priority::Low, 1, Some(Duration::from_secs(5)), None, 0),
            Next::Exhausted
        );
    }

    #[test]
    fn an_attempt_that_would_come_too_late_is_not_made() {
        let at = |expires_ms| next(Priority::High, 1, None, Some(expires_ms), 1_000);
        assert_eq!(at(10_999), Next::Exhausted);
        assert_eq!(at(11_000), Next::Wait(Topic::Retry(10)));
    }

    #[test]
    fn a_night_is_slept_through_in_steps_and_not_overslept() {
        let (mut left_s, mut steps) = (9 * 3600 + 100, Vec::new());
        while left_s > 0 {
            let Topic::Retry(delay_s) = towards(Duration::from_secs(left_s)) else {
                panic!("no delay");
            };
            steps.push(delay_s);
            left_s = left_s.saturating_sub(u64::from(delay_s));
        }
        assert_eq!(steps[..9], [3600; 9]);
        assert_eq!(steps[9..], [60, 30, 10]);
        assert_eq!(towards(Duration::from_millis(1)), Topic::Retry(5));
    }

    #[test]
    fn what_another_has_waits_out_the_others_time() {
        assert_eq!(aside(Duration::from_millis(1)), Topic::Retry(5));
        assert_eq!(aside(Duration::from_millis(5_001)), Topic::Retry(10));
    }
}
