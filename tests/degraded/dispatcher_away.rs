//! The only dispatcher is killed: what it had routed is delivered, clients notice nothing, outcomes wait on
//! the `delivery` topic until one is back.

use crate::{
    WAIT, World, device,
    load::{Accepted, Load, post_to_all},
    print_clock,
    said::Mark,
};
use herald::bus::Topic;
use testbed::{Client, Fleet, api::sum_of};

pub async fn what_is_routed_is_delivered_and_outcomes_go_to_the_topic(world: &mut World) {
    let backlog = backlog(&world.fleet).await;
    let load = Load::start(&world.fleet, 4);
    load.goes_on(&world.fleet, 50).await;
    let gateways = world.fleet.gateways.iter();
    let marks: Vec<Mark> = gateways.map(|one| Mark::of(&one.process)).collect();
    world.fleet.dispatchers[0].process.kill();
    let clock = world.clock("dispatcher");
    for gateway in &world.fleet.gateways {
        gateway.process.thaw();
    }

    world.pushed("what was routed", &backlog).await;
    world.gateways_name("dispatcher", true).await;
    print_clock("dispatcher", clock).await;
    for gateway in &world.fleet.gateways {
        outcomes_are_on_the_topic(&world.fleet, gateway.admin_port).await;
    }
    assert!(world.fleet.records(Topic::Delivery).await > 0);
    for client in &world.clients {
        let seen = client.seen.lock().unwrap();
        assert!(seen.open && seen.connects == 1, "a client was sent away");
    }
    let newcomer = device(&world.fleet, 0, 1);
    is_synced(&world.fleet, &newcomer, false).await;

    world.fleet.dispatchers[0].process.start();
    world.fleet.ready().await;
    world.gateways_name("dispatcher", false).await;
    is_synced(&world.fleet, &newcomer, true).await;
    let mut accepted = load.stop().await;
    println!("no dispatcher: {} accepted before it died", accepted.len());
    accepted.extend(backlog.iter().cloned());
    world.all_arrived(&accepted).await;
    are_acknowledged(&world.fleet, backlog).await;
    for (mark, gateway) in marks.iter().zip(&world.fleet.gateways) {
        mark.was_said_once(
            &gateway.process,
            "check the dispatchers and dispatchers.addresses",
        );
    }
}

/// Stops the gateways, and has notifications routed to them.
async fn backlog(fleet: &Fleet) -> Vec<Accepted> {
    for gateway in &fleet.gateways {
        gateway.process.freeze();
    }
    let before = routed(fleet).await;
    let backlog = post_to_all(fleet, 5).await;
    fleet
        .eventually("routed records", WAIT, async || {
            (before + backlog.len()).saturating_sub(routed(fleet).await)
        })
        .await;
    backlog
}

/// Records ever handed to gateways.
async fn routed(fleet: &Fleet) -> usize {
    fleet.records(Topic::InApp).await + fleet.records(Topic::Critical).await
}

/// Every record that was read is done with, though no dispatcher heard of it.
async fn outcomes_are_on_the_topic(fleet: &Fleet, gateway: u16) {
    let taken = "herald_outcome_batches_total{result=\"delivery\"}";
    fleet
        .eventually("outcomes on the topic", WAIT, async || {
            let metrics = fleet.api.metrics(gateway).await;
            let unfinished = sum_of(&metrics, "herald_records_in_flight");
            unfinished + usize::from(!metrics.contains(taken))
        })
        .await;
}

/// Its last sync was complete, or was not.
async fn is_synced(fleet: &Fleet, client: &Client, recovered: bool) {
    fleet
        .eventually("a sync", WAIT, async || {
            usize::from(client.seen.lock().unwrap().recovered != Some(recovered))
        })
        .await;
}

/// Acknowledgements that no dispatcher took were not lost either.
async fn are_acknowledged(fleet: &Fleet, mut waiting: Vec<Accepted>) {
    fleet
        .eventually("acknowledgements in storage", WAIT, async || {
            let mut left = Vec::new();
            for one in waiting.drain(..) {
                let user = format!("u{}", one.user);
                if fleet.api.state(&one.id, &user).await != "delivered" {
                    left.push(one);
                }
            }
            waiting = left;
            waiting.len()
        })
        .await;
}
