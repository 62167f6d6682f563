//! What a client says, and when.

use super::{
    ACK_EVERY_MS, ACK_IDS_MAX, Context, Ms, Rules, SYNC_ANSWER_MS, SYNC_DOUBLINGS_MAX, SYNC_LIMIT,
    SYNC_PAUSE_MS, Say, Settings, StreamNames, Sync, What, narrow,
};
use crate::accounting::Way;
use rand::RngExt;
use std::fmt::Write;
use uuid::Uuid;

impl Rules {
    /// Whether nothing came for so long that the connection is given up.
    pub fn is_dead(&self, now_ms: u64) -> bool {
        now_ms >= self.silent_for(3)
    }

    /// When so many heartbeats will have been silent.
    fn silent_for(&self, heartbeats: u64) -> u64 {
        u64::from(self.heard_ms) + u64::from(self.heartbeat_ms) * heartbeats
    }

    /// When something will be due, should nothing arrive; not later than it is.
    pub fn next_ms(&self, settings: &Settings) -> u64 {
        if !self.welcomed {
            return u64::MAX;
        }
        let silence = self.silent_for(if self.pinged { 3 } else { 2 });
        let acknowledgement = self.acknowledgement_ms().unwrap_or(u64::MAX);
        let sync = match self.sync {
            Sync::Due(at_ms) => at_ms.into(),
            Sync::Asked(at_ms) => self.sync_again_ms(at_ms),
            Sync::Idle => self.hole_since_ms.map_or(u64::MAX, |since_ms| {
                u64::from(since_ms) + settings.hole_wait_ms
            }),
        };
        silence.min(acknowledgement).min(sync)
    }

    fn acknowledgement_ms(&self) -> Option<u64> {
        let rare = self.rare.as_deref()?;
        (!rare.unacknowledged.is_empty()).then(|| u64::from(self.acknowledged_ms) + ACK_EVERY_MS)
    }

    fn sync_again_ms(&self, asked_ms: Ms) -> u64 {
        u64::from(asked_ms) + (SYNC_ANSWER_MS << self.sync_repeats)
    }

    /// What is due by now.
    pub fn due(&mut self, ctx: &mut Context<'_>, says: &mut Vec<Say>) {
        if !self.welcomed {
            return;
        }
        let now_ms = ctx.now_ms;
        if self.acknowledgement_ms().is_some_and(|at| at <= now_ms) {
            self.acknowledged_ms = narrow(now_ms);
            says.extend(self.take_unacknowledged().chunks(ACK_IDS_MAX).map(ack));
        }
        if self.sync_is_due(ctx) {
            ctx.tally.counters.syncs_asked += 1;
            says.push(self.ask_for_sync(ctx.streams));
            self.sync = Sync::Asked(narrow(now_ms));
        }
        if !self.pinged && now_ms >= self.silent_for(2) {
            self.pinged = true;
            ctx.tally.counters.pings_sent += 1;
            says.push(Say {
                what: What::Ping,
                json: r#"{"type":"ping"}"#.into(),
                ids: Vec::new(),
            });
        }
    }

    /// Gives the memory back as soon as nothing is in it.
    fn take_unacknowledged(&mut self) -> Vec<Uuid> {
        let Some(rare) = &mut self.rare else {
            return Vec::new();
        };
        let ids = std::mem::take(&mut rare.unacknowledged);
        if rare.recent.is_empty() {
            self.rare = None;
        }
        ids
    }

    fn sync_is_due(&mut self, ctx: &mut Context<'_>) -> bool {
        let now_ms = ctx.now_ms;
        match self.sync {
            Sync::Due(at_ms) => u64::from(at_ms) <= now_ms,
            Sync::Asked(at_ms) => {
                let again = self.sync_again_ms(at_ms) <= now_ms;
                if again {
                    self.sync_repeats = (self.sync_repeats + 1).min(SYNC_DOUBLINGS_MAX);
                }
                again
            }
            Sync::Idle => {
                let Some(since_ms) = self.hole_since_ms else {
                    return false;
                };
                if u64::from(since_ms) + ctx.settings.hole_wait_ms > now_ms {
                    return false;
                }
                // Next time for the same hole: again after the wait, and a little more.
                let more_ms = ctx.random.random_range(0..=ctx.settings.hole_wait_ms);
                self.hole_since_ms = Some(narrow(now_ms + more_ms));
                self.sync_way = Way::Hole;
                true
            }
        }
    }

    fn ask_for_sync(&self, names: &StreamNames) -> Say {
        let mut json = String::from(r#"{"type":"sync","cursors":{"#);
        let mut comma = "";
        for (stream, cursor) in &self.streams {
            if let Some(at) = cursor.position() {
                let name = serde_json::Value::from(names.0[usize::from(*stream)].as_str());
                let _ = write!(json, "{comma}{name}:{at}");
                comma = ",";
            }
        }
        let _ = write!(json, r#"}},"limit":{SYNC_LIMIT}}}"#);
        Say {
            what: What::Sync,
            json,
            ids: Vec::new(),
        }
    }

    /// It could not be handed over: later again.
    pub fn not_said(&mut self, say: &Say, ctx: &mut Context<'_>) {
        match say.what {
            What::Ack => {
                let rare = self.rare.get_or_insert_default();
                rare.unacknowledged.extend_from_slice(&say.ids);
                self.acknowledged_ms = narrow(ctx.now_ms + ACK_EVERY_MS);
            }
            What::Sync => {
                let pause_ms = ctx.random.random_range(SYNC_PAUSE_MS) << self.sync_repeats;
                self.sync = Sync::Due(narrow(ctx.now_ms + pause_ms));
                self.sync_repeats = (self.sync_repeats + 1).min(SYNC_DOUBLINGS_MAX);
            }
            What::Ping => {}
        }
    }
}

fn ack(ids: &[Uuid]) -> Say {
    let mut json = String::with_capacity(24 + ids.len() * 39);
    json.push_str(r#"{"type":"ack","ids":["#);
    for (n, id) in ids.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        let _ = write!(json, r#"{comma}"{id}""#);
    }
    json.push_str("]}");
    Say {
        what: What::Ack,
        json,
        ids: ids.to_vec(),
    }
}
