//! The protocol in memory and in virtual time: a session on one side, a client that follows the rules
//! on the other, and between them a kernel that takes as many bytes as it is told to.

mod delivery;
mod random;
mod sse;
mod time;

use super::*;
use crate::{
    envelope::{Kind, Priority},
    position::ContiguousCursor,
};
use serde_json::Value;
use smallvec::SmallVec;
use std::collections::BTreeMap;

const USER: &str = "user:local";

fn p(offset: u64) -> Position {
    Position::new(1, offset).unwrap()
}

/// A client by the book: it knows only what arrived.
#[derive(Default)]
struct Client {
    unread: Vec<u8>,
    frames: Vec<Value>,
    cursors: BTreeMap<String, ContiguousCursor>,
    heartbeats: usize,
    last_event_id: Option<String>,
    retry_ms: Option<u64>,
}

impl Client {
    fn take(&mut self, framing: Framing, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        while let Some(end) = match framing {
            Framing::WebSocket => self.take_websocket_frame(),
            Framing::Sse => self.take_event(),
        } {
            self.unread.drain(..end);
        }
    }

    fn take_websocket_frame(&mut self) -> Option<usize> {
        let [first, length, ..] = *self.unread else {
            return None;
        };
        let (header, length) = match length {
            126 => (
                4,
                usize::from(u16::from_be_bytes(
                    self.unread.get(2..4)?.try_into().unwrap(),
                )),
            ),
            127 => (
                10,
                u64::from_be_bytes(self.unread.get(2..10)?.try_into().unwrap()) as usize,
            ),
            length => (2, usize::from(length)),
        };
        let payload = self.unread.get(header..header + length)?.to_vec();
        match first {
            0x81 => self.take_frame(&payload),
            0x89 => self.heartbeats += 1,
            0x88 => self.frames.push(serde_json::json!({"type": "close"})),
            other => panic!("the stream of frames is broken: {other:#x}"),
        }
        Some(header + length)
    }

    fn take_event(&mut self) -> Option<usize> {
        let end = self.unread.windows(2).position(|two| two == b"\n\n")? + 2;
        let event = String::from_utf8(self.unread[..end].to_vec()).unwrap();
        let mut data = None;
        for line in event.lines().filter(|line| !line.is_empty()) {
            let (field, value) = line.split_once(':').expect("a field");
            match (field, value.trim_start()) {
                ("", _) => self.heartbeats += 1,
                ("id", id) => self.last_event_id = Some(id.to_owned()),
                ("retry", retry) => self.retry_ms = Some(retry.parse().unwrap()),
                ("data", json) => data = Some(json.to_owned()),
                ("event", _) => {}
                other => panic!("the stream of events is broken: {other:?}"),
            }
        }
        if let Some(json) = data {
            self.take_frame(json.as_bytes());
            let name = self.frames.last().unwrap()["type"].as_str().unwrap();
            assert!(event.starts_with(&format!("event: {name}\n")), "{event}");
        }
        Some(end)
    }

    fn take_frame(&mut self, json: &[u8]) {
        let frame: Value = serde_json::from_slice(json).expect("JSON");
        let at = |field: &str| Position::from_wire(frame[field].as_u64().unwrap()).unwrap();
        let stream = frame["stream"].as_str().unwrap_or_default().to_owned();
        match (frame["type"].as_str().unwrap(), frame["cause"].as_str()) {
            ("notification" | "read", _) => self.cursor(&stream).advance(at("prev"), at("pos")),
            ("gap", Some("collapsed" | "expired")) => {
                self.cursor(&stream).cover(at("from"), at("to"))
            }
            _ => {}
        }
        self.frames.push(frame);
    }

    fn cursor(&mut self, stream: &str) -> &mut ContiguousCursor {
        self.cursors
            .entry(stream.to_owned())
            .or_insert_with(|| ContiguousCursor::starting_at(p(0)))
    }

    fn types(&self) -> Vec<&str> {
        self.frames
            .iter()
            .map(|frame| frame["type"].as_str().unwrap())
            .collect()
    }

    /// Offsets of the notifications that arrived, in the order they did.
    fn offsets(&self) -> Vec<u64> {
        self.of_type("notification")
            .map(|frame| {
                Position::from_wire(frame["pos"].as_u64().unwrap())
                    .unwrap()
                    .offset()
            })
            .collect()
    }

    fn of_type(&self, name: &str) -> impl Iterator<Item = &Value> {
        self.frames
            .iter()
            .filter(move |frame| frame["type"] == name)
    }
}

struct Pair {
    session: Session,
    client: Client,
    cfg: SessionConfig,
    now: Now,
    /// Bytes the kernel takes before it says no.
    room: usize,
    actions: Vec<Action>,
}

const OPEN: usize = usize::MAX;
/// Unix seconds at the start of every test, and a token's end far after it.
const START_S: u64 = 1_760_000_000;
const EXPIRES_S: u64 = START_S + 86_400;

impl Pair {
    fn new(framing: Framing) -> Pair {
        let region = "local".parse().unwrap();
        let cfg = SessionConfig::new(&config::Gateway::default(), &region);
        let now = Now {
            mono_ms: 5_000,
            unix_ms: START_S * 1_000,
        };
        Pair {
            session: Session::new(framing, EXPIRES_S, 7, now, &cfg),
            client: Client::default(),
            cfg,
            now,
            room: OPEN,
            actions: Vec::new(),
        }
    }

    fn websocket() -> Pair {
        Pair::new(Framing::WebSocket)
    }

    /// Delivers as the gateway does: directly if nothing waits, else through the lanes.
    fn deliver(&mut self, ticket: Ticket, item: Item) {
        let item = Arc::new(item);
        if let Some(bytes) = self.session.direct(&item, self.now) {
            let written = bytes.len().min(self.room);
            self.room -= if self.room == OPEN { 0 } else { written };
            let bytes = bytes.slice(..written);
            self.client.take(self.session.framing(), &bytes);
            self.session
                .sent_directly(&item, ticket, written, self.now, &mut self.actions);
        } else {
            self.session
                .deliver(&item, ticket, self.now, &self.cfg, &mut self.actions);
            self.flush();
        }
    }

    fn receive(&mut self, text: &str) {
        self.session.heard(self.now);
        self.session
            .receive(text, self.now, &self.cfg, &mut self.actions);
        self.flush();
    }

    fn flush(&mut self) {
        while self.session.wants_write() && self.room > 0 {
            let mut slices = SmallVec::new();
            self.session
                .gather(self.now, &mut slices, &mut self.actions);
            assert!(
                !slices.spilled(),
                "more slices than one writev was sized for"
            );
            let mut bytes = slices.concat();
            drop(slices);
            bytes.truncate(self.room);
            self.room -= if self.room == OPEN { 0 } else { bytes.len() };
            self.client.take(self.session.framing(), &bytes);
            self.session
                .advance(bytes.len(), self.now, &self.cfg, &mut self.actions);
        }
    }

    /// The kernel takes no more from here on.
    fn block(&mut self) {
        self.room = 0;
    }

    fn unblock(&mut self) {
        self.room = OPEN;
        self.flush();
    }

    /// Time passes, second by second.
    fn after(&mut self, ms: u64) {
        let end = self.now.mono_ms + ms;
        while self.now.mono_ms < end {
            let step = 1_000.min(end - self.now.mono_ms);
            self.now.mono_ms += step;
            self.now.unix_ms += step;
            self.beat();
            self.session.tick(self.now, &self.cfg, &mut self.actions);
            self.flush();
        }
    }

    /// As the gateway does, directly if nothing waits.
    fn beat(&mut self) {
        if let Some(bytes) = self.session.direct_heartbeat(self.now, &self.cfg) {
            let written = bytes.len().min(self.room);
            self.room -= if self.room == OPEN { 0 } else { written };
            self.client.take(self.session.framing(), &bytes[..written]);
            self.session.heartbeat_sent(written, self.now);
        }
    }

    /// Fates since the last call, by ticket.
    fn fates(&mut self) -> Vec<(Ticket, Fate)> {
        self.actions
            .drain(..)
            .filter_map(|action| match action {
                Action::Fate { ticket, fate } => Some((ticket, fate)),
                _ => None,
            })
            .collect()
    }

    fn closed(&self) -> Option<CloseCode> {
        self.actions.iter().find_map(|action| match action {
            Action::Close { code, .. } => Some(*code),
            _ => None,
        })
    }

    fn synced(&mut self, offset: u64, complete: bool) {
        let cursors = Cursors::from([(USER.to_owned(), p(offset))]);
        let json = frames::sync(&[], &BTreeMap::new(), &cursors, complete, false);
        self.session
            .synced(&json, &cursors, complete, &mut self.actions);
        self.flush();
    }
}

/// The item at `offset` of the user's stream; the one before it stands at `offset - 1`.
struct Draft {
    offset: u64,
    lane: Priority,
    expires_ms: Option<u64>,
    collapse_key: Option<&'static str>,
    bytes: usize,
}

fn draft(offset: u64) -> Draft {
    Draft {
        offset,
        lane: Priority::Normal,
        expires_ms: None,
        collapse_key: None,
        bytes: 0,
    }
}

impl Draft {
    fn lane(self, lane: Priority) -> Draft {
        Draft { lane, ..self }
    }

    fn expires_in(self, ms: u64) -> Draft {
        let expires_ms = Some(START_S * 1_000 + ms);
        Draft { expires_ms, ..self }
    }

    fn key(self, key: &'static str) -> Draft {
        let collapse_key = Some(key);
        Draft {
            collapse_key,
            ..self
        }
    }

    fn bytes(self, bytes: usize) -> Draft {
        Draft { bytes, ..self }
    }

    fn item(self) -> Item {
        let (pos, prev) = (p(self.offset), p(self.offset - 1));
        let filling = "x".repeat(self.bytes);
        let json = format!(
            r#"{{"type":"notification","stream":"{USER}","pos":{pos},"prev":{prev},"data":"{filling}"}}"#
        );
        Item::new(
            Kind::Notification,
            NotificationId::generate(),
            USER.into(),
            pos,
            prev,
            self.lane,
            self.expires_ms,
            self.collapse_key.map(Box::from),
            json.into(),
        )
    }
}
