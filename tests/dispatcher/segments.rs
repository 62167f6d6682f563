//! Segments, from the upload to the inboxes of their users.

use crate::rig::{Answer, Rig, eventually, id_of, rows};
use herald::{bus::Topic, dispatcher::api_keys};
use reqwest::Method;
use serde_json::{Value, json};

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
    let (other, stored) = api_keys::generate("store", false, 1).unwrap();
    rig.store.put_api_key(stored).await.unwrap();
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
    let mut later = to(&segment);
    later["schedule_at"] = json!(4_000_000_000_000u64);
    for (path, body, field) in [
        ("/v1/notifications", to("x"), "target.segment"),
        ("/v1/notifications", later, "schedule_at"),
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
