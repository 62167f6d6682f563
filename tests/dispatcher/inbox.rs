//! The inbox API, and what `ctl` asks.

use crate::rig::{Rig, eventually};
use herald::bus::Topic;
use reqwest::Method;
use serde_json::{Value, json};

async fn settled(rig: &Rig) {
    rig.routed().await;
    rig.drained("broadcast", Topic::FanOutAll).await;
}

fn titles(body: &Value) -> Vec<&str> {
    let items = body["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["title"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_newest_first_with_broadcasts_among_them() {
    let rig = Rig::start().await;
    rig.post_to("42", "1").await;
    rig.post(json!({ "target": { "all": true }, "type": "x", "title": "2" }))
        .await;
    for title in ["3", "4", "5"] {
        rig.post_to("42", title).await;
    }
    settled(&rig).await;
    let first = rig.get("/v1/users/42/notifications?limit=2").await;
    assert_eq!(titles(&first), ["5", "4"]);
    assert_eq!(first["unread"], 5);
    let cursor = first["next"].as_str().unwrap();
    let second = rig
        .get(&format!(
            "/v1/users/42/notifications?limit=2&cursor={cursor}"
        ))
        .await;
    assert_eq!(titles(&second), ["3", "2"]);
    assert_eq!(second["items"][1]["stream"], "all:local");
    let cursor = second["next"].as_str().unwrap();
    let third = rig
        .get(&format!(
            "/v1/users/42/notifications?limit=2&cursor={cursor}"
        ))
        .await;
    assert_eq!(titles(&third), ["1"]);
    assert_eq!(third["next"], Value::Null);
    assert_eq!(third["items"][0]["data"], json!({}));
    assert_eq!(third["items"][0]["read"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn data_comes_back_byte_for_byte() {
    let rig = Rig::start().await;
    let data = r#"{"z":1.50,"a": 12345678901234567890123,"e":1E2,"u":"\u0041","a":0}"#;
    let body = format!(r#"{{"target":{{"user":"42"}},"type":"x","data":{data}}}"#);
    let answer = rig.post_text(&body).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    settled(&rig).await;
    let page = rig.get_text("/v1/users/42/notifications").await;
    assert!(page.contains(&format!(r#""data":{data},"#)), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_shows_in_the_inbox_for_both_streams() {
    let rig = Rig::start().await;
    let own = rig.post_to("42", "own").await;
    let all = rig
        .post(json!({ "target": { "all": true }, "type": "x", "title": "all" }))
        .await;
    settled(&rig).await;
    let answer = rig
        .call(
            Method::POST,
            "/v1/users/42/read",
            Some(json!({ "ids": [own, all] })),
        )
        .await;
    assert_eq!(answer.status, 202);
    eventually(|| async {
        let body = rig.get("/v1/users/42/notifications").await;
        (body["unread"] == 0).then_some(())
    })
    .await;
    // Within one answer the count is younger than the items: only the next one's are all read.
    let body = rig.get("/v1/users/42/notifications").await;
    let items = body["items"].as_array().unwrap();
    assert!(items.iter().all(|item| item["read"] == true));
    // Another user has not read it.
    assert_eq!(
        rig.get("/v1/users/43/notifications").await["items"][0]["read"],
        false
    );
    // Read before: nothing is left to mark.
    let again = rig
        .call(
            Method::POST,
            "/v1/users/42/read",
            Some(json!({ "ids": [own, all] })),
        )
        .await;
    assert_eq!(
        (again.status.as_u16(), &again.body["id"]),
        (202, &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_what_the_user_does_not_have_is_told() {
    let rig = Rig::start().await;
    let own = rig.post_to("42", "own").await;
    let others = rig.post_to("43", "another's").await;
    settled(&rig).await;
    let unknown = herald::ids::NotificationId::generate();
    let read = |ids| {
        let body = Some(json!({ "ids": ids }));
        rig.call(Method::POST, "/v1/users/42/read", body)
    };
    let none = read(vec![others, unknown]).await;
    assert_eq!(none.status, 404, "{}", none.body);
    let some = read(vec![others, own, unknown]).await;
    assert_eq!(some.status, 202, "{}", some.body);
    assert!(some.body["id"].is_string(), "{}", some.body);
    assert_eq!(some.body["unknown"], json!([others, unknown]));
    settled(&rig).await;
    // Nothing is left to mark, and the same ids are not the user's.
    let again = read(vec![own, unknown]).await;
    assert_eq!(again.status, 202, "{}", again.body);
    assert_eq!(again.body, json!({ "id": null, "unknown": [unknown] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_paths_and_queries_are_named() {
    let rig = Rig::start().await;
    for (method, path, status, field) in [
        (
            Method::GET,
            "/v1/users/42/notifications?limit=0",
            422,
            json!("limit"),
        ),
        (
            Method::GET,
            "/v1/users/42/notifications?limit=x",
            422,
            json!("limit"),
        ),
        (
            Method::GET,
            "/v1/users/42/notifications?cursor=x",
            422,
            json!("cursor"),
        ),
        (
            Method::GET,
            "/v1/users/a%0Ab/notifications",
            422,
            json!("user"),
        ),
        (
            Method::GET,
            "/v1/notifications/7/delivery",
            422,
            json!("id"),
        ),
        (Method::GET, "/v1/nothing", 404, Value::Null),
        (Method::GET, "/", 404, Value::Null),
        (Method::DELETE, "/v1/notifications", 405, Value::Null),
    ] {
        let answer = rig.call(method, path, None).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(
            answer.body["error"]["field"], field,
            "{path}: {}",
            answer.body
        );
    }
    for (body, field) in [
        (json!({ "ids": [] }), json!("ids")),
        (json!({ "ids": ["7"] }), json!("ids[0]")),
    ] {
        let answer = rig
            .call(Method::POST, "/v1/users/42/read", Some(body))
            .await;
        assert_eq!(answer.body["error"]["field"], field);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_shown_with_routes_unread_and_what_became_of_the_last_ones() {
    let rig = Rig::start().await;
    let gateway = rig.gateway("gw-1", 3, &["42"]).await;
    let id = rig.post_to("42", "one").await;
    rig.routed().await;
    let body = rig.get("/v1/users/42").await;
    assert_eq!(body["connected"], true);
    assert_eq!(body["routes"][0]["gateway"], "gw-1");
    assert_eq!(body["routes"][0]["epoch"], gateway.epoch);
    assert_eq!(body["routes"][0]["shard"], 3);
    assert_eq!(body["unread"], 1);
    assert_eq!(body["recent"][0]["id"], json!(id));
    assert_eq!(body["recent"][0]["state"], "pending");
    assert_eq!(rig.get("/v1/users/43").await["connected"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_the_fleet_and_its_parts() {
    let rig = Rig::start().await;
    rig.gateway("gw-1", 3, &["42"]).await;
    let body = rig.get("/v1/status").await;
    assert_eq!(body["region"], "local");
    assert_eq!(
        body["parts"],
        json!({ "bus": "ok", "registry": "ok", "store": "ok" })
    );
    assert_eq!(body["gateways"][0]["gateway"], "gw-1");
    assert_eq!(body["gateways"][0]["connections"], 1);
    assert!(body["shards"].is_array());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_by_admins_shown_once_and_work() {
    let rig = Rig::start().await;
    let new = Some(json!({ "producer": "billing" }));
    let refused = rig.call(Method::POST, "/v1/api-keys", new.clone()).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.body["error"]["code"]),
        (403, &json!("forbidden"))
    );
    let admin = |method, body| rig.call_as(&rig.admin_key, method, "/v1/api-keys", body, None);
    let made = admin(Method::POST, new).await;
    assert_eq!(made.status, 201);
    let key = made.body["key"].as_str().unwrap();
    let works = rig
        .call_as(key, Method::GET, "/v1/status", None, None)
        .await;
    assert_eq!(works.status, 200);
    let listed = admin(Method::GET, None).await;
    assert_eq!(listed.body["keys"].as_array().unwrap().len(), 3);
    assert!(!listed.body.to_string().contains(key));
    let bad = admin(Method::POST, Some(json!({ "producer": "No Such" }))).await;
    assert_eq!(
        (bad.status.as_u16(), &bad.body["error"]["field"]),
        (422, &json!("producer"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_that_its_user_dismissed_is_shown_to_the_others_only() {
    let rig = Rig::start().await;
    let own = rig.post_to("42", "own").await;
    let all = rig
        .post(json!({ "target": { "all": true }, "type": "x", "title": "all" }))
        .await;
    settled(&rig).await;
    let dismiss = async |ids: Value| {
        let path = "/v1/users/42/dismiss";
        rig.call(Method::POST, path, Some(json!({ "ids": ids })))
            .await
    };
    assert_eq!(dismiss(json!([own])).await.status, 404);
    let answer = dismiss(json!([own, all])).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body["unknown"]),
        (200, &json!([own]))
    );
    let page = rig.get("/v1/users/42/notifications").await;
    assert_eq!((titles(&page), &page["unread"]), (vec!["own"], &json!(1)));
    let page = rig.get("/v1/users/43/notifications").await;
    assert_eq!((titles(&page), &page["unread"]), (vec!["all"], &json!(1)));
    // A sync covers it and does not show it.
    let cursors = [("user:local", 0), ("all:local", 0)];
    let reply = rig.sync("42", &cursors).await;
    assert!(reply.recovered);
    let frames = reply.items.iter().map(|one| String::from_utf8_lossy(one));
    let frames: Vec<_> = frames.collect();
    assert!(
        frames.iter().all(|frame| !frame.contains(&all.to_string())),
        "{frames:?}"
    );
    let cursor = reply
        .cursors
        .iter()
        .find(|(stream, _)| *stream == "all:local");
    assert!(*cursor.unwrap().1 > 0);
    assert_eq!(rig.sync("43", &cursors).await.items.len(), 1);
}
