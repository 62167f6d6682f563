//! What becomes of a call's rows of one stream, decided before anything of it is written.
//!
//! Invariants:
//! * `prev` is the head the stream had before the row; the row then is the head;
//! * (stream, id, kind) has one row, the one stored first, and so of the lowest position;
//! * a position at or below the head that has no row is refused, unless retention removed it. The chain tells: the
//!   row above it then names it, or one above it, as what was before.

use super::{
    CassandraStore, bucket,
    heads::{Assignment, Head},
    link::{Level, Reader},
    stream::{Entry, Newest, kind_value, position},
};
use crate::{
    dispatcher::store::{StoreError, WentBack},
    ids::NotificationId,
    limits,
    position::Position,
};
use hashbrown::HashMap;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Of one row, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    Stored {
        prev: Position,
        bucket: i32,
    },
    /// It stands where it was; read from the store, and to be written again, if `bucket` says where.
    Existing {
        pos: Position,
        prev: Position,
        again: Option<i32>,
    },
    /// Retention removed it.
    Lost,
}

pub struct Plan<'a> {
    pub stream: &'a str,
    /// Each with its place in the call.
    pub entries: Vec<(usize, Entry<'a>)>,
    pub decided: Vec<Decided>,
    /// Before the call's rows; `None` for a stream that has none.
    pub head_before: Option<Head>,
    pub head: Option<Head>,
    pub read_in: Assignment,
}

/// A row that is there.
#[derive(Clone, Copy)]
struct Known {
    pos: Position,
    prev: Position,
    /// Where it was read, above the call's first position.
    again: Option<i32>,
}

/// What the store holds of a stream, as far as a call needs it.
#[derive(Default)]
struct Ground {
    head: Option<Head>,
    by_id: HashMap<(Uuid, i32), Known>,
    /// `prev` of each row at or above the call's first position.
    chain: BTreeMap<Position, Position>,
}

impl CassandraStore {
    /// `topic` is where positions of the stream come from.
    pub(super) async fn plan<'a>(
        &self,
        topic: &'static str,
        stream: &'a str,
        entries: Vec<(usize, Entry<'a>)>,
    ) -> Result<Plan<'a>, StoreError> {
        let read_in = self.heads.assignment();
        let mut ground = self.ground(stream, &entries).await?;
        let head_before = ground.head;
        let mut decided = Vec::with_capacity(entries.len());
        for (row, entry) in &entries {
            let one = ground.decide(entry).ok_or_else(|| WentBack {
                topic,
                row: *row,
                pos: entry.pos,
                head: ground.head.map_or(Position::START, |head| head.pos),
            })?;
            decided.push(one);
        }
        Ok(Plan {
            stream,
            entries,
            decided,
            head_before,
            head: ground.head,
            read_in,
        })
    }

    async fn ground(
        &self,
        stream: &str,
        entries: &[(usize, Entry<'_>)],
    ) -> Result<Ground, StoreError> {
        let reader = self.link()?.reader(Level::Quorum);
        let positions = entries.iter().map(|(_, entry)| entry);
        let first = positions
            .min_by_key(|entry| entry.pos)
            .expect("no call is empty");
        let mut ground = Ground::default();
        match self.heads.find(stream) {
            Some(head) if head.pos < first.pos => ground.head = Some(head),
            _ => {
                let Some(newest) = self.newest_bucket(&reader, stream).await? else {
                    return Ok(ground);
                };
                self.look(&reader, stream, first, newest, &mut ground)
                    .await?;
            }
        }
        self.find_ids(&reader, stream, entries, first.pos, &mut ground)
            .await?;
        Ok(ground)
    }

    /// Reads what stands at or above the call's first row, upwards, and the head.
    async fn look(
        &self,
        reader: &Reader<'_>,
        stream: &str,
        first: &Entry<'_>,
        newest: Newest,
        ground: &mut Ground,
    ) -> Result<(), StoreError> {
        let statement = &reader.statements().links_up;
        let page = limits::STORE_SCAN_ROWS as i32;
        let lowest = bucket::of_ms(first.appended_ms);
        let lowest = lowest.clamp(*newest.buckets().start(), newest.bucket);
        for bucket in lowest..=newest.bucket {
            let mut from = first.pos.value() as i64;
            loop {
                let values = (stream, bucket, from, page);
                let rows = reader.rows::<(i64, i64, i32, Uuid)>(statement, values);
                let rows = rows.await?;
                for (pos, prev, kind, id) in &rows {
                    let (pos, prev) = (position(*pos)?, position(*prev)?);
                    let again = Some(bucket);
                    ground
                        .by_id
                        .insert((*id, *kind), Known { pos, prev, again });
                    ground.chain.insert(pos, prev);
                }
                match rows.last() {
                    Some((last, ..)) if rows.len() == page as usize => from = last + 1,
                    _ => break,
                }
            }
        }
        let pos = match ground.chain.last_key_value() {
            Some((pos, _)) => *pos,
            None => {
                let below = Some(first.pos);
                self.head_below(reader, stream, newest, below).await?.pos
            }
        };
        ground.head = Some(Head {
            pos,
            bucket: newest.bucket,
        });
        Ok(())
    }

    /// Of rows below the call's first position: what stands above it was read as rows.
    async fn find_ids(
        &self,
        reader: &Reader<'_>,
        stream: &str,
        entries: &[(usize, Entry<'_>)],
        first: Position,
        ground: &mut Ground,
    ) -> Result<(), StoreError> {
        let Some(head) = ground.head else {
            return Ok(());
        };
        let mut by_bucket: BTreeMap<i32, Vec<NotificationId>> = BTreeMap::new();
        for (_, entry) in entries {
            for bucket in bucket::with_id(entry.id, head.bucket) {
                by_bucket.entry(bucket).or_default().push(entry.id);
            }
        }
        for (bucket, ids) in by_bucket {
            for found in self.positions(reader, stream, bucket, &ids).await? {
                if found.pos < first {
                    let known = Known {
                        pos: found.pos,
                        prev: found.prev,
                        again: None,
                    };
                    ground.by_id.insert((found.id.0, found.kind), known);
                }
            }
        }
        Ok(())
    }

    /// Which of these ids stand in a bucket, and where.
    pub(super) async fn positions(
        &self,
        reader: &Reader<'_>,
        stream: &str,
        bucket: i32,
        ids: &[NotificationId],
    ) -> Result<Vec<Place>, StoreError> {
        let statement = &reader.statements().positions;
        let mut places = Vec::new();
        for ids in ids.chunks(limits::CASSANDRA_IN) {
            let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
            let values = (stream, bucket, ids);
            for (id, kind, pos, prev) in reader
                .rows::<(Uuid, i32, i64, i64)>(statement, values)
                .await?
            {
                places.push(Place {
                    id: NotificationId(id),
                    kind,
                    bucket,
                    pos: position(pos)?,
                    prev: position(prev)?,
                });
            }
        }
        Ok(places)
    }
}

/// Where the row of an id stands.
pub struct Place {
    pub id: NotificationId,
    pub kind: i32,
    pub bucket: i32,
    pub pos: Position,
    pub prev: Position,
}

impl Ground {
    /// `None`: the position went back.
    fn decide(&mut self, entry: &Entry<'_>) -> Option<Decided> {
        let key = (entry.id.0, kind_value(entry.kind));
        if let Some(known) = self.by_id.get(&key) {
            return Some(Decided::Existing {
                pos: known.pos,
                prev: known.prev,
                again: known.again.filter(|_| known.pos == entry.pos),
            });
        }
        let head = self.head.map_or(Position::START, |head| head.pos);
        if self.head.is_some() && entry.pos <= head {
            let above = self.chain.range(entry.pos..).next();
            return match above {
                Some((pos, _)) if *pos == entry.pos => None,
                Some((_, prev)) if *prev < entry.pos => None,
                _ => Some(Decided::Lost),
            };
        }
        let newest = self.head.map_or(i32::MIN, |head| head.bucket);
        let bucket = bucket::of_ms(entry.appended_ms).max(newest);
        let known = Known {
            pos: entry.pos,
            prev: head,
            again: None,
        };
        self.by_id.insert(key, known);
        self.chain.insert(entry.pos, head);
        self.head = Some(Head {
            pos: entry.pos,
            bucket,
        });
        Some(Decided::Stored { prev: head, bucket })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dispatcher::store::RowKind, envelope::Priority};
    use bytes::Bytes;

    static CONTENT: Bytes = Bytes::new();

    fn at(offset: u64) -> Position {
        Position::new(1, offset).unwrap()
    }

    fn entry(offset: u64, appended_ms: u64) -> Entry<'static> {
        Entry {
            pos: at(offset),
            kind: RowKind::Notification,
            id: NotificationId::generate(),
            priority: Priority::Normal,
            created_ms: 0,
            appended_ms,
            expires_ms: None,
            collapse_key: None,
            content: &CONTENT,
        }
    }

    fn ground(head: u64, rows: &[(u64, u64)]) -> Ground {
        let chain = rows.iter().map(|(pos, prev)| (at(*pos), at(*prev)));
        Ground {
            head: Some(Head {
                pos: at(head),
                bucket: 7,
            }),
            by_id: HashMap::new(),
            chain: chain.collect(),
        }
    }

    #[test]
    fn a_position_below_the_head_is_refused_where_the_chain_passes_it_over() {
        let mut passed_over = ground(9, &[(9, 5)]);
        assert_eq!(passed_over.decide(&entry(7, 0)), None);
        assert_eq!(passed_over.decide(&entry(9, 0)), None, "it is another's");
    }

    #[test]
    fn a_position_that_the_chain_names_was_removed_by_its_time() {
        for removed in [4, 5] {
            assert_eq!(
                ground(9, &[(9, 5)]).decide(&entry(removed, 0)),
                Some(Decided::Lost)
            );
        }
        assert_eq!(ground(9, &[]).decide(&entry(9, 0)), Some(Decided::Lost));
    }

    #[test]
    fn a_row_stands_in_no_earlier_bucket_than_the_one_before_it() {
        let day_ms = 24 * 3600 * 1000;
        let mut ground = ground(9, &[]);
        let early = ground.decide(&entry(10, 3 * 30 * day_ms));
        assert_eq!(
            early,
            Some(Decided::Stored {
                prev: at(9),
                bucket: 7
            })
        );
        let later = ground.decide(&entry(11, 8 * 30 * day_ms));
        assert_eq!(
            later,
            Some(Decided::Stored {
                prev: at(10),
                bucket: 8
            })
        );
        let back = ground.decide(&entry(12, 7 * 30 * day_ms));
        assert_eq!(
            back,
            Some(Decided::Stored {
                prev: at(11),
                bucket: 8
            })
        );
    }
}
