//! What each producer may still post. This process goes by a count of its own, which the fleet's replaces a few times a
//! second: what is posted at several dispatchers within that time may be more than the rate, and is owed.

use crate::{
    config,
    envelope::Priority,
    limits,
    registry::quota::{Draw, Drawn, Rate},
};
use std::{collections::HashMap, time::Duration};

const MINUTE: Duration = Duration::from_secs(60);
const NAME: &str = "producer:";

#[derive(Default)]
pub struct Producers {
    accounts: HashMap<String, Account>,
}

struct Account {
    /// When its rate is whole again, µs.
    whole_at_us: f64,
    /// Taken, and not told to the others.
    untold: u32,
    /// It posted since the last settling.
    is_active: bool,
}

impl Producers {
    /// Takes one, or answers how long there is none.
    pub fn take(
        &mut self,
        producer: &str,
        per_minute: u32,
        priority: Priority,
        now_us: u64,
    ) -> Result<(), Duration> {
        let (rate, now_us) = (rate(per_minute), now_us as f64);
        let account = match self.accounts.get_mut(producer) {
            Some(account) => account,
            None => self.open(producer, now_us),
        };
        account.is_active = true;
        let ahead_us = (account.whole_at_us - now_us).max(0.0);
        if rate.free(ahead_us) == 0 && priority != Priority::Critical {
            return Err(rate.wait(ahead_us));
        }
        account.whole_at_us = now_us + (ahead_us + rate.each_us).min(rate.burst_us * 2.0);
        account.untold += 1;
        Ok(())
    }

    fn open(&mut self, producer: &str, now_us: f64) -> &mut Account {
        if self.accounts.len() >= limits::QUOTA_RATES {
            self.accounts.clear();
        }
        let account = Account {
            whole_at_us: now_us,
            untold: 0,
            is_active: false,
        };
        self.accounts.entry(producer.to_owned()).or_insert(account)
    }

    /// What to tell of those who posted. The others are forgotten once their rate is whole.
    pub fn begin_settling(&mut self, config: &config::Limits, now_us: u64) -> Vec<Draw> {
        let is_needed = |account: &Account| {
            account.is_active || account.untold > 0 || account.whole_at_us > now_us as f64
        };
        self.accounts.retain(|_, account| is_needed(account));
        let mut draws = Vec::new();
        for (producer, account) in &mut self.accounts {
            let Some(per_minute) = config.of_producer(producer) else {
                account.untold = 0;
                continue;
            };
            if std::mem::take(&mut account.is_active) || account.untold > 0 {
                draws.push(Draw {
                    name: format!("{NAME}{producer}"),
                    rate: rate(per_minute),
                    wanted: std::mem::take(&mut account.untold),
                    forced: true,
                });
            }
        }
        draws
    }

    /// The fleet's count, and what was taken here since it was asked for.
    pub fn settle(&mut self, told: &[Draw], drawn: &[Drawn], now_us: u64) {
        for (draw, drawn) in told.iter().zip(drawn) {
            if let Some(account) = self.accounts.get_mut(&draw.name[NAME.len()..]) {
                let untold_us = f64::from(account.untold) * draw.rate.each_us;
                account.whole_at_us = now_us as f64 + drawn.ahead_us + untold_us;
            }
        }
    }

    /// They could not be told.
    pub fn settle_later(&mut self, told: &[Draw]) {
        for draw in told {
            if let Some(account) = self.accounts.get_mut(&draw.name[NAME.len()..]) {
                account.untold += draw.wanted;
            }
        }
    }
}

/// A minute's worth may come at once.
fn rate(per_minute: u32) -> Rate {
    Rate::new(per_minute, MINUTE, MINUTE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::quota::Tally;

    fn limit(per_minute: u32) -> config::Limits {
        config::Limits {
            producer_per_minute: per_minute,
            ..config::Limits::none()
        }
    }

    fn taken(producers: &mut Producers, offered: usize, at_s: u64) -> usize {
        let mut take = || producers.take("shop", 60, Priority::Normal, at_s * 1_000_000);
        (0..offered).filter(|_| take().is_ok()).count()
    }

    fn settle(producers: &mut Producers, fleet: &mut Tally, at_s: u64) {
        let draws = producers.begin_settling(&limit(60), at_s * 1_000_000);
        let drawn = fleet.draw(&draws, at_s * 1_000_000);
        producers.settle(&draws, &drawn, at_s * 1_000_000);
    }

    #[test]
    fn a_minutes_worth_comes_at_once_and_then_as_much_as_is_refilled() {
        let mut producers = Producers::default();
        assert_eq!(taken(&mut producers, 100, 9), 60);
        let wait = producers.take("shop", 60, Priority::Normal, 9_000_000);
        assert_eq!(wait, Err(Duration::from_secs(1)));
        assert_eq!(taken(&mut producers, 100, 12), 3);
        // Critical is never refused, and counts.
        assert!(
            producers
                .take("shop", 60, Priority::Critical, 12_000_000)
                .is_ok()
        );
        assert_eq!(taken(&mut producers, 100, 13), 0);
        assert_eq!(taken(&mut producers, 100, 14), 1);
    }

    #[test]
    fn what_was_posted_at_another_dispatcher_counts_once_both_have_settled() {
        let (mut here, mut there) = (Producers::default(), Producers::default());
        let mut fleet = Tally::default();
        assert_eq!(taken(&mut here, 40, 9), 40);
        settle(&mut here, &mut fleet, 9);
        // It does not know yet, and is told when it settles; what was too much is owed.
        assert_eq!(taken(&mut there, 30, 9), 30);
        settle(&mut there, &mut fleet, 9);
        assert_eq!(taken(&mut there, 100, 9), 0);
        assert_eq!(taken(&mut there, 100, 20), 1);
        settle(&mut there, &mut fleet, 20);
        let wait = here.take("shop", 60, Priority::Normal, 9_000_000);
        assert!(wait.is_ok(), "it has not settled since");
        settle(&mut here, &mut fleet, 20);
        assert_eq!(taken(&mut here, 100, 20), 0);
    }

    #[test]
    fn what_could_not_be_told_is_told_later_and_who_posts_no_more_is_forgotten() {
        let mut producers = Producers::default();
        assert_eq!(taken(&mut producers, 10, 9), 10);
        let draws = producers.begin_settling(&limit(60), 9_000_000);
        assert_eq!(draws[0].wanted, 10);
        producers.settle_later(&draws);
        let draws = producers.begin_settling(&limit(60), 9_000_000);
        assert_eq!(draws[0].wanted, 10);
        assert!(producers.begin_settling(&limit(60), 10_000_000).is_empty());
        assert_eq!(producers.accounts.len(), 1);
        producers.begin_settling(&limit(60), 30_000_000);
        assert_eq!(producers.accounts.len(), 0);
    }
}
