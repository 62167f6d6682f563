//! A dispatcher: the product's router, tracker and sync service, and the finisher's sight, wired as
//! `herald::dispatcher` wires them.

use crate::{
    elsewhere::{unlimited, users_of},
    gateway::shard_group,
    parts::{Link, Part},
    plan::Broken,
    world::{Done, Event, Owner, Process, RAW, World},
};
use herald::{
    bus::{Consumed, Topic, TopicPartition},
    dispatcher::{
        Local,
        erasure::Erasures,
        finisher::sight::{Extent, Extents, Sight},
        outbox::Outbox,
        patience::Patience,
        router::Router,
        routes::Routes,
        sync::Sync,
        tracker::Tracker,
        worker::Work,
    },
    envelope::{Fate, Outcome, Remembered, Routed},
    ids::GatewayEpoch,
    limits,
    registry::{FinisherLease, RENEW_MS, Registry, RegistryError},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Records of one batch: few, so that batches follow one another.
const ROUTER_BATCH: usize = 8;
const TOPICS: [Topic; 2] = [Topic::Critical, Topic::InApp];
const SWEEP_EVERY_MS: u64 = 1_000;

pub enum DispatcherDone {
    Routed {
        partition: u32,
        generation: u64,
        next: Option<u64>,
    },
    /// A batch of what went by memory; `None`: to be looked at again.
    LookedAgain {
        generation: u64,
        next: Option<u64>,
    },
    Swept,
    /// Shards that a gateway holds.
    Seen(Option<BTreeSet<u32>>),
    Finishing(u32, Option<FinisherLease>),
    /// A batch of the shard being finished is dealt with.
    Finished {
        lease: FinisherLease,
        next: Vec<(TopicPartition, u64)>,
        done: bool,
    },
    Renewed(FinisherLease, Result<bool, RegistryError>),
    GivenBack(u32, bool),
}

#[derive(Default)]
pub struct Dispatcher {
    pub process: Process,
    link: Option<Arc<Link>>,
    is_cut: bool,
    routes: Option<Routes>,
    sights: BTreeMap<u32, Sight>,
    /// Shards being finished, and until when their lease needs no renewal.
    finishing: BTreeMap<u32, Hold>,
}

#[derive(Clone, Copy, Default)]
struct Hold {
    renewed_ms: u64,
    wanted: bool,
}

/// Which dispatcher reads which partition of a topic; the generation tells a late commit.
pub struct Group {
    members: Vec<Option<Owner>>,
    generations: Vec<u64>,
    /// Next offset to read, and whether a batch is at work.
    next: Vec<u64>,
    busy: Vec<bool>,
}

impl Group {
    pub fn new(partitions: u32) -> Group {
        let count = partitions as usize;
        Group {
            members: vec![None; count],
            generations: vec![0; count],
            next: vec![0; count],
            busy: vec![false; count],
        }
    }

    /// Whether the partition is another one's from now on, who goes on at what is committed.
    fn give(&mut self, at: usize, member: Option<Owner>, committed: Option<u64>) -> bool {
        if self.members[at] == member {
            return false;
        }
        self.members[at] = member;
        self.generations[at] += 1;
        self.busy[at] = false;
        self.next[at] = committed.unwrap_or(0);
        true
    }
}

impl Dispatcher {
    fn link(&self) -> Arc<Link> {
        self.link.clone().expect("a process that runs has a link")
    }

    pub fn cut(&mut self, cut: bool) {
        self.is_cut = cut;
        if let Some(link) = &self.link {
            link.cut(cut);
        }
    }
}

fn raw(partition: u32) -> TopicPartition {
    TopicPartition {
        topic: RAW,
        partition,
    }
}

const ROUTERS: &str = "router";
const SECOND_LOOKS: &str = "second_look";
const DELIVERY: TopicPartition = TopicPartition {
    topic: Topic::Delivery,
    partition: 0,
};

impl World {
    pub fn start_dispatcher(&mut self, number: usize) {
        let life = self.begins(
            |world, number| &mut world.dispatchers[number].process,
            number,
        );
        let link = self.link(format!("dispatcher {number}/{life}"));
        let metrics = self.metrics.clone();
        let dispatcher = &mut self.dispatchers[number];
        link.cut(dispatcher.is_cut);
        dispatcher.routes = Some(Routes::new(link.clone(), metrics));
        dispatcher.link = Some(link);
        dispatcher.sights.clear();
        dispatcher.finishing.clear();
        self.tell(None, || format!("dispatcher {number} starts (life {life})"));
        let owner = self.dispatcher_owner(number);
        self.after(SWEEP_EVERY_MS, owner, Event::Sweep);
        let every_ms = limits::FINISHER_EVERY.as_millis() as u64;
        self.after(every_ms, owner, Event::Look);
        self.after(2_000, Owner::World, Event::Rebalance);
    }

    pub fn some_dispatcher(&mut self) -> Option<usize> {
        let up = (0..self.dispatchers.len()).filter(|&number| self.dispatchers[number].process.up);
        let up: Vec<usize> = up.collect();
        match up.len() {
            0 => None,
            count => Some(up[self.random_ms(0..count as u64) as usize]),
        }
    }

    /// What a gateway calls.
    pub fn upstream(&self, number: usize) -> Local {
        let link = self.dispatchers[number].link();
        let sync = Sync::new(self.rows.clone(), link, &self.region, self.metrics.clone());
        Local::new(
            Arc::new(self.tracker(number)),
            Arc::new(sync),
            self.rows.clone(),
        )
    }

    fn tracker(&self, number: usize) -> Tracker {
        Tracker::new(
            self.bus.clone(),
            self.rows.clone(),
            self.dispatchers[number].link(),
            self.region.clone(),
            self.erasures(),
            self.metrics.clone(),
        )
    }

    /// Nobody is erased here.
    fn erasures(&self) -> Erasures {
        Erasures::new(self.rows.clone(), self.metrics.clone())
    }

    // ── routing ────────────────────────────────────────────────────────────────────────────────────────

    /// The broker shares the partitions among those it takes for alive.
    pub fn rebalance(&mut self) {
        let alive = (0..self.dispatchers.len())
            .filter(|&number| self.dispatchers[number].process.runs())
            .map(|number| self.dispatcher_owner(number));
        let alive: Vec<Owner> = alive.collect();
        for partition in 0..self.bus.raw_partitions {
            let at = partition as usize;
            let member = match alive.len() {
                0 => None,
                count => Some(alive[at % count]),
            };
            let committed = self.bus.committed_by(ROUTERS, raw(partition));
            if self.group.give(at, member, committed) {
                let assigned = self.random_ms(10..200);
                self.after(assigned, Owner::World, Event::Route(partition));
            }
        }
        let committed = self.bus.committed_by(SECOND_LOOKS, DELIVERY);
        if self.second_looks.give(0, alive.first().copied(), committed) {
            let assigned = self.random_ms(10..200);
            self.after(assigned, Owner::World, Event::LookAgain);
        }
    }

    pub fn route(&mut self, partition: u32) {
        let at = partition as usize;
        let Some(owner @ Owner::Dispatcher(number, _)) = self.group.members[at] else {
            return;
        };
        if self.group.busy[at] || !self.dispatchers[number].process.runs() {
            return;
        }
        let records = self
            .bus
            .read(raw(partition), self.group.next[at], ROUTER_BATCH);
        let Some(last) = records.last() else { return };
        let next = last.offset + 1;
        self.group.busy[at] = true;
        self.group.next[at] = next;
        let generation = self.group.generations[at];
        let mut router = self.router(number);
        let early = (self.plan.broken == Broken::LookUpFirst).then(|| {
            let link = self.link(format!("dispatcher {number}"));
            router.routes = Routes::new(link.clone(), self.metrics.clone());
            link
        });
        let clock = self.clock.clone();
        let job = Box::pin(async move {
            if let Some(link) = early {
                link.look_up_early(&users_of(&records)).await;
            }
            let done = router.batch(&records).await;
            clock.way(Part::Bus).await;
            Done::Dispatcher(DispatcherDone::Routed {
                partition,
                generation,
                next: done.is_ok_and(|refused| refused.is_empty()).then_some(next),
            })
        });
        self.call(owner, owner, None, job);
    }

    // ── looking again ──────────────────────────────────────────────────────────────────────────────────

    /// What went by memory is looked up once the registry answers whoever reads it.
    pub fn second_look(&mut self) {
        let Some(owner @ Owner::Dispatcher(number, _)) = self.second_looks.members[0] else {
            return;
        };
        let is_left_out = self.plan.broken == Broken::NoSecondLook;
        if is_left_out || self.second_looks.busy[0] || !self.dispatchers[number].process.runs() {
            return;
        }
        let records = self
            .bus
            .read(DELIVERY, self.second_looks.next[0], ROUTER_BATCH);
        let Some(last) = records.last() else { return };
        let next = last.offset + 1;
        self.second_looks.busy[0] = true;
        let generation = self.second_looks.generations[0];
        let remembered = records
            .iter()
            .map(|one| Remembered::read(&one.record).expect("written by the router"));
        let remembered: Vec<Remembered> = remembered.collect();
        let (tracker, (outbox, _)) = (self.tracker(number), self.outbox());
        let clock = self.clock.clone();
        let job = Box::pin(async move {
            let looked = match tracker.look_again(&remembered).await {
                Ok(records) => outbox.send(records).await.is_ok(),
                Err(_) => false,
            };
            clock.way(Part::Bus).await;
            Done::Dispatcher(DispatcherDone::LookedAgain {
                generation,
                next: looked.then_some(next),
            })
        });
        self.call(owner, owner, None, job);
    }

    fn looked_again(&mut self, generation: u64, next: Option<u64>) {
        if self.second_looks.generations[0] != generation {
            return;
        }
        self.second_looks.busy[0] = false;
        let Some(next) = next else {
            let after_ms = self.random_ms(50..2_500);
            return self.after(after_ms, Owner::World, Event::LookAgain);
        };
        self.second_looks.next[0] = next;
        self.bus.commit(SECOND_LOOKS, DELIVERY, next);
        self.second_look();
    }

    fn outbox(&self) -> (Outbox, Patience) {
        let retries = self.metrics.retries.clone();
        let patience = Patience::new(CancellationToken::new(), retries, || false);
        let outbox = Outbox::new(self.bus.clone(), patience.clone(), self.metrics.clone());
        (outbox, patience)
    }

    fn router(&self, number: usize) -> Router {
        let (outbox, patience) = self.outbox();
        let routes = self.dispatchers[number].routes.clone();
        Router {
            store: self.rows.clone(),
            routes: routes.expect("a process that runs has routes"),
            outbox,
            patience,
            metrics: self.metrics.clone(),
            region: self.region.clone(),
            rules: Default::default(),
            quotas: unlimited(),
            erasures: self.erasures(),
            channels: Default::default(),
            pause: Duration::ZERO,
            partitions: Some(self.bus.raw_partitions),
        }
    }

    pub fn dispatcher_done(&mut self, owner: Owner, done: DispatcherDone) {
        let Owner::Dispatcher(number, _) = owner else {
            unreachable!("a dispatcher's call");
        };
        match done {
            DispatcherDone::Routed {
                partition,
                generation,
                next,
            } => {
                // A partition that was given to another is not committed any more.
                if self.group.generations[partition as usize] == generation {
                    if let Some(next) = next {
                        self.bus.commit(ROUTERS, raw(partition), next);
                    }
                    self.group.busy[partition as usize] = false;
                    self.route(partition);
                }
            }
            DispatcherDone::LookedAgain { generation, next } => {
                self.looked_again(generation, next);
            }
            DispatcherDone::Swept => {}
            DispatcherDone::Seen(owned) => self.seen_shards(number, owned),
            DispatcherDone::Finishing(shard, lease) => self.finishing(number, shard, lease),
            DispatcherDone::Finished { lease, next, done } => {
                for (at, next) in next {
                    self.ledger.finished(at, next);
                    self.bus.commit(&shard_group(at.partition), at, next);
                }
                match done {
                    true => self.give_back(number, lease, true),
                    false => self.finish(number, lease),
                }
            }
            DispatcherDone::Renewed(lease, answer) => self.renewed(number, lease, answer),
            DispatcherDone::GivenBack(shard, read) => {
                let now = self.instant();
                let dispatcher = &mut self.dispatchers[number];
                dispatcher.finishing.remove(&shard);
                match dispatcher.sights.get_mut(&shard) {
                    Some(sight) if read => sight.was_read(now),
                    _ => drop(dispatcher.sights.remove(&shard)),
                }
            }
        }
    }

    // ── sweeping ───────────────────────────────────────────────────────────────────────────────────────

    pub fn sweep(&mut self, owner: Owner) {
        let Owner::Dispatcher(number, _) = owner else {
            unreachable!("a dispatcher's round");
        };
        let link = self.dispatchers[number].link();
        let job = Box::pin(async move {
            // An answer that does not come is asked for again.
            let _ = link.sweep(limits::SWEEP_PER_S).await;
            Done::Dispatcher(DispatcherDone::Swept)
        });
        self.call(owner, owner, None, job);
        self.after(SWEEP_EVERY_MS, owner, Event::Sweep);
    }

    // ── finishing shards that nobody owns ──────────────────────────────────────────────────────────────

    pub fn look_at_shards(&mut self, owner: Owner) {
        let Owner::Dispatcher(number, _) = owner else {
            unreachable!("a dispatcher's round");
        };
        let (link, count) = (self.dispatchers[number].link(), self.bus.shards);
        let job = Box::pin(async move {
            let leases = link.shards(count).await.ok();
            let owned = leases.map(|leases| {
                let live = leases.into_iter().filter(|lease| lease.live);
                live.map(|lease| lease.shard).collect()
            });
            Done::Dispatcher(DispatcherDone::Seen(owned))
        });
        self.call(owner, owner, None, job);
        let every_ms = limits::FINISHER_EVERY.as_millis() as u64;
        self.after(every_ms, owner, Event::Look);
    }

    fn extents(&self, shard: u32) -> Extents {
        TOPICS.map(|topic| {
            let at = TopicPartition {
                topic,
                partition: shard,
            };
            Extent {
                committed: self.bus.committed_by(&shard_group(shard), at),
                end: self.bus.length(at),
            }
        })
    }

    fn seen_shards(&mut self, number: usize, owned: Option<BTreeSet<u32>>) {
        let Some(owned) = owned else { return };
        let now = self.instant();
        let owner = self.dispatcher_owner(number);
        for shard in 0..self.bus.shards {
            let extents = self.extents(shard);
            let now_ms = self.now_ms();
            let dispatcher = &mut self.dispatchers[number];
            if owned.contains(&shard) {
                dispatcher.sights.remove(&shard);
                continue;
            }
            if dispatcher.finishing.contains_key(&shard) {
                continue;
            }
            let sight = dispatcher
                .sights
                .entry(shard)
                .or_insert_with(|| Sight::new(extents, now));
            if !sight.moved_to(extents, now) {
                continue;
            }
            let hold = Hold {
                renewed_ms: now_ms,
                wanted: false,
            };
            dispatcher.finishing.insert(shard, hold);
            let (link, name) = (dispatcher.link(), format!("dispatcher {number}"));
            let name = format!("{name}/{}", dispatcher.process.life);
            let job = Box::pin(async move {
                let lease = link.finish_shard(&name, shard).await.ok();
                Done::Dispatcher(DispatcherDone::Finishing(shard, lease))
            });
            self.call(owner, owner, None, job);
        }
    }

    fn finishing(&mut self, number: usize, shard: u32, lease: Option<FinisherLease>) {
        let Some(lease) = lease else {
            let dispatcher = &mut self.dispatchers[number];
            dispatcher.finishing.remove(&shard);
            dispatcher.sights.remove(&shard);
            return;
        };
        self.tell(None, || {
            format!(
                "dispatcher {number} finishes shard {shard} at epoch {}",
                lease.epoch
            )
        });
        self.finish(number, lease);
    }

    /// The next batch, or the end: read to its end, wanted by a gateway, or lost.
    fn finish(&mut self, number: usize, lease: FinisherLease) {
        let now_ms = self.now_ms();
        let (owner, link) = (
            self.dispatcher_owner(number),
            self.dispatchers[number].link(),
        );
        let hold = self.dispatchers[number].finishing[&lease.shard];
        if hold.wanted {
            return self.give_back(number, lease, false);
        }
        if now_ms >= hold.renewed_ms + RENEW_MS {
            let job = Box::pin(async move {
                let answer = link.renew_finisher(&lease).await;
                Done::Dispatcher(DispatcherDone::Renewed(lease, answer))
            });
            self.call(owner, owner, None, job);
            return;
        }
        let mut outcomes = Vec::new();
        let mut next = Vec::new();
        for topic in TOPICS {
            let at = TopicPartition {
                topic,
                partition: lease.shard,
            };
            let committed = self.bus.committed_by(&shard_group(lease.shard), at);
            let records = self.bus.read(at, committed.unwrap_or(0), ROUTER_BATCH);
            next.extend(records.last().map(|last| (at, last.offset + 1)));
            outcomes.extend(records.iter().map(|one| self.not_here(one, &lease)));
        }
        let tracker = self.tracker(number);
        let done = outcomes.is_empty();
        let job = Box::pin(async move {
            if !outcomes.is_empty() {
                // Both the store and the broker always answer here.
                let _ = tracker.finish(&outcomes, lease.shard).await;
            }
            Done::Dispatcher(DispatcherDone::Finished { lease, next, done })
        });
        self.call(owner, owner, None, job);
    }

    fn not_here(&self, consumed: &Consumed, lease: &FinisherLease) -> Outcome {
        let routed = Routed::read(&consumed.record).expect("written by the router");
        let answered = routed.answered.iter().map(GatewayEpoch::to_string);
        Outcome {
            id: routed.head.id,
            user: routed.user,
            pos: routed.pos,
            fate: Fate::NotHere,
            devices: 0,
            gateway: format!("(finisher).{}", lease.epoch),
            at_ms: self.clock.unix_ms(),
            answered: answered.collect(),
        }
    }

    fn renewed(
        &mut self,
        number: usize,
        lease: FinisherLease,
        answer: Result<bool, RegistryError>,
    ) {
        let now_ms = self.now_ms();
        match answer {
            Ok(wanted) => {
                let hold = Hold {
                    renewed_ms: now_ms,
                    wanted,
                };
                self.dispatchers[number].finishing.insert(lease.shard, hold);
                self.finish(number, lease);
            }
            // It takes nothing away by not answering.
            Err(RegistryError::Unavailable(_)) => {
                let hold = self.dispatchers[number].finishing.entry(lease.shard);
                hold.or_default().renewed_ms = now_ms;
                self.finish(number, lease);
            }
            Err(_) => self.give_back(number, lease, false),
        }
    }

    fn give_back(&mut self, number: usize, lease: FinisherLease, read: bool) {
        let (owner, link) = (
            self.dispatcher_owner(number),
            self.dispatchers[number].link(),
        );
        let shard = lease.shard;
        self.tell(None, || {
            format!("dispatcher {number} gives shard {shard} back")
        });
        let job = Box::pin(async move {
            // One that was lost is not ours to release, and the registry knows.
            let _ = link.release_finisher(&lease).await;
            Done::Dispatcher(DispatcherDone::GivenBack(shard, read))
        });
        self.call(owner, owner, None, job);
    }
}
