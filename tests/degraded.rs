//! A real fleet that loses a part under load: what goes on meanwhile, and that nothing is lost.

use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use testbed::{Client, Fleet, fleet::API_KEY, kafka::KafkaBroker};
use tokio::task::JoinHandle;

const USERS: usize = 20;

/// One notification that was answered 202.
#[derive(Clone)]
struct Accepted {
    user: usize,
    id: String,
    spooled: bool,
    critical: bool,
    posted: Instant,
    answered: Instant,
}

/// Producers that post without pause, of mixed priority, until stopped.
struct Load {
    accepted: Arc<Mutex<Vec<Accepted>>>,
    stop: Arc<AtomicBool>,
    producers: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(fleet: &Fleet, producers: usize) -> Load {
        let (accepted, stop) = (
            Arc::<Mutex<Vec<_>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let url = fleet.api.url("/v1/notifications");
        let producers = (0..producers).map(|producer| {
            let (url, accepted, stop) = (url.clone(), accepted.clone(), stop.clone());
            tokio::spawn(async move {
                let http = reqwest::Client::new();
                let mut n = producer;
                while !stop.load(Ordering::Relaxed) {
                    match post(&http, &url, n).await {
                        Some(one) => accepted.lock().unwrap().push(one),
                        None => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                    n += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        });
        let producers = producers.collect();
        Load {
            accepted,
            stop,
            producers,
        }
    }

    fn accepted(&self) -> Vec<Accepted> {
        self.accepted.lock().unwrap().clone()
    }

    fn spooled(&self) -> Vec<Accepted> {
        let mut accepted = self.accepted();
        accepted.retain(|one| one.spooled);
        accepted
    }

    async fn stop(self) -> Vec<Accepted> {
        self.stop.store(true, Ordering::Relaxed);
        for producer in self.producers {
            producer.await.expect("it only posts");
        }
        std::mem::take(&mut self.accepted.lock().unwrap())
    }
}

async fn post(http: &reqwest::Client, url: &str, n: usize) -> Option<Accepted> {
    let (user, critical) = (n % USERS, n.is_multiple_of(5));
    let priority = if critical { "critical" } else { "normal" };
    let body = json!({ "target": { "user": format!("u{user}") }, "type": "test", "priority": priority, "channels": ["in_app"] });
    let posted = Instant::now();
    let request = http.post(url).bearer_auth(API_KEY).json(&body);
    let answer = request.send().await.ok()?;
    if answer.status() != 202 {
        return None;
    }
    let body: Value = answer.json().await.ok()?;
    Some(Accepted {
        user,
        id: body["id"].as_str()?.to_owned(),
        spooled: body["durability"] == "spooled",
        critical,
        posted,
        answered: Instant::now(),
    })
}

async fn connect(fleet: &Fleet) -> Vec<Client> {
    let clients: Vec<Client> = (0..USERS)
        .map(|user| Client::start(fleet.ws_urls(user), fleet.token(&format!("u{user}"))))
        .collect();
    fleet
        .eventually("clients connect", Duration::from_secs(60), async || {
            clients.iter().filter(|client| !client.is_open()).count()
        })
        .await;
    clients
}

/// How often each id stands in the inboxes of all users.
async fn inbox(fleet: &Fleet) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for user in 0..USERS {
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/users/u{user}/notifications?limit=100{cursor}");
            let page = fleet.api.fetch(&path).await;
            for item in page["items"].as_array().expect("a list") {
                let id = item["id"].as_str().expect("an id").to_owned();
                *times.entry(id).or_default() += 1;
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
    }
    times
}

/// Every accepted id is in its inbox once, and its client has seen it; positions have no hole.
async fn all_arrived(fleet: &Fleet, clients: &[Client], accepted: &[Accepted]) {
    fleet
        .eventually("deliveries", Duration::from_secs(60), async || {
            let missing = |one: &&Accepted| clients[one.user].times(&one.id) == 0;
            accepted.iter().filter(missing).count()
        })
        .await;
    fleet
        .eventually("inbox rows", Duration::from_secs(30), async || {
            let times = inbox(fleet).await;
            assert!(
                times.values().all(|times| *times == 1),
                "a row stands twice"
            );
            let missing = |one: &&Accepted| !times.contains_key(&one.id);
            accepted.iter().filter(missing).count()
        })
        .await;
    fleet
        .eventually("holes", Duration::from_secs(30), async || {
            clients.iter().filter(|client| client.has_hole()).count()
        })
        .await;
}

async fn readiness(fleet: &Fleet) -> (u16, Value) {
    match fleet.readyz(fleet.dispatchers[0].admin_port).await {
        Some((status, body)) => (status, serde_json::from_str(&body).expect("JSON")),
        None => (0, Value::Null),
    }
}

/// Answered 202 from the disk, this many times since the call.
async fn spooled_more(fleet: &Fleet, load: &Load, more: usize) {
    let before = load.spooled().len();
    fleet
        .eventually("spooled answers", Duration::from_secs(30), async || {
            (before + more).saturating_sub(load.spooled().len())
        })
        .await;
}

/// Median and p99 of those posted after the mode had begun.
fn answer_times(spooled: &[Accepted]) -> (Duration, Duration) {
    let begun = spooled.iter().map(|one| one.answered).min();
    let later = spooled.iter().filter(|one| Some(one.posted) > begun);
    let mut took: Vec<_> = later.map(|one| one.answered - one.posted).collect();
    took.sort_unstable();
    (took[took.len() / 2], took[took.len() * 99 / 100])
}

#[tokio::test(flavor = "multi_thread")]
async fn with_kafka_killed_under_load_what_is_answered_202_arrives_once_whatever_else_dies() {
    let mut broker = tokio::task::spawn_blocking(KafkaBroker::start)
        .await
        .unwrap();
    let mut fleet = Fleet::start_on(broker.brokers(), 2, &[]).await;
    let clients = connect(&fleet).await;
    let load = Load::start(&fleet, 8);
    fleet
        .eventually("answers", Duration::from_secs(30), async || {
            100usize.saturating_sub(load.accepted().len())
        })
        .await;

    broker.kill();
    spooled_more(&fleet, &load, 500).await;
    let (status, body) = readiness(&fleet).await;
    assert_eq!((status, &body["degraded"]), (200, &json!(true)));
    assert_eq!(body["spool"]["active"], json!(true), "{body}");
    let metrics = fleet.api.metrics(fleet.dispatchers[0].admin_port).await;
    assert!(metrics.contains("herald_spool_active 1"), "{metrics}");
    let (p50, p99) = answer_times(&load.spooled());

    let mut urgent = load.spooled();
    urgent.retain(|one| one.critical);
    fleet
        .eventually("critical, directly", Duration::from_secs(20), async || {
            let missing = |one: &&Accepted| clients[one.user].times(&one.id) == 0;
            urgent.iter().filter(missing).count()
        })
        .await;
    assert!(urgent.len() > 20, "only {} were critical", urgent.len());

    fleet.dispatchers[0].process.kill();
    fleet.dispatchers[0].process.start();
    spooled_more(&fleet, &load, 200).await;
    let mut broker = tokio::task::spawn_blocking(move || {
        broker.restart();
        broker
    })
    .await
    .unwrap();
    let accepted = load.stop().await;
    fleet.ready().await;
    all_arrived(&fleet, &clients, &accepted).await;
    fleet
        .eventually("the mode ends", Duration::from_secs(30), async || {
            let (status, body) = readiness(&fleet).await;
            usize::from(status != 200 || body["degraded"] == json!(true))
        })
        .await;
    let spooled = accepted.iter().filter(|one| one.spooled).count();
    println!(
        "{} accepted, {spooled} of them spooled; answers from the spool: p50 {p50:?}, p99 {p99:?}",
        accepted.len()
    );
    broker.kill();
}
