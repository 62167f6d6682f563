//! Web Push, from the API to a strict push service.

use crate::rig::{Answer, Rig, eventually, is};
use herald::{bus::Topic, config};
use reqwest::Method;
use serde_json::{Value, json};
use std::path::PathBuf;
use tempfile::TempDir;
use testbed::{ApnsServer, FcmServer, PushService, apns::device_token, certificates};

/// A key of ours, as the configuration's comment has it made.
fn key() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("vapid.pem");
    certificates::make_key(&file, certificates::P256);
    (directory, file)
}

fn config(service: &PushService, key: PathBuf) -> config::Channels {
    let web_push = config::WebPush {
        vapid_key_file: Some(key),
        contact: Some("mailto:ops@shop.example".into()),
        hosts: vec![service.host()],
        ca_file: Some(service.ca_file()),
        gone_window: 10,
        ..config::WebPush::default()
    };
    config::Channels {
        web_push,
        ..config::Channels::default()
    }
}

async fn enter(rig: &Rig, user: &str, id: &str, subscription: Value) -> Answer {
    let device = json!({ "kind": "web_push", "subscription": subscription });
    let path = format!("/v1/users/{user}/devices/{id}");
    rig.call(Method::PUT, &path, Some(device)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_subscribed_is_pushed_what_only_it_can_read() {
    let (service, (_directory, key)) = (PushService::start().await, key());
    let rig = Rig::with_channels(&config(&service, key)).await;
    for name in ["laptop", "phone"] {
        let answer = enter(&rig, "42", name, service.subscribe(name)).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        assert!(!answer.body.to_string().contains("auth"), "{}", answer.body);
    }
    let more = json!({
        "body": "Your order", "data": { "order": 7 }, "priority": "critical", "ttl_s": 600,
        "collapse_key": "order 7"
    });
    let id = rig.push_to("42", more).await;
    let shown = rig.state("push", &id, is("sent")).await;
    assert_eq!(shown["devices"], 2);
    let provider_id = shown["provider_id"].as_str().unwrap();
    assert!(provider_id.contains("/message/"), "{provider_id}");
    let pushed = service.pushed();
    assert_eq!((pushed.len(), service.wrong()), (2, vec![]));
    for one in pushed {
        assert_eq!(one.content["id"], id);
        assert_eq!(one.content["title"], "On its way");
        assert_eq!(one.content["data"], json!({ "order": 7 }));
        assert!((590..=600).contains(&one.ttl_s), "{one:?}");
        assert_eq!((&one.urgency[..], one.topic.is_some()), ("high", true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_gone_is_forgotten_and_no_other() {
    let (service, (_directory, key)) = (PushService::start().await, key());
    let rig = Rig::with_channels(&config(&service, key)).await;
    for name in ["gone", "ok"] {
        enter(&rig, "42", name, service.subscribe(name)).await;
    }
    let id = rig.push_to("42", json!({})).await;
    let shown = rig.state("push", &id, is("sent")).await;
    assert_eq!(
        (&shown["devices"], &shown["error"]),
        (&json!(1), &json!("gone"))
    );
    for n in 0..10 {
        let name = format!("live{n}");
        enter(&rig, "44", &name, service.subscribe(&name)).await;
    }
    let id = rig.push_to("44", json!({})).await;
    rig.state("push", &id, is("sent")).await;
    eventually(|| async {
        let listed = rig.get("/v1/users/42/devices").await;
        let devices = listed["devices"].as_array().unwrap();
        let ids: Vec<&Value> = devices.iter().map(|one| &one["id"]).collect();
        (ids == [&json!("ok")]).then_some(())
    })
    .await;
    rig.drained("push", Topic::Push).await;
    assert_eq!(rig.count(Topic::Dlq).await, 0, "nothing to try again");

    // The only one a user has.
    enter(&rig, "43", "gone", service.subscribe("gone")).await;
    let id = rig.push_to("43", json!({})).await;
    let shown = rig.state("push", &id, is("failed")).await;
    assert_eq!(shown["error"], "gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_busy_is_asked_again_when_it_says_so() {
    let (service, (_directory, key)) = (PushService::start().await, key());
    let rig = Rig::with_channels(&config(&service, key)).await;
    for (user, name, class) in [
        ("1", "busy-1", "throttled"),
        ("2", "away-1", "provider_away"),
    ] {
        enter(&rig, user, "laptop", service.subscribe(name)).await;
        let id = rig.push_to(user, json!({ "priority": "critical" })).await;
        let shown = rig.state("push", &id, |state| state["attempts"] == 1).await;
        assert_eq!(
            (&shown["state"], &shown["error"]),
            (&json!("pending"), &json!(class))
        );
        let shown = rig.state("push", &id, is("sent")).await;
        assert_eq!((&shown["attempts"], service.asked(name)), (&json!(2), 2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_room_is_left_out_and_said_to_be() {
    let (service, (_directory, key)) = (PushService::start().await, key());
    let rig = Rig::with_channels(&config(&service, key)).await;
    enter(&rig, "42", "laptop", service.subscribe("laptop")).await;
    let large = json!({ "data": { "text": "x".repeat(4_000) } });
    let id = rig.push_to("42", large).await;
    rig.state("push", &id, is("sent")).await;
    let content = &service.pushed()[0].content;
    assert_eq!(
        (&content["data"], &content["truncated"]),
        (&Value::Null, &json!(true))
    );

    let id = rig
        .push_to("42", json!({ "body": "x".repeat(4_000) }))
        .await;
    let shown = rig.state("push", &id, is("failed")).await;
    assert_eq!(shown["error"], "unfit");

    // One that has less room than the standard has it.
    enter(&rig, "43", "laptop", service.subscribe("full")).await;
    let id = rig.push_to("43", json!({})).await;
    let shown = rig.state("push", &id, is("failed")).await;
    assert_eq!(shown["error"], "unfit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_belongs_to_whom_it_was_entered_for_last() {
    let (service, (_directory, key)) = (PushService::start().await, key());
    let rig = Rig::with_channels(&config(&service, key)).await;
    let shared = service.subscribe("shared");
    enter(&rig, "42", "laptop", shared.clone()).await;
    enter(&rig, "43", "laptop", shared).await;
    let listed = rig.get("/v1/users/42/devices").await;
    assert_eq!(listed["devices"], json!([]));
    let id = rig.push_to("42", json!({})).await;
    let shown = rig.state("push", &id, is("failed")).await;
    assert_eq!(shown["error"], "no_address");
    assert_eq!(service.pushed().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_subscription_is_named() {
    let (service, (_directory, key)) = (PushService::start().await, key());
    let rig = Rig::with_channels(&config(&service, key)).await;
    let good = service.subscribe("laptop");
    let with = |pointer: &str, value: Value| {
        let mut subscription = good.clone();
        *subscription.pointer_mut(pointer).unwrap() = value;
        subscription
    };
    for (subscription, field) in [
        (
            with("/endpoint", json!("https://evil.example/x")),
            "subscription.endpoint",
        ),
        (
            with("/endpoint", json!("http://127.0.0.1/x")),
            "subscription.endpoint",
        ),
        (
            with("/endpoint", json!("https://127.0.0.1/x")),
            "subscription.endpoint",
        ),
        (with("/keys/p256dh", json!("AAAA")), "subscription.keys"),
        (with("/keys/auth", json!("AAAA")), "subscription.keys"),
        (with("/keys", json!(5)), "subscription.keys"),
        (json!("x"), "subscription"),
    ] {
        let answer = enter(&rig, "42", "laptop", subscription).await;
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert_eq!(answer.body["error"]["field"], field, "{}", answer.body);
    }
    let unconfigured = Rig::start().await;
    let answer = enter(&unconfigured, "42", "laptop", good).await;
    assert_eq!(answer.body["error"]["field"], "kind", "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_goes_to_all_devices_of_its_user_each_by_its_own_provider() {
    let (service, (_directory, key)) = (PushService::start().await, key());
    let (google, apple) = (FcmServer::start().await, ApnsServer::start().await);
    let [key_id, team_id, topic] = apple.account().map(|text| Some(text.to_owned()));
    let channels = config::Channels {
        fcm: config::Fcm {
            service_account_file: Some(google.service_account_file()),
            url: google.url(),
            ca_file: Some(google.ca_file()),
            ..config::Fcm::default()
        },
        apns: config::Apns {
            key_file: Some(apple.key_file()),
            key_id,
            team_id,
            topic,
            address: apple.address(),
            ca_file: Some(apple.ca_file()),
            ..config::Apns::default()
        },
        ..config(&service, key)
    };
    let rig = Rig::with_channels(&channels).await;
    enter(&rig, "42", "laptop", service.subscribe("laptop")).await;
    for (id, kind, token) in [
        ("phone", "fcm", "phone".to_owned()),
        ("old", "fcm", "gone".to_owned()),
        ("tablet", "apns", device_token("tablet")),
    ] {
        let device = json!({ "kind": kind, "token": token });
        let path = format!("/v1/users/42/devices/{id}");
        let answer = rig.call(Method::PUT, &path, Some(device)).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
    let id = rig.push_to("42", json!({})).await;
    let shown = rig.state("push", &id, is("sent")).await;
    assert_eq!(
        (&shown["devices"], &shown["error"]),
        (&json!(3), &json!("gone"))
    );
    assert_eq!(service.pushed()[0].content["id"], id);
    assert_eq!(google.taken()[0].message["data"]["id"], id);
    assert_eq!(apple.taken()[0].payload["id"], id);
    let metrics = rig.metrics.render();
    for provider in ["web_push", "fcm", "apns"] {
        let labels =
            format!(r#"channel="push",priority="normal",provider="{provider}",result="sent""#);
        assert!(metrics.contains(&labels), "{metrics}");
    }
}
