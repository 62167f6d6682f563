//! Mails that came back, from who tells of them to who is not written to any more.

use crate::{
    email::{enter, relay, state},
    rig::{Answer, Rig, eventually, is},
};
use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use herald::{config, dispatcher::channel::Channels, ids::NotificationId};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};
use testbed::SmtpServer;

const SECRET: &str = "one-that-nobody-guesses-in-a-hurry";
const EVENTS: &str = "/v1/email/events";
const LIST: &str = "/v1/suppressions";

/// A dispatcher that is told of mails, and its user 42 with two addresses.
async fn rig(server: &SmtpServer) -> Rig {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), SECRET).unwrap();
    let email = config::Email {
        events_secret_file: Some(file.path().to_owned()),
        ..relay(server.address())
    };
    let rig = Rig::with_email(&email).await;
    enter(&rig, "42", "work", "Ada@Example.com").await;
    enter(&rig, "42", "home", "lovelace@example.org").await;
    rig
}

/// Tells of it, signed with this secret so many seconds ago.
async fn tell_as(rig: &Rig, secret: &str, ago_s: u64, body: &str) -> (u16, Value) {
    let now_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let at = now_s - ago_s;
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("msg_1.{at}.{body}").as_bytes());
    let response = reqwest::Client::new()
        .post(format!("http://{}{EVENTS}", rig.addresses.http))
        .header("webhook-id", "msg_1")
        .header("webhook-timestamp", at)
        .header(
            "webhook-signature",
            format!("v1,{}", BASE64_STANDARD.encode(tag)),
        )
        .body(body.to_owned())
        .send()
        .await
        .unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn tell(rig: &Rig, events: Value) {
    let body = json!({ "events": events }).to_string();
    let (status, answer) = tell_as(rig, SECRET, 0, &body).await;
    assert_eq!(status, 200, "{answer}");
}

async fn mail(rig: &Rig, user: &str) -> NotificationId {
    rig.post(json!({
        "target": { "user": user }, "type": "order", "channels": ["email"], "title": "t"
    }))
    .await
}

async fn as_admin(rig: &Rig, method: Method, path: &str) -> Answer {
    rig.call_as(&rig.admin_key, method, path, None, None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_bounced_for_good_or_complained_is_not_written_to_until_an_operator_says_so() {
    let server = SmtpServer::start();
    let rig = rig(&server).await;
    enter(&rig, "43", "work", "ada@example.com").await;
    let bounces = json!([
        { "type": "bounce", "address": "ada@example.com", "permanent": true, "reason": "550 5.1.1" },
        { "type": "bounce", "address": "lovelace@example.org", "permanent": false }
    ]);
    tell(&rig, bounces.clone()).await;
    // One of two addresses is left.
    let id = mail(&rig, "42").await;
    let shown = state(&rig, id, is("sent")).await;
    assert_eq!(shown["devices"], 1);
    assert_eq!(server.mails()[0].to, "lovelace@example.org");

    tell(
        &rig,
        json!([{ "type": "complaint", "address": "lovelace@example.org" }]),
    )
    .await;
    for user in ["42", "43"] {
        let id = mail(&rig, user).await;
        let shown = state(&rig, id, is("failed")).await;
        assert_eq!(
            (&shown["error"], &shown["attempts"]),
            (&json!("suppressed"), &json!(0))
        );
    }
    assert_eq!(server.mails().len(), 1);

    let Answer { body, .. } = as_admin(&rig, Method::GET, LIST).await;
    let listed: Vec<(&str, &str, &str)> = body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| ["address", "cause", "reason"].map(|name| item[name].as_str().unwrap()))
        .map(|[address, cause, reason]| (address, cause, reason))
        .collect();
    assert_eq!(
        listed,
        [
            ("ada@example.com", "hard_bounce", "550 5.1.1"),
            ("lovelace@example.org", "complaint", "")
        ]
    );
    let path = format!("{LIST}/ADA%40example.com");
    assert_eq!(as_admin(&rig, Method::GET, &path).await.status, 200);
    assert_eq!(as_admin(&rig, Method::DELETE, &path).await.status, 204);
    // The report comes again, as when its answer was lost.
    tell(&rig, bounces).await;
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(as_admin(&rig, method, &path).await.status, 404);
    }
    let id = mail(&rig, "43").await;
    state(&rig, id, is("sent")).await;
    let metrics = rig.metrics.render();
    for (event, count) in [("hard_bounce", 1), ("complaint", 1), ("ignored", 1)] {
        let line = format!("herald_email_events_total{{event=\"{event}\"}} {count}");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_comes_by_pages_and_to_admin_keys_only() {
    let server = SmtpServer::start();
    let rig = rig(&server).await;
    let events: Vec<Value> = (0..5)
        .map(|n| json!({ "type": "complaint", "address": format!("u{n}@example.com") }))
        .collect();
    tell(&rig, events.into()).await;
    let (mut addresses, mut path) = (Vec::new(), format!("{LIST}?limit=2"));
    loop {
        let page = as_admin(&rig, Method::GET, &path).await.body;
        let items = page["items"].as_array().unwrap();
        let of_page = items
            .iter()
            .map(|item| item["address"].as_str().unwrap().to_owned());
        addresses.extend(of_page);
        match page["next"].as_str() {
            Some(next) => path = format!("{LIST}?limit=2&cursor={next}"),
            None => break,
        }
    }
    let expected: Vec<String> = (0..5).map(|n| format!("u{n}@example.com")).collect();
    assert_eq!(addresses, expected);
    let refused = as_admin(&rig, Method::GET, &format!("{LIST}?limit=0")).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.body["error"]["field"]),
        (422, &json!("limit"))
    );
    for method in [Method::GET, Method::DELETE] {
        let path = format!("{LIST}/u1@example.com");
        assert_eq!(rig.call(method, &path, None).await.status, 403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_is_not_signed_by_the_secret_or_too_old_suppresses_nobody() {
    let server = SmtpServer::start();
    let rig = rig(&server).await;
    let body = r#"{"events":[{"type":"complaint","address":"ada@example.com"}]}"#;
    for (secret, ago_s) in [("another-that-nobody-guesses-at-all", 0), (SECRET, 3_600)] {
        let (status, answer) = tell_as(&rig, secret, ago_s, body).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (403, &json!("unsigned"))
        );
    }
    let unsigned = rig
        .call(Method::POST, EVENTS, Some(json!({ "events": [] })))
        .await;
    assert_eq!(unsigned.status, 403);
    let (status, answer) = tell_as(&rig, SECRET, 0, r#"{"events":[{"type":"complaint"}]}"#).await;
    assert_eq!(
        (status, &answer["error"]["field"]),
        (422, &json!("events[0].address"))
    );
    let listed = as_admin(&rig, Method::GET, LIST).await.body;
    assert_eq!(listed, json!({ "items": [], "next": null }));

    let deaf = Rig::with_email(&relay(server.address())).await;
    let (status, answer) = tell_as(&deaf, SECRET, 0, body).await;
    assert_eq!(status, 404, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_of_a_user_who_was_erased_is_not_stored_once_more() {
    let server = SmtpServer::start();
    let rig = rig(&server).await;
    let path = "/v1/users/42/erasure";
    assert_eq!(as_admin(&rig, Method::POST, path).await.status, 202);
    eventually(|| async {
        let shown = as_admin(&rig, Method::GET, path).await.body;
        (shown["state"] == "done").then_some(())
    })
    .await;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now_ms = now_ms.as_millis() as u64;
    let late = [
        json!({ "type": "bounce", "address": "Ada@example.com", "permanent": true }),
        json!({ "type": "complaint", "address": "ada@example.com", "sent_at": now_ms - 60_000 }),
    ];
    let body = json!({ "events": late }).to_string();
    let (status, answer) = tell_as(&rig, SECRET, 0, &body).await;
    let dropped = json!({ "suppressed": 0, "ignored": 2 });
    assert_eq!((status, &answer), (200, &dropped));
    let listed = as_admin(&rig, Method::GET, LIST).await.body;
    let items = listed["items"].as_array().unwrap();
    assert_eq!(items.len(), 2, "one of each address: {listed}");
    for item in items {
        assert_eq!(item["cause"], "erased");
        assert!(item["address"].as_str().unwrap().starts_with("erased:"));
    }
    let counted = r#"herald_email_events_total{event="erased"} 2"#;
    assert!(rig.metrics.render().contains(counted));

    // Somebody else has one of them, and the user comes back with the other.
    let later = json!({
        "type": "bounce", "address": "ada@example.com", "permanent": true, "sent_at": now_ms + 600_000
    });
    tell(&rig, json!([later])).await;
    enter(&rig, "42", "home", "lovelace@example.org").await;
    tell(
        &rig,
        json!([{ "type": "complaint", "address": "lovelace@example.org" }]),
    )
    .await;
    for address in ["ada@example.com", "lovelace@example.org"] {
        let path = format!("{LIST}/{address}");
        assert_eq!(
            as_admin(&rig, Method::GET, &path).await.status,
            200,
            "{address}"
        );
    }
}

#[test]
fn a_secret_that_can_not_be_one_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for secret in ["short", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD%%", ""] {
        std::fs::write(file.path(), secret).unwrap();
        let channels = config::Channels {
            email: config::Email {
                events_secret_file: Some(file.path().to_owned()),
                ..config::Email::default()
            },
            ..config::Channels::default()
        };
        let error = Channels::from_config(&channels).err().expect(secret);
        assert_eq!(error.key, "email.events_secret_file", "{error}");
    }
}
