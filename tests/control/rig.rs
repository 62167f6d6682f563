//! One gateway's control side, its cores played by the test.

use async_trait::async_trait;
use bytes::Bytes;
use herald::{
    bus::{
        Bus, Record, SharedBus, Start, Target, Topic, TopicPartition,
        embedded::{EmbeddedBus, Options},
    },
    config::{Admin, Drain, Gateway, Grpc, Node},
    control::{
        Control, ControlError, Pace, Parts,
        upstream::{Accepted, SharedUpstream, SyncReply, Upstream, UpstreamError},
    },
    envelope::{Fate, Head, Kind, Outcome, Priority, Routed},
    gateway::{
        mailbox::{ConnId, Delivery, FromCore, ToCore},
        queues::{self, Mail},
    },
    ids::{GatewayEpoch, GatewayId, NotificationId, UserId},
    metrics::Metrics,
    position::{Cursors, Position},
    registry::{
        GatewayInfo, GatewayLease, Registration, Registry, RegistryError, Route, ShardClaim,
        ShardLease, Swept, Timings, embedded::EmbeddedRegistry,
    },
};
use parking_lot::Mutex;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Polls until there is an answer; a loaded machine is slow, so the deadline is generous.
pub async fn until<T>(what: &str, mut answer: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(answer) = answer().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited too long for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What happened outside control, in order.
pub type Journal = Arc<Mutex<Vec<String>>>;

/// The dispatcher a test plays.
pub struct Dispatcher {
    journal: Journal,
    pub reported: Mutex<Vec<Outcome>>,
    pub away: AtomicBool,
    pub shard_epoch: Mutex<Option<u64>>,
    pub reply: Mutex<SyncReply>,
}

#[async_trait]
impl Upstream for Dispatcher {
    async fn report(
        &self,
        _: &GatewayEpoch,
        _: Option<u32>,
        outcomes: Vec<Outcome>,
    ) -> Result<Accepted, UpstreamError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(UpstreamError::Unavailable("a test says so".into()));
        }
        self.reported.lock().extend(outcomes);
        Ok(Accepted {
            shard_epoch: *self.shard_epoch.lock(),
        })
    }

    async fn sync(&self, user: &UserId, _: Cursors, _: usize) -> Result<SyncReply, UpstreamError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(UpstreamError::Unavailable("a test says so".into()));
        }
        self.journal.lock().push(format!("sync {user}"));
        Ok(self.reply.lock().clone())
    }

    fn healthy(&self) -> bool {
        !self.away.load(Ordering::Relaxed)
    }
}

/// The embedded registry, that a test can make slow, or unreachable.
pub struct Faulty {
    pub real: Arc<EmbeddedRegistry>,
    journal: Journal,
    pub away: AtomicBool,
    pub slow: AtomicBool,
}

impl Faulty {
    async fn gate(&self) -> Result<(), RegistryError> {
        while self.slow.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        match self.away.load(Ordering::Relaxed) {
            true => Err(RegistryError::Unavailable("a test says so".into())),
            false => Ok(()),
        }
    }

    fn note(&self, what: &str, users: &[Registration]) {
        let mut journal = self.journal.lock();
        journal.extend(users.iter().map(|entry| format!("{what} {}", entry.user)));
    }
}

#[async_trait]
impl Registry for Faulty {
    async fn acquire_gateway(
        &self,
        id: &GatewayId,
        holder: &str,
        info: &GatewayInfo,
    ) -> Result<GatewayEpoch, RegistryError> {
        self.gate().await?;
        self.real.acquire_gateway(id, holder, info).await
    }
    async fn renew_gateway(
        &self,
        owner: &GatewayEpoch,
        holder: &str,
        info: &GatewayInfo,
    ) -> Result<(), RegistryError> {
        self.gate().await?;
        self.real.renew_gateway(owner, holder, info).await
    }
    async fn release_gateway(&self, owner: &GatewayEpoch) -> Result<(), RegistryError> {
        self.journal.lock().push("release gateway".into());
        self.real.release_gateway(owner).await
    }
    async fn claim_shard(
        &self,
        owner: &GatewayEpoch,
        claim: ShardClaim,
    ) -> Result<ShardLease, RegistryError> {
        self.gate().await?;
        self.real.claim_shard(owner, claim).await
    }
    async fn renew_shard(&self, lease: &ShardLease) -> Result<(), RegistryError> {
        self.gate().await?;
        self.real.renew_shard(lease).await
    }
    async fn release_shard(&self, lease: &ShardLease) -> Result<(), RegistryError> {
        self.journal.lock().push("release shard".into());
        self.real.release_shard(lease).await
    }
    async fn gateways(&self) -> Result<Vec<GatewayLease>, RegistryError> {
        self.real.gateways().await
    }
    async fn shards(&self, count: u32) -> Result<Vec<ShardLease>, RegistryError> {
        self.real.shards(count).await
    }
    async fn register(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<(), RegistryError> {
        self.gate().await?;
        self.real.register(owner, users).await?;
        self.note("registered", users);
        Ok(())
    }
    async fn unregister(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<(), RegistryError> {
        self.gate().await?;
        self.real.unregister(owner, users).await?;
        self.note("unregistered", users);
        Ok(())
    }
    async fn lookup(&self, users: &[UserId]) -> Result<Vec<Vec<Route>>, RegistryError> {
        self.real.lookup(users).await
    }
    async fn missing(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<Vec<Registration>, RegistryError> {
        self.gate().await?;
        self.real.missing(owner, users).await
    }
    async fn sweep(&self, budget: usize) -> Result<Swept, RegistryError> {
        self.real.sweep(budget).await
    }
    fn healthy(&self) -> bool {
        !self.away.load(Ordering::Relaxed)
    }
    fn incarnation(&self) -> u64 {
        0
    }
}

/// A core played by the test: takes messages when asked to, says what it is told to say.
pub struct Core {
    number: u16,
    mail: Mutex<Mail>,
    seen: Mutex<Vec<ToCore>>,
}

impl Core {
    pub fn say(&self, message: FromCore) {
        let mut mail = self.mail.lock();
        mail.tell(message);
        assert!(mail.hand_over(), "control does not listen");
    }

    pub fn conn(&self, slot: u32) -> ConnId {
        ConnId {
            slot,
            core: self.number,
            reuse: 0,
        }
    }

    pub fn open(&self, slot: u32, user: &str, cursors: Option<Cursors>) -> ConnId {
        let conn = self.conn(slot);
        self.say(FromCore::Opened {
            conn,
            user: user.parse().unwrap(),
            cursors,
        });
        conn
    }

    pub fn fate(&self, ticket: u64, fate: Fate, devices: u32) {
        self.say(FromCore::Fate {
            ticket,
            fate,
            devices,
        });
    }

    /// The first message `pick` wants; those before it are dropped, those after it wait.
    pub async fn expect<T>(&self, what: &str, mut pick: impl FnMut(&ToCore) -> Option<T>) -> T {
        until(what, async || {
            let mut seen = self.seen.lock();
            seen.extend(std::iter::from_fn(|| self.mail.lock().receive()));
            while !seen.is_empty() {
                let message = seen.remove(0);
                if let Some(found) = pick(&message) {
                    return Some(found);
                }
            }
            None
        })
        .await
    }

    /// Everything that has come and was not looked at.
    pub fn take(&self) -> Vec<ToCore> {
        let mut seen = std::mem::take(&mut *self.seen.lock());
        seen.extend(std::iter::from_fn(|| self.mail.lock().receive()));
        seen
    }

    /// The next deliveries.
    pub async fn deliveries(&self) -> Vec<(u64, NotificationId, Vec<ConnId>)> {
        self.expect("deliveries", |message| match message {
            ToCore::Deliver(deliveries) => Some(deliveries.iter().map(summary).collect()),
            _ => None,
        })
        .await
    }

    /// Deliveries until `count` have come; each one's ticket and id.
    pub async fn delivered(&self, count: usize) -> Vec<(u64, NotificationId, Vec<ConnId>)> {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(self.deliveries().await);
        }
        all
    }

    /// The answer to a catch-up: whether it was complete, and the frame.
    pub async fn synced(&self, conn: ConnId) -> (bool, serde_json::Value) {
        self.expect("a sync answer", |message| match message {
            ToCore::Synced {
                conn: to,
                frame,
                complete,
                ..
            } if *to == conn => Some((*complete, serde_json::from_slice(frame).unwrap())),
            _ => None,
        })
        .await
    }

    pub async fn behind(&self, conn: ConnId) {
        self.expect("behind", |message| match message {
            ToCore::Behind { conn: to, .. } if *to == conn => Some(()),
            _ => None,
        })
        .await;
    }
}

fn summary(delivery: &Delivery) -> (u64, NotificationId, Vec<ConnId>) {
    (delivery.ticket, delivery.item.id, delivery.conns.to_vec())
}

/// What a rig is made of; tests change it before it starts.
pub struct Setup {
    pub id: &'static str,
    pub cores: usize,
    pub drain: Drain,
    pub timings: Timings,
    pub grpc: Option<Grpc>,
    /// Parts shared with another rig.
    pub shared: Option<Shared>,
    pub dispatcher_away: bool,
    pub registry_away: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            id: "gw-1",
            cores: 1,
            drain: Drain {
                grace_ms: 20,
                window_ms: 50,
            },
            timings: Timings {
                lease_ms: 2_000,
                sweep_after_ms: 2_000,
                claimable_after_ms: 0,
                leases_cached_ms: 0,
            },
            grpc: None,
            shared: None,
            dispatcher_away: false,
            registry_away: false,
        }
    }
}

#[derive(Clone)]
pub struct Shared {
    _dir: Arc<tempfile::TempDir>,
    pub bus: Arc<EmbeddedBus>,
    pub registry: Arc<EmbeddedRegistry>,
}

impl Shared {
    pub fn new(timings: Timings) -> Shared {
        let dir = tempfile::tempdir().unwrap();
        let bus = EmbeddedBus::open(dir.path(), Options::default(), &Metrics::default()).unwrap();
        Shared {
            _dir: Arc::new(dir),
            bus: Arc::new(bus),
            registry: Arc::new(EmbeddedRegistry::new(timings)),
        }
    }
}

pub struct Rig {
    pub shared: Shared,
    pub registry: Arc<Faulty>,
    pub dispatcher: Arc<Dispatcher>,
    pub cores: Vec<Core>,
    pub journal: Journal,
    pub metrics: Metrics,
    pub admin: SocketAddr,
    pub grpc: Option<SocketAddr>,
    pub shutdown: CancellationToken,
    pub now: CancellationToken,
    pub running: JoinHandle<Result<(), ControlError>>,
}

impl Rig {
    /// Started and ready.
    pub async fn ready() -> Rig {
        Rig::ready_with(Setup::default()).await
    }

    pub async fn ready_with(setup: Setup) -> Rig {
        let rig = Rig::start(setup).await;
        rig.until_ready().await;
        rig
    }

    pub async fn start(setup: Setup) -> Rig {
        let shared = setup.shared.unwrap_or_else(|| Shared::new(setup.timings));
        let journal = Journal::default();
        let registry = Arc::new(Faulty {
            real: shared.registry.clone(),
            journal: journal.clone(),
            away: AtomicBool::new(setup.registry_away),
            slow: AtomicBool::new(false),
        });
        let dispatcher = Arc::new(Dispatcher {
            journal: journal.clone(),
            reported: Mutex::default(),
            away: AtomicBool::new(setup.dispatcher_away),
            shard_epoch: Mutex::default(),
            reply: Mutex::new(SyncReply {
                recovered: true,
                ..SyncReply::default()
            }),
        });
        let wirings = queues::wire(setup.cores).unwrap();
        let cores = (0..)
            .zip(&wirings)
            .map(|(number, wiring)| Core {
                number,
                mail: Mutex::new(wiring.enter().unwrap().0),
                seen: Mutex::default(),
            })
            .collect();
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let (link, inbox) = queues::control_ends(wirings, loopback, Vec::new());
        let metrics = Metrics::default();
        let upstream: SharedUpstream = dispatcher.clone();
        let parts = Parts {
            node: Node::default(),
            gateway: Gateway {
                id: setup.id.parse().unwrap(),
                ..Gateway::default()
            },
            drain: setup.drain,
            admin: Admin {
                listen: loopback,
                token_file: None,
            },
            grpc: setup.grpc,
            pace: Pace {
                renew: Duration::from_millis(50),
                removal_after: Duration::from_millis(320),
            },
            bus: shared.bus.clone(),
            registry: registry.clone(),
            upstream,
            cores: link,
            inbox,
            metrics: metrics.clone(),
        };
        let control = Control::open(parts).await.unwrap();
        let (shutdown, now) = (CancellationToken::new(), CancellationToken::new());
        Rig {
            admin: control.admin_addr().unwrap(),
            grpc: control.grpc_addr().unwrap(),
            running: tokio::spawn(control.run(shutdown.clone(), now.clone())),
            shared,
            registry,
            dispatcher,
            cores,
            journal,
            metrics,
            shutdown,
            now,
        }
    }

    pub fn core(&self) -> &Core {
        &self.cores[0]
    }

    pub async fn status(&self) -> (u16, serde_json::Value) {
        self.ask("readyz").await
    }

    pub async fn ask(&self, path: &str) -> (u16, serde_json::Value) {
        let response = reqwest::get(format!("http://{}/{path}", self.admin))
            .await
            .unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    pub async fn until_ready(&self) {
        until("readiness", async || {
            (self.status().await.0 == 200).then_some(())
        })
        .await;
    }

    pub async fn until_not_ready(&self, reason: &str) {
        until(reason, async || {
            let (code, body) = self.status().await;
            (code == 503 && body["reasons"].get(reason).is_some()).then_some(())
        })
        .await;
    }

    /// The one gateway's lease.
    pub async fn lease(&self) -> GatewayLease {
        self.shared.registry.gateways().await.unwrap().remove(0)
    }

    /// Produces to this gateway's partition.
    pub async fn route(&self, topic: Topic, records: Vec<Record>) -> Vec<u64> {
        let partition = self.lease().await.info.shard.unwrap();
        let at = TopicPartition { topic, partition };
        let records = records
            .into_iter()
            .map(|record| (Target::Exact(at), record));
        let places = self.shared.bus.produce(records.collect()).await.unwrap();
        places.into_iter().map(|(_, offset)| offset).collect()
    }

    pub async fn committed(&self, topic: Topic) -> Option<u64> {
        let partition = self.lease().await.info.shard.unwrap();
        let group = format!("notifications.shard.{partition}");
        let at = TopicPartition { topic, partition };
        self.shared.bus.committed(&group, at).await.unwrap()
    }

    pub async fn until_committed(&self, topic: Topic, next: u64) {
        until("a commit", async || {
            (self.committed(topic).await == Some(next)).then_some(())
        })
        .await;
    }

    /// Outcomes of one notification, as far as they were reported.
    pub fn fates(&self, id: NotificationId) -> Vec<(Fate, u32)> {
        let reported = self.dispatcher.reported.lock();
        let of = reported.iter().filter(|outcome| outcome.id == id);
        of.map(|outcome| (outcome.fate, outcome.devices)).collect()
    }

    pub async fn until_fates(&self, id: NotificationId, fates: &[(Fate, u32)]) {
        until("outcomes", async || (self.fates(id) == fates).then_some(())).await;
    }

    /// Everything on a topic.
    pub async fn read_all(&self, topic: Topic) -> Vec<Record> {
        read_all(&self.shared.bus, topic).await
    }

    /// A metric's value, labels included in the name.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.metrics.render();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("herald_{name} ")));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    pub async fn leave(self) {
        self.now.cancel();
        self.running.await.unwrap().unwrap();
    }
}

async fn read_all(bus: &Arc<EmbeddedBus>, topic: Topic) -> Vec<Record> {
    let bus: SharedBus = bus.clone();
    let mut records = Vec::new();
    for partition in 0..bus.partitions(topic).await.unwrap() {
        let at = TopicPartition { topic, partition };
        let end = bus.end(at).await.unwrap();
        let mut next = 0;
        let mut consumer = bus.assign("test", &[(at, Start::At(0))]).await.unwrap();
        while next < end {
            let polled = consumer
                .poll(100, Duration::from_millis(100))
                .await
                .unwrap();
            if let herald::bus::Polled::Records(read) = polled {
                next = read.last().unwrap().offset + 1;
                records.extend(read.into_iter().map(|consumed| consumed.record));
            }
        }
    }
    records
}

pub fn routed(user: &str, offset: u64) -> Routed {
    Routed {
        head: Head {
            kind: Kind::Notification,
            id: NotificationId::generate(),
            created_ms: 5,
            expires_ms: None,
            priority: Priority::Normal,
            region: "local".into(),
            again: false,
        },
        user: Some(user.parse().unwrap()),
        stream: "user:local".into(),
        pos: position(offset),
        prev: Position::START,
        collapse_key: None,
        answered: Vec::new(),
        frame: Bytes::from_static(br#"{"type":"notification"}"#),
    }
}

pub fn position(offset: u64) -> Position {
    Position::new(1, offset).unwrap()
}

pub fn cursors(offset: u64) -> Cursors {
    [("user:local".to_owned(), position(offset))].into()
}
