//! Whether this host delivers, and what stands in the way.
//!
//! Invariants:
//! * without a shared part a host is only `degraded`, since taking it out of the load balancer would help
//!   nobody; one that starts then, too: a deploy in an outage would else take the fleet out host by host;
//! * what another host would not have (no lease, no shard, leaving, a leg of the canary's round, dispatchers that
//!   refuse it from the start) makes it not ready;
//! * a cause is logged once when it comes (with the cure) and once when it goes; of a part that is away the
//!   part itself warns.

use super::metrics::ControlMetrics;
use crate::serve::Readiness;
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The lease of the gateway id is not ours.
    Lease,
    /// No shard is ours.
    Shard,
    /// The end of `broadcast` was not noted yet.
    Broadcast,
    /// The process is leaving.
    Draining,
    Registry,
    /// The registry answers others and not this host.
    CutOff,
    Bus,
    /// A topic that all hosts read is missing.
    Topic,
    Dispatcher,
    /// One that answers takes nothing from this host, and none ever did: others may be let in.
    DispatcherRefused,
    /// A core does not answer the canary's probes.
    Core,
    /// Records of the shard are not read though the broker answers.
    Consumer,
    /// Outcomes do not get through to a dispatcher that accepts others.
    OutcomeStream,
    /// Probes can't be put into the shard.
    Produce,
    /// No dispatcher accepts outcomes, whatever way they come.
    Outcomes,
    /// The reader of a shard's partition does not keep up.
    CriticalLag,
    InAppLag,
}

impl Cause {
    pub const ALL: [Cause; 17] = [
        Cause::Lease,
        Cause::Shard,
        Cause::Broadcast,
        Cause::Draining,
        Cause::Registry,
        Cause::CutOff,
        Cause::Bus,
        Cause::Topic,
        Cause::Dispatcher,
        Cause::DispatcherRefused,
        Cause::Core,
        Cause::Consumer,
        Cause::OutcomeStream,
        Cause::Produce,
        Cause::Outcomes,
        Cause::CriticalLag,
        Cause::InAppLag,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Lease => "lease",
            Cause::Shard => "shard",
            Cause::Broadcast => "broadcast",
            Cause::Draining => "draining",
            Cause::Registry => "registry",
            Cause::CutOff => "cut_off",
            Cause::Bus => "bus",
            Cause::Topic => "topic",
            Cause::Dispatcher => "dispatcher",
            Cause::DispatcherRefused => "dispatcher_refused",
            Cause::Core => "core",
            Cause::Consumer => "consumer",
            Cause::OutcomeStream => "outcome_stream",
            Cause::Produce => "produce",
            Cause::Outcomes => "outcomes",
            Cause::CriticalLag => "critical_lag",
            Cause::InAppLag => "in_app_lag",
        }
    }

    /// A part all hosts share: its fault is no reason to send clients elsewhere.
    fn is_shared(self) -> bool {
        self.is_part() || self.is_lag() || self == Cause::Topic
    }

    fn is_part(self) -> bool {
        matches!(
            self,
            Cause::Registry | Cause::Bus | Cause::Dispatcher | Cause::Produce | Cause::Outcomes
        )
    }

    /// A backlog waits on the bus and goes with the shard to whoever takes it.
    fn is_lag(self) -> bool {
        matches!(self, Cause::CriticalLag | Cause::InAppLag)
    }
}

pub struct Health {
    state: Mutex<State>,
    metrics: Arc<ControlMetrics>,
}

struct State {
    problems: BTreeMap<Cause, String>,
    was_ready: bool,
    ready_since: Option<Instant>,
}

impl Health {
    /// Not ready: nothing has been reached yet.
    pub fn new(metrics: Arc<ControlMetrics>) -> Health {
        let starting = [
            (Cause::Lease, "the lease is being acquired"),
            (Cause::Shard, "a shard is being claimed"),
            (Cause::Broadcast, "the end of `broadcast` is being noted"),
            (Cause::DispatcherRefused, "the dispatchers are being asked"),
        ];
        let problems = starting.map(|(cause, text)| (cause, text.to_owned()));
        let health = Health {
            state: Mutex::new(State {
                problems: problems.into(),
                was_ready: false,
                ready_since: None,
            }),
            metrics,
        };
        health.publish(&mut health.state.lock());
        health
    }

    /// A cause has come. Its text may change without being logged again.
    pub fn fails(&self, cause: Cause, text: impl Into<String>) {
        let text = text.into();
        let mut state = self.state.lock();
        let starting = !state.was_ready && state.problems.get(&cause).is_some_and(|t| *t != text);
        match state.problems.insert(cause, text.clone()) {
            Some(_) if !starting => {}
            _ if cause.is_part() => tracing::info!(cause = cause.as_str(), "{text}"),
            _ => tracing::warn!(cause = cause.as_str(), "{text}"),
        }
        self.publish(&mut state);
    }

    /// A cause has gone.
    pub fn works(&self, cause: Cause) {
        let mut state = self.state.lock();
        if state.problems.remove(&cause).is_some() {
            tracing::info!(cause = cause.as_str(), "works");
            self.publish(&mut state);
        }
    }

    pub fn readiness(&self) -> Readiness {
        let state = self.state.lock();
        let problems = state.problems.iter();
        Readiness {
            ready: is_ready(&state),
            causes: problems
                .map(|(cause, text)| (cause.as_str(), text.clone()))
                .collect(),
        }
    }

    /// Without a break, up to now.
    pub fn is_ready_for(&self, long: Duration) -> bool {
        let since = self.state.lock().ready_since;
        since.is_some_and(|since| since.elapsed() >= long)
    }

    fn publish(&self, state: &mut State) {
        let ready = is_ready(state);
        state.ready_since = match ready {
            true => state.ready_since.or_else(|| Some(Instant::now())),
            false => None,
        };
        if ready && !state.was_ready {
            state.was_ready = true;
            tracing::info!("ready");
        }
        self.metrics.ready.set(i64::from(ready));
        for cause in Cause::ALL {
            let value = state.problems.contains_key(&cause);
            self.metrics
                .degraded
                .with_label_values(&[cause.as_str()])
                .set(i64::from(value));
        }
    }
}

fn is_ready(state: &State) -> bool {
    state.problems.keys().all(|cause| cause.is_shared())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn ready() -> Health {
        let health = Health::new(Arc::new(ControlMetrics::new(&Metrics::default())));
        for cause in Cause::ALL {
            health.works(cause);
        }
        health
    }

    #[test]
    fn a_start_needs_what_is_its_own_and_no_shared_part() {
        let health = Health::new(Arc::new(ControlMetrics::new(&Metrics::default())));
        health.fails(Cause::Dispatcher, "away");
        for cause in [Cause::Lease, Cause::Shard, Cause::Broadcast] {
            health.works(cause);
        }
        assert!(!health.readiness().ready);
        health.works(Cause::DispatcherRefused);
        assert_eq!(health.readiness().to_string(), "ready; dispatcher: away");
    }

    #[test]
    fn a_host_that_was_ready_stays_so_without_a_shared_part_and_says_what_is_missing() {
        let health = ready();
        health.fails(Cause::Bus, "away");
        let status = health.readiness();
        assert!(status.ready);
        assert_eq!(status.causes["bus"], "away");
        assert_eq!(status.to_string(), "ready; bus: away");
    }

    #[test]
    fn how_long_a_host_is_ready_counts_from_the_last_time_it_was_not() {
        let health = ready();
        assert!(health.is_ready_for(Duration::ZERO));
        assert!(!health.is_ready_for(Duration::from_secs(3_600)));
        health.fails(Cause::Bus, "away");
        assert!(health.is_ready_for(Duration::ZERO), "degraded is ready");
        health.fails(Cause::Draining, "leaving");
        assert!(!health.is_ready_for(Duration::ZERO));
        health.works(Cause::Draining);
        assert!(health.is_ready_for(Duration::ZERO));
    }

    #[test]
    fn a_backlog_is_named_and_takes_nobody_out() {
        let health = ready();
        health.fails(Cause::InAppLag, "20000 records wait");
        let status = health.readiness();
        assert!(status.ready);
        assert_eq!(status.causes["in_app_lag"], "20000 records wait");
    }

    #[test]
    fn a_topic_that_is_missing_is_named_and_takes_nobody_out() {
        let health = ready();
        health.fails(Cause::Topic, "deleted");
        let status = health.readiness();
        assert!(status.ready);
        assert_eq!(status.causes["topic"], "deleted");
    }

    #[test]
    fn a_host_without_its_shard_is_not_ready_whatever_it_was() {
        let health = ready();
        health.fails(Cause::Shard, "lost");
        assert!(!health.readiness().ready);
    }
}
