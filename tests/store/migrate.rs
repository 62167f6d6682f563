//! Keyspaces of earlier releases, and how they are brought up to this one.

use crate::{
    build::{at, browser, email, now_ms, row, user},
    cassandra::Keyspace,
};
use herald::{
    config::Node,
    dispatcher::store::{Appended, Entered, Store},
    limits,
};
use std::collections::{BTreeMap, BTreeSet};

const FIRST: &str = include_str!("keyspace-1.cql");
const SECOND: &str = include_str!("keyspace-2.cql");

/// A step that is changed in its place instead of being followed by another would not come to them.
#[tokio::test]
async fn a_keyspace_of_an_earlier_release_becomes_what_a_new_one_is_and_keeps_its_rows() {
    let new = Layout::of(&Keyspace::new());
    for (schema, left) in [(1, vec![FIRST]), (2, vec![FIRST, SECOND])] {
        let keyspace = Keyspace::unmade();
        left.iter().for_each(|file| leave(&keyspace, file));
        let said = keyspace
            .migrated_by(&Node::default())
            .expect("it is brought up");
        assert!(said.contains(&format!("from schema {schema} to")), "{said}");
        assert_eq!(Layout::of(&keyspace), new, "from schema {schema}");
        works(&keyspace).await;
    }
}

fn leave(keyspace: &Keyspace, file: &str) {
    let now_ms = now_ms();
    let bucket_ms = limits::BUCKET_DAYS * 24 * 3600 * 1000;
    let bucket = now_ms / bucket_ms;
    let lines = file.lines().filter(|line| !line.starts_with("--"));
    let file: String = lines.flat_map(|line| [line, "\n"]).collect();
    let file = file
        .replace("@bucket", &bucket.to_string())
        .replace("@begin_us", &(bucket * bucket_ms * 1000).to_string())
        .replace("@now_ms", &now_ms.to_string());
    let statements = file
        .split(';')
        .filter(|statement| !statement.trim().is_empty());
    statements.for_each(|statement| keyspace.execute(statement));
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
