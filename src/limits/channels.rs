//! Of devices, and of the channels beside in-app.

use std::{ops::RangeInclusive, time::Duration};

/// Devices and addresses of one user. Over: 422.
pub const DEVICES: usize = 20;
/// Records of one poll of a channel, and those that are settled together: in the log, and on the bus.
pub const CHANNEL_BATCH: usize = 256;
/// Notifications that a channel has at work beside as many as its providers are sent at once, so that none of these, if it is
/// silent, has them all: 832 of push by default. And their bytes as they came, without those of one poll; what is made of
/// them takes as much again, 40 MB in all. Full: nothing more is read until an eighth of the first is free.
pub const CHANNEL_WAITING: usize = 256;
pub const CHANNEL_BYTES: usize = 16 << 20;
/// Records from what a channel has committed to what it has read, without those of one poll: a crash has them read again.
/// Full: as above. With 400 a second, one that takes 10 s keeps nobody waiting.
pub const CHANNEL_BEHIND: u64 = 4_096;
pub const CHANNEL_COMMIT_EVERY: Duration = Duration::from_millis(100);
/// What has waited so long for its turn at a provider goes to the shortest delay topic when it is full as above, as far as more
/// than their share wait there, for those of other providers. A provider that is only busy gives most their turn by then, so
/// that few go round: each of them once in this time and the delay.
pub const CHANNEL_TURN: Duration = Duration::from_secs(1);
/// Where nobody is kept from being read: for a provider that hangs.
pub const CHANNEL_TURN_MAX: Duration = Duration::from_secs(120);
/// How long what is out may take when the process leaves: below the unit's `TimeoutStopSec`, so that what was sent meanwhile
/// is committed. Over: the rest is read again.
pub const CHANNEL_LEAVE: Duration = Duration::from_secs(75);
/// Records of one poll of the delay topics; each of their 44 partitions holds one poll's, at most, until it is due.
pub const RETRY_BATCH: usize = 64;
/// (config) When push and e-mail begin after what came before them, s: each has a delay topic.
pub const PUSH_AFTER_S: u32 = 30;
pub const EMAIL_AFTER_S: u32 = 120;
/// How long it counts that a reader is behind, or not: asked of a broker, it costs a connection.
pub const LAG_AGE: Duration = Duration::from_secs(1);
/// What gateways held while no dispatcher was there has come, so long after one started: a stream to another one is waited
/// for at most, then a try is, then an answer.
pub const OUTCOMES_SETTLE: Duration = Duration::from_secs(
    super::SYNC_WAIT.as_secs() + super::OUTCOMES_RETRY_MAX.as_secs() + super::REPORT_WAIT.as_secs(),
);
/// Types of notifications in one list of the configuration. Over: refused at the start.
pub const CONFIGURED_TYPES: usize = 100;
/// Types that one user has switches for, and a language tag. Over: 422.
pub const PREFERENCE_TYPES: usize = 100;
pub const LOCALE_BYTES: usize = 35;
/// Files of a directory of templates, their bytes together, and of one. Over: the directory is refused.
pub const TEMPLATES: usize = 2_000;
pub const TEMPLATES_BYTES: usize = 16 << 20;
pub const TEMPLATE_BYTES: u64 = 256 << 10;
/// Of one render: instructions, each of which may take about 64 B, so 6 MB; calls within calls. Over: `dlq`.
pub const TEMPLATE_STEPS: u64 = 100_000;
pub const TEMPLATE_DEPTH: usize = 100;
/// What a render gives: a subject, a text that fits a row's content however it is escaped, a page. Over: `dlq`.
pub const RENDERED_TITLE_BYTES: usize = 1 << 10;
pub const RENDERED_BODY_BYTES: usize = 16 << 10;
pub const RENDERED_HTML_BYTES: usize = 256 << 10;
/// An order that sends a user away counts for so long: a gateway that reads it later leaves the user alone.
pub const DISCONNECT_LIFE: Duration = Duration::from_secs(60);
/// Readers of `dlq` at once; over: operators wait. Records that one answer looks at, 64 KiB each: its page may be shorter
/// than asked, and says how to go on. And how long it looks.
pub const DEAD_LETTER_READERS: usize = 2;
pub const DEAD_LETTERS_READ: usize = 1_000;
pub const DEAD_LETTERS_WAIT: Duration = Duration::from_secs(5);
/// How far ahead a notification may be scheduled, below the time that the delivery log keeps it. Over: 422. What is
/// further in the past than this was meant for another time, or in another unit: 422 too.
pub const SCHEDULE_AHEAD: Duration = Duration::from_secs(30 * 24 * 3600);
pub const SCHEDULE_LATE: Duration = Duration::from_secs(3600);
/// How often a dispatcher looks for what is due, how many it takes at once, and for how long: with Kafka away for
/// longer another one may enter them too.
pub const SCHEDULE_EVERY: Duration = Duration::from_millis(500);
pub const SCHEDULE_BATCH: usize = 500;
pub const SCHEDULE_LEASE: Duration = Duration::from_secs(60);
/// Attempts at a critical notification after which somebody should know.
pub const CRITICAL_ATTEMPTS_MANY: u32 = 10;
/// What a provider has taken is not sent again for so long. In the standalone, which keeps it in memory, so many are
/// remembered, 250 B each. Over: the oldest are forgotten; they were all committed long ago.
pub const SEND_DONE: Duration = Duration::from_secs(24 * 3600);
pub const SENDS_REMEMBERED: usize = 100_000;
/// (config) So many errors in a row, within so long, and a provider is left alone but for one message every so often.
pub const BREAKER_ERRORS: usize = 5;
pub const BREAKER_ERRORS_ALLOWED: RangeInclusive<usize> = 1..=1_000;
pub const BREAKER_WITHIN: Duration = Duration::from_secs(60);
pub const BREAKER_PROBE: Duration = Duration::from_secs(60);
pub const BREAKER_MS_ALLOWED: RangeInclusive<u64> = 100..=3_600_000;
/// (config) Of each budget, for critical and codes.
pub const BUDGET_RESERVE_PERCENT: u8 = 20;
pub const BUDGET_RESERVE_PERCENT_ALLOWED: RangeInclusive<u8> = 0..=100;
/// (config) Amounts of money, prices of text messages, and digits of what a number begins with.
pub const AMOUNT_MAX: f64 = 1e9;
pub const PRICES: usize = 1_000;
pub const PRICE_PREFIX_DIGITS: usize = 8;
/// The registry keeps what was spent on a day for so long: a key a channel and day. And how old an answer may be that
/// intake goes by.
pub const SPENT_KEPT: Duration = Duration::from_secs(3 * 24 * 3600);
pub const SPENT_AGE: Duration = Duration::from_secs(1);
/// (config) One message to a push service, and messages at once. Over: it is tried again, they wait.
pub const PUSH_TIMEOUT: Duration = Duration::from_secs(10);
pub const PUSH_TIMEOUT_MS_ALLOWED: RangeInclusive<u64> = 500..=120_000;
pub const PUSH_AT_ONCE: usize = 64;
pub const PUSH_AT_ONCE_ALLOWED: RangeInclusive<usize> = 1..=1_024;
/// How long a push service keeps what has no end of its own; none keeps it longer.
pub const PUSH_TTL_S: u64 = 28 * 24 * 3600;
/// (config) Of so many answers of a push provider so many hundredths may call a device gone, and a device is deleted when
/// so many messages to others were taken since. Over: devices are put in quarantine.
pub const GONE_PERCENT: u8 = 10;
pub const GONE_PERCENT_ALLOWED: RangeInclusive<u8> = 1..=100;
pub const GONE_WINDOW: usize = 1_000;
pub const GONE_WINDOW_ALLOWED: RangeInclusive<usize> = 10..=100_000;
/// Devices called gone that say nothing of a provider yet, and those that wait to be deleted. Over: they are met again.
pub const GONE_FEW: usize = 20;
pub const GONE_HELD: usize = 1_000;
/// Token of an app at FCM. Over: 422.
pub const FCM_TOKEN_BYTES: usize = 4 * super::KIB;
/// (config) Messages to FCM at once: 800 a second, at a third of a second each.
pub const FCM_AT_ONCE: usize = 256;
/// Of keys and values of a message to FCM. Over: `data` is left out; still over: it can't be sent.
pub const FCM_MESSAGE_BYTES: usize = 4 * super::KIB;
/// How long we let Google take our word for who we are; it allows an hour.
pub const FCM_ASSERTION_S: u64 = 3600;
/// After an exchange of our word for a token failed, nobody begins another for so long.
pub const FCM_TOKEN_PAUSE: Duration = Duration::from_secs(1);
/// What FCM asks to be left alone for when it has had too much and names no time.
pub const FCM_QUOTA_PAUSE: Duration = Duration::from_secs(60);
/// Token of an app at APNs, in hex. Over: 422.
pub const APNS_TOKEN_CHARS: usize = 200;
/// (config) Messages to APNs at once, and connections that they share.
pub const APNS_AT_ONCE: usize = 256;
pub const APNS_CONNECTIONS: usize = 2;
pub const APNS_CONNECTIONS_ALLOWED: RangeInclusive<usize> = 1..=64;
/// Over: `data` is left out; still over: it can't be sent.
pub const APNS_PAYLOAD_BYTES: usize = 4 * super::KIB;
/// Age at which our token is renewed; Apple wants it between these minutes: 20 and 60.
pub const APNS_TOKEN_S: u64 = 40 * 60;
pub const APNS_TOKEN_S_MIN: u64 = 20 * 60;
/// Times that one message is sent to another connection because the server, which closes one, did not look at it.
pub const APNS_REFUSALS: u32 = 3;
/// After a connection could not be made, nobody tries again for so long.
pub const APNS_CONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Of what a provider says of a failure, to be understood. Over: the rest is not read.
pub const PROVIDER_ANSWER_BYTES: usize = 16 * super::KIB;
/// A connection that nothing came through for so long is asked whether it lives, and closed after so long without a word.
pub const PUSH_PING: Duration = Duration::from_secs(15);
pub const PUSH_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// (config) Text messages at once: 250 a second, at a quarter of a second each; and parts of one, which a provider ends at
/// 1,600 characters. Over: it can't be sent.
pub const SMS_AT_ONCE: usize = 64;
pub const SMS_SEGMENTS: u32 = 10;
pub const SMS_SEGMENTS_ALLOWED: RangeInclusive<u32> = 1..=10;
/// Providers of text messages that are configured. Over: refused at the start.
pub const SMS_PROVIDERS: usize = 4;
/// Of what names a provider or its account in the configuration.
pub const SMS_NAME_BYTES: usize = 64;
/// A provider keeps a text message in its queue for so long at most.
pub const SMS_QUEUED_S: u64 = 36_000;
/// The file of an account's token is read again after so long.
pub const SMS_TOKEN_AGE: Duration = Duration::from_secs(2);
/// Address of a subscription. Over: 422.
pub const ENDPOINT_BYTES: usize = 2 * super::KIB;
/// A signature for one push service counts so long (RFC 8292: a day at most), and is used for half of it. So many are
/// kept, one for each host; over: all are made anew.
pub const VAPID_S: u64 = 12 * 3600;
pub const VAPID_ORIGINS: usize = 1_024;
/// Of what a provider says of a failure. Over: cut off.
pub const PROVIDER_REASON_BYTES: usize = 200;
/// (config) One mail, from the connection to the relay's last word; over: it is tried again, though the relay may have
/// taken it.
pub const EMAIL_TIMEOUT: Duration = Duration::from_secs(30);
pub const EMAIL_TIMEOUT_MS_ALLOWED: RangeInclusive<u64> = 1_000..=120_000;
/// (config) Connections to the relay, and mails at once. Over: mails wait.
pub const EMAIL_CONNECTIONS: usize = 8;
pub const EMAIL_CONNECTIONS_ALLOWED: RangeInclusive<usize> = 1..=256;
/// Mails of one connection; then it is closed. Relays count them, and some refuse what comes after the hundredth.
pub const EMAIL_CONNECTION_MAILS: u32 = 100;
/// Characters of a subject: a line of a mail has at most 998 bytes, and a title without blanks can't be folded. Over: cut off.
pub const EMAIL_SUBJECT_CHARS: usize = 250;
/// Keys that sign one mail: an old and a new one, of two kinds. Over: refused at the start.
pub const DKIM_KEYS: usize = 4;
/// Below it anybody signs, above it receivers need not read it (RFC 8301).
pub const DKIM_RSA_BITS: RangeInclusive<usize> = 2_048..=4_096;
/// Before the path of a link in a mail, which has up to 420 more: a line of a mail has at most 998. Over: refused at the
/// start.
pub const UNSUBSCRIBE_URL_BYTES: usize = 400;
/// Events of one report of e-mail, its bytes, and signatures that it may have beside each other. Over: 422, 413, not
/// looked at.
pub const EMAIL_EVENTS: usize = 1_000;
pub const EMAIL_EVENTS_BYTES: usize = 256 * super::KIB;
pub const WEBHOOK_SIGNATURES: usize = 8;
/// A report counts for so long after it was signed, and before. Over: 403.
pub const WEBHOOK_AGE: Duration = Duration::from_secs(300);
/// (config) Topics of Amazon SNS that are listened to, and bytes of a topic's name. Over: refused at the start.
pub const SNS_TOPICS: usize = 16;
pub const SNS_ARN_BYTES: usize = 512;
/// Of what SNS says to visit. Over: 403.
pub const SNS_URL_BYTES: usize = 2 * super::KIB;
/// SNS tries to hand a message over for up to an hour; beside that clocks differ. Over: 403.
pub const SNS_AGE: Duration = Duration::from_secs(3_600 + 300);
/// One request to SNS, and the wait for one's turn; its certificates that are asked for at once, and how many more wait for
/// it. Over: 503, and it comes again by itself.
pub const SNS_TIMEOUT: Duration = Duration::from_secs(5);
pub const SNS_FETCHES: usize = 4;
pub const SNS_FETCHES_WAITING: usize = 64;
/// Certificates that are kept, and how long before they are asked for again. Over: all are fetched anew.
pub const SNS_CERTIFICATES: usize = 16;
pub const SNS_CERTIFICATE_AGE: Duration = Duration::from_secs(24 * 3600);
/// Of why an address is suppressed. Over: cut off.
pub const SUPPRESSION_REASON_CHARS: usize = 500;
/// Of what a provider calls a message, as the delivery log keeps it. Over: cut off.
pub const PROVIDER_ID_CHARS: usize = 200;
/// An address of RFC 5321 without its brackets. Over: 422.
pub const EMAIL_ADDRESS_BYTES: usize = 254;

/// How often a dispatcher looks for users who are to be forgotten. Each takes 200 B for as long as it is kept, the time of
/// all rows.
pub const ERASURES_EVERY: Duration = Duration::from_secs(1);
/// So long every dispatcher has to learn of one before anything is removed; then so many are at work at once, and so many
/// rows of a table are removed in one step.
pub const ERASURE_AFTER: Duration = Duration::from_secs(4);
pub const ERASURES_AT_ONCE: usize = 16;
pub const ERASE_ROWS: usize = 1_000;
/// A mail that was sent so long after an order may still be of before: every dispatcher had to learn of the order, and the
/// relay's clock may differ.
pub const ERASED_ON_ITS_WAY: Duration = Duration::from_secs(300);
/// What is told of so long after an order may be of before, where nobody says when the mail was sent: mail servers give up
/// after five days, and say so within another. Later: it counts, for somebody else may have the mailbox.
pub const ERASED_COMES_BACK: Duration = Duration::from_secs(6 * 24 * 3600);
