//! Reading a stream: sync after a cursor, pages of the inbox, what is unread.
//!
//! A row is *superseded* when a later row of its stream has the same collapse key. Every read looks at a bounded
//! number of rows; where that cuts a sync short, `covered` says how far it got.
//!
//! What retention took shows in the chain: the first row above a cursor names a row before it that is above it too.

use super::{
    CassandraStore, bucket,
    cql::Prepared,
    link::{Level, Reader, all},
    plan::Place,
    stream::{BROADCASTS, End, Newest, StoredRow, kind_value, position, value_of},
    unix_ms,
};
use crate::{
    dispatcher::store::{Row, RowKind, RowsAfter, StoreError, Unread},
    envelope::EXPIRY_TOLERANCE_MS,
    ids::{NotificationId, UserId},
    limits,
    position::Position,
};
use hashbrown::{HashMap, HashSet};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Newest position of each collapse key asked for.
#[derive(Default)]
struct Keys(HashMap<String, Position>);

/// What a sync has seen of a stream.
struct Walk {
    rows: Vec<Row>,
    covered: Position,
    looked_at: usize,
    /// Nothing between the cursor and `covered` is missing.
    is_whole: bool,
    /// It stopped before something that fewer replicas than a quorum know; that comes by a later read.
    is_cut: bool,
}

/// Of a row, what it takes to count it.
type Outline = (i64, i32, Uuid, Option<i64>, Option<String>);

impl CassandraStore {
    pub(super) async fn stream_after(
        &self,
        stream: &str,
        after: Option<Position>,
        limit: usize,
    ) -> Result<RowsAfter, StoreError> {
        let reader = self.link()?.reader(Level::OrOne);
        let Some(newest) = self.newest_bucket(&reader, stream).await? else {
            let after = after.unwrap_or(Position::START);
            return Ok(RowsAfter {
                at_quorum: reader.was_at_quorum(),
                complete: after == Position::START,
                ..empty(Position::START)
            });
        };
        // Before the rows: none that came meanwhile is taken for covered.
        let end = self.head_below(&reader, stream, newest, None).await?;
        let mut found = match after {
            None => {
                let rows = self.walk_down(&reader, stream, newest, None, limit, false);
                let mut rows = rows.await?;
                rows.reverse();
                let head = rows.last().map_or(end.pos, |row| row.pos.max(end.pos));
                RowsAfter {
                    rows,
                    ..empty(head)
                }
            }
            Some(after) if after >= end.pos => RowsAfter {
                complete: after == end.pos,
                ..empty(end.pos)
            },
            Some(after) => {
                self.after(&reader, stream, newest, after, end, limit)
                    .await?
            }
        };
        found.at_quorum &= reader.was_at_quorum();
        if after.is_some() {
            self.flag_read(&reader, stream, &mut found.rows).await?;
        }
        Ok(found)
    }

    async fn after(
        &self,
        reader: &Reader<'_>,
        stream: &str,
        newest: Newest,
        after: Position,
        end: End,
        limit: usize,
    ) -> Result<RowsAfter, StoreError> {
        let (mut bucket, mut page) = self.begin(reader, stream, newest, after).await?;
        let mut walk = Walk {
            rows: Vec::new(),
            covered: after,
            looked_at: 0,
            is_whole: true,
            is_cut: false,
        };
        let mut keys = Keys::default();
        loop {
            let is_last = page.len() < limits::CASSANDRA_PAGE;
            let last = page.last().map(|row| row.pos);
            self.learn(reader, stream, bucket..=newest.bucket, &page, &mut keys)
                .await?;
            if !walk.take(page, &keys, limit, reader.was_at_quorum()) {
                break;
            }
            if is_last {
                bucket += 1;
                if bucket > newest.bucket {
                    walk.ends_at(end);
                    break;
                }
            }
            let from = last.unwrap_or(walk.covered).max(after);
            page = rows_up(reader, stream, bucket, from).await?;
        }
        // A row may have come since the head was read.
        let head = end.pos.max(walk.covered);
        Ok(RowsAfter {
            rows: walk.rows,
            covered: walk.covered,
            has_more: walk.covered < head && !walk.is_cut,
            head,
            at_quorum: !walk.is_cut,
            complete: walk.is_whole,
        })
    }

    /// The bucket in which the first row above the cursor stands, and the first page of it.
    async fn begin(
        &self,
        reader: &Reader<'_>,
        stream: &str,
        newest: Newest,
        after: Position,
    ) -> Result<(i32, Vec<Row>), StoreError> {
        let mut bucket = newest.bucket;
        let mut page = rows_up(reader, stream, bucket, after).await?;
        let mut before = newest.before;
        let mut above = (bucket, page);
        loop {
            if let Some(first) = above.1.first() {
                before = first.prev;
            }
            if before <= after || bucket == *newest.buckets().start() {
                return Ok(above);
            }
            bucket -= 1;
            page = rows_up(reader, stream, bucket, after).await?;
            if !page.is_empty() {
                above = (bucket, page);
            }
        }
    }

    pub(super) async fn stream_page(
        &self,
        stream: &str,
        before: Option<Position>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let reader = self.link()?.reader(Level::OrOne);
        match self.newest_bucket(&reader, stream).await? {
            Some(newest) => {
                self.walk_down(&reader, stream, newest, before, limit, true)
                    .await
            }
            None => Ok(Vec::new()),
        }
    }

    /// Newest first, without what is superseded.
    async fn walk_down(
        &self,
        reader: &Reader<'_>,
        stream: &str,
        newest: Newest,
        before: Option<Position>,
        limit: usize,
        only_notifications: bool,
    ) -> Result<Vec<Row>, StoreError> {
        let statement = &reader.statements().rows_down;
        let page = limits::CASSANDRA_PAGE.min(limit + limits::SYNC_ITEMS) as i32;
        let (mut rows, mut keys) = (Vec::new(), Keys::default());
        for bucket in newest.buckets().rev() {
            let mut below = before.map_or(i64::MAX, value_of);
            loop {
                let values = (stream, bucket, below, page);
                let found = into_rows(reader.rows(statement, values).await?)?;
                self.learn(reader, stream, bucket..=newest.bucket, &found, &mut keys)
                    .await?;
                let is_last = found.len() < page as usize;
                below = found.last().map_or(below, |row| value_of(row.pos));
                rows.extend(found.into_iter().filter(|row| {
                    let wanted = !only_notifications || row.kind == RowKind::Notification;
                    wanted && !keys.supersede(row)
                }));
                if rows.len() >= limit {
                    rows.truncate(limit);
                    self.flag_read(reader, stream, &mut rows).await?;
                    return Ok(rows);
                }
                if is_last {
                    break;
                }
            }
        }
        self.flag_read(reader, stream, &mut rows).await?;
        Ok(rows)
    }

    /// Where the collapse keys of these rows stand newest, of which each was known at most.
    async fn learn(
        &self,
        reader: &Reader<'_>,
        stream: &str,
        buckets: std::ops::RangeInclusive<i32>,
        rows: &[Row],
        keys: &mut Keys,
    ) -> Result<(), StoreError> {
        let named = rows.iter().filter_map(|row| row.collapse_key.as_ref());
        let unknown: HashSet<&String> = named.filter(|key| !keys.0.contains_key(*key)).collect();
        let unknown: Vec<&String> = unknown.into_iter().collect();
        let statement = &reader.statements().newest_of_keys;
        for bucket in buckets {
            for asked in unknown.chunks(limits::CASSANDRA_IN) {
                let values = (stream, bucket, asked);
                for (key, pos) in reader.rows::<(String, i64)>(statement, values).await? {
                    let pos = position(pos)?;
                    let newest = keys.0.entry(key).or_insert(pos);
                    *newest = pos.max(*newest);
                }
            }
        }
        Ok(())
    }

    pub(super) async fn row_by_id(
        &self,
        user: &UserId,
        id: NotificationId,
    ) -> Result<Option<Row>, StoreError> {
        let reader = self.link()?.reader(Level::OrOne);
        let found = self.row_of(&reader, user.as_str(), id).await?;
        let mut rows: Vec<Row> = found.into_iter().collect();
        self.flag_read(&reader, user.as_str(), &mut rows).await?;
        Ok(rows.pop())
    }

    /// Whether somebody has read it is not looked for.
    pub(super) async fn row_of(
        &self,
        reader: &Reader<'_>,
        stream: &str,
        id: NotificationId,
    ) -> Result<Option<Row>, StoreError> {
        let newest = bucket::newest(unix_ms());
        let place = self.place(reader, stream, id, None, newest).await?;
        let Some(place) = place else {
            return Ok(None);
        };
        let values = (stream, place.bucket, value_of(place.pos));
        let found = reader.rows(&reader.statements().row_at, values).await?;
        Ok(into_rows(found)?.pop())
    }

    /// Where the row of an id stands; of whichever kind, a notification first.
    pub(super) async fn place(
        &self,
        reader: &Reader<'_>,
        stream: &str,
        id: NotificationId,
        kind: Option<RowKind>,
        newest: i32,
    ) -> Result<Option<Place>, StoreError> {
        for bucket in bucket::with_id(id, newest).rev() {
            let mut found = self.positions(reader, stream, bucket, &[id]).await?;
            found.retain(|place| kind.is_none_or(|kind| place.kind == kind_value(kind)));
            if let Some(place) = found.into_iter().min_by_key(|place| place.kind) {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    /// The user has it: a notification of the inbox, a broadcast, or one whose fate is logged already (a record may
    /// reach a gateway before its row is stored).
    pub(super) async fn has(&self, user: &UserId, id: NotificationId) -> Result<bool, StoreError> {
        let reader = self.link()?.reader(Level::Quorum);
        let newest = bucket::newest(unix_ms());
        for stream in [user.as_str(), BROADCASTS] {
            let kind = Some(RowKind::Notification);
            if self
                .place(&reader, stream, id, kind, newest)
                .await?
                .is_some()
            {
                return Ok(true);
            }
        }
        let values = (id.0, user.as_str());
        let logged = reader.first::<(i32,)>(&reader.statements().any_fact, values);
        Ok(logged.await?.is_some())
    }

    /// Which of these ids the user has read.
    pub(super) async fn read_ids(
        &self,
        level: Level,
        user: &str,
        ids: &[NotificationId],
    ) -> Result<HashSet<NotificationId>, StoreError> {
        self.receipts(&self.link()?.reader(level), user, ids).await
    }

    async fn receipts(
        &self,
        reader: &Reader<'_>,
        user: &str,
        ids: &[NotificationId],
    ) -> Result<HashSet<NotificationId>, StoreError> {
        self.marks(reader, &reader.statements().receipts, user, ids)
            .await
    }

    /// Which of these broadcasts the user dismissed.
    pub(super) async fn dismissals(
        &self,
        reader: &Reader<'_>,
        user: &str,
        ids: &[NotificationId],
    ) -> Result<HashSet<NotificationId>, StoreError> {
        self.marks(reader, &reader.statements().dismissals, user, ids)
            .await
    }

    async fn marks(
        &self,
        reader: &Reader<'_>,
        statement: &Prepared,
        user: &str,
        ids: &[NotificationId],
    ) -> Result<HashSet<NotificationId>, StoreError> {
        let mut by_month: BTreeMap<i32, Vec<Uuid>> = BTreeMap::new();
        for id in ids {
            by_month.entry(bucket::of_id(*id)).or_default().push(id.0);
        }
        let mut marked = HashSet::new();
        for (month, ids) in by_month {
            for ids in ids.chunks(limits::CASSANDRA_IN) {
                let found = reader.rows::<(Uuid,)>(statement, (user, month, ids));
                marked.extend(found.await?.into_iter().map(|(id,)| NotificationId(id)));
            }
        }
        Ok(marked)
    }

    pub(super) async fn dismiss_broadcasts(
        &self,
        user: &str,
        ids: &[NotificationId],
    ) -> Result<Vec<NotificationId>, StoreError> {
        let statement = &self.link()?.statements.put_dismissal;
        let dismiss = ids.iter().map(|id| async move {
            if self.position_of_broadcast(*id).await?.is_none() {
                return Ok(None);
            }
            let values = (user, bucket::of_id(*id), id.0);
            self.link()?.write(statement, values).await?;
            Ok(Some(*id))
        });
        let dismissed = all(dismiss.collect()).await?;
        Ok(dismissed.into_iter().flatten().collect())
    }

    /// A broadcast is nobody's own.
    async fn flag_read(
        &self,
        reader: &Reader<'_>,
        stream: &str,
        rows: &mut [Row],
    ) -> Result<(), StoreError> {
        if stream == BROADCASTS || rows.is_empty() {
            return Ok(());
        }
        let ids: Vec<NotificationId> = rows.iter().map(|row| row.id).collect();
        let read = self.receipts(reader, stream, &ids).await?;
        for row in rows {
            row.read = read.contains(&row.id);
        }
        Ok(())
    }

    /// With what is superseded, ascending.
    pub(super) async fn all_after(
        &self,
        stream: &str,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let reader = self.link()?.reader(Level::Quorum);
        let mut rows = Vec::new();
        let Some(newest) = self.newest_bucket(&reader, stream).await? else {
            return Ok(rows);
        };
        for bucket in newest.buckets() {
            let left = (limit - rows.len()) as i32;
            if left == 0 {
                break;
            }
            let values = (stream, bucket, value_of(after), left);
            rows.extend(into_rows(
                reader.rows(&reader.statements().rows_up, values).await?,
            )?);
        }
        self.flag_read(&reader, stream, &mut rows).await?;
        Ok(rows)
    }

    pub(super) async fn unread_of(&self, user: &UserId, now_ms: u64) -> Result<Unread, StoreError> {
        let reader = self.link()?.reader(Level::OrOne);
        let user = user.as_str();
        let (own, mut all) = tokio::try_join!(
            self.alive(&reader, user, limits::UNREAD_ROWS, now_ms),
            self.alive(&reader, BROADCASTS, limits::UNREAD_BROADCASTS, now_ms),
        )?;
        let ids = [&own[..], &all].concat();
        let (read, dismissed) = tokio::try_join!(
            self.receipts(&reader, user, &ids),
            self.dismissals(&reader, user, &all),
        )?;
        all.retain(|id| !read.contains(id) && !dismissed.contains(id));
        Ok(Unread {
            own: own.iter().filter(|id| !read.contains(*id)).count() as u64,
            broadcasts: all,
        })
    }

    /// Notifications among the stream's newest rows that are neither superseded nor expired.
    async fn alive(
        &self,
        reader: &Reader<'_>,
        stream: &str,
        rows_max: usize,
        now_ms: u64,
    ) -> Result<Vec<NotificationId>, StoreError> {
        let alive_ms = now_ms.saturating_sub(EXPIRY_TOLERANCE_MS);
        let Some(newest) = self.newest_bucket(reader, stream).await? else {
            return Ok(Vec::new());
        };
        let statement = &reader.statements().outlines_down;
        let (mut left, mut alive) = (rows_max, Vec::new());
        let mut keys: HashSet<String> = HashSet::new();
        for bucket in newest.buckets().rev() {
            let values = (stream, bucket, i64::MAX, left as i32);
            let found = reader.rows::<Outline>(statement, values).await?;
            left -= found.len().min(left);
            for (_, kind, id, expires_ms, collapse_key) in found {
                // Newest first: a key that was met belongs to a later row.
                let superseded = collapse_key.is_some_and(|key| !keys.insert(key));
                let expired = expires_ms.is_some_and(|at_ms| (at_ms.max(0) as u64) < alive_ms);
                if kind == kind_value(RowKind::Notification) && !superseded && !expired {
                    alive.push(NotificationId(id));
                }
            }
            if left == 0 {
                break;
            }
        }
        Ok(alive)
    }
}

fn empty(head: Position) -> RowsAfter {
    RowsAfter {
        rows: Vec::new(),
        covered: head,
        has_more: false,
        head,
        at_quorum: true,
        complete: true,
    }
}

async fn rows_up(
    reader: &Reader<'_>,
    stream: &str,
    bucket: i32,
    above: Position,
) -> Result<Vec<Row>, StoreError> {
    let values = (
        stream,
        bucket,
        value_of(above),
        limits::CASSANDRA_PAGE as i32,
    );
    into_rows(reader.rows(&reader.statements().rows_up, values).await?)
}

fn into_rows(found: Vec<StoredRow>) -> Result<Vec<Row>, StoreError> {
    found.into_iter().map(StoredRow::into_row).collect()
}

impl Keys {
    fn supersede(&self, row: &Row) -> bool {
        let newest = row.collapse_key.as_ref().and_then(|key| self.0.get(key));
        newest.is_some_and(|newest| *newest > row.pos)
    }
}

impl Walk {
    /// Takes a page of rows that go up; answers whether there is room for more.
    fn take(&mut self, page: Vec<Row>, keys: &Keys, limit: usize, at_quorum: bool) -> bool {
        for row in page {
            // The first follows whatever the cursor knows; every other the one before it.
            let follows = row.prev <= self.covered;
            if !follows && !at_quorum {
                (self.is_whole, self.is_cut) = (false, true);
                return false;
            }
            if self.looked_at == limits::STORE_SCAN_ROWS {
                return false;
            }
            let superseded = keys.supersede(&row);
            if !superseded && self.rows.len() == limit {
                return false;
            }
            self.is_whole &= follows;
            self.looked_at += 1;
            self.covered = row.pos;
            if !superseded {
                self.rows.push(row);
            }
        }
        true
    }

    /// There are no more rows.
    fn ends_at(&mut self, end: End) {
        if self.covered >= end.pos {
            return;
        }
        self.is_whole = false;
        match end.is_row {
            // It was there a moment ago: it is being written, or its writer died.
            true => self.is_cut = true,
            // Retention took what led to it.
            false => self.covered = end.pos,
        }
    }
}
