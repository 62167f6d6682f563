//! Orders about gateways that would leave clients without one.

use crate::rig::{Answer, Rig};
use herald::registry::GatewayInfo;
use reqwest::Method;
use serde_json::{Value, json};

/// A gateway that nobody answers for: an order that is let through ends there.
async fn enter(rig: &Rig, id: &str, connections: u64, room: u64, draining: bool) {
    enter_at(rig, "127.0.0.1:1", id, connections, room, draining).await;
}

async fn enter_at(rig: &Rig, grpc: &str, id: &str, connections: u64, room: u64, draining: bool) {
    let info = GatewayInfo {
        grpc: grpc.into(),
        shard: None,
        connections,
        accepts_limit_per_s: 5_000,
        spare_accepts_per_s: 5_000,
        room: Some(room),
        region: "local".parse().unwrap(),
        draining,
    };
    let id = id.parse().unwrap();
    let entered = rig.registry.acquire_gateway(&id, "test", &info).await;
    entered.unwrap();
}

async fn order(rig: &Rig, path: &str, body: Value) -> Answer {
    let key = &rig.admin_key;
    rig.call_as(key, Method::POST, path, Some(body), None).await
}

fn said(answer: &Answer) -> (u16, String) {
    let error = &answer.body["error"];
    let text = format!("{}: {}", error["code"], error["message"]);
    (answer.status.as_u16(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_others_have_no_room_for_has_to_be_forced() {
    let rig = Rig::start().await;
    let drain = "/v1/gateways/gw-1/drain";
    enter(&rig, "gw-1", 450, 1_000, false).await;
    let (status, text) = said(&order(&rig, drain, json!({})).await);
    assert_eq!(status, 409, "{text}");
    for words in ["no_room", "only one in local", "450 clients", "--force"] {
        assert!(text.contains(words), "{text}");
    }
    enter(&rig, "gw-2", 0, 9_000, true).await;
    assert_eq!(order(&rig, drain, json!({})).await.status, 409);
    enter(&rig, "gw-3", 0, 449, false).await;
    let (status, text) = said(&order(&rig, drain, json!({ "force": false })).await);
    assert_eq!(status, 409, "{text}");
    assert!(text.contains("have room for 449"), "{text}");
    let (status, text) = said(&order(&rig, drain, json!({ "force": true })).await);
    assert_eq!(status, 502, "let through: {text}");
    enter(&rig, "gw-4", 0, 1, false).await;
    let (status, text) = said(&order(&rig, drain, json!({})).await);
    assert_eq!(status, 502, "let through: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_is_neither_drained_nor_rebalanced_and_says_how_it_leaves() {
    let rig = Rig::start().await;
    enter_at(&rig, "", "gw-1", 3, 9, false).await;
    for (path, body) in [
        ("/v1/gateways/gw-1/drain", json!({})),
        ("/v1/gateways/gw-1/drain", json!({ "force": true })),
        ("/v1/rebalance", json!({})),
    ] {
        let (status, text) = said(&order(&rig, path, body).await);
        assert_eq!(status, 409, "{path}: {text}");
        assert!(text.contains("SIGTERM"), "{path}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn room_that_a_drain_under_way_needs_is_not_counted_twice() {
    let rig = Rig::start().await;
    enter(&rig, "gw-1", 100, 0, true).await;
    enter(&rig, "gw-2", 100, 60, false).await;
    enter(&rig, "gw-3", 100, 199, false).await;
    let drain = "/v1/gateways/gw-2/drain";
    let (status, text) = said(&order(&rig, drain, json!({})).await);
    assert_eq!(status, 409, "{text}");
    for words in [
        "has 100 clients",
        "room for 199",
        "100 clients of gateways that are being drained",
    ] {
        assert!(text.contains(words), "{text}");
    }
    enter(&rig, "gw-4", 0, 1, false).await;
    let (status, text) = said(&order(&rig, drain, json!({})).await);
    assert_eq!(status, 502, "let through: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_bounded_and_a_refusal_names_the_bounds() {
    let rig = Rig::start().await;
    for deadline_s in [0, 3_601, u64::MAX] {
        let body = json!({ "deadline_s": deadline_s });
        let (status, text) = said(&order(&rig, "/v1/gateways/gw-1/drain", body).await);
        assert_eq!(status, 422, "{text}");
        assert!(text.contains("1 to 3600 seconds"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebalance_among_nobody_says_so() {
    let rig = Rig::start().await;
    let (status, text) = said(&order(&rig, "/v1/rebalance", json!({})).await);
    assert_eq!(status, 409, "{text}");
    assert!(text.contains("no gateway lives"), "{text}");
    enter(&rig, "gw-1", 0, 0, true).await;
    enter(&rig, "gw-2", 0, 0, true).await;
    let (status, text) = said(&order(&rig, "/v1/rebalance", json!({})).await);
    assert_eq!(status, 409, "{text}");
    for words in ["gw-1, gw-2 are drained", "--cancel"] {
        assert!(text.contains(words), "{text}");
    }
}
