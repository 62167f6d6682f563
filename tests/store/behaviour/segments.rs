//! Users who are sent to together.

use super::Home;
use crate::build::*;
use herald::{
    bus::Record,
    dispatcher::store::{Cancelled, Erasure, Segment, SegmentSend, SendProgress, SharedStore},
    ids::{NotificationId, SegmentId, UserId},
};
use std::collections::BTreeSet;

async fn made(store: &SharedStore, users: &[UserId]) -> SegmentId {
    let segment = Segment {
        id: SegmentId::generate(),
        producer: "shop".into(),
        created_ms: now_ms(),
    };
    store.make_segment(&segment).await.unwrap();
    assert_eq!(store.segment(segment.id).await, Ok(Some(segment.clone())));
    store
        .add_to_segment(segment.id, users, now_ms())
        .await
        .unwrap();
    segment.id
}

fn users(count: usize) -> Vec<UserId> {
    (0..count).map(|n| user(&format!("u{n}"))).collect()
}

fn send(segment: SegmentId, users: u64) -> SegmentSend {
    let mut record = Record::new("", vec![0, 159]);
    record.set("v", "1");
    SegmentSend {
        id: NotificationId::generate(),
        segment,
        record,
        users,
        sent: 0,
        after: None,
        state: SendProgress::Running,
    }
}

pub async fn a_segment_has_its_users_once_and_in_an_order_that_stays(home: &impl Home) {
    let store = home.open();
    let all = users(50);
    let id = made(&store, &all[..30]).await;
    let other = made(&store, &all[..1]).await;
    store
        .add_to_segment(id, &all[20..], now_ms())
        .await
        .unwrap();
    let store = home.open();
    assert_eq!(store.segment_size(id).await, Ok(50));
    let mut seen: Vec<UserId> = Vec::new();
    loop {
        let page = store.segment_users(id, seen.last(), 7).await.unwrap();
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    assert_eq!(seen.len(), 50);
    let seen: BTreeSet<UserId> = seen.into_iter().collect();
    assert_eq!(seen, all.iter().cloned().collect());
    let some = [all[0].clone(), user("nobody"), all[49].clone()];
    assert_eq!(store.count_in_segment(id, &some).await, Ok(2));
    // Whoever is forgotten is in none.
    let erasure = Erasure {
        user: all[0].clone(),
        id: NotificationId::generate(),
        below: at(9),
    };
    assert_eq!(store.erase(&erasure).await.unwrap().segments, 2);
    assert_eq!(store.segment_size(id).await, Ok(49));
    assert_eq!(store.segment_size(other).await, Ok(0));
    assert_eq!(store.remove_segment(id).await, Ok(true));
    assert_eq!(store.remove_segment(id).await, Ok(false));
    assert_eq!(store.segment(id).await, Ok(None));
    assert_eq!(store.segment_size(id).await, Ok(0));
    let nowhere = Erasure {
        user: all[1].clone(),
        ..erasure
    };
    assert_eq!(store.erase(&nowhere).await.unwrap().segments, 0);
}

pub async fn a_send_to_a_segment_is_at_one_place_and_goes_on_where_it_stood(home: &impl Home) {
    let store = home.open();
    let id = made(&store, &users(3)).await;
    let mut one = send(id, 3);
    assert_eq!(store.is_sent_to(id).await, Ok(false));
    for _ in 0..2 {
        store.begin_send(&one, 900).await.unwrap();
    }
    let take = async |now_ms, until_ms| store.take_send(now_ms, until_ms).await.unwrap();
    assert_eq!(take(899, 5_000).await, None, "it is not due");
    assert_eq!(take(1_000, 5_000).await, Some(one.clone()));
    assert_eq!(take(4_000, 8_000).await, None);
    (one.sent, one.after) = (2, Some(user("u1")));
    assert_eq!(store.advance_send(&one, 9_000).await, Ok(true));
    assert_eq!(store.is_sent_to(id).await, Ok(true));
    assert_eq!(take(8_000, 12_000).await, None);
    // Whoever had it died.
    let store = home.open();
    let taken = store.take_send(9_000, 12_000).await;
    assert_eq!(taken, Ok(Some(one.clone())));
    (one.sent, one.state) = (3, SendProgress::Done);
    assert_eq!(store.advance_send(&one, 12_000).await, Ok(true));
    assert_eq!(store.take_send(99_000, 100_000).await, Ok(None));
    assert_eq!(store.is_sent_to(id).await, Ok(false));
    assert_eq!(store.segment_send(one.id).await, Ok(Some(one.clone())));
    assert_eq!(store.cancel_send(one.id).await, Ok(Cancelled::TooLate));
}

pub async fn a_send_to_a_segment_can_be_cancelled_until_it_is_done(home: &impl Home) {
    let store = home.open();
    let id = made(&store, &users(3)).await;
    let mut one = send(id, 3);
    assert_eq!(store.segment_send(one.id).await, Ok(None));
    assert_eq!(store.cancel_send(one.id).await, Ok(Cancelled::Unknown));
    store.begin_send(&one, 0).await.unwrap();
    assert!(store.take_send(1_000, 5_000).await.unwrap().is_some());
    assert_eq!(store.cancel_send(one.id).await, Ok(Cancelled::Yes));
    one.sent = 2;
    assert_eq!(store.advance_send(&one, 9_000).await, Ok(false));
    assert_eq!(store.take_send(99_000, 100_000).await, Ok(None));
    let known = store.segment_send(one.id).await.unwrap().unwrap();
    assert_eq!((known.state, known.sent), (SendProgress::Cancelled, 0));
}
