//! A user who is to be forgotten, from the order to the proof; and what of before comes later all the same.

use crate::{
    email::{enter, relay, state},
    rig::{Answer, Rig, Sending, eventually, is, rows},
};
use herald::{
    bus::{Record, Target, Topic},
    config,
    dispatcher::{Rules, channel::Channels},
    envelope::{Head, Kind, Priority},
    ids::NotificationId,
    registry::embedded::EmbeddedRegistry,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use testbed::SmtpServer;

const USER: &str = "gone-7f3a";

/// Whose `high` goes by e-mail 15 s later.
async fn rig(server: &SmtpServer) -> Rig {
    let channels = config::Channels {
        email: relay(server.address()),
        ..config::Channels::default()
    };
    let fallback = config::Fallback {
        push_after_s: 15,
        email_after_s: 15,
        ..config::Fallback::default()
    };
    let sending = Sending {
        channels: Channels::from_config(&channels).unwrap(),
        rules: Rules::from_config(&fallback, &Default::default(), &Default::default()).unwrap(),
        limits: None,
    };
    Rig::sending(sending, Arc::new(EmbeddedRegistry::default())).await
}

async fn as_admin(rig: &Rig, method: Method, path: &str) -> Answer {
    rig.call_as(&rig.admin_key, method, path, None, None).await
}

async fn ordered(rig: &Rig, user: &str) -> NotificationId {
    let path = format!("/v1/users/{user}/erasure");
    let answer = as_admin(rig, Method::POST, &path).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    answer.body["id"].as_str().unwrap().parse().unwrap()
}

async fn done(rig: &Rig, user: &str) -> Value {
    let path = format!("/v1/users/{user}/erasure");
    eventually(|| async {
        let answer = as_admin(rig, Method::GET, &path).await;
        (answer.body["state"] == "done").then_some(answer.body)
    })
    .await
}

async fn export(rig: &Rig, user: &str) -> Value {
    let path = format!("/v1/users/{user}/export");
    let answer = as_admin(rig, Method::GET, &path).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

fn in_s(seconds: u64) -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis() as u64 + seconds * 1000
}

/// Tables of the store that name any of these texts.
fn naming(rig: &Rig, texts: &[&str]) -> Vec<String> {
    let store = rusqlite::Connection::open(rig.store_file()).unwrap();
    let list = |text: &str| -> Vec<String> {
        let mut statement = store.prepare(text).unwrap();
        let names = statement.query_map([], |row| row.get(0)).unwrap();
        names.map(Result::unwrap).collect()
    };
    let tables =
        list("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'");
    let mut found = Vec::new();
    for table in tables {
        for column in list(&format!("SELECT name FROM pragma_table_info('{table}')")) {
            for text in texts {
                let text_of = format!(
                    "SELECT count(*) FROM {table} WHERE instr(CAST({column} AS TEXT), ?1) > 0"
                );
                let count: i64 = store.query_row(&text_of, [text], |row| row.get(0)).unwrap();
                if count > 0 {
                    found.push(format!("{table}.{column}"));
                }
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_erasure_nothing_of_before_is_stored_sent_or_replayed_and_what_is_of_after_is() {
    let server = SmtpServer::start();
    let rig = rig(&server).await;
    enter(&rig, USER, "work", "ada@example.com").await;
    enter(&rig, "other", "work", "bob@example.com").await;
    let wishes = json!({ "types": { "news": { "push": false } } });
    let path = format!("/v1/users/{USER}/preferences");
    assert_eq!(rig.call(Method::PUT, &path, Some(wishes)).await.status, 200);
    let to = |user: &str, title: &str, more: Value| {
        let mut body = json!({ "target": { "user": user }, "type": "x", "title": title });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    let first = rig.post(to(USER, "before", json!({}))).await;
    let read = json!({ "ids": [first] });
    rig.routed().await;
    let path = format!("/v1/users/{USER}/read");
    assert_eq!(rig.call(Method::POST, &path, Some(read)).await.status, 202);
    // By e-mail: one is sent, one is given up, one waits for its turn, one for its time; and one of a list.
    let sent = rig
        .post(to(USER, "sent", json!({ "channels": ["email"] })))
        .await;
    state(&rig, sent, is("sent")).await;
    enter(&rig, USER, "nobody", "never@example.com").await;
    let dead = rig
        .post(to(
            USER,
            "dead",
            json!({ "channels": ["email"], "priority": "low" }),
        ))
        .await;
    state(&rig, dead, is("sent")).await;
    eventually(|| async { (rig.count(Topic::Dlq).await > 0).then_some(()) }).await;
    rig.post(to(
        USER,
        "later",
        json!({ "priority": "high", "channels": ["in_app", "email"] }),
    ))
    .await;
    let single = rig
        .post(to(USER, "single", json!({ "schedule_at": in_s(3600) })))
        .await;
    let soon = json!({
        "target": { "users": [USER, "other"] }, "type": "x", "title": "together", "channels": ["in_app", "email"],
        "schedule_at": in_s(15)
    });
    let together = rig.post(soon).await;
    rig.routed().await;
    server.received(2).await;
    let mails = server.mails().len();

    let all = export(&rig, USER).await;
    assert_eq!(all["devices"].as_array().unwrap().len(), 2);
    assert_eq!(all["scheduled"].as_array().unwrap().len(), 2);
    assert_eq!(all["preferences"]["types"]["news"]["push"], false);
    let titles = all["inbox"].as_array().unwrap().iter();
    let titles: Vec<&Value> = titles.map(|row| &row["content"]["title"]).collect();
    assert!(
        titles.contains(&&json!("before")) && titles.contains(&&json!("later")),
        "{all}"
    );
    assert!(all["deliveries"].as_array().unwrap().len() >= 4, "{all}");
    assert!(!naming(&rig, &["ada@example.com"]).is_empty());

    let order = ordered(&rig, USER).await;
    let after = rig.post(to(USER, "after", json!({}))).await;
    let shown = done(&rig, USER).await;
    assert_eq!(shown["id"], json!(order));
    let proof = &shown["proof"];
    assert!(proof["removed"]["inbox"].as_u64().unwrap() >= 2, "{proof}");
    assert_eq!(proof["removed"]["devices"], 2);
    assert_eq!(proof["removed"]["scheduled"], 2);
    let dlq = proof["retained"]["bus"].as_array().unwrap().iter();
    let dlq = dlq.clone().find(|one| one["topic"] == "dlq").unwrap();
    let days = dlq["until"].as_u64().unwrap() - proof["erased_at"].as_u64().unwrap();
    assert_eq!(days, 14 * 24 * 3_600_000);

    // What is of after is there, and the order; the name of the stream too.
    let left = rows(&*rig.store, USER).await;
    assert_eq!(left.iter().map(|row| row.id).collect::<Vec<_>>(), [after]);
    let secrets = [
        "ada@example.com",
        "never@example.com",
        "before",
        "later",
        "single",
    ];
    let named = naming(&rig, &secrets);
    assert!(named.is_empty(), "{named:?}");
    let places = naming(&rig, &[USER]);
    let allowed = [
        "users.user",
        "inbox.user",
        "deliveries.user",
        "erasures.user",
    ];
    assert!(
        places.iter().all(|place| allowed.contains(&place.as_str())),
        "{places:?}"
    );
    assert_eq!(
        rig.call(Method::DELETE, &format!("/v1/notifications/{single}"), None)
            .await
            .status,
        404
    );

    // Entered anew, the user gets nothing of before by it.
    enter(&rig, USER, "anew", "lovelace@example.org").await;
    let letters = as_admin(&rig, Method::GET, "/v1/dlq").await.body;
    let letter = &letters["items"][0];
    let path = format!("/v1/dlq/{}/replay", letter["at"].as_str().unwrap());
    let refused = as_admin(&rig, Method::POST, &path).await;
    assert_eq!(
        refused.body["error"]["code"], "not_replayable",
        "{}",
        refused.body
    );
    let head = Head {
        kind: Kind::Notification,
        id: first,
        created_ms: 5,
        expires_ms: None,
        priority: Priority::Normal,
        region: "local".into(),
        again: true,
    };
    let value = r#"{"type":"x","channels":["in_app","email"],"title":"before"}"#;
    let again: Record = head.into_record(USER.to_owned(), value);
    let to_raw = (Target::Keyed(Topic::Raw(1)), again.clone());
    let to_email = (Target::Keyed(Topic::Email), again);
    rig.bus.produce(vec![to_raw, to_email]).await.unwrap();
    // The list's time comes, and the turn of what waited.
    state(&rig, together, is("sent")).await;
    rig.drained("retry", Topic::Retry(15)).await;
    rig.routed().await;
    rig.drained("email", Topic::Email).await;
    assert_eq!(rows(&*rig.store, USER).await.len(), 1);
    server.received(mails + 1).await;
    let new: Vec<_> = server.mails().split_off(mails);
    assert_eq!(new.len(), 1, "{new:?}");
    assert_eq!(new[0].to, "bob@example.com");
    let metrics = rig.metrics.render();
    for at in ["raw", "retry", "channel", "dlq"] {
        let counted = format!("herald_erased_dropped_total{{at=\"{at}\"}}");
        assert!(metrics.contains(&counted), "{at}: {metrics}");
    }
    // And what is of after goes on.
    let mail = rig
        .post(to(USER, "news", json!({ "channels": ["email"] })))
        .await;
    state(&rig, mail, is("sent")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_admin_may_have_a_user_forgotten_or_exported() {
    let rig = Rig::start().await;
    for (method, path) in [
        (Method::POST, "/v1/users/42/erasure"),
        (Method::GET, "/v1/users/42/erasure"),
        (Method::GET, "/v1/users/42/export"),
    ] {
        let answer = rig.call(method, path, None).await;
        assert_eq!(answer.status, 403, "{path}");
    }
    let unknown = as_admin(&rig, Method::GET, "/v1/users/42/erasure").await;
    assert_eq!(unknown.status, 404);
    let nothing = export(&rig, "42").await;
    assert_eq!(nothing["inbox"], json!([]));
    assert_eq!(nothing["deliveries"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_the_content_as_it_came_with_numbers_that_nobody_else_can_hold() {
    let rig = Rig::start().await;
    let data = r#"{"n":1e999,"digits":123456789012345678901234567890}"#;
    for (title, at) in [("now", 0), ("later", in_s(3600))] {
        let when = match at {
            0 => String::new(),
            at => format!(r#","schedule_at":{at}"#),
        };
        let body = format!(
            r#"{{"target":{{"user":"{USER}"}},"type":"x","title":"{title}","data":{data}{when}}}"#
        );
        assert_eq!(rig.post_text(&body).await.status, 202);
    }
    rig.routed().await;
    let url = format!("http://{}/v1/users/{USER}/export", rig.addresses.http);
    let request = reqwest::Client::new().get(url).bearer_auth(&rig.admin_key);
    let text = request.send().await.unwrap().text().await.unwrap();
    assert_eq!(text.matches(data).count(), 2, "{text}");
    assert!(text.ends_with("]}"), "it is whole: {text}");
}
