//! The only unsafe code: system calls that no library here wraps.
#![allow(unsafe_code)]

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::Duration,
};

/// What to be told of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Only what is always told: that the connection broke.
    Nothing,
    Read,
    ReadWrite,
}

impl Interest {
    fn bits(self) -> u32 {
        let bits = match self {
            Interest::Nothing => 0,
            Interest::Read => libc::EPOLLIN | libc::EPOLLRDHUP,
            Interest::ReadWrite => libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLOUT,
        };
        bits as u32
    }
}

/// One thread's set of sockets, level-triggered. A socket leaves it by being closed.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

/// What happened to a socket.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub token: u64,
    pub writable: bool,
}

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: just made, owned by nobody else.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub fn add(&self, socket: &impl AsRawFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, socket, token, interest)
    }

    pub fn change(&self, socket: &impl AsRawFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, socket, token, interest)
    }

    fn control(
        &self,
        operation: i32,
        socket: &impl AsRawFd,
        token: u64,
        interest: Interest,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest.bits(),
            u64: token,
        };
        // SAFETY: `event` lives through the call, which only reads it.
        let result = unsafe {
            libc::epoll_ctl(
                self.0.as_raw_fd(),
                operation,
                socket.as_raw_fd(),
                &raw mut event,
            )
        };
        checked(result).map(drop)
    }

    /// Waits until something happens or the time is over; replaces what is in `ready`.
    pub fn wait(&self, ready: &mut Vec<Ready>, timeout: Duration) -> io::Result<()> {
        const EVENTS: usize = 1024;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let timeout_ms = timeout.as_millis().min(60_000) as i32;
        // SAFETY: the kernel writes at most EVENTS entries into an array of that many.
        let count = unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                EVENTS as i32,
                timeout_ms,
            )
        };
        ready.clear();
        match checked(count) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
            Ok(count) => {
                ready.extend(events[..count as usize].iter().map(|event| Ready {
                    token: event.u64,
                    writable: event.events & libc::EPOLLOUT as u32 != 0,
                }));
                Ok(())
            }
        }
    }
}

/// Width of the terminal on standard error; `None`: it is none, or does not say.
pub fn terminal_columns() -> Option<usize> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel writes into a local of the right type.
    checked(unsafe { libc::ioctl(libc::STDERR_FILENO, libc::TIOCGWINSZ, &raw mut size) }).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Raises the soft limit of descriptors to the hard one; answers it.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes into a local of the right type.
    checked(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: reads the same local.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

/// Gives the calling thread a descriptor table of its own, which the limit is counted on.
pub fn own_descriptor_table() -> io::Result<()> {
    // SAFETY: no pointers. Descriptors opened before are in both tables and stay valid; those opened
    // after are used by this thread only, which the thread's code keeps to.
    checked(unsafe { libc::unshare(libc::CLONE_FILES) }).map(drop)
}

/// Lets the kernel choose the port when the socket connects, so that two connections to different
/// places may share one.
pub fn bind_address_without_port(socket: &impl AsRawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads an int of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    checked(result).map(drop)
}

/// Starts to connect; the socket turns writable when that ended.
pub fn connect(target: SocketAddr, source: Option<std::net::IpAddr>) -> io::Result<TcpStream> {
    use socket2::{Domain, Protocol, SockAddr, Socket, Type};
    let socket = Socket::new(
        Domain::for_address(target),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        bind_address_without_port(&socket)?;
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    match socket.connect(&SockAddr::from(target)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
