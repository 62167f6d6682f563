//! Keyspaces of earlier releases, and how they are brought up to this one.

use crate::{
    build::{at, browser, email, now_ms, row, user},
    cassandra::Keyspace,
};
use herald::{
    config::Node,
    dispatcher::{
        devices::DeviceKind,
        store::{
            Appended, DeadLetterAt, Entered, Erasure, Forget, Handled, Segments, Store,
            cassandra::CassandraStore,
        },
    },
    envelope::Channel,
    ids::{NotificationId, SegmentId},
    limits,
};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// What each schema left beside the one before it, from the first on.
const LEFT: [&str; 5] = [
    include_str!("keyspace-1.cql"),
    include_str!("keyspace-2.cql"),
    include_str!("keyspace-3.cql"),
    include_str!("keyspace-4.cql"),
    include_str!("keyspace-5.cql"),
];

/// A step that is changed in its place instead of being followed by another would not come to them.
#[tokio::test]
async fn a_keyspace_of_an_earlier_release_becomes_what_a_new_one_is_and_keeps_its_rows() {
    let new = Layout::of(&Keyspace::new());
    for schema in 1..=LEFT.len() {
        let keyspace = Keyspace::unmade();
        let left = &LEFT[..schema];
        left.iter().for_each(|file| leave(&keyspace, file));
        let said = keyspace
            .migrated_by(&Node::default())
            .expect("it is brought up");
        assert!(said.contains(&format!("from schema {schema} to")), "{said}");
        assert_eq!(Layout::of(&keyspace), new, "from schema {schema}");
        holds(&keyspace.cassandra(), schema).await;
        works(&keyspace).await;
    }
}

const HOUR_MS: u64 = 3_600_000;

fn leave(keyspace: &Keyspace, file: &str) {
    let now_ms = now_ms();
    let bucket_ms = limits::BUCKET_DAYS * 24 * HOUR_MS;
    let bucket = now_ms / bucket_ms;
    let lines = file.lines().filter(|line| !line.starts_with("--"));
    let file: String = lines.flat_map(|line| [line, "\n"]).collect();
    let file = file
        .replace("@bucket", &bucket.to_string())
        .replace("@begin_us", &(bucket * bucket_ms * 1000).to_string())
        .replace("@hour", &(now_ms / HOUR_MS).to_string())
        .replace("@day", &(now_ms / (24 * HOUR_MS)).to_string())
        .replace("@now_ms", &now_ms.to_string());
    let statements = file
        .split(';')
        .filter(|statement| !statement.trim().is_empty());
    statements.for_each(|statement| keyspace.execute(statement));
}

/// What the files say of others than `ada`.
async fn holds(store: &CassandraStore, schema: usize) {
    let (bob, eve) = (user("bob"), user("eve"));
    if schema >= 2 {
        let wishes = store.preferences(std::slice::from_ref(&bob)).await.unwrap();
        assert!(!wishes[0].types["news"][&Channel::Push]);
        let suppressed = store.suppressed(&["gone@example.com".into()]).await;
        assert_eq!(suppressed.unwrap()[0].as_ref().unwrap().reason, "550");
        let scheduled = store.scheduled_for(&bob).await.unwrap();
        assert_eq!((scheduled.len(), scheduled[0].id), (1, id(3)));
        let (partition, offset, appended_ms) = (3, 7, scheduled[0].due_ms);
        let at = DeadLetterAt {
            partition,
            offset,
            appended_ms,
        };
        let handled = store.handled_dead_letter(at).await;
        assert_eq!(handled, Ok(Some(Handled::Replayed)));
    }
    if schema >= 3 {
        let dismissed = store.dismissed_among(&bob, &[id(4)]).await;
        assert_eq!(dismissed, Ok(vec![id(4)]));
        let quarantined = store.quarantined(DeviceKind::WebPush, None, 50).await;
        let devices = quarantined.unwrap().devices;
        assert_eq!((devices.len(), &devices[0].user), (1, &bob));
    }
    if schema >= 4 {
        let segments = store.segments_of(&bob).await.unwrap();
        assert_eq!(segments, [SegmentId(id(5).0)]);
        let users = store.segment_users(segments[0], None, 50).await;
        assert_eq!(users, Ok(vec![bob]));
        let now_ms = now_ms();
        let taken = store.take_send(now_ms, now_ms + 60_000).await.unwrap();
        assert_eq!(taken.map(|send| send.id), Some(id(6)));
    }
    if schema >= 5 {
        let erasure = Erasure {
            user: eve.clone(),
            id: id(7),
            below: at(7),
        };
        let open = store.open_erasures(now_ms() + 1, 50).await;
        assert_eq!(open, Ok(vec![erasure.clone()]));
        let (told, _) = store.erasures_since(0).await.unwrap();
        assert_eq!(told, std::slice::from_ref(&erasure));
        assert_eq!(store.erasure(&eve).await, Ok(Some((erasure, None))));
    }
}

/// As the files have them.
fn id(number: u128) -> NotificationId {
    NotificationId(Uuid::from_u128(0x0190_0000_0000_7000_8000 << 48 | number))
}

async fn works(keyspace: &Keyspace) {
    let (store, ada) = (keyspace.cassandra(), user("ada"));
    let found = store.rows_after(&ada, Some(at(0)), 50).await.unwrap();
    assert_eq!(
        (found.rows.len(), found.head, found.complete),
        (2, at(2), true)
    );
    assert!(found.rows[0].read, "the read mark of before counts");
    let appended = store.append(vec![row(&ada, at(3))]).await;
    assert_eq!(appended.unwrap(), [Appended::Stored { prev: at(2) }]);

    let addresses = async || {
        let devices = store.devices(&ada).await.unwrap();
        devices
            .into_iter()
            .map(|device| device.address)
            .collect::<Vec<String>>()
    };
    assert_eq!(addresses().await, ["ada@example.com"]);
    let entered = store.put_device(email(&ada, "work", "ada@example.org"));
    assert_eq!(entered.await, Ok(Entered::Replaced));
    assert_eq!(addresses().await, ["ada@example.org"]);
    let phone = browser(&ada, "phone", "https://push.example.com/1");
    assert_eq!(store.put_device(phone.clone()).await, Ok(Entered::Created));
    assert_eq!(store.quarantine(&phone, now_ms()).await, Ok(true));
}

/// Table, column, type, kind, position, order.
type Column = (String, String, String, String, i32, String);
/// Table, compaction, seconds of a row, seconds of a tombstone, read repair.
type Options = (String, BTreeMap<String, String>, i32, i32, String);

/// Every column and what is set of every table.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    columns: BTreeSet<Column>,
    options: BTreeSet<Options>,
}

impl Layout {
    fn of(keyspace: &Keyspace) -> Layout {
        let ask = |what: &str, table: &str| {
            let of = "WHERE keyspace_name = '@k'";
            let asked = keyspace.ask(&format!("SELECT {what} FROM system_schema.{table} {of}"));
            asked.into_rows_result().expect("rows")
        };
        let columns = ask(
            "table_name, column_name, type, kind, position, clustering_order",
            "columns",
        );
        let options = ask(
            "table_name, compaction, default_time_to_live, gc_grace_seconds, read_repair",
            "tables",
        );
        let (columns, options) = (columns.rows().unwrap(), options.rows().unwrap());
        Layout {
            columns: columns.map(Result::unwrap).collect(),
            options: options.map(Result::unwrap).collect(),
        }
    }
}
