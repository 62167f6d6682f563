//! The words of templates, from the API to what is shown.

use crate::{
    email::{enter, header, relay, state, text},
    rig::{Rig, Sending, eventually, is},
};
use herald::{
    bus::Topic,
    config,
    dispatcher::{Rules, channel::Channels},
    registry::embedded::EmbeddedRegistry,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::{fs, sync::Arc};
use tempfile::TempDir;
use testbed::SmtpServer;

async fn rig(server: &SmtpServer, files: &[(&str, &str)]) -> (Rig, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("order")).unwrap();
    for (name, source) in files {
        fs::write(directory.path().join("order").join(name), source).unwrap();
    }
    let templates = config::Templates {
        path: Some(directory.path().to_owned()),
        ..config::Templates::default()
    };
    let channels = config::Channels {
        email: relay(server.address()),
        ..config::Channels::default()
    };
    let usual = Default::default();
    let sending = Sending {
        channels: Channels::from_config(&channels).unwrap(),
        rules: Rules::from_config(&usual, &Default::default(), &templates).unwrap(),
        limits: None,
    };
    let rig = Rig::sending(sending, Arc::new(EmbeddedRegistry::default())).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    (rig, directory)
}

fn order() -> Value {
    json!({
        "target": { "user": "42" }, "type": "order", "channels": ["in_app", "email"],
        "title": "as sent", "body": "as sent", "data": { "number": 7, "name": "<Ada>" }
    })
}

async fn speak(rig: &Rig, locale: &str) {
    let path = "/v1/users/42/preferences";
    let answer = rig
        .call(Method::PUT, path, Some(json!({ "locale": locale })))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_has_the_words_and_the_page_of_its_users_language() {
    let server = SmtpServer::start();
    let (rig, _directory) = rig(
        &server,
        &[
            ("email.en.title", "Order {{ data.number }}"),
            ("email.de.title", "Bestellung {{ data.number }}"),
            ("email.de.body", "Hallo {{ data.name }}"),
            ("email.de.html", "<p>Hallo {{ data.name }}</p>"),
        ],
    )
    .await;
    let id = rig.post(order()).await;
    state(&rig, id, is("sent")).await;
    speak(&rig, "de-AT").await;
    let id = rig.post(order()).await;
    state(&rig, id, is("sent")).await;
    let mails = server.mails();
    assert_eq!(header(&mails[0], "Subject: "), "Order 7");
    assert!(mails[0].text.contains("as sent"), "{}", mails[0].text);
    assert_eq!(header(&mails[1], "Subject: "), "Bestellung 7");
    for part in [
        "multipart/alternative",
        "Hallo <Ada>",
        "<p>Hallo &lt;Ada&gt;</p>",
    ] {
        assert!(
            mails[1].text.contains(part),
            "no {part} in {}",
            mails[1].text
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_live_is_what_the_inbox_and_a_sync_show() {
    let server = SmtpServer::start();
    let files = [
        ("in_app.en.title", "Order {{ data.number }}"),
        ("in_app.de.title", "Bestellung {{ data.number }}"),
    ];
    let (rig, _directory) = rig(&server, &files).await;
    rig.gateway("gw-1", 0, &["42"]).await;
    speak(&rig, "de").await;
    rig.post(order()).await;
    let live = rig.records(Topic::InApp, 0, 1).await.remove(0);
    let live: Value = serde_json::from_slice(&live.frame).unwrap();
    let inbox = rig.get("/v1/users/42/notifications").await;
    let synced = rig.sync("42", &[("user:local", 0)]).await;
    let synced: Value = serde_json::from_slice(&synced.items[0]).unwrap();
    for shown in [&live, &inbox["items"][0], &synced] {
        assert_eq!(shown["title"], "Bestellung 7", "{shown}");
        assert_eq!(shown["data"], json!({ "number": 7, "name": "<Ada>" }));
    }
    // Everyone has no language of their own.
    let mut to_all = order();
    to_all["target"] = json!({ "all": true });
    to_all["channels"] = json!(["in_app"]);
    rig.post(to_all).await;
    let live = rig.records(Topic::Broadcast, 0, 1).await.remove(0);
    let live: Value = serde_json::from_slice(&live.frame).unwrap();
    assert_eq!(live["title"], "Order 7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_fails_sends_no_mail_and_says_where() {
    let server = SmtpServer::start();
    let files = [("email.en.body", "Dear\n{{ data.nobody }}")];
    let (rig, _directory) = rig(&server, &files).await;
    let id = rig.post(order()).await;
    let shown = state(&rig, id, is("failed")).await;
    assert_eq!(
        (&shown["error"], &shown["attempts"]),
        (&json!("template"), &json!(0))
    );
    rig.drained("email", Topic::Email).await;
    let dead = rig.all_records(Topic::Dlq).await.remove(0);
    let source = rig.all_records(Topic::Email).await.remove(0);
    assert_eq!(dead.value, source.value, "as it came");
    let reason = text(&dead, "dlq_reason");
    assert_eq!(reason, "order/email.en.body:2: undefined value");
    assert_eq!(text(&dead, "dlq_topic"), "email");
    assert_eq!(server.mails().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_keeps_and_shows_what_was_sent_where_its_template_fails() {
    let server = SmtpServer::start();
    let files = [("in_app.en.title", "{{ data.nobody }}")];
    let (rig, _directory) = rig(&server, &files).await;
    rig.gateway("gw-1", 0, &["42"]).await;
    rig.post(order()).await;
    let live = rig.records(Topic::InApp, 0, 1).await.remove(0);
    let live: Value = serde_json::from_slice(&live.frame).unwrap();
    assert_eq!(live["title"], "as sent");
    let dead = rig.all_records(Topic::Dlq).await.remove(0);
    let told = ["channel", "dlq_topic", "dlq_reason"].map(|name| text(&dead, name));
    assert_eq!(
        told,
        [
            "in_app",
            "raw.g1",
            "order/in_app.en.title:1: undefined value"
        ]
    );
    eventually(|| async {
        let inbox = rig.get("/v1/users/42/notifications").await;
        (inbox["items"][0]["title"] == "as sent").then_some(())
    })
    .await;
}
