//! What one thread counted; added up at the end.

use crate::{accounting::Accounts, hdr, scenario::PRIORITIES};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// Distinct reasons kept per map: servers and kernels have few; more is noise.
const REASONS_MAX: usize = 32;

/// Plain numbers, published many times a second for the progress line.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Clients that are connected and welcomed now.
    pub connected: u64,
    /// Clients that were welcomed at least once.
    pub ever_connected: u64,
    /// Clients that stay away for good (refused, or told not to come back).
    pub gave_up: u64,
    pub connects: u64,
    /// Ends of connections that the scenario asked for.
    pub left: u64,
    /// Welcomes after the first one of a client.
    pub reconnects: u64,
    /// Notifications, every copy counted.
    pub received: u64,
    /// Distinct (id, device).
    pub unique: u64,
    /// Distinct (number, device) among those this tool posted.
    pub unique_own: u64,
    /// Every copy of one that this tool posted for somebody else: a fault of the server.
    #[serde(default)]
    pub misdelivered: u64,
    pub repeated_live: u64,
    pub repeated_by_sync: u64,
    /// First seen in a sync, not live.
    pub by_sync: u64,
    /// Live, after one of the same stream and lane that stands behind it. Re-routing does that on purpose.
    pub out_of_order: u64,
    pub read_marks: u64,
    /// Clients that have as many as `--expect` asks for.
    pub satisfied: u64,
    pub holes_seen: u64,
    pub holes_healed: u64,
    /// Clients that don't know yet whether something is missing.
    pub syncing: u64,
    pub syncs_asked: u64,
    pub syncs_recovered: u64,
    pub syncs_unrecovered: u64,
    /// `recovered:true` over a range that does not join up: a fault of the server.
    pub syncs_false: u64,
    /// An SSE `id:` above what the client has without a hole: a fault of the server.
    pub sse_ids_ahead: u64,
    /// Ids acknowledged, every copy counted.
    pub acks_sent: u64,
    pub pings_sent: u64,
    /// Pings of the server that got their pong.
    pub pings_answered: u64,
    /// Frames that can't be read, or break the protocol.
    pub unreadable: u64,
    /// TLS handshakes, without and with a session from before.
    pub tls_full: u64,
    pub tls_resumed: u64,
    /// Bytes read from sockets.
    pub bytes: u64,
}

impl Counters {
    pub fn add(&mut self, other: &Counters) {
        macro_rules! add {
            ($($field:ident)*) => { $(self.$field += other.$field;)* };
        }
        add!(connected ever_connected gave_up connects left reconnects received unique unique_own
            misdelivered repeated_live repeated_by_sync by_sync out_of_order read_marks satisfied holes_seen holes_healed
            syncing syncs_asked syncs_recovered syncs_unrecovered syncs_false sse_ids_ahead acks_sent
            pings_sent pings_answered unreadable tls_full tls_resumed bytes);
    }

    pub fn repeated(&self) -> u64 {
        self.repeated_live + self.repeated_by_sync
    }
}

#[derive(Debug)]
pub struct Tally {
    pub counters: Counters,
    pub closes: BTreeMap<String, u64>,
    pub failures: BTreeMap<String, u64>,
    pub gaps: BTreeMap<String, u64>,
    pub errors: BTreeMap<String, u64>,
    /// Why the first client that did not get in did not.
    pub first_failure: Option<String>,
    /// µs from the intended moment of sending to the first copy a device got.
    pub latency_us: Histogram<u64>,
    /// The same by tier, in the order of [`PRIORITIES`].
    pub by_priority_us: [Histogram<u64>; PRIORITIES.len()],
    /// The same since it was last taken.
    pub recent_us: Histogram<u64>,
    /// µs from `connect` to `welcome`.
    pub connect_us: Histogram<u64>,
    /// µs from the loss of an open connection to the next `welcome`.
    pub return_us: Histogram<u64>,
    /// The longest a thread was away from its sockets.
    pub away_max: Duration,
    /// If asked for.
    pub accounts: Option<Accounts>,
}

impl Tally {
    pub fn new(with_accounts: bool) -> Tally {
        Tally {
            counters: Counters::default(),
            closes: BTreeMap::new(),
            failures: BTreeMap::new(),
            gaps: BTreeMap::new(),
            errors: BTreeMap::new(),
            first_failure: None,
            latency_us: hdr::exact(),
            by_priority_us: std::array::from_fn(|_| hdr::exact()),
            recent_us: hdr::rough(),
            connect_us: hdr::exact(),
            return_us: hdr::exact(),
            away_max: Duration::ZERO,
            accounts: with_accounts.then(Accounts::default),
        }
    }

    /// A thread spent so long between two looks at its sockets.
    pub fn busy(&mut self, time: Duration) {
        self.away_max = self.away_max.max(time);
    }

    /// A device got something of ours so long after its moment.
    pub fn arrived(&mut self, late_us: u64, priority: &str) {
        let late_us = late_us.max(1);
        self.latency_us.saturating_record(late_us);
        self.recent_us.saturating_record(late_us);
        if let Some(tier) = PRIORITIES.iter().position(|tier| *tier == priority) {
            self.by_priority_us[tier].saturating_record(late_us);
        }
    }

    pub fn add(&mut self, other: Tally) {
        self.away_max = self.away_max.max(other.away_max);
        self.counters.add(&other.counters);
        for (mine, theirs) in [
            (&mut self.closes, other.closes),
            (&mut self.failures, other.failures),
            (&mut self.gaps, other.gaps),
            (&mut self.errors, other.errors),
        ] {
            for (reason, count) in theirs {
                *mine.entry(reason).or_default() += count;
            }
        }
        let fits = "same bounds";
        self.latency_us.add(other.latency_us).expect(fits);
        for (mine, theirs) in self.by_priority_us.iter_mut().zip(other.by_priority_us) {
            mine.add(theirs).expect(fits);
        }
        self.connect_us.add(other.connect_us).expect(fits);
        self.return_us.add(other.return_us).expect(fits);
        if let (Some(mine), Some(theirs)) = (&mut self.accounts, other.accounts) {
            mine.add(theirs);
        }
    }
}

/// Counts a reason, within bounds.
pub fn count(map: &mut BTreeMap<String, u64>, reason: &str) {
    if let Some(count) = map.get_mut(reason) {
        *count += 1;
    } else if map.len() < REASONS_MAX {
        map.insert(reason.to_owned(), 1);
    } else {
        *map.entry("other".into()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let (mut one, mut two) = (Tally::new(true), Tally::new(true));
        one.counters.received = 2;
        two.counters.received = 3;
        count(&mut one.closes, "1012");
        count(&mut two.closes, "1012");
        two.latency_us.saturating_record(5);
        one.add(two);
        assert_eq!((one.counters.received, one.closes["1012"]), (5, 2));
        assert_eq!(one.latency_us.len(), 1);
    }

    #[test]
    fn reasons_are_bounded() {
        let mut map = BTreeMap::new();
        for reason in 0..100 {
            count(&mut map, &reason.to_string());
        }
        assert_eq!((map.len(), map["other"]), (REASONS_MAX + 1, 68));
    }
}
