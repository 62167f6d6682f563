//! The world: an order of events in virtual time, the processes they happen to, and the calls on their way.
//!
//! Invariants:
//! * everything that happens is an event; events of one time happen in the order they were planned, so that a
//!   plan and its seed give the same story every time;
//! * an event belongs to a life of a process: it waits while that life is stopped, and is dropped with it;
//! * after each event the promises are looked at; the first that is broken ends the run.

use crate::{
    client::{self, Client},
    dispatcher::{Dispatcher, Group},
    faults::{IN_CALM_MS, Troubles},
    gateway::{ConnEvent, Gateway, GatewayEvent},
    ledger::{Ledger, Violation},
    parts::{Bus, Clock, Deed, Link, Part, Redis, Rows},
    plan::Plan,
};
use herald::{
    bus::{Target, Topic},
    dispatcher::metrics::DispatcherMetrics,
    envelope::{Channel, Content, Head, Kind, Priority},
    ids::{NotificationId, Region, UserId},
    metrics::Metrics,
    proto::{Now, session::SessionConfig},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use swarm::{rules, tally::Tally};
use uuid::Uuid;

/// To whom an event happens, and in which of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    World,
    Gateway(usize, u32),
    Dispatcher(usize, u32),
}

pub enum Event {
    Poll(u64),
    /// A call has its answer, or will never have one.
    Done(Box<Done>),
    /// Who waited for the call waits no longer.
    Timeout(u64),
    Post(usize),
    /// By now it has arrived.
    Expected(usize),
    FaultBegins(usize),
    FaultEnds(usize),
    Restart(Owner),
    Route(u32),
    Rebalance,
    /// At what went by memory.
    LookAgain,
    Sweep,
    Look,
    Gateway(GatewayEvent),
    Conn(ConnEvent),
    Client(usize, u32, crate::client::ClientEvent),
}

/// What a call came to.
pub enum Done {
    Gateway(crate::gateway::GatewayDone),
    Dispatcher(crate::dispatcher::DispatcherDone),
}

pub type Job = Pin<Box<dyn Future<Output = Done>>>;

struct Running {
    job: Job,
    runs_on: Owner,
    told: Owner,
    /// What is told when the process that it runs on dies, or time is up.
    lost: Option<Done>,
    abandoned: bool,
}

struct Planned {
    at_ms: u64,
    number: u64,
    owner: Owner,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Planned) -> bool {
        self.number == other.number
    }
}
impl Eq for Planned {}
impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Planned) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Planned {
    fn cmp(&self, other: &Planned) -> std::cmp::Ordering {
        (self.at_ms, self.number).cmp(&(other.at_ms, other.number))
    }
}

/// A process as the machine sees it.
#[derive(Default)]
pub struct Process {
    pub life: u32,
    pub up: bool,
    stopped: bool,
    held_back: Vec<(Owner, Event)>,
}

impl Process {
    pub fn runs(&self) -> bool {
        self.up && !self.stopped
    }
}

pub struct World {
    pub plan: Plan,
    pub random: SmallRng,
    pub clock: Arc<Clock>,
    pub bus: Arc<Bus>,
    pub rows: Arc<Rows>,
    pub redis: Arc<Redis>,
    pub region: Region,
    pub session: SessionConfig,
    pub metrics: DispatcherMetrics,
    pub gateways: Vec<Gateway>,
    pub dispatchers: Vec<Dispatcher>,
    pub group: Group,
    pub second_looks: Group,
    pub clients: Vec<Client>,
    pub tally: Tally,
    pub streams: rules::StreamNames,
    pub client_settings: rules::Settings,
    pub ledger: Ledger,
    pub troubles: Troubles,
    /// Tokio's clock has no virtual time outside of its runtime: instants are counted from here.
    pub began: tokio::time::Instant,
    queue: BinaryHeap<Reverse<Planned>>,
    numbers: u64,
    jobs: BTreeMap<u64, Running>,
    story: Option<Vec<Line>>,
    pub events: u64,
}

/// A line of the story, and whom it concerns.
struct Line {
    at_ms: u64,
    user: Option<usize>,
    text: String,
}

/// One topic generation.
pub const RAW: Topic = Topic::Raw(1);
const RAW_PARTITIONS: u32 = 2;

pub fn user(number: usize) -> UserId {
    format!("u{number}").parse().expect("a user id")
}

pub fn id(number: usize) -> NotificationId {
    NotificationId(Uuid::from_u128(number as u128 + 1))
}

/// The number in the name of [`user`].
pub fn number_of(user: &UserId) -> Option<usize> {
    user.as_str().strip_prefix('u')?.parse().ok()
}

/// How a notification is called in stories.
pub fn id_name(id: NotificationId) -> String {
    format!("n{}", id.0.as_u128() - 1)
}

impl World {
    /// To its end, or to the first promise that is broken.
    pub fn run(&mut self) -> Result<(), Violation> {
        self.begin();
        while let Some(Reverse(planned)) = self.queue.pop() {
            if planned.at_ms > self.plan.ends_at_ms {
                break;
            }
            self.clock.set(planned.at_ms);
            self.events += 1;
            self.happen(planned.owner, planned.event);
            self.look_at_promises();
            if let Some(violation) = self.ledger.violation.take() {
                return Err(violation);
            }
        }
        self.look_at_the_end();
        match self.ledger.violation.take() {
            Some(violation) => Err(violation),
            None => Ok(()),
        }
    }

    pub fn new(plan: Plan) -> World {
        let clock = Arc::new(Clock::default());
        let shards = plan.gateways as u32 + 1;
        let region: Region = "local".parse().expect("a region");
        let gateway = herald::config::Gateway {
            heartbeat_ms: 5_000,
            dead_after_ms: 15_000,
            ..herald::config::Gateway::default()
        };
        let redis = Arc::new(Redis::new(clock.clone(), plan.broken));
        World {
            random: SmallRng::seed_from_u64(plan.seed ^ 0x5eed),
            bus: Arc::new(Bus::new(clock.clone(), RAW_PARTITIONS, shards)),
            rows: Arc::new(Rows::new(clock.clone())),
            redis,
            session: SessionConfig::new(&gateway, &region),
            region,
            metrics: DispatcherMetrics::new(&Metrics::default()),
            gateways: (0..plan.gateways).map(Gateway::new).collect(),
            dispatchers: (0..plan.dispatchers)
                .map(|_| Dispatcher::default())
                .collect(),
            group: Group::new(RAW_PARTITIONS),
            second_looks: Group::new(1),
            clients: (0..plan.devices.len())
                .map(|number| Client::new(number, plan.devices[number]))
                .collect(),
            tally: Tally::new(true),
            streams: rules::StreamNames::default(),
            client_settings: client::settings(),
            ledger: Ledger::new(plan.copies_bound()),
            troubles: Troubles::default(),
            began: tokio::time::Instant::now(),
            queue: BinaryHeap::new(),
            numbers: 0,
            jobs: BTreeMap::new(),
            story: None,
            events: 0,
            clock,
            plan,
        }
    }

    fn begin(&mut self) {
        for gateway in 0..self.gateways.len() {
            self.start_gateway(gateway);
        }
        for dispatcher in 0..self.dispatchers.len() {
            self.start_dispatcher(dispatcher);
        }
        self.rebalance();
        for client in 0..self.clients.len() {
            let many = self.clients.len() as u64;
            // Early enough to be connected when the first faults come, and no stampede of our own.
            let accepts_per_s = u64::from(self.plan.accepts_per_s) * self.gateways.len() as u64;
            let window_ms = (many * 1_500 / accepts_per_s).max(1_500);
            let after_ms = self.random.random_range(500..window_ms);
            self.client_later(client, after_ms, crate::client::ClientEvent::Connect);
        }
        for post in 0..self.plan.posts.len() {
            self.at(self.plan.posts[post].at_ms, Owner::World, Event::Post(post));
        }
        for fault in 0..self.plan.faults.len() {
            let at_ms = self.plan.faults[fault].at_ms;
            self.at(at_ms, Owner::World, Event::FaultBegins(fault));
        }
    }

    // ── time ───────────────────────────────────────────────────────────────────────────────────────────

    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    pub fn now(&self) -> Now {
        Now {
            mono_ms: self.now_ms(),
            unix_ms: self.clock.unix_ms(),
        }
    }

    pub fn instant(&self) -> tokio::time::Instant {
        self.began + Duration::from_millis(self.now_ms())
    }

    pub fn at(&mut self, at_ms: u64, owner: Owner, event: Event) {
        self.numbers += 1;
        self.queue.push(Reverse(Planned {
            at_ms,
            number: self.numbers,
            owner,
            event,
        }));
    }

    pub fn after(&mut self, ms: u64, owner: Owner, event: Event) {
        self.at(self.now_ms() + ms, owner, event);
    }

    // ── processes ──────────────────────────────────────────────────────────────────────────────────────

    pub fn gateway_owner(&self, gateway: usize) -> Owner {
        Owner::Gateway(gateway, self.gateways[gateway].process.life)
    }

    pub fn dispatcher_owner(&self, dispatcher: usize) -> Owner {
        Owner::Dispatcher(dispatcher, self.dispatchers[dispatcher].process.life)
    }

    fn process(&mut self, owner: Owner) -> Option<(&mut Process, u32)> {
        match owner {
            Owner::World => None,
            Owner::Gateway(number, life) => Some((&mut self.gateways[number].process, life)),
            Owner::Dispatcher(number, life) => Some((&mut self.dispatchers[number].process, life)),
        }
    }

    fn is_alive(&mut self, owner: Owner) -> bool {
        match self.process(owner) {
            Some((process, life)) => process.up && process.life == life,
            None => true,
        }
    }

    /// A process begins a life; answers how many it had.
    pub fn begins(&mut self, process: fn(&mut World, usize) -> &mut Process, number: usize) -> u32 {
        let process = process(self, number);
        process.life += 1;
        process.up = true;
        process.stopped = false;
        process.held_back.clear();
        process.life
    }

    pub fn kill(&mut self, owner: Owner) {
        if let Some((process, _)) = self.process(owner) {
            process.up = false;
            process.held_back.clear();
        }
        let (died, live): (BTreeMap<u64, Running>, BTreeMap<u64, Running>) =
            std::mem::take(&mut self.jobs)
                .into_iter()
                .partition(|(_, running)| running.runs_on == owner);
        self.jobs = live;
        for running in died.into_values() {
            if let (Some(lost), false) = (running.lost, running.abandoned) {
                let after_ms = self.random.random_range(1..50);
                self.after(after_ms, running.told, Event::Done(Box::new(lost)));
            }
        }
    }

    pub fn stop(&mut self, owner: Owner, stopped: bool) {
        let held_back = match self.process(owner) {
            Some((process, _)) => {
                process.stopped = stopped;
                match stopped {
                    true => Vec::new(),
                    false => std::mem::take(&mut process.held_back),
                }
            }
            None => Vec::new(),
        };
        for (owner, event) in held_back {
            self.after(0, owner, event);
        }
    }

    // ── calls ──────────────────────────────────────────────────────────────────────────────────────────

    /// Runs a call on a process and tells its end to another; both may be the same.
    pub fn call(&mut self, runs_on: Owner, told: Owner, lost: Option<Done>, job: Job) -> u64 {
        self.numbers += 1;
        let number = self.numbers;
        let running = Running {
            job,
            runs_on,
            told,
            lost,
            abandoned: false,
        };
        self.jobs.insert(number, running);
        let way_ms = match runs_on == told {
            true => 0,
            false => self.random.random_range(1..5),
        };
        self.after(way_ms, runs_on, Event::Poll(number));
        number
    }

    fn poll(&mut self, number: u64) {
        let Some(running) = self.jobs.get_mut(&number) else {
            return;
        };
        let mut context = Context::from_waker(Waker::noop());
        let polled = running.job.as_mut().poll(&mut context);
        let wait = self.clock.take_wait();
        match polled {
            Poll::Pending => {
                let part = wait.expect("a call waits for a part of the world");
                let runs_on = running.runs_on;
                let way_ms = self.way_ms(part);
                self.after(way_ms, runs_on, Event::Poll(number));
            }
            Poll::Ready(done) => {
                let running = self.jobs.remove(&number).expect("it was polled");
                if !running.abandoned {
                    self.after(0, running.told, Event::Done(Box::new(done)));
                }
            }
        }
        self.notice_growth();
    }

    /// Most answers are quick; some are not.
    fn way_ms(&mut self, part: Part) -> u64 {
        let usual = match part {
            Part::Registry => 1..4,
            Part::Bus => 1..10,
            Part::Store => 1..6,
        };
        match self.random.random_ratio(1, self.plan.slow_one_in) {
            true => self.random.random_range(20..400),
            false => self.random.random_range(usual),
        }
    }

    /// Whoever reads what has grown looks at it.
    pub fn notice_growth(&mut self) {
        for at in self.bus.take_grown() {
            let after_ms = self.random.random_range(1..20);
            match at.topic {
                RAW => self.after(after_ms, Owner::World, Event::Route(at.partition)),
                Topic::Delivery => self.after(after_ms, Owner::World, Event::LookAgain),
                Topic::InApp | Topic::Critical | Topic::Broadcast => {
                    self.ledger.produced(&self.bus, at);
                    for gateway in 0..self.gateways.len() {
                        let owner = self.gateway_owner(gateway);
                        let read = GatewayEvent::Read(at);
                        self.after(after_ms, owner, Event::Gateway(read));
                    }
                }
                _ => {}
            }
        }
    }

    // ── events ─────────────────────────────────────────────────────────────────────────────────────────

    fn happen(&mut self, owner: Owner, event: Event) {
        if !self.is_alive(owner) {
            return;
        }
        if let Some((process, _)) = self.process(owner)
            && process.stopped
        {
            process.held_back.push((owner, event));
            return;
        }
        match event {
            Event::Poll(job) => self.poll(job),
            Event::Done(done) => match *done {
                Done::Gateway(done) => self.gateway_done(owner, done),
                Done::Dispatcher(done) => self.dispatcher_done(owner, done),
            },
            Event::Timeout(job) => {
                if let Some(running) = self.jobs.get_mut(&job)
                    && !running.abandoned
                {
                    running.abandoned = true;
                    if let Some(lost) = running.lost.take() {
                        self.after(0, owner, Event::Done(Box::new(lost)));
                    }
                }
            }
            Event::Post(post) => self.post(post),
            Event::Expected(post) => self.expected(post),
            Event::FaultBegins(fault) => self.fault_begins(fault),
            Event::FaultEnds(fault) => self.fault_ends(fault),
            Event::Restart(Owner::Gateway(gateway, life)) => {
                if self.gateways[gateway].process.life == life {
                    self.trouble_ends();
                    self.start_gateway(gateway);
                }
            }
            Event::Restart(Owner::Dispatcher(dispatcher, life)) => {
                if self.dispatchers[dispatcher].process.life == life {
                    self.trouble_ends();
                    self.start_dispatcher(dispatcher);
                }
            }
            Event::Restart(Owner::World) => {}
            Event::Route(partition) => self.route(partition),
            Event::Rebalance => self.rebalance(),
            Event::LookAgain => self.second_look(),
            Event::Sweep => self.sweep(owner),
            Event::Look => self.look_at_shards(owner),
            Event::Gateway(event) => self.gateway_event(owner, event),
            Event::Conn(event) => self.conn_event(owner, event),
            Event::Client(client, generation, event) => {
                self.client_event(client, generation, event);
            }
        }
    }

    fn post(&mut self, number: usize) {
        let post = self.plan.posts[number];
        let user = user(post.user);
        let content = Content {
            notification_type: "simulated".into(),
            priority: Priority::Normal,
            channels: vec![Channel::InApp],
            title: None,
            body: None,
            data: None,
            push: None,
            collapse_key: post.collapses.then(|| "key".to_owned()),
            tags: Vec::new(),
            ttl_s: None,
            producer: "simulation".into(),
        };
        let head = Head {
            kind: Kind::Notification,
            id: id(number),
            created_ms: self.clock.unix_ms(),
            expires_ms: None,
            priority: match post.critical {
                true => Priority::Critical,
                false => Priority::Normal,
            },
            region: self.region.to_string(),
            again: false,
        };
        let value = serde_json::to_vec(&content).expect("plain data");
        let record = head.into_record(user.as_str().as_bytes().to_vec(), value);
        let (at, offset) = self.bus.append(Target::Keyed(RAW), record);
        self.ledger.accepted.push((user, id(number)));
        self.tell(Some(post.user), || {
            format!(
                "n{number} for u{} is accepted: raw {}/{offset}",
                post.user, at.partition
            )
        });
        self.notice_growth();
        self.after(IN_CALM_MS, Owner::World, Event::Expected(number));
    }

    pub fn link(&self, holder: String) -> Arc<Link> {
        Arc::new(Link::new(self.redis.clone(), holder))
    }

    // ── the story ──────────────────────────────────────────────────────────────────────────────────────

    pub fn keep_story(&mut self) {
        self.story = Some(Vec::new());
    }

    pub fn tell(&mut self, user: Option<usize>, text: impl FnOnce() -> String) {
        let at_ms = self.now_ms();
        if let Some(story) = &mut self.story {
            let text = text();
            story.push(Line { at_ms, user, text });
        }
    }

    pub fn story_of(&self, violation: &Violation) -> Vec<String> {
        let story = self.story.iter().flatten();
        let concerns = |line: &&Line| line.user.is_none() || line.user == violation.user;
        story
            .filter(concerns)
            .map(|line| format!("{:>9.3} s  {}", line.at_ms as f64 / 1_000.0, line.text))
            .collect()
    }

    fn look_at_promises(&mut self) {
        for deed in self.redis.take_deeds() {
            self.tell(None, || match &deed {
                Deed::GaveGateway(owner) => format!("the registry grants {owner}"),
                Deed::GaveShard(shard, epoch, holder) => {
                    format!("the registry grants shard {shard} at epoch {epoch} to {holder}")
                }
                Deed::SweptLiving(owner, lost) => format!("a sweep takes {lost} users of {owner}"),
            });
            self.ledger.did(deed);
        }
    }
}
