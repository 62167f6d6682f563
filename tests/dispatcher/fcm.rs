//! Firebase Cloud Messaging, from the API to a strict server of its protocol.

use crate::rig::{Answer, Rig, eventually, is, refused_key};
use herald::{bus::Topic, config};
use reqwest::{Method, Version};
use serde_json::{Value, json};
use std::time::Duration;
use testbed::FcmServer;

pub fn config(server: &FcmServer) -> config::Channels {
    let fcm = config::Fcm {
        service_account_file: Some(server.service_account_file()),
        url: server.url(),
        ca_file: Some(server.ca_file()),
        gone_window: 10,
        ..config::Fcm::default()
    };
    config::Channels {
        fcm,
        ..config::Channels::default()
    }
}

async fn enter(rig: &Rig, user: &str, token: &str) -> Answer {
    let device = json!({ "kind": "fcm", "token": token });
    let path = format!("/v1/users/{user}/devices/{token}");
    rig.call(Method::PUT, &path, Some(device)).await
}

async fn devices(rig: &Rig, user: &str) -> Vec<String> {
    let listed = rig.get(&format!("/v1/users/{user}/devices")).await;
    let devices = listed["devices"].as_array().unwrap().iter();
    devices
        .map(|device| device["token"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_sent_its_notification_with_what_each_platform_needs() {
    let server = FcmServer::start().await;
    let rig = Rig::with_channels(&config(&server)).await;
    let answer = enter(&rig, "42", "phone").await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.body["token"], "phone");
    let more = json!({
        "body": "Your order", "data": { "order": 7.50 }, "priority": "critical", "ttl_s": 600,
        "collapse_key": "order 7"
    });
    let id = rig.push_to("42", more).await;
    let shown = rig.state("push", &id, is("sent")).await;
    assert_eq!(shown["provider_id"], "projects/shop-1a2b3/messages/1");
    assert_eq!(server.wrong(), Vec::<String>::new());
    let taken = server.taken().remove(0);
    assert_eq!((taken.version, taken.is_dry_run), (Version::HTTP_2, false));
    let message = taken.message;
    let shown = json!({ "title": "On its way", "body": "Your order" });
    assert_eq!(
        (&message["token"], &message["notification"]),
        (&json!("phone"), &shown)
    );
    assert_eq!(message["data"]["id"], id);
    assert_eq!(message["data"]["data"], r#"{"order":7.5}"#);
    let android = &message["android"];
    assert_eq!(
        (&android["priority"], &android["collapse_key"]),
        (&json!("HIGH"), &json!("order 7"))
    );
    let ttl = android["ttl"].as_str().unwrap().trim_end_matches('s');
    assert!((590..=600).contains(&ttl.parse::<u64>().unwrap()), "{ttl}");
    assert_eq!(message["apns"]["headers"]["apns-priority"], "10");
    assert_eq!(message["webpush"]["headers"]["Urgency"], "high");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_producer_says_of_a_platform_wins_and_the_rest_stays() {
    let server = FcmServer::start().await;
    let rig = Rig::with_channels(&config(&server)).await;
    enter(&rig, "42", "phone").await;
    let push = json!({
        "android": { "priority": "HIGH", "notification": { "channel_id": "orders" } },
        "apns": { "payload": { "aps": { "sound": "bell.caf" } } },
        "webpush": { "headers": { "Urgency": "very-low" } },
    });
    let id = rig
        .push_to("42", json!({ "push": push, "ttl_s": 60 }))
        .await;
    rig.state("push", &id, is("sent")).await;
    let message = server.taken().remove(0).message;
    assert_eq!(message["android"]["priority"], "HIGH");
    assert!(message["android"]["ttl"].is_string(), "{message}");
    assert_eq!(message["android"]["notification"]["channel_id"], "orders");
    assert_eq!(message["apns"]["payload"]["aps"]["sound"], "bell.caf");
    assert_eq!(message["apns"]["headers"]["apns-priority"], "5");
    assert_eq!(message["webpush"]["headers"]["Urgency"], "very-low");

    // What FCM does not know is the producer's to mend.
    let wrong = json!({ "push": { "android": { "colour": "red" } } });
    let id = rig.push_to("42", wrong).await;
    let shown = rig.state("push", &id, is("failed")).await;
    assert_eq!(shown["error"], "rejected");
    assert_eq!(devices(&rig, "42").await, ["phone"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_forgotten_for_its_own_code_only() {
    let server = FcmServer::start().await;
    let rig = Rig::with_channels(&config(&server)).await;
    for (user, token, error) in [
        ("1", "gone", "gone"),
        ("2", "bad", "gone"),
        ("3", "foreign", "other_sender"),
        ("4", "lost", "provider_refused"),
    ] {
        enter(&rig, user, token).await;
        let id = rig.push_to(user, json!({ "priority": "low" })).await;
        let shown = rig.state("push", &id, is("failed")).await;
        assert_eq!(shown["error"], error, "{token}");
        assert_eq!(devices(&rig, user).await, [token], "nobody is reached yet");
    }
    for n in 0..10 {
        enter(&rig, "5", &format!("live{n}")).await;
    }
    let id = rig.push_to("5", json!({})).await;
    rig.state("push", &id, is("sent")).await;
    for user in ["1", "2"] {
        let is_forgotten = || async { devices(&rig, user).await.is_empty().then_some(()) };
        eventually(is_forgotten).await;
    }
    for user in ["3", "4"] {
        assert_eq!(devices(&rig, user).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_work_later_is_tried_again() {
    let server = FcmServer::start().await;
    let rig = Rig::with_channels(&config(&server)).await;
    let cases = [
        ("busy-1", "throttled"),
        ("away-1", "provider_away"),
        ("broken-1", "provider_away"),
        ("apple-1", "provider_refused"),
    ];
    let mut sent = Vec::new();
    for (token, class) in cases {
        enter(&rig, token, token).await;
        sent.push((
            rig.push_to(token, json!({ "priority": "critical" })).await,
            class,
        ));
    }
    for (id, class) in &sent {
        let shown = rig.state("push", id, |state| state["attempts"] == 1).await;
        let seen = (&shown["state"], &shown["error"]);
        assert_eq!(seen, (&json!("pending"), &json!(class)));
    }
    for (id, _) in &sent {
        let shown = rig.state("push", id, is("sent")).await;
        assert_eq!(shown["attempts"], 2);
    }
    // The project's keys to others are no reason to ask for another token.
    assert_eq!((server.exchanges(), server.asked("apple-1")), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sends_share_one_token_and_its_renewal_holds_nobody_up() {
    let server = FcmServer::start().await;
    let rig = Rig::with_channels(&config(&server)).await;
    enter(&rig, "42", "phone").await;
    let mut ids = Vec::new();
    for _ in 0..60 {
        ids.push(rig.push_to("42", json!({})).await);
    }
    for id in &ids {
        rig.state("push", id, is("sent")).await;
    }
    assert_eq!((server.exchanges(), server.taken().len()), (1, 60));

    // Those of now have a short life: the server refuses what has ended.
    server.set_token_life(Duration::from_secs(6));
    server.revoke_tokens();
    let id = rig.push_to("42", json!({})).await;
    rig.state("push", &id, is("sent")).await;
    assert_eq!(
        server.exchanges(),
        2,
        "refused once, and renewed in the same attempt"
    );
    let refused = server.wrong().len();
    while server.exchanges() < 3 {
        let id = rig.push_to("42", json!({})).await;
        rig.state("push", &id, is("sent")).await;
    }
    assert_eq!(server.wrong().len(), refused, "renewed before it ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_gets_no_token_is_waited_for() {
    let server = FcmServer::start().await;
    let rig = Rig::with_channels(&config(&server)).await;
    enter(&rig, "42", "phone").await;
    server.fail_exchanges(1);
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(rig.push_to("42", json!({ "priority": "critical" })).await);
    }
    let shown = rig
        .state("push", &ids[0], |state| state["attempts"] == 1)
        .await;
    let seen = (&shown["state"], &shown["error"]);
    assert_eq!(seen, (&json!("pending"), &json!("token_away")));
    for id in &ids {
        rig.state("push", id, is("sent")).await;
    }
    assert_eq!(server.exchanges(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_room_is_left_out_and_said_to_be() {
    let server = FcmServer::start().await;
    let rig = Rig::with_channels(&config(&server)).await;
    enter(&rig, "42", "phone").await;
    let large = json!({ "data": { "text": "x".repeat(4_096) } });
    let id = rig.push_to("42", large).await;
    rig.state("push", &id, is("sent")).await;
    let data = &server.taken()[0].message["data"];
    assert_eq!(
        (&data["data"], &data["truncated"]),
        (&Value::Null, &json!("true"))
    );
    let id = rig
        .push_to("42", json!({ "body": "x".repeat(4_096) }))
        .await;
    let shown = rig.state("push", &id, is("failed")).await;
    assert_eq!(shown["error"], "unfit");
    assert_eq!(server.wrong(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_without_words_wakes_the_app_and_shows_nothing() {
    let server = FcmServer::start().await;
    let rig = Rig::with_channels(&config(&server)).await;
    enter(&rig, "42", "phone").await;
    let id = rig
        .push_to("42", json!({ "title": null, "priority": "high" }))
        .await;
    rig.state("push", &id, is("sent")).await;
    let message = server.taken().remove(0).message;
    assert_eq!(message["notification"], Value::Null);
    assert_eq!(message["apns"]["payload"]["aps"]["content-available"], 1);
    let headers = &message["apns"]["headers"];
    let seen = (&headers["apns-push-type"], &headers["apns-priority"]);
    assert_eq!(seen, (&json!("background"), &json!("5")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_is_judged_and_reaches_nobody() {
    let server = FcmServer::start().await;
    let mut channels = config(&server);
    channels.fcm.dry_run = true;
    let rig = Rig::with_channels(&channels).await;
    enter(&rig, "42", "phone").await;
    let id = rig.push_to("42", json!({})).await;
    rig.state("push", &id, is("sent")).await;
    assert!(server.taken()[0].is_dry_run);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_belongs_to_whom_it_was_entered_for_last() {
    let server = FcmServer::start().await;
    let rig = Rig::with_channels(&config(&server)).await;
    enter(&rig, "42", "phone").await;
    enter(&rig, "43", "phone").await;
    assert_eq!(devices(&rig, "42").await, Vec::<String>::new());
    let id = rig.push_to("42", json!({})).await;
    let shown = rig.state("push", &id, is("failed")).await;
    assert_eq!(shown["error"], "no_address");
    rig.drained("push", Topic::Push).await;
    assert_eq!(server.taken().len(), 0);
}

type Change = fn(&mut config::Fcm);

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_can_not_work_names_its_key() {
    let server = FcmServer::start().await;
    let refused = |change: Change| {
        let mut channels = config(&server);
        change(&mut channels.fcm);
        refused_key(&channels)
    };
    let cases: [(Change, &str); 7] = [
        (|fcm| fcm.timeout_ms = 1, "fcm.timeout_ms"),
        (|fcm| fcm.at_once = 0, "fcm.at_once"),
        (|fcm| fcm.url = "http://127.0.0.1:1".into(), "fcm.url"),
        (|fcm| fcm.project_id = Some("a/b".into()), "fcm.project_id"),
        (
            |fcm| fcm.ca_file = Some("/nonexistent".into()),
            "fcm.ca_file",
        ),
        (
            |fcm| fcm.service_account_file = Some("/nonexistent".into()),
            "fcm.service_account_file",
        ),
        (
            |fcm| {
                fcm.service_account_file = None;
                fcm.project_id = Some("shop".into());
            },
            "fcm.service_account_file",
        ),
    ];
    for (change, key) in cases {
        assert_eq!(refused(change).as_deref(), Some(key));
    }
    assert_eq!(refused(|_| {}), None);
    server.write_account("authorized_user");
    assert_eq!(refused(|_| {}).as_deref(), Some("fcm.service_account_file"));

    let unconfigured = Rig::start().await;
    let answer = enter(&unconfigured, "42", "phone").await;
    assert_eq!(answer.body["error"]["field"], "kind", "{}", answer.body);
    let problem = answer.body["error"]["message"].as_str().unwrap();
    assert!(problem.contains("[fcm]"), "{problem}");
}
