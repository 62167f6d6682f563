//! Where a core's descriptors wait: one epoll set, which is the one thing the runtime waits for.
//!
//! Why: a task of the runtime per idle connection costs ~985 B, a parked one what its slab entry takes.
//! monoio offers no poll of a foreign descriptor, but a `UnixStream` it is told to be one is only ever
//! polled here, never read. Listener, doorbell and ticker sit in the same set, so nothing is ever raced:
//! there is no `select!` whose losing branch could lose an event.
//!
//! Connections are edge-triggered, in both directions at once, from accept to close:
//! * one `epoll_ctl` in a connection's life: neither a blocked write nor a reader held back costs another;
//! * a client that is not read (back-pressure) does not spin the set, as a level would;
//! * the price is memory of what an edge said: [`super::conn::Conn`] remembers `blocked`, and whoever
//!   leaves bytes unread is queued to be read on.
//!
//! The listener and the ticker are levels: they are taken from in bounded portions.

use super::accept::Entrance;
use crate::sys::{Epoll, Interest, Readiness, Ready};
use monoio::net::UnixStream;
use std::{io, os::fd::AsFd};

/// Who an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Listener(Entrance),
    Doorbell,
    Ticker,
    Connection { index: u32, reuse: u16 },
}

/// Reuses take 16 bits above the slot's 32; what stands above both names the others.
const CONNECTION: u64 = 0;
const LISTENER: u64 = 1 << 48;
const DOORBELL: u64 = 2 << 48;
const TICKER: u64 = 3 << 48;
const TLS_LISTENER: u64 = 4 << 48;

impl Token {
    fn encode(self) -> u64 {
        match self {
            Token::Listener(Entrance::Plain) => LISTENER,
            Token::Listener(Entrance::Tls) => TLS_LISTENER,
            Token::Doorbell => DOORBELL,
            Token::Ticker => TICKER,
            Token::Connection { index, reuse } => {
                CONNECTION | u64::from(reuse) << 32 | u64::from(index)
            }
        }
    }

    fn decode(token: u64) -> Token {
        match token & (0xffff << 48) {
            LISTENER => Token::Listener(Entrance::Plain),
            TLS_LISTENER => Token::Listener(Entrance::Tls),
            DOORBELL => Token::Doorbell,
            TICKER => Token::Ticker,
            _ => Token::Connection {
                index: token as u32,
                reuse: (token >> 32) as u16,
            },
        }
    }
}

pub(super) struct Park {
    set: Epoll,
    /// The set once more, as the runtime sees it.
    awaited: UnixStream,
    ready: Ready,
}

impl Park {
    /// Inside a runtime only.
    pub fn new() -> io::Result<Park> {
        let set = Epoll::new()?;
        let awaited = UnixStream::from_std(set.try_clone()?.into())?;
        Ok(Park {
            set,
            awaited,
            ready: Ready::default(),
        })
    }

    /// Sleeps until something is ready.
    pub async fn wait(&self) -> io::Result<()> {
        // Not relaxed: the epoll engine then asks the set itself, and never believes an old edge.
        self.awaited.readable(false).await
    }

    /// Takes what is ready now; returns how many events.
    pub fn take(&mut self) -> io::Result<usize> {
        self.set.take(&mut self.ready)?;
        Ok(self.ready.len())
    }

    pub fn event(&self, index: usize) -> (Token, Readiness) {
        let (token, readiness) = self.ready.event(index);
        (Token::decode(token), readiness)
    }

    pub fn add(&self, fd: &impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        self.set.add(fd, token.encode(), interest)
    }

    pub fn change(&self, fd: &impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        self.set.change(fd, token.encode(), interest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::engine::Engine;
    use std::{io::Write, os::unix::net, thread};

    #[test]
    fn a_token_reads_back_what_it_was_made_of() {
        for token in [
            Token::Listener(Entrance::Plain),
            Token::Listener(Entrance::Tls),
            Token::Doorbell,
            Token::Ticker,
            Token::Connection { index: 0, reuse: 0 },
            Token::Connection {
                index: u32::MAX,
                reuse: u16::MAX,
            },
        ] {
            assert_eq!(Token::decode(token.encode()), token);
        }
    }

    #[test]
    fn the_runtime_wakes_for_what_is_in_the_set_on_either_engine() {
        for engine in [Engine::Uring, Engine::Epoll] {
            let (mut writer, reader) = net::UnixStream::pair().unwrap();
            let woken = engine.run(|| async {
                let mut park = Park::new().unwrap();
                park.add(&reader, Token::Ticker, Interest::Level).unwrap();
                assert_eq!(park.take().unwrap(), 0);
                let writing = thread::spawn(move || writer.write_all(b"x").unwrap());
                park.wait().await.unwrap();
                writing.join().unwrap();
                park.take().unwrap();
                park.event(0).0
            });
            assert_eq!(woken.unwrap(), Token::Ticker, "{engine:?}");
        }
    }
}
