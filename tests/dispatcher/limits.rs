//! How much is too much: of a user, of a producer, for a provider, and in all.

use crate::{
    email::{enter, relay, state},
    rig::{Answer, Rig, Sending, eventually, is, rows},
};
use herald::{
    api,
    bus::Topic,
    config,
    dispatcher::{api_keys, channel::Channels},
    metrics::Metrics,
    registry::{SharedRegistry, embedded::EmbeddedRegistry, redis::RedisRegistry},
};
use reqwest::Method;
use serde_json::json;
use std::sync::Arc;
use testbed::{
    SmtpServer,
    redis::{RedisServer, fresh_namespace},
};

fn in_redis(server: &RedisServer, namespace: &str) -> SharedRegistry {
    let config = config::Redis {
        url: server.url(),
        timeout_ms: 10_000,
        ..config::Redis::default()
    };
    let namespace = namespace.parse().unwrap();
    Arc::new(RedisRegistry::connect(&config, &namespace, &Metrics::default()).unwrap())
}

async fn limited(limits: config::Limits, registry: SharedRegistry) -> Rig {
    let sending = Sending {
        limits: Some(limits),
        ..Sending::default()
    };
    Rig::sending(sending, registry).await
}

async fn mailing(limits: config::Limits, email: &config::Email, registry: SharedRegistry) -> Rig {
    let channels = config::Channels {
        email: email.clone(),
        ..config::Channels::default()
    };
    let sending = Sending {
        channels: Channels::from_config(&channels).unwrap(),
        limits: Some(limits),
        ..Sending::default()
    };
    let rig = Rig::sending(sending, registry).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    rig
}

async fn mail(rig: &Rig, of_type: &str, priority: &str) -> herald::ids::NotificationId {
    rig.post(json!({
        "target": { "user": "42" }, "type": of_type, "priority": priority, "channels": ["email"], "title": "Hello"
    }))
    .await
}

async fn offer(rig: &Rig, key: &str, priority: &str) -> Answer {
    let body = json!({ "target": { "user": "42" }, "type": "x", "priority": priority });
    rig.call_as(key, Method::POST, "/v1/notifications", Some(body), None)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_had_enough_is_shown_nothing_live_and_finds_all_in_the_inbox() {
    let limits = config::Limits {
        in_app_per_hour: 3,
        ..config::Limits::none()
    };
    let server = RedisServer::shared();
    let rig = limited(limits, in_redis(server, &fresh_namespace())).await;
    rig.gateway("gw-1", 0, &["42"]).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(rig.post_to("42", &n.to_string()).await);
    }
    let critical = json!({
        "target": { "user": "42" }, "type": "x", "priority": "critical", "channels": ["in_app"]
    });
    rig.post(critical).await;
    rig.routed().await;
    assert_eq!(rows(&*rig.store, "42").await.len(), 6);
    assert_eq!(rig.count(Topic::InApp).await, 3);
    assert_eq!(rig.count(Topic::Critical).await, 1);
    for id in &ids[3..] {
        let shown = rig.state("in_app", &id.to_string(), is("skipped")).await;
        assert_eq!(shown["error"], "limited");
    }
    let shown = rig
        .state("in_app", &ids[2].to_string(), is("pending"))
        .await;
    assert_eq!(shown["error"], serde_json::Value::Null);
    let metrics = rig.metrics.render();
    let counted = r#"herald_limited_total{channel="in_app",limit="in_app"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");
    // Whoever is nowhere has seen nothing yet.
    for n in 0..5 {
        let id = rig.post_to("43", &n.to_string()).await.to_string();
        rig.state("in_app", &id, is("pending")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e_mail_is_limited_by_the_hour_and_marketing_by_the_day_and_a_restart_forgets_neither() {
    let server = SmtpServer::start();
    let limits = config::Limits {
        email_per_hour: 4,
        marketing_types: vec!["sale".into()],
        marketing_per_day: 1,
        ..config::Limits::none()
    };
    let registry = in_redis(RedisServer::shared(), &fresh_namespace());
    let mut rig = mailing(limits, &relay(server.address()), registry).await;
    let first = mail(&rig, "sale", "normal").await;
    state(&rig, first, is("sent")).await;
    rig.restart().await;
    // It takes nothing of the hour's.
    for _ in 0..2 {
        let id = mail(&rig, "sale", "normal").await;
        assert_eq!(state(&rig, id, is("skipped")).await["error"], "limited");
    }
    for _ in 0..3 {
        let id = mail(&rig, "order", "normal").await;
        state(&rig, id, is("sent")).await;
    }
    let id = mail(&rig, "order", "high").await;
    assert_eq!(state(&rig, id, is("skipped")).await["error"], "limited");
    let id = mail(&rig, "order", "critical").await;
    state(&rig, id, is("sent")).await;
    server.received(5).await;
    assert_eq!(server.mails().len(), 5);
    rig.drained("email", Topic::Email).await;
    assert_eq!(rig.count(Topic::Dlq).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_redis_away_a_dispatcher_limits_by_its_own_count() {
    let server = SmtpServer::start();
    let limits = config::Limits {
        email_per_hour: 2,
        producer_per_minute: 5,
        ..config::Limits::none()
    };
    let mut redis = RedisServer::start();
    let registry = in_redis(&redis, &fresh_namespace());
    let email = config::Email {
        per_s: 1_000,
        ..relay(server.address())
    };
    let rig = mailing(limits, &email, registry.clone()).await;
    redis.kill();
    eventually(|| async {
        let _ = registry.gateways().await;
        (!registry.healthy()).then_some(())
    })
    .await;
    for wanted in ["sent", "sent", "skipped", "skipped", "skipped"] {
        let id = mail(&rig, "order", "normal").await;
        state(&rig, id, is(wanted)).await;
    }
    assert_eq!(offer(&rig, &rig.key, "normal").await.status, 429);
    let metrics = rig.metrics.render();
    for of in ["user", "provider"] {
        let counted = format!("herald_limits_counted_alone_total{{of=\"{of}\"}}");
        assert!(metrics.contains(&counted), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_who_posts_too_much_is_told_when_to_go_on_and_the_others_are_not_concerned() {
    let limits = config::Limits {
        producer_per_minute: 5,
        producers: [("store".to_owned(), 2)].into(),
        ..config::Limits::none()
    };
    let server = RedisServer::shared();
    let namespace = fresh_namespace();
    let rig = limited(limits.clone(), in_redis(server, &namespace)).await;
    let (other_key, stored) = api_keys::generate("store", false, 1).unwrap();
    rig.store.put_api_key(stored).await.unwrap();
    for _ in 0..5 {
        assert_eq!(offer(&rig, &rig.key, "normal").await.status, 202);
    }
    let refused = offer(&rig, &rig.key, "high").await;
    assert_eq!(
        (refused.status.as_u16(), &refused.body["error"]["code"]),
        (429, &json!("rate_limited"))
    );
    let seconds: u32 = refused.retry_after.unwrap().parse().unwrap();
    assert!((1..=13).contains(&seconds), "{seconds}");
    assert_eq!(offer(&rig, &rig.key, "critical").await.status, 202);
    let asked = [202, 202, 429];
    for status in asked {
        assert_eq!(offer(&rig, &other_key, "normal").await.status, status);
    }
    let mut client = api::notifications_client::NotificationsClient::connect(rig.grpc_url())
        .await
        .unwrap();
    let mut request = tonic::Request::new(api::NotifyRequest {
        target: Some(api::notify_request::Target::User("42".into())),
        r#type: "x".into(),
        ..api::NotifyRequest::default()
    });
    let bearer = format!("Bearer {}", rig.key).parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    let status = client.notify(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.metadata().contains_key("retry-after"));

    // The fleet counts together: at another dispatcher it has nothing left either, once both have told.
    let other = limited(limits, in_redis(server, &namespace)).await;
    eventually(|| async {
        let answer = offer(&other, &other.key, "normal").await;
        (answer.status == 429).then_some(())
    })
    .await;
    let taken = other.count(Topic::Raw(1)).await;
    assert!(taken <= 5, "{taken}");
    let metrics = rig.metrics.render();
    let counted = r#"herald_intake_total{priority="high",result="rate_limited"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn above_what_it_is_meant_for_a_dispatcher_refuses_low_first() {
    let limits = config::Limits {
        design_per_s: 1,
        ..config::Limits::none()
    };
    let rig = limited(limits, Arc::new(EmbeddedRegistry::default())).await;
    // A burst of each, however slow the machine: low is refused no later than normal, critical never.
    let burst = async |priority: &'static str| {
        let offers = (0..40).map(|_| offer(&rig, &rig.key, priority));
        futures::future::join_all(offers).await
    };
    let refused = burst("low").await;
    let refused = refused
        .into_iter()
        .find(|answer| answer.status == 503)
        .unwrap();
    assert_eq!(refused.body["error"]["code"], "overloaded");
    let seconds: u32 = refused.retry_after.unwrap().parse().unwrap();
    assert!((5..=30).contains(&seconds), "{seconds}");
    for answer in burst("critical").await {
        assert_eq!(answer.status, 202, "{}", answer.body);
    }
    let metrics = rig.metrics.render();
    let counted = r#"herald_intake_total{priority="low",result="overloaded"}"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mails_leave_at_the_relays_rate_and_what_can_not_wait_here_waits_on_a_delay_topic() {
    let server = SmtpServer::start();
    let email = config::Email {
        per_s: 1,
        ..relay(server.address())
    };
    let registry = in_redis(RedisServer::shared(), &fresh_namespace());
    let rig = mailing(config::Limits::none(), &email, registry).await;
    let mut ids = Vec::new();
    for _ in 0..12 {
        ids.push(mail(&rig, "order", "normal").await);
    }
    // Critical comes behind all of them.
    let urgent = mail(&rig, "order", "critical").await;
    eventually(|| async { (rig.count(Topic::Retry(5)).await > 0).then_some(()) }).await;
    state(&rig, urgent, is("sent")).await;
    for id in ids {
        state(&rig, id, is("sent")).await;
    }
    server.received(13).await;
    assert_eq!(server.mails().len(), 13);
    let metrics = rig.metrics.render();
    for result in ["sent", "aside"] {
        let counted =
            format!("herald_provider_waits_total{{provider=\"smtp\",result=\"{result}\"}}");
        assert!(metrics.contains(&counted), "{metrics}");
    }
}
