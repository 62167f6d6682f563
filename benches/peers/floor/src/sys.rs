//! The only unsafe code: system calls that the standard library does not wrap.

use std::{
    io,
    net::{SocketAddrV4, TcpListener},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

/// Events of one wait.
pub const EVENTS: usize = 512;
/// Herald's own; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// Level-triggered, for input only.
pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: just made, owned by nobody else.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub fn add(&self, what: &impl AsRawFd, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: token,
        };
        let (set, fd) = (self.0.as_raw_fd(), what.as_raw_fd());
        // SAFETY: `event` lives through the call, which only reads it.
        checked(unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &raw mut event) }).map(drop)
    }

    /// Waits (for ever without a timeout) and returns how many tokens it wrote.
    pub fn wait(&self, tokens: &mut [u64; EVENTS], timeout: Option<Duration>) -> io::Result<usize> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        // Rounded up: what is due in half a millisecond is not waited for in a loop.
        let timeout_ms = timeout.map_or(-1, |timeout| timeout.as_micros().div_ceil(1_000) as i32);
        let (set, room) = (self.0.as_raw_fd(), EVENTS as i32);
        // SAFETY: the kernel writes at most EVENTS entries into an array of that many.
        let count = unsafe { libc::epoll_wait(set, events.as_mut_ptr(), room, timeout_ms) };
        let count = match checked(count) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            other => other? as usize,
        };
        for (token, event) in tokens.iter_mut().zip(&events[..count]) {
            *token = event.u64;
        }
        Ok(count)
    }
}

/// A listener with a deep backlog: the standard library's has 128 places, and thousands come a second.
pub fn listen(address: SocketAddrV4) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // SAFETY: no pointers; a second listen only changes the backlog.
    checked(unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) })?;
    Ok(listener)
}

/// Raises the soft limit of descriptors to the hard one.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes into a local of the right type.
    checked(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: reads the same local.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }).map(drop)
}

fn checked(result: i32) -> io::Result<i32> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}
