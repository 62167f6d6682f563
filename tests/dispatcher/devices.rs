//! Addresses and devices by the API.

use crate::rig::Rig;
use herald::limits;
use reqwest::Method;
use serde_json::{Value, json};

fn email(address: &str) -> Option<Value> {
    Some(json!({ "kind": "email", "address": address }))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_entered_shown_replaced_and_deleted() {
    let rig = Rig::start().await;
    let path = "/v1/users/a%2Fb/devices/work";
    let answer = rig.call(Method::PUT, path, email("ada@example.com")).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let shown = rig.get(path).await;
    assert_eq!(shown, answer.body);
    assert_eq!(shown["id"], "work");
    assert_eq!(shown["kind"], "email");
    assert_eq!(shown["address"], "ada@example.com");
    let listed = rig.get("/v1/users/a%2Fb/devices").await;
    assert_eq!(listed, json!({ "devices": [shown] }));

    let answer = rig.call(Method::PUT, path, email("new@example.com")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(rig.get(path).await["address"], "new@example.com");

    let answer = rig.call(Method::DELETE, path, None).await;
    assert_eq!(answer.status, 204);
    for method in [Method::GET, Method::DELETE] {
        let answer = rig.call(method, path, None).await;
        assert_eq!(answer.status, 404);
        assert_eq!(answer.body["error"]["code"], "not_found");
    }
    let listed = rig.get("/v1/users/a%2Fb/devices").await;
    assert_eq!(listed, json!({ "devices": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_device_is_named() {
    let rig = Rig::start().await;
    for (path, body, field) in [
        ("/v1/users/1/devices/a", email("nobody"), "address"),
        (
            "/v1/users/1/devices/a",
            Some(json!({ "kind": "pigeon", "address": "x" })),
            "kind",
        ),
        ("/v1/users/1/devices/a.b", email("ada@example.com"), "id"),
        ("/v1/users/%0a/devices/a", email("ada@example.com"), "user"),
    ] {
        let answer = rig.call(Method::PUT, path, body).await;
        assert_eq!(answer.status, 422, "{path}: {}", answer.body);
        assert_eq!(answer.body["error"]["field"], field, "{path}");
    }
    let nobody = rig.call_as(
        "wrong",
        Method::PUT,
        "/v1/users/1/devices/a",
        email("a@b.example"),
        None,
    );
    assert_eq!(nobody.await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_no_more_devices_than_the_limit() {
    let rig = Rig::start().await;
    for n in 0..limits::DEVICES {
        let path = format!("/v1/users/1/devices/{n}");
        let answer = rig.call(Method::PUT, &path, email("ada@example.com")).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
    let path = "/v1/users/1/devices/more";
    let answer = rig.call(Method::PUT, path, email("ada@example.com")).await;
    assert_eq!(answer.status, 422);
    assert_eq!(answer.body["error"]["field"], "id");
    let path = "/v1/users/2/devices/more";
    let answer = rig.call(Method::PUT, path, email("ada@example.com")).await;
    assert_eq!(answer.status, 201, "another user's do not count");
}
