//! Segments, from the upload to the inboxes of their users.

use crate::rig::{Answer, Rig, eventually, id_of, rows};
use herald::{
    api::{NotifyRequest, notifications_client::NotificationsClient, notify_request::Target},
    bus::Topic,
    dispatcher::store::Segment,
    ids::{NotificationId, SegmentId, UserId},
    limits,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

async fn post(rig: &Rig, path: &str, body: Value) -> Answer {
    rig.call(Method::POST, path, Some(body)).await
}

/// A segment of so many users, `u0` and on, uploaded in parts.
async fn uploaded(rig: &Rig, users: usize) -> String {
    let made = post(rig, "/v1/segments", json!({})).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let id = made.body["id"].as_str().unwrap().to_owned();
    let names: Vec<String> = (0..users).map(|n| format!("u{n}")).collect();
    let path = format!("/v1/segments/{id}/users");
    for part in names.chunks(1_000) {
        let added = post(rig, &path, json!({ "users": part })).await;
        assert_eq!(added.status, 200, "{}", added.body);
    }
    let shown = rig.get(&format!("/v1/segments/{id}")).await;
    assert_eq!(shown["users"], users);
    id
}

fn to(segment: &str) -> Value {
    json!({ "target": { "segment": segment }, "type": "x", "title": "to all of you" })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_user_of_a_segment_gets_one_row_under_the_one_id() {
    let rig = Rig::start().await;
    let segment = uploaded(&rig, 2_500).await;
    let answer = post(&rig, "/v1/notifications", to(&segment)).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body["durability"]),
        (202, &json!("stored"))
    );
    let id = id_of(&answer.body);
    let path = format!("/v1/notifications/{id}/progress");
    let done = eventually(|| async {
        let progress = rig.get(&path).await;
        (progress["state"] == "done").then_some(progress)
    })
    .await;
    assert_eq!(
        (&done["users"], &done["sent"]),
        (&json!(2_500), &json!(2_500))
    );
    assert_eq!(done["segment"], segment);
    rig.routed().await;
    assert_eq!(rig.count(Topic::Raw(1)).await, 2_500);
    for name in ["u0", "u999", "u2499"] {
        let rows = rows(&*rig.store, name).await;
        assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [id]);
    }
    let cancel = rig
        .call(Method::DELETE, &format!("/v1/notifications/{id}"), None)
        .await;
    assert_eq!(cancel.status, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_is_its_producers_own_and_what_is_wrong_with_it_is_named() {
    let rig = Rig::start().await;
    let segment = uploaded(&rig, 1).await;
    let other = rig.key_of("store").await;
    let path = format!("/v1/segments/{segment}");
    let hidden = rig.call_as(&other, Method::GET, &path, None, None).await;
    assert_eq!(hidden.status, 404);
    let stolen = rig.call_as(
        &other,
        Method::POST,
        "/v1/notifications",
        Some(to(&segment)),
        None,
    );
    assert_eq!(stolen.await.body["error"]["field"], "target.segment");
    for (path, body, field) in [
        ("/v1/notifications", to("x"), "target.segment"),
        (&format!("{path}/users"), json!({ "users": [] }), "users"),
        (
            &format!("{path}/users"),
            json!({ "users": ["a\nb"] }),
            "users[0]",
        ),
    ] {
        let answer = post(&rig, path, body).await;
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert_eq!(answer.body["error"]["field"], field);
    }
    assert_eq!(rig.call(Method::DELETE, &path, None).await.status, 204);
    assert_eq!(rig.call(Method::GET, &path, None).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_scheduled_for_after_the_end_of_its_segment_is_refused() {
    const DAY_MS: u64 = 24 * 3_600_000;
    let rig = Rig::start().await;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now_ms = now_ms.as_millis() as u64;
    let segment = Segment {
        id: SegmentId::generate(),
        producer: "shop".into(),
        created_ms: now_ms - 80 * DAY_MS,
    };
    rig.store.make_segment(&segment).await.unwrap();
    let mut body = to(&segment.id.0.to_string());
    for (days, status) in [(9, 202), (11, 422)] {
        body["schedule_at"] = json!(now_ms + days * DAY_MS);
        let answer = post(&rig, "/v1/notifications", body.clone()).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        if status == 422 {
            assert_eq!(answer.body["error"]["field"], "schedule_at");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_is_sent_to_by_grpc_and_at_its_time_and_until_then_it_can_be_cancelled() {
    let rig = Rig::start().await;
    let segment = uploaded(&rig, 3).await;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now_ms = now_ms.as_millis() as u64;
    let later = async |at_ms| {
        let mut body = to(&segment);
        body["schedule_at"] = json!(at_ms);
        rig.post(body).await
    };
    let (soon, never) = (later(now_ms + 3_000).await, later(now_ms + 600_000).await);
    let path = format!("/v1/notifications/{never}");
    let waiting = rig.get(&format!("{path}/progress")).await;
    assert_eq!(
        (&waiting["state"], &waiting["sent"]),
        (&json!("scheduled"), &json!(0))
    );
    assert_eq!(rig.call(Method::DELETE, &path, None).await.status, 204);
    assert_eq!(
        rig.get(&format!("{path}/progress")).await["state"],
        "cancelled"
    );

    let client = NotificationsClient::connect(rig.grpc_url()).await;
    let mut request = tonic::Request::new(NotifyRequest {
        target: Some(Target::Segment(segment.clone())),
        r#type: "x".into(),
        ..Default::default()
    });
    let bearer = format!("Bearer {}", rig.key).parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    let reply = client.unwrap().notify(request).await.unwrap().into_inner();
    assert_eq!(reply.durability, "stored");
    let at_once = reply.id.parse().unwrap();
    let sent = eventually(|| async {
        let rows = rows(&*rig.store, "u0").await;
        let ids: Vec<NotificationId> = rows.iter().map(|row| row.id).collect();
        ids.contains(&soon).then_some(ids)
    })
    .await;
    assert_eq!(sent, [at_once, soon]);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    assert!(since.as_millis() as u64 >= now_ms + 3_000);
    let path = format!("/v1/notifications/{soon}/progress");
    eventually(|| async { (rig.get(&path).await["state"] == "done").then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_is_promised_a_notification_is_not_removed_until_that_is_done_or_cancelled()
{
    let rig = Rig::start().await;
    let other = rig.key_of("store").await;
    let segment = uploaded(&rig, 2).await;
    let mut body = to(&segment);
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    body["schedule_at"] = json!(now_ms.as_millis() as u64 + 600_000);
    let id = rig.post(body).await;
    let path = format!("/v1/segments/{segment}");
    let refused = rig.call(Method::DELETE, &path, None).await;
    assert_eq!(refused.status, 409, "{}", refused.body);
    assert_eq!(rig.get(&path).await["users"], 2);

    let send = format!("/v1/notifications/{id}");
    let stranger = rig.call_as(&other, Method::DELETE, &send, None, None).await;
    assert_eq!(stranger.status, 404, "{}", stranger.body);
    let progress = format!("{send}/progress");
    let stranger = rig
        .call_as(&other, Method::GET, &progress, None, None)
        .await;
    assert_eq!(stranger.status, 404, "{}", stranger.body);
    assert_eq!(rig.get(&progress).await["state"], "scheduled");
    assert_eq!(rig.call(Method::DELETE, &send, None).await.status, 204);
    assert_eq!(rig.call(Method::DELETE, &path, None).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_to_a_segment_that_was_removed_under_it_does_not_say_that_it_is_done() {
    let rig = Rig::start().await;
    let segment = uploaded(&rig, 2).await;
    let mut body = to(&segment);
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    body["schedule_at"] = json!(now_ms.as_millis() as u64 + 1_000);
    let id = rig.post(body).await;
    // As by a dispatcher that looked just before.
    let removed = rig.store.remove_segment(segment.parse().unwrap()).await;
    assert_eq!(removed, Ok(true));
    let path = format!("/v1/notifications/{id}/progress");
    let ended = eventually(|| async {
        let progress = rig.get(&path).await;
        let waits = progress["state"] == "scheduled" || progress["state"] == "running";
        (!waits).then_some(progress)
    })
    .await;
    assert_eq!(
        (&ended["state"], &ended["sent"]),
        (&json!("cancelled"), &json!(0))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_of_what_was_accepted_gets_its_answer_also_when_the_segment_is_gone() {
    let rig = Rig::start().await;
    let segment = uploaded(&rig, 1).await;
    let send = async |key: &str| {
        let (method, path) = (Method::POST, "/v1/notifications");
        rig.call_as(&rig.key, method, path, Some(to(&segment)), Some(key))
            .await
    };
    let first = send("k").await;
    assert_eq!(first.status, 202, "{}", first.body);
    let path = format!("/v1/notifications/{}/progress", id_of(&first.body));
    eventually(|| async { (rig.get(&path).await["state"] == "done").then_some(()) }).await;
    let path = format!("/v1/segments/{segment}");
    assert_eq!(rig.call(Method::DELETE, &path, None).await.status, 204);

    let again = send("k").await;
    assert_eq!((again.status, again.body), (first.status, first.body));
    for _ in 0..2 {
        let fresh = send("another").await;
        assert_eq!(fresh.status, 422, "{}", fresh.body);
        assert_eq!(fresh.body["error"]["field"], "target.segment");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_part_of_a_full_segment_may_come_again_and_nobody_else_fits_in() {
    let rig = Rig::start().await;
    let segment = uploaded(&rig, 2).await;
    let id = SegmentId(segment.parse().unwrap());
    let names = |from: u64, to: u64| (from..to).map(|n| format!("u{n}"));
    for from in (0..limits::SEGMENT_USERS).step_by(100_000) {
        let users = names(from, from + 100_000).map(|name| name.parse().unwrap());
        let users: Vec<UserId> = users.collect();
        rig.store.add_to_segment(id, &users, 1).await.unwrap();
    }
    let path = format!("/v1/segments/{segment}/users");
    let last: Vec<String> = names(limits::SEGMENT_USERS - 5_000, limits::SEGMENT_USERS).collect();
    let again = post(&rig, &path, json!({ "users": last })).await;
    assert_eq!(again.status, 200, "{}", again.body);
    assert_eq!(again.body["users"], limits::SEGMENT_USERS);
    let more = post(&rig, &path, json!({ "users": [last[0], "another"] })).await;
    assert_eq!(more.status, 413, "{}", more.body);
}
