//! The queues between core threads and control, and who wakes whom.
//!
//! Invariants:
//! * both directions are bounded, one queue per core and direction, and a batch costs one wake: the side
//!   that finds `ringing` set knows that the other has yet to look;
//! * what a core has to tell is never dropped: what finds the queue full waits in the core, which meanwhile
//!   neither reads clients, accepts, nor takes from its mailbox, so that what waits is bounded by
//!   [`limits::CORE_OUTBOX`], one more read, and one end for each connection;
//! * a core rings by a descriptor of its own table. It must never wake a tokio task itself: the waker would
//!   write to an eventfd of the table left behind, whose number here is some client's socket.

use super::{
    canary::CanaryPass,
    mailbox::{ConnId, ConnectionNames, FromCore, ToCore},
};
use crate::{
    envelope::Fate,
    limits,
    memory::{Memory, contract},
    proto::session::Ticket,
    sys::{AwaitedDoorbell, Doorbell},
};
use crossbeam::queue::ArrayQueue;
use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

/// Messages taken by one [`Inbox::recv_many`].
const RECEIVE_MAX: usize = 1_024;

/// The core's queue has no room; the message comes back.
#[derive(Debug)]
pub struct Full(pub ToCore);

/// One direction of one core.
struct Lane<T> {
    queue: ArrayQueue<T>,
    /// Set by the sender that rings, cleared by the receiver before it looks.
    ringing: AtomicBool,
    /// Set by a sender that waits for room.
    waiting: AtomicBool,
}

impl<T> Lane<T> {
    fn new(bound: usize) -> Arc<Self> {
        Arc::new(Lane {
            queue: ArrayQueue::new(bound),
            ringing: AtomicBool::new(false),
            waiting: AtomicBool::new(false),
        })
    }
}

// The queue keeps a stamp beside each place.
const STAMP_BYTES: usize = size_of::<usize>();
const _: () = assert!(size_of::<ToCore>() + STAMP_BYTES == contract::TO_CORE_BYTES);
const _: () = assert!(size_of::<FromCore>() + STAMP_BYTES == contract::FROM_CORE_BYTES);

/// Where clients connect.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub plain: SocketAddr,
    pub tls: Option<SocketAddr>,
}

impl From<SocketAddr> for Addresses {
    fn from(plain: SocketAddr) -> Addresses {
        Addresses { plain, tls: None }
    }
}

/// Control's handle of the core threads.
#[derive(Clone)]
pub struct Cores {
    shared: Arc<Shared>,
}

struct Shared {
    cores: Vec<Arc<Wiring>>,
    listen: Addresses,
    threads: Mutex<Vec<JoinHandle<()>>>,
    names: ConnectionNames,
    canary: Arc<CanaryPass>,
    memory: Arc<Memory>,
}

impl Cores {
    /// How many; they are numbered from 0.
    pub fn len(&self) -> usize {
        self.shared.cores.len()
    }

    pub fn is_empty(&self) -> bool {
        self.shared.cores.is_empty()
    }

    /// What `welcome` called it.
    pub fn connection_name(&self, conn: ConnId) -> String {
        self.shared.names.of(conn)
    }

    /// Where clients connect.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.listen.plain
    }

    /// Where clients connect by TLS.
    pub fn tls_addr(&self) -> Option<SocketAddr> {
        self.shared.listen.tls
    }

    /// What lets this process's canary in.
    pub fn canary(&self) -> &CanaryPass {
        &self.shared.canary
    }

    /// The account of what connections cost.
    pub fn memory(&self) -> &Memory {
        &self.shared.memory
    }

    /// Queues a message; the core learns of it by the next [`Cores::ring`].
    pub fn send(&self, core: u16, message: ToCore) -> Result<(), Full> {
        let lane = &self.shared.cores[usize::from(core)].from_control;
        lane.queue.push(message).map_err(Full)
    }

    /// Once per batch; cheap when the core has not yet looked at the batch before.
    pub fn ring(&self, core: u16) {
        let core = &self.shared.cores[usize::from(core)];
        if !core.from_control.ringing.swap(true, Ordering::AcqRel) {
            core.bell.ring();
        }
    }

    /// Messages the core has not taken yet.
    pub fn queued(&self, core: u16) -> usize {
        self.shared.cores[usize::from(core)]
            .from_control
            .queue
            .len()
    }

    /// Waits for the threads to end, after [`ToCore::Shutdown`]. Blocks.
    pub fn join(&self) {
        let mut threads = self.shared.threads.lock().expect("no holder panics");
        for thread in threads.drain(..) {
            // A panic of a core ends the process where it happens: there is no other error.
            let _ = thread.join();
        }
    }
}

/// Control's end of what the cores tell.
pub struct Inbox {
    ringing: Arc<AtomicBool>,
    bell: Arc<Doorbell>,
    /// The bell as tokio knows it: made by the first wait, for cores start before there is a runtime.
    registered: Option<AwaitedDoorbell>,
    cores: Cores,
    /// Lane to begin with: each gets the first turn in turn.
    first: usize,
}

impl Inbox {
    /// Appends what has come, waiting for at least one; returns how many. Cancel-safe: what is not
    /// returned was not taken.
    pub async fn recv_many(&mut self, messages: &mut Vec<FromCore>) -> io::Result<usize> {
        loop {
            let taken = self.take(messages);
            if taken > 0 {
                return Ok(taken);
            }
            let bell = match &mut self.registered {
                Some(bell) => bell,
                none => none.insert(AwaitedDoorbell::new(self.bell.try_clone()?)?),
            };
            bell.rung().await?;
            self.ringing.swap(false, Ordering::AcqRel);
        }
    }

    /// What is there now.
    pub fn take(&mut self, messages: &mut Vec<FromCore>) -> usize {
        let before = messages.len();
        let cores = self.cores.len();
        for turn in 0..cores {
            let wiring = &self.cores.shared.cores[(self.first + turn) % cores];
            let lane = &wiring.to_control;
            while messages.len() - before < RECEIVE_MAX {
                let Some(message) = lane.queue.pop() else {
                    break;
                };
                messages.push(message);
            }
            if lane.waiting.swap(false, Ordering::AcqRel) {
                // It stopped reading its clients for want of room: now there is some.
                wiring.bell.ring();
            }
        }
        self.first = (self.first + 1) % cores;
        messages.len() - before
    }
}

/// A core's end of both directions.
pub struct Mail {
    from_control: Arc<Lane<ToCore>>,
    to_control: Arc<Lane<FromCore>>,
    control_ringing: Arc<AtomicBool>,
    /// Of this thread's own table.
    control_bell: Doorbell,
    /// Told, but not yet taken by the queue; in order.
    waiting: VecDeque<FromCore>,
}

impl Mail {
    pub fn tell(&mut self, message: FromCore) {
        self.waiting.push_back(message);
    }

    /// Fates of one ticket that follow each other become one message.
    pub fn fate(&mut self, ticket: Ticket, fate: Fate, devices: u32) {
        if let Some(FromCore::Fate {
            ticket: last,
            fate: met,
            devices: count,
        }) = self.waiting.back_mut()
            && (*last, *met) == (ticket, fate)
        {
            *count += devices;
            return;
        }
        self.tell(FromCore::Fate {
            ticket,
            fate,
            devices,
        });
    }

    /// Hands over what was told in this wake-up and rings once. False: the queue is full, and this core
    /// must bring about nothing new until it has room; control rings then.
    pub fn hand_over(&mut self) -> bool {
        let before = self.waiting.len();
        let mut announced = false;
        while let Some(message) = self.waiting.pop_front() {
            let Err(message) = self.to_control.queue.push(message) else {
                continue;
            };
            self.waiting.push_front(message);
            if announced {
                break;
            }
            // Room made between the push and this store is found by the one attempt that follows.
            self.to_control.waiting.store(true, Ordering::SeqCst);
            announced = true;
        }
        if self.waiting.len() < before && !self.control_ringing.swap(true, Ordering::AcqRel) {
            self.control_bell.ring();
        }
        self.waiting.is_empty()
    }

    /// So much waits that nothing more is to be brought about in this turn.
    pub fn is_choked(&self) -> bool {
        self.waiting.len() >= limits::CORE_OUTBOX
    }

    /// Called after the bell has woken the core, before it looks at the queue.
    pub fn answered(&self) {
        self.from_control.ringing.swap(false, Ordering::AcqRel);
    }

    pub fn receive(&mut self) -> Option<ToCore> {
        self.from_control.queue.pop()
    }

    /// The descriptor that must survive the emptying of this thread's table.
    pub fn kept(&self) -> &dyn AsRawFd {
        &self.control_bell
    }
}

/// The queues and doorbells of one core, made before its thread is.
pub struct Wiring {
    from_control: Arc<Lane<ToCore>>,
    to_control: Arc<Lane<FromCore>>,
    control_ringing: Arc<AtomicBool>,
    control_bell: Arc<Doorbell>,
    bell: Doorbell,
}

impl Wiring {
    /// Enters both bells into the calling thread's table; returns the core's end and its own bell.
    pub fn enter(&self) -> io::Result<(Mail, Doorbell)> {
        let mail = Mail {
            from_control: self.from_control.clone(),
            to_control: self.to_control.clone(),
            control_ringing: self.control_ringing.clone(),
            control_bell: self.control_bell.try_clone()?,
            waiting: VecDeque::new(),
        };
        Ok((mail, self.bell.try_clone()?))
    }
}

/// Wires up `count` cores; doorbells are made here, before any core has a table of its own.
pub fn wire(count: usize) -> io::Result<Vec<Arc<Wiring>>> {
    let control_ringing = Arc::new(AtomicBool::new(false));
    let control_bell = Arc::new(Doorbell::new()?);
    let bound = (limits::CONTROL_INBOX / count).max(limits::CORE_INBOX);
    (0..count)
        .map(|_| {
            Ok(Arc::new(Wiring {
                from_control: Lane::new(limits::CORE_INBOX),
                to_control: Lane::new(bound),
                control_ringing: control_ringing.clone(),
                control_bell: control_bell.clone(),
                bell: Doorbell::new()?,
            }))
        })
        .collect()
}

/// Control's ends, once every core runs.
pub fn control_ends(
    wirings: Vec<Arc<Wiring>>,
    listen: impl Into<Addresses>,
    threads: Vec<JoinHandle<()>>,
    names: ConnectionNames,
    canary: Arc<CanaryPass>,
    memory: Arc<Memory>,
) -> (Cores, Inbox) {
    let (ringing, bell) = {
        let first = &wirings[0];
        (first.control_ringing.clone(), first.control_bell.clone())
    };
    let cores = Cores {
        shared: Arc::new(Shared {
            cores: wirings,
            listen: listen.into(),
            threads: Mutex::new(threads),
            names,
            canary,
            memory,
        }),
    };
    let inbox = Inbox {
        ringing,
        bell,
        registered: None,
        cores: cores.clone(),
        first: 0,
    };
    (cores, inbox)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> (Cores, Inbox, Mail) {
        let wirings = wire(1).unwrap();
        let (mail, _) = wirings[0].enter().unwrap();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let names = ConnectionNames::new("gw-1".parse().unwrap(), 7);
        let canary = Arc::new(CanaryPass::generate(nowhere));
        let (threads, memory) = (Vec::new(), Arc::default());
        let (cores, inbox) = control_ends(wirings, nowhere, threads, names, canary, memory);
        (cores, inbox, mail)
    }

    fn drained(core: u16) -> FromCore {
        FromCore::Drained { core }
    }

    #[tokio::test]
    async fn what_a_core_tells_arrives_in_order_and_wakes_control() {
        let (_cores, mut inbox, mut mail) = ends();
        let teller = std::thread::spawn(move || {
            for core in 0..10_000 {
                mail.tell(drained(core));
                while !mail.hand_over() {
                    std::thread::yield_now();
                }
            }
        });
        let mut told = Vec::new();
        while told.len() < 10_000 {
            inbox.recv_many(&mut told).await.unwrap();
        }
        teller.join().unwrap();
        for (at, message) in told.iter().enumerate() {
            assert!(matches!(message, FromCore::Drained { core } if usize::from(*core) == at));
        }
    }

    #[test]
    fn a_full_queue_loses_nothing_and_its_core_is_woken_when_there_is_room() {
        let (cores, mut inbox, mut mail) = ends();
        let bound = limits::CONTROL_INBOX;
        for _ in 0..=bound {
            mail.tell(drained(0));
        }
        assert!(!mail.hand_over());
        let mut told = Vec::new();
        assert_eq!(inbox.take(&mut told), RECEIVE_MAX);
        assert!(cores.shared.cores[0].bell.silence());
        assert!(mail.hand_over());
        while inbox.take(&mut told) > 0 {}
        assert_eq!(told.len(), bound + 1);
    }

    #[test]
    fn a_batch_rings_once_until_the_core_has_looked() {
        let (cores, _inbox, mut mail) = ends();
        let bell = &cores.shared.cores[0].bell;
        for _ in 0..3 {
            cores.send(0, ToCore::StopAccepting).unwrap();
            cores.ring(0);
        }
        assert!(bell.silence());
        cores.ring(0);
        assert!(!bell.silence());
        mail.answered();
        cores.ring(0);
        assert!(bell.silence());
        assert_eq!(std::iter::from_fn(|| mail.receive()).count(), 3);
    }

    #[test]
    fn a_full_mailbox_gives_the_message_back() {
        let (cores, _inbox, _mail) = ends();
        for _ in 0..limits::CORE_INBOX {
            cores.send(0, ToCore::StopAccepting).unwrap();
        }
        let Full(message) = cores.send(0, ToCore::Shutdown).unwrap_err();
        assert!(matches!(message, ToCore::Shutdown));
    }

    #[test]
    fn fates_of_one_ticket_that_follow_each_other_are_one_message() {
        let (_cores, mut inbox, mut mail) = ends();
        mail.fate(7, Fate::Written, 1);
        mail.fate(7, Fate::Written, 2);
        mail.fate(7, Fate::Deferred, 1);
        mail.hand_over();
        let mut told = Vec::new();
        inbox.take(&mut told);
        assert_eq!(told.len(), 2);
        assert!(matches!(told[0], FromCore::Fate { devices: 3, .. }));
    }
}
