//! Reports that Amazon SNS hands over, signed by itself.

use crate::{
    email::relay,
    rig::{Answer, Rig},
};
use herald::{config, dispatcher::channel::Channels};
use reqwest::Method;
use serde_json::{Value, json};
use testbed::{SmtpServer, SnsServer};

/// A dispatcher that listens to the topic `ses`.
async fn rig(smtp: &SmtpServer, sns: &SnsServer) -> Rig {
    Rig::with_email(&config::Email {
        sns_topics: vec![sns.topic("ses")],
        sns_address: Some(sns.address()),
        sns_ca_file: Some(sns.ca_file()),
        ..relay(smtp.address())
    })
    .await
}

/// As SNS posts it.
async fn post(rig: &Rig, message: &Value) -> (u16, Value) {
    let kind = message["Type"].as_str().unwrap().to_owned();
    let response = reqwest::Client::new()
        .post(format!("http://{}/v1/email/events", rig.addresses.http))
        .header("x-amz-sns-message-type", kind)
        .header("content-type", "text/plain; charset=UTF-8")
        .body(message.to_string())
        .send()
        .await
        .unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn suppressed(rig: &Rig) -> Vec<String> {
    let path = "/v1/suppressions";
    let Answer { body, .. } = rig
        .call_as(&rig.admin_key, Method::GET, path, None, None)
        .await;
    let items = body["items"].as_array().unwrap().iter();
    items
        .map(|item| item["address"].as_str().unwrap().to_owned())
        .collect()
}

fn bounce(address: &str) -> String {
    json!({
        "notificationType": "Bounce",
        "bounce": {
            "bounceType": "Permanent", "bounceSubType": "General",
            "bouncedRecipients": [{ "emailAddress": address, "diagnosticCode": "smtp; 550 5.1.1 \"unknown\"\n" }]
        },
        "mail": {}
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bounce_that_sns_has_signed_suppresses_its_address() {
    let (smtp, sns) = (SmtpServer::start(), SnsServer::start().await);
    let rig = rig(&smtp, &sns).await;
    let topic = sns.topic("ses");
    for (message, address) in [
        (
            sns.notification(&topic, "1", &bounce("a@example.com")),
            "a@example.com",
        ),
        (
            sns.notification(&topic, "2", &bounce("b@example.com")),
            "b@example.com",
        ),
        (
            sns.notification_about(&topic, "Grüße\n", &bounce("c@example.com")),
            "c@example.com",
        ),
    ] {
        let (status, answer) = post(&rig, &message).await;
        assert_eq!(
            (status, &answer["suppressed"]),
            (200, &json!(1)),
            "{answer}"
        );
        assert!(suppressed(&rig).await.contains(&address.to_owned()));
    }
    assert_eq!(sns.fetched(), 1, "a certificate is kept");
    assert_eq!(sns.wrong(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_again_does_not_undo_what_an_operator_lifted() {
    let (smtp, sns) = (SmtpServer::start(), SnsServer::start().await);
    let rig = rig(&smtp, &sns).await;
    let topic = sns.topic("ses");
    let message = sns.notification(&topic, "2", &bounce("a@example.com"));
    let told = async |message| {
        let (status, answer) = post(&rig, message).await;
        (status, answer["suppressed"].clone())
    };
    assert_eq!(told(&message).await, (200, json!(1)));
    let path = "/v1/suppressions/a@example.com";
    let lifted = rig.call_as(&rig.admin_key, Method::DELETE, path, None, None);
    assert_eq!(lifted.await.status, 204);
    assert_eq!(told(&message).await, (200, json!(0)));
    assert_eq!(suppressed(&rig).await, [""; 0]);
    let metrics = rig.metrics.render();
    let counted = "herald_email_events_total{event=\"repeated\"} 1";
    assert!(metrics.contains(counted), "{metrics}");

    // Another bounce says that the mailbox is still not there.
    let later = sns.notification(&topic, "2", &bounce("a@example.com"));
    assert_eq!(told(&later).await, (200, json!(1)));
    assert_eq!(suppressed(&rig).await, ["a@example.com"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_confirmed_by_what_is_signed_and_its_end_is_not_undone() {
    let (smtp, sns) = (SmtpServer::start(), SnsServer::start().await);
    let rig = rig(&smtp, &sns).await;
    let topic = sns.topic("ses");
    let order = sns.of_subscription("SubscriptionConfirmation", &topic, "2336412f");
    let (status, answer) = post(&rig, &order).await;
    assert_eq!(
        (status, answer),
        (200, json!({ "suppressed": 0, "ignored": 1 }))
    );
    assert_eq!(sns.confirmed(), [(topic.clone(), "2336412f".to_owned())]);

    let end = sns.of_subscription("UnsubscribeConfirmation", &topic, "2336412f");
    assert_eq!(post(&rig, &end).await.0, 200);
    let mut changed = order.clone();
    changed["Token"] = "other".into();
    assert_eq!(post(&rig, &changed).await.0, 403);
    for url in [
        "https://evil.example/?Action=ConfirmSubscription",
        "http://sns.eu-central-1.amazonaws.com/?Action=ConfirmSubscription",
        "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription",
    ] {
        let elsewhere = sns.of_subscription_at("SubscriptionConfirmation", &topic, "t", url);
        let (status, answer) = post(&rig, &elsewhere).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (403, &json!("unsigned")),
            "{url}"
        );
    }
    assert_eq!(sns.confirmed().len(), 1);

    sns.set_down(true);
    let (status, answer) = post(&rig, &order).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (503, &json!("unavailable")),
        "{answer}"
    );
    assert_eq!(sns.wrong(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_sns_has_not_signed_or_of_a_topic_that_is_not_named_suppresses_nobody() {
    let (smtp, sns) = (SmtpServer::start(), SnsServer::start().await);
    let rig = rig(&smtp, &sns).await;
    let good = sns.notification(&sns.topic("ses"), "2", &bounce("a@example.com"));
    let with = |field: &str, value: &str| {
        let mut message = good.clone();
        message[field] = value.into();
        message
    };
    for (message, named) in [
        (with("Message", &bounce("b@example.com")), "Signature "),
        (with("Subject", "new"), "Signature "),
        (with("Signature", "%%"), "Signature "),
        (with("SignatureVersion", "1"), "Signature "),
        (with("Timestamp", "2019-01-31T04:37:04.321Z"), "Timestamp "),
        (
            with("SigningCertURL", "https://evil.example/x.pem"),
            "SigningCertURL ",
        ),
        (sns.sign_by_another(good.clone()), "SigningCertURL "),
        (
            sns.notification(&sns.topic("other"), "2", &bounce("b@example.com")),
            "TopicArn ",
        ),
    ] {
        let (status, answer) = post(&rig, &message).await;
        let error = &answer["error"];
        assert_eq!(
            (status, &error["code"]),
            (403, &json!("unsigned")),
            "{answer}"
        );
        assert!(
            error["message"].as_str().unwrap().starts_with(named),
            "{answer}"
        );
    }
    let (status, answer) = post(&rig, &json!({ "Type": "Notification" })).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (400, &json!("bad_json")),
        "{answer}"
    );
    assert_eq!(suppressed(&rig).await, [""; 0]);

    // Where no topic is named, nobody's signature counts.
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "one-that-nobody-guesses-in-a-hurry").unwrap();
    let other = Rig::with_email(&config::Email {
        events_secret_file: Some(secret.path().to_owned()),
        ..relay(smtp.address())
    })
    .await;
    let (status, answer) = post(&other, &good).await;
    assert_eq!(status, 403, "{answer}");
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("email.sns_topics")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn while_sns_gives_no_certificate_nothing_counts_and_it_is_asked_to_come_again() {
    let (smtp, sns) = (SmtpServer::start(), SnsServer::start().await);
    let rig = rig(&smtp, &sns).await;
    sns.set_down(true);
    let message = sns.notification(&sns.topic("ses"), "1", &bounce("a@example.com"));
    let (status, answer) = post(&rig, &message).await;
    assert_eq!(
        (status, &answer["error"]["code"]),
        (503, &json!("unavailable")),
        "{answer}"
    );
    assert_eq!(suppressed(&rig).await, [""; 0]);
    sns.set_down(false);
    assert_eq!(post(&rig, &message).await.0, 200);
    assert_eq!(suppressed(&rig).await, ["a@example.com"]);
}

#[test]
fn a_topic_that_can_not_be_one_is_named() {
    let channels = config::Channels {
        email: config::Email {
            sns_topics: vec!["ses-events".into()],
            ..config::Email::default()
        },
        ..config::Channels::default()
    };
    let error = Channels::from_config(&channels).err().unwrap();
    assert_eq!(error.key, "email.sns_topics", "{error}");
}
