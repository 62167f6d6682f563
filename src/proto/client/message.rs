//! Client frames, parsed into what they ask for.

use crate::{
    config::Secret,
    ids::NotificationId,
    limits::{CLIENT_CURSORS, CLIENT_IDS, SYNC_ITEMS, TOKEN_BYTES},
    position::{Cursors, Position},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{borrow::Cow, collections::BTreeMap};
use thiserror::Error;

use super::cursors::is_stream_name;

/// One frame of a client, within its bounds.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientMessage {
    Auth {
        token: Secret,
        cursors: Option<Cursors>,
    },
    Ack {
        ids: Vec<NotificationId>,
    },
    Read {
        ids: Vec<NotificationId>,
    },
    Sync {
        cursors: Cursors,
        /// 1 to [`SYNC_ITEMS`].
        limit: usize,
    },
    Ping,
}

/// `code` of an `error` frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    BadJson,
    UnknownType,
    BadField,
    TooManyIds,
    RateLimited,
    Unavailable,
}

impl ErrorCode {
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BadJson => "bad_json",
            ErrorCode::UnknownType => "unknown_type",
            ErrorCode::BadField => "bad_field",
            ErrorCode::TooManyIds => "too_many_ids",
            ErrorCode::RateLimited => "rate_limited",
            ErrorCode::Unavailable => "unavailable",
        }
    }
}

/// Why a frame was not taken. The connection lives on; the client is told by an `error` frame.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{}: {message}", code.as_str())]
pub struct Refusal {
    pub code: ErrorCode,
    pub message: &'static str,
}

fn refuse<T>(code: ErrorCode, message: &'static str) -> Result<T, Refusal> {
    Err(Refusal { code, message })
}

/// Fields stay raw until the type says which of them matter: an unknown frame, or a field of another
/// frame's shape, costs no more than finding its end.
#[derive(Deserialize)]
struct RawMessage<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    token: Option<&'a RawValue>,
    #[serde(borrow)]
    ids: Option<&'a RawValue>,
    #[serde(borrow)]
    cursors: Option<&'a RawValue>,
    #[serde(borrow)]
    limit: Option<&'a RawValue>,
}

/// Parses one client frame. The caller has bounded `text` by the message limit.
pub fn parse(text: &str) -> Result<ClientMessage, Refusal> {
    // A struct may also be read from a JSON array, by position: not here.
    if !text.trim_start().starts_with('{') {
        return refuse(ErrorCode::BadJson, "a frame is a JSON object");
    }
    let Ok(raw) = serde_json::from_str::<RawMessage>(text) else {
        return refuse(
            ErrorCode::BadJson,
            "not JSON, or a field that stands there twice",
        );
    };
    let Some(kind) = raw.kind.and_then(value::<Cow<str>>) else {
        return refuse(ErrorCode::BadField, "type: a string is needed");
    };
    of_type(&kind, &raw)
}

/// Parses the body of a `POST /sse/<kind>`: a frame whose type the path gives.
pub fn parse_body(kind: &str, body: &[u8]) -> Result<ClientMessage, Refusal> {
    match serde_json::from_slice::<RawMessage>(body) {
        Ok(raw) if body.trim_ascii_start().starts_with(b"{") => of_type(kind, &raw),
        _ => refuse(ErrorCode::BadJson, "the body is a JSON object"),
    }
}

fn of_type(kind: &str, raw: &RawMessage) -> Result<ClientMessage, Refusal> {
    match kind {
        "auth" => Ok(ClientMessage::Auth {
            token: token(raw.token)?,
            cursors: raw.cursors.map(cursors).transpose()?,
        }),
        "ack" => Ok(ClientMessage::Ack { ids: ids(raw.ids)? }),
        "read" => Ok(ClientMessage::Read { ids: ids(raw.ids)? }),
        "sync" => Ok(ClientMessage::Sync {
            cursors: raw.cursors.map(cursors).transpose()?.unwrap_or_default(),
            limit: limit(raw.limit)?,
        }),
        "ping" => Ok(ClientMessage::Ping),
        _ => refuse(
            ErrorCode::UnknownType,
            "types are auth, ack, read, sync, ping",
        ),
    }
}

fn value<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

fn token(raw: Option<&RawValue>) -> Result<Secret, Refusal> {
    match raw.and_then(value::<String>) {
        Some(token) if (1..=TOKEN_BYTES).contains(&token.len()) => Ok(Secret::new(token)),
        _ => refuse(
            ErrorCode::BadField,
            "token: a string of at most 4096 bytes is needed",
        ),
    }
}

fn ids(raw: Option<&RawValue>) -> Result<Vec<NotificationId>, Refusal> {
    let Some(texts) = raw.and_then(value::<Vec<Cow<str>>>) else {
        return refuse(ErrorCode::BadField, "ids: a list of strings is needed");
    };
    if texts.len() > CLIENT_IDS {
        return refuse(ErrorCode::TooManyIds, "ids: at most 500 at once");
    }
    texts
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()
        .or_else(|_| refuse(ErrorCode::BadField, "ids: one is not a notification id"))
}

fn cursors(raw: &RawValue) -> Result<Cursors, Refusal> {
    let Some(values) = value::<BTreeMap<String, u64>>(raw) else {
        return refuse(
            ErrorCode::BadField,
            "cursors: an object of stream names and integers is needed",
        );
    };
    if values.len() > CLIENT_CURSORS {
        return refuse(ErrorCode::BadField, "cursors: at most 8 streams");
    }
    values
        .into_iter()
        .map(|(stream, at)| {
            let at = Position::from_wire(at).filter(|_| is_stream_name(&stream));
            at.map(|at| (stream, at))
        })
        .collect::<Option<Cursors>>()
        .map_or_else(
            || {
                refuse(
                    ErrorCode::BadField,
                    "cursors: a name or a position that no server gave",
                )
            },
            Ok,
        )
}

fn limit(raw: Option<&RawValue>) -> Result<usize, Refusal> {
    match raw.map(value::<u64>) {
        None => Ok(SYNC_ITEMS),
        Some(Some(limit)) => Ok(limit.clamp(1, SYNC_ITEMS as u64) as usize),
        Some(None) => refuse(ErrorCode::BadField, "limit: a whole number is needed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code(text: &str) -> ErrorCode {
        parse(text).unwrap_err().code
    }

    fn id_list(count: usize) -> String {
        let ids: Vec<_> = (0..count).map(|_| NotificationId::generate()).collect();
        format!(
            r#"{{"type":"ack","ids":{}}}"#,
            serde_json::to_string(&ids).unwrap()
        )
    }

    #[test]
    fn every_frame_of_the_protocol_is_understood() {
        let id = NotificationId::generate();
        let cursors = Cursors::from([("user:local".into(), Position::new(1, 7).unwrap())]);
        assert_eq!(
            parse(r#"{"type":"auth","token":"t","cursors":{"user:local":1099511627783}}"#),
            Ok(ClientMessage::Auth {
                token: Secret::new("t"),
                cursors: Some(cursors.clone()),
            })
        );
        assert_eq!(
            parse(&format!(r#"{{"ids":["{id}"],"type":"read"}}"#)),
            Ok(ClientMessage::Read { ids: vec![id] })
        );
        assert_eq!(
            parse(r#"{"type":"sync","cursors":{"user:local":1099511627783},"limit":7}"#),
            Ok(ClientMessage::Sync { cursors, limit: 7 })
        );
        assert_eq!(parse(r#" {"type":"ping"} "#), Ok(ClientMessage::Ping));
    }

    #[test]
    fn a_body_is_a_frame_whose_type_the_path_gives() {
        let id = NotificationId::generate();
        assert_eq!(
            parse_body("ack", format!(r#"{{"ids":["{id}"]}}"#).as_bytes()),
            Ok(ClientMessage::Ack { ids: vec![id] })
        );
        let refused = parse_body("ack", b"[]").unwrap_err();
        assert_eq!(refused.code, ErrorCode::BadJson);
    }

    #[test]
    fn unknown_fields_and_fields_of_other_frames_are_ignored_whatever_their_shape() {
        assert_eq!(
            parse(r#"{"type":"ping","ids":7,"token":[],"colour":{"deep":[1]}}"#),
            Ok(ClientMessage::Ping)
        );
        assert_eq!(
            parse(r#"{"type":"auth","token":"t","cursors":null}"#),
            Ok(ClientMessage::Auth {
                token: Secret::new("t"),
                cursors: None,
            })
        );
    }

    #[test]
    fn what_is_not_an_object_is_bad_json() {
        for text in ["", "x", "7", r#"["ping"]"#, r#"{"type":"ping""#, "{}{}"] {
            assert_eq!(code(text), ErrorCode::BadJson, "{text}");
        }
        assert_eq!(code(r#"{"type":"ping","type":"auth"}"#), ErrorCode::BadJson);
    }

    #[test]
    fn an_unknown_type_is_told_apart_from_a_missing_one() {
        assert_eq!(code(r#"{"type":"hologram"}"#), ErrorCode::UnknownType);
        assert_eq!(code(r#"{"type":7}"#), ErrorCode::BadField);
        assert_eq!(code("{}"), ErrorCode::BadField);
    }

    #[test]
    fn five_hundred_ids_are_taken_and_one_more_is_not() {
        let Ok(ClientMessage::Ack { ids }) = parse(&id_list(500)) else {
            panic!("500 ids are within the bound");
        };
        assert_eq!(ids.len(), 500);
        assert_eq!(code(&id_list(501)), ErrorCode::TooManyIds);
        assert_eq!(code(r#"{"type":"ack","ids":["7"]}"#), ErrorCode::BadField);
        assert_eq!(code(r#"{"type":"ack"}"#), ErrorCode::BadField);
    }

    #[test]
    fn cursors_are_bounded_in_number_name_and_value() {
        let many: Vec<_> = (0..9).map(|i| format!(r#""s{i}":1"#)).collect();
        for cursors in [
            many.join(","),
            r#""a,b":1"#.into(),
            r#""user:local":9007199254740992"#.into(),
            r#""user:local":-1"#.into(),
            r#""user:local":1.5"#.into(),
        ] {
            let text = format!(r#"{{"type":"sync","cursors":{{{cursors}}}}}"#);
            assert_eq!(code(&text), ErrorCode::BadField, "{text}");
        }
    }

    #[test]
    fn a_limit_is_brought_into_its_bounds() {
        for (limit, expected) in [("0", 1), ("7", 7), ("51", 50), ("null", 50)] {
            let Ok(ClientMessage::Sync { limit, .. }) =
                parse(&format!(r#"{{"type":"sync","limit":{limit}}}"#))
            else {
                panic!("a sync");
            };
            assert_eq!(limit, expected);
        }
        assert_eq!(code(r#"{"type":"sync","limit":"7"}"#), ErrorCode::BadField);
    }

    #[test]
    fn a_token_is_bounded() {
        let token = "t".repeat(TOKEN_BYTES + 1);
        assert_eq!(
            code(&format!(r#"{{"type":"auth","token":"{token}"}}"#)),
            ErrorCode::BadField
        );
        assert_eq!(code(r#"{"type":"auth","token":""}"#), ErrorCode::BadField);
    }

    /// Texts that look like frames: words of the protocol between JSON's own characters.
    fn almost_a_frame() -> impl Strategy<Value = String> {
        let word = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"",
            "\\",
            "type",
            "\"type\":",
            "\"auth\"",
            "\"ack\"",
            "\"read\"",
            "\"sync\"",
            "\"ping\"",
            "\"ids\":",
            "\"cursors\":",
            "\"limit\":",
            "\"token\":",
            "\"t\"",
            "null",
            "7",
            "-1",
            "1e9",
            "1099511627783",
            "\"user:local\"",
            "\\ud800",
            " ",
            "\n",
        ]);
        prop_oneof![
            prop::collection::vec(word, 0..40).prop_map(|words| words.concat()),
            any::<String>(),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn whatever_a_client_sends_is_taken_within_bounds_or_refused(text in almost_a_frame()) {
            match parse(&text) {
                Ok(ClientMessage::Auth { token, cursors }) => {
                    prop_assert!((1..=TOKEN_BYTES).contains(&token.expose().len()));
                    prop_assert!(cursors.is_none_or(|cursors| cursors.len() <= CLIENT_CURSORS));
                }
                Ok(ClientMessage::Ack { ids } | ClientMessage::Read { ids }) => {
                    prop_assert!(ids.len() <= CLIENT_IDS);
                }
                Ok(ClientMessage::Sync { cursors, limit }) => {
                    prop_assert!(cursors.len() <= CLIENT_CURSORS);
                    prop_assert!((1..=SYNC_ITEMS).contains(&limit));
                }
                Ok(ClientMessage::Ping) => {}
                Err(refusal) => prop_assert!(!refusal.message.is_empty()),
            }
        }
    }
}
