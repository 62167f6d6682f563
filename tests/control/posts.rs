//! What clients say: acknowledgements, read marks, the posts of SSE clients.

use crate::rig::{Rig, cursors};
use herald::{
    envelope::Fate,
    gateway::mailbox::{FromCore, Post, ToCore},
    ids::NotificationId,
};
use std::sync::atomic::Ordering;

async fn post(rig: &Rig, post: Post) -> (u16, String) {
    let conn = rig.core().conn(9);
    let user = "ann".parse().unwrap();
    rig.core().say(FromCore::Post { conn, user, post });
    rig.core()
        .expect("an answer", |message| match message {
            ToCore::Answer {
                conn: to,
                status,
                body,
            } if *to == conn => Some((*status, String::from_utf8(body.to_vec()).unwrap())),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn acknowledgements_and_read_marks_become_outcomes() {
    let rig = Rig::ready().await;
    let id = NotificationId::generate();
    let (conn, user) = (rig.core().conn(1), "ann".parse().unwrap());
    rig.core().say(FromCore::Acked {
        conn,
        user,
        ids: vec![id],
    });
    rig.until_fates(id, &[(Fate::Acked, 1)]).await;
    let user = "ann".parse().unwrap();
    rig.core().say(FromCore::Read {
        conn,
        user,
        ids: vec![id],
    });
    rig.until_fates(id, &[(Fate::Acked, 1), (Fate::Read, 1)])
        .await;
    rig.leave().await;
}

#[tokio::test]
async fn a_post_is_answered_204_after_its_outcome_was_accepted() {
    let rig = Rig::ready().await;
    let id = NotificationId::generate();
    assert_eq!(post(&rig, Post::Ack(vec![id])).await.0, 204);
    assert_eq!(rig.fates(id), [(Fate::Acked, 1)]);
    assert_eq!(post(&rig, Post::Read(vec![id])).await.0, 204);
    assert_eq!(rig.fates(id), [(Fate::Acked, 1), (Fate::Read, 1)]);
    rig.leave().await;
}

#[tokio::test]
async fn a_user_who_posts_too_often_is_answered_429_and_another_is_not() {
    let rig = Rig::ready().await;
    let burst = herald::limits::CLIENT_MESSAGES_BURST;
    let mut statuses = Vec::new();
    // However slowly this runs, some come faster than they are refilled.
    let (conn, user) = (
        rig.core().conn(9),
        "ann".parse::<herald::ids::UserId>().unwrap(),
    );
    for _ in 0..burst * 4 {
        let (user, post) = (user.clone(), Post::Ack(Vec::new()));
        rig.core().say(FromCore::Post { conn, user, post });
    }
    for _ in 0..burst * 4 {
        let status = rig.core().expect("an answer", |message| match message {
            ToCore::Answer { status, .. } => Some(*status),
            _ => None,
        });
        statuses.push(status.await);
    }
    assert!(statuses.contains(&429));
    let taken = statuses.iter().filter(|status| **status == 204).count();
    assert!(taken >= burst as usize, "{taken}");
    assert!(rig.metric(r#"posts_total{status="429"}"#) >= 1.0);
    let user = "bob".parse().unwrap();
    let post = Post::Ack(Vec::new());
    rig.core().say(FromCore::Post { conn, user, post });
    let status = rig.core().expect("an answer", |message| match message {
        ToCore::Answer { status, .. } => Some(*status),
        _ => None,
    });
    assert_eq!(status.await, 204);
    rig.leave().await;
}

#[tokio::test]
async fn a_posted_sync_is_answered_in_its_own_body_and_503_without_a_dispatcher() {
    let rig = Rig::ready().await;
    let sync = || Post::Sync {
        cursors: cursors(1),
        limit: 10,
    };
    let (status, body) = post(&rig, sync()).await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, &body["type"], &body["recovered"]),
        (200, &"sync".into(), &true.into())
    );
    rig.dispatcher.away.store(true, Ordering::Relaxed);
    assert_eq!(post(&rig, sync()).await.0, 503);
    rig.leave().await;
}
