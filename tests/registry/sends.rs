//! Claims on sends.

use crate::subject::*;
use herald::{
    envelope::Channel,
    ids::NotificationId,
    registry::{SendClaim, SendKey, SharedRegistry},
};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

fn send(id: NotificationId) -> SendKey {
    SendKey {
        channel: Channel::Email,
        id,
        user: user("a:b {c}"),
        device: "work".parse().unwrap(),
    }
}

async fn claim(registry: &SharedRegistry, send: &SendKey, owner: &str) -> SendClaim {
    registry.claim_send(send, owner, LONG).await.unwrap()
}

pub async fn a_send_is_one_claims_at_a_time(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let send = send(NotificationId::generate());
    assert_eq!(claim(&registry, &send, "one").await, SendClaim::Ours);
    for owner in ["one", "two"] {
        match claim(&registry, &send, owner).await {
            SendClaim::Pending { wait_ms } => assert!((1..=60_000).contains(&wait_ms)),
            other => panic!("{other:?}"),
        }
    }
    // Nobody gives back what is another's.
    registry.release_send(&send, "two").await.unwrap();
    let held = claim(&registry, &send, "two").await;
    assert!(matches!(held, SendClaim::Pending { .. }), "{held:?}");
    registry.release_send(&send, "one").await.unwrap();
    assert_eq!(claim(&registry, &send, "two").await, SendClaim::Ours);
}

pub async fn a_send_whose_owner_died_is_free_once_its_lease_has_ended(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let send = send(NotificationId::generate());
    let short = Duration::from_millis(1);
    let claimed = registry.claim_send(&send, "dead", short).await;
    assert_eq!(claimed, Ok(SendClaim::Ours));
    until("the lease ended", async || {
        claim(&registry, &send, "next").await == SendClaim::Ours
    })
    .await;
    // The dead one was slow only.
    registry.release_send(&send, "dead").await.unwrap();
    let held = claim(&registry, &send, "dead").await;
    assert!(matches!(held, SendClaim::Pending { .. }), "{held:?}");
}

pub async fn what_was_sent_is_not_claimed_again(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let send = send(NotificationId::generate());
    assert_eq!(claim(&registry, &send, "one").await, SendClaim::Ours);
    registry.finish_send(&send).await.unwrap();
    registry.release_send(&send, "one").await.unwrap();
    assert_eq!(claim(&registry, &send, "two").await, SendClaim::Done);
    registry.finish_send(&send).await.unwrap();
    assert_eq!(claim(&registry, &send, "two").await, SendClaim::Done);
}

pub async fn sends_of_other_devices_and_channels_are_claimed_apart(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let first = send(NotificationId::generate());
    let others = [
        SendKey {
            channel: Channel::Push,
            ..first.clone()
        },
        SendKey {
            device: "home".parse().unwrap(),
            ..first.clone()
        },
        SendKey {
            user: user("b"),
            ..first.clone()
        },
        send(NotificationId::generate()),
    ];
    for send in std::iter::once(&first).chain(&others) {
        assert_eq!(claim(&registry, send, "one").await, SendClaim::Ours);
    }
}
