//! Limits of users, and rates.

use crate::subject::*;
use herald::{
    config,
    ids::NotificationId,
    metrics::Metrics,
    registry::{
        SharedRegistry,
        quota::{Admission, Draw, Drawn, Rate},
        redis::RedisRegistry,
    },
};
use std::{sync::Arc, time::Duration};
use testbed::redis::{RedisServer, fresh_namespace};

const HOUR: Duration = Duration::from_secs(3600);

fn asks(name: &str, limit: &'static str, id: NotificationId) -> Admission {
    Admission {
        user: user(name),
        id,
        limit,
        most: 3,
        window: HOUR,
    }
}

fn several(name: &str, limit: &'static str, count: usize) -> Vec<Admission> {
    let one = |_| asks(name, limit, NotificationId::generate());
    (0..count).map(one).collect()
}

async fn admitted(registry: &SharedRegistry, asked: &[Admission]) -> Vec<bool> {
    registry.admit(asked).await.unwrap()
}

pub async fn a_user_is_sent_so_many_and_no_more(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    // In one call, of several users and limits among each other.
    let (ann, bob) = (several("a:b {c}", "push", 5), several("bob", "push", 2));
    let mails = several("bob", "email", 4);
    let mut asked = vec![ann[0].clone(), bob[0].clone(), mails[0].clone()];
    asked.extend(ann[1..].iter().cloned());
    asked.extend(mails[1..].iter().cloned());
    let answers = admitted(&registry, &asked).await;
    let t = [
        true, true, true, true, true, false, false, true, true, false,
    ];
    assert_eq!(answers, t);
    assert_eq!(admitted(&registry, &bob[1..]).await, [true]);
    assert_eq!(admitted(&registry, &[]).await, [false; 0]);
}

pub async fn what_was_admitted_is_admitted_again_and_counts_once(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let asked = several("ann", "push", 4);
    for _ in 0..3 {
        assert_eq!(admitted(&registry, &asked[..2]).await, [true, true]);
    }
    assert_eq!(admitted(&registry, &asked).await, [true, true, true, false]);
}

pub async fn what_is_longer_ago_than_the_window_counts_no_more(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let mut asked = several("ann", "push", 3);
    asked
        .iter_mut()
        .for_each(|one| one.window = Duration::from_millis(1));
    assert_eq!(admitted(&registry, &asked).await, [true; 3]);
    until("the window has passed", async || {
        let mut next = several("ann", "push", 1);
        next[0].window = Duration::from_millis(1);
        admitted(&registry, &next).await == [true]
    })
    .await;
}

fn draw(wanted: u32, forced: bool) -> Draw {
    Draw {
        name: "provider:x".into(),
        // So slow that nothing is refilled within a test.
        rate: Rate::new(10, HOUR * 100, HOUR * 100),
        wanted,
        forced,
    }
}

async fn drawn(registry: &SharedRegistry, wanted: u32, forced: bool) -> Drawn {
    registry.draw(&[draw(wanted, forced)]).await.unwrap()[0]
}

pub async fn a_rate_is_drawn_from_by_all_and_never_gives_more_than_its_burst(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    let (one, other) = tokio::join!(drawn(&registry, 4, false), drawn(&registry, 4, false));
    assert_eq!((one.taken, other.taken), (4, 4));
    assert_eq!(drawn(&registry, 4, false).await.taken, 2);
    let none = drawn(&registry, 1, false).await;
    assert_eq!(none.taken, 0);
    let wait = draw(1, false).rate.wait(none.ahead_us);
    assert!(wait > HOUR * 9 && wait <= HOUR * 10, "{wait:?}");
    let other = Draw {
        name: "provider:y".into(),
        ..draw(1, false)
    };
    assert_eq!(registry.draw(&[other]).await.unwrap()[0].taken, 1);
}

pub async fn what_is_taken_without_asking_is_owed_by_the_others(subject: Subject) {
    let registry = subject.registry(LASTING).await;
    assert_eq!(drawn(&registry, 15, true).await.taken, 15);
    let owed = drawn(&registry, 1, false).await;
    let wait = draw(1, false).rate.wait(owed.ahead_us);
    assert!(owed.taken == 0 && wait > HOUR * 50, "{owed:?} {wait:?}");
    // Two bursts at most.
    let most = drawn(&registry, 1_000_000, true).await.ahead_us;
    let burst_us = draw(1, false).rate.burst_us;
    assert!(most <= burst_us * 2.0 && most > burst_us * 1.9, "{most}");
}

/// Whoever asks through another connection: a fleet.
#[tokio::test]
async fn dispatchers_share_what_is_counted_in_redis_and_every_key_ends_by_itself() {
    let namespace = fresh_namespace();
    let server = RedisServer::shared();
    let config = config::Redis {
        url: server.url(),
        timeout_ms: 10_000,
        ..config::Redis::default()
    };
    let connect = || -> SharedRegistry {
        let name = namespace.parse().unwrap();
        Arc::new(RedisRegistry::connect(&config, &name, &Metrics::default()).unwrap())
    };
    let (one, other) = (connect(), connect());
    let asked = several("ann", "push", 4);
    assert_eq!(admitted(&one, &asked[..2]).await, [true, true]);
    assert_eq!(admitted(&other, &asked[2..]).await, [true, false]);
    assert_eq!(drawn(&one, 6, false).await.taken, 6);
    assert_eq!(drawn(&other, 6, false).await.taken, 4);
    let of_user = format!("{namespace}:quota:push:ann");
    let of_rate = format!("{namespace}:rate:provider:x");
    for key in [of_user, of_rate] {
        let left = server.raw(&["PTTL", &key]);
        assert!(
            left.trim_start_matches(":").trim().parse::<u64>().unwrap() > 0,
            "{key}: {left}"
        );
    }
}
