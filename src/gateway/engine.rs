//! The runtime of a core thread: io_uring where the kernel grants it, epoll otherwise.
//!
//! Together with `park.rs` the only place that names monoio. A core runs one future, which does all of its
//! work between two waits; the runtime's part is to sleep.

use super::StartError;
use crate::config;
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use std::{future::Future, io, thread};

/// Entries of the ring: one wait is in flight at a time, and this is the runtime's least.
const RING_ENTRIES: u32 = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    Uring,
    Epoll,
}

impl Engine {
    /// Asks the kernel, once per process.
    pub fn choose(asked: config::Engine) -> Result<Engine, StartError> {
        if asked == config::Engine::Epoll {
            return Ok(Engine::Epoll);
        }
        match (probe(), asked) {
            (Ok(()), _) => Ok(Engine::Uring),
            (Err(source), config::Engine::Uring) => Err(StartError::Uring { source }),
            (Err(reason), _) => {
                tracing::warn!(%reason, "the kernel does not grant io_uring: cores run on epoll");
                Ok(Engine::Epoll)
            }
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Engine::Uring => "uring",
            Engine::Epoll => "epoll",
        }
    }

    /// Runs what `start` makes, on this thread, to its end. It is made inside the runtime, because it
    /// enters descriptors there.
    pub fn run<F, T>(self, start: impl FnOnce() -> F) -> io::Result<T>
    where
        F: Future<Output = T>,
    {
        Ok(match self {
            Engine::Uring => RuntimeBuilder::<IoUringDriver>::new()
                .with_entries(RING_ENTRIES)
                .build()?
                .block_on(async { start().await }),
            Engine::Epoll => RuntimeBuilder::<LegacyDriver>::new()
                .with_entries(RING_ENTRIES)
                .build()?
                .block_on(async { start().await }),
        })
    }
}

/// A ring that can be made is one that can be waited on: polling is among its first operations. On a
/// thread of its own, because the end of a ring interrupts system calls of the thread that made it.
fn probe() -> io::Result<()> {
    let probing = thread::Builder::new().spawn(|| Engine::Uring.run(|| async {}))?;
    let ended = probing.join();
    ended.unwrap_or_else(|_| Err(io::Error::other("making a ring panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoll_is_never_refused_and_auto_always_finds_one() {
        assert_eq!(
            Engine::choose(config::Engine::Epoll).unwrap(),
            Engine::Epoll
        );
        assert!(Engine::choose(config::Engine::Auto).is_ok());
    }
}
