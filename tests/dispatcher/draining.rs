//! Orders about gateways that would leave clients without one.

use crate::rig::{Answer, Rig, eventually};
use herald::{
    api::{
        DeliverReply, DeliverRequest, LeaveReply, LeaveRequest,
        gateway_server::{Gateway, GatewayServer},
    },
    registry::{GatewayInfo, SharedRegistry, Timings, embedded::EmbeddedRegistry},
};
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tempfile::NamedTempFile;
use testbed::{child::Guarded, herald::binary, redis::RedisServer};
use tokio::{net::TcpListener, sync::mpsc};
use tonic::{Request, Response, Status, service::Routes};

/// A gateway that nobody answers for: an order that is let through ends there.
async fn enter(rig: &Rig, id: &str, connections: u64, room: u64, draining: bool) {
    enter_at(rig, "127.0.0.1:1", id, connections, room, draining).await;
}

pub async fn enter_at(
    rig: &Rig,
    grpc: &str,
    id: &str,
    connections: u64,
    room: u64,
    draining: bool,
) {
    enter_in(&rig.registry, grpc, id, connections, room, draining).await;
}

async fn enter_in(
    registry: &SharedRegistry,
    grpc: &str,
    id: &str,
    connections: u64,
    room: u64,
    draining: bool,
) {
    let info = GatewayInfo {
        grpc: grpc.into(),
        shard: None,
        connections,
        accepts_limit_per_s: 5_000,
        spare_accepts_per_s: 5_000,
        room: Some(room),
        region: "local".parse().unwrap(),
        draining,
    };
    let id = id.parse().unwrap();
    let entered = registry.acquire_gateway(&id, "test", &info).await;
    entered.unwrap();
}

/// The gRPC door of a gateway of which the test says what comes of an order.
struct Door {
    orders: mpsc::UnboundedSender<LeaveRequest>,
    /// Takes orders, and answers none.
    mute: Arc<AtomicBool>,
    shows: Arc<Mutex<Shows>>,
}

/// How far a drain is, and of which process.
#[derive(Clone, Copy)]
struct Shows {
    phase: &'static str,
    process: &'static str,
}

const CLOCK_MS: u64 = 1_000_000;

#[tonic::async_trait]
impl Gateway for Door {
    async fn deliver(&self, _: Request<DeliverRequest>) -> Result<Response<DeliverReply>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaveReply>, Status> {
        let request = request.into_inner();
        // What follows the order shows in the next look.
        let shows = *self.shows.lock();
        if !request.wish.is_empty() {
            self.orders.send(request).unwrap();
            if self.mute.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        }
        Ok(Response::new(LeaveReply {
            phase: shows.phase.into(),
            process: shows.process.into(),
            clock_ms: Some(CLOCK_MS),
            ..LeaveReply::default()
        }))
    }
}

pub struct Opened {
    pub address: String,
    orders: mpsc::UnboundedReceiver<LeaveRequest>,
    mute: Arc<AtomicBool>,
    shows: Arc<Mutex<Shows>>,
}

pub async fn open_door() -> Opened {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, orders) = mpsc::unbounded_channel();
    let mute = Arc::new(AtomicBool::new(false));
    let shows = Arc::new(Mutex::new(Shows {
        phase: "grace",
        process: "first",
    }));
    let door = Door {
        orders: sender,
        mute: mute.clone(),
        shows: shows.clone(),
    };
    let router = Routes::new(GatewayServer::new(door)).into_axum_router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Opened {
        address,
        orders,
        mute,
        shows,
    }
}

async fn order(rig: &Rig, path: &str, body: Value) -> Answer {
    let key = &rig.admin_key;
    rig.call_as(key, Method::POST, path, Some(body), None).await
}

fn said(answer: &Answer) -> (u16, String) {
    let error = &answer.body["error"];
    let text = format!("{}: {}", error["code"], error["message"]);
    (answer.status.as_u16(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_others_have_no_room_for_has_to_be_forced() {
    let rig = Rig::start().await;
    let drain = "/v1/gateways/gw-1/drain";
    enter(&rig, "gw-1", 450, 1_000, false).await;
    let (status, text) = said(&order(&rig, drain, json!({})).await);
    assert_eq!(status, 409, "{text}");
    for words in ["no_room", "only one in local", "450 clients", "--force"] {
        assert!(text.contains(words), "{text}");
    }
    enter(&rig, "gw-2", 0, 9_000, true).await;
    assert_eq!(order(&rig, drain, json!({})).await.status, 409);
    enter(&rig, "gw-3", 0, 449, false).await;
    let (status, text) = said(&order(&rig, drain, json!({ "force": false })).await);
    assert_eq!(status, 409, "{text}");
    assert!(text.contains("have room for 449"), "{text}");
    let (status, text) = said(&order(&rig, drain, json!({ "force": true })).await);
    assert_eq!(status, 502, "let through: {text}");
    enter(&rig, "gw-4", 0, 1, false).await;
    let (status, text) = said(&order(&rig, drain, json!({})).await);
    assert_eq!(status, 502, "let through: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_is_neither_drained_nor_rebalanced_and_says_how_it_leaves() {
    let rig = Rig::start().await;
    enter_at(&rig, "", "gw-1", 3, 9, false).await;
    for (path, body) in [
        ("/v1/gateways/gw-1/drain", json!({})),
        ("/v1/gateways/gw-1/drain", json!({ "force": true })),
        ("/v1/rebalance", json!({})),
    ] {
        let (status, text) = said(&order(&rig, path, body).await);
        assert_eq!(status, 409, "{path}: {text}");
        assert!(text.contains("SIGTERM"), "{path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn room_that_a_drain_under_way_needs_is_not_counted_twice() {
    let rig = Rig::start().await;
    enter(&rig, "gw-1", 100, 0, true).await;
    enter(&rig, "gw-2", 100, 60, false).await;
    enter(&rig, "gw-3", 100, 199, false).await;
    let drain = "/v1/gateways/gw-2/drain";
    let (status, text) = said(&order(&rig, drain, json!({})).await);
    assert_eq!(status, 409, "{text}");
    for words in [
        "has 100 clients",
        "room for 199",
        "100 clients of gateways that are being drained",
    ] {
        assert!(text.contains(words), "{text}");
    }
    enter(&rig, "gw-4", 0, 1, false).await;
    let (status, text) = said(&order(&rig, drain, json!({})).await);
    assert_eq!(status, 502, "let through: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_bounded_and_a_refusal_names_the_bounds() {
    let rig = Rig::start().await;
    for deadline_s in [0, 3_601, u64::MAX] {
        let body = json!({ "deadline_s": deadline_s });
        let (status, text) = said(&order(&rig, "/v1/gateways/gw-1/drain", body).await);
        assert_eq!(status, 422, "{text}");
        assert!(text.contains("1 to 3600 seconds"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_among_nobody_says_so() {
    let rig = Rig::start().await;
    let (status, text) = said(&order(&rig, "/v1/rebalance", json!({})).await);
    assert_eq!(status, 409, "{text}");
    assert!(text.contains("no gateway lives"), "{text}");
    enter(&rig, "gw-1", 0, 0, true).await;
    enter(&rig, "gw-2", 0, 0, true).await;
    let (status, text) = said(&order(&rig, "/v1/rebalance", json!({})).await);
    assert_eq!(status, 409, "{text}");
    for words in ["gw-1, gw-2 are drained", "--cancel"] {
        assert!(text.contains(words), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_drains_at_the_same_moment_by_two_dispatchers_the_second_is_checked_against_the_first()
 {
    let first = Rig::start().await;
    let second = Rig::sharing(&first.registry).await;
    let (mut one, mut other) = (open_door().await, open_door().await);
    enter_at(&first, &one.address, "gw-1", 100, 1_000, false).await;
    enter_at(&first, &other.address, "gw-2", 100, 1_000, false).await;
    let (one_path, other_path) = ("/v1/gateways/gw-1/drain", "/v1/gateways/gw-2/drain");
    let shows = async {
        // Whoever was ordered first says so with its lease.
        let (id, door) = tokio::select! {
            order = one.orders.recv() => { order.unwrap(); ("gw-1", &one) }
            order = other.orders.recv() => { order.unwrap(); ("gw-2", &other) }
        };
        enter_in(&first.registry, &door.address, id, 100, 0, true).await;
    };
    let (answer, another, ()) = tokio::join!(
        order(&first, one_path, json!({})),
        order(&second, other_path, json!({})),
        shows,
    );
    let mut answers = [said(&answer), said(&another)];
    answers.sort();
    assert_eq!(answers[0].0, 200, "{answers:?}");
    assert_eq!(answers[1].0, 409, "{answers:?}");
    assert!(answers[1].1.contains("only one in local"), "{answers:?}");
    assert!(one.orders.try_recv().is_err() && other.orders.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_says_until_when_on_the_gateways_clock_it_counts() {
    let rig = Rig::start().await;
    let mut door = open_door().await;
    enter_at(&rig, &door.address, "gw-1", 1, 0, false).await;
    enter(&rig, "gw-2", 0, 9, false).await;
    let (path, key) = ("/v1/gateways/gw-1/drain", &rig.admin_key);
    for (method, wish) in [(Method::POST, "drain"), (Method::DELETE, "stay")] {
        let answer = rig.call_as(key, method, path, None, None).await;
        assert_eq!(answer.status, 200, "{wish}: {}", answer.body);
        let order = door.orders.recv().await.unwrap();
        assert_eq!(order.wish, wish);
        assert_eq!(order.until_ms, Some(CLOCK_MS + 3_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_is_not_answered_may_have_been_taken_up_and_the_next_drain_waits_for_it() {
    let rig = Rig::start().await;
    let mut door = open_door().await;
    enter_at(&rig, &door.address, "gw-1", 1, 0, false).await;
    enter(&rig, "gw-2", 1, 9, false).await;
    door.mute.store(true, Ordering::Relaxed);
    let (status, text) = said(&order(&rig, "/v1/gateways/gw-1/drain", json!({})).await);
    assert_eq!(status, 504, "{text}");
    assert!(text.contains("drain gw-1 --status"), "{text}");
    assert!(door.orders.try_recv().is_ok());
    let (status, text) = said(&order(&rig, "/v1/gateways/gw-2/drain", json!({})).await);
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("ordering a drain"), "{text}");
}

/// `herald ctl drain gw-1`, as an operator watches it.
struct Watching {
    child: Guarded,
    _key: NamedTempFile,
}

impl Watching {
    fn start(rig: &Rig) -> Watching {
        let mut key = NamedTempFile::new().unwrap();
        key.write_all(rig.admin_key.as_bytes()).unwrap();
        let mut command = Command::new(binary("herald"));
        command
            .args(["ctl", "drain", "gw-1"])
            .env("HERALD_URL", format!("http://{}", rig.addresses.http))
            .env("HERALD_API_KEY_FILE", key.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Watching {
            child: Guarded::spawn(command).unwrap(),
            _key: key,
        }
    }

    /// The next line of what it complains of.
    async fn complaint(&mut self) -> String {
        let stderr = self.child.take_stderr().unwrap();
        let line = move || BufReader::new(stderr).lines().next();
        let line = tokio::task::spawn_blocking(line).await.unwrap();
        line.expect("it says something").unwrap()
    }

    async fn end(self) -> Output {
        let Watching { child, _key } = self;
        let output = tokio::task::spawn_blocking(move || child.output());
        output.await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_a_drain_goes_on_while_the_registry_is_away() {
    let mut redis = RedisServer::start();
    let rig = Rig::on_redis(&redis).await;
    let mut door = open_door().await;
    enter_at(&rig, &door.address, "gw-1", 1, 0, false).await;
    enter(&rig, "gw-2", 0, 9, false).await;
    let mut watching = Watching::start(&rig);
    door.orders.recv().await.unwrap();
    redis.save_and_end();
    let complaint = watching.complaint().await;
    for words in ["can't be told now", "503", "still watching"] {
        assert!(complaint.contains(words), "{complaint}");
    }
    door.shows.lock().phase = "empty";
    redis.start_again();
    eventually(|| async { rig.registry.healthy().then_some(()) }).await;
    enter_at(&rig, &door.address, "gw-1", 0, 0, true).await;
    let output = watching.end().await;
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("gw-1 empty"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_a_drain_is_told_whether_it_was_taken_back_or_its_gateway_restarted() {
    for (process, told) in [
        ("first", "the drain was cancelled"),
        ("second", "the gateway was restarted"),
    ] {
        let registry: SharedRegistry = Arc::new(EmbeddedRegistry::new(Timings {
            lease_ms: 600_000,
            ..Timings::default()
        }));
        let rig = Rig::sharing(&registry).await;
        let mut door = open_door().await;
        enter_at(&rig, &door.address, "gw-1", 1, 0, false).await;
        enter(&rig, "gw-2", 0, 9, false).await;
        let watching = Watching::start(&rig);
        door.orders.recv().await.unwrap();
        *door.shows.lock() = Shows {
            phase: "serving",
            process,
        };
        let output = watching.end().await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(told), "{said}");
    }
}
