//! The keyspace: its tables, how they come to be, and whose they are.
//!
//! Invariants:
//! * only `herald dispatcher migrate` changes a schema, and it can be run again after it was broken off: the version
//!   is written last;
//! * a keyspace is of one namespace: another's users of the same names must not find each other's rows;
//! * a row holds its content, so that a sync reads one partition: nobody asks for a notification without its user;
//! * what ages ends by its own TTL, set by its table. Rows of one moment lie in one file (time windows), and whole
//!   files are dropped.

use super::{connect, link::decode};
use crate::{
    config::{DispatcherStore, Node},
    dispatcher::store::StoreError,
    ids::Namespace,
    limits,
};
use scylla::{
    client::{execution_profile::ExecutionProfile, session::Session},
    errors::{DbError, ExecutionError, RequestAttemptError},
    statement::{Consistency, unprepared::Statement},
};
use std::pin::pin;
use tokio::time::timeout;

/// Schema this release reads and writes.
const SCHEMA: i32 = VERSIONS.len() as i32;

/// Of tables whose rows are written once and end by their time.
const AGES: &str = "compaction = {'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'DAYS', \
                    'compaction_window_size': 3} AND gc_grace_seconds = 86400 AND default_time_to_live = ";
/// Of tables that are written in one mutation: a reader's repair would copy single rows of it.
const WHOLE: &str = "read_repair = 'NONE' AND ";

/// What each version adds to the one before it, never changed once it was released: a keyspace that has it would stay
/// without the change. `@k` is the keyspace, `@ages` and `@whole` the options above.
const VERSIONS: &[&[&str]] = &[SINCE_0, SINCE_1, SINCE_2, SINCE_3, SINCE_4, SINCE_5];

const SINCE_0: &[&str] = &[
    // One row per stream that ever had rows: its newest bucket, the head before it, the region that began it.
    "CREATE TABLE IF NOT EXISTS @k.users (user text PRIMARY KEY, bucket int, head_before bigint, region text)",
    // `v` is the envelope version of the record that a row was made of.
    "CREATE TABLE IF NOT EXISTS @k.notifications_by_user (
        user text, bucket int, pos bigint, prev bigint, kind int, id uuid, priority text, created_ms bigint,
        expires_ms bigint, collapse_key text, content blob, v int,
        PRIMARY KEY ((user, bucket), pos)
     ) WITH CLUSTERING ORDER BY (pos DESC) AND @whole @ages",
    "CREATE TABLE IF NOT EXISTS @k.positions_by_id (
        user text, bucket int, id uuid, kind int, pos bigint, prev bigint,
        PRIMARY KEY ((user, bucket), id, kind)
     ) WITH @whole @ages",
    // The newest row of each key; it is written over, so files of it are no time windows.
    "CREATE TABLE IF NOT EXISTS @k.newest_by_collapse_key (
        user text, bucket int, collapse_key text, pos bigint,
        PRIMARY KEY ((user, bucket), collapse_key)
     ) WITH read_repair = 'NONE' AND gc_grace_seconds = 86400 AND default_time_to_live = @ttl",
    // Of a stream's newest bucket, once its rows have ended by their time. It outlives them.
    "CREATE TABLE IF NOT EXISTS @k.heads (
        user text, bucket int, pos bigint, stored_ms bigint, PRIMARY KEY ((user, bucket))
     ) WITH read_repair = 'NONE'",
    // Insert-only. `month` is the bucket of the time in the id.
    "CREATE TABLE IF NOT EXISTS @k.read_receipts (
        user text, month int, id uuid, PRIMARY KEY ((user, month), id)
     ) WITH @ages",
    // A set of facts, insert-only: a state is what they say together. `since_ms` tells apart when it was first
    // pending; of what clients say it is 0, so that who repeats himself writes over what he said.
    "CREATE TABLE IF NOT EXISTS @k.delivery_log (
        notification_id uuid, user text, channel text, gateway text, rank int, state text, attempts int, devices int,
        since_ms bigint, at_ms bigint, began_ms bigint, error text, reference text,
        PRIMARY KEY ((notification_id, user), channel, gateway, rank, state, attempts, devices, since_ms)
     ) WITH @ages",
    "CREATE TABLE IF NOT EXISTS @k.deliveries_by_user (
        user text, month int, id uuid, PRIMARY KEY ((user, month), id)
     ) WITH CLUSTERING ORDER BY (id DESC) AND @ages",
    "CREATE TABLE IF NOT EXISTS @k.deliveries_by_notification (
        notification_id uuid, slice int, user text, PRIMARY KEY ((notification_id, slice), user)
     ) WITH @ages",
    "CREATE TABLE IF NOT EXISTS @k.claims (
        producer text, key text, body_hash blob, id uuid, done boolean, claimed_ms bigint,
        PRIMARY KEY ((producer, key))
     ) WITH gc_grace_seconds = 86400",
    // `revision` rises with whatever is entered: it makes the bound on devices hold.
    "CREATE TABLE IF NOT EXISTS @k.devices (
        user text, revision int static, id text, kind text, address text, secret text, updated_ms bigint,
        PRIMARY KEY (user, id)
     )",
    // Of addresses that are of one user at a time.
    "CREATE TABLE IF NOT EXISTS @k.devices_by_address (
        kind text, address text, user text, id text, PRIMARY KEY ((kind, address))
     )",
    // All in one partition: there are few, and they are listed.
    "CREATE TABLE IF NOT EXISTS @k.api_keys (
        one int, hash blob, producer text, admin boolean, created_ms bigint, PRIMARY KEY (one, hash)
     )",
];

const SINCE_1: &[&str] = &[
    // E-mail addresses that are not sent to, in lower case.
    "CREATE TABLE IF NOT EXISTS @k.suppressions (
        address text PRIMARY KEY, cause text, reason text, at_ms bigint
     )",
];

const SINCE_2: &[&str] = &[
    // Broadcasts that users do not want to see any more. Insert-only; `month` as of read receipts.
    "CREATE TABLE IF NOT EXISTS @k.dismissals (
        user text, month int, id uuid, PRIMARY KEY ((user, month), id)
     ) WITH @ages",
];

const SINCE_3: &[&str] = &[
    // Users who are sent to together, and what is on its way to them. All of it ends by its time.
    "CREATE TABLE IF NOT EXISTS @k.segments (id uuid PRIMARY KEY, producer text, created_ms bigint)
     WITH gc_grace_seconds = 86400 AND default_time_to_live = @ttl",
    "CREATE TABLE IF NOT EXISTS @k.segment_users (
        segment uuid, slice int, user text, PRIMARY KEY ((segment, slice), user)
     ) WITH gc_grace_seconds = 86400 AND default_time_to_live = @ttl",
    "CREATE TABLE IF NOT EXISTS @k.segments_by_user (
        user text, segment uuid, added_ms bigint, PRIMARY KEY (user, segment)
     ) WITH gc_grace_seconds = 86400 AND default_time_to_live = @ttl",
    "CREATE TABLE IF NOT EXISTS @k.segment_sends (
        id uuid PRIMARY KEY, segment uuid, value blob, headers text, users bigint, sent bigint, after text, state text,
        taken_until_ms bigint
     ) WITH gc_grace_seconds = 86400 AND default_time_to_live = @ttl",
    // Few, in one partition.
    "CREATE TABLE IF NOT EXISTS @k.running_sends (
        one int, id uuid, PRIMARY KEY (one, id)
     ) WITH gc_grace_seconds = 86400",
];

const SINCE_4: &[&str] = &[
    // Users who were to be forgotten: the latest order of each, and what was done.
    "CREATE TABLE IF NOT EXISTS @k.erasures (user text PRIMARY KEY, id uuid, below bigint, proof text)
     WITH gc_grace_seconds = 86400 AND default_time_to_live = @ttl",
    // The same by the time at which they began, so that every dispatcher learns of them.
    "CREATE TABLE IF NOT EXISTS @k.erasures_by_day (
        day bigint, begun_ms bigint, user text, id uuid, below bigint, PRIMARY KEY (day, begun_ms, user)
     ) WITH @ages",
    // What is left to be done: few, in one partition.
    "CREATE TABLE IF NOT EXISTS @k.open_erasures (
        one int, begun_ms bigint, user text, id uuid, below bigint, PRIMARY KEY (one, begun_ms, user)
     ) WITH gc_grace_seconds = 86400",
];

const SINCE_5: &[&str] = &[
    // Which of the keyspaces of an earlier schema have these depends on the day they were made.
    // What users want, as JSON.
    "CREATE TABLE IF NOT EXISTS @k.preferences (user text PRIMARY KEY, document text)",
    // What an operator did with records of dlq; `record` is the offset.
    "CREATE TABLE IF NOT EXISTS @k.dead_letters (
        partition int, record bigint, appended_ms bigint, handled text,
        PRIMARY KEY ((partition, record, appended_ms))
     ) WITH @ages",
    // Records that enter the bus when they are due; one that was taken may be on its way.
    "CREATE TABLE IF NOT EXISTS @k.scheduled (
        hour bigint, due_ms bigint, id uuid, taken_until_ms bigint, topic text, key blob, value blob, headers text,
        PRIMARY KEY (hour, due_ms, id)
     ) WITH gc_grace_seconds = 86400",
    "CREATE TABLE IF NOT EXISTS @k.scheduled_by_id (
        id uuid PRIMARY KEY, due_ms bigint
     ) WITH gc_grace_seconds = 86400",
    // Since when a device is in quarantine.
    "ALTER TABLE @k.devices ADD IF NOT EXISTS quarantined_ms bigint",
    // Which devices are in quarantine, and some that were.
    "CREATE TABLE IF NOT EXISTS @k.quarantine (
        kind text, slice int, user text, id text, PRIMARY KEY ((kind, slice), user, id)
     ) WITH gc_grace_seconds = 86400",
];

/// Makes what is missing; answers what there is now, in words.
pub async fn migrate(config: &DispatcherStore, node: &Node) -> Result<String, StoreError> {
    let session = connect::session(config).await?;
    let keyspace = &config.keyspace;
    let found = version(&session, keyspace).await?;
    if let Some((version, owner)) = &found {
        belongs(keyspace, owner, &node.namespace)?;
        if *version > SCHEMA {
            return Err(later(keyspace, *version));
        }
        if *version == SCHEMA {
            return Ok(format!("keyspace {keyspace} is at schema {SCHEMA} already"));
        }
    }
    make_keyspace(&session, config).await?;
    let from = found.as_ref().map_or(0, |(version, _)| *version);
    for statement in VERSIONS[from as usize..].iter().copied().flatten() {
        change(&session, &in_full(statement, keyspace)).await?;
    }
    let namespace = &node.namespace;
    let text = format!(
        "INSERT INTO {keyspace}.schema_version (one, version, namespace) VALUES (1, {SCHEMA}, '{namespace}')"
    );
    change(&session, &text).await?;
    Ok(match from {
        0 => format!("keyspace {keyspace} was made, at schema {SCHEMA}"),
        from => format!("keyspace {keyspace} was brought from schema {from} to {SCHEMA}"),
    })
}

fn in_full(statement: &str, keyspace: &str) -> String {
    let ttl = limits::RETENTION_S.to_string();
    statement
        .replace("@whole", WHOLE)
        .replace("@ages", &format!("{AGES}{ttl}"))
        .replace("@ttl", &ttl)
        .replace("@k", keyspace)
}

/// An existing keyspace keeps its replication: that is the operator's to change.
async fn make_keyspace(session: &Session, config: &DispatcherStore) -> Result<(), StoreError> {
    let keyspace = &config.keyspace;
    let center = config.datacenter.as_deref().unwrap_or_default();
    let text = format!(
        "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = \
         {{'class': 'NetworkTopologyStrategy', '{}': {}}}",
        center.replace('\'', "''"),
        config.replication
    );
    change(session, &text).await?;
    let text = format!(
        "CREATE TABLE IF NOT EXISTS {keyspace}.schema_version (one int PRIMARY KEY, version int, namespace text)"
    );
    change(session, &text).await
}

async fn change(session: &Session, text: &str) -> Result<(), StoreError> {
    let mut statement = Statement::new(text);
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::LocalQuorum)
        .request_timeout(Some(limits::CASSANDRA_SCHEMA_CHANGE))
        .build();
    statement.set_execution_profile_handle(Some(profile.into_handle()));
    let what = text.split('(').next().unwrap_or(text).trim();
    let mut changing = pin!(session.query_unpaged(statement, &[]));
    let changed = loop {
        match timeout(limits::CASSANDRA_AGREEMENT_TOLD, &mut changing).await {
            Ok(changed) => break changed,
            Err(_) => tracing::info!("{what}: waiting until every node has it"),
        }
    };
    changed.map(drop).map_err(|error| unfinished(what, &error))
}

fn unfinished(what: &str, error: &ExecutionError) -> StoreError {
    let problem = match error {
        ExecutionError::SchemaAgreementError(_) => format!(
            "it was changed, and not every node has it ({error}): see `nodetool describecluster`"
        ),
        error => error.to_string(),
    };
    StoreError::Unavailable(format!(
        "{what}: {problem}. Run `herald dispatcher migrate` again: it goes on from there"
    ))
}

/// At the start of a dispatcher.
pub async fn is_ours(
    session: &Session,
    keyspace: &str,
    namespace: &Namespace,
) -> Result<(), StoreError> {
    let unmade = |what: String| {
        wrong(format!(
            "{what}: run `herald dispatcher migrate` with this configuration"
        ))
    };
    match version(session, keyspace).await? {
        None => Err(unmade(format!("{keyspace} has no tables of Herald"))),
        Some((version, _)) if version < SCHEMA => Err(unmade(format!(
            "{keyspace} has schema {version}, this release needs {SCHEMA}"
        ))),
        Some((version, _)) if version > SCHEMA => Err(later(keyspace, version)),
        Some((_, owner)) => belongs(keyspace, &owner, namespace),
    }
}

fn wrong(problem: String) -> StoreError {
    StoreError::Schema {
        key: "store.keyspace",
        problem,
    }
}

fn later(keyspace: &str, version: i32) -> StoreError {
    wrong(format!(
        "{keyspace} has schema {version}, this release knows {SCHEMA}: start the release that \
         wrote it, or a later one"
    ))
}

fn belongs(keyspace: &str, owner: &str, namespace: &Namespace) -> Result<(), StoreError> {
    match owner == namespace.as_str() {
        true => Ok(()),
        false => Err(wrong(format!(
            "{keyspace} belongs to namespace {owner:?}: give each namespace a keyspace of its own"
        ))),
    }
}

/// Schema and namespace of a keyspace that was made whole once.
async fn version(session: &Session, keyspace: &str) -> Result<Option<(i32, String)>, StoreError> {
    let text = format!("SELECT version, namespace FROM {keyspace}.schema_version WHERE one = 1");
    let mut statement = Statement::new(text);
    statement.set_consistency(Consistency::LocalQuorum);
    match session.query_unpaged(statement, &[]).await {
        Ok(result) => Ok(decode::<(i32, String)>(result)?.into_iter().next()),
        // There is no such keyspace or table.
        Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(
            DbError::Invalid,
            _,
        ))) => Ok(None),
        Err(error) => Err(StoreError::Unavailable(format!("Cassandra: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scylla::errors::SchemaAgreementError;

    #[test]
    fn a_change_that_not_every_node_has_says_what_to_do() {
        let slow = SchemaAgreementError::Timeout(limits::CASSANDRA_AGREEMENT);
        let told = unfinished("CREATE TABLE herald.users", &slow.into()).to_string();
        for part in [
            "CREATE TABLE herald.users: it was changed",
            "exceeded 600000ms",
            "nodetool describecluster",
            "Run `herald dispatcher migrate` again",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }

    #[test]
    fn statements_are_told_in_full() {
        for statement in VERSIONS.iter().copied().flatten() {
            let text = in_full(statement, "herald");
            assert!(!text.contains('@'), "{text}");
        }
    }
}
