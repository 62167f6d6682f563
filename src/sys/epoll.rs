//! An epoll set and the events it hands out.

use super::check;
use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

/// Events taken from the kernel at once: bounds the work between two looks at the mailbox.
pub const EVENTS_MAX: usize = 256;

/// How a descriptor stands in the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Told once per change in either direction, for the whole life of the descriptor: no further
    /// system call when writing starts or stops to be of interest.
    Edge,
    /// Told as long as it is readable.
    Level,
    /// In the set, but silent.
    Muted,
}

impl Interest {
    fn bits(self) -> u32 {
        let bits = match self {
            Interest::Edge => libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET,
            Interest::Level => libc::EPOLLIN,
            Interest::Muted => 0,
        };
        bits as u32
    }
}

/// What is ready on one descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness(u32);

impl Readiness {
    /// Bytes, an end, or an error to be read.
    pub fn readable(self) -> bool {
        self.0 & (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0
    }

    pub fn writable(self) -> bool {
        self.0 & (libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0
    }

    /// The peer's end (or an error) has arrived: after the bytes there is more to learn by reading on.
    pub fn ends(self) -> bool {
        self.0 & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0
    }
}

/// Room for one batch of events, kept for the life of a core.
pub struct Ready {
    events: Box<[libc::epoll_event; EVENTS_MAX]>,
    len: usize,
}

impl Default for Ready {
    fn default() -> Self {
        Ready {
            events: Box::new([libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX]),
            len: 0,
        }
    }
}

impl Ready {
    /// How many the last wait brought.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The token a descriptor was added under, and what is ready on it.
    pub fn event(&self, index: usize) -> (u64, Readiness) {
        let event = self.events[..self.len][index];
        (event.u64, Readiness(event.events))
    }
}

/// An epoll instance; closing it forgets what is in it.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers; a descriptor that comes back is ours alone from here on.
        let fd = unsafe { OwnedFd::from_raw_fd(check(libc::epoll_create1(libc::EPOLL_CLOEXEC))?) };
        Ok(Epoll { fd })
    }

    /// A second descriptor of the same set, for the runtime to await.
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// A descriptor leaves the set by being closed: nothing here duplicates one.
    pub fn add(&self, fd: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    pub fn change(&self, fd: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    /// Takes what is ready now, never sleeps: sleeping is the runtime's.
    pub fn take(&self, ready: &mut Ready) -> io::Result<()> {
        ready.len = 0;
        // SAFETY: the pointer and the count describe the whole array, which outlives the call; the
        // kernel writes at most that many events and says how many.
        let count = unsafe {
            libc::epoll_wait(
                self.fd.as_raw_fd(),
                ready.events.as_mut_ptr(),
                EVENTS_MAX as libc::c_int,
                0,
            )
        };
        match check(count) {
            Ok(count) => {
                ready.len = count as usize;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn control(
        &self,
        operation: libc::c_int,
        fd: &impl AsFd,
        token: u64,
        interest: Interest,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest.bits(),
            u64: token,
        };
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: both descriptors are borrowed open ones, the event lives over the call and the
        // kernel copies it.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &mut event) })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, os::unix::net::UnixStream};

    #[test]
    fn an_edge_is_told_once_and_a_level_until_it_is_read() {
        for (interest, again) in [(Interest::Edge, 0), (Interest::Level, 1)] {
            let (mut writer, reader) = UnixStream::pair().unwrap();
            let set = Epoll::new().unwrap();
            let mut ready = Ready::default();
            set.add(&reader, 7, interest).unwrap();
            writer.write_all(b"x").unwrap();
            set.take(&mut ready).unwrap();
            assert_eq!(ready.len(), 1);
            let (token, readiness) = ready.event(0);
            assert!(token == 7 && readiness.readable() && !readiness.ends());
            set.take(&mut ready).unwrap();
            assert_eq!(ready.len(), again, "{interest:?}");
        }
    }

    #[test]
    fn the_end_of_the_peer_is_told() {
        let (writer, reader) = UnixStream::pair().unwrap();
        let set = Epoll::new().unwrap();
        let mut ready = Ready::default();
        set.add(&reader, 7, Interest::Edge).unwrap();
        drop(writer);
        set.take(&mut ready).unwrap();
        assert!(ready.event(0).1.ends());
    }
}
