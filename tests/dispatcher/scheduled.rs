//! What is to be sent later: kept, entered when it is due, cancellable until then.

use crate::rig::{Answer, Rig, eventually, id_of, rows};
use herald::{bus::Topic, ids::NotificationId};
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};

fn in_ms(ms: i64) -> u64 {
    let at = Timestamp::now() + SignedDuration::from_millis(ms);
    at.as_millisecond() as u64
}

fn hour() -> u64 {
    in_ms(3_600_000)
}

fn body(target: Value, schedule_at: impl Into<Value>) -> Value {
    json!({ "target": target, "type": "x", "title": "t", "ttl_s": 60, "schedule_at": schedule_at.into() })
}

async fn schedule(rig: &Rig, target: Value, schedule_at: impl Into<Value>) -> NotificationId {
    let body = Some(body(target, schedule_at));
    let answer = rig.call(Method::POST, "/v1/notifications", body).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert_eq!(answer.body["durability"], "stored");
    id_of(&answer.body)
}

async fn cancel(rig: &Rig, id: NotificationId) -> Answer {
    let path = format!("/v1/notifications/{id}");
    rig.call(Method::DELETE, &path, None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_scheduled_enters_when_it_is_due_and_its_time_begins_then() {
    let mut rig = Rig::start().await;
    rig.gateway("gw-1", 0, &["42"]).await;
    let due_ms = in_ms(1_500);
    let id = schedule(&rig, json!({ "user": "42" }), due_ms).await;
    let path = format!("/v1/notifications/{id}/delivery");
    assert_eq!(rig.get(&path).await["scheduled_at"], due_ms);
    // It stands in the store, not in whoever took it.
    rig.restart().await;
    let live = rig.records(Topic::InApp, 0, 1).await.remove(0);
    assert_eq!((live.head.id, live.head.created_ms), (id, due_ms));
    assert_eq!(live.head.expires_ms, Some(due_ms + 60_000));
    assert!(in_ms(0) >= due_ms);
    eventually(|| async {
        let body = rig.get(&path).await;
        (body["states"][0]["state"] == "pending").then_some(())
    })
    .await;
    eventually(|| async { (cancel(&rig, id).await.status == 404).then_some(()) }).await;
    assert_eq!(rig.count(Topic::Raw(1)).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_and_everyone_are_scheduled_too() {
    let rig = Rig::start().await;
    let at = Timestamp::now() + SignedDuration::from_millis(800);
    let to_list = schedule(&rig, json!({ "users": ["1", "2"] }), at.to_string()).await;
    let to_all = schedule(&rig, json!({ "all": true }), in_ms(800)).await;
    for user in ["1", "2"] {
        eventually(|| async {
            let rows = rows(&*rig.store, user).await;
            (rows.len() == 1 && rows[0].id == to_list).then_some(())
        })
        .await;
    }
    eventually(|| async { rig.store.broadcast_position(to_all).await.unwrap() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_is_never_sent() {
    let rig = Rig::start().await;
    let id = schedule(&rig, json!({ "user": "42" }), in_ms(1_000)).await;
    let after = schedule(&rig, json!({ "user": "42" }), in_ms(1_200)).await;
    assert_eq!(cancel(&rig, id).await.status, 204);
    assert_eq!(cancel(&rig, id).await.status, 404);
    let entered = eventually(|| async {
        let rows = rows(&*rig.store, "42").await;
        (!rows.is_empty()).then_some(rows)
    })
    .await;
    let entered: Vec<NotificationId> = entered.iter().map(|row| row.id).collect();
    assert_eq!(entered, [after]);
    let metrics = rig.metrics.render();
    for line in [
        r#"scheduled_total{result="accepted"} 2"#,
        r#"scheduled_total{result="cancelled"} 1"#,
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_cancels_what_another_producer_has_scheduled_but_an_admin() {
    let rig = Rig::start().await;
    let other = rig.key_of("store").await;
    let to_one = schedule(&rig, json!({ "user": "42" }), hour()).await;
    let to_list = schedule(&rig, json!({ "users": ["1", "2"] }), hour()).await;
    for id in [to_one, to_list] {
        let path = format!("/v1/notifications/{id}");
        let delete = async |key: &str| {
            let answer = rig.call_as(key, Method::DELETE, &path, None, None).await;
            answer.status
        };
        assert_eq!(delete(&other).await, 404);
        assert!(rig.store.scheduled(id).await.unwrap().is_some());
        assert_eq!(delete(&rig.admin_key).await, 204);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_has_taken_is_on_its_way() {
    let rig = Rig::start().await;
    let id = schedule(&rig, json!({ "user": "42" }), hour()).await;
    // As another dispatcher that is about to send it.
    rig.store.take_due(hour() + 1, hour(), 9).await.unwrap();
    let answer = cancel(&rig, id).await;
    assert_eq!(answer.status, 409, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_key_schedules_once_and_another_time_is_another_body() {
    let rig = Rig::start().await;
    let at = hour();
    let post = async |at: u64| {
        let body = Some(body(json!({ "user": "42" }), at));
        let path = "/v1/notifications";
        rig.call_as(&rig.key, Method::POST, path, body, Some("k"))
            .await
    };
    let (first, second) = (post(at).await, post(at).await);
    assert_eq!((first.status.as_u16(), &first.body), (202, &second.body));
    assert_eq!(post(at + 1).await.status, 409);
    // Cancelled, it stays so: a retry that is late does not bring it back.
    assert_eq!(cancel(&rig, id_of(&first.body)).await.status, 204);
    let third = post(at).await;
    assert_eq!((third.status.as_u16(), &third.body), (202, &first.body));
    assert_eq!(cancel(&rig, id_of(&first.body)).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_is_over_or_too_far_away_is_refused_by_name() {
    let rig = Rig::start().await;
    for at in [1_798_131_600, hour() * 1000, in_ms(31 * 24 * 3_600_000)] {
        let body = Some(body(json!({ "user": "42" }), at));
        let answer = rig.call(Method::POST, "/v1/notifications", body).await;
        assert_eq!(answer.status, 422, "{at}");
        assert_eq!(answer.body["error"]["field"], "schedule_at");
    }
    // Only just over: at once.
    let just_over = body(json!({ "user": "42" }), in_ms(-100));
    rig.post(just_over).await;
    rig.routed().await;
    assert_eq!(rows(&*rig.store, "42").await.len(), 1);
}
