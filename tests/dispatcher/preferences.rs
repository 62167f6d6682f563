//! What users want, from the API to what leaves.

use crate::{
    email::{enter, relay, state},
    rig::{Answer, Rig, Sending, eventually, is, rows},
};
use herald::{
    bus::{Target, Topic},
    config,
    dispatcher::{Rules, channel::Channels},
    ids::NotificationId,
    registry::{SharedRegistry, embedded::EmbeddedRegistry},
};
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use testbed::SmtpServer;

async fn rig(server: &SmtpServer) -> Rig {
    let preferences = config::Preferences {
        mandatory_types: vec!["security".into()],
    };
    let channels = config::Channels {
        email: relay(server.address()),
        ..config::Channels::default()
    };
    let sending = Sending {
        channels: Channels::from_config(&channels).unwrap(),
        rules: Rules::from_config(&Default::default(), &preferences, &Default::default()).unwrap(),
        limits: None,
    };
    let registry: SharedRegistry = Arc::new(EmbeddedRegistry::default());
    let rig = Rig::sending(sending, registry).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    rig
}

async fn put(rig: &Rig, preferences: &Value) -> Answer {
    let body = Some(preferences.clone());
    rig.call(Method::PUT, "/v1/users/42/preferences", body)
        .await
}

async fn want(rig: &Rig, preferences: Value) {
    let answer = put(rig, &preferences).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

async fn post(rig: &Rig, of_type: &str, priority: &str) -> NotificationId {
    rig.post(json!({
        "target": { "user": "42" }, "type": of_type, "priority": priority, "title": "t",
        "channels": ["in_app", "email"]
    }))
    .await
}

/// From an hour ago to in an hour.
fn quiet_now() -> Value {
    let time = |hours: i64| {
        let at = Timestamp::now() + SignedDuration::from_hours(hours);
        at.strftime("%H:%M").to_string()
    };
    json!({ "time_zone": "UTC", "quiet_hours": { "from": time(-1), "to": time(1) } })
}

#[tokio::test(flavor = "multi_thread")]
async fn preferences_are_written_read_and_taken_back() {
    let rig = Rig::start().await;
    let path = "/v1/users/42/preferences";
    assert_eq!(rig.get(path).await, json!({ "channels": {}, "types": {} }));
    let wanted = json!({
        "time_zone": "Europe/Vienna", "locale": "de-AT",
        "quiet_hours": { "from": "22:00", "to": "07:00" },
        "channels": { "email": false }, "types": { "news": { "push": false, "email": true } }
    });
    want(&rig, wanted.clone()).await;
    assert_eq!(rig.get(path).await, wanted);
    let answer = put(
        &rig,
        &json!({ "types": { "two_factor": { "sms": false } } }),
    )
    .await;
    assert_eq!(answer.status, 422);
    assert_eq!(answer.body["error"]["field"], "types.two_factor.sms");
    assert_eq!(rig.get(path).await, wanted, "nothing was changed");
    assert_eq!(rig.call(Method::DELETE, path, None).await.status, 204);
    assert_eq!(rig.get(path).await, json!({ "channels": {}, "types": {} }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_its_user_switched_off_sends_nothing_and_says_so() {
    let server = SmtpServer::start();
    let rig = rig(&server).await;
    rig.gateway("gw-1", 0, &["42"]).await;
    want(&rig, json!({ "types": { "news": { "email": false } } })).await;
    let news = post(&rig, "news", "normal").await;
    let shown = state(&rig, news, is("skipped")).await;
    assert_eq!(shown["error"], "switched_off");
    let order = post(&rig, "order", "normal").await;
    state(&rig, order, is("sent")).await;
    assert_eq!(server.mails().len(), 1);
    let live = rig.records(Topic::InApp, 0, 2).await;
    assert_eq!([live[0].head.id, live[1].head.id], [news, order]);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_app_that_is_off_is_in_the_inbox_and_not_pushed_live() {
    let server = SmtpServer::start();
    let rig = rig(&server).await;
    rig.gateway("gw-1", 0, &["42"]).await;
    want(&rig, json!({ "channels": { "in_app": false } })).await;
    // The next of the chain takes its place at once.
    let id = post(&rig, "order", "high").await;
    state(&rig, id, is("sent")).await;
    rig.routed().await;
    assert_eq!(rig.count(Topic::InApp).await, 0);
    assert_eq!(rows(&*rig.store, "42").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_mandatory_is_neither_switched_off_nor_held() {
    let server = SmtpServer::start();
    let rig = rig(&server).await;
    let mut wanted = quiet_now();
    wanted["channels"] = json!({ "email": false });
    want(&rig, wanted).await;
    for (of_type, priority) in [
        ("x", "critical"),
        ("security", "low"),
        ("two_factor", "normal"),
    ] {
        let id = post(&rig, of_type, priority).await;
        state(&rig, id, is("sent")).await;
    }
    assert_eq!(server.mails().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn quiet_hours_hold_what_leaves_and_not_what_is_shown() {
    let server = SmtpServer::start();
    let rig = rig(&server).await;
    rig.gateway("gw-1", 0, &["42"]).await;
    want(&rig, quiet_now()).await;
    let id = post(&rig, "order", "normal").await;
    let shown = state(&rig, id, |state| state["error"] == "quiet_hours").await;
    assert_eq!(
        (&shown["state"], &shown["attempts"]),
        (&json!("pending"), &json!(0))
    );
    rig.records(Topic::InApp, 0, 1).await;
    rig.routed().await;
    assert_eq!(rig.count(Topic::Email).await, 0);
    // Between 59 and 60 minutes are left.
    assert_eq!(rig.count(Topic::Retry(1800)).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_held_is_held_on_sent_or_dropped_as_its_user_wants_by_then() {
    let server = SmtpServer::start();
    let rig = rig(&server).await;
    want(&rig, quiet_now()).await;
    let id = post(&rig, "order", "normal").await;
    state(&rig, id, |state| state["error"] == "quiet_hours").await;
    rig.routed().await;
    let held = rig.all_records(Topic::Retry(1800)).await.remove(0);
    let in_5_s = async || {
        let target = Target::Keyed(Topic::Retry(5));
        rig.bus.produce(vec![(target, held.clone())]).await.unwrap();
        rig.drained("retry", Topic::Retry(5)).await;
    };
    in_5_s().await;
    eventually(|| async { (rig.count(Topic::Retry(1800)).await == 2).then_some(()) }).await;
    want(&rig, json!({ "channels": { "email": false } })).await;
    in_5_s().await;
    let shown = state(&rig, id, is("skipped")).await;
    assert_eq!(shown["error"], "switched_off");
    assert_eq!(server.mails().len(), 0);
    want(&rig, json!({})).await;
    in_5_s().await;
    state(&rig, id, is("sent")).await;
    assert_eq!(server.mails().len(), 1);
}
