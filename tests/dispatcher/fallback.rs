//! Chains: a channel begins when what came before it was not acknowledged in its time. The delays here are the shortest
//! there are, 5 s each.

use crate::{
    email::{enter, relay, state},
    rig::{Rig, Sending, eventually, is, outcome, rows},
};
use herald::{
    bus::Topic,
    config,
    dispatcher::{Rules, channel::Channels},
    envelope::Fate,
    ids::NotificationId,
    registry::{SharedRegistry, embedded::EmbeddedRegistry},
};
use reqwest::Method;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use testbed::SmtpServer;

async fn rig(server: &SmtpServer) -> Rig {
    let fallback = config::Fallback {
        push_after_s: 5,
        email_after_s: 5,
        ..config::Fallback::default()
    };
    let channels = config::Channels {
        email: relay(server.address()),
        ..config::Channels::default()
    };
    let sending = Sending {
        channels: Channels::from_config(&channels).unwrap(),
        rules: Rules::from_config(&fallback, &Default::default(), &Default::default()).unwrap(),
        limits: None,
    };
    let registry: SharedRegistry = Arc::new(EmbeddedRegistry::default());
    let rig = Rig::sending(sending, registry).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    rig
}

async fn high(rig: &Rig) -> NotificationId {
    let body = json!({ "target": { "user": "42" }, "type": "x", "priority": "high", "title": "t" });
    rig.post(body).await
}

/// Until nothing waits for its turn any more.
async fn over(rig: &Rig) {
    rig.routed().await;
    rig.drained("retry", Topic::Retry(5)).await;
    rig.drained("email", Topic::Email).await;
}

fn followed(rig: &Rig, result: &str) -> bool {
    let line = format!(r#"fallbacks_total{{channel="email",result="{result}"}}"#);
    rig.metrics.render().contains(&line)
}

#[tokio::test(flavor = "multi_thread")]
async fn high_that_nobody_acknowledged_goes_by_e_mail_and_push_is_passed_over() {
    let server = SmtpServer::start();
    let rig = rig(&server).await;
    let id = high(&rig).await;
    let waiting = state(&rig, id, is("pending")).await;
    assert_eq!(waiting["attempts"], 0);
    state(&rig, id, is("sent")).await;
    assert_eq!(server.mails().len(), 1);
    let body = rig.get(&format!("/v1/notifications/{id}/delivery")).await;
    let states = body["states"].as_array().unwrap();
    let push = states.iter().find(|state| state["channel"] == "push");
    assert_eq!(push.unwrap()["error"], "not_configured");
    assert!(followed(&rig, "begins"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_on_any_device_ends_the_chain() {
    let server = SmtpServer::start();
    let rig = rig(&server).await;
    let gateway = rig.gateway("gw-1", 0, &["42"]).await;
    let id = high(&rig).await;
    let pos = rig.records(Topic::InApp, 0, 1).await[0].pos;
    // One device has it, another one acknowledges it.
    let said = [Fate::Written, Fate::Acked].map(|fate| outcome(id, "42", pos, fate));
    rig.report(&gateway, Some(0), said.to_vec()).await;
    let shown = state(&rig, id, is("skipped")).await;
    assert_eq!(
        (&shown["error"], &shown["attempts"]),
        (&json!("acknowledged"), &json!(0))
    );
    over(&rig).await;
    assert_eq!(server.mails().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_later_one_of_its_collapse_key_replaced_is_not_sent_any_more() {
    let server = SmtpServer::start();
    let rig = rig(&server).await;
    let update = async |title: &str| {
        let body = json!({
            "target": { "user": "42" }, "type": "x", "priority": "high", "title": title, "collapse_key": "order-7"
        });
        rig.post(body).await
    };
    let (first, last) = (update("packed").await, update("shipped").await);
    let shown = state(&rig, first, is("skipped")).await;
    assert_eq!(shown["error"], "collapsed");
    state(&rig, last, is("sent")).await;
    over(&rig).await;
    let mails = server.mails();
    assert_eq!(mails.len(), 1);
    assert!(mails[0].text.contains("shipped"), "{}", mails[0].text);
    assert!(followed(&rig, "collapsed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_in_the_inbox_is_acknowledged_too() {
    let server = SmtpServer::start();
    let rig = rig(&server).await;
    let id = high(&rig).await;
    rig.routed().await;
    let body = json!({ "ids": [id] });
    let answer = rig
        .call(Method::POST, "/v1/users/42/read", Some(body))
        .await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    eventually(|| async { rows(&*rig.store, "42").await[0].read.then_some(()) }).await;
    state(&rig, id, is("skipped")).await;
    over(&rig).await;
    assert_eq!(server.mails().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_ends_what_is_being_tried_again() {
    let server = SmtpServer::start();
    let rig = rig(&server).await;
    enter(&rig, "42", "work-2", "later-9@example.com").await;
    let code = json!({
        "target": { "user": "42" }, "type": "two_factor", "priority": "critical", "title": "1234"
    });
    let id = rig.post(code).await;
    let tried = state(&rig, id, |state| state["attempts"] == 1).await;
    assert_eq!(
        tried["state"], "sent",
        "SMS and push are passed over: {tried}"
    );
    let gateway = rig.gateway("gw-1", 0, &["42"]).await;
    let start = herald::position::Position::START;
    let acked = outcome(id, "42", start, Fate::Acked);
    rig.report(&gateway, Some(0), vec![acked]).await;
    let ended = state(&rig, id, |state| state["error"] == "acknowledged").await;
    assert_eq!(
        (&ended["state"], &ended["devices"]),
        (&json!("sent"), &json!(1))
    );
    over(&rig).await;
    assert_eq!(server.count("put_off"), 1);
}

/// A user who is connected to a gateway that says nothing.
async fn unanswered(server: &SmtpServer) -> (Rig, NotificationId) {
    let rig = rig(server).await;
    rig.gateway("gw-1", 0, &["42"]).await;
    let id = high(&rig).await;
    rig.records(Topic::InApp, 0, 1).await;
    (rig, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_outcomes_are_not_accepted_a_channel_waits_as_long_again_and_begins_then() {
    let server = SmtpServer::start();
    let (rig, id) = unanswered(&server).await;
    eventually(|| async { followed(&rig, "waits").then_some(()) }).await;
    assert_eq!(server.mails().len(), 0);
    state(&rig, id, is("sent")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_that_was_accepted_late_ends_the_chain_all_the_same() {
    let server = SmtpServer::start();
    let (rig, id) = unanswered(&server).await;
    eventually(|| async { followed(&rig, "waits").then_some(()) }).await;
    let gateway = rig.gateway("gw-2", 1, &["42"]).await;
    let pos = rig.records(Topic::InApp, 0, 1).await[0].pos;
    rig.report(&gateway, Some(1), vec![outcome(id, "42", pos, Fate::Acked)])
        .await;
    state(&rig, id, is("skipped")).await;
    over(&rig).await;
    assert_eq!(server.mails().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_held_while_no_dispatcher_was_there_is_heard_before_a_channel_begins() {
    let server = SmtpServer::start();
    let mut rig = rig(&server).await;
    let gateway = rig.gateway("gw-1", 0, &["42"]).await;
    let id = high(&rig).await;
    let pos = rig.records(Topic::InApp, 0, 1).await[0].pos;
    rig.report(
        &gateway,
        Some(0),
        vec![outcome(id, "42", pos, Fate::Written)],
    )
    .await;
    rig.stop().await;
    // The time of the next channel passes while nobody is there.
    tokio::time::sleep(Duration::from_secs(5)).await;
    rig.restart().await;
    eventually(|| async { followed(&rig, "waits").then_some(()) }).await;
    rig.report(&gateway, Some(0), vec![outcome(id, "42", pos, Fate::Acked)])
        .await;
    state(&rig, id, is("skipped")).await;
    over(&rig).await;
    assert_eq!(server.mails().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn critical_waits_for_no_acknowledgement() {
    let server = SmtpServer::start();
    let rig = rig(&server).await;
    let body = json!({ "target": { "user": "42" }, "type": "x", "priority": "critical" });
    let id = rig.post(body).await;
    state(&rig, id, is("sent")).await;
    assert_eq!(rig.count(Topic::Retry(5)).await, 0);
    let states: Value = rig.get(&format!("/v1/notifications/{id}/delivery")).await;
    assert_eq!(states["states"].as_array().unwrap().len(), 4, "{states}");
}
