//! Of what users are sent, producers post and providers take.

use std::{ops::RangeInclusive, time::Duration};

/// (config) Notifications of one user in any hour, by channel; critical is exempt. Over: not sent on that channel, `limited`
/// in the delivery log, and the inbox row stays.
pub const USER_IN_APP_PER_HOUR: u32 = 100;
pub const USER_PUSH_PER_HOUR: u32 = 20;
pub const USER_EMAIL_PER_HOUR: u32 = 10;
pub const USER_SMS_PER_HOUR: u32 = 5;
pub const USER_SMS_CODES_PER_HOUR: u32 = 10;
/// (config) The same of e-mail with a marketing type, in any 24 hours.
pub const USER_MARKETING_PER_DAY: u32 = 2;
/// What a user's limit may be set to: each notification below it is remembered, 40 B, for its hour or day.
pub const USER_LIMIT_MAX: u32 = 1_000;
/// (config) Notifications of one producer a minute, and this many at once. Over: 429.
pub const PRODUCER_PER_MINUTE: u32 = 10_000;
/// (config) What one dispatcher is meant for. Above these shares of it, in percent, a priority is refused with 503.
pub const DESIGN_PER_S: u32 = 10_000;
pub const OVERLOAD_LOW: u64 = 150;
pub const OVERLOAD_NORMAL: u64 = 175;
pub const OVERLOAD_HIGH: u64 = 200;
/// What these two may be set to.
pub const RATE_MAX: u32 = 100_000_000;
/// Producers with a limit of their own. Over: refused at the start.
pub const CONFIGURED_PRODUCERS: usize = 1_000;
/// How often dispatchers tell each other what producers posted. In between each goes by its own count, so that intake asks
/// nobody.
pub const PRODUCERS_SETTLE: Duration = Duration::from_millis(250);
/// (config) Sends a second of the whole fleet, by provider, and what of it may leave at once. Over: each waits so long, and
/// goes to a delay topic then.
pub const FCM_PER_S: u32 = 800;
pub const APNS_PER_S: u32 = 4_000;
pub const EMAIL_PER_S: u32 = 150;
pub const SMS_PER_S: u32 = 250;
pub const PROVIDER_PER_S_ALLOWED: RangeInclusive<u32> = 0..=1_000_000;
pub const PROVIDER_BURST: Duration = Duration::from_millis(100);
pub const PROVIDER_WAIT: Duration = Duration::from_secs(5);
/// Notifications of users that are counted in memory, 100 B each at most, and rates. Over: all are forgotten and counted
/// anew.
pub const QUOTA_REMEMBERED: usize = 500_000;
pub const QUOTA_RATES: usize = 10_000;

/// Users of a segment. Over: 413; a broadcast reaches more.
pub const SEGMENT_USERS: u64 = 1_000_000;
/// Tags of one user, of one broadcast, and bytes of a tag. Over: 422.
pub const PREFERENCE_TAGS: usize = 50;
pub const TARGET_TAGS: usize = 10;
pub const TAG_BYTES: usize = 64;
/// From so many users on a segment is sent to at this rate, a second; a smaller one as fast as it goes.
pub const SEGMENT_LARGE: u64 = 100_000;
pub const SEGMENT_PER_S: f64 = 50_000.0;
