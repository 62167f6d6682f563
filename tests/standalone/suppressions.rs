//! `herald ctl suppressions`, as an operator uses it.

use super::ctl::{ctl, json, refused};
use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use std::time::{SystemTime, UNIX_EPOCH};
use testbed::Standalone;

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_are_not_sent_to_are_listed_and_removed_from_a_shell() {
    let secret = "one-that-nobody-guesses-in-a-hurry";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), secret).unwrap();
    let path = file.path().to_str().unwrap();
    let herald = Standalone::start(&[("email.events_secret_file", path)]).await;
    assert_eq!(ctl(&herald, &["suppressions", "list"]), "");

    let events: Vec<String> = (0..150)
        .map(|n| format!(r#"{{"type":"complaint","address":"u{n}@example.com"}}"#))
        .collect();
    let body = format!(r#"{{"events":[{}]}}"#, events.join(","));
    let at = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("msg_1.{at}.{body}").as_bytes());
    let told = reqwest::Client::new()
        .post(format!(
            "http://127.0.0.1:{}/v1/email/events",
            herald.http_port
        ))
        .header("webhook-id", "msg_1")
        .header("webhook-timestamp", at)
        .header(
            "webhook-signature",
            format!("v1,{}", BASE64_STANDARD.encode(tag)),
        )
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(told.status(), 200);

    let listed = json(&herald, &["suppressions", "list"]);
    assert_eq!(listed.as_array().unwrap().len(), 150);
    let listed = ctl(&herald, &["suppressions", "list"]);
    let line = listed
        .lines()
        .find(|line| line.starts_with("u7@example.com "));
    assert!(
        line.is_some_and(|line| line.contains("complaint")),
        "{listed}"
    );
    let removed = ctl(
        &herald,
        &["suppressions", "remove", "U7@example.com", "u8@example.com"],
    );
    assert_eq!(removed, "2 removed\n");
    let again = ["suppressions", "remove", "u7@example.com"];
    refused(&herald, &again, 1, "not suppressed");
    let left = json(&herald, &["suppressions", "list"]);
    assert_eq!(left.as_array().unwrap().len(), 148);
}
