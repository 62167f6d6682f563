//! E-mail, from the API to a real SMTP server.

use crate::rig::{Answer, Rig, eventually, id_of, is};
use herald::{
    bus::{Record, Topic},
    config::{self, EmailTls},
    dispatcher::channel::Channels,
    envelope::{Head, Kind, Priority},
    ids::NotificationId,
    metrics::Metrics,
    registry::{SendKey, SharedRegistry, embedded::EmbeddedRegistry, redis::RedisRegistry},
};
use reqwest::Method;
use serde_json::{Value, json};
use std::{io::Write, sync::Arc, time::Duration};
use testbed::{
    Mail, SmtpServer, certificates, free_port,
    redis::{RedisServer, fresh_namespace},
};

pub fn relay(address: String) -> config::Email {
    config::Email {
        relay: Some(address),
        tls: EmailTls::None,
        from: Some("Shop <no-reply@shop.example>".into()),
        ..config::Email::default()
    }
}

pub async fn enter(rig: &Rig, user: &str, id: &str, address: &str) {
    let device = json!({ "kind": "email", "address": address });
    let path = format!("/v1/users/{user}/devices/{id}");
    let Answer { status, body, .. } = rig.call(Method::PUT, &path, Some(device)).await;
    assert_eq!(status, 201, "{body}");
}

async fn mail_to(rig: &Rig, user: &str, priority: &str) -> NotificationId {
    rig.post(json!({
        "target": { "user": user }, "type": "order", "priority": priority, "channels": ["email"],
        "title": "Grüße", "body": "Your order is on its way."
    }))
    .await
}

/// The state of the e-mail, once it is as asked.
pub async fn state(rig: &Rig, id: NotificationId, is_so: impl Fn(&Value) -> bool) -> Value {
    rig.state("email", &id.to_string(), is_so).await
}

pub fn header<'a>(mail: &'a Mail, name: &str) -> &'a str {
    let found = mail.text.lines().find_map(|line| line.strip_prefix(name));
    found.unwrap_or_else(|| panic!("no {name} in {}", mail.text))
}

pub fn text(record: &Record, header: &str) -> String {
    let value = record.header(header);
    let value = value.unwrap_or_else(|| panic!("no {header}: {:?}", record.headers));
    String::from_utf8(value.to_vec()).unwrap()
}

/// A mail to this address that is given up after one attempt, for this error.
async fn failed_at_once(address: &str, priority: &str, error: &str) -> (SmtpServer, Rig) {
    let server = SmtpServer::start();
    let rig = Rig::with_email(&relay(server.address())).await;
    enter(&rig, "42", "work", address).await;
    let id = mail_to(&rig, "42", priority).await;
    let shown = state(&rig, id, is("failed")).await;
    assert_eq!(
        (&shown["attempts"], &shown["error"]),
        (&json!(1), &json!(error))
    );
    rig.drained("email", Topic::Email).await;
    (server, rig)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_goes_to_each_address_of_its_user_once_and_the_log_says_so() {
    let server = SmtpServer::start();
    let rig = Rig::with_email(&relay(server.address())).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    enter(&rig, "42", "home", "lovelace@example.org").await;
    enter(&rig, "43", "work", "bob@example.com").await;
    let id = mail_to(&rig, "42", "normal").await;
    let shown = state(&rig, id, is("sent")).await;
    assert_eq!(
        (&shown["devices"], &shown["attempts"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(shown["error"], Value::Null);
    let provider_id = shown["provider_id"].as_str().unwrap();
    assert!(provider_id.contains("queued as"), "{provider_id}");
    assert!(shown["first_attempt_at"].as_u64() <= shown["updated_at"].as_u64());

    let mut mails = server.mails();
    mails.sort_by(|a, b| a.to.cmp(&b.to));
    let to: Vec<&str> = mails.iter().map(|mail| mail.to.as_str()).collect();
    assert_eq!(to, ["ada@example.com", "lovelace@example.org"]);
    for mail in &mails {
        assert_eq!(mail.sender, "no-reply@shop.example");
        assert!(header(mail, "From: ").contains("no-reply@shop.example"));
        assert_eq!(header(mail, "To: "), mail.to);
        assert_eq!(header(mail, "Subject: "), "=?utf-8?b?R3LDvMOfZQ==?=");
        assert_eq!(header(mail, "Auto-Submitted: "), "auto-generated");
        assert!(header(mail, "Message-ID: ").starts_with(&format!("<{id}.")));
        assert!(
            mail.text.contains("Your order is on its way."),
            "{}",
            mail.text
        );
    }
    let id_of = |mail| header(mail, "Message-ID: ");
    assert_ne!(id_of(&mails[0]), id_of(&mails[1]));
    assert_eq!(rig.count(Topic::Dlq).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_title_without_blanks_and_end_is_cut_and_its_mail_is_taken() {
    let server = SmtpServer::start();
    let rig = Rig::with_email(&relay(server.address())).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    let id = rig
        .post(json!({
            "target": { "user": "42" }, "type": "order", "channels": ["email"],
            "title": "x".repeat(5_000), "body": "Here is more."
        }))
        .await;
    state(&rig, id, is("sent")).await;
    let mails = server.mails();
    let subject = header(&mails[0], "Subject: ");
    assert_eq!(subject, format!("{}...", "x".repeat(250)));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_mails_share_the_connections_there_may_be() {
    let server = SmtpServer::start();
    let mut email = relay(server.address());
    email.connections = 3;
    let rig = Rig::with_email(&email).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    for _ in 0..60 {
        mail_to(&rig, "42", "normal").await;
    }
    server.received(60).await;
    rig.drained("email", Topic::Email).await;
    assert_eq!(server.mails().len(), 60);
    let connections = server.count("connection");
    assert!(connections <= 3, "{connections}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_off_is_tried_again_for_the_addresses_that_lack_it() {
    let server = SmtpServer::start();
    let rig = Rig::with_email(&relay(server.address())).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    enter(&rig, "42", "home", "later-1@example.com").await;
    let id = mail_to(&rig, "42", "critical").await;
    // One has it, so it is sent; the other one is waited for.
    let shown = state(&rig, id, is("sent")).await;
    assert_eq!(
        (&shown["devices"], &shown["error"]),
        (&json!(1), &json!("deferred"))
    );
    let shown = state(&rig, id, |state| state["devices"] == 2).await;
    assert_eq!(
        (&shown["attempts"], &shown["error"]),
        (&json!(2), &Value::Null)
    );
    let mut to: Vec<String> = server.mails().into_iter().map(|mail| mail.to).collect();
    to.sort();
    assert_eq!(to, ["ada@example.com", "later-1@example.com"]);
    let record = rig.all_records(Topic::Retry(5)).await.remove(0);
    assert_eq!(text(&record, "devices"), "home");
    assert_eq!(text(&record, "attempts"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_away_is_waited_for() {
    let mut server = SmtpServer::start();
    let rig = Rig::with_email(&relay(server.address())).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    server.kill();
    let id = mail_to(&rig, "42", "critical").await;
    let shown = state(&rig, id, |state| state["attempts"] == 1).await;
    assert_eq!(
        (&shown["state"], &shown["error"]),
        (&json!("pending"), &json!("relay_away"))
    );
    server.start_again();
    let shown = state(&rig, id, is("sent")).await;
    assert_eq!(shown["attempts"], 2);
    server.received(1).await;
    assert_eq!(server.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_that_is_not_there_fails_at_once_and_the_record_is_set_aside_as_it_came() {
    let (_server, rig) = failed_at_once("never@example.com", "critical", "rejected").await;
    let dead = rig.all_records(Topic::Dlq).await.remove(0);
    let source = rig.all_records(Topic::Email).await.remove(0);
    assert_eq!((&dead.key, &dead.value), (&source.key, &source.value));
    assert_eq!(text(&dead, "class"), "rejected");
    assert_eq!(text(&dead, "attempts"), "1");
    assert_eq!(text(&dead, "devices"), "work");
    let place = format!("email/{}/0", text(&dead, "dlq_partition"));
    assert_eq!(text(&dead, "source"), place);
    assert_eq!(text(&dead, "dlq_reason"), "work: rejected");
    assert!(text(&dead, "said").contains("550"), "{:?}", dead.headers);
    let times = ["began_ms", "ended_ms"].map(|at| text(&dead, at).parse::<u64>().unwrap());
    assert!(0 < times[0] && times[0] <= times[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn low_is_tried_once() {
    let (server, rig) = failed_at_once("later-9@example.com", "low", "deferred").await;
    assert_eq!(server.count("put_off"), 1);
    let metrics = rig.metrics.render();
    for sample in [
        r#"dead_letters_total{cause="exhausted",topic="email"} 1"#,
        r#"channel_results_total{channel="email",priority="low",result="failed"} 1"#,
        r#"channel_results_total{channel="email",priority="low",result="again"} 0"#,
        r#"sends_total{channel="email",priority="low",provider="smtp",result="transient"} 1"#,
        r#"sends_open{channel="email",provider="smtp"} 0"#,
    ] {
        assert!(metrics.contains(sample), "no {sample} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_address_is_told_apart_from_who_was_not_reached() {
    let server = SmtpServer::start();
    let rig = Rig::with_email(&relay(server.address())).await;
    let id = mail_to(&rig, "42", "normal").await;
    let shown = state(&rig, id, is("failed")).await;
    assert_eq!(
        (&shown["attempts"], &shown["error"]),
        (&json!(0), &json!("no_address"))
    );
    assert_eq!(shown["first_attempt_at"], Value::Null);
    assert_eq!(rig.count(Topic::Dlq).await, 0);
}

/// As the router writes it.
fn record(id: NotificationId, expires_ms: Option<u64>) -> Record {
    let head = Head {
        kind: Kind::Notification,
        id,
        created_ms: 1_760_000_000_000,
        expires_ms,
        priority: Priority::Critical,
        region: "local".into(),
        again: false,
    };
    let value = r#"{"type":"x","channels":["email"],"title":"t","priority":"critical"}"#;
    head.into_record("42", value)
}

async fn hand_over(rig: &Rig, record: Record) {
    let target = herald::bus::Target::Keyed(Topic::Email);
    rig.bus.produce(vec![(target, record)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_expired_is_not_sent() {
    let server = SmtpServer::start();
    let rig = Rig::with_email(&relay(server.address())).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    let id = NotificationId::generate();
    hand_over(&rig, record(id, Some(1_760_000_000_001))).await;
    let shown = state(&rig, id, is("failed")).await;
    assert_eq!(shown["error"], "expired");
    assert_eq!(server.mails().len(), 0);
}

fn send(id: NotificationId) -> SendKey {
    SendKey {
        channel: herald::envelope::Channel::Email,
        id,
        user: "42".parse().unwrap(),
        device: "work".parse().unwrap(),
    }
}

/// In process, and in a Redis of its own.
fn registries() -> (Vec<SharedRegistry>, RedisServer) {
    let redis = RedisServer::start();
    let config = config::Redis {
        url: redis.url(),
        timeout_ms: 10_000,
        ..config::Redis::default()
    };
    let namespace = fresh_namespace().parse().unwrap();
    let on_redis = RedisRegistry::connect(&config, &namespace, &Metrics::default()).unwrap();
    let all: Vec<SharedRegistry> = vec![Arc::new(EmbeddedRegistry::default()), Arc::new(on_redis)];
    (all, redis)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_died_before_its_send_holds_it_up_until_its_claim_ends_and_suppresses_nothing()
 {
    let (registries, _redis) = registries();
    for registry in registries {
        let server = SmtpServer::start();
        let rig = Rig::with_email_and(&relay(server.address()), registry.clone()).await;
        enter(&rig, "42", "work", "ada@example.com").await;
        let id = NotificationId::generate();
        let lease = Duration::from_secs(2);
        registry.claim_send(&send(id), "dead", lease).await.unwrap();
        hand_over(&rig, record(id, None)).await;
        let shown = state(&rig, id, is("sent")).await;
        assert_eq!(shown["attempts"], 1, "waiting for another is no attempt");
        assert_eq!(server.mails().len(), 1);
        assert_eq!(rig.count(Topic::Retry(5)).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_died_after_its_claim_was_done_is_not_followed_by_a_repeat() {
    let (registries, _redis) = registries();
    for registry in registries {
        let server = SmtpServer::start();
        let rig = Rig::with_email_and(&relay(server.address()), registry.clone()).await;
        enter(&rig, "42", "work", "ada@example.com").await;
        let id = NotificationId::generate();
        registry.finish_send(&send(id)).await.unwrap();
        hand_over(&rig, record(id, None)).await;
        let shown = state(&rig, id, is("sent")).await;
        assert_eq!(shown["devices"], 1);
        rig.drained("email", Topic::Email).await;
        assert_eq!(server.mails().len(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_read_twice_is_sent_once() {
    let server = SmtpServer::start();
    let mut email = relay(server.address());
    // Who finds it claimed looks again in 5 s.
    email.timeout_ms = 1_000;
    let rig = Rig::with_email(&email).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    let id = NotificationId::generate();
    for _ in 0..3 {
        hand_over(&rig, record(id, None)).await;
    }
    state(&rig, id, is("sent")).await;
    rig.drained("email", Topic::Email).await;
    rig.drained("retry", Topic::Retry(5)).await;
    rig.drained("email", Topic::Email).await;
    assert_eq!(server.mails().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_registry_away_mails_are_sent_all_the_same() {
    let (registries, redis) = registries();
    let server = SmtpServer::start();
    let registry = registries[1].clone();
    let rig = Rig::with_email_and(&relay(server.address()), registry.clone()).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    drop(redis);
    eventually(|| async { (!registry.healthy()).then_some(()) }).await;
    let id = mail_to(&rig, "42", "normal").await;
    state(&rig, id, is("sent")).await;
    let metrics = rig.metrics.render();
    let labels = r#"send_claims_total{channel="email",result="without"} 1"#;
    assert!(metrics.contains(labels), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_never_answers_costs_one_timeout_and_is_tried_again_on_another_connection() {
    let server = SmtpServer::start();
    let mut email = relay(server.address());
    email.timeout_ms = 1_000;
    let rig = Rig::with_email(&email).await;
    enter(&rig, "42", "work", "silent-1@example.com").await;
    let id = mail_to(&rig, "42", "critical").await;
    let shown = state(&rig, id, |state| state["attempts"] == 1).await;
    assert_eq!(
        (&shown["state"], &shown["error"]),
        (&json!("pending"), &json!("timeout"))
    );
    let shown = state(&rig, id, is("sent")).await;
    assert_eq!(shown["attempts"], 2);
    // The server had taken the first too: both are the same mail to whoever reads them.
    let mails = server.mails();
    assert_eq!(mails.len(), 2);
    assert_eq!(
        header(&mails[0], "Message-ID: "),
        header(&mails[1], "Message-ID: ")
    );
    assert_eq!(server.count("connection"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_demanded_and_the_password_is_shown_to_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    certificates::make(directory.path(), &["server"]);
    let mut password = tempfile::NamedTempFile::new().unwrap();
    password.write_all(b"secret\n").unwrap();
    for (security, tls) in [
        ("starttls", EmailTls::Starttls),
        ("implicit", EmailTls::Implicit),
    ] {
        let login = Some(("herald", "secret"));
        let server = SmtpServer::start_with(security, directory.path(), login);
        let mut email = relay(server.address());
        email.tls = tls;
        email.ca_file = Some(directory.path().join("ca.pem"));
        email.username = Some("herald".into());
        email.password_file = Some(password.path().to_owned());
        let rig = Rig::with_email(&email).await;
        enter(&rig, "42", "work", "ada@example.com").await;
        let id = mail_to(&rig, "42", "normal").await;
        state(&rig, id, is("sent")).await;
        let mail = server.mails().remove(0);
        assert!(mail.tls && mail.login, "{security}: {mail:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_refuses_us_ends_no_mail() {
    let directory = tempfile::tempdir().unwrap();
    certificates::make(directory.path(), &["server"]);
    let plain = SmtpServer::start();
    let strange = SmtpServer::start_with("starttls", directory.path(), None);
    let locked = SmtpServer::start_with("starttls", directory.path(), Some(("herald", "secret")));
    let ca = directory.path().join("ca.pem");
    let mut wrong = tempfile::NamedTempFile::new().unwrap();
    wrong.write_all(b"wrong").unwrap();
    let with = |server: &SmtpServer, ca: Option<&std::path::Path>| config::Email {
        tls: EmailTls::Starttls,
        ca_file: ca.map(Into::into),
        ..relay(server.address())
    };
    let mut locked_out = with(&locked, Some(&ca));
    locked_out.username = Some("herald".into());
    locked_out.password_file = Some(wrong.path().to_owned());
    // No TLS there, a certificate of nobody we know, a wrong password.
    for email in [
        with(&plain, Some(&ca)),
        with(&strange, None),
        locked_out.clone(),
    ] {
        let rig = Rig::with_email(&email).await;
        enter(&rig, "42", "work", "ada@example.com").await;
        let id = mail_to(&rig, "42", "high").await;
        let shown = state(&rig, id, |state| state["attempts"] == 1).await;
        assert_eq!(shown["state"], "pending", "{shown}");
        assert_eq!(shown["error"], "relay_refused", "{shown}");
    }
    let sent = [&plain, &strange, &locked].map(|server| server.mails().len());
    assert_eq!(sent, [0, 0, 0]);

    // The password is read again.
    let rig = Rig::with_email(&locked_out).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    std::fs::write(wrong.path(), "secret").unwrap();
    let id = mail_to(&rig, "42", "normal").await;
    state(&rig, id, is("sent")).await;
}

type Change = fn(&mut config::Email);

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_can_not_work_names_its_key() {
    let works = relay(format!("127.0.0.1:{}", free_port()));
    let with = |change: Change| {
        let mut email = works.clone();
        change(&mut email);
        email
    };
    let cases: [(Change, &str); 12] = [
        (|email| email.relay = None, "email.relay"),
        (|email| email.relay = Some("mail".into()), "email.relay"),
        (|email| email.from = None, "email.from"),
        (|email| email.from = Some("nobody".into()), "email.from"),
        (|email| email.from = Some(" ".into()), "email.from"),
        (
            |email| email.username = Some("u".into()),
            "email.password_file",
        ),
        (
            |email| email.password_file = Some("/x".into()),
            "email.username",
        ),
        (|email| email.timeout_ms = 999, "email.timeout_ms"),
        (|email| email.connections = 0, "email.connections"),
        (
            |email| {
                email.username = Some("u".into());
                email.password_file = Some("/nonexistent/password".into());
            },
            "email.password_file",
        ),
        (
            |email| {
                email.relay = Some("mail.example.com:25".into());
                email.username = Some("u".into());
                email.password_file = Some("/x".into());
            },
            "email.tls",
        ),
        (
            |email| {
                email.tls = EmailTls::Starttls;
                email.ca_file = Some("/nonexistent/ca.pem".into());
            },
            "email.ca_file",
        ),
    ];
    let from_config = |email| {
        Channels::from_config(&config::Channels {
            email,
            ..config::Channels::default()
        })
    };
    for (change, key) in cases {
        let refused = from_config(with(change));
        let error = refused.err().unwrap_or_else(|| panic!("{key} was taken"));
        assert_eq!(error.key, key, "{error}");
    }
    assert!(from_config(works.clone()).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_reaches_each_of_its_users_by_mail() {
    let server = SmtpServer::start();
    let rig = Rig::with_email(&relay(server.address())).await;
    for user in ["1", "2", "3"] {
        enter(&rig, user, "work", &format!("u{user}@example.com")).await;
    }
    let answer = rig
        .call(
            Method::POST,
            "/v1/notifications",
            Some(json!({
                "target": { "users": ["1", "2", "3"] }, "type": "x", "title": "t",
                "channels": ["in_app", "email"]
            })),
        )
        .await;
    let id = id_of(&answer.body);
    server.received(3).await;
    rig.drained("email", Topic::Email).await;
    let body = rig.get(&format!("/v1/notifications/{id}/delivery")).await;
    let states = body["states"].as_array().unwrap();
    let sent = states.iter().filter(|state| state["state"] == "sent");
    assert_eq!(sent.count(), 3, "{body}");
}
