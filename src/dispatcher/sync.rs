//! What a client missed: the rows after its cursors, of both streams, as client frames.
//!
//! Invariants:
//! * `recovered` is said only when nothing between the cursors and the answer can be missing: known
//!   streams and generations, a read at quorum, nothing lost to retention, and a registry that answers
//!   (without it the gateway can't know that live frames reach the user);
//! * a range covers what is left out on purpose (superseded, expired, dismissed, for others), never what did not fit; without a
//!   cursor it begins before the oldest row that did;
//! * an answer with `has_more` moves a cursor: one row fits, however large it is.

use super::{
    frame,
    intake::GENERATION,
    metrics::DispatcherMetrics,
    store::{Row, RowsAfter, SharedStore, StoreError},
    tags::{self, Hidden},
    unix_ms,
};
use crate::{
    control::upstream::SyncReply,
    envelope::is_expired,
    ids::{NotificationId, Region, UserId},
    limits,
    position::{Cursors, Position},
    registry::SharedRegistry,
};
use bytes::Bytes;
use std::collections::VecDeque;

pub struct Sync {
    store: SharedStore,
    registry: SharedRegistry,
    user_stream: String,
    broadcast_stream: String,
    metrics: DispatcherMetrics,
}

/// One stream's part of the answer.
struct Part<'a> {
    stream: &'a str,
    /// The cursor the client presented, if it is one we can go on from.
    after: Option<Position>,
    rows: RowsAfter,
    /// Rows not decided on yet, ascending.
    waiting: VecDeque<Waiting>,
    /// Time and frame of those that are in the answer, ascending.
    kept: VecDeque<(u64, Bytes)>,
    /// Everything up to here is in the answer or left out on purpose.
    reached: Position,
    /// Without a cursor: everything after here is.
    begins: Position,
}

struct Waiting {
    pos: Position,
    prev: Position,
    created_ms: u64,
    /// `None`: left out on purpose, but covered.
    frame: Option<Bytes>,
}

/// What still fits.
struct Room {
    items: usize,
    bytes: usize,
    is_empty: bool,
}

impl Sync {
    pub fn new(
        store: SharedStore,
        registry: SharedRegistry,
        region: &Region,
        metrics: DispatcherMetrics,
    ) -> Sync {
        Sync {
            store,
            registry,
            user_stream: region.user_stream(),
            broadcast_stream: region.broadcast_stream(),
            metrics,
        }
    }

    pub async fn serve(
        &self,
        user: &UserId,
        cursors: Cursors,
        limit: usize,
    ) -> Result<SyncReply, StoreError> {
        let limit = limit.clamp(1, limits::SYNC_ITEMS);
        let registry_away = !self.registry.healthy();
        let doubt = self.doubt_about(&cursors, registry_away);
        let after = |stream: &str| cursors.get(stream).copied().filter(|at| is_known(*at));
        let (user_after, all_after) = (after(&self.user_stream), after(&self.broadcast_stream));
        let read = self.store.streams_after(user, user_after, all_after, limit);
        let (user_rows, all_rows) = read.await?;
        let mut parts = [
            Part::new(&self.user_stream, user_after, user_rows),
            Part::new(&self.broadcast_stream, all_after, all_rows),
        ];
        let left_out = self.flag_broadcasts(user, &mut parts[1]).await?;
        let doubt = parts
            .iter()
            .fold(doubt, |doubt, part| doubt.or(part.doubt()));
        for part in &mut parts {
            part.render(unix_ms(), &left_out);
        }
        fill(&mut parts, limit);
        let result = doubt.unwrap_or("recovered");
        self.metrics.sync.with_label_values(&[result]).inc();
        let unsettled = registry_away || !parts.iter().all(|part| part.rows.at_quorum);
        Ok(SyncReply {
            unsettled,
            ..reply(parts, doubt.is_none())
        })
    }

    /// What stands against `recovered` before anything is read.
    fn doubt_about(&self, cursors: &Cursors, registry_away: bool) -> Option<&'static str> {
        let ours =
            |stream: &String| *stream == self.user_stream || *stream == self.broadcast_stream;
        if !cursors.keys().all(ours) {
            Some("unknown_stream")
        } else if !cursors.values().all(|at| is_known(*at)) {
            Some("unknown_generation")
        } else if registry_away {
            Some("registry_away")
        } else {
            None
        }
    }

    /// Rows of the user carry their mark; a broadcast is one row for everyone. Answers which of them the user dismissed, or
    /// was not meant to get.
    async fn flag_broadcasts(
        &self,
        user: &UserId,
        part: &mut Part<'_>,
    ) -> Result<Vec<NotificationId>, StoreError> {
        let rows: Vec<&Row> = part.rows.rows.iter().collect();
        let seen = tags::seen(&self.store, user, &rows).await?;
        for row in &mut part.rows.rows {
            row.read = seen.read.contains(&row.id);
        }
        let mut left_out = seen.dismissed;
        match seen.hidden {
            Hidden::Unknown(ids) => part.cut_before(&ids),
            known => left_out.extend(known.ids()),
        }
        Ok(left_out)
    }
}

/// The start, or a generation that exists.
fn is_known(at: Position) -> bool {
    at == Position::START || at.generation() == GENERATION
}

impl<'a> Part<'a> {
    fn new(stream: &'a str, after: Option<Position>, rows: RowsAfter) -> Part<'a> {
        Part {
            stream,
            reached: after.unwrap_or(Position::START),
            begins: rows.head,
            after,
            rows,
            waiting: VecDeque::new(),
            kept: VecDeque::new(),
        }
    }

    fn doubt(&self) -> Option<&'static str> {
        if !self.rows.at_quorum {
            return Some("no_quorum");
        }
        let after = self.after?;
        if !self.rows.complete {
            Some("too_old")
        } else if after > self.rows.head {
            // It was given once, so it was stored once: the store lost its newest rows.
            Some("ahead_of_store")
        } else {
            None
        }
    }

    /// Whether the first of these is the user's is not known now: it and what follows it is left to a later sync.
    fn cut_before(&mut self, unknown: &[NotificationId]) {
        let rows = &mut self.rows;
        let Some(first) = rows.rows.iter().position(|row| unknown.contains(&row.id)) else {
            return;
        };
        rows.covered = rows.rows[first].prev;
        rows.rows.truncate(first);
        rows.has_more = false;
        rows.at_quorum = false;
        if self.after.is_none() {
            rows.head = rows.covered;
            self.begins = rows.covered;
        }
    }

    fn render(&mut self, now_ms: u64, dismissed: &[NotificationId]) {
        for row in std::mem::take(&mut self.rows.rows) {
            let is_unwanted = is_expired(row.expires_ms, now_ms) || dismissed.contains(&row.id);
            let frame = match is_unwanted {
                true => None,
                false => frame::of_row(&row, self.stream)
                    .inspect_err(|error| {
                        tracing::error!(%error, id = %row.id, "a stored row can't be read");
                    })
                    .ok(),
            };
            self.waiting.push_back(Waiting {
                pos: row.pos,
                prev: row.prev,
                created_ms: row.created_ms,
                frame,
            });
        }
    }

    fn keep_next(&mut self) {
        if let Some(next) = self.waiting.pop_front() {
            self.reached = next.pos;
            let kept = next.frame.map(|frame| (next.created_ms, frame));
            self.kept.extend(kept);
        }
    }

    fn keep_newest(&mut self) {
        if let Some(newest) = self.waiting.pop_back() {
            self.begins = newest.prev;
            if let Some(frame) = newest.frame {
                self.kept.push_front((newest.created_ms, frame));
            }
        }
    }

    /// The range the answer covers, and so the cursor it leads to.
    fn range(&self) -> (Position, Position) {
        match self.after {
            // What is older is the inbox's.
            None => (self.begins, self.rows.head),
            Some(after) => {
                let from = after.min(self.rows.head);
                let to = match self.waiting.is_empty() {
                    true => self.rows.covered,
                    false => self.reached,
                };
                (from, to.max(from))
            }
        }
    }

    fn has_more(&self) -> bool {
        self.after.is_some() && (!self.waiting.is_empty() || self.rows.has_more)
    }
}

impl Room {
    fn takes(&mut self, frame: Option<&Bytes>) -> bool {
        let Some(frame) = frame else { return true };
        let fits = self.bytes >= frame.len() || self.is_empty;
        if self.items == 0 || !fits {
            return false;
        }
        self.items -= 1;
        self.bytes = self.bytes.saturating_sub(frame.len());
        self.is_empty = false;
        true
    }
}

/// A stream with a cursor is cut at its end, the rest comes by `has_more`; one without wants the newest,
/// and next to one that catches up takes half of the room at most.
fn fill(parts: &mut [Part<'_>; 2], limit: usize) {
    let catching_up = parts.iter().any(|part| part.after.is_some());
    let share = if catching_up { 2 } else { 1 };
    let mut newest = Room {
        items: limit.div_ceil(share),
        bytes: limits::SYNC_BYTES / share,
        is_empty: true,
    };
    while let Some(part) = pick(parts, |part| match part.after {
        None => part.waiting.back().map(|row| u64::MAX - row.created_ms),
        Some(_) => None,
    }) {
        let candidate = part.waiting.back().and_then(|row| row.frame.as_ref());
        if !newest.takes(candidate) {
            break;
        }
        part.keep_newest();
    }
    let kept = || parts.iter().flat_map(|part| &part.kept);
    let kept_bytes: usize = kept().map(|(_, frame)| frame.len()).sum();
    let mut room = Room {
        items: limit - kept().count(),
        bytes: limits::SYNC_BYTES.saturating_sub(kept_bytes),
        is_empty: kept().next().is_none(),
    };
    while let Some(part) = pick(parts, |part| match part.after {
        None => None,
        Some(_) => part.waiting.front().map(|row| row.created_ms),
    }) {
        let candidate = part.waiting.front().and_then(|row| row.frame.as_ref());
        if !room.takes(candidate) {
            break;
        }
        part.keep_next();
    }
}

/// The part of the least key.
fn pick<'p, 'a>(
    parts: &'p mut [Part<'a>; 2],
    key: impl Fn(&Part<'a>) -> Option<u64>,
) -> Option<&'p mut Part<'a>> {
    let keyed = parts.iter_mut().filter_map(|part| Some((key(part)?, part)));
    keyed.min_by_key(|(key, _)| *key).map(|(_, part)| part)
}

fn reply(mut parts: [Part<'_>; 2], recovered: bool) -> SyncReply {
    let mut items = Vec::new();
    // Each stream in its own order, both merged by time.
    while let Some(part) = pick(&mut parts, |part| part.kept.front().map(|(at, _)| *at)) {
        items.extend(part.kept.pop_front().map(|(_, frame)| frame));
    }
    let ranges = parts
        .iter()
        .map(|part| (part.stream.to_owned(), part.range()));
    let cursors = parts
        .iter()
        .map(|part| (part.stream.to_owned(), part.range().1));
    SyncReply {
        items,
        ranges: ranges.collect(),
        cursors: cursors.collect(),
        recovered,
        has_more: parts.iter().any(Part::has_more),
        unsettled: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dispatcher::store::RowKind, envelope::Priority};

    fn at(offset: u64) -> Position {
        Position::new(1, offset).unwrap()
    }

    fn row(offset: u64, created_ms: u64, body_bytes: usize) -> Row {
        let content = format!(
            r#"{{"type":"x","channels":["in_app"],"body":"{}"}}"#,
            "b".repeat(body_bytes)
        );
        Row {
            pos: at(offset),
            prev: at(offset - 1),
            kind: RowKind::Notification,
            id: NotificationId::generate(),
            priority: Priority::Normal,
            created_ms,
            expires_ms: None,
            collapse_key: None,
            content: content.into(),
            read: false,
        }
    }

    fn part(after: Option<u64>, rows: Vec<Row>) -> Part<'static> {
        let head = rows.last().map_or(Position::START, |row| row.pos);
        let rows = RowsAfter {
            rows,
            covered: head,
            has_more: false,
            head,
            at_quorum: true,
            complete: true,
        };
        let mut part = Part::new("s", after.map(at), rows);
        part.render(1_000_000, &[]);
        part
    }

    #[test]
    fn streams_are_merged_by_time_and_each_is_cut_where_it_stops() {
        let user = part(Some(0), (1..=40).map(|n| row(n, n * 10, 1)).collect());
        let all = part(Some(0), (1..=40).map(|n| row(n, n * 10 + 5, 1)).collect());
        let mut parts = [user, all];
        fill(&mut parts, 50);
        assert_eq!(parts[0].range(), (at(0), at(25)));
        assert_eq!(parts[1].range(), (at(0), at(25)));
        assert!(parts[0].has_more() && parts[1].has_more());
        assert_eq!(reply(parts, true).items.len(), 50);
    }

    #[test]
    fn without_a_cursor_the_newest_are_given_and_the_head() {
        let mut parts = [
            part(None, (1..=40).map(|n| row(n, n * 10, 1)).collect()),
            part(None, (1..=40).map(|n| row(n, n * 10 + 5, 1)).collect()),
        ];
        fill(&mut parts, 50);
        assert_eq!(parts[0].range(), (at(15), at(40)));
        assert_eq!((parts[0].kept.len(), parts[1].kept.len()), (25, 25));
        assert_eq!(parts[0].kept[0].0, 160);
        assert!(!parts[0].has_more());
    }

    #[test]
    fn an_answer_is_bounded_in_bytes_and_the_rest_comes_later() {
        let mut parts = [
            part(Some(0), (1..=20).map(|n| row(n, n, 30_000)).collect()),
            part(Some(0), Vec::new()),
        ];
        fill(&mut parts, 50);
        let bytes: usize = parts[0].kept.iter().map(|(_, frame)| frame.len()).sum();
        assert!(bytes <= limits::SYNC_BYTES && bytes > limits::SYNC_BYTES / 2);
        assert!(parts[0].has_more());
    }

    #[test]
    fn a_row_larger_than_an_answer_is_given_alone_and_moves_the_cursor() {
        let rows = || {
            let sizes = [1, limits::SYNC_BYTES + 1, 1];
            let rows = (1..).zip(sizes).map(|(n, bytes)| row(n, n, bytes));
            rows.collect::<Vec<_>>()
        };
        for (after, items, reached) in [(0, 1, 1), (1, 1, 2), (2, 1, 3)] {
            let left = rows().into_iter().filter(|row| row.pos > at(after));
            let mut parts = [part(Some(after), left.collect()), part(Some(0), Vec::new())];
            fill(&mut parts, 50);
            assert_eq!(parts[0].range(), (at(after), at(reached)));
            assert_eq!(parts[0].has_more(), reached < 3);
            assert_eq!(reply(parts, true).items.len(), items);
        }
        // Without a cursor the newest is given, however large.
        let mut parts = [
            part(None, rows().drain(..2).collect()),
            part(None, Vec::new()),
        ];
        fill(&mut parts, 50);
        assert_eq!(parts[0].range(), (at(1), at(2)));
    }

    #[test]
    fn what_may_be_for_others_is_not_covered_while_nobody_knows() {
        for (after, from) in [(Some(0), 0), (None, 1)] {
            let rows: Vec<Row> = (1..=4).map(|n| row(n, n, 1)).collect();
            let unknown = [rows[2].id, rows[3].id];
            let head = at(4);
            let rows = RowsAfter {
                rows,
                covered: head,
                has_more: true,
                head,
                at_quorum: true,
                complete: true,
            };
            let mut all = Part::new("s", after.map(at), rows);
            all.cut_before(&unknown);
            assert_eq!(all.doubt(), Some("no_quorum"));
            all.render(1_000_000, &[]);
            let mut parts = [part(Some(0), Vec::new()), all];
            // One of the two fits; a sync without a cursor gives the newest.
            fill(&mut parts, if after.is_none() { 2 } else { 50 });
            assert_eq!(parts[1].range(), (at(from), at(2)));
            assert!(!parts[1].has_more());
        }
    }

    #[test]
    fn expired_rows_are_left_out_and_covered() {
        let mut rows: Vec<Row> = (1..=3).map(|n| row(n, n, 1)).collect();
        rows[1].expires_ms = Some(10);
        let mut parts = [part(Some(0), rows), part(Some(0), Vec::new())];
        fill(&mut parts, 50);
        assert_eq!(parts[0].range(), (at(0), at(3)));
        assert_eq!(reply(parts, true).items.len(), 2);
    }
}
