//! Waiting for a part that is away: try, back off, try again, until it works or the process leaves.
//! Nothing is skipped meanwhile; records wait on the bus.
//!
//! An outage is logged once, by the part that is away, and not by every step that waits for it.

use crate::limits;
use parking_lot::Mutex;
use prometheus::IntCounterVec;
use std::{fmt::Display, future::Future, sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The process is leaving; the step was not done and must not be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

#[derive(Clone)]
pub struct Patience {
    shutdown: CancellationToken,
    retries: IntCounterVec,
    /// A part is away that says so itself.
    is_said: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl Patience {
    pub fn new(
        shutdown: CancellationToken,
        retries: IntCounterVec,
        is_said: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Patience {
        Patience {
            shutdown,
            retries,
            is_said: Arc::new(is_said),
        }
    }

    /// Repeats `attempt` until it succeeds. A failure that lasts is logged, every 10 s.
    pub async fn until_done<T, E, F, Fut>(
        &self,
        step: &'static str,
        mut attempt: F,
    ) -> Result<T, Stopped>
    where
        E: Display,
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut back_off = BackOff::new(step);
        loop {
            match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => self.wait(&mut back_off, &error).await?,
            }
        }
    }

    /// Until the process leaves.
    pub async fn leaving(&self) {
        self.shutdown.cancelled().await;
    }

    /// One pause of a loop that the caller drives.
    pub async fn wait(&self, back_off: &mut BackOff, error: &impl Display) -> Result<(), Stopped> {
        self.retries.with_label_values(&[back_off.step]).inc();
        let lasts = back_off.began.elapsed() >= limits::STEP_LOG_AFTER;
        if lasts && !(self.is_said)() && back_off.log.is_due() {
            tracing::warn!(step = back_off.step, %error, "waiting, will try again");
        }
        tokio::select! {
            () = self.shutdown.cancelled() => Err(Stopped),
            () = tokio::time::sleep(back_off.next()) => Ok(()),
        }
    }
}

/// Doubling pauses with jitter between the two bounds of `limits`.
pub struct BackOff {
    step: &'static str,
    began: Instant,
    pause: Duration,
    log: Seldom,
}

/// One line of log in [`limits::STEP_LOG_EVERY`], however often there is something to say.
#[derive(Default)]
pub struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    pub fn is_due(&self) -> bool {
        let mut logged = self.0.lock();
        let due = logged.is_none_or(|at| at.elapsed() >= limits::STEP_LOG_EVERY);
        if due {
            *logged = Some(Instant::now());
        }
        due
    }
}

impl BackOff {
    pub fn new(step: &'static str) -> BackOff {
        BackOff {
            step,
            began: Instant::now(),
            pause: limits::STEP_RETRY_MIN,
            log: Seldom::default(),
        }
    }

    fn next(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(limits::STEP_RETRY_MAX);
        // Jitter keeps several workers from knocking at the same instant.
        pause.mul_f64(rand::random_range(0.75..1.25))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use std::cell::Cell;

    fn patience() -> (Patience, CancellationToken) {
        let shutdown = CancellationToken::new();
        let retries = Metrics::default().counters("retries_total", "test", &["step"]);
        (Patience::new(shutdown.clone(), retries, || false), shutdown)
    }

    #[tokio::test]
    async fn a_step_is_repeated_until_it_works_and_its_failures_are_counted() {
        let (patience, _shutdown) = patience();
        let attempts = Cell::new(0);
        let answer = patience
            .until_done("test", || {
                attempts.set(attempts.get() + 1);
                let outcome = if attempts.get() < 4 {
                    Err("away")
                } else {
                    Ok(7)
                };
                async move { outcome }
            })
            .await;
        assert_eq!(answer, Ok(7));
        assert_eq!(patience.retries.with_label_values(&["test"]).get(), 3);
    }

    #[test]
    fn what_is_said_over_and_over_is_logged_once() {
        let seldom = Seldom::default();
        assert_eq!((0..1000).filter(|_| seldom.is_due()).count(), 1);
    }

    #[tokio::test]
    async fn a_process_that_leaves_does_not_wait_for_a_part_that_is_away() {
        let (patience, shutdown) = patience();
        shutdown.cancel();
        let answer = patience
            .until_done("test", || async { Err::<(), _>("away") })
            .await;
        assert_eq!(answer, Err(Stopped));
    }
}
