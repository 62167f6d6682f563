//! The door: newcomers are taken at a shaped rate, within the limits of connections and descriptors.
//!
//! Invariants:
//! * each core has a listener of its own on the shared address (`SO_REUSEPORT`: the kernel spreads the
//!   newcomers); it is made in the core's own table and stopped by `shutdown` *and* close, for a copy left
//!   in another table would go on accepting and never answer;
//! * what every socket needs (buffer sizes, no delay) is set on the listener and inherited: accepting
//!   costs one system call, and one to park;
//! * one descriptor is held in reserve, so that a newcomer at the end of the table is still told.

use super::{
    StartError,
    conn::{Conn, State},
    context::Settings,
    core::Core,
    mailbox::ConnId,
    park::{Park, Token},
    proxy::Proxied,
    queues::Addresses,
    wheel::TICK_MS,
};
use crate::{
    limits,
    proto::answer::over_capacity,
    sys::{self, Interest},
};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    fs::File,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::Ordering,
    time::Duration,
};

// A tick gives whole what it gives.
const _: () = assert!(limits::ACCEPTS_KEPT_MS >= TICK_MS);
/// Newcomers taken between two looks at everything else.
const ACCEPTS_PER_TURN: usize = 64;

/// The newcomer was counted and not kept.
struct Dropped;

/// Heard out only to be refused, for this cause.
struct Unwelcome {
    cause: &'static str,
    /// Memory is short.
    is_short: bool,
}

/// How a newcomer speaks from its first byte on (or behind its PROXY header).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entrance {
    Plain,
    Tls,
}

impl Addresses {
    /// Each with the key that names it.
    pub(super) fn each(self) -> impl Iterator<Item = (Entrance, &'static str, SocketAddr)> {
        let plain = (Entrance::Plain, "gateway.listen", self.plain);
        let tls = (self.tls).map(|address| (Entrance::Tls, "gateway.tls_listen", address));
        [Some(plain), tls].into_iter().flatten()
    }
}

pub(super) struct Door {
    /// None once accepting has stopped.
    listeners: Vec<(Entrance, Socket)>,
    addresses: Addresses,
    /// Not watched: until the next tick, or until control's queue has room.
    muted: bool,
    /// Cores that share the accept rate.
    cores: u64,
    /// Newcomers that may still be taken, in thousandths, refilled per tick.
    budget_milli: u64,
    refill_milli: u64,
    reserve: Option<File>,
}

impl Door {
    /// Port 0 becomes the one the kernel gives.
    pub fn open(
        mut addresses: Addresses,
        cores: usize,
        settings: &Settings,
    ) -> Result<Door, StartError> {
        let mut listeners = Vec::new();
        for (entrance, key, address) in addresses.each() {
            let failed = |source| StartError::Listen {
                key,
                address,
                source,
            };
            let listener = listen_on(address, settings).map_err(failed)?;
            let given = listener.local_addr().map_err(failed)?;
            let given = given.as_socket().unwrap_or(address);
            match entrance {
                Entrance::Plain => addresses.plain = given,
                Entrance::Tls => addresses.tls = Some(given),
            }
            listeners.push((entrance, listener));
        }
        let cores = cores as u64;
        Ok(Door {
            addresses,
            listeners,
            muted: false,
            cores,
            budget_milli: 0,
            refill_milli: refill_milli(settings.gateway.accepts_per_s, cores),
            reserve: reserve(),
        })
    }

    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Newcomers go to the core on the CPU that took them in. Once for all listeners of a port,
    /// by TLS and plain.
    pub fn steer(&self, cores: usize, cpus: &[usize]) -> io::Result<()> {
        let mut listeners = self.listeners.iter();
        listeners.try_for_each(|(_, listener)| sys::steer_by_cpu(listener, cores, cpus))
    }

    pub fn watch(&self, park: &Park) -> io::Result<()> {
        let mut listeners = self.listeners.iter();
        listeners.try_for_each(|(entrance, listener)| {
            park.add(listener, Token::Listener(*entrance), Interest::Level)
        })
    }

    /// A level that nobody takes from would wake the core for ever: it is taken out of sight.
    pub fn mute(&mut self, park: &Park) -> io::Result<()> {
        self.change(park, true)
    }

    pub fn unmute(&mut self, park: &Park) -> io::Result<()> {
        self.change(park, false)
    }

    /// Another accept rate, from the next tick on.
    pub fn shape(&mut self, accepts_per_s: u32) {
        self.refill_milli = refill_milli(accepts_per_s, self.cores);
    }

    /// A tick's worth of newcomers more. What was not used is kept for a moment only: with a second's worth, a crowd that
    /// comes at once would be taken at twice the rate.
    pub fn refill(&mut self) {
        let kept_milli = self.refill_milli * limits::ACCEPTS_KEPT_MS / TICK_MS;
        self.budget_milli = (self.budget_milli + self.refill_milli).min(kept_milli.max(1_000));
    }

    /// Stops accepting for good; newcomers the kernel had queued are reset.
    pub fn close(&mut self) {
        for (_, listener) in self.listeners.drain(..) {
            let _ = listener.shutdown(Shutdown::Both);
        }
    }

    fn change(&mut self, park: &Park, muted: bool) -> io::Result<()> {
        if self.muted == muted {
            return Ok(());
        }
        self.muted = muted;
        let interest = match muted {
            true => Interest::Muted,
            false => Interest::Level,
        };
        let mut listeners = self.listeners.iter();
        listeners.try_for_each(|(entrance, listener)| {
            park.change(listener, Token::Listener(*entrance), interest)
        })
    }

    /// The next newcomer, if there is one and the rate allows it.
    fn next(&mut self, entrance: Entrance) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        let mut listeners = self.listeners.iter();
        let (_, listener) = listeners.find(|(of, _)| *of == entrance)?;
        loop {
            return match listener.accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) {
                Ok((socket, peer)) => {
                    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
                    Some(Ok((socket.into(), peer.as_socket().unwrap_or(nowhere))))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                Err(error) if out_of_descriptors(&error) => Some(Err(error)),
                // It left before it was taken: the next one, please.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Some(Err(error)),
            };
        }
    }
}

impl Core {
    /// The listener is ready.
    pub fn accept(&mut self, entrance: Entrance) -> io::Result<()> {
        if !self.context.has_room {
            return self.door.mute(&self.park);
        }
        for _ in 0..ACCEPTS_PER_TURN {
            if self.door.budget_milli < 1_000 {
                self.context.stats.accepts_paused += 1;
                return self.door.mute(&self.park);
            }
            match self.door.next(entrance) {
                None => return Ok(()),
                Some(Ok((socket, peer))) => {
                    self.admit(socket, peer, entrance)?;
                }
                Some(Err(error)) if out_of_descriptors(&error) => {
                    if !self.refuse_by_reserve(entrance) {
                        return self.door.mute(&self.park);
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(core = self.context.core, %error, "accept");
                    self.context.stats.refused("accept_error");
                    return self.door.mute(&self.park);
                }
            }
        }
        Ok(())
    }

    fn admit(&mut self, socket: TcpStream, peer: SocketAddr, entrance: Entrance) -> io::Result<()> {
        let is_canary = self.context.settings.canary.is_expected(peer);
        let Ok(refused) = self.count_in(is_canary) else {
            return Ok(());
        };
        let cause = refused.as_ref().map(|refused| refused.cause);
        let newcomer = self.context.newcomer(cause, entrance);
        let state = match self.context.settings.trusted.contains(peer.ip()) {
            true => State::Proxied(Box::new(Proxied::new(newcomer))),
            false => newcomer.begin(),
        };
        let (slot, reuse) = self.conns.insert(Conn::new(socket, state, is_canary));
        let id = ConnId {
            slot,
            core: self.context.core,
            reuse,
        };
        let token = Token::Connection { index: slot, reuse };
        let conn = self.conns.tenant(slot, reuse).expect("just inserted");
        conn.unwelcome = refused.is_some_and(|refused| refused.is_short);
        self.unwelcome += usize::from(conn.unwelcome);
        if let Err(error) = self.park.add(&conn.wire.socket, token, Interest::Edge) {
            // Out of kernel memory or of user watches (fs.epoll.max_user_watches).
            tracing::warn!(core = self.context.core, %error, "a newcomer can't be watched");
            self.context.stats.refused("unwatchable");
            conn.state = State::Gone;
        }
        self.settle(id);
        Ok(())
    }

    /// Above the hard limit the socket is dropped; above the soft one, and where memory is too short for one more,
    /// it is heard out and refused for the cause named. Our own canary is no client and meets no limit.
    fn count_in(&mut self, is_canary: bool) -> Result<Option<Unwelcome>, Dropped> {
        if is_canary {
            self.canaries += 1;
            return Ok(None);
        }
        self.door.budget_milli -= 1_000;
        self.context.stats.accepted += 1;
        let gateway = &self.context.settings.gateway;
        let population = self.population.fetch_add(1, Ordering::Relaxed);
        let is_over = population >= gateway.connections_hard;
        let shortage = self.context.memory.shortage(population + 1);
        // Even to be refused they take memory: those that ask slowly must not add up.
        let unanswered = shortage.filter(|_| self.unwelcome >= limits::REFUSED_AT_ONCE);
        let dropped = match is_over {
            true => Some("hard_limit"),
            false => unanswered.map(|shortage| shortage.causes().1),
        };
        if let Some(cause) = dropped {
            self.population.fetch_sub(1, Ordering::Relaxed);
            self.context.stats.refused(cause);
            return Err(Dropped);
        }
        let short = shortage.map(|shortage| Unwelcome {
            cause: shortage.causes().0,
            is_short: true,
        });
        let is_many = population >= gateway.connections_soft;
        let many = is_many.then_some(Unwelcome {
            cause: "soft_limit",
            is_short: false,
        });
        Ok(short.or(many))
    }

    /// The table is full: the reserve is given up for one answer, then taken again. False if that did not
    /// help: others, in a shared table, were quicker.
    fn refuse_by_reserve(&mut self, entrance: Entrance) -> bool {
        self.door.reserve = None;
        let newcomer = self.door.next(entrance);
        let is_told = match newcomer {
            Some(Ok((mut socket, _))) => {
                self.door.budget_milli -= 1_000;
                self.context.stats.refused("descriptors");
                if entrance == Entrance::Tls {
                    // No answer can be given before a handshake, which takes longer than a moment.
                    self.door.reserve = reserve();
                    return true;
                }
                // Best effort: nothing can be kept open to make sure. What it has sent is read first, for
                // a socket closed over unread bytes would take the answer back.
                let _ = socket.read(&mut [0; 4096]);
                let _ = socket.write_all(&over_capacity(rand::random_range));
                let _ = socket.shutdown(Shutdown::Write);
                true
            }
            _ => false,
        };
        self.door.reserve = reserve();
        is_told
    }
}

/// A core's share of a tick.
fn refill_milli(accepts_per_s: u32, cores: u64) -> u64 {
    (u64::from(accepts_per_s) * TICK_MS).div_ceil(cores).max(1)
}

fn listen_on(address: SocketAddr, settings: &Settings) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    let send_buffer_bytes = settings.gateway.send_buffer_bytes;
    socket.set_send_buffer_size(send_buffer_bytes)?;
    socket.set_tcp_notsent_lowat(limits::UNSENT_BYTES)?;
    socket.set_recv_buffer_size(limits::RECEIVE_BUFFER_BYTES)?;
    socket.set_tcp_nodelay(true)?;
    // An event stream's client never speaks: that it is gone shows by what it does not acknowledge.
    let dead_after = Duration::from_millis(settings.gateway.dead_after_ms);
    socket.set_tcp_user_timeout(Some(dead_after))?;
    socket.bind(&address.into())?;
    socket.listen(limits::LISTEN_BACKLOG)?;
    Ok(socket)
}

/// Listeners that share a port share it with a forgotten process too, which would silently take a part of
/// the clients. A bind without sharing finds it.
pub fn ensure_free(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}
