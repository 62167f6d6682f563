//! How much a user may post: as many at once, and a second, as one WebSocket may send. By user, for a
//! connection costs nothing and any number of them may carry the posts of one.

use crate::{config, ids::UserId, limits::POSTING_USERS};
use hashbrown::HashMap;
use std::time::{Duration, Instant};

/// Fewer are never worth a look at all of them.
const SWEEP_MIN: usize = 1_024;

pub struct Allowances {
    /// When the allowance of a user is whole again.
    whole_at: HashMap<UserId, Instant>,
    /// So many users cause a look at who needs no memory any more.
    sweep_at: usize,
}

impl Default for Allowances {
    fn default() -> Self {
        Allowances {
            whole_at: HashMap::new(),
            sweep_at: SWEEP_MIN,
        }
    }
}

impl Allowances {
    /// Whether one more post of this user is taken, by the rates that are configured now.
    pub fn take(&mut self, gateway: &config::Gateway, user: &UserId, now: Instant) -> bool {
        // What one post takes of the allowance, and how much may be taken at once.
        let post = Duration::from_secs(1) / gateway.client_messages_per_s.max(1);
        let whole = post * gateway.client_messages_burst.max(1);
        let whole_at = self.whole_at.get(user).map_or(now, |at| now.max(*at)) + post;
        if whole_at > now + whole {
            return false;
        }
        if self.whole_at.len() >= self.sweep_at {
            self.sweep(now);
        }
        self.whole_at.insert(user.clone(), whole_at);
        true
    }

    fn sweep(&mut self, now: Instant) {
        self.whole_at.retain(|_, at| *at > now);
        if self.whole_at.len() >= POSTING_USERS {
            self.whole_at.clear();
        }
        self.sweep_at = (self.whole_at.len() * 2).clamp(SWEEP_MIN, POSTING_USERS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates() -> config::Gateway {
        config::Gateway {
            client_messages_burst: 3,
            client_messages_per_s: 10,
            ..config::Gateway::default()
        }
    }

    #[test]
    fn a_burst_is_taken_then_as_many_as_are_refilled() {
        let (mut allowances, rates, now) = (Allowances::default(), rates(), Instant::now());
        let (ann, bob) = ("ann".parse().unwrap(), "bob".parse().unwrap());
        let mut taken =
            |user, at_ms| allowances.take(&rates, user, now + Duration::from_millis(at_ms));
        assert!(taken(&ann, 0) && taken(&ann, 0) && taken(&ann, 0));
        assert!(!taken(&ann, 0) && !taken(&ann, 99));
        assert!(taken(&bob, 99));
        assert!(taken(&ann, 100) && !taken(&ann, 100));
    }

    #[test]
    fn users_who_post_no_more_are_forgotten_and_the_others_are_bounded() {
        let (mut allowances, rates, now) = (Allowances::default(), rates(), Instant::now());
        for n in 0..POSTING_USERS * 2 {
            allowances.take(&rates, &format!("{n}").parse().unwrap(), now);
            assert!(allowances.whole_at.len() <= POSTING_USERS);
        }
        let later = now + Duration::from_secs(1);
        for n in 0..=POSTING_USERS {
            allowances.take(&rates, &format!("{n}").parse().unwrap(), later);
        }
        let ann = "ann".parse().unwrap();
        allowances.sweep(later + Duration::from_secs(1));
        allowances.take(&rates, &ann, later);
        assert_eq!(allowances.whole_at.len(), 1);
    }
}
