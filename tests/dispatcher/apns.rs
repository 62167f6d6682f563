//! Apple's push service, from the API to a strict server of its protocol.

use crate::rig::{Answer, Rig, eventually, is, refused_key};
use herald::config;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use testbed::{
    ApnsServer,
    apns::{ToDevice, device_token},
    certificates,
};

pub fn config(server: &ApnsServer) -> config::Channels {
    let [key_id, team_id, topic] = server.account().map(|text| Some(text.to_owned()));
    let apns = config::Apns {
        key_file: Some(server.key_file()),
        key_id,
        team_id,
        topic,
        address: server.address(),
        ca_file: Some(server.ca_file()),
        gone_window: 10,
        ..config::Apns::default()
    };
    config::Channels {
        apns,
        ..config::Channels::default()
    }
}

async fn rig(server: &ApnsServer) -> Rig {
    Rig::with_channels(&config(server)).await
}

async fn enter(rig: &Rig, user: &str, word: &str) -> Answer {
    let device = json!({ "kind": "apns", "token": device_token(word) });
    let path = format!("/v1/users/{user}/devices/{word}");
    rig.call(Method::PUT, &path, Some(device)).await
}

async fn devices(rig: &Rig, user: &str) -> usize {
    let listed = rig.get(&format!("/v1/users/{user}/devices")).await;
    listed["devices"].as_array().unwrap().len()
}

fn header<'a>(sent: &'a ToDevice, name: &str) -> &'a str {
    sent.headers.get(name).map_or("", String::as_str)
}

/// As many devices as a user may have, in order; one notification is that many messages at once.
async fn enter_many_slow(rig: &Rig, user: &str) -> Vec<String> {
    let words: Vec<String> = (10..30).map(|n| format!("slow-{n}")).collect();
    for word in &words {
        let answer = enter(rig, user, word).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
    words
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_sent_its_notification_with_all_that_apple_wants_to_know() {
    let server = ApnsServer::start().await;
    let rig = rig(&server).await;
    let answer = enter(&rig, "42", "phone").await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.body["token"], device_token("phone"));
    let more = json!({
        "body": "Your order", "data": { "order": 7 }, "priority": "critical", "ttl_s": 600,
        "collapse_key": "order 7"
    });
    let id = rig.push_to("42", more).await;
    let shown = rig.state("push", &id, is("sent")).await;
    assert_eq!(server.wrong(), Vec::<String>::new());
    let sent = server.taken().remove(0);
    assert_eq!(shown["provider_id"], header(&sent, "apns-id"));
    assert_eq!(header(&sent, "apns-topic"), "com.example.shop");
    assert_eq!(header(&sent, "apns-push-type"), "alert");
    assert_eq!(header(&sent, "apns-priority"), "10");
    assert_eq!(header(&sent, "apns-collapse-id").len(), 32);
    let created_s = sent.payload["created_at"].as_u64().unwrap() / 1000;
    assert_eq!(
        header(&sent, "apns-expiration"),
        (created_s + 600).to_string()
    );
    let alert = json!({ "title": "On its way", "body": "Your order" });
    assert_eq!(sent.payload["aps"], json!({ "alert": alert }));
    assert_eq!(sent.payload["id"], id);
    assert_eq!(sent.payload["data"], json!({ "order": 7 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_producer_says_of_apple_wins_and_the_rest_stays() {
    let server = ApnsServer::start().await;
    let rig = rig(&server).await;
    enter(&rig, "42", "phone").await;
    let apns = json!({
        "headers": { "apns-priority": "1", "apns-collapse-id": "mine" },
        "payload": { "aps": { "sound": "bell.caf", "alert": { "subtitle": "s" } }, "custom": 5 },
        "fcm_options": { "analytics_label": "a" },
    });
    let more = json!({ "push": { "apns": apns }, "collapse_key": "k" });
    let id = rig.push_to("42", more).await;
    rig.state("push", &id, is("sent")).await;
    let sent = server.taken().remove(0);
    assert_eq!(header(&sent, "apns-priority"), "1");
    assert_eq!(header(&sent, "apns-collapse-id"), "mine");
    let alert = json!({ "title": "On its way", "subtitle": "s" });
    assert_eq!(
        sent.payload["aps"],
        json!({ "alert": alert, "sound": "bell.caf" })
    );
    assert_eq!(sent.payload["custom"], 5);

    for apns in [
        json!({ "headers": { "authorization": "bearer x" } }),
        json!({ "headers": { "apns-topic": "com.example.other" } }),
        json!({ "headers": { "apns-topic": "com.example.shopping" } }),
        json!({ "headers": { "apns-priority": 10 } }),
        json!({ "payload": { "id": "mine" } }),
        json!({ "payload": "text" }),
        json!({ "payload": { "aps": "text" } }),
        json!({ "colour": "red" }),
    ] {
        let more = json!({ "push": { "apns": apns.clone() } });
        let id = rig.push_to("42", more).await;
        let shown = rig.state("push", &id, is("failed")).await;
        assert_eq!(shown["error"], "unfit", "{apns}");
    }
    assert_eq!(server.taken().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_forgotten_for_its_own_reason_only() {
    let server = ApnsServer::start().await;
    let rig = rig(&server).await;
    for (user, word, error) in [
        ("1", "gone", "gone"),
        ("2", "bad", "gone"),
        // Entered anew after Apple had given it up.
        ("3", "was-gone", "unregistered_before"),
        ("4", "foreign", "other_sender"),
    ] {
        enter(&rig, user, word).await;
        let id = rig.push_to(user, json!({ "priority": "low" })).await;
        let shown = rig.state("push", &id, is("failed")).await;
        assert_eq!(shown["error"], error, "{word}");
    }
    for n in 0..10 {
        enter(&rig, "5", &format!("live{n}")).await;
    }
    let id = rig.push_to("5", json!({})).await;
    rig.state("push", &id, is("sent")).await;
    for user in ["1", "2"] {
        eventually(|| async { (devices(&rig, user).await == 0).then_some(()) }).await;
    }
    for user in ["3", "4"] {
        assert_eq!(devices(&rig, user).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_work_later_is_tried_again_under_the_same_name() {
    let server = ApnsServer::start().await;
    let rig = rig(&server).await;
    let mut sent = Vec::new();
    for (word, class) in [
        ("busy-1", "throttled"),
        ("broken-1", "provider_away"),
        ("away-1", "provider_away"),
    ] {
        enter(&rig, word, word).await;
        let id = rig.push_to(word, json!({ "priority": "critical" })).await;
        sent.push((id, class));
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
    let names: BTreeSet<String> = server
        .taken()
        .iter()
        .map(|one| header(one, "apns-id").to_owned())
        .collect();
    assert_eq!(names.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_ours_that_ended_is_replaced_once_and_no_oftener_than_apple_allows() {
    let server = ApnsServer::start().await;
    let rig = rig(&server).await;
    enter(&rig, "42", "phone").await;
    let id = rig.push_to("42", json!({})).await;
    rig.state("push", &id, is("sent")).await;
    assert_eq!(server.tokens(), 1);

    server.end_tokens();
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(rig.push_to("42", json!({})).await);
    }
    for id in &ids {
        let shown = rig.state("push", id, is("sent")).await;
        assert_eq!(shown["attempts"], 1, "replaced within the attempt");
    }
    assert_eq!(server.tokens(), 2);

    server.end_tokens();
    let id = rig.push_to("42", json!({ "priority": "low" })).await;
    let shown = rig.state("push", &id, is("failed")).await;
    assert_eq!(shown["error"], "provider_refused");
    assert_eq!(server.tokens(), 2, "too soon for a third");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_replaced_is_read_again() {
    let server = ApnsServer::start().await;
    let rig = rig(&server).await;
    enter(&rig, "42", "phone").await;
    let id = rig.push_to("42", json!({})).await;
    rig.state("push", &id, is("sent")).await;
    server.replace_key();
    let id = rig.push_to("42", json!({ "priority": "low" })).await;
    let shown = rig.state("push", &id, is("sent")).await;
    assert_eq!((&shown["attempts"], server.tokens()), (&json!(1), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_put_right_counts_at_once() {
    let server = ApnsServer::start().await;
    let rig = rig(&server).await;
    enter(&rig, "42", "phone").await;
    certificates::make_key(&server.key_file(), certificates::P256);
    let low = || rig.push_to("42", json!({ "priority": "low" }));
    let shown = rig.state("push", &low().await, is("failed")).await;
    assert_eq!(shown["error"], "provider_refused");
    server.replace_key();
    rig.state("push", &low().await, is("sent")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_has_more_streams_than_the_server_allows() {
    for streams in [1, 3] {
        let server = ApnsServer::with_streams(streams).await;
        let rig = rig(&server).await;
        let words = enter_many_slow(&rig, "42").await;
        let id = rig.push_to("42", json!({})).await;
        // All there may be at once are there, on both connections.
        let full = || async { (server.streams_open() == 2 * streams).then_some(()) };
        eventually(full).await;
        server.release();
        let shown = rig.state("push", &id, is("sent")).await;
        assert_eq!(shown["devices"], words.len());
        assert_eq!(shown["attempts"], 1);
        assert_eq!((server.streams_most(), server.connections()), (streams, 2));
        assert!(words.iter().all(|word| server.asked(word) == 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_goodbye_loses_nothing_and_gets_nothing_twice() {
    let server = ApnsServer::with_streams(3).await;
    let rig = rig(&server).await;
    let words = enter_many_slow(&rig, "42").await;
    let id = rig.push_to("42", json!({ "priority": "low" })).await;
    eventually(|| async { (server.streams_open() == 6).then_some(()) }).await;
    // What it has begun it answers; what waits for a stream goes to other connections.
    server.say_goodbye();
    server.release();
    let shown = rig.state("push", &id, is("sent")).await;
    assert_eq!(
        (&shown["devices"], &shown["error"]),
        (&json!(words.len()), &Value::Null)
    );
    let mut taken: Vec<String> = server.taken().into_iter().map(|one| one.word).collect();
    taken.sort();
    assert_eq!(taken, words);
    assert!(server.connections() > 2);

    // Nor when nothing is under way.
    enter(&rig, "43", "phone").await;
    server.say_goodbye();
    let id = rig.push_to("43", json!({ "priority": "low" })).await;
    rig.state("push", &id, is("sent")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_or_says_nothing_costs_an_attempt_and_is_replaced() {
    let server = ApnsServer::start().await;
    let mut channels = config(&server);
    channels.apns.timeout_ms = 1_000;
    channels.apns.connections = 1;
    let rig = Rig::with_channels(&channels).await;
    enter(&rig, "1", "silent-1").await;
    let id = rig.push_to("1", json!({ "priority": "critical" })).await;
    let shown = rig.state("push", &id, |state| state["attempts"] == 1).await;
    assert_eq!(shown["error"], "timeout");
    let shown = rig.state("push", &id, is("sent")).await;
    assert_eq!(shown["attempts"], 2);
    assert_eq!(server.connections(), 2);

    enter(&rig, "2", "slow-2").await;
    let id = rig.push_to("2", json!({ "priority": "critical" })).await;
    eventually(|| async { (server.asked("slow-2") == 1).then_some(()) }).await;
    server.break_off();
    let shown = rig.state("push", &id, |state| state["attempts"] == 1).await;
    assert_eq!(shown["error"], "provider_away");
    server.release();
    rig.state("push", &id, is("sent")).await;
    assert_eq!(server.connections(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_room_is_left_out_and_said_to_be() {
    let server = ApnsServer::start().await;
    let rig = rig(&server).await;
    enter(&rig, "42", "phone").await;
    let large = json!({ "data": { "text": "x".repeat(4_096) } });
    let id = rig.push_to("42", large).await;
    rig.state("push", &id, is("sent")).await;
    let payload = &server.taken()[0].payload;
    let seen = (&payload["data"], &payload["truncated"]);
    assert_eq!(seen, (&Value::Null, &json!(true)));
    let id = rig
        .push_to("42", json!({ "body": "x".repeat(4_096) }))
        .await;
    let shown = rig.state("push", &id, is("failed")).await;
    assert_eq!(shown["error"], "unfit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_without_words_wakes_the_app_and_shows_nothing() {
    let server = ApnsServer::start().await;
    let rig = rig(&server).await;
    enter(&rig, "42", "phone").await;
    let id = rig
        .push_to("42", json!({ "title": null, "priority": "high" }))
        .await;
    rig.state("push", &id, is("sent")).await;
    assert_eq!(server.wrong(), Vec::<String>::new());
    let sent = server.taken().remove(0);
    assert_eq!(sent.payload["aps"], json!({ "content-available": 1 }));
    assert_eq!(header(&sent, "apns-push-type"), "background");
    assert_eq!(header(&sent, "apns-priority"), "5");

    // Unless its producer has words for Apple alone.
    let apns = json!({ "payload": { "aps": { "alert": { "loc-key": "SHIPPED" } } } });
    let more = json!({ "title": null, "priority": "high", "push": { "apns": apns } });
    let id = rig.push_to("42", more).await;
    rig.state("push", &id, is("sent")).await;
    let sent = server.taken().pop().unwrap();
    let alert = json!({ "alert": { "loc-key": "SHIPPED" } });
    assert_eq!(sent.payload["aps"], alert);
    assert_eq!(header(&sent, "apns-push-type"), "alert");
    assert_eq!(header(&sent, "apns-priority"), "10");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_is_taken_for_apple() {
    let (server, other) = (ApnsServer::start().await, ApnsServer::start().await);
    let mut channels = config(&server);
    channels.apns.ca_file = Some(other.ca_file());
    let rig = Rig::with_channels(&channels).await;
    enter(&rig, "42", "phone").await;
    let id = rig.push_to("42", json!({ "priority": "low" })).await;
    let shown = rig.state("push", &id, is("failed")).await;
    assert_eq!(shown["error"], "provider_away");
    assert_eq!((server.tokens(), server.connections()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_token_is_named() {
    let server = ApnsServer::start().await;
    let rig = rig(&server).await;
    for token in [
        json!(""),
        json!("abc"),
        json!("zz"),
        json!(5),
        json!("ab/cd"),
    ] {
        let device = json!({ "kind": "apns", "token": token });
        let path = "/v1/users/42/devices/phone";
        let answer = rig.call(Method::PUT, path, Some(device)).await;
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert_eq!(answer.body["error"]["field"], "token", "{}", answer.body);
    }
    // One token, however it is written, is one user's.
    let token = device_token("phone").to_uppercase();
    let device = json!({ "kind": "apns", "token": token });
    let path = "/v1/users/1/devices/phone";
    let answer = rig.call(Method::PUT, path, Some(device)).await;
    assert_eq!(answer.body["token"], device_token("phone"));
    enter(&rig, "2", "phone").await;
    assert_eq!((devices(&rig, "1").await, devices(&rig, "2").await), (0, 1));
}

type Change = fn(&mut config::Apns);

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_can_not_work_names_its_key() {
    let server = ApnsServer::start().await;
    let refused = |change: Change| {
        let mut channels = config(&server);
        change(&mut channels.apns);
        refused_key(&channels)
    };
    let cases: [(Change, &str); 11] = [
        (|apns| apns.key_id = None, "apns.key_id"),
        (|apns| apns.team_id = None, "apns.team_id"),
        (
            |apns| apns.team_id = Some("TEAM0 1\n".into()),
            "apns.team_id",
        ),
        (|apns| apns.topic = None, "apns.topic"),
        (|apns| apns.topic = Some(" ".into()), "apns.topic"),
        (|apns| apns.key_file = None, "apns.key_file"),
        (
            |apns| apns.key_file = Some("/nonexistent".into()),
            "apns.key_file",
        ),
        (
            |apns| apns.ca_file = Some("/nonexistent".into()),
            "apns.ca_file",
        ),
        (
            |apns| apns.address = "api.push.apple.com".into(),
            "apns.address",
        ),
        (|apns| apns.connections = 0, "apns.connections"),
        (|apns| apns.timeout_ms = 1, "apns.timeout_ms"),
    ];
    for (change, key) in cases {
        assert_eq!(refused(change).as_deref(), Some(key));
    }
    assert_eq!(refused(|_| {}), None);
    let unconfigured = Rig::start().await;
    let answer = enter(&unconfigured, "42", "phone").await;
    assert_eq!(answer.body["error"]["field"], "kind", "{}", answer.body);
}
