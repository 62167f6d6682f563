//! Broadcasts to a part of everyone.

use crate::rig::{Answer, Rig, id_of, outcome};
use herald::{
    api::{NotifyRequest, SyncReply, notifications_client::NotificationsClient, notify_request},
    bus::Topic,
    envelope::{Fate, Kind, Routed},
    ids::NotificationId,
    position::Position,
};
use reqwest::Method;
use serde_json::{Value, json};

const ALL: &str = "all:local";

async fn tag(rig: &Rig, user: &str, tags: Value) -> Answer {
    let path = format!("/v1/users/{user}/preferences");
    rig.call(Method::PUT, &path, Some(json!({ "tags": tags })))
        .await
}

async fn to_tags(rig: &Rig, tags: Value) -> NotificationId {
    let target = json!({ "all": true, "tags": tags });
    let id = rig
        .post(json!({ "target": target, "type": "x", "title": "t" }))
        .await;
    rig.drained("broadcast", Topic::FanOutAll).await;
    id
}

/// What an inbox shows, and how many are unread.
async fn inbox(rig: &Rig, user: &str) -> (Vec<NotificationId>, u64) {
    let page = rig.get(&format!("/v1/users/{user}/notifications")).await;
    let items = page["items"].as_array().unwrap().iter();
    (items.map(id_of).collect(), page["unread"].as_u64().unwrap())
}

fn ids(reply: &SyncReply) -> Vec<NotificationId> {
    let id = |item: &Vec<u8>| id_of(&serde_json::from_slice(item).unwrap());
    reply.items.iter().map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_to_tags_is_seen_by_who_has_one_and_is_no_hole_for_the_others() {
    let rig = Rig::start().await;
    for (user, tags) in [("ada", json!(["pro", "at"])), ("bob", json!(["free"]))] {
        assert_eq!(tag(&rig, user, tags.clone()).await.status, 200);
        let shown = rig.get(&format!("/v1/users/{user}/preferences")).await;
        assert_eq!(
            shown["tags"].as_array().unwrap().len(),
            tags.as_array().unwrap().len()
        );
    }
    let some = to_tags(&rig, json!(["pro", "beta"])).await;
    for (user, seen) in [("ada", vec![some]), ("bob", vec![]), ("eve", vec![])] {
        assert_eq!(
            inbox(&rig, user).await,
            (seen.clone(), seen.len() as u64),
            "{user}"
        );
        let reply = rig.sync(user, &[(ALL, 0)]).await;
        assert_eq!(ids(&reply), seen, "{user}");
        assert!(reply.recovered && !reply.has_more);
        // The cursor passes what is for others: what comes next has no hole before it.
        let offset = rig.all_records(Topic::Broadcast).await.len() as u64 - 1;
        assert_eq!(reply.cursors[ALL], (1 << 40) + offset, "{user}");
        let user = rig.get(&format!("/v1/users/{user}")).await;
        assert_eq!(user["unread"], seen.len());
    }
    let everyone = rig
        .post(json!({ "target": { "all": true }, "type": "x", "title": "all" }))
        .await;
    rig.drained("broadcast", Topic::FanOutAll).await;
    assert_eq!(inbox(&rig, "ada").await, (vec![everyone, some], 2));
    assert_eq!(inbox(&rig, "bob").await, (vec![everyone], 1));
    // Whoever gets the tag later sees what went to it, and whoever loses it no more.
    tag(&rig, "bob", json!(["beta"])).await;
    tag(&rig, "ada", json!([])).await;
    assert_eq!(inbox(&rig, "bob").await, (vec![everyone, some], 2));
    assert_eq!(inbox(&rig, "ada").await, (vec![everyone], 1));
}

/// Every inbox and every look at a user counts them.
#[tokio::test(flavor = "multi_thread")]
async fn for_whom_a_broadcast_is_is_read_once_and_counted_from_then_on() {
    let rig = Rig::start().await;
    let unread = async |user: &str| rig.get(&format!("/v1/users/{user}")).await["unread"].clone();
    tag(&rig, "ada", json!(["pro"])).await;
    to_tags(&rig, json!(["pro"])).await;
    assert_eq!(
        (unread("ada").await, unread("bob").await),
        (1.into(), 0.into())
    );
    let file = rusqlite::Connection::open(rig.store_file()).unwrap();
    let spoilt = file.execute("UPDATE broadcasts SET content = x''", []);
    assert_eq!(spoilt, Ok(1));
    tag(&rig, "bob", json!(["pro"])).await;
    assert_eq!(
        (unread("ada").await, unread("bob").await),
        (1.into(), 1.into())
    );
    // One that came since is read.
    to_tags(&rig, json!(["beta"])).await;
    assert_eq!(
        unread("eve").await,
        1,
        "nothing says any more that the first is for some"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_others_is_neither_read_nor_dismissed_by_who_knows_its_id() {
    let rig = Rig::start().await;
    tag(&rig, "ada", json!(["pro"])).await;
    let some = to_tags(&rig, json!(["pro"])).await;
    let target = json!({ "all": true });
    let all = rig.post(json!({ "target": target, "type": "x" })).await;
    rig.drained("broadcast", Topic::FanOutAll).await;
    let make = async |user: &str, what: &str, ids: Value| {
        let path = format!("/v1/users/{user}/{what}");
        let body = Some(json!({ "ids": ids }));
        let answer = rig.call(Method::POST, &path, body).await;
        (answer.status.as_u16(), answer.body["unknown"].clone())
    };
    for what in ["read", "dismiss"] {
        assert_eq!(make("bob", what, json!([some])).await.0, 404, "{what}");
        let one_of_two = make("bob", what, json!([some, all])).await;
        assert_eq!(one_of_two.1, json!([some]), "{what}");
        assert_eq!(make("ada", what, json!([some])).await.1, json!([]));
    }
    // A client that says so has it no more.
    let said = outcome(some, "eve", Position::START, Fate::Read);
    let gateway = rig.gateway("gw-1", 0, &[]).await;
    rig.report(&gateway, Some(0), vec![said]).await;
    rig.routed().await;
    for (user, read) in [("ada", vec![some]), ("bob", vec![]), ("eve", vec![])] {
        let marked = rig.store.read_among(&user.parse().unwrap(), &[some]).await;
        assert_eq!(marked, Ok(read.clone()), "{user}");
        let user = user.parse().unwrap();
        assert_eq!(rig.store.dismissed_among(&user, &[some]).await, Ok(read));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_are_told_that_there_is_something_and_not_what() {
    let rig = Rig::start().await;
    let client = NotificationsClient::connect(rig.grpc_url()).await;
    let mut request = tonic::Request::new(NotifyRequest {
        target: Some(notify_request::Target::All(true)),
        tags: vec!["pro".into()],
        r#type: "x".into(),
        title: "secret".into(),
        ..Default::default()
    });
    let bearer = format!("Bearer {}", rig.key).parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    let reply = client.unwrap().notify(request).await.unwrap().into_inner();
    rig.drained("broadcast", Topic::FanOutAll).await;
    let records = rig.all_records(Topic::Broadcast).await;
    let routed = Routed::read(&records[0]).unwrap();
    assert_eq!((routed.head.kind, routed.user), (Kind::Tagged, None));
    assert_eq!(routed.head.id.to_string(), reply.id);
    assert_eq!(&records[0].value[..], b"{}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_that_can_not_be_are_refused_by_name() {
    let rig = Rig::start().await;
    let many: Vec<String> = (0..51).map(|n| format!("t{n}")).collect();
    let all = |tags: Value| json!({ "all": true, "tags": tags });
    for (target, more, field) in [
        (
            json!({ "user": "42", "tags": ["a"] }),
            Value::Null,
            "target.tags",
        ),
        (all(json!([])), Value::Null, "target.tags"),
        (all(json!("a")), Value::Null, "target.tags"),
        (all(json!(["a", ""])), Value::Null, "target.tags[1]"),
        (all(json!(many[..11])), Value::Null, "target.tags"),
        (all(json!(["a"])), json!("key"), "collapse_key"),
    ] {
        let body = json!({ "target": target, "type": "x", "title": "t", "collapse_key": more });
        let answer = rig
            .call(Method::POST, "/v1/notifications", Some(body))
            .await;
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert_eq!(answer.body["error"]["field"], field);
    }
    for (tags, field) in [(json!(many), "tags"), (json!(["a", "b\n"]), "tags[1]")] {
        let answer = tag(&rig, "42", tags).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["error"]["field"]),
            (422, &json!(field))
        );
    }
}
