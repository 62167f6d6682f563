//! A node that dies amid its work, and those who start while it is away.

use crate::build::{at, row, user};
use herald::{
    config::{DispatcherStore, Node, StoreKind},
    dispatcher::store::{
        Appended, NewRow, Store,
        cassandra::{CassandraStore, migrate},
    },
    ids::UserId,
    metrics::Metrics,
    position::Position,
};
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;
use testbed::{
    Api, Herald, PATIENCE,
    cassandra::{CassandraNode, DATACENTER, fresh_keyspace},
    eventually,
    fleet::{API_KEY, GRPC_SECRET},
    free_port, keep_secret,
};

const USERS: usize = 8;
const BATCH: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_node_acknowledged_is_there_a_batch_is_whole_or_not_and_dispatchers_wait() {
    let mut node = CassandraNode::start_lasting();
    let config = config(&node, fresh_keyspace());
    let made = migrate(&config, &Node::default()).await;
    made.expect("tables");
    let users: Vec<UserId> = (0..USERS).map(|n| user(&format!("user-{n}"))).collect();
    let stored = write_until_killed(&config, &users, &mut node).await;

    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut waiting = Dispatcher::start(&config, &directory);
    let unmade = DispatcherStore {
        keyspace: fresh_keyspace(),
        ..config.clone()
    };
    let mut refused = Dispatcher::start(&unmade, &directory);
    for dispatcher in [&waiting, &refused] {
        dispatcher.says_of_its_store(true).await;
    }

    node.start_again();
    waiting.says_of_its_store(false).await;
    assert!(waiting.process.is_running());
    assert_eq!(refused.process.wait().code(), Some(64));
    let log = refused.process.log();
    assert!(
        log.contains("herald dispatcher migrate") && log.contains("store.keyspace"),
        "{log}"
    );
    waiting.process.kill();
    are_whole(&config, &users, &stored).await;
}

fn config(node: &CassandraNode, keyspace: String) -> DispatcherStore {
    DispatcherStore {
        kind: StoreKind::Cassandra,
        contact_points: vec![node.address()],
        keyspace,
        datacenter: Some(DATACENTER.into()),
        replication: 1,
        timeout_ms: 5_000,
        ..DispatcherStore::default()
    }
}

async fn open(config: &DispatcherStore) -> CassandraStore {
    let (node, metrics) = (Node::default(), Metrics::default());
    let opened = CassandraStore::open(config, &node, &metrics).await;
    opened.expect("it opens")
}

/// The `n`th of a user.
fn batch(user: &UserId, n: u64) -> Vec<NewRow> {
    let offsets = n * BATCH + 1..=(n + 1) * BATCH;
    offsets.map(|offset| row(user, at(offset))).collect()
}

/// What was acknowledged to each user before the node died, and the batch that was not: its records come again.
async fn write_until_killed(
    config: &DispatcherStore,
    users: &[UserId],
    node: &mut CassandraNode,
) -> Vec<(u64, Vec<NewRow>)> {
    let store = open(config).await;
    let acknowledged = AtomicUsize::new(0);
    let (store, acknowledged) = (&store, &acknowledged);
    let writers = users.iter().map(|user| async move {
        for n in 0.. {
            let batch = batch(user, n);
            if store.append(batch.clone()).await.is_err() {
                return (n, batch);
            }
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        unreachable!("the node dies before")
    });
    let killed = async {
        while acknowledged.load(Ordering::Relaxed) < 10 * USERS {
            tokio::task::yield_now().await;
        }
        node.kill();
    };
    let (stored, ()) = tokio::join!(futures::future::join_all(writers), killed);
    stored
}

async fn are_whole(config: &DispatcherStore, users: &[UserId], stored: &[(u64, Vec<NewRow>)]) {
    let store = open(config).await;
    for (user, (acknowledged, broken_off)) in users.iter().zip(stored) {
        let found = count(&store, user).await;
        let (least, most) = (acknowledged * BATCH, (acknowledged + 1) * BATCH);
        assert!(
            found == least || found == most,
            "{user}: {found} rows of {least} or {most}"
        );
        let again = store.append(broken_off.clone()).await.expect("it is back");
        let are_new = again
            .iter()
            .filter(|one| matches!(one, Appended::Stored { .. }));
        let expected = if found == least { BATCH as usize } else { 0 };
        assert_eq!(are_new.count(), expected, "{again:?}");
        assert_eq!(count(&store, user).await, most);
    }
}

/// Rows of a user, each with the one before it.
async fn count(store: &CassandraStore, user: &UserId) -> u64 {
    let (mut head, mut rows) = (Position::START, 0);
    loop {
        let page = store.rows_after(user, Some(head), 50).await.expect("rows");
        assert!(page.complete && page.at_quorum);
        for row in &page.rows {
            assert_eq!(row.prev, head);
            (head, rows) = (row.pos, rows + 1);
        }
        if !page.has_more {
            return rows;
        }
    }
}

struct Dispatcher {
    process: Herald,
    api: Api,
    admin_port: u16,
}

impl Dispatcher {
    /// Kafka and Redis are away too: it goes on without them.
    fn start(store: &DispatcherStore, directory: &TempDir) -> Dispatcher {
        let file = |name: &str, text: &str| {
            keep_secret(text);
            let path = directory.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let address = |port: u16| format!("127.0.0.1:{port}");
        let (http, admin_port) = (free_port(), free_port());
        let spool = directory.path().join(format!("spool-{http}"));
        let process = Herald::new(
            &["dispatcher"],
            &[
                ("kafka.brokers", &address(free_port())),
                ("redis.url", &format!("redis://{}", address(free_port()))),
                ("grpc.listen", &address(free_port())),
                ("grpc.secret_file", &file("grpc.secret", GRPC_SECRET)),
                ("http.listen", &address(http)),
                ("http.admin_key_file", &file("admin.key", API_KEY)),
                ("admin.listen", &address(admin_port)),
                ("spool.path", &spool.display().to_string()),
                ("store.kind", "cassandra"),
                (
                    "store.contact_points",
                    &format!("{:?}", store.contact_points),
                ),
                ("store.keyspace", &store.keyspace),
                ("store.datacenter", DATACENTER),
            ],
        );
        let mut dispatcher = Dispatcher {
            process,
            api: Api::new(http, API_KEY.to_owned()),
            admin_port,
        };
        dispatcher.process.start();
        dispatcher
    }

    /// It serves, is ready, and names the store as away, or not any more.
    async fn says_of_its_store(&self, is_away: bool) {
        let unsaid = async || {
            let said = self.api.admin(self.admin_port, "readyz").await;
            let holds = said.is_some_and(|(status, body)| {
                let names = body.contains("\"store\"") && body.contains("store.contact_points");
                status == 200 && names == is_away && body.contains("\"store\"") == is_away
            });
            usize::from(!holds)
        };
        let what = format!("the store is away: {is_away}");
        eventually(&what, PATIENCE * 2, unsaid, || self.process.log()).await;
    }
}
