//! The document of the API, and the service that it is of.

use crate::{
    draining::{enter_at, open_door},
    email::{enter, relay, state},
    rig::{Rig, Sending, contract, eventually, is},
};
use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use herald::{
    bus::Topic, config, dispatcher::channel::Channels, registry::embedded::EmbeddedRegistry,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use testbed::{SmtpServer, openapi};

const METHODS: [Method; 5] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::PATCH,
];

/// With something in the place of each parameter.
fn filled(template: &str) -> String {
    let parts = template.split('/').map(|part| match part.starts_with('{') {
        true => "1",
        false => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

/// "GET /v1/…" of all that is described.
fn operations() -> BTreeSet<String> {
    let paths = contract::DOCUMENT["paths"].as_object().unwrap();
    let of_path = |(template, operations): (&String, &Value)| {
        let methods = operations.as_object().unwrap().keys();
        let names = methods.map(|method| format!("{} {template}", method.to_uppercase()));
        names.collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_served_to_everyone_and_is_openapi_3_1() {
    let rig = Rig::start().await;
    let url = format!("http://{}/openapi.json", rig.addresses.http);
    let response = reqwest::get(url).await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    let text = response.text().await.unwrap();
    let served: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(served, *contract::DOCUMENT);
    openapi::judge(&text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_takes_the_methods_that_are_described_and_no_others() {
    let rig = Rig::start().await;
    let described = operations();
    for template in contract::DOCUMENT["paths"].as_object().unwrap().keys() {
        for method in METHODS {
            let url = format!("http://{}{}", rig.addresses.http, filled(template));
            let request = reqwest::Client::new().request(method.clone(), url);
            let status = request.send().await.unwrap().status().as_u16();
            let name = format!("{method} {template}");
            assert_eq!(described.contains(&name), status != 405, "{name}: {status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_key_is_said_and_what_needs_an_admin_key() {
    let rig = Rig::start().await;
    for (template, operations) in contract::DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let path = filled(template);
            let as_nobody = rig
                .call_as("", method.clone(), &path, None, None)
                .await
                .status;
            let is_open = operation["security"] == json!([]);
            assert_eq!(
                as_nobody == 401,
                !is_open,
                "{method} {template}: {as_nobody}"
            );
            let as_shop = rig.call(method.clone(), &path, None).await.status;
            let is_admins = operation["description"] == "For admin keys.";
            // What is signed is refused so too.
            let is_refused = as_shop == 403 && !is_open;
            assert_eq!(is_refused, is_admins, "{method} {template}: {as_shop}");
        }
    }
}

const SECRET: &str = "one-that-nobody-guesses-in-a-hurry";

/// A dispatcher that sends mails, which have links, and is told of them.
async fn rig(server: &SmtpServer) -> Rig {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), SECRET).unwrap();
    let channels = config::Channels {
        email: config::Email {
            unsubscribe_url: Some("https://notify.example.com".into()),
            unsubscribe_key_file: Some(file.path().to_owned()),
            events_secret_file: Some(file.path().to_owned()),
            ..relay(server.address())
        },
        ..config::Channels::default()
    };
    let sending = Sending {
        channels: Channels::from_config(&channels).unwrap(),
        ..Sending::default()
    };
    Rig::sending(sending, Arc::new(EmbeddedRegistry::default())).await
}

async fn as_admin(rig: &Rig, method: Method, path: &str, body: Option<Value>) -> Value {
    let answer = rig.call_as(&rig.admin_key, method, path, body, None).await;
    assert!(
        answer.status.is_success(),
        "{path}: {} {}",
        answer.status,
        answer.body
    );
    answer.body
}

async fn call(rig: &Rig, method: Method, path: &str, body: Option<Value>) -> Value {
    let answer = rig.call(method, path, body).await;
    assert!(
        answer.status.is_success(),
        "{path}: {} {}",
        answer.status,
        answer.body
    );
    answer.body
}

async fn producers(rig: &Rig) {
    let later = json!({
        "target": { "user": "42" }, "type": "x", "schedule_at": "2126-12-24T18:00:00+01:00", "title": null
    });
    assert_eq!(
        rig.call(Method::POST, "/v1/notifications", Some(later))
            .await
            .status,
        422
    );
    let soon_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis()
        + 600_000;
    let later = json!({
        "target": { "user": "42" }, "type": "x", "schedule_at": soon_ms as u64, "priority": "low",
        "data": { "n": 1 }, "collapse_key": "k", "ttl_s": 60, "channels": ["in_app", "push"],
        "push": { "android": {} }
    });
    let id = rig.post(later).await;
    call(
        rig,
        Method::GET,
        &format!("/v1/notifications/{id}/delivery"),
        None,
    )
    .await;
    call(
        rig,
        Method::DELETE,
        &format!("/v1/notifications/{id}"),
        None,
    )
    .await;
    let to = |target: Value| json!({ "target": target, "type": "x", "title": "t", "body": "b" });
    rig.post(to(json!({ "users": ["42", "43"] }))).await;
    let to_all = rig.post(to(json!({ "all": true }))).await;
    enter(rig, "42", "work", "ada@example.com").await;
    let id = rig
        .post(json!({
            "target": { "user": "42" }, "type": "x", "title": "t", "channels": ["in_app", "email"]
        }))
        .await;
    state(rig, id, is("sent")).await;
    rig.routed().await;
    rig.drained("broadcast", Topic::FanOutAll).await;
    let body = json!({ "ids": [to_all] });
    call(rig, Method::POST, "/v1/users/43/dismiss", Some(body)).await;
}

async fn segments(rig: &Rig) {
    let made = call(rig, Method::POST, "/v1/segments", None).await;
    let id = made["id"].as_str().unwrap();
    let path = format!("/v1/segments/{id}");
    let users = json!({ "users": ["42", "43"] });
    call(rig, Method::POST, &format!("{path}/users"), Some(users)).await;
    call(rig, Method::GET, &path, None).await;
    let to = json!({ "target": { "segment": id }, "type": "x", "title": "t" });
    let sent = rig.post(to).await;
    let progress = format!("/v1/notifications/{sent}/progress");
    call(rig, Method::GET, &progress, None).await;
    eventually(|| async { (rig.get(&progress).await["state"] == "done").then_some(()) }).await;
    call(rig, Method::DELETE, &path, None).await;
}

/// Of the user that was sent to.
async fn of_a_user(rig: &Rig) {
    let user = "/v1/users/42";
    let page = call(
        rig,
        Method::GET,
        &format!("{user}/notifications?limit=1"),
        None,
    )
    .await;
    let next = page["next"].as_str().unwrap();
    let next = format!("{user}/notifications?limit=50&cursor={next}");
    call(rig, Method::GET, &next, None).await;
    let body = json!({ "ids": [page["items"][0]["id"]] });
    call(rig, Method::POST, &format!("{user}/read"), Some(body)).await;
    for path in ["", "/presence", "/devices", "/devices/work", "/preferences"] {
        call(rig, Method::GET, &format!("{user}{path}"), None).await;
    }
    call(rig, Method::POST, &format!("{user}/disconnect"), None).await;
    let wanted = json!({
        "time_zone": "Europe/Vienna", "locale": "de-AT", "quiet_hours": { "from": "22:00", "to": "07:00" },
        "channels": { "push": false }, "types": { "news": { "email": true } }
    });
    call(
        rig,
        Method::PUT,
        &format!("{user}/preferences"),
        Some(wanted),
    )
    .await;
    call(rig, Method::GET, &format!("{user}/preferences"), None).await;
    call(rig, Method::DELETE, &format!("{user}/preferences"), None).await;
    let device = json!({ "kind": "email", "address": "ada@example.org" });
    call(
        rig,
        Method::PUT,
        &format!("{user}/devices/work"),
        Some(device),
    )
    .await;
    call(rig, Method::DELETE, &format!("{user}/devices/work"), None).await;
    call(rig, Method::GET, "/v1/status", None).await;
}

/// What those ask that have no key.
async fn keyless(rig: &Rig, server: &SmtpServer) {
    let mail = server.mails().remove(0).text.replace("\r\n ", " ");
    let link = mail
        .lines()
        .find_map(|line| line.strip_prefix("List-Unsubscribe:"));
    let link = link.unwrap().trim().trim_matches(['<', '>']);
    let path = link.strip_prefix("https://notify.example.com").unwrap();
    call(rig, Method::GET, path, None).await;
    call(rig, Method::POST, path, None).await;
    call(rig, Method::GET, "/openapi.json", None).await;

    let body = json!({ "events": [
        { "type": "complaint", "address": "ada@example.com" },
        { "type": "bounce", "address": "bob@example.com", "permanent": true, "reason": "550" }
    ] });
    let at = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = hmac::sign(&key, format!("1.{at}.{body}").as_bytes());
    let signature = format!("v1,{}", BASE64_STANDARD.encode(tag));
    let headers = [
        ("webhook-id", "1".to_owned()),
        ("webhook-timestamp", at.to_string()),
        ("webhook-signature", signature),
    ];
    let answer = rig.post_with("/v1/email/events", &headers, &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

async fn operators(rig: &Rig) {
    for path in [
        "/v1/spend",
        "/v1/suppressions",
        "/v1/suppressions?limit=1",
        "/v1/suppressions/ada@example.com",
        "/v1/api-keys",
    ] {
        as_admin(rig, Method::GET, path, None).await;
    }
    as_admin(
        rig,
        Method::DELETE,
        "/v1/suppressions/ada@example.com",
        None,
    )
    .await;
    as_admin(rig, Method::GET, "/v1/quarantine/fcm", None).await;
    as_admin(rig, Method::POST, "/v1/quarantine/fcm/restore", None).await;
    as_admin(rig, Method::DELETE, "/v1/quarantine/fcm", None).await;
    let key = json!({ "producer": "bank", "admin": false });
    as_admin(rig, Method::POST, "/v1/api-keys", Some(key)).await;

    enter(rig, "44", "work", "never@example.com").await;
    let mail = json!({
        "target": { "users": ["44"] }, "type": "x", "channels": ["email"], "title": "t"
    });
    rig.post(mail.clone()).await;
    rig.post(mail).await;
    let dead = eventually(|| async {
        let page = as_admin(rig, Method::GET, "/v1/dlq?all=true&topic=email", None).await;
        let items = page["items"].as_array().unwrap();
        let paths = items
            .iter()
            .map(|item| format!("/v1/dlq/{}", item["at"].as_str().unwrap()));
        (items.len() == 2).then(|| paths.collect::<Vec<_>>())
    })
    .await;
    as_admin(rig, Method::GET, &dead[0], None).await;
    as_admin(rig, Method::POST, &format!("{}/replay", dead[0]), None).await;
    as_admin(rig, Method::DELETE, &dead[1], None).await;
    as_admin(rig, Method::GET, "/v1/dlq?all=true&limit=1", None).await;

    let (one, other) = (open_door().await, open_door().await);
    enter_at(rig, &one.address, "gw-1", 10, 1_000, false).await;
    enter_at(rig, &other.address, "gw-2", 10, 1_000, false).await;
    let drain = "/v1/gateways/gw-1/drain";
    let body = json!({ "deadline_s": 60, "force": true });
    as_admin(rig, Method::POST, drain, Some(body)).await;
    as_admin(rig, Method::GET, drain, None).await;
    as_admin(rig, Method::DELETE, drain, None).await;
    as_admin(rig, Method::POST, "/v1/rebalance", None).await;
    as_admin(rig, Method::GET, "/v1/status", None).await;
}

/// One who has something of everything.
async fn privacy(rig: &Rig) {
    let soon_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64;
    let later = json!({ "target": { "user": "44" }, "type": "x", "title": "t", "schedule_at": soon_ms + 600_000 });
    rig.post(later).await;
    rig.post_to("44", "t").await;
    rig.routed().await;
    let user = "/v1/users/44";
    as_admin(rig, Method::GET, &format!("{user}/export"), None).await;
    let path = format!("{user}/erasure");
    as_admin(rig, Method::POST, &path, None).await;
    rig.routed().await;
    as_admin(rig, Method::GET, &path, None).await;
}

/// Each answer is held against the document where it comes in: see `rig/contract.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_described_is_answered_as_described() {
    let server = SmtpServer::start();
    let rig = rig(&server).await;
    producers(&rig).await;
    segments(&rig).await;
    of_a_user(&rig).await;
    keyless(&rig, &server).await;
    operators(&rig).await;
    privacy(&rig).await;
    // Where push and text messages are configured they are driven: tests/dispatcher/{web_push,sms,quarantine}.rs.
    let elsewhere = [
        "GET /v1/web_push",
        "POST /v1/sms/{provider}/{id}/{user}",
        "POST /v1/users/{user}/devices/{id}/restore",
    ];
    let mut left = operations();
    left.retain(|name| !rig.driven.lock().contains(name) && !elsewhere.contains(&name.as_str()));
    assert!(left.is_empty(), "never answered with success: {left:?}");
}
