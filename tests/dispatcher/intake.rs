//! Posting: what is taken, what is refused, and what an idempotency key promises.

use crate::rig::{Rig, id_of};
use herald::{api, bus::Topic};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::HashSet;

fn order(title: &str) -> Value {
    json!({ "target": { "user": "42" }, "type": "order", "title": title })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_notification_stands_on_the_bus_when_it_is_answered() {
    let rig = Rig::start().await;
    let answer = rig
        .call(Method::POST, "/v1/notifications", Some(order("one")))
        .await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.body["durability"], "bus");
    id_of(&answer.body);
    assert_eq!(rig.count(Topic::Raw(1)).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_the_field_and_write_nothing() {
    let rig = Rig::start().await;
    let cases = [
        (json!({ "type": "x" }), 422, "bad_field", "target"),
        (
            json!({ "target": { "user": "" }, "type": "x" }),
            422,
            "bad_field",
            "target.user",
        ),
        (
            json!({ "target": { "user": "1" }, "type": "x", "schedule_at": "soon" }),
            422,
            "bad_field",
            "schedule_at",
        ),
        (
            json!({ "target": { "all": true }, "type": "x", "channels": ["push"] }),
            422,
            "unsupported",
            "channels[0]",
        ),
        (
            json!({ "target": { "user": "1" }, "type": "x", "body": "b".repeat(40_000) }),
            413,
            "too_large",
            "body",
        ),
        (
            json!({ "target": { "users": vec!["u"; 10_001] }, "type": "x" }),
            413,
            "too_large",
            "target.users",
        ),
        (
            json!({ "target": { "user": "1" }, "type": "x", "body": "b".repeat(3_000_000) }),
            413,
            "too_large",
            "body",
        ),
    ];
    for (body, status, code, field) in cases {
        let answer = rig
            .call(Method::POST, "/v1/notifications", Some(body))
            .await;
        let error = &answer.body["error"];
        assert_eq!(answer.status, status, "{error}");
        assert_eq!(
            (&error["code"], &error["field"]),
            (&json!(code), &json!(field))
        );
        assert!(error["message"].is_string());
    }
    let answer = rig
        .call(Method::POST, "/v1/notifications", Some(json!([1])))
        .await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.body["error"]["code"], "bad_json");
    for topic in [Topic::Raw(1), Topic::FanOut, Topic::FanOutAll] {
        assert_eq!(rig.count(topic).await, 0);
    }
    assert!(
        rig.metrics
            .render()
            .contains("herald_intake_total{priority=\"unknown\",result=\"unsupported\"} 1")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_known_key_nothing_is_answered() {
    let rig = Rig::start().await;
    for key in ["", "herald_wrong"] {
        let answer = rig
            .call_as(
                key,
                Method::POST,
                "/v1/notifications",
                Some(order("x")),
                None,
            )
            .await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.body["error"]["code"], "unauthorized");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_posts_at_once_under_one_key_are_one_notification() {
    let rig = Rig::start().await;
    let gateway = rig.gateway("gw-1", 0, &["42"]).await;
    let posts = (0..100).map(|_| {
        rig.call_as(
            &rig.key,
            Method::POST,
            "/v1/notifications",
            Some(order("once")),
            Some("order-7"),
        )
    });
    let answers = futures::future::join_all(posts).await;
    let ids: HashSet<_> = answers
        .iter()
        .map(|answer| {
            assert_eq!(answer.status, 202, "{}", answer.body);
            id_of(&answer.body)
        })
        .collect();
    assert_eq!(ids.len(), 1);
    rig.routed().await;
    let rows = crate::rig::rows(&*rig.store, "42").await;
    assert_eq!(rows.len(), 1);
    let pushed = rig.records(Topic::InApp, 0, 1).await;
    assert!(pushed.iter().all(|routed| routed.pos == rows[0].pos));
    drop(gateway);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_key_answers_the_same_id_and_writes_nothing_more() {
    let rig = Rig::start().await;
    let post = |body| {
        rig.call_as(
            &rig.key,
            Method::POST,
            "/v1/notifications",
            Some(body),
            Some("k"),
        )
    };
    let first = post(order("one")).await;
    let second = post(order("one")).await;
    assert_eq!(first.body["id"], second.body["id"]);
    assert_eq!(rig.count(Topic::Raw(1)).await, 1);
    let other = post(order("two")).await;
    assert_eq!(other.status, 409);
    assert_eq!(other.body["error"]["code"], "idempotency_conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_reaches_every_user_under_one_id_and_is_one_record() {
    let rig = Rig::start().await;
    let id = rig
        .post(json!({ "target": { "users": ["a", "b", "c", "a"] }, "type": "x" }))
        .await;
    assert_eq!(rig.count(Topic::FanOut).await, 1);
    rig.drained("fan_out", Topic::FanOut).await;
    rig.routed().await;
    for user in ["a", "b", "c"] {
        let rows = crate::rig::rows(&*rig.store, user).await;
        assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [id]);
    }
    assert_eq!(rig.count(Topic::Raw(1)).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_is_the_same_door() {
    let rig = Rig::start().await;
    let mut client = api::notifications_client::NotificationsClient::connect(rig.grpc_url())
        .await
        .unwrap();
    let request = |title: &str, key: &str| {
        let mut request = tonic::Request::new(api::NotifyRequest {
            target: Some(api::notify_request::Target::User("42".into())),
            r#type: "order".into(),
            title: title.into(),
            data_json: "{\"n\":1}".into(),
            idempotency_key: "k".into(),
            ..Default::default()
        });
        let value = format!("Bearer {key}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        request
    };
    let reply = client.notify(request("one", &rig.key)).await.unwrap();
    assert_eq!(reply.into_inner().durability, "bus");
    let code = |result: Result<_, tonic::Status>| result.map(|_| ()).unwrap_err().code();
    let conflict = client.notify(request("two", &rig.key)).await;
    assert_eq!(code(conflict), tonic::Code::AlreadyExists);
    let unknown = client.notify(request("one", "herald_wrong")).await;
    assert_eq!(code(unknown), tonic::Code::Unauthenticated);
    // The same request by the other door is the same request.
    let body =
        json!({ "target": { "user": "42" }, "type": "order", "title": "one", "data": { "n": 1 } });
    let again = rig
        .call_as(
            &rig.key,
            Method::POST,
            "/v1/notifications",
            Some(body),
            Some("k"),
        )
        .await;
    assert_eq!(again.status, 202);
    assert_eq!(rig.count(Topic::Raw(1)).await, 1);
}
