//! Text messages, from the API to a strict server of their provider's protocol, and back by its reports.

use crate::rig::{Answer, Rig, is, refused_key};
use herald::{bus::Topic, config};
use reqwest::Method;
use serde_json::{Value, json};
use testbed::{
    TwilioServer,
    twilio::{post_report, sign},
};

pub fn provider(name: &str, server: &TwilioServer) -> config::SmsProvider {
    config::SmsProvider {
        name: name.into(),
        url: server.url(),
        account_sid: server.account_sid(),
        auth_token_file: server.token_file(),
        from: Some("+12025550123".into()),
        messaging_service_sid: None,
        ca_file: Some(server.ca_file()),
    }
}

fn config(server: &TwilioServer) -> config::Channels {
    let sms = config::Sms {
        providers: vec![provider("twilio", server)],
        callback_url: Some("https://herald.example.com/".into()),
        ..config::Sms::default()
    };
    config::Channels {
        sms,
        ..config::Channels::default()
    }
}

async fn enter(rig: &Rig, user: &str, number: &str) -> Answer {
    let device = json!({ "kind": "sms", "number": number });
    let id = number.trim_start_matches('+');
    let path = format!("/v1/users/{user}/devices/{id}");
    rig.call(Method::PUT, &path, Some(device)).await
}

/// A critical one by SMS; `more` is added to the request. Answers the id.
async fn text(rig: &Rig, user: &str, more: Value) -> String {
    let mut body = json!({
        "target": { "user": user }, "type": "alarm", "priority": "critical", "channels": ["sms"],
        "body": "Your tank is empty"
    });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    rig.post(body).await.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_is_sent_its_text_and_the_provider_reports_that_it_came() {
    let server = TwilioServer::start().await;
    let rig = Rig::with_channels(&config(&server)).await;
    let answer = enter(&rig, "ü 42", "+436641234567").await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!(answer.body["number"], "+436641234567");
    let id = text(&rig, "ü 42", json!({ "ttl_s": 600, "title": "Tank" })).await;
    let shown = rig.state("sms", &id, is("sent")).await;
    assert_eq!(server.wrong(), Vec::<String>::new());
    let message = server.taken().remove(0);
    assert_eq!(shown["provider_id"], message.sid);
    let field = |name: &str| message.fields[name].as_str();
    assert_eq!(
        (field("To"), field("From"), field("Body")),
        ("+436641234567", "+12025550123", "Your tank is empty")
    );
    let queued_s: u32 = field("ValidityPeriod").parse().unwrap();
    assert!((590..=600).contains(&queued_s), "{queued_s}");

    for (status, state) in [
        ("queued", "sent"),
        ("sent", "sent"),
        ("delivered", "delivered"),
    ] {
        for _ in 0..2 {
            let answer = server.report(&message, status, None, rig.addresses.http);
            assert_eq!(answer.await, 204);
            let shown = rig.state("sms", &id, is(state)).await;
            let seen = (&shown["attempts"], &shown["devices"], &shown["provider_id"]);
            assert_eq!(
                seen,
                (&json!(1), &json!(1), &json!(message.sid)),
                "{status}"
            );
        }
    }
    // Late and out of order: it was delivered.
    let answer = server.report(&message, "undelivered", Some(30003), rig.addresses.http);
    assert_eq!(answer.await, 204);
    let shown = rig.state("sms", &id, is("delivered")).await;
    assert_eq!(shown["error"], Value::Null);
    let metrics = rig.metrics.render();
    let counted = r#"herald_sms_reports_total{provider="twilio",status="delivered"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");
    assert!(metrics.contains(r#"herald_sms_segments_total{provider="twilio"} 1"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_come_says_so_with_the_providers_code() {
    let server = TwilioServer::start().await;
    let rig = Rig::with_channels(&config(&server)).await;
    for (number, status, code) in [
        ("+436641000001", "undelivered", 30006),
        ("+436641000002", "failed", 30008),
    ] {
        enter(&rig, number, number).await;
        let id = text(&rig, number, json!({})).await;
        rig.state("sms", &id, is("sent")).await;
        let message = server.taken().pop().unwrap();
        let answer = server.report(&message, status, Some(code), rig.addresses.http);
        assert_eq!(answer.await, 204);
        let shown = rig
            .state("sms", &id, |state| state["state"] == status)
            .await;
        assert_eq!(shown["error"], code.to_string());
        assert_eq!(shown["attempts"], 1);
    }
    assert_eq!(
        rig.count(Topic::Retry(5)).await,
        0,
        "it was taken: nobody sends it again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_the_account_has_not_signed_changes_nothing() {
    let server = TwilioServer::start().await;
    let rig = Rig::with_channels(&config(&server)).await;
    enter(&rig, "42", "+436641234567").await;
    let id = text(&rig, "42", json!({})).await;
    rig.state("sms", &id, is("sent")).await;
    let message = server.taken().remove(0);
    let (url, to) = (&message.fields["StatusCallback"], rig.addresses.http);
    let pairs = server.pairs(&message, "delivered", None);
    let right = sign(url, &pairs);
    let mut others = pairs.clone();
    others.insert("MessageStatus".into(), "failed".into());
    assert_eq!(post_report(url, &pairs, None, to).await, 403);
    assert_eq!(post_report(url, &pairs, Some("AAAA"), to).await, 403);
    assert_eq!(post_report(url, &others, Some(&right), to).await, 403);
    // Of another user's message.
    let elsewhere = format!("{}MTIz", url.trim_end_matches("NDI"));
    assert_ne!(&elsewhere, url);
    assert_eq!(post_report(&elsewhere, &pairs, Some(&right), to).await, 403);
    for unknown in [
        url.replace("/twilio/", "/other/"),
        url.replace("/sms/twilio/", "/sms/twilio/x"),
    ] {
        assert_eq!(post_report(&unknown, &pairs, Some(&right), to).await, 404);
    }
    rig.state("sms", &id, is("sent")).await;
    let refused = r#"herald_sms_reports_total{provider="twilio",status="refused"} 4"#;
    assert!(rig.metrics.render().contains(refused));
    assert_eq!(post_report(url, &pairs, Some(&right), to).await, 204);
    rig.state("sms", &id, is("delivered")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_works_ends_at_once_with_its_class_and_the_number_stays() {
    let server = TwilioServer::start().await;
    let rig = Rig::with_channels(&config(&server)).await;
    let long = "ł".repeat(671);
    let mut sent = Vec::new();
    for (number, more, class) in [
        ("+15005550001", json!({}), "bad_number"),
        ("+15005550002", json!({}), "no_route"),
        ("+15005550003", json!({}), "no_route"),
        ("+15005550004", json!({}), "unsubscribed"),
        ("+15005550009", json!({}), "bad_number"),
        ("+436641000001", json!({ "body": null }), "unfit"),
        ("+436641000002", json!({ "body": long }), "unfit"),
    ] {
        enter(&rig, number, number).await;
        sent.push((number, text(&rig, number, more).await, class));
    }
    for (number, id, class) in sent {
        let shown = rig.state("sms", &id, is("failed")).await;
        assert_eq!(
            (&shown["error"], &shown["attempts"]),
            (&json!(class), &json!(1)),
            "{number}"
        );
        let listed = rig.get(&format!("/v1/users/{number}/devices")).await;
        assert_eq!(listed["devices"][0]["number"], number);
    }
    assert_eq!(server.taken().len(), 0);
    assert_eq!(server.wrong(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_work_later_is_tried_again() {
    let server = TwilioServer::start().await;
    let mut channels = config(&server);
    channels.sms.timeout_ms = 1_000;
    let rig = Rig::with_channels(&channels).await;
    let cases = [
        ("+4366001100001", "throttled"),
        ("+4366002100001", "provider_away"),
        ("+4366003100001", "provider_refused"),
        ("+4366004100001", "timeout"),
    ];
    let mut sent = Vec::new();
    for (number, class) in cases {
        enter(&rig, number, number).await;
        sent.push((text(&rig, number, json!({})).await, class));
    }
    for (id, class) in &sent {
        let shown = rig.state("sms", id, |state| state["attempts"] == 1).await;
        let seen = (&shown["state"], &shown["error"]);
        assert_eq!(seen, (&json!("pending"), &json!(class)));
    }
    for (id, _) in &sent {
        let shown = rig.state("sms", id, is("sent")).await;
        assert_eq!(shown["attempts"], 2);
    }
    // What was taken and not answered comes once more, and nothing else.
    let mut to: Vec<String> = server.taken().into_iter().map(|one| one.to).collect();
    to.sort();
    to.dedup();
    assert_eq!((to.len(), server.taken().len()), (4, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn sms_is_for_critical_and_for_codes() {
    let server = TwilioServer::start().await;
    let rig = Rig::with_channels(&config(&server)).await;
    enter(&rig, "42", "+436641234567").await;
    for priority in ["high", "normal", "low"] {
        let body = json!({
            "target": { "user": "42" }, "type": "order", "priority": priority,
            "channels": ["in_app", "sms"]
        });
        let path = "/v1/notifications";
        let answer = rig.call(Method::POST, path, Some(body)).await;
        assert_eq!(answer.status, 422, "{priority}");
        assert_eq!(answer.body["error"]["field"], "channels[1]");
    }
    let code = json!({ "target": { "user": "42" }, "type": "two_factor", "body": "4711" });
    let id = rig.post(code).await.to_string();
    rig.state("sms", &id, is("sent")).await;
    let high = json!({
        "target": { "user": "42" }, "type": "order", "priority": "high", "title": "t"
    });
    let id = rig.post(high).await.to_string();
    rig.routed().await;
    let states = rig.get(&format!("/v1/notifications/{id}/delivery")).await;
    let states = states["states"].as_array().unwrap().iter();
    let channels: Vec<&str> = states
        .map(|state| state["channel"].as_str().unwrap())
        .collect();
    assert_eq!(channels, ["email", "in_app", "push"]);
    assert_eq!(server.taken().len(), 1);
    assert_eq!(server.taken()[0].fields["Body"], "4711");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_number_of_a_user_gets_it_and_a_number_may_be_of_several() {
    let server = TwilioServer::start().await;
    let rig = Rig::with_channels(&config(&server)).await;
    for (user, number) in [
        ("1", "+436641000001"),
        ("1", "+436641000002"),
        ("2", "+436641000001"),
    ] {
        assert_eq!(enter(&rig, user, number).await.status, 201);
    }
    let id = text(&rig, "1", json!({})).await;
    let shown = rig.state("sms", &id, is("sent")).await;
    assert_eq!(shown["devices"], 2);
    let id = text(&rig, "2", json!({})).await;
    rig.state("sms", &id, is("sent")).await;
    assert_eq!(server.taken().len(), 3);
    let answer = enter(&rig, "1", "+4366410000010000").await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body["error"]["field"]),
        (422, &json!("number"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_replaced_in_its_file_is_taken_over() {
    let server = TwilioServer::start().await;
    let wrong = "ffffffffffffffffffffffffffffffff";
    let right = std::fs::read_to_string(server.token_file()).unwrap();
    server.write_tokens(wrong);
    let rig = Rig::with_channels(&config(&server)).await;
    enter(&rig, "42", "+436641234567").await;
    let id = text(&rig, "42", json!({})).await;
    let shown = rig.state("sms", &id, |state| state["attempts"] == 1).await;
    assert_eq!(shown["error"], "provider_refused");
    server.write_tokens(&format!("{right}\n{wrong}\n"));
    rig.state("sms", &id, is("sent")).await;
    let message = server.taken().remove(0);
    let answer = server.report(&message, "delivered", None, rig.addresses.http);
    assert_eq!(answer.await, 204);
    rig.state("sms", &id, is("delivered")).await;
}

type Change = fn(&mut config::Sms);

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_can_not_work_names_its_key() {
    let server = TwilioServer::start().await;
    let refused = |change: Change| {
        let mut channels = config(&server);
        change(&mut channels.sms);
        refused_key(&channels)
    };
    let cases: [(Change, &str); 12] = [
        (|sms| sms.timeout_ms = 1, "sms.timeout_ms"),
        (|sms| sms.at_once = 0, "sms.at_once"),
        (|sms| sms.segments_max = 11, "sms.segments_max"),
        (
            |sms| sms.callback_url = Some("http://a".into()),
            "sms.callback_url",
        ),
        (
            |sms| sms.callback_url = Some("https://a?b".into()),
            "sms.callback_url",
        ),
        (
            |sms| sms.providers[0].name = "a/b".into(),
            "sms.providers[0].name",
        ),
        (
            |sms| sms.providers[0].url = "http://a".into(),
            "sms.providers[0].url",
        ),
        (
            |sms| sms.providers[0].account_sid = "../x".into(),
            "sms.providers[0].account_sid",
        ),
        (
            |sms| sms.providers[0].from = Some("0664".into()),
            "sms.providers[0].from",
        ),
        (|sms| sms.providers[0].from = None, "sms.providers[0].from"),
        (
            |sms| sms.providers[0].auth_token_file = "/nonexistent".into(),
            "sms.providers[0].auth_token_file",
        ),
        (
            |sms| sms.providers[0].ca_file = Some("/nonexistent".into()),
            "sms.providers[0].ca_file",
        ),
    ];
    for (change, key) in cases {
        assert_eq!(refused(change).as_deref(), Some(key));
    }
    assert_eq!(refused(|_| {}), None);
    assert_eq!(
        refused(|sms| sms.providers[0].from = Some("Herald".into())),
        None
    );
}
