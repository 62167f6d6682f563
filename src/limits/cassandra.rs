//! Of the store on Cassandra.

use std::{ops::RangeInclusive, time::Duration};

/// Requests at work at once, reads and writes apart. Over: the caller waits, and with it the partition of the bus that
/// its records came from.
pub const CASSANDRA_READS: usize = 256;
pub const CASSANDRA_WRITES: usize = 256;
/// Users, outcomes or ids that one call works on at once; the rest follows.
pub const CASSANDRA_AT_ONCE: usize = 64;
/// (config) One request with all its retries. Over: the step is tried again later, a sync is read from one replica.
pub const CASSANDRA_TIMEOUT: Duration = Duration::from_millis(2_000);
pub const CASSANDRA_TIMEOUT_MS_ALLOWED: RangeInclusive<u64> = 100..=60_000;
/// A read that has taken so long is sent to one more replica, and once more. Above the p99 of a node that is well.
pub const CASSANDRA_SPECULATE_AFTER: Duration = Duration::from_millis(50);
pub const CASSANDRA_SPECULATIONS: usize = 2;
/// Requests after which a step is given back to its caller, who tries again later.
pub const CASSANDRA_CAS_ATTEMPTS: usize = 16;
/// From the first contact to a session, and one change of the schema.
pub const CASSANDRA_CONNECT: Duration = Duration::from_secs(10);
pub const CASSANDRA_SCHEMA_CHANGE: Duration = Duration::from_secs(60);
/// After it, until all nodes have it, and how often is said that this is waited for. Over: `migrate` ends, and goes on when it is
/// run again.
pub const CASSANDRA_AGREEMENT: Duration = Duration::from_secs(600);
pub const CASSANDRA_AGREEMENT_TOLD: Duration = Duration::from_secs(15);
/// The store that was away is asked so often whether it is back.
pub const CASSANDRA_PROBE: Duration = Duration::from_secs(1);
/// Days of one bucket of a user's rows, and how many of them a reader looks back over: the retention, and the one
/// that is begun. Fixed for ever: rows would not be found under others.
pub const BUCKET_DAYS: u64 = 30;
pub const BUCKETS_BACK: i32 = 3;
/// Bytes of rows in one batch; a user's rows above it follow in the next one. Half a segment of the commit log is what
/// a node takes (16 MiB as shipped). One row may be larger.
pub const CASSANDRA_BATCH_BYTES: usize = 1024 * 1024;
/// Ids of one `IN`.
pub const CASSANDRA_IN: usize = 100;
/// Rows of one page of a scan.
pub const CASSANDRA_PAGE: usize = 128;
/// Users whose heads are remembered, 150 B each. Over: those not seen for longest are read again.
pub const HEADS_REMEMBERED: usize = 100_000;
/// (notification, user) pairs known to be in the indexes of the delivery log, 150 B each. Over: written again.
pub const INDEXED_REMEMBERED: usize = 100_000;
/// Parts that the users of one notification are divided into, so that those who read a broadcast are in none too
/// many; and those whose devices are in quarantine. Fixed for ever.
pub const DELIVERY_SLICES: u16 = 16;
/// (config) Copies of each row in the data centre that `herald dispatcher migrate` makes a keyspace with.
pub const REPLICATION_ALLOWED: RangeInclusive<u32> = 1..=9;
/// What Cassandra takes for a keyspace's name.
pub const KEYSPACE_BYTES: usize = 48;
/// What a row takes beside its content, in a batch.
pub const ROW_BYTES_BESIDE: usize = 512;
