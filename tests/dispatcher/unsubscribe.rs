//! One click in a mail, as mailbox providers and people do it.

use crate::{
    email::{enter, relay, state},
    rig::{Rig, Sending, eventually, is},
};
use herald::{
    config::{self, DkimKey},
    dispatcher::{Rules, channel::Channels},
    ids::NotificationId,
    registry::embedded::EmbeddedRegistry,
};
use reqwest::Method;
use serde_json::json;
use std::{io::Write, sync::Arc};
use tempfile::NamedTempFile;
use testbed::{SmtpServer, dkim};

const BASE: &str = "https://notify.shop.example/n";

fn secret(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    writeln!(file, "{text}").unwrap();
    file
}

fn with_links(server: &SmtpServer, key: &NamedTempFile) -> config::Channels {
    config::Channels {
        email: config::Email {
            unsubscribe_url: Some(BASE.into()),
            unsubscribe_key_file: Some(key.path().to_owned()),
            ..relay(server.address())
        },
        ..config::Channels::default()
    }
}

async fn rig(channels: &config::Channels) -> Rig {
    let preferences = config::Preferences {
        mandatory_types: vec!["security".into()],
    };
    let sending = Sending {
        channels: Channels::from_config(channels).unwrap(),
        rules: Rules::from_config(&Default::default(), &preferences, &Default::default()).unwrap(),
        ..Sending::default()
    };
    let rig = Rig::sending(sending, Arc::new(EmbeddedRegistry::default())).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    rig
}

async fn post(rig: &Rig, of_type: &str, priority: &str) -> NotificationId {
    rig.post(json!({
        "target": { "user": "42" }, "type": of_type, "priority": priority, "channels": ["email"],
        "title": "t"
    }))
    .await
}

/// The headers of the mail that this becomes, each in one line.
async fn headers_of(rig: &Rig, server: &SmtpServer, of_type: &str, priority: &str) -> String {
    let before = server.mails().len();
    post(rig, of_type, priority).await;
    let mail = server.received(before + 1).await.remove(before).text;
    let (headers, _) = mail.split_once("\r\n\r\n").unwrap();
    headers.replace("\r\n ", " ")
}

fn link(headers: &str) -> Option<&str> {
    let line = headers
        .lines()
        .find_map(|line| line.strip_prefix("List-Unsubscribe:"))?;
    let link = line.trim().strip_prefix('<')?.strip_suffix('>')?;
    link.strip_prefix(BASE)
}

/// Of the dispatcher behind the address that mails name: status and page. `None`: just looks.
async fn open(rig: &Rig, path: &str, form: Option<&'static str>) -> (u16, String) {
    let url = format!("http://{}{path}", rig.addresses.http);
    let client = reqwest::Client::new();
    let request = match form {
        None => client.get(url),
        Some(form) => client
            .post(url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form),
    };
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

const CLICK: Option<&str> = Some("List-Unsubscribe=One-Click");

#[tokio::test(flavor = "multi_thread")]
async fn one_click_ends_the_mails_of_a_type_and_looking_does_not() {
    let (server, key) = (SmtpServer::start(), secret(&"k".repeat(32)));
    let rig = rig(&with_links(&server, &key)).await;
    let headers = headers_of(&rig, &server, "news & <more>", "normal").await;
    assert!(headers.contains("List-Unsubscribe-Post: List-Unsubscribe=One-Click"));
    let path = link(&headers).unwrap();

    let (status, page) = open(&rig, path, None).await;
    assert_eq!(status, 200);
    assert!(page.contains("news &amp; &lt;more&gt;"), "{page}");
    assert!(page.contains("<form method=\"post\">"), "{page}");
    headers_of(&rig, &server, "news & <more>", "normal").await;

    for _ in 0..2 {
        assert_eq!(open(&rig, path, CLICK).await.0, 200);
    }
    let id = post(&rig, "news & <more>", "normal").await;
    assert_eq!(
        state(&rig, id, is("skipped")).await["error"],
        "switched_off"
    );
    headers_of(&rig, &server, "order", "normal").await;
    let preferences = rig.get("/v1/users/42/preferences").await;
    let off = json!({ "channels": {}, "types": { "news & <more>": { "email": false } } });
    assert_eq!(preferences, off);
    let metrics = rig.metrics.render();
    assert!(metrics.contains("herald_unsubscribed_total 2"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_of_before_its_user_was_forgotten_stores_nothing_and_one_of_after_does() {
    let (server, key) = (SmtpServer::start(), secret(&"k".repeat(32)));
    let rig = rig(&with_links(&server, &key)).await;
    let before = headers_of(&rig, &server, "news", "normal").await;
    let erasure = "/v1/users/42/erasure";
    let as_admin = async |method: Method| {
        rig.call_as(&rig.admin_key, method, erasure, None, None)
            .await
    };
    assert_eq!(as_admin(Method::POST).await.status, 202);
    eventually(|| async { (as_admin(Method::GET).await.body["state"] == "done").then_some(()) })
        .await;
    assert_eq!(open(&rig, link(&before).unwrap(), CLICK).await.0, 200);
    let preferences = async || rig.get("/v1/users/42/preferences").await;
    let none = json!({ "channels": {}, "types": {} });
    assert_eq!(preferences().await, none);

    // Who comes back is asked anew.
    enter(&rig, "42", "work", "ada@example.com").await;
    let after = headers_of(&rig, &server, "news", "normal").await;
    assert_eq!(open(&rig, link(&before).unwrap(), CLICK).await.0, 200);
    assert_eq!(preferences().await, none);
    assert_eq!(open(&rig, link(&after).unwrap(), CLICK).await.0, 200);
    assert_eq!(preferences().await["types"]["news"]["email"], false);
    let metrics = rig.metrics.render();
    assert!(metrics.contains("herald_unsubscribed_total 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_was_not_written_by_us_is_a_page_that_says_so_and_changes_nothing() {
    let (server, key) = (SmtpServer::start(), secret(&"k".repeat(32)));
    let rig = rig(&with_links(&server, &key)).await;
    let headers = headers_of(&rig, &server, "news", "normal").await;
    let path = link(&headers).unwrap();
    let cut = &path[..path.len() - 1];
    for path in [cut, "/unsubscribe/x", "/unsubscribe/%ff"] {
        for form in [None, CLICK] {
            let (status, page) = open(&rig, path, form).await;
            assert!((400..500).contains(&status), "{path}: {status} {page}");
        }
    }
    assert_eq!(
        rig.get("/v1/users/42/preferences").await,
        json!({ "channels": {}, "types": {} })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_switched_off_has_no_link() {
    let (server, key) = (SmtpServer::start(), secret(&"k".repeat(32)));
    let rig = rig(&with_links(&server, &key)).await;
    for (of_type, priority, has_link) in [
        ("security", "normal", false),
        ("two_factor", "normal", false),
        ("news", "critical", false),
        ("news", "low", true),
    ] {
        let headers = headers_of(&rig, &server, of_type, priority).await;
        assert_eq!(link(&headers).is_some(), has_link, "{of_type} {priority}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_replaced_while_it_runs_and_a_file_that_is_wrong_replaces_nothing() {
    let (server, key) = (SmtpServer::start(), secret(&"k".repeat(32)));
    let directory = tempfile::tempdir().unwrap();
    let pair = dkim::pair(directory.path(), "ed25519");
    let mut config = with_links(&server, &key);
    let channels = Channels::from_config(&config).unwrap();
    let sending = Sending {
        channels: channels.clone(),
        ..Sending::default()
    };
    let rig = Rig::sending(sending, Arc::new(EmbeddedRegistry::default())).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    let old = headers_of(&rig, &server, "news", "normal").await;
    assert!(!old.contains("DKIM-Signature"));

    std::fs::write(key.path(), "short").unwrap();
    let refused = channels.reload(&config).unwrap_err();
    assert_eq!(refused.key, "email.unsubscribe_key_file");
    assert_eq!(open(&rig, link(&old).unwrap(), None).await.0, 200);

    std::fs::write(key.path(), "n".repeat(32)).unwrap();
    config.email.dkim = vec![DkimKey {
        selector: "e".into(),
        key_file: pair.key_file,
        domain: None,
    }];
    channels.reload(&config).unwrap();
    assert_eq!(open(&rig, link(&old).unwrap(), None).await.0, 404);
    let before = server.mails().len();
    post(&rig, "news", "normal").await;
    let mail = server.received(before + 1).await.remove(before).text;
    let dns = [("e._domainkey.shop.example", pair.record.as_str())];
    assert_eq!(dkim::judge(&mail, &dns), [true]);
    // A receiver takes the one click only of what is signed.
    let other = mail.replacen("List-Unsubscribe: <https", "List-Unsubscribe: <http", 1);
    let other = other.replacen("List-Unsubscribe:\r\n <https", "List-Unsubscribe: <http", 1);
    assert_ne!(other, mail);
    assert_eq!(dkim::judge(&other, &dns), [false]);
}

type Change = fn(&mut config::Email);

#[test]
fn a_configuration_of_links_that_can_not_work_names_its_key() {
    let cases: [(Change, &str); 7] = [
        (
            |email| email.unsubscribe_key_file = None,
            "email.unsubscribe_key_file",
        ),
        (
            |email| email.unsubscribe_key_file = Some("/nonexistent".into()),
            "email.unsubscribe_key_file",
        ),
        (
            |email| email.unsubscribe_url = None,
            "email.unsubscribe_url",
        ),
        (
            |email| email.unsubscribe_url = Some("http://shop.example".into()),
            "email.unsubscribe_url",
        ),
        (
            |email| email.unsubscribe_url = Some("https://shop.example/?a=".into()),
            "email.unsubscribe_url",
        ),
        (
            |email| email.unsubscribe_url = Some("https://shop.example/ x".into()),
            "email.unsubscribe_url",
        ),
        (
            |email| email.unsubscribe_url = Some(format!("https://{}", "a".repeat(400))),
            "email.unsubscribe_url",
        ),
    ];
    let key = secret(&"k".repeat(32));
    let works = config::Channels {
        email: config::Email {
            unsubscribe_url: Some("http://127.0.0.1:8090".into()),
            unsubscribe_key_file: Some(key.path().to_owned()),
            ..relay("127.0.0.1:25".into())
        },
        ..config::Channels::default()
    };
    assert!(Channels::from_config(&works).is_ok());
    for (change, wrong) in cases {
        let mut channels = works.clone();
        change(&mut channels.email);
        let refused = Channels::from_config(&channels);
        let error = refused.err().unwrap_or_else(|| panic!("{wrong} was taken"));
        assert_eq!(error.key, wrong, "{error}");
    }
}
