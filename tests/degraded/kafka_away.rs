//! Kafka is away: notifications go to the dispatcher's disk, critical ones straight to the gateways, and all of
//! it to Kafka once it is back.

use crate::{
    USERS, WAIT, World,
    load::{Accepted, Load, post},
    print_clock,
    said::Mark,
};
use herald::bus::Topic;
use serde_json::json;
use std::time::Duration;
use testbed::{Fleet, api::sum_of, kafka};

/// The dispatcher is killed with records in its spool, with a full one, and while it replays; a topic is lost.
pub async fn what_is_answered_202_arrives_once_whatever_else_dies(world: &mut World) {
    let marks = marks(&world.fleet);
    let load = Load::start(&world.fleet, 8);
    load.goes_on(&world.fleet, 100).await;
    kafka::delete_topic(
        &world.broker.brokers(),
        &world.fleet.namespace,
        Topic::FanOut,
    )
    .await;
    world.broker.kill();
    let clock = world.clock("bus");
    load.is_spooled(&world.fleet, 500).await;
    goes_directly(world, &load).await;
    print_answer_times("Kafka is gone", &load.spooled());
    world.gateways_name("bus", true).await;
    print_clock("Kafka", clock).await;
    was_said_once(&world.fleet, &marks);
    let list = json!({ "target": { "users": ["u0", "u1"] }, "type": "list" });
    let listed = world.fleet.api.post(&list).await.expect("spooled");

    world.fleet.dispatchers[0].process.kill();
    world.fleet.dispatchers[0].process.start();
    load.is_spooled(&world.fleet, 200).await;
    let (status, body) = world.readiness().await;
    assert!(
        status == 200 && body["degraded"]["spool"].is_string(),
        "{body}"
    );
    gateway_waits(world).await;
    let mut accepted = load.stop().await;
    accepted.extend(fill(&world.fleet).await);
    world.fleet.dispatchers[0].process.kill();
    world.fleet.dispatchers[0].process.start();
    tokio::task::block_in_place(|| world.broker.restart());
    let left = dies_while_it_replays(&mut world.fleet).await;
    println!(
        "{} accepted around a Kafka that is gone; {left} were in the spool when its replay was killed",
        accepted.len()
    );
    world.all_arrived(&accepted).await;

    // What has no topic waits for it, and goes with the operator's command.
    topic_is_missing(&world.fleet).await;
    assert!(world.clients[..2].iter().all(|one| one.times(&listed) == 0));
    world.fleet.apply_topics();
    world
        .fleet
        .eventually("the list", WAIT, async || {
            let missing = world.clients[..2]
                .iter()
                .filter(|one| one.times(&listed) == 0);
            missing.count()
        })
        .await;
    world.whole_again().await;
    world.fleet.ready().await;
}

/// It stops answering without closing anything, as a host that hangs does.
pub async fn a_broker_that_stands_still_is_away_and_back_once(world: &mut World) {
    let load = Load::start(&world.fleet, 8);
    load.goes_on(&world.fleet, 100).await;
    world.broker.freeze();
    load.is_spooled(&world.fleet, 500).await;
    world.gateways_name("bus", true).await;
    goes_to_every_gateway_without_redis(world).await;
    world.broker.thaw();
    world.whole_again().await;
    let accepted = load.stop().await;
    println!(
        "{} accepted around a Kafka that stood still",
        accepted.len()
    );
    world.all_arrived(&accepted).await;
    world.gateways_name("bus", false).await;
    world.whole_again().await;
    world.fleet.ready().await;
}

fn marks(fleet: &Fleet) -> Vec<Mark> {
    let gateways = fleet.gateways.iter().map(|one| &one.process);
    let processes = gateways.chain([&fleet.dispatchers[0].process]);
    processes.map(Mark::of).collect()
}

/// One that starts can't know its shard, nor where `broadcast` ends: others have both.
async fn gateway_waits(world: &mut World) {
    let gateway = &mut world.fleet.gateways[2];
    gateway.process.kill();
    gateway.process.start();
    let port = gateway.admin_port;
    world
        .fleet
        .eventually("it is not ready, and says so", WAIT, async || {
            let Some((status, body)) = world.fleet.readyz(port).await else {
                return 1;
            };
            assert_eq!(status, 503, "{body}");
            usize::from(!body.contains("goes on by itself when the bus answers"))
        })
        .await;
}

fn was_said_once(fleet: &Fleet, marks: &[Mark]) {
    let gateways = fleet.gateways.iter().map(|one| &one.process);
    let processes = gateways.chain([&fleet.dispatchers[0].process]);
    for (mark, process) in marks.iter().zip(processes) {
        mark.was_said_once(process, "check the brokers and kafka.brokers");
    }
}

/// The mode is to be seen, and critical does not wait for its end.
async fn goes_directly(world: &World, load: &Load) {
    let (status, body) = world.readiness().await;
    assert!(
        status == 200 && body["degraded"]["spool"].is_string(),
        "{body}"
    );
    let metrics = world
        .fleet
        .api
        .metrics(world.fleet.dispatchers[0].admin_port)
        .await;
    assert!(metrics.contains("herald_spool_active 1"), "{metrics}");
    let mut urgent = load.spooled();
    urgent.retain(|one| one.critical);
    assert!(urgent.len() > 10, "only {} were critical", urgent.len());
    world.pushed("critical, directly", &urgent).await;
}

/// Nobody says where the users are, so whoever holds them is asked.
async fn goes_to_every_gateway_without_redis(world: &World) {
    world.fleet.redis.freeze();
    world.gateways_name("registry", true).await;
    let (http, url) = (
        reqwest::Client::new(),
        world.fleet.api.url("/v1/notifications"),
    );
    let mut urgent = Vec::new();
    for user in 0..USERS {
        let one = post(&http, &url, user, "critical", 100).await;
        urgent.push(one.expect("the spool has room"));
    }
    world.pushed("critical, to every gateway", &urgent).await;
    world.fleet.redis.thaw();
    world.gateways_name("registry", false).await;
}

/// Posts until the spool takes nothing of any priority; low is refused first.
async fn fill(fleet: &Fleet) -> Vec<Accepted> {
    let (http, url) = (reqwest::Client::new(), fleet.api.url("/v1/notifications"));
    let mut accepted = Vec::new();
    for priority in ["low", "normal", "high", "critical"] {
        let before = accepted.len();
        let refusal = loop {
            match post(&http, &url, accepted.len() % USERS, priority, 30_000).await {
                Ok(one) => accepted.push(one),
                Err(refusal) => break refusal,
            }
        };
        assert_eq!(refusal, "spool_full");
        assert!(accepted.len() > before, "{priority} found no room");
    }
    accepted
}

/// Kills the dispatcher as soon as a part of its spool is replayed; answers how much was left.
async fn dies_while_it_replays(fleet: &mut Fleet) -> usize {
    let replayed = "herald_spool_replayed_total";
    fleet
        .eventually("a replay", WAIT, async || {
            let metrics = fleet.api.metrics(fleet.dispatchers[0].admin_port).await;
            usize::from(sum_of(&metrics, replayed) == 0)
        })
        .await;
    let metrics = fleet.api.metrics(fleet.dispatchers[0].admin_port).await;
    fleet.dispatchers[0].process.kill();
    fleet.dispatchers[0].process.start();
    fleet.ready().await;
    sum_of(&metrics, "herald_spool_records")
}

async fn topic_is_missing(fleet: &Fleet) {
    let missing = "herald_spool_topic_missing{topic=\"fan_out\"} 1";
    fleet
        .eventually("the operator is told", WAIT, async || {
            let metrics = fleet.api.metrics(fleet.dispatchers[0].admin_port).await;
            usize::from(!metrics.contains(missing))
        })
        .await;
    let log = fleet.dispatchers[0].process.log();
    assert!(log.contains("herald ctl topics --apply"), "{log}");
}

/// Median and p99 of those posted after the mode had begun.
fn print_answer_times(when: &str, spooled: &[Accepted]) {
    let begun = spooled.iter().map(|one| one.answered).min();
    let later = spooled.iter().filter(|one| Some(one.posted) > begun);
    let mut took: Vec<Duration> = later.map(|one| one.answered - one.posted).collect();
    took.sort_unstable();
    let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    println!(
        "{when}: answers from the spool: p50 {p50:?}, p99 {p99:?}, all {:?}",
        took.last()
    );
}
