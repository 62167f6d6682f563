//! What a client missed, over both streams.

use crate::rig::Rig;
use herald::{api, bus::Topic, position::Position};
use serde_json::{Value, json};
use tonic::Code;

const USER: &str = "user:local";
const ALL: &str = "all:local";

fn titles(reply: &api::SyncReply) -> Vec<String> {
    let title = |item: &Vec<u8>| {
        let item: Value = serde_json::from_slice(item).unwrap();
        item["title"].as_str().unwrap_or("-").to_owned()
    };
    reply.items.iter().map(title).collect()
}

async fn settled(rig: &Rig) {
    rig.routed().await;
    rig.drained("broadcast", Topic::FanOutAll).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_fifty_cover_both_streams_without_hole_or_repeat() {
    let rig = Rig::start().await;
    for n in 0..90 {
        rig.post_to("42", &format!("u{n}")).await;
        if n % 2 == 0 {
            let title = format!("a{n}");
            rig.post(json!({ "target": { "all": true }, "type": "x", "title": title }))
                .await;
        }
    }
    settled(&rig).await;
    let mut seen = Vec::new();
    let mut cursors = [(USER, 0), (ALL, 0)];
    loop {
        let reply = rig.sync("42", &cursors).await;
        assert!(reply.recovered && reply.items.len() <= 50);
        seen.extend(titles(&reply));
        for (stream, at) in &mut cursors {
            let range = &reply.ranges[*stream];
            assert_eq!(range.from, *at);
            assert_eq!(range.to, reply.cursors[*stream]);
            *at = range.to;
        }
        if !reply.has_more {
            break;
        }
    }
    let of = |stream: char| seen.iter().filter(move |title| title.starts_with(stream));
    let expected = |prefix: char, step: usize| -> Vec<String> {
        (0..90)
            .step_by(step)
            .map(|n| format!("{prefix}{n}"))
            .collect()
    };
    assert!(of('u').eq(&expected('u', 1)));
    assert!(of('a').eq(&expected('a', 2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_gets_the_newest_fifty_and_the_heads() {
    let rig = Rig::start().await;
    let reply = rig.sync("42", &[]).await;
    assert!(reply.recovered && !reply.has_more && reply.items.is_empty());
    assert_eq!((reply.cursors[USER], reply.cursors[ALL]), (0, 0));
    rig.post_to("42", "first").await;
    settled(&rig).await;
    let reply = rig.sync("42", &[]).await;
    assert_eq!(reply.ranges[USER].from, 0, "nothing is older");
    for n in 0..60 {
        rig.post_to("42", &format!("u{n}")).await;
    }
    settled(&rig).await;
    let reply = rig.sync("42", &[]).await;
    assert!(reply.recovered && !reply.has_more);
    assert_eq!(
        titles(&reply),
        (10..60).map(|n| format!("u{n}")).collect::<Vec<_>>()
    );
    let head = rig
        .store
        .rows_after(&"42".parse().unwrap(), None, 1)
        .await
        .unwrap()
        .head;
    assert_eq!(reply.cursors[USER], head.value());
    // It claims nothing about the rows that are older.
    let oldest: Value = serde_json::from_slice(&reply.items[0]).unwrap();
    let range = &reply.ranges[USER];
    assert_eq!(
        (json!(range.from), range.to),
        (oldest["prev"].clone(), head.value())
    );
    assert_ne!(range.from, 0);
    // From there on it is complete.
    let reply = rig.sync("42", &[(USER, head.value()), (ALL, 0)]).await;
    assert!(reply.recovered && reply.items.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn recovered_is_not_said_over_what_can_not_be_known() {
    let rig = Rig::start().await;
    rig.post_to("42", "one").await;
    settled(&rig).await;
    let of_generation = |generation| Position::new(generation, 5).unwrap().value();
    let unknown_stream = rig.sync("42", &[("user:mars", of_generation(1))]).await;
    let unknown_generation = rig.sync("42", &[(USER, of_generation(7))]).await;
    let ahead = rig.sync("42", &[(USER, of_generation(1) + 1_000)]).await;
    for reply in [&unknown_stream, &unknown_generation, &ahead] {
        assert!(!reply.recovered);
    }
    assert_eq!(titles(&unknown_stream), ["one"]);
    assert_eq!(titles(&unknown_generation), ["one"]);
    assert!(rig.sync("42", &[(USER, 0)]).await.recovered);
}

#[tokio::test(flavor = "multi_thread")]
async fn superseded_and_expired_rows_are_left_out_and_covered() {
    let rig = Rig::start().await;
    for n in 0..3 {
        rig.post(json!({
            "target": { "user": "42" }, "type": "x", "title": format!("c{n}"), "collapse_key": "k"
        }))
        .await;
    }
    settled(&rig).await;
    let reply = rig.sync("42", &[(USER, 0), (ALL, 0)]).await;
    assert_eq!(titles(&reply), ["c2"]);
    assert!(reply.recovered);
    assert_eq!(reply.ranges[USER].to, reply.cursors[USER]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_a_later_release_is_refused_as_such() {
    let rig = Rig::start().await;
    let request = api::SyncRequest {
        v: 2,
        user: "42".into(),
        ..Default::default()
    };
    let status = rig.dispatcher().await.sync(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_one_stream_each_is_answered_by_its_number_and_one_that_is_refused_ends_nothing() {
    let rig = Rig::start().await;
    rig.post_to("42", "one").await;
    settled(&rig).await;
    let users = ["42", "", "43"];
    let requests = (1..).zip(users).map(|(sequence, user)| api::SyncRequest {
        v: 1,
        user: user.into(),
        sequence,
        ..Default::default()
    });
    let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
    let mut client = rig.dispatcher().await;
    let mut replies = client.syncs(requests).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(reply) = replies.message().await.unwrap() {
        told.push((reply.sequence, reply.code, titles(&reply)));
    }
    told.sort();
    let (ok, refused) = (Code::Ok as i32, Code::InvalidArgument as i32);
    let one = vec!["one".to_owned()];
    assert_eq!(told, [(1, ok, one), (2, refused, vec![]), (3, ok, vec![])]);
}
