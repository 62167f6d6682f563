//! Leaves a provider alone while it fails: after so many errors in a row, within a window, only one message in a while
//! goes there, to find out whether it is back; the others wait, or go by the next provider.
//!
//! Invariants:
//! * an answer that ends the row closes nothing that is open: only a probe does, for what was asked before says nothing
//!   of now;
//! * of all who ask while it is open one in [`probe`](Timings::probe) may go, and nobody else.

use crate::{config, metrics::Metrics};
use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// That open it, without another answer in between.
    pub errors: usize,
    /// In which they come.
    pub within: Duration,
    /// From the opening to the first probe, and from one to the next.
    pub probe: Duration,
}

impl From<&config::Breaker> for Timings {
    fn from(config: &config::Breaker) -> Timings {
        Timings {
            errors: config.errors,
            within: Duration::from_millis(config.within_ms),
            probe: Duration::from_millis(config.probe_ms),
        }
    }
}

/// One for each provider and host. Both come from the configuration, so there are few.
#[derive(Clone)]
pub struct Breakers {
    timings: Timings,
    held: Arc<Mutex<HashMap<(String, String), Arc<Breaker>>>>,
    metrics: BreakerMetrics,
}

#[derive(Clone)]
struct BreakerMetrics {
    open: IntGaugeVec,
    opened: IntCounterVec,
    held_up: IntCounterVec,
}

pub struct Breaker {
    timings: Timings,
    state: Mutex<State>,
    name: String,
    open: IntGauge,
    opened: IntCounter,
    held_up: IntCounter,
}

enum State {
    /// When the last errors came.
    Closed(VecDeque<Instant>),
    Open {
        probe_at: Instant,
    },
}

/// To ask a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    is_probe: bool,
}

impl Breakers {
    pub fn new(timings: Timings, metrics: &Metrics) -> Breakers {
        let labels = &["provider", "host"];
        let counters = |name, help| metrics.counters(name, help, labels);
        Breakers {
            timings,
            held: Arc::default(),
            metrics: BreakerMetrics {
                open: metrics.gauges(
                    "breaker_open",
                    "1 while a provider is left alone because it failed.",
                    labels,
                ),
                opened: counters(
                    "breaker_opened_total",
                    "Times that a provider was left alone because it failed.",
                ),
                held_up: counters(
                    "breaker_held_up_total",
                    "Messages that did not go by a provider because it was left alone: they wait, or go by the next one.",
                ),
            },
        }
    }

    pub fn of(&self, provider: &str, host: &str) -> Arc<Breaker> {
        let key = (provider.to_owned(), host.to_owned());
        let make = || {
            let labels = [provider, host];
            Arc::new(Breaker {
                timings: self.timings,
                state: Mutex::new(State::Closed(VecDeque::new())),
                name: format!("{provider} at {host}"),
                open: self.metrics.open.with_label_values(&labels),
                opened: self.metrics.opened.with_label_values(&labels),
                held_up: self.metrics.held_up.with_label_values(&labels),
            })
        };
        self.held.lock().entry(key).or_insert_with(make).clone()
    }
}

impl Breaker {
    /// Until when nobody may go there; whoever may has to [`ask`](Breaker::ask) all the same.
    pub fn is_open(&self, now: Instant) -> Option<Duration> {
        match *self.state.lock() {
            State::Open { probe_at } if now < probe_at => {
                self.held_up.inc();
                Some(probe_at - now)
            }
            _ => None,
        }
    }

    /// Right before a message goes. Else: how long it is until the next probe.
    pub fn ask(&self, now: Instant) -> Result<Permit, Duration> {
        match &mut *self.state.lock() {
            State::Closed(_) => Ok(Permit { is_probe: false }),
            State::Open { probe_at } if now < *probe_at => {
                self.held_up.inc();
                Err(*probe_at - now)
            }
            State::Open { probe_at } => {
                *probe_at = now + self.timings.probe;
                Ok(Permit { is_probe: true })
            }
        }
    }

    /// What came of it: whether the provider failed, or answered as one that is well.
    pub fn tell(&self, permit: Permit, failed: bool, now: Instant) {
        let mut state = self.state.lock();
        match (&mut *state, failed) {
            (State::Closed(errors), false) => errors.clear(),
            (State::Closed(errors), true) => {
                errors.push_back(now);
                errors.retain(|at| now.saturating_duration_since(*at) <= self.timings.within);
                if errors.len() >= self.timings.errors {
                    let probe_at = now + self.timings.probe;
                    *state = State::Open { probe_at };
                    self.open.set(1);
                    self.opened.inc();
                    tracing::warn!(
                        provider = self.name,
                        "it fails: it is left alone, and probed now and then"
                    );
                }
            }
            (State::Open { .. }, false) if permit.is_probe => {
                *state = State::Closed(VecDeque::new());
                self.open.set(0);
                tracing::info!(provider = self.name, "it answers again");
            }
            (State::Open { .. }, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breakers() -> Breakers {
        Breakers::new(Timings::from(&config::Breaker::default()), &Metrics::default())
    }

    /// A breaker that opened now.
    fn opened(now: Instant) -> Arc<Breaker> {
        let breaker = breakers().of("sms", "a");
        for _ in 0..5 {
            fail(&breaker, now);
        }
        breaker
    }

    fn fail(breaker: &Breaker, now: Instant) {
        let permit = breaker.ask(now).expect("it is closed");
        breaker.tell(permit, true, now);
    }

    #[test]
    fn five_errors_within_a_minute_open_it() {
        let (breaker, now) = (breakers().of("sms", "a"), Instant::now());
        for _ in 0..4 {
            fail(&breaker, now);
        }
        assert_eq!(breaker.is_open(now), None);
        fail(&breaker, now + 60 * SECOND);
        let later = now + 60 * SECOND;
        assert_eq!(breaker.is_open(later), Some(60 * SECOND));
        assert_eq!(breaker.ask(later + SECOND), Err(59 * SECOND));
    }

    #[test]
    fn errors_that_are_older_or_that_another_answer_came_between_do_not_count() {
        let (breaker, now) = (breakers().of("sms", "a"), Instant::now());
        for _ in 0..4 {
            fail(&breaker, now);
        }
        fail(&breaker, now + 61 * SECOND);
        assert_eq!(breaker.is_open(now), None);
        let now = now + 61 * SECOND;
        for _ in 0..3 {
            fail(&breaker, now);
        }
        let permit = breaker.ask(now).unwrap();
        breaker.tell(permit, false, now);
        for _ in 0..4 {
            fail(&breaker, now);
        }
        assert_eq!(breaker.is_open(now), None);
    }

    #[test]
    fn one_message_a_minute_finds_out_whether_it_is_back() {
        let now = Instant::now();
        let breaker = opened(now);
        let then = now + 60 * SECOND;
        assert_eq!(breaker.is_open(then), None);
        let probe = breaker.ask(then).expect("a probe");
        assert_eq!(breaker.ask(then), Err(60 * SECOND), "one of them");
        breaker.tell(probe, true, then + SECOND);
        assert_eq!(breaker.ask(then + SECOND), Err(59 * SECOND));
        let then = then + 60 * SECOND;
        let probe = breaker.ask(then).expect("another probe");
        breaker.tell(probe, false, then);
        assert!(breaker.ask(then).is_ok());
        for _ in 0..4 {
            fail(&breaker, then);
        }
        assert_eq!(breaker.is_open(then), None, "errors of before are forgotten");
    }

    #[test]
    fn what_was_asked_before_it_opened_does_not_close_it() {
        let now = Instant::now();
        let breaker = breakers().of("sms", "a");
        let early = breaker.ask(now).unwrap();
        for _ in 0..5 {
            fail(&breaker, now);
        }
        breaker.tell(early, false, now);
        assert!(breaker.ask(now).is_err());
    }

    #[test]
    fn providers_and_hosts_fail_apart() {
        let (breakers, now) = (breakers(), Instant::now());
        for _ in 0..5 {
            fail(&breakers.of("web_push", "a"), now);
        }
        assert!(breakers.of("web_push", "a").is_open(now).is_some());
        assert_eq!(breakers.of("web_push", "b").is_open(now), None);
        assert_eq!(breakers.of("fcm", "a").is_open(now), None);
    }
}
