//! The prediction: what so many connections cost while they are idle, and at most within the bounds.
//!
//! Sizes that are ours are tied to the types by assertions where these stand; those of the kernel and of the
//! allocator are measured, with the source beside them.

use crate::{
    config,
    limits::{
        ADMIN_CONNECTIONS, CONNECTIONS_MAX, CONTROL_INBOX, CORE_INBOX, HELD_SPARED_BYTES,
        ITEM_BYTES, KAFKA_PREFETCH_KIB, KAFKA_QUEUE_KIB, LANES_PERCENT, LISTEN_BACKLOG,
        NOTIFICATION_BYTES, OUTCOMES_WAITING, POSTING_USERS, RECEIVE_BUFFER_BYTES, REFUSED_AT_ONCE,
        SERVER_CONNECTIONS, SERVER_HEAD_BYTES, SHARD_IN_FLIGHT, WRITE_BYTES,
    },
};

/// The kernel's objects of one accepted socket, by the object sizes of /proc/slabinfo (Linux 6.18, x86-64):
/// TCP 2,368, sock_inode_cache 832, filp 192, dentry 192, lsm_file_cache 56, eventpoll_epi 128 and
/// eventpoll_pwq 80. Measured at 100,000: 3,809 (benches/RESULTS.md).
pub const KERNEL_SOCKET_BYTES: u64 = 3_848;
/// One entry of a core's slab.
pub const CONNECTION_ENTRY_BYTES: usize = 120;
/// The shared text of a user's id: two counters and up to 32 bytes of name.
pub const USER_NAME_BYTES: u64 = 48;
/// One slot of the user table with its control byte; a slot is found by hashing, so from 1/8 to 9/16 are free.
pub const TABLE_SLOT_BYTES: usize = 33;
/// Parts of the user table that grow each for itself.
pub const TABLE_PARTS: usize = 64;
/// A user whose posts are remembered: the slot at a load of 7/16, and the name.
const POSTING_USER_BYTES: u64 = 140;
/// One message in the queue from control to a core, and back.
pub const TO_CORE_BYTES: usize = 80;
pub const FROM_CORE_BYTES: usize = 72;
/// An outcome that waits for a dispatcher.
const OUTCOME_BYTES: u64 = 256;
/// What idle TLS adds: its keys, and in 1.3 what further ones follow from. Measured with 1.3: 1,533 less the 340 of a plain
/// one. Until its first answer, while rustls has it, it is 3,500; admission sees those by what is held beyond the prediction.
pub const TLS_CONNECTION_BYTES: u64 = 1_250;
/// A gateway that holds nobody: the program, its runtimes, librdkafka, Redis. Measured, see benches/RESULTS.md.
const PROCESS_BYTES: u64 = 26 << 20;
/// What each core adds: its receive buffer, ring, wheel, stack.
const CORE_BYTES: u64 = 320 << 10;
/// What the allocator keeps beyond what is in use, per connection, after so many have come. Measured.
const ALLOCATOR_BYTES: u64 = 60;
/// Consumers of a gateway: the shard's and the broadcasts'.
const CONSUMERS: u64 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The kernel's objects of a socket: the same whether it is busy or idle.
    KernelSockets,
    /// Bytes the kernel holds for sockets: sent and not acknowledged, to be sent, received and not read.
    SocketBuffers,
    /// Slab entries and names of users.
    Connections,
    Tls,
    /// What waits in connections: unsent items and control frames, messages that came in part.
    Lanes,
    /// User → connections, and what else grows with users.
    Tables,
    /// Between threads and processes.
    Queues,
    /// Everything else: the program, its runtimes and clients, what the allocator keeps in reserve.
    Process,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::KernelSockets,
        Kind::SocketBuffers,
        Kind::Connections,
        Kind::Tls,
        Kind::Lanes,
        Kind::Tables,
        Kind::Queues,
        Kind::Process,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::KernelSockets => "kernel_sockets",
            Kind::SocketBuffers => "socket_buffers",
            Kind::Connections => "connections",
            Kind::Tls => "tls",
            Kind::Lanes => "lanes",
            Kind::Tables => "tables",
            Kind::Queues => "queues",
            Kind::Process => "process",
        }
    }
}

/// Bytes by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    bytes: [u64; Kind::ALL.len()],
}

impl Footprint {
    pub fn with(mut self, kind: Kind, bytes: u64) -> Footprint {
        self.bytes[kind as usize] = bytes;
        self
    }

    pub fn bytes(&self, kind: Kind) -> u64 {
        self.bytes[kind as usize]
    }

    pub fn total(&self) -> u64 {
        self.bytes.iter().sum()
    }

    pub fn by_kind(&self) -> impl Iterator<Item = (Kind, u64)> {
        Kind::ALL.into_iter().zip(self.bytes)
    }
}

/// What one process is going to hold.
#[derive(Clone, Copy, Debug)]
pub struct Contract {
    cores: u64,
    /// Clients may come by TLS; then every connection is counted as one that does.
    has_tls: bool,
    send_buffer_bytes: u64,
    /// Above it the kernel takes no more for any TCP socket (the third figure of `net.ipv4.tcp_mem`).
    tcp_bytes_max: u64,
}

impl Contract {
    pub fn new(gateway: &config::Gateway, cores: usize, tcp_bytes_max: u64) -> Contract {
        Contract {
            cores: cores as u64,
            has_tls: gateway.tls_listen.is_some(),
            send_buffer_bytes: gateway.send_buffer_bytes as u64,
            tcp_bytes_max,
        }
    }

    /// So many connections of as many users, all idle.
    pub fn idle(&self, connections: u64) -> Footprint {
        Footprint::default()
            .with(Kind::KernelSockets, self.kernel_sockets(connections))
            .with(
                Kind::Connections,
                self.connections(connections, connections),
            )
            .with(Kind::Tls, self.tls(connections))
            .with(Kind::Tables, tables(connections))
            .with(Kind::Queues, self.queues())
            .with(
                Kind::Process,
                PROCESS_BYTES + self.cores * CORE_BYTES + connections * ALLOCATOR_BYTES,
            )
    }

    /// The same connections with everything that is bounded at its bound at the same time, within this budget.
    pub fn worst(&self, connections: u64, budget_bytes: u64) -> Footprint {
        let idle = self.idle(connections);
        let more = |kind: Kind, bytes: u64| idle.bytes(kind) + bytes;
        let listeners = 1 + u64::from(self.has_tls);
        let waiting = self.cores * (listeners * LISTEN_BACKLOG as u64 + REFUSED_AT_ONCE as u64);
        let socket = 2 * self.send_buffer_bytes + (WRITE_BYTES + 2 * RECEIVE_BUFFER_BYTES) as u64;
        let lanes = lanes_max(budget_bytes) + connections * HELD_SPARED_BYTES as u64;
        let servers = SERVER_CONNECTIONS + ADMIN_CONNECTIONS;
        idle.with(
            Kind::KernelSockets,
            more(Kind::KernelSockets, self.kernel_sockets(waiting)),
        )
        .with(
            Kind::SocketBuffers,
            (connections * socket).min(self.tcp_bytes_max),
        )
        .with(Kind::Lanes, lanes)
        .with(
            Kind::Tables,
            more(Kind::Tables, POSTING_USERS as u64 * POSTING_USER_BYTES),
        )
        .with(Kind::Queues, more(Kind::Queues, queued_max()))
        .with(
            Kind::Process,
            more(Kind::Process, (servers * SERVER_HEAD_BYTES) as u64),
        )
    }

    /// The most idle connections within so many bytes.
    pub fn connections_max(&self, bytes: u64) -> u64 {
        let (mut fit, mut over) = (0, CONNECTIONS_MAX as u64 + 1);
        while over - fit > 1 {
            let middle = fit + (over - fit) / 2;
            match self.idle(middle).total() <= bytes {
                true => fit = middle,
                false => over = middle,
            }
        }
        fit
    }

    pub fn kernel_sockets(&self, connections: u64) -> u64 {
        connections * KERNEL_SOCKET_BYTES
    }

    pub fn connections(&self, entries: u64, connections: u64) -> u64 {
        entries * CONNECTION_ENTRY_BYTES as u64 + connections * USER_NAME_BYTES
    }

    pub fn tls(&self, connections: u64) -> u64 {
        match self.has_tls {
            true => connections * TLS_CONNECTION_BYTES,
            false => 0,
        }
    }

    /// The rings are there from the start, whether there is something in them or not.
    pub fn queues(&self) -> u64 {
        let to_control = (CONTROL_INBOX as u64 / self.cores.max(1)).max(CORE_INBOX as u64);
        self.cores * (CORE_INBOX * TO_CORE_BYTES) as u64
            + self.cores * to_control * FROM_CORE_BYTES as u64
    }
}

/// What waits in all connections together.
pub fn lanes_max(budget_bytes: u64) -> u64 {
    budget_bytes / 100 * LANES_PERCENT
}

/// Slots are doubled when 7/8 of them are taken, part by part.
pub fn tables(users: u64) -> u64 {
    let in_part = users.div_ceil(TABLE_PARTS as u64);
    let slots = match in_part {
        0 => 0,
        few if few < 8 => 8,
        many => (many * 8 / 7).next_power_of_two(),
    };
    slots * (TABLE_PARTS * TABLE_SLOT_BYTES) as u64
}

/// What is on its way through control: records whose outcome is not accepted, at their largest, what is
/// fetched ahead, what waits for Kafka and for a dispatcher. An answer to a sync is not in it: it is counted with the lanes as soon
/// as its core has it.
fn queued_max() -> u64 {
    let records = 2 * SHARD_IN_FLIGHT * (NOTIFICATION_BYTES + ITEM_BYTES);
    let fetched = CONSUMERS * (KAFKA_PREFETCH_KIB * 1024) as u64;
    records as u64
        + fetched
        + (KAFKA_QUEUE_KIB * 1024) as u64
        + OUTCOMES_WAITING as u64 * OUTCOME_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract() -> Contract {
        Contract::new(&config::Gateway::default(), 8, 4 << 30)
    }

    #[test]
    fn half_a_million_idle_connections_stay_within_what_the_design_asks() {
        let idle = contract().idle(500_000);
        assert!(idle.total() < 500_000 * 4_400 + (128 << 20), "{idle:?}");
        let user = idle.total() - idle.bytes(Kind::KernelSockets);
        let empty = contract().idle(0).total();
        assert!(user - empty <= 500_000 * 450, "{idle:?}");
    }

    #[test]
    fn everything_at_its_bound_at_once_stays_within_16_gb() {
        let worst = contract().worst(500_000, 16 << 30);
        assert!(worst.total() < 16 << 30, "{worst:?}");
        for (kind, bytes) in contract().idle(500_000).by_kind() {
            assert!(worst.bytes(kind) >= bytes, "{kind:?}");
        }
    }

    #[test]
    fn tls_is_counted_where_it_is_spoken() {
        let gateway = config::Gateway {
            tls_listen: Some(([0, 0, 0, 0], 8443).into()),
            ..config::Gateway::default()
        };
        let (plain, tls) = (contract(), Contract::new(&gateway, 8, 4 << 30));
        assert_eq!(plain.idle(1_000).bytes(Kind::Tls), 0);
        let more = tls.idle(1_000).total() - plain.idle(1_000).total();
        assert_eq!(more, 1_000 * TLS_CONNECTION_BYTES);
    }

    #[test]
    fn the_most_that_fits_is_what_just_fits() {
        for connections in [0, 1, 99_999, 500_000] {
            let bytes = contract().idle(connections).total();
            assert_eq!(contract().connections_max(bytes), connections);
        }
        assert_eq!(contract().connections_max(0), 0);
    }
}
