//! What is signed, as a receiver judges it.

use crate::{
    email::{enter, relay},
    rig::Rig,
};
use herald::{
    config::{self, DkimKey},
    dispatcher::channel::Channels,
};
use serde_json::{Value, json};
use std::path::Path;
use testbed::{SmtpServer, dkim};

fn key(selector: &str, file: &Path) -> DkimKey {
    DkimKey {
        selector: selector.into(),
        key_file: file.into(),
        domain: None,
    }
}

/// The mail that this becomes, as the relay got it.
async fn mail_of(rig: &Rig, server: &SmtpServer, told: Value) -> String {
    let before = server.mails().len();
    let mut notification = json!({
        "target": { "user": "42" }, "type": "order", "channels": ["email"]
    });
    let told = told.as_object().unwrap().clone();
    notification.as_object_mut().unwrap().extend(told);
    rig.post(notification).await;
    server.received(before + 1).await.remove(before).text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_finds_every_mail_signed_by_each_key_and_sees_what_was_changed() {
    let directory = tempfile::tempdir().unwrap();
    let (rsa, ed25519) = (
        dkim::pair(directory.path(), "rsa"),
        dkim::pair(directory.path(), "ed25519"),
    );
    let server = SmtpServer::start();
    let mut email = relay(server.address());
    email.dkim = vec![key("r", &rsa.key_file), key("e", &ed25519.key_file)];
    let rig = Rig::with_email(&email).await;
    enter(&rig, "42", "work", "ada@example.com").await;
    let dns = [
        ("r._domainkey.shop.example", rsa.record.as_str()),
        ("e._domainkey.shop.example", ed25519.record.as_str()),
    ];
    let long = "Grüße aus Wien, und zwar sehr lange ".repeat(20);
    for told in [
        json!({ "title": "Hello", "body": "Your order is on its way." }),
        json!({ "title": "Grüße", "body": ".\n..dots \t\n\n  spaces  and\ttabs \n\n\n" }),
        json!({ "title": long, "body": long }),
        json!({}),
    ] {
        let mail = mail_of(&rig, &server, told).await;
        assert_eq!(dkim::judge(&mail, &dns), [true, true], "{mail}");
        let longest = mail.lines().map(str::len).max();
        assert!(longest <= Some(998), "{mail}");
        for changed in [
            mail.replacen("Subject: ", "Subject: Not ", 1),
            mail.replacen("From: ", "From: eve@example.org\r\nFrom: ", 1),
            mail.replacen("To: ", "Reply-To: eve@example.org\r\nTo: ", 1),
            format!("{mail}And this.\r\n"),
        ] {
            assert_eq!(dkim::judge(&changed, &dns), [false, false], "{changed}");
        }
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = dkim::pair(elsewhere.path(), "ed25519").record;
    let other = [("e._domainkey.shop.example", stranger.as_str())];
    let mail = mail_of(&rig, &server, json!({ "title": "Hello" })).await;
    assert_eq!(dkim::judge(&mail, &other), [false, false]);
}

#[test]
fn a_key_that_can_not_sign_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let good = dkim::pair(path, "ed25519").key_file;
    let (nothing, words) = (path.join("nothing"), path.join("words"));
    std::fs::write(&words, "secret").unwrap();
    testbed::certificates::make(path, &[]);
    let short = path.join("short.pem");
    let weak = "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out short.pem";
    testbed::certificates::openssl(path, weak);
    let named = |selector: &str| key(selector, &good);
    let of_domain = DkimKey {
        domain: Some("shop example".into()),
        ..key("a", &good)
    };
    for (keys, wrong) in [
        (vec![key("a", &nothing)], "email.dkim[0].key_file"),
        (vec![named("a"), key("b", &words)], "email.dkim[1].key_file"),
        // Of a curve that DKIM does not know, and of a size that nobody trusts.
        (
            vec![key("a", &path.join("ca.key"))],
            "email.dkim[0].key_file",
        ),
        (vec![key("a", &short)], "email.dkim[0].key_file"),
        (vec![named("")], "email.dkim[0].selector"),
        (vec![named("a; b=")], "email.dkim[0].selector"),
        (vec![of_domain], "email.dkim[0].domain"),
        (["a", "b", "c", "d", "e"].map(named).to_vec(), "email.dkim"),
    ] {
        let channels = config::Channels {
            email: config::Email {
                dkim: keys,
                ..relay("127.0.0.1:25".into())
            },
            ..config::Channels::default()
        };
        let refused = Channels::from_config(&channels);
        let error = refused.err().unwrap_or_else(|| panic!("{wrong} was taken"));
        assert_eq!(error.key, wrong, "{error}");
    }
}
