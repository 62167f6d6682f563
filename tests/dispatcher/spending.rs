//! Budgets: what a day's budget lets through, what waits, what is refused, and what is said of it.

use crate::{
    email::{enter, relay},
    rig::{Rig, Sending, eventually, is},
    sms::provider,
};
use herald::{
    bus::{RETRY_DELAYS_S, Target, Topic},
    config,
    dispatcher::channel::Channels,
    envelope::Channel,
    metrics::Metrics,
    registry::{SharedRegistry, Spend, embedded::EmbeddedRegistry, redis::RedisRegistry},
};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use testbed::{
    SmtpServer, TwilioServer,
    redis::{RedisServer, fresh_namespace},
};

/// Mails at 1 each, 10 a day, of which 4 are kept; text messages at 2 a part, 1 to Austria, 10 a day.
fn config(smtp: &SmtpServer, twilio: Option<&TwilioServer>) -> config::Channels {
    let provider = twilio.map(|server| provider("twilio", server));
    config::Channels {
        email: relay(smtp.address()),
        sms: config::Sms {
            providers: provider.into_iter().collect(),
            ..config::Sms::default()
        },
        budgets: config::Budgets {
            email_a_day: Some(10.0),
            email_price: 1.0,
            sms_a_day: Some(10.0),
            sms_prices: [("+".to_owned(), 2.0), ("+43".to_owned(), 1.0)].into(),
            reserve_percent: 40,
            ..config::Budgets::default()
        },
        ..config::Channels::default()
    }
}

async fn mail(rig: &Rig, priority: &str, of_type: &str) -> String {
    let body = json!({
        "target": { "user": "42" }, "type": of_type, "priority": priority,
        "channels": ["in_app", "email"], "title": "t"
    });
    rig.post(body).await.to_string()
}

async fn text(rig: &Rig, user: &str, body: &str) -> String {
    let code = json!({
        "target": { "user": user }, "type": "two_factor", "channels": ["sms", "email"], "body": body
    });
    rig.post(code).await.to_string()
}

async fn enter_number(rig: &Rig, user: &str, number: &str) {
    let device = json!({ "kind": "sms", "number": number });
    let path = format!("/v1/users/{user}/devices/phone");
    let answer = rig.call(Method::PUT, &path, Some(device)).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
}

/// What is said of a channel.
async fn spend(rig: &Rig, channel: &str) -> Value {
    let path = "/v1/spend";
    let answer = rig.call_as(&rig.admin_key, Method::GET, path, None, None);
    let body = answer.await.body;
    assert_eq!(body["of_fleet"], true);
    let channels = body["channels"].as_array().unwrap().iter();
    let mut found = channels.filter(|one| one["channel"] == channel);
    found.next().unwrap().clone()
}

fn today() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (since.as_secs() / 86_400) as u32
}

/// As if another dispatcher had.
async fn spent_elsewhere(registry: &SharedRegistry, channel: Channel, amount: i64) {
    let spend = Spend {
        channel,
        day: today(),
        cost: amount * 1_000_000,
        limit: None,
    };
    registry.spend(&spend).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_budget_what_is_ordinary_waits_codes_use_the_reserve_and_critical_goes_on() {
    let smtp = SmtpServer::start();
    let rig = Rig::with_channels(&config(&smtp, None)).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    let id = mail(&rig, "normal", "order").await;
    rig.state("email", &id, is("sent")).await;
    let shown = spend(&rig, "email").await;
    let expected =
        json!({ "channel": "email", "spent": 1.0, "budget": 10.0, "left": 9.0, "reserve": 4.0 });
    assert_eq!(shown, expected);

    spent_elsewhere(&rig.registry, Channel::Email, 5).await;
    let held = mail(&rig, "low", "order").await;
    let id = mail(&rig, "normal", "order").await;
    for id in [&held, &id] {
        let shown = rig
            .state("email", id, |state| !state["error"].is_null())
            .await;
        let seen = (&shown["state"], &shown["error"], &shown["attempts"]);
        assert_eq!(seen, (&json!("pending"), &json!("over_budget"), &json!(0)));
    }
    let code = mail(&rig, "normal", "two_factor").await;
    rig.state("email", &code, is("sent")).await;

    spent_elsewhere(&rig.registry, Channel::Email, 3).await;
    let code = mail(&rig, "normal", "two_factor").await;
    let shown = rig.state("email", &code, is("failed")).await;
    assert_eq!(shown["error"], "over_budget");
    let critical = mail(&rig, "critical", "order").await;
    rig.state("email", &critical, is("sent")).await;
    let shown = spend(&rig, "email").await;
    assert_eq!(
        (&shown["spent"], &shown["left"]),
        (&json!(11.0), &json!(0.0))
    );
    assert_eq!(smtp.mails().len(), 3);
    let code = json!({
        "target": { "user": "42" }, "type": "two_factor", "channels": ["email"], "title": "t"
    });
    let answer = rig.call(Method::POST, "/v1/notifications", Some(code));
    assert_eq!(answer.await.status, 429);
    let metrics = rig.metrics.render();
    for line in [
        r#"herald_spent_today{channel="email"} 11"#,
        r#"herald_over_budget_total{channel="email",result="waits"} 2"#,
        r#"herald_over_budget_total{channel="email",result="refused"} 2"#,
        r#"herald_over_budget_total{channel="email",result="overspent"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_message_costs_by_its_parts_and_its_country_and_what_was_not_taken_nothing() {
    let (smtp, server) = (SmtpServer::start(), TwilioServer::start().await);
    let rig = Rig::with_channels(&config(&smtp, Some(&server))).await;
    for (user, number) in [
        ("1", "+436641234567"),
        ("2", "+447700900123"),
        ("3", "+15005550004"),
    ] {
        enter_number(&rig, user, number).await;
    }
    let long = "a".repeat(161);
    for (user, body, state, total) in [
        ("1", "4711", "sent", 1.0),
        ("1", long.as_str(), "sent", 3.0),
        ("2", "4711", "sent", 5.0),
        ("3", "4711", "failed", 5.0),
        ("2", long.as_str(), "sent", 9.0),
    ] {
        let id = text(&rig, user, body).await;
        rig.state("sms", &id, is(state)).await;
        assert_eq!(spend(&rig, "sms").await["spent"], total, "{user}: {body}");
    }
    // There is room for one part to Austria, and for none elsewhere.
    let id = text(&rig, "2", "4711").await;
    let shown = rig.state("sms", &id, is("failed")).await;
    assert_eq!(shown["error"], "over_budget");
    let id = text(&rig, "1", "4711").await;
    rig.state("sms", &id, is("sent")).await;
    assert_eq!(server.taken().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_tomorrow_is_counted_once_however_often_it_comes_back() {
    let smtp = SmtpServer::start();
    let rig = Rig::with_channels(&config(&smtp, None)).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    enter(&rig, "42", "home", "lovelace@example.org").await;
    spent_elsewhere(&rig.registry, Channel::Email, 6).await;
    let id = mail(&rig, "normal", "order").await;
    let is_held = |state: &Value| state["error"] == "over_budget";
    rig.state("email", &id, is_held).await;
    let waiting = eventually(|| async {
        for delay_s in RETRY_DELAYS_S {
            if let Some(record) = rig.all_records(Topic::Retry(delay_s)).await.pop() {
                return Some(record);
            }
        }
        None
    })
    .await;
    // As when its time on the delay topic is over.
    let target = Target::Keyed(Topic::Email);
    rig.bus.produce(vec![(target, waiting)]).await.unwrap();
    rig.drained("email", Topic::Email).await;
    let waits = r#"herald_over_budget_total{channel="email",result="waits"} 1"#;
    let metrics = rig.metrics.render();
    assert!(metrics.contains(waits), "{waits} in {metrics}");
    let again = r#"result="again"} 2"#;
    assert!(metrics.contains(again), "it came twice: {metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_may_have_taken_stays_paid_whatever_the_next_one_says() {
    let smtp = SmtpServer::start();
    let (first, second) = (TwilioServer::start().await, TwilioServer::start().await);
    let mut channels = config(&smtp, None);
    channels.sms.providers = vec![provider("first", &first), provider("second", &second)];
    channels.sms.timeout_ms = 1_000;
    let rig = Rig::with_channels(&channels).await;
    // The first takes it and never answers; the second is away, and with the next one it does the same.
    second.set_down(true);
    for (user, number, spent) in [("1", "+4366004100001", 1.0), ("2", "+4366004100002", 3.0)] {
        enter_number(&rig, user, number).await;
        let id = text(&rig, user, "4711").await;
        rig.state("sms", &id, |state| state["attempts"] == 1).await;
        assert_eq!(spend(&rig, "sms").await["spent"], spent, "{user}");
        second.set_down(false);
    }
    assert_eq!(first.taken().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_can_be_sent_of_today_is_not_taken() {
    let smtp = SmtpServer::start();
    let rig = Rig::with_channels(&config(&smtp, None)).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    spent_elsewhere(&rig.registry, Channel::Email, 6).await;
    let post = |priority: &str, of_type: &str, channels: Value| {
        let body = json!({
            "target": { "user": "42" }, "type": of_type, "priority": priority, "channels": channels,
            "title": "t"
        });
        rig.call(Method::POST, "/v1/notifications", Some(body))
    };
    let answer = post("normal", "order", json!(["email"])).await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.body["error"]["code"], "over_budget");
    let message = answer.body["error"]["message"].as_str().unwrap();
    assert!(message.contains("email"), "{message}");
    let seconds: u64 = answer.retry_after.unwrap().parse().unwrap();
    assert!((1..=86_400).contains(&seconds), "{seconds}");
    for (priority, of_type, channels) in [
        ("normal", "order", json!(["in_app", "email"])),
        ("normal", "order", json!(["push", "email"])),
        ("normal", "two_factor", json!(["email"])),
        ("critical", "order", json!(["email"])),
    ] {
        let answer = post(priority, of_type, channels).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
    }
    let later = json!({
        "target": { "user": "42" }, "type": "order", "channels": ["email"], "title": "t",
        "schedule_at": (u64::from(today()) + 2) * 86_400_000,
    });
    rig.post(later).await;
    let refused = r#"herald_over_budget_total{channel="email",result="not_taken"} 1"#;
    assert!(rig.metrics.render().contains(refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn dispatchers_of_a_fleet_share_a_budget() {
    let smtp = SmtpServer::start();
    let registry: SharedRegistry = Arc::new(EmbeddedRegistry::default());
    let sending = Sending {
        channels: Channels::from_config(&config(&smtp, None)).unwrap(),
        ..Sending::default()
    };
    let one = Rig::sending(sending.clone(), registry.clone()).await;
    let other = Rig::sending(sending, registry).await;
    for rig in [&one, &other] {
        enter(rig, "42", "work", "ada@example.com").await;
    }
    for rig in [&one, &other, &one, &other, &one, &other] {
        let id = mail(rig, "normal", "order").await;
        rig.state("email", &id, is("sent")).await;
    }
    for rig in [&one, &other] {
        let id = mail(rig, "normal", "order").await;
        rig.state("email", &id, |state| state["error"] == "over_budget")
            .await;
        assert_eq!(spend(rig, "email").await["spent"], 6.0);
        assert_eq!(rig.count(Topic::Dlq).await, 0);
    }
    assert_eq!(smtp.mails().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_redis_away_a_dispatcher_goes_on_from_what_it_knew_and_tells_it_afterwards() {
    let (smtp, mut redis) = (SmtpServer::start(), RedisServer::start());
    let channels = Channels::from_config(&config(&smtp, None)).unwrap();
    let at = config::Redis {
        url: redis.url(),
        ..config::Redis::default()
    };
    let namespace = fresh_namespace().parse().unwrap();
    let registry = RedisRegistry::connect(&at, &namespace, &Metrics::default()).unwrap();
    let registry: SharedRegistry = Arc::new(registry);
    let sending = Sending {
        channels,
        ..Sending::default()
    };
    let rig = Rig::sending(sending, registry.clone()).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    let id = mail(&rig, "normal", "order").await;
    rig.state("email", &id, is("sent")).await;
    spent_elsewhere(&registry, Channel::Email, 2).await;
    let id = mail(&rig, "normal", "order").await;
    rig.state("email", &id, is("sent")).await;
    redis.save_and_end();
    // 4 are known of 6.
    for _ in 0..2 {
        let id = mail(&rig, "normal", "order").await;
        rig.state("email", &id, is("sent")).await;
    }
    let id = mail(&rig, "normal", "order").await;
    rig.state("email", &id, |state| state["error"] == "over_budget")
        .await;
    redis.start_again();
    eventually(|| async { registry.healthy().then_some(()) }).await;
    let code = mail(&rig, "normal", "two_factor").await;
    rig.state("email", &code, is("sent")).await;
    assert_eq!(spend(&rig, "email").await["spent"], 7.0);
}
