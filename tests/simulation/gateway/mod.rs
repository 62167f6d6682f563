//! A gateway: the product's table, sessions, flights and flows, wired as `herald::control` and the core threads
//! wire them.

mod connections;
mod delivery;
mod keeper;
mod leaving;
mod registrar;

pub use connections::ConnEvent;
pub use delivery::shard_group;

use crate::{
    parts::Link,
    world::{Done, Event, Owner, Process, World},
};
use connections::Conn;
use delivery::{Reader, Waiting};
use herald::{
    bus::TopicPartition,
    control::{
        flights::{Flights, Speaker},
        leaving::{pacing::Pacer, slot::Slot},
        outcomes::Flow,
        table::Table,
        upstream::{Accepted, SyncReply},
    },
    gateway::mailbox::ConnId,
    ids::{GatewayEpoch, GatewayId},
    position::Cursors,
    proto::client::frames,
    registry::{GatewayInfo, GatewayLease, Registration},
};
use keeper::{Kept, Leases, Ownership};
use registrar::{Arrival, Scanned};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

/// How often newcomers are counted and old deliveries looked at.
const UPKEEP_MS: u64 = 500;
const UPKEEP_TICKS: usize = 6;

pub enum GatewayEvent {
    /// Renew or acquire leases; the turn tells a stale wake-up.
    Keep(u64),
    /// A reader of the shard stands.
    Assigned(u64),
    Read(TopicPartition),
    Commit,
    Register,
    Scan,
    Report,
    Upkeep,
    LookAtSiblings,
    Evict(u64),
}

pub enum GatewayDone {
    Kept(Box<Kept>),
    Registered {
        confirmed: Option<Vec<Registration>>,
        arrivals: Vec<Arrival>,
    },
    Scanned(Box<Scanned>),
    Reported {
        batch: Vec<Waiting>,
        accepted: Option<Accepted>,
    },
    Synced {
        conn: ConnId,
        asked: Cursors,
        reaches: bool,
        reply: Option<SyncReply>,
    },
    /// Leases of the siblings; `Some` turn: to pace an eviction.
    Siblings(Option<Vec<GatewayLease>>, Option<u64>),
}

pub struct Gateway {
    pub id: GatewayId,
    pub process: Process,
    pub conns: BTreeMap<ConnId, Conn>,
    pub draining: bool,
    link: Option<Arc<Link>>,
    is_cut: bool,
    leases: Leases,
    keeping: bool,
    keep_turn: u64,
    ownership: Option<Ownership>,
    /// Epoch under which an ownership was published last.
    owned_as: Option<GatewayEpoch>,
    identity: (GatewayEpoch, Option<u32>),
    entered_as: Option<GatewayEpoch>,
    table: Table,
    flights: Flights,
    flows: Vec<(Arc<Flow>, TopicPartition)>,
    readers: BTreeMap<TopicPartition, Reader>,
    reader_turn: u64,
    broadcast_next: u64,
    arrivals: Vec<Arrival>,
    registering: bool,
    scan_due: bool,
    scans: u64,
    compared_incarnation: u64,
    outcomes: VecDeque<Waiting>,
    reports: usize,
    behind: BTreeSet<ConnId>,
    slots: u32,
    /// Connections opened, and when the last ones were.
    opened: VecDeque<u64>,
    opened_per_s: u32,
    pacer: Pacer,
    drain_turn: u64,
    slot: Slot,
    window: frames::Slot,
    accepts_of_siblings: Option<u64>,
}

impl Gateway {
    pub fn new(number: usize) -> Gateway {
        let id: GatewayId = format!("gw-{number}").parse().expect("a label");
        Gateway {
            identity: (no_epoch(&id), None),
            id,
            process: Process::default(),
            conns: BTreeMap::new(),
            draining: false,
            link: None,
            is_cut: false,
            leases: Leases::default(),
            keeping: false,
            keep_turn: 0,
            ownership: None,
            owned_as: None,
            entered_as: None,
            table: Table::default(),
            flights: Flights::default(),
            flows: Vec::new(),
            readers: BTreeMap::new(),
            reader_turn: 0,
            broadcast_next: 0,
            arrivals: Vec::new(),
            registering: false,
            scan_due: false,
            scans: 0,
            compared_incarnation: 0,
            outcomes: VecDeque::new(),
            reports: 0,
            behind: BTreeSet::new(),
            slots: 0,
            opened: VecDeque::from([0; UPKEEP_TICKS]),
            opened_per_s: 0,
            pacer: Pacer::default(),
            drain_turn: 0,
            slot: Slot::default(),
            window: frames::Slot {
                after_ms_min: 0,
                after_ms_max: 5_000,
            },
            accepts_of_siblings: None,
        }
    }

    fn link(&self) -> Arc<Link> {
        self.link.clone().expect("a process that runs has a link")
    }

    pub fn cut(&mut self, cut: bool) {
        self.is_cut = cut;
        if let Some(link) = &self.link {
            link.cut(cut);
        }
    }

    /// The balancer sends clients here.
    pub fn is_ready(&self) -> bool {
        self.process.runs() && !self.draining && self.ownership.is_some()
    }

    fn speaker(&self, at_ms: u64) -> Speaker {
        Speaker {
            gateway: self.identity.0.to_string(),
            at_ms,
        }
    }

    /// Whether a catch-up may be called complete: whatever comes from now on reaches this host.
    fn reaches(&self, user: &herald::ids::UserId) -> bool {
        self.ownership.is_some() && self.table.is_registered(user)
    }
}

fn no_epoch(id: &GatewayId) -> GatewayEpoch {
    GatewayEpoch {
        gateway: id.clone(),
        epoch: 0,
    }
}

impl World {
    pub fn start_gateway(&mut self, number: usize) {
        let life = self.begins(|world, number| &mut world.gateways[number].process, number);
        let holder = format!("gw-{number}/{life}");
        let link = self.link(holder.clone());
        let broadcast = TopicPartition {
            topic: herald::bus::Topic::Broadcast,
            partition: 0,
        };
        let old = &self.gateways[number];
        link.cut(old.is_cut);
        let mut gateway = Gateway::new(number);
        gateway.process.life = life;
        gateway.process.up = true;
        gateway.is_cut = old.is_cut;
        gateway.compared_incarnation = herald::registry::Registry::incarnation(&*link);
        gateway.link = Some(link);
        gateway.leases = Leases::new(gateway.id.clone(), holder, self.claim(number));
        gateway.broadcast_next = self.bus.length(broadcast);
        self.gateways[number] = gateway;
        self.tell(None, || format!("gw-{number} starts (life {life})"));
        let owner = self.gateway_owner(number);
        for (after_ms, event) in [
            (10, GatewayEvent::Keep(0)),
            (1_000, GatewayEvent::Commit),
            (5_000, GatewayEvent::Scan),
            (UPKEEP_MS, GatewayEvent::Upkeep),
            (5_000, GatewayEvent::LookAtSiblings),
        ] {
            self.after(after_ms, owner, Event::Gateway(event));
        }
    }

    pub fn gateway_event(&mut self, owner: Owner, event: GatewayEvent) {
        let Owner::Gateway(number, _) = owner else {
            unreachable!("a gateway's event");
        };
        let again = |world: &mut World, ms, event| world.after(ms, owner, Event::Gateway(event));
        match event {
            GatewayEvent::Keep(turn) => self.keep(number, turn),
            GatewayEvent::Assigned(turn) => self.assigned(number, turn),
            GatewayEvent::Read(at) => self.read_shard(number, at),
            GatewayEvent::Commit => {
                self.commit(number);
                again(self, 1_000, GatewayEvent::Commit);
            }
            GatewayEvent::Register => self.register(number),
            GatewayEvent::Scan => {
                self.gateways[number].scan_due = true;
                self.register(number);
                again(self, 5_000, GatewayEvent::Scan);
            }
            GatewayEvent::Report => self.report(number),
            GatewayEvent::Upkeep => {
                self.upkeep(number);
                again(self, UPKEEP_MS, GatewayEvent::Upkeep);
            }
            GatewayEvent::LookAtSiblings => {
                self.look_at_siblings(number, None);
                again(self, 5_000, GatewayEvent::LookAtSiblings);
            }
            GatewayEvent::Evict(turn) => self.evict(number, turn),
        }
    }

    pub fn gateway_done(&mut self, owner: Owner, done: GatewayDone) {
        let Owner::Gateway(number, _) = owner else {
            unreachable!("a gateway's call");
        };
        match done {
            GatewayDone::Kept(kept) => self.kept(number, *kept),
            GatewayDone::Registered {
                confirmed,
                arrivals,
            } => self.registered(number, confirmed, arrivals),
            GatewayDone::Scanned(scanned) => self.scanned(number, *scanned),
            GatewayDone::Reported { batch, accepted } => self.reported(number, batch, accepted),
            GatewayDone::Synced {
                conn,
                asked,
                reaches,
                reply,
            } => self.synced(number, conn, asked, reaches, reply),
            GatewayDone::Siblings(leases, turn) => self.seen_siblings(number, leases, turn),
        }
    }

    /// A call to the registry, or one that this process makes alone.
    fn own_call<F>(&mut self, number: usize, job: F)
    where
        F: Future<Output = GatewayDone> + 'static,
    {
        let owner = self.gateway_owner(number);
        let job = Box::pin(async move { Done::Gateway(job.await) });
        self.call(owner, owner, None, job);
    }

    fn upkeep(&mut self, number: usize) {
        let dispatcher_answers = self.dispatchers.iter().any(|one| one.process.runs());
        let (now, unix_ms) = (self.instant(), self.clock.unix_ms());
        let gateway = &mut self.gateways[number];
        let opened_now = gateway.opened.back().copied().unwrap_or(0);
        gateway.opened.push_back(opened_now);
        let before = gateway.opened.pop_front().unwrap_or(0);
        let window_ms = UPKEEP_MS * UPKEEP_TICKS as u64;
        gateway.opened_per_s = ((opened_now - before) * 1_000 / window_ms) as u32;
        let swept = gateway.flights.sweep(now, &gateway.speaker(unix_ms));
        let behind = match dispatcher_answers {
            true => std::mem::take(&mut gateway.behind),
            false => BTreeSet::new(),
        };
        self.settle(number, swept.settled);
        self.tell_behind(number, behind);
    }

    /// What the gateway publishes with its lease.
    fn info(&self, number: usize) -> GatewayInfo {
        let gateway = &self.gateways[number];
        let limit = match gateway.draining {
            true => 0,
            false => self.plan.accepts_per_s,
        };
        GatewayInfo {
            grpc: gateway.id.to_string(),
            shard: gateway.leases.shard(),
            connections: gateway.table.connections(),
            accepts_limit_per_s: limit,
            spare_accepts_per_s: limit.saturating_sub(gateway.opened_per_s),
            room: None,
            region: self.region.clone(),
            draining: gateway.draining,
        }
    }
}
