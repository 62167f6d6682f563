//! A provider's rate, which all dispatchers draw from: a few at a time, so that not every send asks Redis.

use super::Quotas;
use crate::{
    envelope::Priority,
    limits,
    registry::quota::{Draw, Rate},
};
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, timeout_at},
};

/// Of one provider, in one dispatcher.
pub struct Throttle {
    quotas: Quotas,
    provider: String,
    /// `None`: as many as go.
    rate: Option<Rate>,
    /// Drawn and not used. Whoever holds the lock draws; the others wait in their order.
    stock: Mutex<u32>,
    waiting: AtomicU32,
}

/// Counts one who waits, until it is dropped: whoever waits may give up.
pub struct Waits<'a>(&'a AtomicU32);

impl Waits<'_> {
    pub fn new(waiting: &AtomicU32) -> Waits<'_> {
        waiting.fetch_add(1, Ordering::Relaxed);
        Waits(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Throttle {
    pub fn new(quotas: Quotas, provider: &str, per_s: u32) -> Throttle {
        let second = Duration::from_secs(1);
        Throttle {
            quotas,
            provider: provider.to_owned(),
            rate: (per_s > 0).then(|| Rate::new(per_s, second, limits::PROVIDER_BURST)),
            stock: Mutex::new(0),
            waiting: AtomicU32::new(0),
        }
    }

    /// Waits for one send of the rate, until `until` at most; then it answers how long there is none. Critical does not
    /// wait, and is owed by the others.
    pub async fn pass(&self, priority: Priority, until: Instant) -> Result<(), Duration> {
        let Some(rate) = self.rate else {
            return Ok(());
        };
        if priority == Priority::Critical {
            self.quotas.0.draw(self.draw(rate, 1, true)).await;
            return Ok(());
        }
        let _waits = Waits::new(&self.waiting);
        self.wait(rate, until).await
    }

    async fn wait(&self, rate: Rate, until: Instant) -> Result<(), Duration> {
        let aside = |wait| {
            self.count("aside");
            Err(wait)
        };
        let Ok(mut stock) = timeout_at(until, self.stock.lock()).await else {
            return aside(Duration::ZERO);
        };
        let mut has_waited = false;
        loop {
            if *stock > 0 {
                *stock -= 1;
                if has_waited {
                    self.count("sent");
                }
                return Ok(());
            }
            let wanted = self.waiting.load(Ordering::Relaxed).max(1);
            let drawn = self.quotas.0.draw(self.draw(rate, wanted, false)).await;
            *stock = drawn.taken;
            if drawn.taken > 0 {
                continue;
            }
            let wait = rate.wait(drawn.ahead_us);
            if Instant::now() + wait > until {
                return aside(wait);
            }
            has_waited = true;
            sleep(wait).await;
        }
    }

    fn draw(&self, rate: Rate, wanted: u32, forced: bool) -> Draw {
        Draw {
            name: format!("provider:{}", self.provider),
            rate,
            wanted,
            forced,
        }
    }

    fn count(&self, result: &str) {
        let counter = &self.quotas.0.metrics.waits;
        let labels = [self.provider.as_str(), result];
        counter.with_label_values(&labels).inc();
    }
}
