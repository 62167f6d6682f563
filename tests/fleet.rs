//! The whole path on real Kafka and Redis, and what a `kill -9` does to it: nothing is lost, repeats are
//! counted.

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
use testbed::{Client, Fleet, api::sum_of};

/// Each test has a fleet of its own, and the machine may have two cores: one after the other.
static ONE_FLEET: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn connect(fleet: &Fleet, users: usize) -> Vec<Client> {
    (0..users)
        .map(|user| Client::start(fleet.ws_urls(user % 2), fleet.token(&format!("u{user}"))))
        .collect()
}

async fn all_open(fleet: &Fleet, clients: &[Client]) {
    fleet
        .eventually("clients connect", Duration::from_secs(60), async || {
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
    all_open(&fleet, &clients).await;
    let posted: Vec<(usize, String)> = futures::stream::iter(0..NOTIFICATIONS)
        .map(|n| {
            let fleet = &fleet;
            async move {
                let user = n % USERS;
                let id = fleet
                    .api
                    .notify(&format!("u{user}"), &format!("n{n}"))
                    .await;
                (user, id.expect("accepted"))
            }
        })
        .buffer_unordered(64)
        .collect()
        .await;

    fleet
        .eventually("deliveries", Duration::from_secs(60), async || {
            posted
                .iter()
                .filter(|(user, id)| clients[*user].live(id) == 0)
                .count()
        })
        .await;
    // A client that saw a passing hole may have asked for a sync, which brings an item a second time; live it
    // comes exactly once.
    for (user, id) in &posted {
        assert_eq!(clients[*user].live(id), 1, "{id} came live once");
    }
    let mut waiting = posted.clone();
    fleet
        .eventually(
            "acknowledgements in storage",
            Duration::from_secs(60),
            async || {
                let mut left = Vec::new();
                for (user, id) in waiting.drain(..) {
                    if fleet.api.state(&id, &format!("u{user}")).await != "delivered" {
                        left.push((user, id));
                    }
                }
                waiting = left;
                waiting.len()
            },
        )
        .await;
    shards_are_read_to_their_end(&fleet).await;
}

async fn shards_are_read_to_their_end(fleet: &Fleet) {
    fleet
        .eventually("shard lag", Duration::from_secs(30), async || {
            let mut lag = 0;
            for gateway in &fleet.gateways {
                lag += sum_of(
                    &fleet.api.metrics(gateway.admin_port).await,
                    "herald_shard_lag",
                );
            }
            lag
        })
        .await;
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
    // What outages leave: entries of former lives, of a later one, and of a gateway that is no more.
    for user in 0..USERS {
        for life in ["gw-1.5", "gw-2.7", "gw-1.9000000000000", "gw-9.3"] {
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
    shards_are_read_to_their_end(&fleet).await;
    let (raw, in_app) = (
        fleet.records(Topic::Raw(1)).await,
        fleet.records(Topic::InApp).await,
    );
    // Once to each gateway, and what goes round afterwards ends with its hops.
    let most = raw * fleet.gateways.len() * (1 + limits::HOPS);
    assert!(in_app <= most, "{raw} records became {in_app}; seed {seed}");
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
