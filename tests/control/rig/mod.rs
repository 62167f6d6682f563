//! One gateway's control side, its cores played by the test.

mod bus;
mod core;
mod parts;

use self::bus::LosesCommits;
pub use self::{
    core::Core,
    parts::{Dispatcher, Faulty},
};
use bytes::Bytes;
use herald::{
    bus::{
        Bus, Record, SharedBus, Start, Target, Topic, TopicPartition,
        embedded::{EmbeddedBus, Options},
    },
    config::{Admin, Drain, Gateway, Grpc, Node, Shard},
    control::{
        Control, ControlError, Pace, Parts,
        upstream::{SharedUpstream, SyncReply},
    },
    envelope::{Fate, Head, Kind, Priority, Routed},
    gateway::{canary::CanaryPass, mailbox::ConnectionNames, queues},
    ids::NotificationId,
    limits,
    metrics::Metrics,
    position::{Cursors, Position},
    registry::{GatewayLease, Registry, Timings, embedded::EmbeddedRegistry},
};
use parking_lot::Mutex;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
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

/// What a rig is made of; tests change it before it starts.
pub struct Setup {
    pub id: &'static str,
    pub cores: usize,
    pub shard: Shard,
    pub drain: Drain,
    pub timings: Timings,
    pub grpc: Option<Grpc>,
    /// Parts shared with another rig.
    pub shared: Option<Shared>,
    pub dispatcher_away: bool,
    pub registry_away: bool,
    pub leases_cached: Duration,
    pub removal_after: Duration,
    pub anti_entropy: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            id: "gw-1",
            cores: 1,
            shard: Shard::Auto,
            drain: Drain {
                grace_ms: 20,
                window_ms: 50,
                deadline_ms: 60_000,
            },
            timings: Timings {
                lease_ms: 2_000,
                sweep_after_ms: 2_000,
                claimable_after_ms: 0,
                finish_after_ms: 0,
                leases_cached_ms: 0,
            },
            grpc: None,
            shared: None,
            dispatcher_away: false,
            registry_away: false,
            leases_cached: Duration::ZERO,
            removal_after: Duration::from_millis(320),
            anti_entropy: limits::ANTI_ENTROPY,
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
    /// The next commit of a shard's reader is lost on its way.
    pub loses_commit: Arc<AtomicBool>,
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
            incarnation: AtomicU64::new(0),
            compared: AtomicU64::new(0),
        });
        let loses_commit = Arc::new(AtomicBool::new(false));
        let dispatcher = Arc::new(Dispatcher {
            journal: journal.clone(),
            reported: Mutex::default(),
            away: AtomicBool::new(setup.dispatcher_away),
            slow: Default::default(),
            batches: Mutex::default(),
            busy: Default::default(),
            shard_epoch: Mutex::default(),
            has_registry: Default::default(),
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
        let names = ConnectionNames::new(setup.id.parse().unwrap(), 7);
        let canary = Arc::new(CanaryPass::generate(loopback));
        let (link, inbox) =
            queues::control_ends(wirings, loopback, Vec::new(), names, canary, Arc::default());
        let metrics = Metrics::default();
        let upstream: SharedUpstream = dispatcher.clone();
        let parts = Parts {
            node: Node::default(),
            gateway: Gateway {
                id: setup.id.parse().unwrap(),
                shard: setup.shard,
                ..Gateway::default()
            },
            drain: setup.drain,
            admin: Admin { listen: loopback },
            grpc: setup.grpc,
            pace: Pace {
                renew: Duration::from_millis(50),
                leases_cached: setup.leases_cached,
                removal_after: setup.removal_after,
                anti_entropy: setup.anti_entropy,
                // Its cores are the test's: nobody there answers a probe.
                probe: Duration::from_secs(3_600),
            },
            bus: Arc::new(LosesCommits {
                real: shared.bus.clone(),
                next: loses_commit.clone(),
            }),
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
            loses_commit,
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
        let group = format!("shard.{partition}");
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
