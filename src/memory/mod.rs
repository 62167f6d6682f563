//! The memory contract: what so many connections cost, what is held now, and whether another one fits.
//!
//! [`contract`] adds up the bounds of `limits.rs` and the sizes of what exists once per connection;
//! [`budget`] is what this host or its control group grants; [`Memory`] measures the same kinds while the
//! process runs, and is what the door asks.
//!
//! Invariants:
//! * a newcomer is let in only if the prediction for one more connection, and what is held beyond the
//!   prediction for those that are here, stay within the budget together;
//! * nor is it while the sockets of the host hold nearly as much as the kernel lets them hold together: beyond,
//!   it drops what comes, of everyone;
//! * what waits for clients that do not read stays within its share ([`crate::limits::LANES_PERCENT`]), whatever their number:
//!   low goes first, then normal, then high, and who still grows when all of it is used is closed.

pub mod budget;
pub mod contract;
mod live;

pub use contract::{Contract, Footprint, Kind};

use crate::{
    config,
    envelope::Priority,
    limits::{
        LANES_HIGH_PERCENT, LANES_LOW_PERCENT, LANES_NORMAL_PERCENT, TCP_MEMORY_AGAIN_PERCENT,
        TCP_MEMORY_PERCENT,
    },
    metrics::Metrics,
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
};

/// Of what there is too little for one more connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// It would not stay within the budget.
    Budget,
    /// What TCP sockets of this host may hold together is nearly used up (`net.ipv4.tcp_mem`).
    Sockets,
}

impl Shortage {
    /// Causes of a refusal: told, and closed without a word.
    pub fn causes(self) -> (&'static str, &'static str) {
        match self {
            Shortage::Budget => ("memory", "memory_unanswered"),
            Shortage::Sockets => ("tcp_memory", "tcp_memory_unanswered"),
        }
    }
}

/// The account of one process, shared by its cores and control.
#[derive(Debug)]
pub struct Memory {
    contract: Contract,
    /// As the configuration has it that was read last.
    budget_bytes: AtomicU64,
    /// Client sockets of all cores.
    population: Arc<AtomicUsize>,
    /// Bytes that wait in connections: unsent items and control frames, messages that came in part.
    held: AtomicI64,
    /// Slab entries that exist, taken or free.
    entries: AtomicU64,
    /// The user table, as control measured it last.
    tables_bytes: AtomicU64,
    /// What the last look found above the prediction for as many connections.
    beyond_bytes: AtomicU64,
    /// What the last look found of sockets.
    sockets_full: AtomicBool,
}

/// Of the default configuration on one core: for whoever stands in a core's place.
impl Default for Memory {
    fn default() -> Self {
        Memory::new(&config::Gateway::default(), 1, Arc::default())
    }
}

impl Memory {
    pub fn new(gateway: &config::Gateway, cores: usize, population: Arc<AtomicUsize>) -> Memory {
        let tcp_bytes_max = budget::tcp_bytes_max(Path::new("/"));
        Memory {
            contract: Contract::new(gateway, cores, tcp_bytes_max),
            budget_bytes: budget_bytes(gateway).into(),
            population,
            held: AtomicI64::new(0),
            entries: AtomicU64::new(0),
            tables_bytes: AtomicU64::new(0),
            beyond_bytes: AtomicU64::new(0),
            sockets_full: AtomicBool::new(false),
        }
    }

    /// Takes over the budget of another `[gateway]`: for newcomers, and for what waits from now on.
    pub fn reload(&self, gateway: &config::Gateway) {
        self.budget_bytes
            .store(budget_bytes(gateway), Ordering::Relaxed);
        self.warn(gateway);
    }

    /// Where fewer connections fit than are configured.
    pub fn warn(&self, gateway: &config::Gateway) {
        let fit = self.connections_max();
        if fit < gateway.connections_soft as u64 {
            tracing::warn!(
                fit,
                connections_soft = gateway.connections_soft,
                budget_bytes = self.budget_bytes(),
                "memory is for fewer connections than configured: more get 503; give the host or its control group \
                 more, or set gateway.connections_soft lower (herald check shows the sum)"
            );
        }
    }

    fn budget_bytes(&self) -> u64 {
        self.budget_bytes.load(Ordering::Relaxed)
    }

    /// What waits in all connections together.
    fn lanes_max(&self) -> u64 {
        contract::lanes_max(self.budget_bytes())
    }

    /// Why so many connections can't be, if they can't.
    pub fn shortage(&self, connections: usize) -> Option<Shortage> {
        let idle_bytes = self.contract.idle(connections as u64).total();
        if idle_bytes + self.beyond_bytes() > self.budget_bytes() {
            return Some(Shortage::Budget);
        }
        let sockets_full = self.sockets_full.load(Ordering::Relaxed);
        sockets_full.then_some(Shortage::Sockets)
    }

    /// Connections that fit in all, as things stand.
    pub fn connections_max(&self) -> u64 {
        let budget_bytes = self.budget_bytes().saturating_sub(self.beyond_bytes());
        let fit = self.contract.connections_max(budget_bytes);
        match self.sockets_full.load(Ordering::Relaxed) {
            true => fit.min(self.population()),
            false => fit,
        }
    }

    /// Whether an item of this priority may wait for a client that does not read. `change` is what the asking
    /// core has yet to add by [`Memory::add_held`].
    pub fn keeps(&self, priority: Priority, change: i64) -> bool {
        let percent = match priority {
            Priority::Critical => 100,
            Priority::High => LANES_HIGH_PERCENT,
            Priority::Normal => LANES_NORMAL_PERCENT,
            Priority::Low => LANES_LOW_PERCENT,
        };
        self.held_bytes(change) < self.lanes_max() / 100 * percent
    }

    /// The share of what waits is used up.
    pub fn is_full(&self, change: i64) -> bool {
        self.held_bytes(change) >= self.lanes_max()
    }

    /// More or less waits than before.
    pub fn add_held(&self, change: i64) {
        self.held.fetch_add(change, Ordering::Relaxed);
    }

    /// A core's slab has grown.
    pub fn add_entries(&self, more: u64) {
        self.entries.fetch_add(more, Ordering::Relaxed);
    }

    pub fn set_tables_bytes(&self, bytes: u64) {
        self.tables_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Compares what is held with what was predicted, and with what sockets may hold, for [`Memory::shortage`].
    /// Reads three files of `/proc`: once a second is often enough.
    pub fn look(&self) {
        self.look_below(Path::new("/"));
    }

    /// The same of a host whose files are there.
    pub fn look_below(&self, root: &Path) {
        let predicted = self.contract.idle(self.population()).total();
        let live = self.live_below(root);
        let beyond = live.total().saturating_sub(predicted);
        self.beyond_bytes.store(beyond, Ordering::Relaxed);
        let (held, most) = (live.bytes(Kind::SocketBuffers), budget::tcp_bytes_max(root));
        let was_full = self.sockets_full.load(Ordering::Relaxed);
        let percent = match was_full {
            true => TCP_MEMORY_AGAIN_PERCENT,
            false => TCP_MEMORY_PERCENT,
        };
        let is_full = held >= most / 100 * percent;
        if is_full != was_full {
            self.sockets_full.store(is_full, Ordering::Relaxed);
            say_of_sockets(is_full, held, most);
        }
    }

    /// What is held now, by kind.
    pub fn live(&self) -> Footprint {
        self.live_below(Path::new("/"))
    }

    fn live_below(&self, root: &Path) -> Footprint {
        let connections = self.population();
        let own = Footprint::default()
            .with(
                Kind::Connections,
                self.contract
                    .connections(self.entries.load(Ordering::Relaxed), connections),
            )
            .with(Kind::Tls, self.contract.tls(connections))
            .with(Kind::Lanes, self.held_bytes(0))
            .with(Kind::Tables, self.tables_bytes.load(Ordering::Relaxed))
            .with(Kind::Queues, self.contract.queues());
        // Items that wait for many are counted for each, and are there once.
        let rest = live::resident_bytes().saturating_sub(own.total());
        own.with(Kind::Process, rest)
            .with(
                Kind::KernelSockets,
                self.contract.kernel_sockets(connections),
            )
            .with(Kind::SocketBuffers, live::socket_buffer_bytes(root))
    }

    pub fn measure(self: &Arc<Self>, metrics: &Metrics) {
        let shared = self.clone();
        let help = "Memory held, by kind. The kernel's sockets are counted at what its slabs give one; the \
                    buffers of sockets are all of the network namespace; an item that waits for many is \
                    counted for each.";
        metrics.computed_by("memory_bytes", help, "kind", move || by_kind(shared.live()));
        let shared = self.clone();
        let help =
            "Memory that the contract predicts for as many idle connections as there are, by kind.";
        metrics.computed_by("memory_predicted_bytes", help, "kind", move || {
            by_kind(shared.contract.idle(shared.population()))
        });
        let shared = self.clone();
        let help = "Memory of this host, or of its control group where that is less.";
        metrics.computed("memory_granted_bytes", help, || {
            i64::try_from(budget::granted(Path::new("/"))).unwrap_or(i64::MAX)
        });
        let help = "Memory within which newcomers are let in.";
        metrics.computed("memory_budget_bytes", help, move || {
            shared.budget_bytes() as i64
        });
        let help = "What the buffers of sockets may take of this host before newcomers are refused; -1 where it does \
                    not say.";
        metrics.computed(
            "socket_buffers_budget_bytes",
            help,
            || match budget::tcp_bytes_max(Path::new("/")) {
                u64::MAX => -1,
                most => (most / 100 * TCP_MEMORY_PERCENT) as i64,
            },
        );
    }

    fn population(&self) -> u64 {
        self.population.load(Ordering::Relaxed) as u64
    }

    fn held_bytes(&self, change: i64) -> u64 {
        (self.held.load(Ordering::Relaxed) + change).max(0) as u64
    }

    /// The look is up to a second old; what waits is known at once.
    fn beyond_bytes(&self) -> u64 {
        self.beyond_bytes
            .load(Ordering::Relaxed)
            .max(self.held_bytes(0))
    }
}

fn budget_bytes(gateway: &config::Gateway) -> u64 {
    budget::share(gateway.memory_bytes_max, budget::granted(Path::new("/")))
}

fn say_of_sockets(are_full: bool, held: u64, most: u64) {
    match are_full {
        true => tracing::warn!(
            held_bytes = held,
            most_bytes = most,
            "the sockets of this host hold nearly all that net.ipv4.tcp_mem allows, so newcomers get 503: clients \
             that do not read, or the third figure is too low (herald check says what is needed)"
        ),
        false => tracing::info!(
            held_bytes = held,
            most_bytes = most,
            "the sockets of this host have room again: newcomers are let in"
        ),
    }
}

fn by_kind(footprint: Footprint) -> Vec<(&'static str, f64)> {
    let named = |(kind, bytes): (Kind, u64)| (kind.as_str(), bytes as f64);
    footprint.by_kind().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tempfile::TempDir;

    fn memory(budget_bytes: u64) -> Memory {
        let gateway = config::Gateway {
            memory_bytes_max: budget_bytes,
            ..config::Gateway::default()
        };
        Memory::new(&gateway, 2, Arc::default())
    }

    #[test]
    fn another_connection_is_let_in_as_long_as_the_prediction_for_it_is_within_the_budget() {
        let budget_bytes = memory(1 << 30).contract.idle(100_000).total();
        let memory = memory(budget_bytes);
        assert_eq!(memory.shortage(100_000), None);
        assert_eq!(memory.shortage(100_001), Some(Shortage::Budget));
        assert_eq!(memory.connections_max(), 100_000);
    }

    #[test]
    fn what_waits_for_those_who_do_not_read_leaves_less_room_for_newcomers() {
        let budget_bytes = memory(1 << 30).contract.idle(100_000).total();
        let memory = memory(budget_bytes);
        let four = memory.contract.idle(100_000).total() - memory.contract.idle(99_996).total();
        memory.add_held(four as i64);
        assert_eq!(memory.shortage(99_996), None);
        assert_eq!(memory.shortage(99_997), Some(Shortage::Budget));
        memory.add_held(-(four as i64));
        assert_eq!(memory.shortage(100_000), None);
    }

    /// A host whose sockets hold so many pages of at most 1,000.
    fn host_with(pages: u32) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        let sockstat = format!("TCP: inuse 9 orphan 0 tw 0 alloc 9 mem {pages}\n");
        for (path, text) in [
            ("proc/self/net/sockstat", sockstat.as_str()),
            ("proc/sys/net/ipv4/tcp_mem", "500\t750\t1000\n"),
        ] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn nobody_is_let_in_while_the_sockets_hold_nearly_all_that_the_kernel_allows() {
        let memory = memory(1 << 40);
        let (near, again) = (
            TCP_MEMORY_PERCENT as u32 * 10,
            TCP_MEMORY_AGAIN_PERCENT as u32 * 10,
        );
        for (pages, is_full) in [
            (near - 1, false),
            (near, true),
            (again, true),
            (again - 1, false),
            (near - 1, false),
        ] {
            memory.look_below(host_with(pages).path());
            let shortage = is_full.then_some(Shortage::Sockets);
            assert_eq!(memory.shortage(1), shortage, "{pages} pages");
            assert_eq!(memory.connections_max() == 0, is_full);
        }
    }

    #[test]
    fn a_host_that_does_not_say_what_sockets_may_hold_refuses_nobody_for_it() {
        let memory = memory(1 << 40);
        let root = host_with(999_999);
        fs::remove_file(root.path().join("proc/sys/net/ipv4/tcp_mem")).unwrap();
        memory.look_below(root.path());
        assert_eq!(memory.shortage(1), None);
    }

    #[test]
    fn what_waits_is_bounded_over_all_and_the_low_goes_first() {
        let memory = memory(1 << 30);
        let kept = |used_percent: u64| {
            let change = (memory.lanes_max() / 100 * used_percent) as i64;
            let tiers = [
                Priority::Low,
                Priority::Normal,
                Priority::High,
                Priority::Critical,
            ];
            tiers.map(|tier| memory.keeps(tier, change))
        };
        assert_eq!(kept(0), [true; 4]);
        assert_eq!(kept(70), [false, true, true, true]);
        assert_eq!(kept(85), [false, false, true, true]);
        assert_eq!(kept(95), [false, false, false, true]);
        assert_eq!(kept(100), [false; 4]);
        assert!(memory.is_full(memory.lanes_max() as i64 + 100));
    }
}
