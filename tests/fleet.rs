//! The whole path on real Kafka and Redis, and what a `kill -9` does to it: nothing is lost, repeats are
//! counted.

#[path = "fleet/metrics.rs"]
mod metrics;

use futures::StreamExt;
use herald::{bus::Topic, limits};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use testbed::{Client, Fleet};

const WAIT: Duration = Duration::from_secs(60);

/// Each test has a fleet of its own, and the machine may have two cores: one after the other.
static ONE_FLEET: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn connect(fleet: &Fleet, users: usize) -> Vec<Client> {
    (0..users)
        .map(|user| Client::start(fleet.ws_urls(user % 2), fleet.token(&format!("u{user}"))))
        .collect()
}

/// Second devices of the first users, each on the gateway where the user's first one is not.
fn connect_elsewhere(fleet: &Fleet, users: usize) -> Vec<Client> {
    let device = |user| {
        let token = fleet.token(&format!("u{user}"));
        Client::start_by_address(fleet.ws_urls((user + 1) % 2), token)
    };
    (0..users).map(device).collect()
}

async fn all_open(fleet: &Fleet, clients: &[Client]) {
    fleet
        .eventually("clients connect", WAIT, async || {
            clients.iter().filter(|client| !client.is_open()).count()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_notifications_reach_a_thousand_users_once_and_are_acknowledged_and_committed()
{
    const USERS: usize = 1_000;
    const NOTIFICATIONS: usize = 10_000;
    let _alone = ONE_FLEET.lock().await;
    let fleet = Fleet::start(2, &[]).await;
    let clients = connect(&fleet, USERS);
    let second = connect_elsewhere(&fleet, USERS / 10);
    all_open(&fleet, &clients).await;
    all_open(&fleet, &second).await;
    for (one, other) in clients.iter().zip(&second) {
        let [one, other] = [one, other].map(|device| device.seen.lock().unwrap().url.clone());
        assert_ne!(one, other, "two devices, two gateways");
    }
    let posted = post(&fleet, USERS, NOTIFICATIONS).await;

    let devices = |user: usize| [clients.get(user), second.get(user)].into_iter().flatten();
    fleet
        .eventually("deliveries", WAIT, async || {
            let without = |(user, id): &&(usize, String)| devices(*user).any(|d| d.live(id) == 0);
            posted.iter().filter(without).count()
        })
        .await;
    // A client that saw a passing hole may have asked for a sync, which brings an item a second time; live it
    // comes exactly once.
    for (user, id) in &posted {
        for device in devices(*user) {
            assert_eq!(device.live(id), 1, "{id} came live once");
        }
    }
    are_acknowledged_in_storage(&fleet, &posted).await;
    let mut read = posted.clone();
    read.retain(|(user, _)| *user < second.len());
    read_here_is_read_there(&fleet, &clients, &second, &read).await;
    everything_is_committed(&fleet).await;
    metrics::tell_of_kafka(&fleet).await;
    metrics::are_explained_and_bounded(&fleet).await;
}

async fn post(fleet: &Fleet, users: usize, notifications: usize) -> Vec<(usize, String)> {
    let one = |n| async move {
        let user = n % users;
        let name = format!("u{user}");
        let id = fleet.api.notify(&name, &format!("n{n}")).await;
        (user, id.expect("accepted"))
    };
    let all = futures::stream::iter(0..notifications).map(one);
    all.buffer_unordered(64).collect().await
}
async fn are_acknowledged_in_storage(fleet: &Fleet, posted: &[(usize, String)]) {
    let mut waiting = posted.to_vec();
    fleet
        .eventually("acknowledgements in storage", WAIT, async || {
            let mut left = Vec::new();
            for (user, id) in waiting.drain(..) {
                if fleet.api.state(&id, &format!("u{user}")).await != "delivered" {
                    left.push((user, id));
                }
            }
            waiting = left;
            waiting.len()
        })
        .await;
}

/// One device reads, in turn the first and the second; the other one is told, by its own gateway.
async fn read_here_is_read_there(
    fleet: &Fleet,
    first: &[Client],
    second: &[Client],
    read: &[(usize, String)],
) {
    let mut told = Vec::new();
    for (n, (user, id)) in read.iter().enumerate() {
        let (reader, other) = match n % 2 {
            0 => (&first[*user], &second[*user]),
            _ => (&second[*user], &first[*user]),
        };
        reader.send(serde_json::json!({ "type": "read", "ids": [id] }));
        told.push((other, id));
    }
    fleet
        .eventually("read on the other device", WAIT, async || {
            let without = |(other, id): &&(&Client, &String)| !other.was_told_of_read(id);
            told.iter().filter(without).count()
        })
        .await;
    for (user, id) in read {
        assert_eq!(fleet.api.state(id, &format!("u{user}")).await, "read");
    }
}

/// As the broker has it: what was read and not committed would be read again after a restart.
async fn everything_is_committed(fleet: &Fleet) {
    let left = Mutex::new(Vec::new());
    let count = async || {
        let now = fleet.uncommitted().await;
        let places = now.len();
        *left.lock().unwrap() = now;
        places
    };
    let explain = || format!("{:?}\n{}", left.lock().unwrap(), fleet.logs());
    testbed::eventually("commits", WAIT / 2, count, explain).await;
}

/// What is killed at one point.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Gateway(usize),
    Dispatcher,
    Both(usize),
}

#[tokio::test(flavor = "multi_thread")]
async fn with_processes_killed_at_twenty_seeded_points_nothing_is_lost() {
    const USERS: usize = 100;
    const POINTS: usize = 20;
    let seed = std::env::var("HERALD_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(7);
    let mut random = StdRng::seed_from_u64(seed);
    let _alone = ONE_FLEET.lock().await;
    let mut fleet = Fleet::start(2, &[]).await;
    let clients = connect(&fleet, USERS);
    all_open(&fleet, &clients).await;
    // What outages leave: entries of former lives; and of a later one and a gateway that is no more, for which
    // everyone is asked, so that the shards are left out.
    for user in 0..USERS {
        let lives: &[_] = match user % 2 {
            0 => &["gw-1.5", "gw-2.7"],
            _ => &["gw-1.5", "gw-2.7", "gw-1.9000000000000", "gw-9.3"],
        };
        for life in lives {
            fleet.plant_entry(&format!("u{user}"), life);
        }
    }

    let accepted: Arc<Mutex<Vec<(usize, String)>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let producer = tokio::spawn(produce(
        fleet.api.url("/v1/notifications"),
        USERS,
        accepted.clone(),
        stop.clone(),
    ));
    for point in 0..POINTS {
        tokio::time::sleep(Duration::from_millis(random.random_range(200..1500))).await;
        let victims = [
            Victim::Gateway(0),
            Victim::Gateway(1),
            Victim::Dispatcher,
            Victim::Both(point % 2),
        ];
        let victim = *victims.choose(&mut random).expect("not empty");
        if let Victim::Gateway(n) | Victim::Both(n) = victim {
            fleet.gateways[n].process.kill();
        }
        if let Victim::Dispatcher | Victim::Both(_) = victim {
            fleet.dispatchers[0].process.kill();
            fleet.dispatchers[0].process.start();
        }
        if let Victim::Gateway(n) | Victim::Both(n) = victim {
            fleet.gateways[n].process.start();
        }
    }
    stop.store(true, Ordering::Relaxed);
    producer.await.expect("the producer ends");
    fleet.ready().await;

    let accepted = accepted.lock().unwrap().clone();
    assert!(
        accepted.len() > 200,
        "only {} were accepted; seed {seed}",
        accepted.len()
    );
    fleet
        .eventually(
            &format!("deliveries (seed {seed})"),
            Duration::from_secs(90),
            async || {
                accepted
                    .iter()
                    .filter(|(user, id)| clients[*user].times(id) == 0)
                    .count()
            },
        )
        .await;
    fleet
        .eventually("holes", Duration::from_secs(30), async || {
            clients.iter().filter(|client| client.has_hole()).count()
        })
        .await;
    everything_is_committed(&fleet).await;
    let (raw, in_app) = (
        fleet.records(Topic::Raw(1)).await,
        fleet.records(Topic::InApp).await,
    );
    // Once to each gateway, and what goes round afterwards ends with its hops.
    let most = raw * fleet.gateways.len() * (1 + limits::HOPS);
    assert!(in_app <= most, "{raw} records became {in_app}; seed {seed}");
    assert!(
        in_app > raw / 4,
        "{raw} records became {in_app}; seed {seed}"
    );
    let wire: u32 = accepted
        .iter()
        .map(|(user, id)| clients[*user].times(id))
        .sum();
    println!(
        "seed {seed}: {} accepted, {} repeats on the wire, {raw} records of raw made {in_app} of in_app",
        accepted.len(),
        wire as usize - accepted.len()
    );
}

/// Posts without pause until told; keeps what was answered 202.
async fn produce(
    url: String,
    users: usize,
    accepted: Arc<Mutex<Vec<(usize, String)>>>,
    stop: Arc<AtomicBool>,
) {
    let http = reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
        .build()
        .expect("a client");
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let user = n % users;
        let body = serde_json::json!({ "target": { "user": format!("u{user}") }, "type": "test", "title": format!("n{n}") });
        let sent = http
            .post(&url)
            .bearer_auth(testbed::fleet::API_KEY)
            .json(&body)
            .send()
            .await;
        match sent {
            Ok(answer) if answer.status() == 202 => {
                if let Ok(body) = answer.json::<serde_json::Value>().await {
                    let id = body["id"].as_str().expect("an id").to_owned();
                    accepted.lock().unwrap().push((user, id));
                }
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
