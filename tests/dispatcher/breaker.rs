//! Providers that fail are left alone, and of two the other takes over.

use crate::{
    rig::{Rig, is},
    sms::provider,
};
use herald::{bus::Topic, config};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use testbed::{TwilioServer, free_port};

/// By these in their order, with a probe every so often.
fn config(servers: &[(&str, &TwilioServer)], probe_ms: u64) -> config::Channels {
    let providers = servers.iter().map(|(name, server)| provider(name, server));
    config::Channels {
        sms: config::Sms {
            providers: providers.collect(),
            timeout_ms: 1_000,
            ..config::Sms::default()
        },
        breaker: config::Breaker {
            probe_ms,
            ..config::Breaker::default()
        },
        ..config::Channels::default()
    }
}

/// A code for this number, which is its user's name too. Answers the id.
async fn text(rig: &Rig, number: &str) -> String {
    let device = json!({ "kind": "sms", "number": number });
    let path = format!("/v1/users/{number}/devices/phone");
    let answer = rig.call(Method::PUT, &path, Some(device)).await;
    assert!(answer.status.is_success(), "{}", answer.body);
    let code = json!({
        "target": { "user": number }, "type": "two_factor", "channels": ["sms"], "body": "4711"
    });
    rig.post(code).await.to_string()
}

fn numbers(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|number| format!("+43664{number:07}"))
}

/// How often each number got it.
fn times(servers: &[&TwilioServer]) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for message in servers.iter().flat_map(|server| server.taken()) {
        *times.entry(message.to).or_default() += 1;
    }
    times
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_provider_takes_over_from_one_that_fails_and_nobody_gets_it_twice() {
    let (first, second) = (TwilioServer::start().await, TwilioServer::start().await);
    let channels = config(&[("first", &first), ("second", &second)], 60_000);
    let rig = Rig::with_channels(&channels).await;
    let id = text(&rig, "+436640999999").await;
    rig.state("sms", &id, is("sent")).await;
    assert_eq!((first.taken().len(), second.asked()), (1, 0));
    first.set_down(true);
    for number in numbers(0..12) {
        let id = text(&rig, &number).await;
        let shown = rig.state("sms", &id, is("sent")).await;
        assert_eq!(shown["attempts"], 1, "{shown}");
    }
    // Five errors, and it was left alone.
    assert_eq!((first.asked(), second.taken().len()), (1 + 5, 12));
    assert!(times(&[&first, &second]).values().all(|times| *times == 1));
    let metrics = rig.metrics.render();
    let host = first.url().replace("https://", "");
    for line in [
        format!(r#"herald_breaker_open{{host="{host}",provider="first"}} 1"#),
        format!(r#"herald_breaker_opened_total{{host="{host}",provider="first"}} 1"#),
        format!(r#"herald_breaker_held_up_total{{host="{host}",provider="first"}} 7"#),
    ] {
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_provider_is_gone_back_to_once_a_probe_went_through() {
    let (first, second) = (TwilioServer::start().await, TwilioServer::start().await);
    let channels = config(&[("first", &first), ("second", &second)], 500);
    let rig = Rig::with_channels(&channels).await;
    first.set_down(true);
    for number in numbers(0..6) {
        let id = text(&rig, &number).await;
        rig.state("sms", &id, is("sent")).await;
    }
    assert_eq!(second.taken().len(), 6);
    first.set_down(false);
    let mut others = numbers(100..1_000);
    while first.taken().is_empty() {
        let id = text(&rig, &others.next().unwrap()).await;
        rig.state("sms", &id, is("sent")).await;
    }
    let before = second.asked();
    for number in others.take(3) {
        let id = text(&rig, &number).await;
        rig.state("sms", &id, is("sent")).await;
    }
    assert_eq!((first.taken().len(), second.asked()), (1 + 3, before));
    assert!(times(&[&first, &second]).values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_first_took_without_an_answer_comes_once_more_by_the_second() {
    let (first, second) = (TwilioServer::start().await, TwilioServer::start().await);
    let channels = config(&[("first", &first), ("second", &second)], 60_000);
    let rig = Rig::with_channels(&channels).await;
    let id = text(&rig, "+4366004900001").await;
    // The second one answers what it is asked for the first time, too.
    let shown = rig.state("sms", &id, |state| state["attempts"] == 1).await;
    assert_eq!(
        (&shown["state"], &shown["error"]),
        (&json!("pending"), &json!("timeout"))
    );
    assert_eq!((first.taken().len(), second.taken().len()), (1, 1));
    let id = text(&rig, "+436641234567").await;
    rig.state("sms", &id, is("sent")).await;
    assert_eq!((first.taken().len(), second.taken().len()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_concern_the_provider_opens_nothing_and_goes_nowhere_else() {
    let (first, second) = (TwilioServer::start().await, TwilioServer::start().await);
    let channels = config(&[("first", &first), ("second", &second)], 60_000);
    let rig = Rig::with_channels(&channels).await;
    for _ in 0..6 {
        let id = text(&rig, "+15005550004").await;
        let shown = rig.state("sms", &id, is("failed")).await;
        assert_eq!(shown["error"], "unsubscribed");
    }
    assert_eq!((first.asked(), second.asked()), (6, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_provider_messages_wait_for_it_and_none_is_given_up_or_sent_twice() {
    let server = TwilioServer::start().await;
    let rig = Rig::with_channels(&config(&[("only", &server)], 1_000)).await;
    server.set_down(true);
    let mut ids = Vec::new();
    for number in numbers(0..5) {
        let id = text(&rig, &number).await;
        let shown = rig.state("sms", &id, |state| state["attempts"] == 1).await;
        assert_eq!(shown["error"], "provider_away");
    }
    for number in numbers(5..9) {
        let code = text(&rig, &number).await;
        ids.push(code);
    }
    let mut waiting = 0;
    for id in &ids {
        let shown = rig
            .state("sms", id, |state| !state["error"].is_null())
            .await;
        assert_eq!(shown["state"], "pending");
        waiting += usize::from(shown["error"] == "breaker_open" && shown["attempts"] == 0);
    }
    assert!(waiting > 0, "all of them were probes");
    server.set_down(false);
    for id in &ids[..] {
        let states: Value = rig.get(&format!("/v1/notifications/{id}/delivery")).await;
        if states["states"][0]["attempts"] == 0 {
            rig.state("sms", id, is("sent")).await;
        }
    }
    assert!(times(&[&server]).values().all(|times| *times == 1));
    assert_eq!(rig.count(Topic::Dlq).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_for_mails_is_left_alone_in_the_same_way() {
    let relay = format!("127.0.0.1:{}", free_port());
    let email = config::Email {
        relay: Some(relay.clone()),
        tls: config::EmailTls::None,
        from: Some("no-reply@shop.example".into()),
        ..config::Email::default()
    };
    let rig = Rig::with_email(&email).await;
    let device = json!({ "kind": "email", "address": "ada@example.com" });
    let path = "/v1/users/42/devices/work";
    rig.call(Method::PUT, path, Some(device)).await;
    let mail = || async {
        let body = json!({
            "target": { "user": "42" }, "type": "order", "channels": ["email"], "title": "t"
        });
        let id = rig.post(body).await.to_string();
        rig.state("email", &id, |state| !state["error"].is_null())
            .await
    };
    for _ in 0..5 {
        let shown = mail().await;
        assert_eq!(
            (&shown["error"], &shown["attempts"]),
            (&json!("relay_away"), &json!(1))
        );
    }
    let shown = mail().await;
    assert_eq!(
        (&shown["error"], &shown["attempts"]),
        (&json!("breaker_open"), &json!(0))
    );
    let open = format!(r#"herald_breaker_open{{host="{relay}",provider="smtp"}} 1"#);
    assert!(rig.metrics.render().contains(&open));
}
