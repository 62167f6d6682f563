//! The store on Cassandra: every behaviour, and what concerns its tables, its writers and its replicas.

use crate::{
    behaviour::{self, Home},
    build::*,
};
use herald::{
    config::{DispatcherStore, Node, StoreKind},
    dispatcher::store::{
        Appended, Entered, Idempotency, NewRow, SharedStore, Store, StoreError,
        cassandra::{CassandraStore, migrate},
    },
    ids::NotificationId,
    limits,
    metrics::Metrics,
    position::Position,
};
use scylla::{
    client::{session::Session, session_builder::SessionBuilder},
    response::query_result::QueryResult,
    statement::{Consistency, unprepared::Statement},
};
use std::{
    future::Future,
    sync::{Arc, LazyLock},
    time::Duration,
};
use testbed::cassandra::{DATACENTER, fresh_keyspace, node};
use tokio::runtime::Runtime;

behaviour::every_behaviour_holds_in!(Keyspace::new());

/// What a session does beside the calls made to it outlives the test that opened it.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("threads"));

/// Runs it to its end from inside a test's own runtime.
fn done<T: Send, F: Future<Output = T>>(work: impl FnOnce() -> F + Send) -> T {
    std::thread::scope(|scope| {
        let running = scope.spawn(|| RUNTIME.block_on(work()));
        running.join().expect("it does not panic")
    })
}

/// For statements that Herald has no use for.
static SESSION: LazyLock<Session> = LazyLock::new(|| {
    done(|| async {
        let session = SessionBuilder::new().known_node(node());
        let session = session.fetch_schema_metadata(false);
        session.build().await.expect("a session")
    })
});

/// A keyspace of its own with the tables of this release; dropped with it.
pub struct Keyspace {
    config: DispatcherStore,
}

impl Keyspace {
    pub fn unmade() -> Keyspace {
        let config = DispatcherStore {
            kind: StoreKind::Cassandra,
            contact_points: vec![node()],
            keyspace: fresh_keyspace(),
            datacenter: Some(DATACENTER.into()),
            replication: 1,
            // The node shares its machine with everything else.
            timeout_ms: 30_000,
            ..DispatcherStore::default()
        };
        Keyspace { config }
    }

    pub fn new() -> Keyspace {
        let keyspace = Keyspace::unmade();
        keyspace.migrated_by(&Node::default()).expect("tables");
        keyspace
    }

    pub fn migrated_by(&self, node: &Node) -> Result<String, StoreError> {
        done(|| migrate(&self.config, node))
    }

    pub fn cassandra(&self) -> CassandraStore {
        self.opened_by(&Node::default()).expect("it opens")
    }

    fn opened_by(&self, node: &Node) -> Result<CassandraStore, StoreError> {
        done(|| async { CassandraStore::open(&self.config, node, &Metrics::default()).await })
    }

    /// `@k` stands for the keyspace.
    pub fn execute(&self, statement: &str) {
        self.ask(statement);
    }

    /// Of the one node there is, however many copies the keyspace is said to have.
    pub fn ask(&self, statement: &str) -> QueryResult {
        let mut statement = Statement::new(statement.replace("@k", &self.config.keyspace));
        statement.set_consistency(Consistency::One);
        statement.set_request_timeout(Some(Duration::from_secs(60)));
        done(|| SESSION.query_unpaged(statement, &[])).expect("it is taken")
    }
}

impl Home for Keyspace {
    fn open(&self) -> SharedStore {
        Arc::new(self.cassandra())
    }
}

impl Drop for Keyspace {
    fn drop(&mut self) {
        self.execute("DROP KEYSPACE IF EXISTS @k");
    }
}

// ── tables ─────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_keyspace_without_tables_is_refused_with_the_command_that_makes_them() {
    let keyspace = Keyspace::unmade();
    let refused = || match keyspace.opened_by(&Node::default()) {
        Err(error @ StoreError::Schema { .. }) => error.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it opened"),
    };
    let text = refused();
    assert!(text.contains("store.keyspace"), "{text}");
    assert!(text.contains("herald dispatcher migrate"), "{text}");

    let said = |keyspace: &Keyspace| keyspace.migrated_by(&Node::default()).unwrap();
    assert!(said(&keyspace).contains("was made, at schema 6"));
    assert!(said(&keyspace).contains("already"));
    keyspace.cassandra();

    keyspace.execute("INSERT INTO @k.schema_version (one, version) VALUES (1, 0)");
    let text = refused();
    assert!(
        text.contains("schema 0") && text.contains("migrate"),
        "{text}"
    );
    keyspace.execute("INSERT INTO @k.schema_version (one, version) VALUES (1, 99)");
    let text = refused();
    assert!(
        text.contains("schema 99") && text.contains("later one"),
        "{text}"
    );
    assert!(keyspace.migrated_by(&Node::default()).is_err());
}

#[test]
fn a_data_centre_that_the_cluster_does_not_have_is_refused_with_those_it_has() {
    let mut keyspace = Keyspace::new();
    keyspace.config.datacenter = Some("elsewhere".into());
    for refused in [
        keyspace.opened_by(&Node::default()).map(drop),
        keyspace.migrated_by(&Node::default()).map(drop),
    ] {
        let text = refused.unwrap_err().to_string();
        let names = ["store.datacenter", "elsewhere", DATACENTER];
        assert!(names.iter().all(|name| text.contains(name)), "{text}");
    }
}

#[test]
fn a_migration_that_was_broken_off_is_brought_to_its_end() {
    let keyspace = Keyspace::new();
    keyspace.execute("DROP TABLE @k.api_keys");
    keyspace.execute("TRUNCATE @k.schema_version");
    keyspace.migrated_by(&Node::default()).unwrap();
    keyspace.cassandra();
}

#[test]
fn a_keyspace_of_another_namespace_is_refused_with_its_name() {
    let keyspace = Keyspace::new();
    let other = Node {
        namespace: "staging".parse().unwrap(),
        ..Node::default()
    };
    for refused in [
        keyspace.opened_by(&other).map(drop),
        keyspace.migrated_by(&other).map(drop),
    ] {
        let text = refused.unwrap_err().to_string();
        assert!(
            text.contains("\"notifications\"") && text.contains("store.keyspace"),
            "{text}"
        );
    }
}

/// All that ages ends by itself, and whole files of it do.
#[tokio::test]
async fn rows_end_after_ninety_days() {
    let keyspace = Keyspace::new();
    let (store, ada) = (keyspace.cassandra(), user("ada"));
    let row = row(&ada, at(1));
    store.append(vec![row.clone()]).await.unwrap();
    store
        .append(vec![read_mark(&ada, at(2), &[row.id])])
        .await
        .unwrap();
    store
        .record(&[outcome(row.id, Some(&ada), herald::envelope::Fate::Written)])
        .await
        .unwrap();
    let left_s = |column: &str, table: &str| {
        let result = keyspace.ask(&format!("SELECT TTL({column}) FROM @k.{table} LIMIT 1"));
        let (left_s,) = result
            .into_rows_result()
            .unwrap()
            .single_row::<(Option<i32>,)>()
            .unwrap();
        left_s.expect("it ends") as u64
    };
    for (column, table) in [
        ("content", "notifications_by_user"),
        ("pos", "positions_by_id"),
        ("at_ms", "delivery_log"),
    ] {
        let left_s = left_s(column, table);
        let whole_s = limits::RETENTION_S;
        assert!(
            (whole_s - 3_600..=whole_s).contains(&left_s),
            "{table}: {left_s}"
        );
    }
}

// ── buckets ────────────────────────────────────────────────────────────────────────────────────

const DAY_MS: u64 = 24 * 3600 * 1000;

fn days_ago(row: NewRow, days: u64) -> NewRow {
    NewRow {
        appended_ms: now_ms() - days * DAY_MS,
        ..row
    }
}

#[tokio::test]
async fn a_stream_goes_on_from_bucket_to_bucket() {
    let keyspace = Keyspace::new();
    let (store, ada) = (keyspace.cassandra(), user("ada"));
    let ages = [95, 70, 69, 40, 39, 10, 0];
    let rows: Vec<NewRow> = (1..)
        .zip(ages)
        .map(|(offset, days)| days_ago(row(&ada, at(offset)), days))
        .collect();
    let mut head = Position::START;
    let answers = store.append(rows).await.unwrap();
    for (offset, answer) in (1..).zip(answers) {
        assert_eq!(answer, Appended::Stored { prev: head });
        head = at(offset);
    }
    for reader in [&store, &keyspace.cassandra()] {
        for after in 0..7 {
            let found = reader.rows_after(&ada, Some(at(after)), 50).await.unwrap();
            let expected: Vec<u64> = (after + 1..=7).collect();
            let offsets: Vec<u64> = found.rows.iter().map(|row| row.pos.offset()).collect();
            assert_eq!(
                (offsets, found.complete, found.has_more),
                (expected, true, false)
            );
        }
        let two = reader.rows_after(&ada, Some(at(1)), 2).await.unwrap();
        assert_eq!(
            (two.rows.len(), two.covered, two.has_more),
            (2, at(3), true)
        );
        let page = reader.page(&ada, Some(at(5)), 50).await.unwrap();
        let offsets: Vec<u64> = page.iter().map(|row| row.pos.offset()).collect();
        assert_eq!(offsets, [4, 3, 2, 1]);
        assert_eq!(reader.unread(&ada).await.unwrap().own, 7);
    }
    let next = keyspace.cassandra().append(vec![row(&ada, at(9))]).await;
    assert_eq!(next, Ok(vec![Appended::Stored { prev: at(7) }]));
}

#[tokio::test]
async fn a_row_is_superseded_from_a_later_bucket() {
    let keyspace = Keyspace::new();
    let (store, ada) = (keyspace.cassandra(), user("ada"));
    let earlier = days_ago(collapsing(&ada, at(1), "score"), 40);
    let later = collapsing(&ada, at(2), "score");
    store.append(vec![earlier, later]).await.unwrap();
    let found = store.rows_after(&ada, Some(at(0)), 50).await.unwrap();
    assert_eq!((found.rows.len(), found.covered), (1, at(2)));
    assert_eq!(store.page(&ada, None, 50).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_retention_took_is_told_by_the_chain() {
    let keyspace = Keyspace::new();
    let (store, ada) = (keyspace.cassandra(), user("ada"));
    let rows: Vec<NewRow> = [1, 2, 3].map(|offset| row(&ada, at(offset))).into();
    let first = rows[0].clone();
    store.append(rows).await.unwrap();
    for offset in [1, 2] {
        remove(&keyspace, &ada, at(offset));
    }
    let behind = store.rows_after(&ada, Some(at(1)), 50).await.unwrap();
    assert_eq!(
        (behind.rows.len(), behind.complete),
        (1, false),
        "row 2 was lost"
    );
    let level = store.rows_after(&ada, Some(at(2)), 50).await.unwrap();
    assert!(level.complete);

    // Everything ended by its time long ago: the stream goes on all the same.
    remove(&keyspace, &ada, at(3));
    let long_ago = now_ms() - (limits::RETENTION_S + 10 * 24 * 3600) * 1000;
    keyspace.execute(&format!(
        "UPDATE @k.heads USING TIMESTAMP {} SET stored_ms = {long_ago} WHERE user = 'ada' AND bucket = {}",
        at(3).value() + 1,
        now_ms() / (limits::BUCKET_DAYS * DAY_MS),
    ));
    let store = keyspace.cassandra();
    assert_eq!(store.rows_after(&ada, None, 50).await.unwrap().head, at(3));
    assert!(
        store
            .rows_after(&ada, Some(at(3)), 50)
            .await
            .unwrap()
            .complete
    );
    assert!(
        !store
            .rows_after(&ada, Some(at(2)), 50)
            .await
            .unwrap()
            .complete
    );
    let again = store.append(vec![first]).await.unwrap();
    assert!(
        matches!(again[..], [Appended::Existing { written: true, .. }]),
        "a record that is read again after its row was removed comes to nobody: {again:?}"
    );
    let next = store.append(vec![row(&ada, at(9))]).await;
    assert_eq!(next, Ok(vec![Appended::Stored { prev: at(3) }]));
}

/// As its time would.
fn remove(keyspace: &Keyspace, user: &herald::ids::UserId, pos: Position) {
    let bucket = now_ms() / (limits::BUCKET_DAYS * DAY_MS);
    keyspace.execute(&format!(
        "DELETE FROM @k.notifications_by_user WHERE user = '{user}' AND bucket = {bucket} AND pos = {pos}"
    ));
    let row = format!("FROM @k.positions_by_id WHERE user = '{user}' AND bucket = {bucket}");
    let result = keyspace.ask(&format!("SELECT id, pos {row}"));
    let result = result.into_rows_result().unwrap();
    for found in result.rows::<(uuid::Uuid, i64)>().unwrap() {
        let (id, at) = found.unwrap();
        if at == pos.value() as i64 {
            keyspace.execute(&format!("DELETE {row} AND id = {id}"));
        }
    }
}

// ── writers ────────────────────────────────────────────────────────────────────────────────────

/// One that was taken for dead and is not, beside the one that took its partition over.
#[tokio::test]
async fn two_writers_of_the_same_records_leave_one_chain() {
    const RECORDS: u64 = 120;
    let keyspace = Keyspace::new();
    let ada = user("ada");
    let mut records: Vec<NewRow> = (1..=RECORDS).map(|offset| row(&ada, at(offset))).collect();
    for again in (10..RECORDS as usize).step_by(10) {
        // Produced again: the lowest position wins.
        records[again].id = records[again - 7].id;
    }
    let stores = [keyspace.cassandra(), keyspace.cassandra()];
    let writers = stores.iter().zip([7, 11]).map(|(store, batch)| {
        let records = &records;
        async move {
            for batch in records.chunks(batch) {
                store.append(batch.to_vec()).await.unwrap();
            }
        }
    });
    futures::future::join_all(writers).await;
    let (mut head, mut count) = (Position::START, 0);
    loop {
        let page = stores[0].rows_after(&ada, Some(head), 50).await.unwrap();
        assert!(page.complete);
        for row in &page.rows {
            assert_eq!(row.prev, head);
            (head, count) = (row.pos, count + 1);
        }
        if !page.has_more {
            break;
        }
    }
    assert_eq!(count, RECORDS - (10..RECORDS).step_by(10).count() as u64);
}

#[tokio::test]
async fn who_takes_over_goes_on_from_what_the_other_stored() {
    let keyspace = Keyspace::new();
    let (stores, ada) = ([keyspace.cassandra(), keyspace.cassandra()], user("ada"));
    let mut head = Position::START;
    for (offset, store) in (1..=20).zip(stores.iter().cycle()) {
        store.forget_heads();
        let stored = store.append(vec![row(&ada, at(offset))]).await;
        assert_eq!(stored, Ok(vec![Appended::Stored { prev: head }]));
        head = at(offset);
    }
}

/// It wrote which bucket comes next, and then nothing.
#[tokio::test]
async fn a_writer_that_died_before_its_first_row_leaves_no_hole() {
    let keyspace = Keyspace::new();
    let (ada, bob) = (user("ada"), user("bob"));
    let earlier = days_ago(row(&ada, at(1)), 40);
    keyspace.cassandra().append(vec![earlier]).await.unwrap();
    let bucket = now_ms() / (limits::BUCKET_DAYS * DAY_MS);
    for (name, head) in [("ada", at(1)), ("bob", Position::START)] {
        keyspace.execute(&format!(
            "INSERT INTO @k.users (user, bucket, head_before, region) VALUES ('{name}', {bucket}, {head}, 'local')"
        ));
    }
    let store = keyspace.cassandra();
    for (user, head) in [(&ada, at(1)), (&bob, Position::START)] {
        let found = store.rows_after(user, Some(head), 50).await.unwrap();
        assert_eq!(
            (found.head, found.complete, found.rows.len()),
            (head, true, 0)
        );
        let stored = store.append(vec![row(user, at(5))]).await;
        assert_eq!(stored, Ok(vec![Appended::Stored { prev: head }]));
        let found = store.rows_after(user, Some(head), 50).await.unwrap();
        assert_eq!(
            (found.head, found.complete, found.rows.len()),
            (at(5), true, 1)
        );
    }
}

/// Late with what stands in an earlier bucket.
#[tokio::test]
async fn a_streams_newest_bucket_never_goes_back() {
    let keyspace = Keyspace::new();
    let (store, ada) = (keyspace.cassandra(), user("ada"));
    let late = days_ago(row(&ada, at(1)), 40);
    let records = vec![late.clone(), row(&ada, at(2))];
    store.append(records).await.unwrap();
    let bucket = late.appended_ms / (limits::BUCKET_DAYS * DAY_MS);
    let time = bucket * limits::BUCKET_DAYS * 24 * 3600 * 1_000_000;
    keyspace.execute(&format!(
        "INSERT INTO @k.users (user, bucket, head_before) VALUES ('ada', {bucket}, 0) USING TIMESTAMP {time}"
    ));
    let found = keyspace
        .cassandra()
        .rows_after(&ada, None, 50)
        .await
        .unwrap();
    assert_eq!((found.head, found.rows.len()), (at(2), 2));
}

// ── conditions ─────────────────────────────────────────────────────────────────────────────────

#[tokio::test]
async fn of_those_who_claim_a_key_at_once_one_has_it() {
    let keyspace = Keyspace::new();
    let stores = [keyspace.cassandra(), keyspace.cassandra()];
    let claims = (0..8).map(|n| {
        let id = NotificationId::generate();
        stores[n % 2].claim("shop", "order-1", [1; 32], id, now_ms())
    });
    let claims = futures::future::join_all(claims).await;
    let claimed = claims
        .iter()
        .filter(|claim| **claim == Ok(Idempotency::Claimed));
    assert_eq!(claimed.count(), 1, "{claims:?}");
}

#[tokio::test]
async fn the_bound_on_devices_holds_when_several_are_entered_at_once() {
    let keyspace = Keyspace::new();
    let (stores, ada) = ([keyspace.cassandra(), keyspace.cassandra()], user("ada"));
    let devices = (0..limits::DEVICES - 2).map(|n| email(&ada, &n.to_string(), "ada@example.com"));
    for device in devices {
        stores[0].put_device(device).await.unwrap();
    }
    let more = (0..6).map(|n| {
        let device = email(&ada, &format!("more-{n}"), "ada@example.com");
        stores[n % 2].put_device(device)
    });
    let entered = futures::future::join_all(more).await;
    let count = entered
        .iter()
        .filter(|entered| **entered == Ok(Entered::Created));
    assert_eq!(count.count(), 2, "{entered:?}");
    assert_eq!(
        stores[0].devices(&ada).await.unwrap().len(),
        limits::DEVICES
    );
}

// ── replicas ───────────────────────────────────────────────────────────────────────────────────

/// Of three copies that the keyspace is said to have, one is there.
#[tokio::test]
async fn without_a_quorum_a_sync_is_read_from_one_replica_and_nothing_is_stored() {
    let keyspace = Keyspace::new();
    let (store, ada) = (keyspace.cassandra(), user("ada"));
    let shared: SharedStore = Arc::new(keyspace.cassandra());
    let ids = stored(&shared, &ada, &[1, 2, 4]).await;
    keyspace.execute(&format!(
        "ALTER KEYSPACE @k WITH replication = {{'class': 'NetworkTopologyStrategy', '{DATACENTER}': 3}}"
    ));
    let found = store.rows_after(&ada, Some(at(1)), 50).await.unwrap();
    assert_eq!((found.rows.len(), found.at_quorum), (2, false));
    assert_eq!(store.page(&ada, None, 50).await.unwrap().len(), 3);
    assert!(store.row(&ada, ids[0]).await.unwrap().is_some());
    for _ in 0..3 {
        let refused = store.append(vec![row(&ada, at(5))]).await;
        assert!(
            matches!(refused, Err(StoreError::Unavailable(_))),
            "{refused:?}"
        );
    }
    assert!(!store.healthy());

    // The one replica lacks a row: what is above it comes by a read at quorum.
    remove(&keyspace, &ada, at(2));
    let found = store.rows_after(&ada, Some(at(1)), 50).await.unwrap();
    assert_eq!(found.covered, at(1), "the cursor stays below the hole");
    assert_eq!(
        (found.rows.len(), found.has_more, found.at_quorum),
        (0, false, false)
    );

    keyspace.execute(&format!(
        "ALTER KEYSPACE @k WITH replication = {{'class': 'NetworkTopologyStrategy', '{DATACENTER}': 1}}"
    ));
    testbed::until("the store is back", || store.healthy(), String::new);
    let found = store.rows_after(&ada, Some(at(2)), 50).await.unwrap();
    assert!(found.at_quorum);
    let next = store.append(vec![row(&ada, at(5))]).await;
    assert_eq!(next, Ok(vec![Appended::Stored { prev: at(4) }]));
}
