//! Every statement there is, prepared once, and what each kind of them is run with.

use crate::{config::DispatcherStore, limits};
use futures::{FutureExt, future::BoxFuture};
use scylla::{
    client::{
        execution_profile::{ExecutionProfile, ExecutionProfileHandle},
        session::Session,
    },
    errors::PrepareError,
    policies::{
        load_balancing::DefaultPolicy, retry::FallthroughRetryPolicy,
        speculative_execution::SimpleSpeculativeExecutionPolicy,
    },
    statement::{Consistency, SerialConsistency, prepared::PreparedStatement},
};
use std::{sync::Arc, time::Duration};

pub struct Prepared {
    pub quorum: PreparedStatement,
    /// The same of one replica; of a read.
    pub one: PreparedStatement,
}

pub struct Profiles {
    read: ExecutionProfileHandle,
    read_at_one: ExecutionProfileHandle,
    pub write: ExecutionProfileHandle,
    compare_and_set: ExecutionProfileHandle,
}

/// How a statement is run.
#[derive(Clone, Copy)]
enum Kind {
    Read,
    /// Written twice it says the same.
    Write,
    CompareAndSet,
}

impl Profiles {
    pub fn new(config: &DispatcherStore) -> Profiles {
        let center = config.datacenter.clone().unwrap_or_default();
        // Another data centre's replicas would be another region's storage.
        let nodes = DefaultPolicy::builder()
            .prefer_datacenter(center)
            .token_aware(true)
            .permit_dc_failover(false)
            .build();
        let base = ExecutionProfile::builder()
            .load_balancing_policy(nodes)
            .request_timeout(Some(Duration::from_millis(config.timeout_ms)))
            .consistency(Consistency::LocalQuorum)
            .serial_consistency(Some(SerialConsistency::LocalSerial));
        // This is against a slow or dead coordinator. Those that live may wait for the same dead replica, and against that only
        // the tables' `speculative_retry` helps. Its default, the 99th percentile of reads that the node saw of the table,
        // is enough once it saw some (20 in a trial); before the first it is half a read's timeout, as is `MIN(99p,50ms)`.
        // `50ms` is not, and made syncs after a death four times as slow where reads had been seen.
        let speculation = SimpleSpeculativeExecutionPolicy {
            max_retry_count: limits::CASSANDRA_SPECULATIONS,
            retry_interval: limits::CASSANDRA_SPECULATE_AFTER,
        };
        let read = base
            .clone()
            .speculative_execution_policy(Some(Arc::new(speculation)));
        let at_one = read.clone().consistency(Consistency::LocalOne);
        let once = base
            .clone()
            .retry_policy(Arc::new(FallthroughRetryPolicy::new()));
        Profiles {
            read: read.build().into_handle(),
            read_at_one: at_one.build().into_handle(),
            write: base.build().into_handle(),
            compare_and_set: once.build().into_handle(),
        }
    }

    /// On the heap, and so is its result: all statements together would be too much for a stack.
    fn prepare<'a>(
        &'a self,
        session: &'a Session,
        kind: Kind,
        text: String,
    ) -> BoxFuture<'a, Result<Box<Prepared>, PrepareError>> {
        let prepared = async move {
            let mut quorum = session.prepare(text).await?;
            let (profile, is_idempotent) = match kind {
                Kind::Read => (&self.read, true),
                Kind::Write => (&self.write, true),
                Kind::CompareAndSet => (&self.compare_and_set, false),
            };
            quorum.set_execution_profile_handle(Some(profile.clone()));
            quorum.set_is_idempotent(is_idempotent);
            let mut one = quorum.clone();
            one.set_execution_profile_handle(Some(self.read_at_one.clone()));
            Ok(Box::new(Prepared { quorum, one }))
        };
        prepared.boxed()
    }
}

/// A field for each, named; `{k}` is the keyspace.
macro_rules! statements {
    ($($name:ident: $kind:ident $text:literal,)*) => {
        pub struct Statements {
            $(pub $name: Box<Prepared>,)*
        }

        impl Statements {
            pub async fn prepare(
                session: &Session,
                keyspace: &str,
                profiles: &Profiles,
            ) -> Result<Statements, PrepareError> {
                $(let $name = profiles.prepare(session, Kind::$kind, format!($text, k = keyspace));)*
                let ($($name,)*) = futures::try_join!($($name),*)?;
                Ok(Statements { $($name,)* })
            }
        }
    };
}

statements! {
    schema_version: Read "SELECT version FROM {k}.schema_version WHERE one = 1",

    stream: Read "SELECT bucket, head_before FROM {k}.users WHERE user = ?",
    // Its time is the bucket's: a later bucket stands, whoever is late with an earlier one.
    put_stream: Write "INSERT INTO {k}.users (user, bucket, head_before, region) VALUES (?, ?, ?, ?)
        USING TIMESTAMP ?",

    rows_up: Read "SELECT pos, prev, kind, id, priority, created_ms, expires_ms, collapse_key, content
        FROM {k}.notifications_by_user WHERE user = ? AND bucket = ? AND pos > ? ORDER BY pos ASC LIMIT ?",
    rows_down: Read "SELECT pos, prev, kind, id, priority, created_ms, expires_ms, collapse_key, content
        FROM {k}.notifications_by_user WHERE user = ? AND bucket = ? AND pos < ? ORDER BY pos DESC LIMIT ?",
    row_at: Read "SELECT pos, prev, kind, id, priority, created_ms, expires_ms, collapse_key, content
        FROM {k}.notifications_by_user WHERE user = ? AND bucket = ? AND pos = ?",
    outlines_down: Read "SELECT pos, kind, id, expires_ms, collapse_key
        FROM {k}.notifications_by_user WHERE user = ? AND bucket = ? AND pos < ? ORDER BY pos DESC LIMIT ?",
    links_up: Read "SELECT pos, prev, kind, id
        FROM {k}.notifications_by_user WHERE user = ? AND bucket = ? AND pos >= ? ORDER BY pos ASC LIMIT ?",
    newest_below: Read "SELECT pos
        FROM {k}.notifications_by_user WHERE user = ? AND bucket = ? AND pos < ? ORDER BY pos DESC LIMIT 1",
    positions: Read "SELECT id, kind, pos, prev
        FROM {k}.positions_by_id WHERE user = ? AND bucket = ? AND id IN ?",
    newest_of_keys: Read "SELECT collapse_key, pos
        FROM {k}.newest_by_collapse_key WHERE user = ? AND bucket = ? AND collapse_key IN ?",
    head: Read "SELECT pos, stored_ms FROM {k}.heads WHERE user = ? AND bucket = ?",

    put_row: Write "INSERT INTO {k}.notifications_by_user (user, bucket, pos, prev, kind, id, priority, created_ms,
        expires_ms, collapse_key, content, v) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    put_position: Write "INSERT INTO {k}.positions_by_id (user, bucket, id, kind, pos, prev)
        VALUES (?, ?, ?, ?, ?, ?)",
    // The time of these two is the position, so that a later one stands.
    put_newest_of_key: Write "INSERT INTO {k}.newest_by_collapse_key (user, bucket, collapse_key, pos)
        VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
    put_head: Write "INSERT INTO {k}.heads (user, bucket, pos, stored_ms) VALUES (?, ?, ?, ?) USING TIMESTAMP ?",
    remove_head: Write "DELETE FROM {k}.heads USING TIMESTAMP ? WHERE user = ? AND bucket = ?",

    receipts: Read "SELECT id FROM {k}.read_receipts WHERE user = ? AND month = ? AND id IN ?",
    put_receipt: Write "INSERT INTO {k}.read_receipts (user, month, id) VALUES (?, ?, ?)",

    dismissals: Read "SELECT id FROM {k}.dismissals WHERE user = ? AND month = ? AND id IN ?",
    put_dismissal: Write "INSERT INTO {k}.dismissals (user, month, id) VALUES (?, ?, ?)",
    count_dismissals_below: Read "SELECT COUNT(*) FROM {k}.dismissals WHERE user = ? AND month = ? AND id < ?",
    remove_dismissals_below: Write "DELETE FROM {k}.dismissals WHERE user = ? AND month = ? AND id < ?",

    facts: Read "SELECT channel, gateway, rank, state, attempts, devices, since_ms, at_ms, began_ms, error, reference
        FROM {k}.delivery_log WHERE notification_id = ? AND user = ?",
    ranks: Read "SELECT rank FROM {k}.delivery_log WHERE notification_id = ? AND user = ? AND channel = ?",
    any_fact: Read "SELECT rank FROM {k}.delivery_log WHERE notification_id = ? AND user = ? LIMIT 1",
    put_fact: Write "INSERT INTO {k}.delivery_log (notification_id, user, channel, gateway, rank, state, attempts,
        devices, since_ms, at_ms, began_ms, error, reference) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    deliveries_of_user: Read "SELECT id FROM {k}.deliveries_by_user WHERE user = ? AND month = ? AND id < ? LIMIT ?",
    put_delivery_of_user: Write "INSERT INTO {k}.deliveries_by_user (user, month, id) VALUES (?, ?, ?)",
    users_of_delivery: Read "SELECT user FROM {k}.deliveries_by_notification
        WHERE notification_id = ? AND slice = ? LIMIT ?",
    put_user_of_delivery: Write "INSERT INTO {k}.deliveries_by_notification (notification_id, slice, user)
        VALUES (?, ?, ?)",

    claim: CompareAndSet "INSERT INTO {k}.claims (producer, key, body_hash, id, done, claimed_ms)
        VALUES (?, ?, ?, ?, false, ?) IF NOT EXISTS USING TTL ?",
    claim_again: CompareAndSet "UPDATE {k}.claims USING TTL ? SET body_hash = ?, id = ?, done = false, claimed_ms = ?
        WHERE producer = ? AND key = ? IF claimed_ms = ?",
    finish_claim: CompareAndSet "UPDATE {k}.claims USING TTL ? SET done = true WHERE producer = ? AND key = ? IF done = false",
    release_claim: CompareAndSet "DELETE FROM {k}.claims WHERE producer = ? AND key = ? IF done = false",

    devices: Read "SELECT revision, id, kind, address, secret, updated_ms, quarantined_ms
        FROM {k}.devices WHERE user = ?",
    put_device: CompareAndSet "UPDATE {k}.devices SET revision = ?, kind = ?, address = ?, secret = ?, updated_ms = ?,
        quarantined_ms = null WHERE user = ? AND id = ? IF revision = ?",
    remove_device: CompareAndSet "DELETE FROM {k}.devices WHERE user = ? AND id = ? IF EXISTS",
    remove_device_at: CompareAndSet "DELETE FROM {k}.devices WHERE user = ? AND id = ? IF kind = ? AND address = ?",
    remove_device_of: CompareAndSet "DELETE FROM {k}.devices WHERE user = ? AND id = ?
        IF updated_ms = ? AND address = ?",
    owner: Read "SELECT user, id FROM {k}.devices_by_address WHERE kind = ? AND address = ?",
    first_owner: CompareAndSet "INSERT INTO {k}.devices_by_address (kind, address, user, id)
        VALUES (?, ?, ?, ?) IF NOT EXISTS",
    next_owner: CompareAndSet "UPDATE {k}.devices_by_address SET user = ?, id = ?
        WHERE kind = ? AND address = ? IF user = ? AND id = ?",
    remove_owner: CompareAndSet "DELETE FROM {k}.devices_by_address WHERE kind = ? AND address = ?
        IF user = ? AND id = ?",

    quarantine_device: CompareAndSet "UPDATE {k}.devices SET quarantined_ms = ? WHERE user = ? AND id = ?
        IF updated_ms = ? AND address = ? AND quarantined_ms = null",
    restore_device: CompareAndSet "UPDATE {k}.devices SET quarantined_ms = null WHERE user = ? AND id = ?
        IF quarantined_ms = ?",
    remove_quarantined_device: CompareAndSet "DELETE FROM {k}.devices WHERE user = ? AND id = ? IF quarantined_ms = ?",
    quarantined: Read "SELECT user, id FROM {k}.quarantine WHERE kind = ? AND slice = ? AND (user, id) > (?, ?) LIMIT ?",
    put_quarantined: Write "INSERT INTO {k}.quarantine (kind, slice, user, id) VALUES (?, ?, ?, ?)",
    remove_quarantined: Write "DELETE FROM {k}.quarantine USING TIMESTAMP ?
        WHERE kind = ? AND slice = ? AND user = ? AND id = ?",
    remove_quarantined_of_user: Write "DELETE FROM {k}.quarantine USING TIMESTAMP ?
        WHERE kind = ? AND slice = ? AND user = ?",

    preferences: Read "SELECT document FROM {k}.preferences WHERE user = ?",
    put_preferences: Write "INSERT INTO {k}.preferences (user, document) VALUES (?, ?)",
    first_preferences: CompareAndSet "INSERT INTO {k}.preferences (user, document) VALUES (?, ?) IF NOT EXISTS",
    next_preferences: CompareAndSet "UPDATE {k}.preferences SET document = ? WHERE user = ? IF document = ?",
    remove_preferences: Write "DELETE FROM {k}.preferences WHERE user = ?",

    suppression: Read "SELECT address, cause, reason, at_ms FROM {k}.suppressions WHERE address = ?",
    first_suppressions: Read "SELECT address, cause, reason, at_ms FROM {k}.suppressions LIMIT ?",
    next_suppressions: Read "SELECT address, cause, reason, at_ms FROM {k}.suppressions
        WHERE token(address) > token(?) LIMIT ?",
    put_suppression: Write "INSERT INTO {k}.suppressions (address, cause, reason, at_ms) VALUES (?, ?, ?, ?)",
    put_erased: Write "INSERT INTO {k}.suppressions (address, cause, reason, at_ms) VALUES (?, ?, '', ?) USING TTL ?",
    remove_suppression: CompareAndSet "DELETE FROM {k}.suppressions WHERE address = ? IF EXISTS",

    dead_letter: Read "SELECT handled FROM {k}.dead_letters WHERE partition = ? AND record = ? AND appended_ms = ?",
    put_dead_letter: CompareAndSet "INSERT INTO {k}.dead_letters (partition, record, appended_ms, handled)
        VALUES (?, ?, ?, ?) IF NOT EXISTS",

    scheduled: Read "SELECT due_ms, id, taken_until_ms, topic, key, value, headers FROM {k}.scheduled
        WHERE hour = ? AND due_ms <= ?",
    scheduled_at: Read "SELECT due_ms, id, taken_until_ms, topic, key, value, headers FROM {k}.scheduled
        WHERE hour = ? AND due_ms = ? AND id = ?",
    scheduled_due: Read "SELECT due_ms FROM {k}.scheduled WHERE hour = ? AND due_ms = ? AND id = ?",
    put_scheduled: CompareAndSet "INSERT INTO {k}.scheduled (hour, due_ms, id, taken_until_ms, topic, key, value,
        headers) VALUES (?, ?, ?, 0, ?, ?, ?, ?) IF NOT EXISTS",
    take_scheduled: CompareAndSet "UPDATE {k}.scheduled SET taken_until_ms = ?
        WHERE hour = ? AND due_ms = ? AND id = ? IF taken_until_ms = ?",
    remove_scheduled: CompareAndSet "DELETE FROM {k}.scheduled WHERE hour = ? AND due_ms = ? AND id = ? IF EXISTS",
    cancel_scheduled: CompareAndSet "DELETE FROM {k}.scheduled WHERE hour = ? AND due_ms = ? AND id = ?
        IF taken_until_ms = 0",
    change_scheduled: CompareAndSet "UPDATE {k}.scheduled SET value = ? WHERE hour = ? AND due_ms = ? AND id = ?
        IF taken_until_ms = 0",
    due: Read "SELECT due_ms FROM {k}.scheduled_by_id WHERE id = ?",
    put_due: Write "INSERT INTO {k}.scheduled_by_id (id, due_ms) VALUES (?, ?)",
    remove_due: Write "DELETE FROM {k}.scheduled_by_id WHERE id = ?",

    erasure: Read "SELECT id, below, proof FROM {k}.erasures WHERE user = ?",
    put_erasure: Write "INSERT INTO {k}.erasures (user, id, below, proof) VALUES (?, ?, ?, null)",
    prove_erasure: Write "UPDATE {k}.erasures SET proof = ? WHERE user = ?",
    erasures_of_day: Read "SELECT user, id, below FROM {k}.erasures_by_day WHERE day = ? AND begun_ms >= ?",
    put_erasure_of_day: Write "INSERT INTO {k}.erasures_by_day (day, begun_ms, user, id, below) VALUES (?, ?, ?, ?, ?)",
    open_erasures: Read "SELECT user, id, below FROM {k}.open_erasures WHERE one = 1 AND begun_ms < ? LIMIT ?",
    all_open_erasures: Read "SELECT begun_ms, user, below FROM {k}.open_erasures WHERE one = 1",
    put_open_erasure: Write "INSERT INTO {k}.open_erasures (one, begun_ms, user, id, below) VALUES (1, ?, ?, ?, ?)",
    remove_open_erasure: Write "DELETE FROM {k}.open_erasures WHERE one = 1 AND begun_ms = ? AND user = ?",
    remove_position: Write "DELETE FROM {k}.positions_by_id WHERE user = ? AND bucket = ? AND id = ? AND kind = ?",
    remove_newest_of_keys: Write "DELETE FROM {k}.newest_by_collapse_key USING TIMESTAMP ?
        WHERE user = ? AND bucket = ?",
    remove_rows_below: Write "DELETE FROM {k}.notifications_by_user WHERE user = ? AND bucket = ? AND pos < ?",
    receipts_after: Read "SELECT id FROM {k}.read_receipts WHERE user = ? AND month = ? AND id > ? LIMIT ?",
    dismissals_after: Read "SELECT id FROM {k}.dismissals WHERE user = ? AND month = ? AND id > ? LIMIT ?",
    count_receipts_below: Read "SELECT COUNT(*) FROM {k}.read_receipts WHERE user = ? AND month = ? AND id < ?",
    remove_receipts_below: Write "DELETE FROM {k}.read_receipts WHERE user = ? AND month = ? AND id < ?",
    remove_facts: Write "DELETE FROM {k}.delivery_log WHERE notification_id = ? AND user = ?",
    remove_user_of_delivery: Write "DELETE FROM {k}.deliveries_by_notification
        WHERE notification_id = ? AND slice = ? AND user = ?",
    remove_delivery_of_user: Write "DELETE FROM {k}.deliveries_by_user WHERE user = ? AND month = ? AND id = ?",

    segment: Read "SELECT producer, created_ms FROM {k}.segments WHERE id = ?",
    put_segment: Write "INSERT INTO {k}.segments (id, producer, created_ms) VALUES (?, ?, ?)",
    remove_segment: Write "DELETE FROM {k}.segments WHERE id = ?",
    segment_users: Read "SELECT user FROM {k}.segment_users WHERE segment = ? AND slice = ? AND user > ? LIMIT ?",
    segment_user: Read "SELECT user FROM {k}.segment_users WHERE segment = ? AND slice = ? AND user = ?",
    count_segment_users: Read "SELECT COUNT(*) FROM {k}.segment_users WHERE segment = ? AND slice = ?",
    put_segment_user: Write "INSERT INTO {k}.segment_users (segment, slice, user) VALUES (?, ?, ?)",
    remove_segment_user: Write "DELETE FROM {k}.segment_users WHERE segment = ? AND slice = ? AND user = ?",
    segments_of_user: Read "SELECT segment, added_ms FROM {k}.segments_by_user WHERE user = ?",
    put_segment_of_user: Write "INSERT INTO {k}.segments_by_user (user, segment, added_ms) VALUES (?, ?, ?)",
    remove_segment_of_user: Write "DELETE FROM {k}.segments_by_user WHERE user = ? AND segment = ?",
    send: Read "SELECT segment, value, headers, users, sent, after, state, taken_until_ms
        FROM {k}.segment_sends WHERE id = ?",
    put_send: CompareAndSet "INSERT INTO {k}.segment_sends (id, segment, value, headers, users, sent, state,
        taken_until_ms) VALUES (?, ?, ?, ?, ?, 0, 'running', ?) IF NOT EXISTS",
    take_send: CompareAndSet "UPDATE {k}.segment_sends SET taken_until_ms = ? WHERE id = ?
        IF state = 'running' AND taken_until_ms = ?",
    advance_send: CompareAndSet "UPDATE {k}.segment_sends SET sent = ?, after = ?, state = ?, taken_until_ms = ?
        WHERE id = ? IF state = 'running'",
    cancel_send: CompareAndSet "UPDATE {k}.segment_sends SET state = 'cancelled', after = null
        WHERE id = ? IF state = 'running'",
    running_sends: Read "SELECT id FROM {k}.running_sends WHERE one = 1",
    put_running_send: Write "INSERT INTO {k}.running_sends (one, id) VALUES (1, ?)",
    remove_running_send: Write "DELETE FROM {k}.running_sends WHERE one = 1 AND id = ?",

    api_key: Read "SELECT hash, producer, admin, created_ms FROM {k}.api_keys WHERE one = 1 AND hash = ?",
    api_keys: Read "SELECT hash, producer, admin, created_ms FROM {k}.api_keys WHERE one = 1",
    put_api_key: Write "INSERT INTO {k}.api_keys (one, hash, producer, admin, created_ms) VALUES (1, ?, ?, ?, ?)",
}
