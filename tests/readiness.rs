//! Readiness means that this host delivers: on a real fleet a part of each gateway is wedged, which takes
//! that gateway out, by name; then everything the gateways share goes away, which takes none of them out.

use futures::{Stream, StreamExt};
use herald::{
    api::{OutcomeBatch, OutcomeReply, SyncReply, SyncRequest, dispatcher_server},
    bus::{Bus, Topic, TopicPartition, kafka::KafkaBus, shard_group},
    config,
    ids::Namespace,
    metrics::Metrics,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use testbed::{
    Fleet,
    api::sum_of,
    kafka::{self, KafkaBroker},
    proxy::{Line, TcpProxy},
    threads::{self, Stopped},
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// A fault is seen within 15 s; a loaded machine takes longer for everything.
const WAIT: Duration = Duration::from_secs(60);
/// Longer than any leg of a round may stand still.
const OUTAGE: Duration = Duration::from_secs(16);
/// What only the gateway itself can be the cause of.
const LOCAL: [&str; 4] = ["core", "consumer", "outcome_stream", "cut_off"];

/// A dispatcher that, once told to, answers no batch with outcomes in it; all else it answers.
#[derive(Clone, Default)]
struct Stalling(Arc<AtomicBool>);

#[tonic::async_trait]
impl dispatcher_server::Dispatcher for Stalling {
    type OutcomesStream = Pin<Box<dyn Stream<Item = Result<OutcomeReply, Status>> + Send>>;

    async fn outcomes(
        &self,
        request: Request<Streaming<OutcomeBatch>>,
    ) -> Result<Response<Self::OutcomesStream>, Status> {
        let stalls = self.0.clone();
        let replies = request.into_inner().filter_map(move |batch| {
            let stalled =
                |batch: &OutcomeBatch| stalls.load(Ordering::Relaxed) && !batch.outcomes.is_empty();
            let reply = match batch {
                Ok(batch) if stalled(&batch) => None,
                Ok(batch) => Some(Ok(OutcomeReply {
                    sequence: batch.sequence,
                    shard_epoch: 0,
                    has_registry: true,
                    v: 1,
                })),
                Err(status) => Some(Err(status)),
            };
            std::future::ready(reply)
        });
        Ok(Response::new(Box::pin(replies)))
    }

    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<SyncReply>, Status> {
        Ok(Response::new(SyncReply {
            cursors: request.into_inner().cursors,
            recovered: true,
            ..SyncReply::default()
        }))
    }

    type SyncsStream = tokio_stream::Empty<Result<SyncReply, Status>>;

    async fn syncs(
        &self,
        _: Request<Streaming<SyncRequest>>,
    ) -> Result<Response<Self::SyncsStream>, Status> {
        Err(Status::unimplemented("of an earlier release"))
    }
}

impl Stalling {
    /// Its address.
    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = dispatcher_server::DispatcherServer::new(self.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    fn stall(&self, stalls: bool) {
        self.0.store(stalls, Ordering::Relaxed);
    }
}

/// What `/readyz` of a gateway says: the status, and each cause with its text.
async fn readiness(fleet: &Fleet, gateway: usize) -> Option<(u16, BTreeMap<String, String>)> {
    let (status, body) = fleet.readyz(fleet.gateways[gateway].admin_port).await?;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let key = if status == 200 { "degraded" } else { "reasons" };
    let causes = serde_json::from_value(body[key].clone()).expect("causes");
    Some((status, causes))
}

/// Waits until a gateway is not ready for one reason, and answers what it says of it.
async fn taken_out(fleet: &Fleet, gateway: usize, cause: &str) -> String {
    let (mut said, wedged) = (String::new(), Instant::now());
    fleet
        .eventually(&format!("not ready: {cause}"), WAIT, async || {
            let Some((503, causes)) = readiness(fleet, gateway).await else {
                return 1;
            };
            let others = LOCAL.iter().filter(|other| **other != cause);
            let blamed: Vec<_> = others
                .filter(|other| causes.contains_key(**other))
                .collect();
            assert!(blamed.is_empty(), "{causes:?}");
            said = causes.get(cause).cloned().unwrap_or_default();
            usize::from(said.is_empty())
        })
        .await;
    println!(
        "not ready {:?} after it was wedged: {said}",
        wedged.elapsed()
    );
    said
}

async fn whole(fleet: &Fleet) {
    fleet
        .eventually("all well", WAIT, async || {
            let mut unwell = 0;
            for gateway in 0..fleet.gateways.len() {
                let answer = readiness(fleet, gateway).await;
                let is_well = matches!(answer, Some((200, causes)) if causes.is_empty());
                unwell += usize::from(!is_well);
            }
            unwell
        })
        .await;
}

/// How long ago a probe went round, by core.
async fn ages(fleet: &Fleet, gateway: usize) -> Vec<f64> {
    let metrics = fleet.api.metrics(fleet.gateways[gateway].admin_port).await;
    let lines = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("herald_canary_age_seconds{core=\""));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
        .collect()
}

/// Three gateways, the first with a way of its own to Redis, the third with a dispatcher of the test's. Answers the
/// threads by which the second reads its shard: those that were not there while it waited for one.
async fn start(broker: &KafkaBroker, played: &Stalling) -> (Fleet, TcpProxy, Vec<i32>) {
    let mut fleet = Fleet::prepare_on(broker.brokers(), 1, 3, &[]);
    fleet.apply_topics();
    let to_redis = TcpProxy::start(SocketAddr::from(([127, 0, 0, 1], fleet.redis.port()))).await;
    let url = format!("redis://127.0.0.1:{}", to_redis.port());
    fleet.gateways[0].process.set("redis.url", &url);
    let dispatchers = format!("[\"{}\"]", played.serve().await);
    let third = &mut fleet.gateways[2].process;
    *third = third.twin(&[("dispatchers.addresses", &dispatchers)]);
    fleet.dispatchers[0].process.start();
    for gateway in &mut fleet.gateways {
        gateway.process.start();
    }
    let (pid, admin_port) = (
        fleet.gateways[1].process.pid(),
        fleet.gateways[1].admin_port,
    );
    let mut before = Vec::new();
    fleet
        .eventually("it has a shard", WAIT, async || {
            let now = threads::named(pid, "rdk:");
            match fleet.api.admin(admin_port, "metrics").await {
                Some((_, metrics)) if !metrics.contains("herald_shard -1\n") => return 0,
                _ => before = now,
            }
            1
        })
        .await;
    fleet.ready().await;
    let mut readers = threads::named(pid, "rdk:");
    readers.retain(|thread| !before.contains(thread));
    let readers = readers.into_iter().map(|(id, _)| id).collect();
    (fleet, to_redis, readers)
}

/// When everything that was appended is committed: a reader whose commit fails begins anew, with threads that
/// do not stand still.
async fn stop_readers(fleet: &Fleet, readers: &[i32]) -> Stopped {
    let namespace: Namespace = fleet.namespace.parse().expect("a label");
    let kafka = config::Kafka {
        brokers: fleet.brokers.clone(),
        ..config::Kafka::default()
    };
    let bus = KafkaBus::connect(&kafka, &namespace, &Metrics::default()).expect("it connects");
    let metrics = fleet.api.metrics(fleet.gateways[1].admin_port).await;
    let partition = sum_of(&metrics, "herald_shard ") as u32;
    let group = shard_group(partition);
    let read_to = async || {
        let mut ends = Vec::new();
        for topic in [Topic::Critical, Topic::InApp] {
            let at = TopicPartition { topic, partition };
            let end = bus.end(at).await.ok()?;
            let committed = bus.committed(&group, at).await.ok()??;
            ends.push((committed == end).then_some(end)?);
        }
        Some(ends)
    };
    let deadline = Instant::now() + WAIT;
    loop {
        assert!(Instant::now() < deadline, "it is never read to its end");
        let Some(before) = read_to().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let stopped = Stopped::stop(readers.to_vec());
        // Otherwise the next round began before they stood still.
        if read_to().await == Some(before) {
            return stopped;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wedged_part_takes_its_gateway_out_by_name_and_a_missing_shared_part_takes_out_none() {
    let broker = tokio::task::spawn_blocking(KafkaBroker::start)
        .await
        .unwrap();
    let played = Stalling::default();
    let (mut fleet, to_redis, readers) = start(&broker, &played).await;
    whole(&fleet).await;
    fleet
        .eventually("rounds by every core", WAIT, async || {
            let mut old = 0;
            for gateway in 0..3 {
                let ages = ages(&fleet, gateway).await;
                assert_eq!(ages.len(), 2, "one for each core");
                old += ages.iter().filter(|age| **age > 5.0).count();
            }
            old
        })
        .await;
    nobody_is_counted(&fleet).await;

    wedge_each(&fleet, &readers, &played).await;
    cut_off_one(&fleet, &to_redis).await;
    lose_what_is_shared(&mut fleet, &broker).await;
    lose_a_topic(&fleet).await;
}

async fn nobody_is_counted(fleet: &Fleet) {
    for gateway in &fleet.gateways {
        let metrics = fleet.api.metrics(gateway.admin_port).await;
        for name in [
            "herald_connections{core=\"0\"}",
            "herald_connections{core=\"1\"}",
            "herald_connections_open",
            "herald_users",
            "herald_accepted_total",
            "herald_sent_total",
            "herald_received_total",
            "herald_registrations_total",
        ] {
            let none = format!("{name} 0\n");
            assert!(metrics.contains(&none), "{name}\n{metrics}");
        }
        let log = gateway.process.log();
        assert!(!log.contains("canary"), "it has nothing to say\n{log}");
    }
}

/// A core of the first gateway, the reader of the second and the outcome stream of the third, at once.
async fn wedge_each(fleet: &Fleet, readers: &[i32], played: &Stalling) {
    let core = threads::named(fleet.gateways[0].process.pid(), "core-0");
    let core = Stopped::stop(core.into_iter().map(|(id, _)| id).collect());
    played.stall(true);
    let readers = stop_readers(fleet, readers).await;
    let said = tokio::join!(
        taken_out(fleet, 0, "core"),
        taken_out(fleet, 1, "consumer"),
        taken_out(fleet, 2, "outcome_stream"),
    );
    assert!(said.0.contains("given to core 0;"), "{}", said.0);
    assert!(said.1.contains("critical and in_app"), "{}", said.1);
    assert!(said.2.contains("another connection"), "{}", said.2);
    fleet
        .eventually("the other core's rounds go on", WAIT, async || {
            let ages = ages(fleet, 0).await;
            usize::from(!(ages[0] > 8.0 && ages[1] < 6.0))
        })
        .await;
    drop((core, readers));
    played.stall(false);
    whole(fleet).await;
}

/// The first gateway alone can't reach Redis: newcomers are better off elsewhere.
async fn cut_off_one(fleet: &Fleet, to_redis: &TcpProxy) {
    to_redis.set(Line::Silent);
    let said = taken_out(fleet, 0, "cut_off").await;
    assert!(said.contains("check the way from here"), "{said}");
    for gateway in 1..3 {
        let (status, causes) = readiness(fleet, gateway).await.expect("it answers");
        assert_eq!(status, 200, "{causes:?}");
    }
    to_redis.set(Line::Works);
    whole(fleet).await;
}

/// Redis, Kafka and the dispatcher stand still; the third gateway does, too, and knows nothing of it after.
async fn lose_what_is_shared(fleet: &mut Fleet, broker: &KafkaBroker) {
    fleet.redis.freeze();
    broker.freeze();
    fleet.dispatchers[0].process.kill();
    fleet.gateways[2].process.signal(libc::SIGSTOP);
    let until = Instant::now() + OUTAGE;
    let mut named = [false; 3];
    while Instant::now() < until {
        for gateway in 0..2 {
            let (status, causes) = readiness(fleet, gateway).await.expect("it answers");
            assert_eq!(status, 200, "{causes:?}");
            for (named, cause) in named.iter_mut().zip(["registry", "bus", "dispatcher"]) {
                *named |= causes.contains_key(cause);
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(named, [true; 3], "registry, bus, dispatcher");
    fleet.redis.thaw();
    broker.thaw();
    fleet.dispatchers[0].process.start();
    fleet.gateways[2].process.signal(libc::SIGCONT);
    fleet
        .eventually("all well again", WAIT, async || {
            let mut unwell = 0;
            for gateway in 0..3 {
                let (status, causes) = readiness(fleet, gateway).await.expect("it answers");
                let blamed = LOCAL.iter().find(|cause| causes.contains_key(**cause));
                assert_eq!(blamed, None, "{causes:?}");
                unwell += usize::from(status != 200 || !causes.is_empty());
            }
            unwell
        })
        .await;
}

/// The topic that every gateway reads its shard from is deleted: named by all for as long as it is gone.
async fn lose_a_topic(fleet: &Fleet) {
    let missing = async || {
        let mut missing = 0;
        for gateway in 0..3 {
            let (status, causes) = readiness(fleet, gateway).await.expect("it answers");
            assert_eq!(status, 200, "{causes:?}");
            missing += usize::from(causes.contains_key("topic"));
        }
        missing
    };
    kafka::delete_topic(&fleet.brokers, &fleet.namespace, Topic::InApp).await;
    let named = async || 3 - missing().await;
    fleet.eventually("all name the topic", WAIT, named).await;
    let until = Instant::now() + OUTAGE;
    while Instant::now() < until {
        assert_eq!(missing().await, 3, "it is still gone");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    fleet.apply_topics();
    fleet
        .eventually("none names it any more", WAIT, missing)
        .await;
}
