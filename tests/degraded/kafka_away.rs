//! Kafka is away: notifications go to the dispatcher's disk, critical ones straight to the gateways, and all of
//! it to Kafka once it is back.

use crate::{
    World,
    load::{Accepted, Load},
};
use serde_json::json;
use std::time::Duration;

pub async fn what_is_answered_202_arrives_once_whatever_else_dies(world: &mut World) {
    let load = Load::start(&world.fleet, 8);
    load.goes_on(&world.fleet, 100).await;

    world.broker.kill();
    load.is_spooled(&world.fleet, 500).await;
    let (status, body) = world.readiness().await;
    assert_eq!((status, &body["degraded"]), (200, &json!(true)));
    assert_eq!(body["spool"]["active"], json!(true), "{body}");
    let metrics = world
        .fleet
        .api
        .metrics(world.fleet.dispatchers[0].admin_port)
        .await;
    assert!(metrics.contains("herald_spool_active 1"), "{metrics}");
    let (p50, p99) = answer_times(&load.spooled());

    let mut urgent = load.spooled();
    urgent.retain(|one| one.critical);
    world.pushed("critical, directly", &urgent).await;
    assert!(urgent.len() > 20, "only {} were critical", urgent.len());

    world.fleet.dispatchers[0].process.kill();
    world.fleet.dispatchers[0].process.start();
    load.is_spooled(&world.fleet, 200).await;
    tokio::task::block_in_place(|| world.broker.restart());
    let accepted = load.stop().await;
    world.fleet.ready().await;
    world.all_arrived(&accepted).await;
    world.whole_again().await;
    let spooled = accepted.iter().filter(|one| one.spooled).count();
    println!(
        "{} accepted, {spooled} of them spooled; answers from the spool: p50 {p50:?}, p99 {p99:?}",
        accepted.len()
    );
}

/// Median and p99 of those posted after the mode had begun.
fn answer_times(spooled: &[Accepted]) -> (Duration, Duration) {
    let begun = spooled.iter().map(|one| one.answered).min();
    let later = spooled.iter().filter(|one| Some(one.posted) > begun);
    let mut took: Vec<_> = later.map(|one| one.answered - one.posted).collect();
    took.sort_unstable();
    (took[took.len() / 2], took[took.len() * 99 / 100])
}
