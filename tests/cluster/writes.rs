//! A node that is killed with `kill -9` while rows are written.
//!
//! The nodes sync their logs as Cassandra does by default (`commitlog_sync: periodic`), which loses what a killed node
//! acknowledged in its last moment. The other two have it.

use crate::{ONE_CLUSTER, WAIT, three_nodes};
use herald::{
    config::{DispatcherStore, Node},
    dispatcher::store::{
        NewRow, RowKind, Store, StoreError,
        cassandra::{CassandraStore, migrate},
    },
    envelope::Priority,
    ids::{NotificationId, UserId},
    metrics::Metrics,
    position::Position,
};
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};
use testbed::eventually;
use tokio::sync::watch;

const USERS: usize = 8;
const BATCH: u64 = 20;
/// Of all users, before the node is killed and after.
const BATCHES: u64 = 400;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "three nodes of Cassandra: `make cluster`"]
async fn what_is_acknowledged_while_a_node_is_killed_is_read_at_quorum_without_it_and_with_it() {
    let _alone = ONE_CLUSTER.lock().await;
    let (mut nodes, config) = three_nodes().await;
    let made = migrate(&config, &Node::default()).await;
    made.expect("tables");

    let writers = Writers::default();
    let store = open(&config).await;
    let killed = async {
        writers.acknowledged(BATCHES).await;
        nodes[2].kill();
        writers.acknowledged(BATCHES).await;
        writers.is_over.store(true, Ordering::Relaxed);
    };
    let names = (0..USERS).map(|n| format!("user-{n}").parse().expect("a user id"));
    let each = names.map(|user| writers.write(&store, user));
    let (written, ()) = tokio::join!(futures::future::join_all(each), killed);
    println!(
        "{} batches of {BATCH} were acknowledged, {BATCHES} or more of them without the third node; {} were tried again",
        *writers.acknowledged.borrow(),
        writers.failed.load(Ordering::Relaxed),
    );

    all_are_there(&open(&config).await, &written).await;
    nodes[2].start_again();
    let by_it = DispatcherStore {
        contact_points: vec![nodes[2].address()],
        ..config
    };
    let opens_not = async || usize::from(try_open(&by_it).await.is_err());
    let log = || nodes[2].log();
    eventually("it is one of three again", WAIT, opens_not, log).await;
    for store in [&open(&by_it).await, &store] {
        all_are_there(store, &written).await;
    }
}

async fn try_open(config: &DispatcherStore) -> Result<CassandraStore, StoreError> {
    CassandraStore::open(config, &Node::default(), &Metrics::default()).await
}

async fn open(config: &DispatcherStore) -> CassandraStore {
    try_open(config).await.expect("it opens")
}

/// A user, and the ids of what was acknowledged, in its order.
type Written = (UserId, Vec<NotificationId>);

#[derive(Default)]
struct Writers {
    /// Batches of all users.
    acknowledged: watch::Sender<u64>,
    failed: AtomicU64,
    is_over: AtomicBool,
}

impl Writers {
    /// Until so many batches more are acknowledged.
    async fn acknowledged(&self, more: u64) {
        let mut acknowledged = self.acknowledged.subscribe();
        let last = *acknowledged.borrow() + more;
        let reached = acknowledged.wait_for(|batches| *batches >= last).await;
        reached.expect("the sender is ours");
    }

    /// Batch after batch of a user. One that fails comes again as it is, as its records do.
    async fn write(&self, store: &CassandraStore, user: UserId) -> Written {
        let mut ids = Vec::new();
        while !self.is_over.load(Ordering::Relaxed) {
            let first = ids.len() as u64 + 1;
            let batch: Vec<NewRow> = (first..first + BATCH).map(|n| row(&user, n)).collect();
            while store.append(batch.clone()).await.is_err() {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
            ids.extend(batch.iter().map(|row| row.id));
            self.acknowledged.send_modify(|batches| *batches += 1);
        }
        (user, ids)
    }
}

fn row(user: &UserId, offset: u64) -> NewRow {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_ms = since.expect("after 1970").as_millis() as u64;
    NewRow {
        user: user.clone(),
        pos: Position::new(1, offset).expect("a position"),
        kind: RowKind::Notification,
        id: NotificationId::generate(),
        priority: Priority::Normal,
        created_ms: now_ms,
        appended_ms: now_ms,
        expires_ms: None,
        collapse_key: None,
        content: r#"{"type":"test","channels":["in_app"],"title":"A title"}"#.into(),
    }
}

/// Each row once, in its order, by a quorum.
async fn all_are_there(store: &CassandraStore, written: &[Written]) {
    for (user, ids) in written {
        let (mut head, mut found) = (Position::START, Vec::new());
        loop {
            let page = store.rows_after(user, Some(head), 50).await.expect("rows");
            assert!(page.complete && page.at_quorum, "{user} after {head}");
            for row in &page.rows {
                assert_eq!(row.prev, head, "{user}");
                head = row.pos;
                found.push(row.id);
            }
            if !page.has_more {
                break;
            }
        }
        assert!(found == *ids, "{user}: {} of {}", found.len(), ids.len());
    }
}
