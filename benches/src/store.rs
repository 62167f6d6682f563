//! What the stores take and how fast they answer: rows written by as many writers as there are partitions of `raw`, and
//! inbox pages and syncs read of what was written, on SQLite and on one node of Cassandra.
//!
//! One node has one copy of each row and shares this machine: the figures are those of the way to a store, not of a
//! cluster.

use crate::{Options, process::cpu_of};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use herald::{
    config::{DispatcherStore, Node, StoreKind},
    dispatcher::store::{
        NewRow, RowKind, SharedStore,
        cassandra::{CassandraStore, migrate},
        sqlite::SqliteStore,
    },
    envelope::Priority,
    ids::{NotificationId, UserId},
    metrics::Metrics,
    position::Position,
};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use testbed::cassandra::{CassandraNode, DATACENTER, fresh_keyspace};

/// Routers' batches at work at once, and rows of each.
const WRITERS: u64 = 8;
const BATCH: u64 = 128;
const USERS: u64 = 5_000;
const WRITES_LAST: Duration = Duration::from_secs(10);
const READS: usize = 2_000;
const READERS: usize = 8;
/// As an in-app notification is.
const CONTENT_BYTES: usize = 500;

pub async fn run(options: &Options) -> Result<()> {
    println!("\n### The stores: {WRITERS} writers of batches of {BATCH}, then {READERS} readers\n");
    println!(
        "Rows a second: what {WRITERS} routers write for {} s, acknowledged. An inbox page is the newest 50 of a user, \
         a sync the first 50 after a cursor; {READS} of each, {READERS} at a time. Cassandra is one node on this machine.\n",
        WRITES_LAST.as_secs()
    );
    println!(
        "| | rows a second | µs CPU of a row: here, Cassandra | inbox page, ms: 50 %, 95 %, 99 % | \
         sync, ms: 50 %, 95 %, 99 % |"
    );
    println!("|---|---|---|---|---|");
    let runs = options.runs;
    tokio::task::spawn_blocking(move || on_threads_of_a_dispatcher(runs)).await?
}

fn on_threads_of_a_dispatcher(runs: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    for run in 1..=runs {
        let folder = tempfile::tempdir()?;
        let _inside = runtime.enter();
        let sqlite = SqliteStore::open(folder.path(), &Node::default())?;
        let name = format!("SQLite, run {run}");
        runtime.block_on(measure(&name, Arc::new(sqlite), None))?;

        let node = CassandraNode::start();
        let config = DispatcherStore {
            kind: StoreKind::Cassandra,
            contact_points: vec![node.address()],
            keyspace: fresh_keyspace(),
            datacenter: Some(DATACENTER.into()),
            replication: 1,
            timeout_ms: 30_000,
            ..DispatcherStore::default()
        };
        runtime.block_on(on_cassandra(run, &node, &config))?;
    }
    Ok(())
}

async fn on_cassandra(run: usize, node: &CassandraNode, config: &DispatcherStore) -> Result<()> {
    migrate(config, &Node::default()).await?;
    let store = CassandraStore::open(config, &Node::default(), &Metrics::default()).await?;
    let name = format!("Cassandra, run {run}");
    measure(&name, Arc::new(store), Some(node.pid())).await
}

async fn measure(name: &str, store: SharedStore, node: Option<u32>) -> Result<()> {
    let used = || -> Result<[f64; 2]> {
        let of_node = node.map(cpu_of).transpose()?.unwrap_or_default();
        Ok([cpu_of(std::process::id())?.whole_us, of_node.whole_us])
    };
    let (began, before) = (Instant::now(), used()?);
    let writers = (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer)));
    let mut rows = 0;
    for written in futures::future::join_all(writers).await {
        rows += written??;
    }
    let rows = rows as f64;
    let (per_s, after) = (rows / began.elapsed().as_secs_f64(), used()?);
    let us = |n: usize| (after[n] - before[n]) / rows;
    let of_node = node.map_or(String::new(), |_| format!(", {:.0}", us(1)));
    let pages = read(&store, |store, user| async move {
        let page = store.page(&user, None, 50).await?;
        Ok(page.len())
    });
    let pages = pages.await?;
    let syncs = read(&store, |store, user| async move {
        let found = store.rows_after(&user, Some(Position::START), 50).await?;
        Ok(found.rows.len())
    });
    let syncs = syncs.await?;
    println!(
        "| {name} | {per_s:.0} | {:.0}{of_node} | {pages} | {syncs} |",
        us(0)
    );
    Ok(())
}

/// Batch after batch, each of users of this writer's own, as a partition of `raw` has them.
async fn write(store: SharedStore, writer: u64) -> Result<u64> {
    let content = Bytes::from(format!(
        r#"{{"type":"bench","channels":["in_app"],"body":"{}"}}"#,
        "b".repeat(CONTENT_BYTES)
    ));
    let (began, mut offset) = (Instant::now(), 0);
    while began.elapsed() < WRITES_LAST {
        let rows =
            (offset..offset + BATCH).map(|offset| row(user(writer, offset)?, offset, &content));
        store.append(rows.collect::<Result<_>>()?).await?;
        offset += BATCH;
    }
    Ok(offset)
}

fn user(writer: u64, number: u64) -> Result<UserId> {
    let name = format!("u{writer}-{}", number % (USERS / WRITERS));
    Ok(name.parse()?)
}

fn row(user: UserId, offset: u64, content: &Bytes) -> Result<NewRow> {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    Ok(NewRow {
        user,
        pos: Position::new(1, offset).context("an offset")?,
        kind: RowKind::Notification,
        id: NotificationId::generate(),
        priority: Priority::Normal,
        created_ms: now_ms,
        appended_ms: now_ms,
        expires_ms: None,
        collapse_key: None,
        content: content.clone(),
    })
}

/// Times of reads of users in turn, as text.
async fn read<F>(
    store: &SharedStore,
    one: impl Fn(SharedStore, UserId) -> F + Clone + Send + 'static,
) -> Result<String>
where
    F: Future<Output = Result<usize>> + Send,
{
    let readers = (0..READERS).map(|reader| {
        let (store, one) = (store.clone(), one.clone());
        tokio::spawn(async move {
            let mut took = Vec::with_capacity(READS / READERS);
            for number in 0..READS / READERS {
                let user = user(reader as u64 % WRITERS, (number * 37) as u64)?;
                let began = Instant::now();
                ensure!(one(store.clone(), user).await? > 0, "a user without rows");
                took.push(began.elapsed());
            }
            Ok(took)
        })
    });
    let mut took = Vec::new();
    for read in futures::future::join_all(readers).await {
        took.extend(read??);
    }
    took.sort();
    let ms = |share: usize| took[took.len() * share / 100].as_secs_f64() * 1_000.0;
    Ok(format!("{:.1}, {:.1}, {:.1}", ms(50), ms(95), ms(99)))
}
