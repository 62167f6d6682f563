//! The broadcast stream: one row for everyone, stored as a user's rows are.

use super::{
    CassandraStore, bucket,
    link::Level,
    plan::{Decided, Plan},
    stream::{BROADCASTS, Entry},
    unix_ms,
};
use crate::{
    dispatcher::store::{NewBroadcast, RowKind, StoreError, WentBack},
    ids::NotificationId,
    position::Position,
};

const TOPIC: &str = "fan_out_all";

impl CassandraStore {
    pub(super) async fn append_to_all(
        &self,
        rows: &[NewBroadcast],
    ) -> Result<Vec<Position>, StoreError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let entries = rows.iter().map(Entry::from).enumerate().collect();
        let plan = self.plan(TOPIC, BROADCASTS, entries).await?;
        let mut prevs = Vec::with_capacity(rows.len());
        for ((row, entry), decided) in plan.entries.iter().zip(&plan.decided) {
            prevs.push(match *decided {
                Decided::Stored { prev, .. } => prev,
                Decided::Existing { pos, prev, .. } if pos == entry.pos => prev,
                _ => self.below(&plan, *row, entry).await?,
            });
        }
        self.carry_out(&plan).await?;
        Ok(prevs)
    }

    /// What is pushed for a record that makes no row stands after whatever is stored below it.
    async fn below(
        &self,
        plan: &Plan<'_>,
        row: usize,
        entry: &Entry<'_>,
    ) -> Result<Position, StoreError> {
        let earlier = plan
            .entries
            .iter()
            .zip(&plan.decided)
            .take_while(|((at, _), _)| *at < row);
        let stored = earlier.filter_map(|((_, entry), decided)| {
            matches!(decided, Decided::Stored { .. }).then_some(entry.pos)
        });
        let in_call = stored.filter(|pos| *pos < entry.pos).max();
        let reader = self.link()?.reader(Level::Quorum);
        let Some(newest) = self.newest_bucket(&reader, BROADCASTS).await? else {
            return Ok(in_call.unwrap_or(Position::START));
        };
        let head = plan.head_before.map_or(Position::START, |head| head.pos);
        if entry.pos <= head && self.is_taken(newest.bucket, entry.pos).await? {
            let went_back = WentBack {
                topic: TOPIC,
                row,
                pos: entry.pos,
                head,
            };
            return Err(went_back.into());
        }
        let before = Some(entry.pos);
        let below = self.head_below(&reader, BROADCASTS, newest, before).await?;
        let below = Some(below.pos).filter(|pos| *pos < entry.pos);
        Ok(below.max(in_call).unwrap_or(Position::START))
    }

    /// Another broadcast stands there.
    async fn is_taken(&self, newest: i32, pos: Position) -> Result<bool, StoreError> {
        let reader = self.link()?.reader(Level::Quorum);
        let above = Position::from_wire(pos.value() + 1);
        let newest = super::stream::Newest {
            bucket: newest,
            before: Position::START,
        };
        let at_or_below = self.head_below(&reader, BROADCASTS, newest, above).await?;
        Ok(at_or_below.pos == pos)
    }

    pub(super) async fn position_of_broadcast(
        &self,
        id: NotificationId,
    ) -> Result<Option<Position>, StoreError> {
        let reader = self.link()?.reader(Level::Quorum);
        let newest = bucket::newest(unix_ms());
        let place = self.place(&reader, BROADCASTS, id, Some(RowKind::Notification), newest);
        Ok(place.await?.map(|place| place.pos))
    }
}
