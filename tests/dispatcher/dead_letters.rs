//! `dlq` by the API: what was given up is seen, sent on its way again, or left.

use crate::{
    email::{enter, relay, state},
    rig::{Answer, Rig, eventually, is, rows},
};
use herald::{
    bus::{Record, Target, Topic},
    ids::NotificationId,
};
use reqwest::Method;
use serde_json::{Value, json};
use testbed::SmtpServer;

async fn call(rig: &Rig, method: Method, path: &str) -> Answer {
    rig.call_as(&rig.admin_key, method, path, None, None).await
}

async fn list(rig: &Rig, query: &str) -> Vec<Value> {
    let answer = call(rig, Method::GET, &format!("/v1/dlq?{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["items"].as_array().unwrap().clone()
}

fn path(item: &Value) -> String {
    format!("/v1/dlq/{}", item["at"].as_str().unwrap())
}

/// A mail that was given up.
async fn given_up(rig: &Rig) -> NotificationId {
    enter(rig, "42", "work", "never@example.com").await;
    let mail = json!({
        "target": { "user": "42" }, "type": "order", "channels": ["email"], "title": "t"
    });
    let id = rig.post(mail).await;
    state(rig, id, is("failed")).await;
    rig.drained("email", Topic::Email).await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_was_given_up_is_replayed_once_its_address_is_mended() {
    let server = SmtpServer::start();
    let rig = Rig::with_email(&relay(server.address())).await;
    let id = given_up(&rig).await;
    let item = list(&rig, "topic=email&cause=permanent").await.remove(0);
    assert_eq!(item["id"], id.to_string());
    assert_eq!(
        (&item["key"], &item["attempts"]),
        (&json!("42"), &json!("1"))
    );
    let shown = call(&rig, Method::GET, &path(&item)).await.body;
    assert_eq!(shown["headers"]["devices"], "work");
    assert!(
        shown["value"].as_str().unwrap().contains("order"),
        "{shown}"
    );

    let device = json!({ "kind": "email", "address": "ada@example.com" });
    let device_path = "/v1/users/42/devices/work";
    rig.call(Method::PUT, device_path, Some(device)).await;
    let replay = format!("{}/replay", path(&item));
    let answer = call(&rig, Method::POST, &replay).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body["topic"]),
        (202, &json!("email"))
    );
    state(&rig, id, is("sent")).await;
    assert_eq!(server.mails().len(), 1);
    assert_eq!(list(&rig, "").await, [Value::Null; 0]);
    let handled = list(&rig, "all=true").await.remove(0);
    assert_eq!(handled["handled"], "replayed");
    for (method, path) in [(Method::POST, replay), (Method::DELETE, path(&item))] {
        let again = call(&rig, method, &path).await;
        assert_eq!(again.status, 409, "{}", again.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_is_listed_no_more_and_sends_nothing() {
    let server = SmtpServer::start();
    let rig = Rig::with_email(&relay(server.address())).await;
    given_up(&rig).await;
    let item = list(&rig, "").await.remove(0);
    let answer = call(&rig, Method::DELETE, &path(&item)).await;
    assert_eq!(answer.status, 204);
    assert_eq!(list(&rig, "").await, [Value::Null; 0]);
    rig.drained("email", Topic::Email).await;
    assert_eq!(server.mails().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_raw_that_is_replayed_makes_its_row() {
    let rig = Rig::start().await;
    let id = rig.post_to("42", "one").await;
    rig.routed().await;
    let mut other = rig.all_records(Topic::Raw(1)).await.remove(0);
    let mended = NotificationId::generate();
    other.set("id", mended.to_string());
    // As it stood in the partition of another key.
    for (name, value) in [("dlq_topic", "raw.g1"), ("dlq_cause", "partition")] {
        other.set(name, value);
    }
    let target = Target::Keyed(Topic::Dlq);
    rig.bus.produce(vec![(target, other)]).await.unwrap();
    let item = list(&rig, "").await.remove(0);
    let replay = format!("{}/replay", path(&item));
    assert_eq!(call(&rig, Method::POST, &replay).await.status, 202);
    eventually(|| async {
        let rows = rows(&*rig.store, "42").await;
        let ids: Vec<NotificationId> = rows.iter().map(|row| row.id).collect();
        (ids == [id, mended]).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_come_page_by_page_each_once() {
    let rig = Rig::start().await;
    let letters = (0..25).map(|number| {
        let mut record = Record::new(format!("u{number}"), "{}");
        record.set("dlq_topic", if number % 5 == 0 { "push" } else { "email" });
        (Target::Keyed(Topic::Dlq), record)
    });
    rig.bus.produce(letters.collect()).await.unwrap();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/dlq?limit=4&topic=email{cursor}");
        let page = call(&rig, Method::GET, &path).await.body;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 4);
        seen.extend(items.iter().map(|item| item["key"].to_string()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_404_and_a_producer_is_not_let_in() {
    let rig = Rig::start().await;
    for path in ["/v1/dlq/0/0", "/v1/dlq/99/0"] {
        assert_eq!(call(&rig, Method::GET, path).await.status, 404, "{path}");
    }
    assert_eq!(call(&rig, Method::GET, "/v1/dlq/x/0").await.status, 422);
    let answer = call(&rig, Method::GET, "/v1/dlq?cursor=1").await;
    assert_eq!(answer.body["error"]["field"], "cursor");
    assert_eq!(rig.call(Method::GET, "/v1/dlq", None).await.status, 403);
}
