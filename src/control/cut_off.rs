//! Whether this host alone is cut off from the registry, or everybody is. Alone, it should get no newcomers: they could
//! not be entered, and who is not entered gets nothing live. When everybody is, to send clients elsewhere is no help.
//!
//! Dispatchers say with each answer whether the registry answers them. An outage that begins or ends shows here and
//! there at different times, so both must have lasted: no load balancer may lose a whole fleet for such a moment.

use crate::limits;
use parking_lot::Mutex;
use tokio::time::Instant;

#[derive(Default)]
pub struct CutOff {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The registry does not answer this host.
    away_since: Option<Instant>,
    /// It answers a dispatcher, and was last said to.
    elsewhere: Option<Elsewhere>,
}

struct Elsewhere {
    since: Instant,
    last: Instant,
}

impl CutOff {
    /// A dispatcher that answered just now has the registry, or not.
    pub fn dispatcher_says(&self, has_registry: bool) {
        self.state.lock().hear(has_registry, Instant::now());
    }

    /// Told regularly whether the registry is away here.
    pub fn is_alone(&self, is_away: bool) -> bool {
        self.state.lock().is_alone(is_away, Instant::now())
    }
}

impl State {
    fn hear(&mut self, has_registry: bool, now: Instant) {
        self.elsewhere = has_registry.then(|| {
            let known = self.elsewhere.take().filter(|known| known.counts(now));
            Elsewhere {
                since: known.map_or(now, |known| known.since),
                last: now,
            }
        });
    }

    fn is_alone(&mut self, is_away: bool, now: Instant) -> bool {
        if !is_away {
            self.away_since = None;
            return false;
        }
        let away_since = *self.away_since.get_or_insert(now);
        let elsewhere = self.elsewhere.as_ref().filter(|known| known.counts(now));
        elsewhere.is_some_and(|elsewhere| {
            let lasting = now - away_since.max(elsewhere.since);
            lasting >= limits::CUT_OFF_CERTAIN
        })
    }
}

impl Elsewhere {
    fn counts(&self, now: Instant) -> bool {
        now - self.last <= limits::CUT_OFF_SAID
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Host {
        state: State,
        now: Instant,
    }

    impl Host {
        fn new() -> Host {
            Host {
                state: State::default(),
                now: Instant::now(),
            }
        }

        /// Seconds in each of which a dispatcher speaks, and this host looks.
        fn pass(&mut self, seconds: u64, is_away: bool, has_registry: bool) -> bool {
            let mut is_alone = false;
            for _ in 0..seconds {
                self.now += Duration::from_secs(1);
                self.state.hear(has_registry, self.now);
                is_alone = self.state.is_alone(is_away, self.now);
            }
            is_alone
        }
    }

    #[test]
    fn a_host_is_alone_when_dispatchers_have_had_for_long_what_it_lacks_for_long() {
        let mut host = Host::new();
        assert!(!host.pass(60, false, true));
        assert!(!host.pass(10, true, true));
        assert!(host.pass(1, true, true));
        assert!(!host.pass(1, false, true));
    }

    #[test]
    fn an_outage_that_ends_here_a_little_later_blames_nobody() {
        let mut host = Host::new();
        assert!(!host.pass(3, true, true));
        assert!(!host.pass(60, true, false));
        assert!(!host.pass(9, true, true));
        assert!(!host.pass(1, false, true));
    }

    #[test]
    fn a_word_of_long_ago_counts_no_more() {
        let mut host = Host::new();
        assert!(host.pass(60, true, true));
        host.now += limits::CUT_OFF_SAID + Duration::from_secs(1);
        assert!(!host.state.is_alone(true, host.now));
        assert!(!host.pass(1, true, true), "said for a moment only");
    }
}
