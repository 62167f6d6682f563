//! Every bound of Herald in one place: the default, its unit, and what happens when it is reached.
//! Configuration may lower or raise those marked (config); the rest are fixed.

mod cassandra;
mod channels;
mod quotas;

pub use {cassandra::*, channels::*, quotas::*};

use std::{ops::RangeInclusive, time::Duration};

/// Bytes in a power-of-two kibibyte, for readable sums.
const KIB: usize = 1024;

// ── connections ────────────────────────────────────────────────────────────────────────────────

/// (config) Above this a newcomer gets 503 with `Retry-After` 5–30 s at random.
pub const CONNECTIONS_SOFT: usize = 500_000;
/// (config) Above this the socket is closed without an answer.
pub const CONNECTIONS_HARD: usize = 600_000;
/// (config) New connections a second per host; above it accepting pauses until the next tick.
pub const ACCEPTS_PER_S: u32 = 5_000;
pub const RETRY_AFTER_S: RangeInclusive<u32> = 5..=30;
/// (config) From accept to the end of the request head, and from there to authentication.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// (config) PROXY header: bytes (v2 with TLVs) and time within [`HANDSHAKE`]. Over: closed, counted.
pub const PROXY_HEADER_BYTES: usize = 536;
/// TLS handshakes in flight on one core, from the first byte to the last; one takes about 12 KB: 50 MB. Over:
/// the one that has taken longest is closed, counted (`tls_handshakes_full`). At 5,000 newcomers a second on two
/// cores each still has 1.6 s.
pub const TLS_HANDSHAKES: usize = 4_096;
/// Bytes of one connection that wait for the rest of their TLS record, or of a message of the handshake: the
/// largest record of TLS 1.2 and half a KiB. Over: closed, counted (`tls_too_long`).
pub const TLS_INCOMING_BYTES: usize = 18 * KIB + 512;
/// Records that are sealed with the same keys: a third of what RFC 8446 (5.5) trusts AES-GCM with, 2^24.5.
pub const TLS_KEY_RECORDS: u64 = 1 << 23;
/// Records that bring nothing (new keys, no bytes) one after the other. Over: closed, counted (`tls_misbehaved`).
pub const TLS_EMPTY_RECORDS: u8 = 32;
/// Payload of one TLS record, the most that TLS allows.
pub const TLS_RECORD_BYTES: usize = 16 * KIB;
/// Of one that we send. What the kernel does not take of it is kept, with nothing behind it, beside all that waits in the lanes:
/// with records of 16 KiB a client that stops reading costs over 256,000 B while nothing that the kernel has sent is acknowledged.
pub const TLS_SENT_BYTES: usize = 8 * KIB;
const _: () = assert!(TLS_SENT_BYTES <= TLS_RECORD_BYTES);
/// Certificates of a chain: with more the files are not what they should be.
pub const TLS_CHAIN: usize = 10;
/// How long a session ticket resumes: a phone that was away for the night. RFC 8446 allows a week.
pub const TLS_TICKET_LIFE: Duration = Duration::from_secs(24 * 3600);
/// Ticket keys side by side, and how often their file is looked at.
pub const TLS_TICKET_KEYS: usize = 16;
pub const TLS_TICKET_KEYS_EVERY: Duration = Duration::from_secs(30);
/// (config) Request head. Over: 431.
pub const REQUEST_HEAD_BYTES: usize = 8 * KIB;
pub const REQUEST_HEADERS: usize = 64;
/// (config) Body of `POST /sse/*`. Over: 413.
pub const POST_BODY_BYTES: usize = 64 * KIB;
/// (config) One client message, inclusive. Over: close 1009.
pub const CLIENT_MESSAGE_BYTES: usize = 64 * KIB;
/// (config) Client messages of a connection, and posts of a user at one gateway: this many at once,
/// refilled at the rate. Over: close 4429 (comes back); a post is answered 429.
pub const CLIENT_MESSAGES_BURST: u32 = 50;
pub const CLIENT_MESSAGES_PER_S: u32 = 10;
/// Ids in one `ack` or `read`. Over: `error`.
pub const CLIENT_IDS: usize = 500;
/// Streams a client may present cursors for. Over: `error`.
pub const CLIENT_CURSORS: usize = 8;
/// Name of a stream in a client's cursors: twice the longest a server gives. Over: `error`.
pub const STREAM_NAME_BYTES: usize = 80;
/// One token, wherever it stands.
pub const TOKEN_BYTES: usize = 4 * KIB;
/// (config) Ping interval (jittered by ±10 %) and the silence that ends a connection.
pub const HEARTBEAT: Duration = Duration::from_secs(30);
pub const DEAD_AFTER: Duration = Duration::from_secs(90);
/// How long a client that comes back may say that it was away. Over: it was away for reasons of its own, and is not counted.
pub const AWAY_MS_MAX: u32 = 600_000;
/// (config) Unsent for this long is reported `deferred`; unwritable for this long is closed (4408).
pub const DEFERRED_AFTER: Duration = Duration::from_secs(1);
pub const UNWRITABLE_CLOSE: Duration = Duration::from_secs(20);
/// `auth_expiring` is told this long before the token's end (at once when less is left).
pub const AUTH_EXPIRING_BEFORE: Duration = Duration::from_secs(60);
/// How long a close frame waits for its answer.
pub const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// `SO_RCVBUF`; the kernel doubles it. What a client sends beyond waits at its side.
pub const RECEIVE_BUFFER_BYTES: usize = 64 * KIB;
/// Accepts that a core may make at once because it made none for so long, ms.
pub const ACCEPTS_KEPT_MS: u64 = 100;
/// Newcomers the kernel holds per core until they are accepted; capped by `net.core.somaxconn`.
pub const LISTEN_BACKLOG: i32 = 4_096;

// ── what a configuration may set ───────────────────────────────────────────────────────────────
// Outside of these a process refuses to start and names the key.

/// Core threads. Queues cost 7 MB each: 2 GB in all.
pub const CORES_MAX: usize = 256;
/// Shards of a fleet: partitions of `in_app`, 1.5 for each gateway.
pub const SHARDS_MAX: u32 = 1_024;
/// Client sockets of one host: 16 GB of kernel memory and 2 GB of ours.
pub const CONNECTIONS_MAX: usize = 4_000_000;
pub const ACCEPTS_PER_S_ALLOWED: RangeInclusive<u32> = 1..=1_000_000;
pub const HANDSHAKE_MS_ALLOWED: RangeInclusive<u64> = 100..=600_000;
/// A day is the longest that a connection's clock can tell apart from the past.
pub const HEARTBEAT_MS_ALLOWED: RangeInclusive<u64> = 500..=43_200_000;
pub const DEAD_AFTER_MS_ALLOWED: RangeInclusive<u64> = 1_000..=86_400_000;
pub const UNWRITABLE_MS_ALLOWED: RangeInclusive<u64> = 50..=600_000;
/// From what an `auth` with the longest token takes; what a client sends is held whole.
pub const CLIENT_MESSAGE_BYTES_ALLOWED: RangeInclusive<usize> = 8 * KIB..=16 * KIB * KIB;
/// Messages a second, and at once.
pub const CLIENT_MESSAGES_ALLOWED: RangeInclusive<u32> = 1..=1_000_000;
/// From two of the largest notifications.
pub const LANES_BYTES_ALLOWED: RangeInclusive<usize> = 2 * NOTIFICATION_BYTES..=64 * KIB * KIB;
pub const SEND_BUFFER_BYTES_ALLOWED: RangeInclusive<usize> = 4 * KIB..=16 * KIB * KIB;
pub const AUTH_LEEWAY_S_MAX: u64 = 3_600;
pub const JWKS_REFRESH_S_ALLOWED: RangeInclusive<u64> = 1..=86_400;
pub const DISPATCHERS_MAX: usize = 256;
pub const DRAIN_MS_MAX: u64 = 3_600_000;
/// Of a drain with siblings; also one that an operator orders.
pub const DRAIN_DEADLINE_MS_ALLOWED: RangeInclusive<u64> = 1_000..=DRAIN_MS_MAX;
/// A file with a secret or a key.
pub const SECRET_BYTES: u64 = 64 * 1024;
/// A secret that is compared or signs, at least: what HS256 demands of a key (RFC 7518).
pub const SECRET_BYTES_MIN: usize = 32;
/// A host name by RFC 1035.
pub const HOST_NAME_BYTES: usize = 253;
/// `redis.timeout_ms`: after the lease has ended no answer is of use.
pub const REDIS_TIMEOUT_MS_MIN: u64 = 10;
pub const REDIS_TIMEOUT_MAX: Duration = Duration::from_secs(10);
/// More copies than any cluster has brokers are a slip of the pen.
pub const KAFKA_REPLICATION_ALLOWED: RangeInclusive<u32> = 1..=32;

// ── identity provider ──────────────────────────────────────────────────────────────────────────

/// A JWKS document. Over: not taken, the former keys stay. Keys above the count are passed over.
pub const JWKS_BYTES: usize = 256 * KIB;
pub const JWKS_KEYS: usize = 64;
/// One fetch of it, answer included.
pub const JWKS_FETCH: Duration = Duration::from_secs(10);

// ── lanes of one connection ────────────────────────────────────────────────────────────────────

/// (config) Unsent bytes of one connection over all lanes, each item with [`ITEM_BYTES`] beside its JSON. Over:
/// low goes first, one `gap` an episode.
pub const LANES_BYTES: usize = 64 * KIB;
/// What an unsent item takes beside its JSON: the item, its place in a lane, what the allocator rounds up.
pub const ITEM_BYTES: usize = 256;
/// Unsent control bytes (pong, welcome, sync, gap): one largest sync and what comes beside it. Over: the
/// connection is closed (4408).
pub const CONTROL_BYTES: usize = SYNC_BYTES + 12 * KIB;
/// Of these bytes and pieces the order is settled: one `writev` offers them, and what comes later can't
/// overtake them. More waits in the lanes, where it can.
pub const OUTGOING_BYTES: usize = 16 * KIB;
pub const OUTGOING_PIECES: usize = 16;
/// Bytes of one `writev`. The kernel lets the last one pass the bound of its buffer by as much.
pub const WRITE_BYTES: usize = 32 * KIB;
/// Ranges a connection has yet to be told of (`gap` of cause `collapsed` or `expired`). Over: they become
/// control frames, bounded by [`CONTROL_BYTES`].
pub const GAPS_WAITING: usize = 32;
/// A pressure episode ends when the lanes are half empty, or is told after this long.
pub const PRESSURE_EPISODE: Duration = Duration::from_secs(10);
/// `sync_after_ms` of a pressure gap, spread by connection.
pub const PRESSURE_SYNC_AFTER_MS: RangeInclusive<u32> = 500..=5_000;
/// (config) `SO_SNDBUF`; the kernel doubles it and counts its own overhead in.
///
/// Bandwidth × delay: what is on its way over a path of 100 ms has to be kept until it is acknowledged, and a
/// fast client of notifications takes 3 Mbit/s, 37 KB in 100 ms: 740 items of 500 B a second, or a largest sync in
/// two round trips. Measured over such a path (benches/long_path.py): 370 KB/s of single 500 B frames, 470 KB/s
/// of 4 KB ones, 600 KB/s in larger writes; more would only make a client that stops reading dearer.
pub const SEND_BUFFER_BYTES: usize = 48 * KIB;
/// `TCP_NOTSENT_LOWAT`: bytes the kernel holds that it could not put on the wire yet. Over: not writable,
/// what comes later waits in the lanes, where it can still be replaced or expire.
pub const UNSENT_BYTES: u32 = 16 * KIB as u32;

// ── memory of a gateway ────────────────────────────────────────────────────────────────────────
// `memory::contract` adds all bounds up; `herald check --connections N` prints the sum.

/// (config) Without `gateway.memory_bytes_max`: so much of the machine's memory, or of its control group's.
/// Above it a newcomer gets 503 with `Retry-After`, before the count of connections does.
pub const MEMORY_BUDGET_PERCENT: u64 = 90;
pub const MEMORY_BYTES_ALLOWED: RangeInclusive<u64> = 128 << 20..=1 << 44;
/// Share of the budget for what waits in all connections together. An item that would have to wait is shed,
/// with a `gap`, above these percents of it by priority (critical: all). Full: a connection that goes on
/// growing is closed (4408).
pub const LANES_PERCENT: u64 = 25;
pub const LANES_LOW_PERCENT: u64 = 70;
pub const LANES_NORMAL_PERCENT: u64 = 85;
pub const LANES_HIGH_PERCENT: u64 = 95;
/// What a connection may hold all the same: a healthy one does so for moments.
pub const HELD_SPARED_BYTES: usize = 4 * KIB;
/// Of the third figure of `net.ipv4.tcp_mem`, beyond which the kernel drops what any TCP socket sends or receives: above
/// the first percentage newcomers get 503, until it is below the second. The rest is for who is here.
pub const TCP_MEMORY_PERCENT: u64 = 80;
pub const TCP_MEMORY_AGAIN_PERCENT: u64 = 70;
/// Newcomers of one core that are being told that memory is short. Over: closed without an answer.
pub const REFUSED_AT_ONCE: usize = 256;

// ── notifications ──────────────────────────────────────────────────────────────────────────────

/// JSON of a notification as its producer sent it, but for its target. Over: 413.
pub const NOTIFICATION_BYTES: usize = 32 * KIB;
/// Content of a record: what intake makes of it, twice over. Over, another producer wrote it: `dlq`.
pub const CONTENT_BYTES: usize = 2 * NOTIFICATION_BYTES;
const _: () = assert!(CLIENT_IDS * 39 + 2 <= CONTENT_BYTES, "a read mark fits");
/// Body of `POST /v1/notifications`, which may hold a list of users. Over: 413.
pub const NOTIFICATION_LIST_BYTES: usize = 2 * KIB * KIB - 64 * KIB;
pub const TARGET_USERS: usize = 10_000;
/// Levels of objects and lists in `data`. Over: 422. A sync adds three of its own, and the strictest
/// parser in common use (.NET's) stops at 64.
pub const DATA_DEPTH: usize = 32;
pub const COLLAPSE_KEY_BYTES: usize = 128;
pub const TYPE_BYTES: usize = 128;
pub const IDEMPOTENCY_KEY_BYTES: usize = 255;
pub const IDEMPOTENCY_S: u64 = 24 * 3600;
pub const TTL_S_MAX: u32 = 90 * 24 * 3600;
/// TTL of a critical notification that names none.
pub const CRITICAL_TTL_S: u32 = 24 * 3600;
pub const RETENTION_S: u64 = 90 * 24 * 3600;

// ── the embedded bus ───────────────────────────────────────────────────────────────────────────

/// KiB of calls the writer has not answered yet. Over: callers wait.
pub const BUS_WAITING_KIB: usize = 32 * KIB;
/// Calls, and bytes of records (one call more than fits), of one transaction; the rest goes into the next.
pub const BUS_TRANSACTION_CALLS: usize = 1_024;
pub const BUS_TRANSACTION_BYTES: usize = 8 * KIB * KIB;
/// Bytes of one poll (one record more than fits); the rest comes with the next.
pub const BUS_POLL_BYTES: usize = 4 * KIB * KIB;
/// Reading connections kept open between uses; one costs up to 2 MB of page cache.
pub const BUS_READERS_IDLE: usize = 4;
/// The retention sweep: rows of one step, the pause between steps of one partition, between
/// partitions, and from opening (readers that were away catch up first).
pub const BUS_SWEEP_ROWS: usize = 500;
pub const BUS_SWEEP_PAUSE: Duration = Duration::from_millis(20);
pub const BUS_SWEEP_EVERY: Duration = Duration::from_millis(500);
pub const BUS_SWEEP_AFTER: Duration = Duration::from_secs(60);
/// A bus that failed to write tries again this often.
pub const BUS_PROBE_EVERY: Duration = Duration::from_secs(1);

/// A directory that somebody holds is asked for so long, with such pauses, before the start is refused.
pub const HELD_PATIENCE: Duration = Duration::from_millis(250);
pub const HELD_PAUSE: Duration = Duration::from_millis(5);

// ── Kafka ──────────────────────────────────────────────────────────────────────────────────────

/// Every call: produce (`message.timeout.ms`), commit, metadata. Over: `Unavailable`; intake goes on by
/// the spool.
pub const KAFKA_CALL: Duration = Duration::from_secs(2);
/// A request without an answer; over: the connection is made anew.
pub const KAFKA_SOCKET: Duration = Duration::from_secs(10);
/// Records in the producer, in number and KiB. Over: calls wait this pause and try again, for
/// [`KAFKA_CALL`] in all.
pub const KAFKA_QUEUE_MESSAGES: usize = 100_000;
pub const KAFKA_QUEUE_KIB: usize = 64 * KIB;
pub const KAFKA_QUEUE_PAUSE: Duration = Duration::from_millis(5);
/// Prefetched by one consumer: records, KiB. At the first or over the second: fetching stops and looks again after the
/// back-off. So whoever is idle gets a record at once, and one that is busy asks 500 times a second at the most, for as
/// many more at a time, instead of once for each that arrives: the broker's work, and ours for each fetch.
pub const KAFKA_PREFETCH_MESSAGES: usize = 1;
pub const KAFKA_PREFETCH_KIB: usize = 16 * KIB;
pub const KAFKA_FETCH_BACKOFF: Duration = Duration::from_millis(2);
/// A member of a group that is silent for so long loses its partitions.
pub const KAFKA_SESSION: Duration = Duration::from_secs(10);
/// Without any broker in the metadata for so long, the configured ones are asked again.
pub const KAFKA_LOST: Duration = Duration::from_secs(5);
/// Also how long a client that lost every broker may not notice it.
pub const KAFKA_STATISTICS: Duration = Duration::from_secs(2);
/// The health probe: how many without an answer make Kafka count as away, the timeout of one, and the
/// interval while Kafka answers and while it doesn't.
pub const KAFKA_PROBES: u32 = 2;
pub const KAFKA_PROBE: Duration = Duration::from_secs(1);
pub const KAFKA_PROBE_EVERY: Duration = Duration::from_secs(5);
pub const KAFKA_PROBE_AWAY: Duration = Duration::from_millis(500);
/// The client that asks for metadata is replaced after so long without an answer: in a few seconds all goes on once a
/// broker is back, whatever state its absence left that client in.
pub const KAFKA_UNANSWERED: Duration = Duration::from_secs(3);
/// How long `ctl topics` waits for a broker, and after which pause it says so. Over: an error.
pub const KAFKA_REACH: Duration = Duration::from_secs(10);
pub const KAFKA_REACH_SAID: Duration = Duration::from_secs(1);
/// One administrative call of `ctl topics`; making a topic waits until every broker has it.
pub const KAFKA_ADMIN: Duration = Duration::from_secs(15);
/// Between attempts while a coordinator is looked for or a group is shared anew.
pub const KAFKA_RETRY_PAUSE: Duration = Duration::from_millis(100);

// ── sync ───────────────────────────────────────────────────────────────────────────────────────

/// Rows of one sync answer.
pub const SYNC_ITEMS: usize = 50;
/// Bytes of one sync answer; the rest by `has_more`. Half of it takes the largest frame. Most answers are far
/// below: 50 rows of 500 B are 25 KB.
pub const SYNC_BYTES: usize = 2 * NOTIFICATION_BYTES + 4 * KIB;
/// Rows of one inbox page.
pub const PAGE_ITEMS: usize = 100;

// ── queues between threads and processes ───────────────────────────────────────────────────────

/// Messages from control to one core. A core that stays full for [`CORE_FULL_SHED`] sheds its own.
pub const CORE_INBOX: usize = 8_192;
/// Messages from all cores to control. A full queue stops the core from reading its sockets.
pub const CONTROL_INBOX: usize = 65_536;
/// Messages a core may owe control within a turn. Over: it stops reading clients until they are taken.
pub const CORE_OUTBOX: usize = 8_192;
/// How long an ending core waits for control to take its last messages.
pub const LAST_WORDS: Duration = Duration::from_secs(2);
/// Broadcasts a core writes at a time. Over: it takes no further letters until one is done.
pub const WALKS_WAITING: usize = 8;
pub const CORE_FULL_SHED: Duration = Duration::from_millis(100);
/// Records of one poll of the shard, and records in flight (outcome not yet accepted) per partition.
pub const SHARD_POLL: usize = 512;
pub const SHARD_IN_FLIGHT: usize = 16_384;
/// Unreadable records of `broadcast` that are on their way to `dlq`. Full: broadcasts wait.
pub const BROADCAST_DEAD_LETTERS: usize = 64;
/// Records that wait for a reader, and how long it may stand still before them. Over: `/readyz` says
/// `degraded`. How often a worker of the dispatcher is looked at.
pub const LAG_RECORDS: u64 = 10_000;
pub const READER_HALTED: Duration = Duration::from_secs(15);
pub const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// What one look may add to the time a reader stands still: the process was not there for more.
pub const READER_LAPSE: Duration = Duration::from_secs(8);
/// Outcomes of one batch, and outcomes waiting while no dispatcher answers; over: to `delivery`.
pub const OUTCOME_BATCH: usize = 1_024;
pub const OUTCOMES_WAITING: usize = 65_536;
/// Registry entries of ended gateways that one dispatcher removes a second.
pub const SWEEP_PER_S: usize = 5_000;
/// How often a dispatcher looks at the shards that no gateway owns, and how long the committed offset of one
/// with unread records must stand still first: a gateway cut off from the registry alone still commits.
pub const FINISHER_EVERY: Duration = Duration::from_secs(2);
pub const FINISHER_STILL: Duration = Duration::from_secs(4);
/// Shards one dispatcher finishes at once. Over: they wait for a free place, or another dispatcher.
pub const FINISHING_AT_ONCE: usize = 16;
/// Nothing came from a shard for this long though its end lies further on: what is missing was deleted by
/// retention. The shard is looked at again after the second figure.
pub const FINISHER_IDLE: Duration = Duration::from_secs(3);
pub const FINISHER_AGAIN: Duration = Duration::from_secs(60);
/// Records of one router batch.
pub const ROUTER_BATCH: usize = 512;
/// Hops of a record after `not_here`.
pub const HOPS: usize = 3;

// ── the SQLite store ───────────────────────────────────────────────────────────────────────────

/// Calls waiting for the thread that writes. Over: the caller waits.
pub const STORE_QUEUE: usize = 4_096;
/// Calls that share one commit, and the work after which the group is closed for newcomers.
pub const STORE_GROUP: usize = 256;
pub const STORE_GROUP_WORK: Duration = Duration::from_millis(10);
/// Threads that read, and the calls that share a snapshot at most. Over: calls wait, [`STORE_QUEUE`] of them;
/// more wait before the queue.
pub const STORE_READERS: usize = 4;
pub const STORE_READ_GROUP: usize = 32;
/// Page caches, and the size the write-ahead log is cut back to: 32 + 4 · 8 MiB of memory in all.
pub const STORE_WRITER_CACHE_KIB: i64 = 32 * 1024;
pub const STORE_READER_CACHE_KIB: i64 = 8 * 1024;
pub const STORE_WAL_BYTES: i64 = 64 * 1024 * 1024;
/// Pages (4 KiB) in the log that are written into the file at once. A page that is written often, as those of an index by
/// user are, is copied once for all of them; SQLite's own 1,000 cost a fifth more CPU a row, and what is read after a
/// crash stays below [`STORE_WAL_BYTES`].
pub const STORE_CHECKPOINT_PAGES: i64 = 8_000;
/// Rows one sync looks at to find [`SYNC_ITEMS`] that nothing superseded; the rest by `has_more`.
pub const STORE_SCAN_ROWS: usize = 1_000;
/// Newest rows and broadcasts among which the unread are counted; older ones count as seen.
pub const UNREAD_ROWS: usize = 1_000;
pub const UNREAD_BROADCASTS: usize = 50;
/// Rows of each table one step of retention removes; the pause to the next step while there is more, and
/// when there was nothing.
pub const STORE_SWEEP_ROWS: usize = 500;
pub const STORE_SWEEP_PAUSE: Duration = Duration::from_millis(100);
pub const STORE_SWEEP_EVERY: Duration = Duration::from_secs(60);

// ── registry ───────────────────────────────────────────────────────────────────────────────────

/// Users of one pipeline to Redis; longer calls take several, one after the other.
pub const REGISTRY_BATCH: usize = 512;
/// Buckets of the reverse index of one gateway's life: 500,000 users make 122 in each, few enough for
/// Redis to keep it compact. Fixed for ever: entries would not be found under another count.
pub const REGISTRY_BUCKETS: u32 = 4_096;
/// Ended lives of one gateway that wait to be swept. Over: the oldest is forgotten, its entries stay as
/// routes that answer `not_here`. A life lasts at least one lease, so this is 40 min of crashes unswept.
pub const REGISTRY_PAST_LIVES: usize = 256;

// ── logs ───────────────────────────────────────────────────────────────────────────────────────

/// Lines a second of one place in the code. Over: not written.
pub const LOG_LINES_PER_S: u32 = 50;
// ── a gateway's control side ───────────────────────────────────────────────────────────────────

/// Messages that wait for one core whose inbox is full, and how often they are tried again. Over: shed
/// oldest first, the connections concerned are told to sync.
pub const CORE_BACKLOG: usize = 8_192;
pub const CORE_RETRY: Duration = Duration::from_millis(5);
/// A core that has not answered a delivery by now is counted, and the delivery taken as deferred.
pub const FATE_WAIT: Duration = Duration::from_secs(10);
/// Deliveries are forgotten after this long: a later fate is not reported any more.
pub const TICKET_LIFE: Duration = Duration::from_secs(60);
/// Deliveries with a fate to come. Over: forgotten once settled.
pub const TICKETS_OPEN: usize = 131_072;
/// When a gateway reports the counts of a broadcast.
pub const BROADCAST_OUTCOME_AFTER: Duration = Duration::from_secs(3);
/// Batches of outcomes on the way at once, how long a dispatcher may be away before they go to
/// `delivery`, and the wait between tries.
pub const OUTCOME_BATCHES: usize = 8;
pub const OUTCOMES_PATIENCE: Duration = Duration::from_secs(2);
pub const OUTCOMES_RETRY_MIN: Duration = Duration::from_millis(50);
pub const OUTCOMES_RETRY_MAX: Duration = Duration::from_secs(1);
/// A batch of outcomes, a sync: no answer by then is none.
pub const REPORT_WAIT: Duration = Duration::from_secs(5);
pub const SYNC_WAIT: Duration = Duration::from_secs(2);
/// After that a dispatcher gives a sync up by itself: before whoever asked does, so that none it works at is nobody's.
pub const SYNC_SERVED: Duration = Duration::from_millis(1_500);
/// Connections told a second that they may be behind; while more jobs wait than [`BEHIND_WAITING`], what a dispatcher
/// answers in a second or two, so many only: those who are told would only wait behind the others.
pub const BEHIND_PER_S: u32 = 5_000;
pub const BEHIND_BUSY_PER_S: u32 = 50;
pub const BEHIND_WAITING: usize = 4_096;
/// Users of one registry call, and new connections that wait for one. Over: entered later, and the client is
/// answered `recovered:false`.
pub const REGISTER_BATCH: usize = 1_024;
pub const CONNECTS_WAITING: usize = 65_536;
/// A probe of the canary is sent this often, and a leg of its round that does not move for the second figure
/// is stuck: together with a tick below 15 s. A load balancer then takes the host out.
pub const CANARY_EVERY: Duration = Duration::from_secs(4);
pub const CANARY_STUCK: Duration = Duration::from_secs(10);
/// In the standalone, which stands behind no balancer: every round is written to its disk, about 27 KB.
pub const CANARY_EVERY_STANDALONE: Duration = Duration::from_secs(20);
/// How often the legs are looked at, and what one look may add to their age: a process that had no CPU for
/// longer was not there to see anything.
pub const CANARY_TICK: Duration = Duration::from_millis(500);
pub const CANARY_LAPSE: Duration = Duration::from_secs(1);
/// While a leg is in doubt, the shared part at its other end is asked this often.
pub const CANARY_ASK_EVERY: Duration = Duration::from_secs(1);
/// Probes remembered. Over: what comes of the oldest says nothing any more.
pub const CANARY_PROBES: usize = 16;
/// One attempt at a connection of the canary, the pauses between attempts (the kernel chooses the core, so
/// with many cores there are many), and its read buffer.
pub const CANARY_CONNECT: Duration = Duration::from_secs(5);
pub const CANARY_RECONNECT_MIN: Duration = Duration::from_millis(20);
pub const CANARY_RECONNECT_MAX: Duration = Duration::from_secs(1);
pub const CANARY_BUFFER_BYTES: usize = 4 * KIB;
/// Users whose posts of the last seconds are remembered, 60 B each and the name. Over: all start afresh.
pub const POSTING_USERS: usize = 65_536;
/// Syncs and posts served at once, and waiting. Over: `recovered:false`, 503. One costs about 16 KB while it
/// is served, and the allocator keeps what a storm took; answered in 10 ms, these are 6,400 a second.
pub const SYNCS: usize = 64;
pub const SYNCS_WAITING: usize = 65_536;
/// Questions on one stream to a dispatcher. Over: those whose asker has given up are forgotten.
pub const ASKED_FORGET_ABOVE: usize = 4 * SYNCS;
/// Users a second that all gateways together enter again after the registry forgot them, each its share: a Redis
/// takes more, and lookups and newcomers need the rest. 500,000 connections on each of 3 gateways: 40 s (by
/// [`REGISTER_BATCH`]); on each of 45: 4 min.
pub const REENTERED_PER_S: usize = 100_000;
/// Users gone whose entry waits in the table for a registry that is away: 12 MB. More of them stay entered until the
/// sweep of this life.
pub const GONE_USERS: usize = 131_072;
/// A user gone for this long (at least; twice as long at most) leaves the registry.
pub const REMOVAL_AFTER: Duration = Duration::from_secs(5);
/// Every user's entry is compared with the registry once in this time.
pub const ANTI_ENTROPY: Duration = Duration::from_secs(600);
/// How long a reader of the shard waits for records, and how often it commits under load.
pub const SHARD_WAIT: Duration = Duration::from_millis(50);
pub const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// The registry has been away here for so long, and a dispatcher has had it for so long, before a host takes itself for
/// cut off alone: longer than an outage of all shows at one and not at the other. A dispatcher's word counts so long.
pub const CUT_OFF_CERTAIN: Duration = Duration::from_secs(10);
pub const CUT_OFF_SAID: Duration = Duration::from_secs(5);
/// Between tries to reach the bus or the registry.
pub const AWAY_RETRY: Duration = Duration::from_millis(500);
/// A registry call takes no longer.
pub const REGISTRY_WAIT: Duration = Duration::from_secs(3);
/// Records of one gRPC `Deliver` call. Over: refused.
pub const DELIVER_RECORDS: usize = 1_024;
/// A dispatcher's call to a gateway.
pub const GATEWAY_CALL: Duration = Duration::from_secs(3);
/// An order counts so long on the gateway's clock, from when the dispatcher asked for that clock; its answer is waited
/// for a second longer.
pub const ORDER_COUNTS: Duration = Duration::from_secs(3);
/// Until the lease of a gateway shows the order that was taken up: it is renewed at once, within [`REGISTRY_WAIT`].
pub const ORDER_SHOWS: Duration = REGISTRY_WAIT;
/// Drains are ordered one at a time. The lock lasts for what comes between taking it and the lease that shows the drain
/// (clock, check, order, lease), and a little more; the next one waits so long before it is refused.
pub const ORDERS_LOCK: Duration = Duration::from_secs(15);
pub const ORDERS_LOCK_WAIT: Duration = Duration::from_secs(2);
/// A client sent away comes back within this long: the pace is set by when it is sent.
pub const EVICTED_BACK_WITHIN_MS: u32 = 1_000;
/// How often a gateway looks at its siblings' leases, to size the crash slot.
pub const SIBLINGS_EVERY: Duration = Duration::from_secs(5);
/// How often a host that sends clients away looks at its siblings' leases; its pacing counts in these.
pub const DRAIN_STEP: Duration = Duration::from_secs(1);
/// What the siblings said counts so long while the registry does not answer; then nobody is sent away, but who is left
/// at the deadline.
pub const DRAIN_FIGURES: Duration = Duration::from_secs(3);
/// Clients of a host that has found all shards owned for so long are sent away.
pub const SHARDLESS_CLIENTS: Duration = Duration::from_secs(5);
/// Leaving: beyond the drain window, until every connection is gone; then until every outcome is accepted.
pub const DRAIN_SLACK: Duration = Duration::from_secs(10);
pub const DRAIN_FINISH: Duration = Duration::from_secs(10);

// ── dispatcher ─────────────────────────────────────────────────────────────────────────────────

/// How long intake waits for the bus before it spools (in the standalone: before it answers 503).
pub const INTAKE_BUS_WAIT: Duration = Duration::from_secs(2);
/// (config) Bytes of the spool's file in use. Replay at its pace takes 6 min for as much, at 600 B each.
pub const SPOOL_BYTES: u64 = 1 << 30;
pub const SPOOL_BYTES_ALLOWED: RangeInclusive<u64> = 16 << 20..=1 << 40;
/// Percent of them up to which new work is taken; critical has all. Over: 503 with `Retry-After`.
pub const SPOOL_LOW_PERCENT: u64 = 70;
pub const SPOOL_NORMAL_PERCENT: u64 = 85;
pub const SPOOL_HIGH_PERCENT: u64 = 95;
/// Pages of 4 KiB that wait in the spool's log. Over: folded into the file before the next transaction, so that
/// the log has these, a group and its pages' edges: 5 MiB.
pub const SPOOL_LOG_PAGES: i64 = 256;
/// Kept free beside the file: as much as the log holds can be folded, and what is replayed removed, though the
/// disk is full.
pub const SPOOL_RESERVE_BYTES: usize = 6 << 20;
/// Calls that wait for the spool's thread (over: the caller waits), and records and bytes (one record more
/// than fits) of one fsync.
pub const SPOOL_QUEUE: usize = 1_024;
pub const SPOOL_GROUP: usize = 256;
pub const SPOOL_GROUP_BYTES: usize = 1 << 20;
/// How often the spool's disk is tried, and files that were removed while in use are to be put back.
pub const SPOOL_TRY_EVERY: Duration = Duration::from_secs(5);
pub const SPOOL_PUT_BACK_EVERY: Duration = Duration::from_secs(5);
/// An fsync that takes longer is a refusal: 503.
pub const SPOOL_WAIT: Duration = Duration::from_secs(2);
/// Critical notifications on their direct way, one per user: waiting (over: they come with the replay), in one
/// look-up and one call to each gateway (with the largest bodies below [`GRPC_MESSAGE_BYTES`]), and such
/// batches at once.
pub const DIRECT_WAITING: usize = 16_384;
pub const DIRECT_BATCH: usize = 64;
pub const DIRECT_AT_ONCE: usize = 16;
/// Between two looks for where gateways are, should the registry go away too.
pub const DIRECT_LOOK: Duration = Duration::from_secs(5);
/// Between tries of a bus that takes nothing, and of a topic that is not there.
pub const SPOOL_PROBE_EVERY: Duration = Duration::from_millis(500);
pub const SPOOL_TOPIC_EVERY: Duration = Duration::from_secs(10);
/// Replay: records and bytes of one batch, and of one second, beside the traffic that goes on.
pub const SPOOL_REPLAY_BATCH: usize = 256;
pub const SPOOL_REPLAY_BYTES: usize = 1 << 20;
pub const SPOOL_REPLAY_PER_S: u32 = 5_000;
pub const SPOOL_REPLAY_BYTES_PER_S: usize = 8 << 20;
/// Pauses of a worker whose next step fails, after how long it says so (by then an outage of the bus is known
/// to be one, and said), and how often.
pub const STEP_RETRY_MIN: Duration = Duration::from_millis(50);
pub const STEP_RETRY_MAX: Duration = Duration::from_secs(2);
pub const STEP_LOG_AFTER: Duration = Duration::from_secs(4);
pub const STEP_LOG_EVERY: Duration = Duration::from_secs(10);
/// Longest wait of one poll; bounds how late a worker notices that the process leaves.
pub const CONSUMER_WAIT: Duration = Duration::from_millis(500);
/// Users of one append when a list is fanned out.
pub const FAN_OUT_CHUNK: usize = 1_000;
/// Attempts at the registry before the last known routes are used, and the pause between them.
pub const LOOKUP_ATTEMPTS: u32 = 3;
pub const LOOKUP_PAUSE: Duration = Duration::from_millis(100);
/// Users whose last routes are remembered for when the registry is away; the least lately seen half is
/// forgotten when it is full. About 120 B each.
pub const LAST_KNOWN_USERS: usize = 500_000;
/// Records a second by which one dispatcher asks every gateway for users it does not know the way to. Over: its
/// router waits, and what it reads waits on the bus.
pub const ASK_EVERYONE_PER_S: u32 = 5_000;
/// Verified API keys remembered, and for how long: a revoked key works that much longer.
pub const API_KEYS_CACHED: usize = 10_000;
pub const API_KEY_CACHE: Duration = Duration::from_secs(30);
pub const PRODUCER_NAME_BYTES: usize = 63;
/// Age at which the shard epochs told to gateways are read again.
pub const SHARD_EPOCHS_AGE: Duration = Duration::from_secs(1);
/// Outcome batches of one gateway's stream that are worked on at once; answers keep their order.
pub const OUTCOME_BATCHES_AT_ONCE: usize = 4;
/// Delivery states of one answer, and of `GET /v1/users/{user}`.
pub const DELIVERY_STATES: usize = 1_000;
pub const RECENT_STATES: usize = 20;
/// Notifications of one producer's stream that are worked on at once; answers keep their order. Over: the next waits.
pub const NOTIFY_STREAM_AT_ONCE: usize = 32;
/// One message between our processes.
pub const GRPC_MESSAGE_BYTES: usize = 4 * KIB * KIB;
/// HTTP requests at work at once, over: 503; and the longest one may take, over: 408. With the largest body
/// each this is 2 GiB, which only lists of users reach.
pub const HTTP_AT_ONCE: usize = 1_024;
pub const HTTP_REQUEST: Duration = Duration::from_secs(30);
/// Body of every other `POST`. Over: 413.
pub const HTTP_BODY_BYTES: usize = 64 * KIB;
/// Bytes of a body that an answer left unread which are still taken and dropped, within [`HTTP_REQUEST`]:
/// a socket closed over them is reset, and the client never sees the answer. Over: so be it.
pub const HTTP_DRAIN_BYTES: usize = 64 * KIB * KIB;
/// A gateway that answers no gRPC ping for twice this long is gone.
pub const GRPC_KEEPALIVE: Duration = Duration::from_secs(10);
/// Calls at once on one gRPC connection. Over: the client's wait.
pub const GRPC_STREAMS: u32 = 200;
/// Connections of the HTTP and of the gRPC port, each; a quarter of the descriptors where that is less.
/// Over: closed, counted. A connection costs its buffer of [`SERVER_HEAD_BYTES`]: 64 MiB a port.
pub const SERVER_CONNECTIONS: usize = 4_096;
/// Connections of an admin port; of its own, so that it answers while the others are full. Over: closed,
/// counted.
pub const ADMIN_CONNECTIONS: usize = 64;
/// Head of a request on these ports. Over: 431.
pub const SERVER_HEAD_BYTES: usize = 16 * KIB;
/// From accept to the first whole head. Over: closed, counted.
pub const SERVER_HEAD: Duration = Duration::from_secs(10);
/// From one request's end to the next. Over: closed; longer than what scrapes and pools wait.
pub const SERVER_IDLE: Duration = Duration::from_secs(75);
/// Accepting pauses for so long when the system has no descriptor or memory for it.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long open HTTP and gRPC calls may take to end when the process leaves.
pub const SERVER_GRACE: Duration = Duration::from_secs(5);
