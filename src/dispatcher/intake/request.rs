//! What a producer may ask for, and which field of a request is wrong.
//!
//! Both doors (HTTP and gRPC) fill a [`Draft`]; [`Draft::check`] is the only judge of it.

use super::{
    audience::{self, Audience},
    fields::Fields,
};
use crate::{
    dispatcher::{fallback::Chains, spool::SpoolError},
    envelope::{Channel, Content, Priority},
    limits,
};
use jiff::Timestamp;
use serde_json::{Map, Value, value::RawValue};
use std::collections::BTreeSet;
use thiserror::Error;

const TIME: &str = "a time: Unix ms, or RFC 3339 as 2026-12-24T18:00:00+01:00";
const TARGET: &str = "an object with `user`, `users`, `segment` or `all`";

/// Why a request is not taken. Nothing of it was written.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// It broke off, or was not framed as HTTP has it.
    #[error("the body did not come whole: {0}")]
    BadBody(String),
    #[error("the body is no JSON object: {0}")]
    BadJson(String),
    #[error("{field}: {problem}")]
    Field { field: String, problem: String },
    #[error("{field}: {problem}")]
    Unsupported { field: String, problem: String },
    #[error("{field}: {problem}")]
    TooLarge { field: String, problem: String },
    #[error("this idempotency key was used with another body")]
    Conflict,
    /// Nothing durable was promised: try again, best with an idempotency key.
    #[error("{part} is away: try again")]
    Away { part: &'static str },
    /// The bus is away, and the spool did not take it. As with `Away`, the bus may have it all the same.
    #[error("the bus is away and {0}: try again")]
    NotSpooled(SpoolError),
    #[error(
        "this producer has posted more than {per_minute} notifications a minute: try again in {retry_after_s} s"
    )]
    TooMany { per_minute: u32, retry_after_s: u32 },
    #[error(
        "more comes in than this dispatcher is meant for ({percent} %), and others go first: try again"
    )]
    Overloaded { percent: u64 },
    #[error("the day's budget of {channels} is spent: try again in {retry_after_s} s")]
    OverBudget {
        channels: String,
        retry_after_s: u32,
    },
}

impl Refusal {
    pub fn field(field: impl Into<String>, problem: impl Into<String>) -> Refusal {
        Refusal::Field {
            field: field.into(),
            problem: problem.into(),
        }
    }

    /// Stable word for programs and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Refusal::BadBody(_) => "bad_body",
            Refusal::BadJson(_) => "bad_json",
            Refusal::Field { .. } => "bad_field",
            Refusal::Unsupported { .. } => "unsupported",
            Refusal::TooLarge { .. } => "too_large",
            Refusal::Conflict => "idempotency_conflict",
            Refusal::Away { .. } => "unavailable",
            Refusal::NotSpooled(SpoolError::Full(_)) => "spool_full",
            Refusal::NotSpooled(SpoolError::Failed(_)) => "spool_failed",
            Refusal::TooMany { .. } => "rate_limited",
            Refusal::Overloaded { .. } => "overloaded",
            Refusal::OverBudget { .. } => "over_budget",
        }
    }

    pub fn named_field(&self) -> Option<&str> {
        match self {
            Refusal::Field { field, .. }
            | Refusal::Unsupported { field, .. }
            | Refusal::TooLarge { field, .. } => Some(field),
            _ => None,
        }
    }
}

/// A request that is in order.
#[derive(Clone, Debug)]
pub struct Submission {
    pub audience: Audience,
    /// Without its producer, which is not the request's to say.
    pub content: Content,
    /// Unix ms; by a clock it may be over.
    pub schedule_at: Option<u64>,
}

/// A request as it came; `None` is "not given".
#[derive(Debug, Default)]
pub struct Draft {
    pub user: Option<String>,
    pub users: Option<Vec<String>>,
    pub segment: Option<String>,
    pub all: bool,
    /// Of `all`, whom it is for.
    pub tags: Option<Vec<String>>,
    pub notification_type: Option<String>,
    pub priority: Option<String>,
    pub channels: Option<Vec<String>>,
    pub title: Option<String>,
    pub body: Option<String>,
    pub data: Option<Box<RawValue>>,
    pub push: Option<Box<RawValue>>,
    pub collapse_key: Option<String>,
    pub ttl_s: Option<u64>,
    /// Unix ms.
    pub schedule_at: Option<u64>,
    /// Bytes of the JSON as sent, but for its target. By gRPC there is none: what it becomes is measured.
    pub json_bytes: Option<usize>,
}

impl Draft {
    /// Reads the JSON body of `POST /v1/notifications`. A field that is `null` counts as not given.
    pub fn from_json(body: &[u8]) -> Result<Draft, Refusal> {
        let mut fields = Fields::read(body)?;
        let schedule_at = fields.take::<&RawValue>("schedule_at", TIME)?;
        let raw: &RawValue = fields.demand("target", TARGET)?;
        let mut target = Fields::within("target", raw, TARGET)?;
        let draft = Draft {
            user: target.take("user", "a string")?,
            users: target.take("users", "a list of strings")?,
            segment: target.take("segment", "a string")?,
            all: target.take("all", "true or false")?.unwrap_or_default(),
            tags: target.take("tags", "a list of strings")?,
            notification_type: fields.take("type", "a string")?,
            priority: fields.take("priority", "a string")?,
            channels: fields.take("channels", "a list of strings")?,
            title: fields.take("title", "a string")?,
            body: fields.take("body", "a string")?,
            data: fields.take("data", "an object")?,
            push: fields.take("push", "an object")?,
            collapse_key: fields.take("collapse_key", "a string")?,
            ttl_s: fields.take("ttl_s", "a whole number of seconds")?,
            schedule_at: schedule_at.map(time).transpose()?,
            json_bytes: Some(body.len() - raw.get().len()),
        };
        target.finish("a target")?;
        fields.finish("a notification")?;
        Ok(draft)
    }

    pub fn check(self, chains: &Chains) -> Result<Submission, Refusal> {
        let audience = audience::read(self.user, self.users, self.segment, self.all)?;
        let tags = audience::tags(&audience, self.tags, self.collapse_key.is_some())?;
        let priority = match self.priority {
            None => Priority::default(),
            Some(text) => text.parse().map_err(|()| {
                Refusal::field("priority", "is one of critical, high, normal, low")
            })?,
        };
        let notification_type = required_text("type", self.notification_type, limits::TYPE_BYTES)?;
        let is_code = chains.is_code(&notification_type);
        let content = Content {
            priority,
            channels: match self.channels {
                Some(asked) => {
                    channels(&asked, &audience, priority == Priority::Critical || is_code)?
                }
                None => usual_channels(priority, is_code, &audience),
            },
            notification_type,
            title: self.title,
            body: self.body,
            data: self
                .data
                .map(|data| one_line_object("data", data))
                .transpose()?,
            push: self.push.map(push_options).transpose()?,
            collapse_key: self
                .collapse_key
                .map(|key| required_text("collapse_key", Some(key), limits::COLLAPSE_KEY_BYTES))
                .transpose()?,
            tags,
            ttl_s: ttl(self.ttl_s, priority)?,
            producer: String::new(),
        };
        let becomes = || serde_json::to_vec(&content).map_or(0, |text| text.len());
        if self.json_bytes.unwrap_or_else(becomes) > limits::NOTIFICATION_BYTES {
            return Err(too_large_notification());
        }
        Ok(Submission {
            audience,
            content,
            schedule_at: self.schedule_at,
        })
    }
}

/// In both of its forms.
fn time(raw: &RawValue) -> Result<u64, Refusal> {
    let unix_ms = match serde_json::from_str::<String>(raw.get()) {
        Ok(text) => {
            let at: Option<Timestamp> = text.parse().ok();
            at.and_then(|at| u64::try_from(at.as_millisecond()).ok())
        }
        Err(_) => raw.get().parse().ok(),
    };
    unix_ms.ok_or_else(|| Refusal::field("schedule_at", format!("is not {TIME}")))
}

fn too_large_notification() -> Refusal {
    Refusal::TooLarge {
        field: "body".into(),
        problem: format!(
            "the request's JSON has at most {} B beside its `target`",
            limits::NOTIFICATION_BYTES
        ),
    }
}

fn required_text(
    field: &'static str,
    value: Option<String>,
    bytes_max: usize,
) -> Result<String, Refusal> {
    let value = value.ok_or_else(|| Refusal::field(field, "is missing"))?;
    let fits = (1..=bytes_max).contains(&value.len()) && !value.chars().any(char::is_control);
    fits.then_some(value).ok_or_else(|| {
        Refusal::field(
            field,
            format!("has 1 to {bytes_max} bytes without control characters"),
        )
    })
}

/// What the tier means when nothing was asked for.
fn usual_channels(priority: Priority, is_code: bool, audience: &Audience) -> Vec<Channel> {
    use Channel::{Email, InApp, Push, Sms};
    match (priority, audience) {
        (_, Audience::All) => vec![InApp],
        // It is of no use in an inbox.
        _ if is_code => vec![Push, Email, Sms],
        (Priority::Critical, _) => vec![InApp, Push, Email, Sms],
        (Priority::High, _) => vec![InApp, Push, Email],
        _ => vec![InApp],
    }
}

/// `may_cost`: text messages are paid for, each of them.
fn channels(
    asked: &[String],
    audience: &Audience,
    may_cost: bool,
) -> Result<Vec<Channel>, Refusal> {
    let mut channels = BTreeSet::new();
    for (at, name) in asked.iter().enumerate() {
        let channel = name.parse::<Channel>().map_err(|()| {
            Refusal::field(
                format!("channels[{at}]"),
                "is one of in_app, push, email, sms",
            )
        })?;
        if *audience == Audience::All && channel != Channel::InApp {
            return Err(Refusal::Unsupported {
                field: format!("channels[{at}]"),
                problem: "only in_app reaches `all` in this release".into(),
            });
        }
        if channel == Channel::Sms && !may_cost {
            let problem = "sms is for critical and for codes (fallback.code_types)";
            return Err(Refusal::field(format!("channels[{at}]"), problem));
        }
        channels.insert(channel);
    }
    match channels.is_empty() {
        true => Err(Refusal::field("channels", "is empty")),
        false => Ok(channels.into_iter().collect()),
    }
}

fn ttl(asked: Option<u64>, priority: Priority) -> Result<Option<u32>, Refusal> {
    match asked {
        None if priority == Priority::Critical => Ok(Some(limits::CRITICAL_TTL_S)),
        None => Ok(None),
        Some(ttl_s) if (1..=u64::from(limits::TTL_S_MAX)).contains(&ttl_s) => {
            Ok(Some(ttl_s as u32))
        }
        Some(_) => Err(Refusal::field(
            "ttl_s",
            format!("is 1 to {} seconds", limits::TTL_S_MAX),
        )),
    }
}

/// `data` travels as it came, but on one line: an SSE frame is one line, and a line break in valid JSON
/// can only stand between tokens.
fn one_line_object(field: &str, data: Box<RawValue>) -> Result<Box<RawValue>, Refusal> {
    if !data.get().starts_with('{') {
        return Err(Refusal::field(field, "is not an object"));
    }
    if depth(data.get()) > limits::DATA_DEPTH {
        let problem = format!("is nested deeper than {} levels", limits::DATA_DEPTH);
        return Err(Refusal::field(field, problem));
    }
    if !data.get().contains(['\n', '\r']) {
        return Ok(data);
    }
    let one_line = data.get().replace(['\n', '\r'], "");
    RawValue::from_string(one_line).map_err(|_| Refusal::field(field, "is not an object"))
}

/// Whose options they are is ours to know; what they say, the provider's.
fn push_options(push: Box<RawValue>) -> Result<Box<RawValue>, Refusal> {
    let mut blocks = Fields::within("push", &push, "an object")?;
    for block in ["android", "apns", "webpush"] {
        let _: Option<Map<String, Value>> = blocks.take(block, "an object")?;
    }
    blocks.finish("push options")?;
    one_line_object("push", push)
}

/// Levels of objects and lists in valid JSON. One pass over the bytes, whatever they hold.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth -= 1,
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<Submission, Refusal> {
        Draft::from_json(json.as_bytes()).and_then(|draft| draft.check(&Chains::default()))
    }

    fn field_of(json: &str) -> String {
        let refusal = check(json).expect_err(json);
        refusal.named_field().unwrap_or(refusal.code()).to_owned()
    }

    #[test]
    fn the_least_a_request_needs_is_a_target_and_a_type() {
        let submission = check(r#"{"target":{"user":"42"},"type":"order"}"#).unwrap();
        assert_eq!(submission.audience, Audience::User("42".parse().unwrap()));
        assert_eq!(submission.content.channels, [Channel::InApp]);
        assert_eq!(submission.content.priority, Priority::Normal);
        assert_eq!(submission.content.ttl_s, None);
    }

    #[test]
    fn critical_goes_by_every_channel_and_lives_a_day_unless_told_otherwise() {
        let content = check(r#"{"target":{"user":"42"},"type":"x","priority":"critical"}"#)
            .unwrap()
            .content;
        assert_eq!(content.channels.len(), 4);
        assert_eq!(content.ttl_s, Some(86_400));
    }

    #[test]
    fn high_and_codes_go_by_their_chain_unless_told_otherwise() {
        let channels = |json: &str| check(json).unwrap().content.channels;
        let high = channels(r#"{"target":{"user":"42"},"type":"x","priority":"high"}"#);
        assert_eq!(high, [Channel::InApp, Channel::Push, Channel::Email]);
        let code = channels(r#"{"target":{"user":"42"},"type":"two_factor"}"#);
        assert_eq!(code, [Channel::Push, Channel::Email, Channel::Sms]);
        let to_all = channels(r#"{"target":{"all":true},"type":"x","priority":"high"}"#);
        assert_eq!(to_all, [Channel::InApp]);
    }

    #[test]
    fn a_time_is_given_in_unix_ms_or_as_people_write_it() {
        let time = |text: &str| {
            let json = format!(r#"{{"target":{{"user":"1"}},"type":"x","schedule_at":{text}}}"#);
            check(&json).map(|submission| submission.schedule_at)
        };
        assert_eq!(time("1798131600000"), Ok(Some(1_798_131_600_000)));
        assert_eq!(
            time(r#""2026-12-24T18:00:00+01:00""#),
            Ok(Some(1_798_131_600_000))
        );
        assert_eq!(time("null"), Ok(None));
        for wrong in ["1.5", "-1", "{}", "true", r#""2026-12-24""#] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (json, field) in [
            ("[]", "bad_json"),
            ("{", "bad_json"),
            (r#"{"target":{"user":"1"},"type":"x","type":"y"}"#, "type"),
            (
                r#"{"target":{"user":"1"},"type":"x","target":{"user":"1"}}"#,
                "target",
            ),
            (
                r#"{"target":{"user":"1","user":"1"},"type":"x"}"#,
                "target.user",
            ),
            (
                r#"{"target":{"user":"1"},"type":"x","title":null,"\u0074itle":"t"}"#,
                "title",
            ),
            (r#"{"type":"x"}"#, "target"),
            (r#"{"target":{},"type":"x"}"#, "target"),
            (r#"{"target":{"user":"1","all":true},"type":"x"}"#, "target"),
            (r#"{"target":"1","type":"x"}"#, "target"),
            (r#"{"target":{"team":"1"},"type":"x"}"#, "target.team"),
            (r#"{"target":{"user":1},"type":"x"}"#, "target.user"),
            (r#"{"target":{"users":"a"},"type":"x"}"#, "target.users"),
            (r#"{"target":{"all":"yes"},"type":"x"}"#, "target.all"),
            (r#"{"target":{"user":""},"type":"x"}"#, "target.user"),
            (r#"{"target":{"users":[]},"type":"x"}"#, "target.users"),
            (
                r#"{"target":{"users":["1",""]},"type":"x"}"#,
                "target.users[1]",
            ),
            (r#"{"target":{"user":"1"}}"#, "type"),
            (r#"{"target":{"user":"1"},"type":7}"#, "type"),
            (
                r#"{"target":{"user":"1"},"type":"x","priority":"huge"}"#,
                "priority",
            ),
            (
                r#"{"target":{"user":"1"},"type":"x","channels":["fax"]}"#,
                "channels[0]",
            ),
            (
                r#"{"target":{"user":"1"},"type":"x","channels":[]}"#,
                "channels",
            ),
            (
                r#"{"target":{"all":true},"type":"x","channels":["push"]}"#,
                "channels[0]",
            ),
            (r#"{"target":{"user":"1"},"type":"x","data":[1]}"#, "data"),
            (r#"{"target":{"user":"1"},"type":"x","push":5}"#, "push"),
            (
                r#"{"target":{"user":"1"},"type":"x","push":{"ios":{}}}"#,
                "push.ios",
            ),
            (
                r#"{"target":{"user":"1"},"type":"x","push":{"apns":1}}"#,
                "push.apns",
            ),
            (r#"{"target":{"user":"1"},"type":"x","ttl_s":0}"#, "ttl_s"),
            (r#"{"target":{"user":"1"},"type":"x","ttl_s":-1}"#, "ttl_s"),
            (
                r#"{"target":{"user":"1"},"type":"x","ttl_s":9999999999}"#,
                "ttl_s",
            ),
            (
                r#"{"target":{"user":"1"},"type":"x","collapse_key":""}"#,
                "collapse_key",
            ),
            (
                r#"{"target":{"user":"1"},"type":"x","colapse_key":"a"}"#,
                "colapse_key",
            ),
            (
                r#"{"target":{"user":"1"},"type":"x","schedule_at":"tomorrow"}"#,
                "schedule_at",
            ),
        ] {
            assert_eq!(field_of(json), field, "{json}");
        }
    }

    #[test]
    fn too_many_users_and_too_many_bytes_are_too_large() {
        let users: Vec<String> = (0..10_001).map(|user| format!("\"{user}\"")).collect();
        let many = format!(
            r#"{{"target":{{"users":[{}]}},"type":"x"}}"#,
            users.join(",")
        );
        let long = format!(
            r#"{{"target":{{"user":"1"}},"type":"x","body":"{}"}}"#,
            "a".repeat(40_000)
        );
        for json in [many, long] {
            assert_eq!(check(&json).unwrap_err().code(), "too_large");
        }
    }

    #[test]
    fn the_bound_is_on_the_request_as_sent_beside_its_target() {
        let sent = |target: &str, rest_bytes: usize| {
            let frame = r#"{"target":,"type":"x","body":""}"#.len();
            let text =
                "\u{e9}".repeat((rest_bytes - frame) / 2) + &"a".repeat((rest_bytes - frame) % 2);
            format!(r#"{{"target":{target},"type":"x","body":"{text}"}}"#)
        };
        for target in [
            r#"{"user":"1"}"#,
            r#"{"users":["1","2"]}"#,
            r#"{"all":true}"#,
        ] {
            check(&sent(target, limits::NOTIFICATION_BYTES)).unwrap();
            let refusal = check(&sent(target, limits::NOTIFICATION_BYTES + 1)).unwrap_err();
            let said = "body: the request's JSON has at most 32768 B beside its `target`";
            assert_eq!(refusal.to_string(), said);
        }
    }

    #[test]
    fn a_repeated_user_of_a_list_counts_once() {
        let submission = check(r#"{"target":{"users":["b","a","b"]},"type":"x"}"#).unwrap();
        let expected = ["b", "a"].map(|user| user.parse().unwrap()).to_vec();
        assert_eq!(submission.audience, Audience::Users(expected));
    }

    #[test]
    fn data_is_passed_through_untouched_but_for_line_breaks() {
        let submission =
            check("{\"target\":{\"user\":\"1\"},\"type\":\"x\",\"data\":{\"n\": 1.50,\r\n\"s\":\"a\\nb\"}}")
                .unwrap();
        let data = submission.content.data.unwrap();
        assert_eq!(data.get(), "{\"n\": 1.50,\"s\":\"a\\nb\"}");
    }
}
