//! Two providers of one channel, of which one does not answer: what goes by the other does not wait for it, and what is
//! committed does.

use crate::{
    apns, fcm,
    rig::{Rig, eventually, is},
};
use herald::{
    bus::{Polled, Topic, TopicPartition, partition_of},
    config,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use testbed::{ApnsServer, FcmServer, apns::device_token};
use tokio::{net::TcpStream, time::timeout};

/// Apple's answers once it is released.
struct Push {
    apns: ApnsServer,
    fcm: FcmServer,
    rig: Rig,
}

impl Push {
    /// So many sends at once to each of the two.
    async fn start(at_once: usize) -> Push {
        let (apns, fcm) = (ApnsServer::start().await, FcmServer::start().await);
        let channels = config::Channels {
            apns: config::Apns {
                timeout_ms: 60_000,
                at_once,
                ..apns::config(&apns).apns
            },
            fcm: config::Fcm {
                at_once,
                ..fcm::config(&fcm).fcm
            },
            ..config::Channels::default()
        };
        let rig = Rig::with_channels(&channels).await;
        Push { apns, fcm, rig }
    }

    async fn enter(&self, user: &str, device: Value) {
        let path = format!("/v1/users/{user}/devices/phone");
        let answer = self.rig.call(Method::PUT, &path, Some(device)).await;
        assert!(answer.status.is_success(), "{}", answer.body);
    }

    /// Answers the ids of notifications that Apple's leaves without an answer.
    async fn slow(&self, user: &str, count: usize) -> Vec<String> {
        let token = device_token(&format!("slow-{user}"));
        self.enter(user, json!({ "kind": "apns", "token": token }))
            .await;
        let mut ids = Vec::new();
        for _ in 0..count {
            ids.push(self.rig.push_to(user, json!({})).await);
        }
        ids
    }

    /// By FCM; returns when it was sent.
    async fn fast(&self, user: &str) {
        self.enter(user, json!({ "kind": "fcm", "token": user }))
            .await;
        let id = self.rig.push_to(user, json!({})).await;
        self.rig.state("push", &id, is("sent")).await;
    }

    async fn out(&self, count: u32) {
        eventually(|| async { (self.apns.streams_open() == count).then_some(()) }).await;
    }

    async fn all_sent_at_the_first_attempt(&self, ids: &[String]) {
        for id in ids {
            let shown = self.rig.state("push", id, is("sent")).await;
            assert_eq!(shown["attempts"], 1, "{shown}");
        }
        let taken = self.apns.taken();
        let names: BTreeSet<&String> = taken.iter().map(|one| &one.headers["apns-id"]).collect();
        assert_eq!((taken.len(), names.len()), (ids.len(), ids.len()));
    }

    async fn committed(&self, at: TopicPartition) -> Option<u64> {
        self.rig.bus.committed("push", at).await.unwrap()
    }

    async fn is_committed(&self, at: TopicPartition, next: u64) {
        eventually(|| async { (self.committed(at).await == Some(next)).then_some(()) }).await;
    }

    /// Users of each partition, without end.
    async fn users(&self) -> BTreeMap<TopicPartition, Vec<String>> {
        let partitions = self.rig.bus.partitions(Topic::Push).await.unwrap();
        let mut users: BTreeMap<TopicPartition, Vec<String>> = BTreeMap::new();
        for user in (0..100).map(|number| format!("u{number}")) {
            let at = TopicPartition {
                topic: Topic::Push,
                partition: partition_of(user.as_bytes(), partitions),
            };
            users.entry(at).or_default().push(user);
        }
        assert_eq!(users.len(), partitions as usize);
        users
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_by_one_provider_arrives_while_the_others_is_still_out() {
    let push = Push::start(4).await;
    let ids = push.slow("a", 8).await;
    push.out(4).await;
    for number in 0..10 {
        push.fast(&format!("f{number}")).await;
    }
    assert_eq!(push.apns.taken().len(), 0);
    push.apns.release();
    push.all_sent_at_the_first_attempt(&ids).await;
    push.rig.drained("push", Topic::Push).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_there_is_room_for_wait_for_a_silent_provider_and_keep_no_other_waiting() {
    let push = Push::start(1).await;
    // 258 have room: who comes behind these in their partition is read once some have made way.
    let mut users = push.users().await.into_values().next().unwrap();
    let ids = push.slow(&users.pop().unwrap(), 300).await;
    let routed = || async { (push.rig.count(Topic::Push).await == 300).then_some(()) };
    eventually(routed).await;
    push.fast(&users.pop().unwrap()).await;
    assert_eq!(push.apns.taken().len(), 0);
    assert!(push.rig.count(Topic::Retry(5)).await >= 300 - 258);
    push.apns.release();
    push.all_sent_at_the_first_attempt(&ids).await;
    assert_eq!(push.fcm.taken().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_committed_past_a_notification_that_is_still_out() {
    let push = Push::start(4).await;
    let mut users = push.users().await.into_iter();
    let (held, mut of_held) = users.next().unwrap();
    let (other, mut of_other) = users.next().unwrap();
    let ids = push.slow(&of_held.pop().unwrap(), 1).await;
    push.out(1).await;
    push.fast(&of_held.pop().unwrap()).await;
    push.fast(&of_other.pop().unwrap()).await;
    // One commit has what both partitions have come to.
    push.is_committed(other, 1).await;
    assert_eq!(push.committed(held).await, None);
    push.apns.release();
    push.is_committed(held, 2).await;
    push.all_sent_at_the_first_attempt(&ids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_of_a_partition_that_was_revoked_is_finished_not_committed_and_not_sent_again()
{
    let push = Push::start(8).await;
    let mut ids = Vec::new();
    for (_, users) in push.users().await {
        ids.extend(push.slow(&users[0], 1).await);
    }
    push.out(ids.len() as u32).await;
    let topics = [Topic::Push];
    let mut next = push.rig.bus.subscribe("push", &topics).await.unwrap();
    let (mut taken_over, mut read) = (Vec::new(), Vec::new());
    let reads = async {
        while read.is_empty() || read.len() < taken_over.len() {
            match next.poll(8, Duration::from_millis(100)).await.unwrap() {
                Polled::Assigned(partitions) => taken_over.extend(partitions),
                Polled::Records(records) => read.extend(records),
                Polled::Revoked(_) | Polled::Idle => {}
            }
        }
    };
    let in_time = timeout(Duration::from_secs(20), reads).await;
    in_time.expect("nothing was committed of what came over");
    push.apns.release();
    push.all_sent_at_the_first_attempt(&ids).await;
    let all = push.users().await.into_keys();
    let (gone, kept): (Vec<_>, Vec<_>) = all.partition(|at| taken_over.contains(at));
    for at in kept {
        push.is_committed(at, 1).await;
    }
    for at in gone {
        assert_eq!(push.committed(at).await, None);
    }
    // Who reads them again finds that they were sent.
    drop(next);
    push.rig.drained("push", Topic::Push).await;
    assert_eq!(push.apns.taken().len(), ids.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_leaves_finishes_and_commits_what_is_out() {
    let mut push = Push::start(1).await;
    let (held, users) = push.users().await.into_iter().next().unwrap();
    push.slow(&users[0], 2).await;
    push.out(1).await;
    let (door, apns) = (push.rig.addresses.http, &push.apns);
    let released = async {
        eventually(|| async { TcpStream::connect(door).await.err() }).await;
        apns.release();
    };
    tokio::join!(push.rig.stop(), released);
    // One was answered; the other had no place, and waits for the next dispatcher if it was read at all.
    let put_off = push.rig.count(Topic::Retry(5)).await;
    assert_eq!(push.committed(held).await, Some(1 + put_off));
    assert_eq!(push.apns.taken().len(), 1);
}
