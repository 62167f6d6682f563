//! The SQLite store: every behaviour, and what concerns its file.

use crate::{
    behaviour::{self, Home},
    build::*,
};
use herald::{
    config::Node,
    dispatcher::{
        store::{
            Appended, Entered, Erasure, Forget, Idempotency, Segment, Segments, SendState,
            SharedStore, Store, StoreError,
            sqlite::{FILE, SqliteStore},
        },
        suppression::{SuppressedFor, Suppression, mark_of},
    },
    envelope::Fate,
    ids::{NotificationId, SegmentId, UserId},
    limits,
    position::Position,
};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};
use tempfile::TempDir;

behaviour::every_behaviour_holds_in!(Directory::new());

struct Directory(TempDir);

impl Directory {
    fn new() -> Directory {
        Directory(tempfile::tempdir().expect("a directory"))
    }

    fn sqlite(&self) -> SqliteStore {
        SqliteStore::open(self.0.path(), &Node::default()).expect("opens")
    }
}

impl Home for Directory {
    fn open(&self) -> SharedStore {
        Arc::new(self.sqlite())
    }
}

// ── several processes on one host ──────────────────────────────────────────────────────────────

/// Dispatchers of one host share a file, and users move between their routers.
#[tokio::test]
async fn who_shares_a_file_goes_on_from_what_the_other_committed() {
    const ROWS: u64 = 200;
    let home = Directory::new();
    let (stores, ada) = ([home.sqlite(), home.sqlite()], user("ada"));
    let others = stores.each_ref().map(|store| busy(store, ROWS));
    let chain = async {
        let mut head = Position::START;
        for (offset, store) in (1..=ROWS).zip(stores.iter().cycle()) {
            let stored = store.append(vec![row(&ada, at(offset))]).await.unwrap();
            assert_eq!(stored, [Appended::Stored { prev: head }]);
            head = at(offset);
            for store in &stores {
                let read = store.rows_after(&ada, None, 1).await.unwrap();
                assert_eq!(read.head, head);
            }
        }
    };
    futures::join!(chain, futures::future::join_all(others));
}

/// Writes to users of its own without pause.
async fn busy(store: &SqliteStore, rows: u64) {
    let own = user(&NotificationId::generate().to_string());
    for offset in 1..=rows {
        store.append(vec![row(&own, at(offset))]).await.unwrap();
    }
}

// ── retention ──────────────────────────────────────────────────────────────────────────────────

/// A moment at which everything stored now is past its time.
fn past_retention_ms() -> u64 {
    now_ms() + limits::RETENTION_S * 1000 + 60_000
}

#[tokio::test]
async fn retention_removes_the_old_and_says_what_a_cursor_lost() {
    let home = Directory::new();
    let (store, ada) = (home.sqlite(), user("ada"));
    let (first, second) = (row(&ada, at(1)), row(&ada, at(2)));
    store.append(vec![first.clone(), second]).await.unwrap();
    announce(&store, broadcast(at(1))).await;
    let outcome = outcome(first.id, Some(&ada), Fate::Written);
    store.record(&[outcome]).await.unwrap();
    assert_eq!(store.sweep(now_ms()).await, Ok(0));
    assert_eq!(store.sweep(past_retention_ms()).await, Ok(4));
    assert_eq!(store.sweep(past_retention_ms()).await, Ok(0));
    store.append(vec![row(&ada, at(3))]).await.unwrap();

    let behind = store.rows_after(&ada, Some(at(1)), 50).await.unwrap();
    assert!(!behind.complete, "row 2 was lost");
    assert_eq!((behind.rows.len(), behind.head), (1, at(3)));
    assert_eq!(behind.rows[0].prev, at(2), "the chain goes on");
    let level = store.rows_after(&ada, Some(at(2)), 50).await.unwrap();
    assert!(level.complete);
    let broadcasts = store.broadcasts_after(Some(at(0)), 50).await.unwrap();
    assert!(!broadcasts.complete);
    assert_eq!(store.delivery(first.id, None, 10).await.unwrap(), []);

    let again = store.append(vec![first]).await.unwrap();
    assert!(
        matches!(again[..], [Appended::Existing { written: true, .. }]),
        "a record that is read again after its row was removed comes to nobody: {again:?}"
    );
}

#[tokio::test]
async fn what_the_log_has_forgotten_is_not_pending_again() {
    let home = Directory::new();
    let (store, ada) = (home.sqlite(), user("ada"));
    let mut promised = row(&ada, at(1));
    let made_ms = now_ms() - limits::RETENTION_S * 1000 - 60_000;
    let mut id = promised.id.0.into_bytes();
    id[..6].copy_from_slice(&made_ms.to_be_bytes()[2..]);
    promised.id = NotificationId(uuid::Uuid::from_bytes(id));
    let id = promised.id;
    store.append(vec![promised]).await.unwrap();
    assert_eq!(store.delivery(id, Some(&ada), 10).await, Ok(vec![]));
    assert_eq!(store.delivery(id, None, 10).await, Ok(vec![]));
}

#[tokio::test]
async fn the_mark_of_an_address_goes_with_the_erasure_that_left_it() {
    let home = Directory::new();
    let (store, ada) = (home.sqlite(), user("ada"));
    store
        .put_device(email(&ada, "work", "ada@example.com"))
        .await
        .unwrap();
    let bounced = Suppression::new("eve@example.com", SuppressedFor::HardBounce, "", 5);
    store.suppress(vec![bounced.clone()]).await.unwrap();
    let erasure = Erasure {
        user: ada.clone(),
        id: NotificationId::generate(),
        below: at(1),
    };
    store.begin_erasure(&erasure, now_ms()).await.unwrap();
    store.erase(&erasure).await.unwrap();
    let asked = [mark_of("ada@example.com"), "eve@example.com".to_owned()];
    assert_eq!(store.sweep(now_ms()).await, Ok(0));
    let before = store.suppressed(&asked).await.unwrap();
    assert!(before.iter().all(Option::is_some), "{before:?}");
    assert_eq!(store.sweep(past_retention_ms()).await, Ok(2));
    let after = store.suppressed(&asked).await.unwrap();
    assert_eq!(after, [None, Some(bounced)]);
}

#[tokio::test]
async fn a_segment_ends_with_its_users_by_small_steps_and_those_made_since_stay() {
    let home = Directory::new();
    let store = home.sqlite();
    let made = async |created_ms, users: usize| {
        let segment = Segment {
            id: SegmentId::generate(),
            producer: "shop".into(),
            created_ms,
        };
        store.make_segment(&segment).await.unwrap();
        let users: Vec<UserId> = (0..users).map(|n| user(&format!("u{n}"))).collect();
        store
            .add_to_segment(segment.id, &users, created_ms)
            .await
            .unwrap();
        segment.id
    };
    let steps = limits::STORE_SWEEP_ROWS;
    let empty = made(now_ms(), 0).await;
    let large = made(now_ms(), steps + 10).await;
    let recent = made(past_retention_ms(), 3).await;
    assert_eq!(store.sweep(now_ms()).await, Ok(0));
    for (swept, left) in [(steps, 11), (12, 0), (0, 0)] {
        assert_eq!(store.sweep(past_retention_ms()).await, Ok(swept));
        assert_eq!(store.segment_size(large).await, Ok(left));
    }
    for id in [empty, large] {
        assert_eq!(store.segment(id).await, Ok(None));
        let nobody = store.add_to_segment(id, &[user("late")], now_ms()).await;
        assert_eq!((nobody, store.segment_size(id).await), (Ok(()), Ok(0)));
    }
    assert_eq!(store.segment_size(recent).await, Ok(3));
    // What is over is over before it is swept.
    let over = made(now_ms() - limits::RETENTION_S * 1000 - 1, 0).await;
    assert_eq!(store.segment(over).await, Ok(None));
}

#[tokio::test]
async fn retention_goes_by_small_steps() {
    let home = Directory::new();
    let (store, ada) = (home.sqlite(), user("ada"));
    let steps = limits::STORE_SWEEP_ROWS as u64;
    let rows = (1..=steps + 10).map(|offset| row(&ada, at(offset)));
    store.append(rows.collect()).await.unwrap();
    let removed = store.sweep(past_retention_ms()).await.unwrap();
    assert_eq!(removed as u64, steps);
    assert_eq!(store.sweep(past_retention_ms()).await, Ok(10));
}

#[tokio::test]
async fn claims_are_swept_after_a_day() {
    let home = Directory::new();
    let (store, id) = (home.sqlite(), NotificationId::generate());
    let claimed = store.claim("shop", "1", [0; 32], id, now_ms()).await;
    assert_eq!(claimed, Ok(Idempotency::Claimed));
    let tomorrow_ms = now_ms() + limits::IDEMPOTENCY_S * 1000 + 60_000;
    assert_eq!(store.sweep(tomorrow_ms).await, Ok(1));
}

// ── the file ───────────────────────────────────────────────────────────────────────────────────

fn open_error(dir: &Path) -> String {
    match SqliteStore::open(dir, &Node::default()) {
        Err(StoreError::Corrupt(cause)) => cause,
        other => panic!("opened a damaged file: {other:?}"),
    }
}

#[test]
fn a_file_that_is_no_database_is_named_with_its_fix() {
    let home = Directory::new();
    std::fs::write(home.0.path().join(FILE), vec![7; 8192]).unwrap();
    let cause = open_error(home.0.path());
    assert!(cause.contains(FILE) && cause.contains("backup"), "{cause}");
}

#[test]
fn a_file_of_a_later_release_is_left_alone() {
    let home = Directory::new();
    let path = home.0.path().join(FILE);
    let file = rusqlite::Connection::open(&path).unwrap();
    file.pragma_update(None, "user_version", 99).unwrap();
    drop(file);
    let cause = open_error(home.0.path());
    assert!(cause.contains("schema 99"), "{cause}");
}

/// The id of their first row.
const FIRST: [u8; 16] = 0x01900000_0000_7000_8000_000000000001_u128.to_be_bytes();

/// As earlier releases left it, in `schema-1.sql` and `schema-2.sql`.
#[tokio::test]
async fn a_file_of_an_earlier_release_is_brought_up_and_keeps_its_rows() {
    for left in [include_str!("schema-1.sql"), include_str!("schema-2.sql")] {
        is_brought_up(left).await;
    }
}

async fn is_brought_up(left: &str) {
    let home = Directory::new();
    let file = rusqlite::Connection::open(home.0.path().join(FILE)).unwrap();
    file.execute_batch(left).unwrap();
    // An id of today: the log is kept by the time in its ids.
    let logged = NotificationId::generate();
    for table in ["inbox", "receipts", "deliveries"] {
        let update = format!("UPDATE {table} SET id = ?1 WHERE id = ?2");
        let changed = file.execute(&update, [&logged.0.as_bytes()[..], &FIRST[..]]);
        assert_eq!(changed, Ok(1), "{table}");
    }
    drop(file);
    for _ in 0..2 {
        let store = home.sqlite();
        let ada = store.rows_after(&user("ada"), Some(at(0)), 50).await;
        let ada = ada.unwrap();
        assert_eq!((ada.rows.len(), ada.head), (2, at(2)));
        assert!(ada.rows[0].read, "the read mark of before counts");
        let broadcasts = store.broadcasts_after(Some(at(0)), 50).await.unwrap();
        assert_eq!((broadcasts.rows.len(), broadcasts.head), (1, at(1)));
    }
    let store = home.sqlite();
    let third = row(&user("ada"), at(3));
    let stored = third.id;
    let appended = store.append(vec![third]).await;
    assert_eq!(appended.unwrap(), [Appended::Stored { prev: at(2) }]);
    let entered = store.put_device(email(&user("ada"), "work", "ada@example.com"));
    assert_eq!(entered.await, Ok(Entered::Created));
    let attempt = attempted(NotificationId::generate(), &user("ada"), SendState::Sent, 1);
    let sent = attempt.id;
    assert_eq!(store.record_attempts(&[attempt]).await, Ok(()));
    let of_ada = store.deliveries_of(&user("ada"), None, 10).await.unwrap();
    let of_ada: Vec<_> = of_ada
        .iter()
        .map(|(id, state)| (*id, &state.state[..]))
        .collect();
    assert_eq!(
        of_ada,
        [(sent, "sent"), (stored, "pending"), (logged, "read")]
    );
}

#[test]
fn a_file_of_another_namespace_is_refused_with_its_name() {
    let home = Directory::new();
    drop(home.sqlite());
    let other = Node {
        namespace: "staging".parse().unwrap(),
        ..Node::default()
    };
    let error = SqliteStore::open(home.0.path(), &other).unwrap_err();
    assert!(
        matches!(&error, StoreError::Foreign { owner, .. } if owner == "notifications"),
        "{error}"
    );
}

#[tokio::test]
async fn damage_inside_the_file_is_reported_and_the_store_is_not_healthy() {
    let home = Directory::new();
    let ada = user("ada");
    let store = home.sqlite();
    let rows = (1..=2_000).map(|offset| row(&ada, at(offset)));
    store.append(rows.collect()).await.unwrap();
    drop(store);

    let path = home.0.path().join(FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    // Everything behind the first pages, where schema and owner stand.
    bytes[128 * 1024..].fill(0xA5);
    std::fs::write(&path, bytes).unwrap();
    let store = home.sqlite();
    assert!(store.healthy());
    let read = store.rows_after(&ada, Some(at(0)), 2_000).await;
    assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
    assert!(!store.healthy());
}

#[cfg(unix)]
#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let home = Directory::new();
    let file = home.0.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = SqliteStore::open(&file.join("store"), &Node::default()).unwrap_err();
    assert!(
        matches!(&error, StoreError::Unavailable(cause) if cause.contains("file/store")),
        "{error}"
    );
}

// ── kill -9 ────────────────────────────────────────────────────────────────────────────────────

/// Directory the child below writes in; unset when the tests run as usual.
const CHILD_DIRECTORY: &str = "HERALD_TEST_STORE_CHILD";

/// Not a test of its own: the child of the next one. Appends for ever from several tasks and prints
/// `user offset` for every row that was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "started as a child by the test below"]
async fn child_that_appends_until_it_is_killed() {
    let Ok(directory) = std::env::var(CHILD_DIRECTORY) else {
        return;
    };
    let store =
        Arc::new(SqliteStore::open(Path::new(&directory), &Node::default()).expect("opens"));
    let mut tasks = tokio::task::JoinSet::new();
    for partition in 0..6 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            for batch in 0.. {
                let users = [0, 1].map(|n| user(&format!("{partition}-{n}")));
                let rows: Vec<_> = (0..10)
                    .map(|n| row(&users[n as usize % 2], at(batch * 10 + n)))
                    .collect();
                store.append(rows.clone()).await.expect("stored");
                let mut out = std::io::stdout().lock();
                for row in rows {
                    writeln!(out, "answered {} {}", row.user, row.pos.offset()).expect("a reader");
                }
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test]
async fn what_was_answered_before_kill_9_is_there_in_an_unbroken_chain() {
    let home = Directory::new();
    let mut answered: BTreeMap<String, u64> = BTreeMap::new();
    for round in 1..=3 {
        read_answers_until_killed(&home, round * 1_000, &mut answered);
        let store = home.open();
        for (name, &last) in &answered {
            let user = user(name);
            let mut head = Position::START;
            loop {
                let page = store.rows_after(&user, Some(head), 50).await.unwrap();
                for row in &page.rows {
                    assert_eq!(row.prev, head, "a gap in the chain of {name}");
                    head = row.pos;
                }
                if !page.has_more {
                    break;
                }
            }
            assert!(head >= at(last), "{name}: {last} was answered, head {head}");
        }
        // A child starts its offsets anew, as no broker would.
        drop(store);
        std::fs::remove_dir_all(home.0.path()).unwrap();
        std::fs::create_dir(home.0.path()).unwrap();
        answered.clear();
    }
}

/// Runs the child until it has answered so many rows, kills it, and takes in all it said.
fn read_answers_until_killed(home: &Directory, rows: usize, answered: &mut BTreeMap<String, u64>) {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "sqlite::child_that_appends_until_it_is_killed"])
        .args(["--ignored", "--nocapture"])
        .env(CHILD_DIRECTORY, home.0.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut count = 0;
    for line in lines.map_while(Result::ok) {
        // A line cut short by the kill is no answer.
        let mut words = line
            .split(' ')
            .skip_while(|word| !word.ends_with("answered"));
        let (Some(_), Some(user), Some(Ok(offset))) =
            (words.next(), words.next(), words.next().map(str::parse))
        else {
            continue;
        };
        let last = answered.entry(user.to_owned()).or_default();
        *last = (*last).max(offset);
        count += 1;
        if count == rows {
            child.kill().expect("kill -9");
        }
    }
    child.wait().expect("it ended");
    assert!(count >= rows, "the child ended by itself after {count}");
}
