//! Virtual time. A call that leaves the process waits here twice, for its way there and back: between the
//! two anything may happen.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
    task::{Context, Poll},
};

/// Unix ms at which every run begins.
const BEGIN_UNIX_MS: u64 = 1_700_000_000_000;

/// Whose answer is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Registry,
    Bus,
    Store,
}

#[derive(Debug, Default)]
pub struct Clock {
    now_ms: AtomicU64,
    /// Part the polled call waits for, plus 1; 0 for none.
    waits_for: AtomicU8,
}

impl Clock {
    /// Since the beginning of the run.
    pub fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    pub fn unix_ms(&self) -> u64 {
        BEGIN_UNIX_MS + self.now_ms()
    }

    pub fn set(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Half of a call's way.
    pub fn way(&self, part: Part) -> Way<'_> {
        Way {
            clock: self,
            part,
            begun: false,
        }
    }

    /// What the call that was polled last waits for.
    pub fn take_wait(&self) -> Option<Part> {
        match self.waits_for.swap(0, Ordering::Relaxed) {
            0 => None,
            1 => Some(Part::Registry),
            2 => Some(Part::Bus),
            _ => Some(Part::Store),
        }
    }
}

/// Ready when polled the second time; the world says when that is.
pub struct Way<'a> {
    clock: &'a Clock,
    part: Part,
    begun: bool,
}

impl Future for Way<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.begun {
            return Poll::Ready(());
        }
        self.begun = true;
        let code = self.part as u8 + 1;
        self.clock.waits_for.store(code, Ordering::Relaxed);
        Poll::Pending
    }
}
