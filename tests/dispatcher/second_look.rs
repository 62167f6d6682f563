//! What went by memory while the registry was away, and by whom it is looked after.

use crate::rig::Rig;
use herald::{bus::Topic, envelope::Remembered};
use testbed::redis::RedisServer;

/// User 42 was at `gw-1` when the router looked, and has come to `gw-2` too since.
async fn a_second_device_came(redis: &RedisServer) -> Rig {
    let rig = Rig::on_redis(redis).await;
    rig.gateway("gw-1", 0, &["42", "43"]).await;
    for user in ["42", "43"] {
        rig.post_to(user, "learns the way").await;
    }
    rig.records(Topic::InApp, 0, 2).await;
    rig.gateway("gw-2", 1, &["42"]).await;
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_at_a_gateway_that_memory_did_not_know_gets_it_once_the_registry_answers() {
    let mut redis = RedisServer::start();
    let rig = a_second_device_came(&redis).await;
    redis.save_and_end();
    let id = rig.post_to("42", "by memory").await;
    rig.post_to("43", "by memory, rightly").await;
    let pushed = rig.records(Topic::InApp, 0, 4).await;
    let at = pushed.iter().find(|one| one.head.id == id).unwrap();
    rig.routed().await;
    // Noted before anything went: one record a user.
    assert_eq!(rig.count(Topic::Delivery).await, 2);
    redis.start_again();
    let late = rig.records(Topic::InApp, 1, 1).await.remove(0);
    assert_eq!((late.head.id, late.pos, late.prev), (id, at.pos, at.prev));
    rig.drained("second_look", Topic::Delivery).await;
    assert_eq!(rig.count(Topic::InApp).await, 5);
    let metrics = rig.metrics.render();
    for counted in ["rerouted", "nobody_else"] {
        let line = format!("herald_second_looks_total{{result=\"{counted}\"}} 1");
        assert!(metrics.contains(&line), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_dies_meanwhile_leaves_the_look_to_the_next_one_and_outcomes_do_not_wait_for_it()
 {
    let mut redis = RedisServer::start();
    let mut rig = a_second_device_came(&redis).await;
    redis.save_and_end();
    let id = rig.post_to("42", "by memory").await;
    rig.records(Topic::InApp, 0, 3).await;
    rig.routed().await;
    rig.restart().await;
    // Behind it on the same topic: outcomes, read though the registry is away.
    rig.drained("tracker", Topic::Delivery).await;
    let noted = rig.all_records(Topic::Delivery).await;
    assert_eq!(Remembered::read(&noted[0]).unwrap().ids, [id]);
    redis.start_again();
    let late = rig.records(Topic::InApp, 1, 1).await.remove(0);
    assert_eq!(late.head.id, id);
}
