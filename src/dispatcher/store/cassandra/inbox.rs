//! Storing rows: decided for every user first, then written, user beside user and each in order.

use super::{
    CassandraStore, bucket,
    cql::Prepared,
    link::{Level, Values, all, each},
    plan::{Decided, Plan},
    stream::{Entry, kind_value, ms, value_of},
    unix_ms,
};
use crate::{
    dispatcher::store::{Appended, NewRow, RowKind, StoreError, WentBack, rank},
    envelope::{Channel, Fate, VERSION},
    ids::{NotificationId, UserId},
    limits,
    position::Position,
};
use hashbrown::HashMap;

/// Microseconds, as Cassandra's own: those of the bucket's begin.
fn time_of(bucket: i32) -> i64 {
    i64::from(bucket) * limits::BUCKET_DAYS as i64 * 24 * 3600 * 1_000_000
}

/// A row to write, and where.
struct Write<'a> {
    entry: Entry<'a>,
    prev: Position,
    bucket: i32,
}

impl CassandraStore {
    pub(super) async fn append_rows(&self, rows: &[NewRow]) -> Result<Vec<Appended>, StoreError> {
        for mark in rows.iter().filter(|row| row.kind == RowKind::Read) {
            marked(mark)?;
        }
        let users = by_user(rows).into_iter();
        let plans = users.map(|(user, entries)| self.plan("raw", user, entries));
        let plans = first_refused(each(plans.collect()).await)?;
        let pending = pending(rows, &plans);
        tokio::try_join!(
            all(plans.iter().map(|plan| self.carry_out(plan)).collect()),
            self.enter_pending(&pending, unix_ms()),
        )?;
        let mut answers = Vec::with_capacity(rows.len());
        for plan in &plans {
            let decided = plan.entries.iter().zip(&plan.decided);
            answers
                .extend(decided.map(|(entry, decided)| self.answer(plan.stream, entry, decided)));
        }
        let mut answers = all(answers).await?;
        answers.sort_unstable_by_key(|(row, _)| *row);
        Ok(answers.into_iter().map(|(_, answer)| answer).collect())
    }

    async fn answer(
        &self,
        stream: &str,
        (row, entry): &(usize, Entry<'_>),
        decided: &Decided,
    ) -> Result<(usize, Appended), StoreError> {
        let appended = match *decided {
            Decided::Stored { prev, .. } => Appended::Stored { prev },
            Decided::Existing { pos, prev, .. } => Appended::Existing {
                pos,
                prev,
                written: self.was_written(stream, entry.id).await?,
            },
            // Nobody waits for it any more.
            Decided::Lost => Appended::Existing {
                pos: entry.pos,
                prev: Position::START,
                written: true,
            },
        };
        Ok((*row, appended))
    }

    /// A device of the user got it, by the delivery log.
    async fn was_written(&self, user: &str, id: NotificationId) -> Result<bool, StoreError> {
        let reader = self.link()?.reader(Level::Quorum);
        let values = (id.0, user, Channel::InApp.as_str());
        let ranks = reader.rows::<(i32,)>(&reader.statements().ranks, values);
        let written = i32::from(rank(Fate::Written));
        Ok(ranks.await?.iter().any(|(rank,)| *rank >= written))
    }

    /// Writes what a plan says. Broken off, nothing is remembered of the stream: it is read anew.
    pub(super) async fn carry_out(&self, plan: &Plan<'_>) -> Result<(), StoreError> {
        let written = self.write_plan(plan).await;
        match (&written, plan.head) {
            (Ok(()), Some(head)) => self.heads.put(plan.read_in, plan.stream, head),
            _ => self.heads.remove(plan.stream),
        }
        written
    }

    async fn write_plan(&self, plan: &Plan<'_>) -> Result<(), StoreError> {
        let writes = plan.entries.iter().zip(&plan.decided);
        let writes = writes.filter_map(|((_, entry), decided)| {
            let (prev, bucket) = match *decided {
                Decided::Stored { prev, bucket } => (prev, bucket),
                Decided::Existing {
                    prev,
                    again: Some(bucket),
                    ..
                } => (prev, bucket),
                _ => return None,
            };
            Some(Write {
                entry: *entry,
                prev,
                bucket,
            })
        });
        let writes: Vec<Write<'_>> = writes.collect();
        self.put_receipts(plan.stream, &writes).await?;
        let mut newest = plan.head_before.map(|head| head.bucket);
        for part in parts(&writes) {
            let bucket = part[0].bucket;
            if newest.is_none_or(|newest| newest < bucket) {
                self.begin_bucket(plan.stream, newest, bucket, part[0].prev)
                    .await?;
                newest = Some(bucket);
            }
            self.write_part(plan.stream, part).await?;
        }
        Ok(())
    }

    /// Readers look for the rows of a bucket once this is written.
    async fn begin_bucket(
        &self,
        stream: &str,
        before: Option<i32>,
        bucket: i32,
        head: Position,
    ) -> Result<(), StoreError> {
        let link = self.link()?;
        let statements = &link.statements;
        let region = self.region.as_str();
        let values = (stream, bucket, value_of(head), region, time_of(bucket));
        link.write(&statements.put_stream, values).await?;
        let Some(before) = before else {
            return Ok(());
        };
        // `users` says it now.
        let values = (value_of(head), stream, before);
        link.write(&statements.remove_head, values).await
    }

    async fn write_part(&self, stream: &str, part: &[Write<'_>]) -> Result<(), StoreError> {
        let link = self.link()?;
        let statements = &link.statements;
        let mut together: Vec<(&Prepared, Values)> = Vec::with_capacity(2 * part.len() + 1);
        for write in part {
            let (entry, bucket) = (write.entry, write.bucket);
            let stream = stream.to_owned();
            let (pos, prev) = (value_of(entry.pos), value_of(write.prev));
            let kind = kind_value(entry.kind);
            if let Some(key) = entry.collapse_key {
                let values = (stream.clone(), bucket, key.to_owned(), pos, pos);
                together.push((&statements.put_newest_of_key, Box::new(values)));
            }
            let values = (stream.clone(), bucket, entry.id.0, kind, pos, prev);
            together.push((&statements.put_position, Box::new(values)));
            let values = (
                stream,
                bucket,
                pos,
                prev,
                kind,
                entry.id.0,
                entry.priority.as_str(),
                ms(entry.created_ms),
                entry.expires_ms.map(ms),
                entry.collapse_key.map(str::to_owned),
                entry.content.clone(),
                i32::from(VERSION),
            );
            together.push((&statements.put_row, Box::new(values)));
        }
        let last = part.last().expect("no part is empty");
        let pos = value_of(last.entry.pos);
        let values = (stream.to_owned(), last.bucket, pos, ms(unix_ms()), pos);
        together.push((&statements.put_head, Box::new(values)));
        link.write_together(together).await
    }

    /// Before their mark's row: a mark that is found was carried out.
    async fn put_receipts(&self, user: &str, writes: &[Write<'_>]) -> Result<(), StoreError> {
        let mut ids = Vec::new();
        for write in writes
            .iter()
            .filter(|write| write.entry.kind == RowKind::Read)
        {
            ids.extend(ids_of(write.entry.id, write.entry.content)?);
        }
        let link = self.link()?;
        let statement = &link.statements.put_receipt;
        let receipts = ids.into_iter().map(|id| {
            let values = (user, bucket::of_id(id), id.0);
            link.write(statement, values)
        });
        all(receipts.collect()).await.map(drop)
    }
}

/// What is on its way in-app by these rows; a repetition under another position is not.
fn pending(rows: &[NewRow], plans: &[Plan<'_>]) -> Vec<(NotificationId, UserId, Channel)> {
    let decided = plans
        .iter()
        .flat_map(|plan| plan.entries.iter().zip(&plan.decided));
    let begun = decided.filter(|((_, entry), decided)| {
        entry.kind == RowKind::Notification
            && match decided {
                Decided::Stored { .. } => true,
                Decided::Existing { pos, .. } => *pos == entry.pos,
                Decided::Lost => false,
            }
    });
    begun
        .map(|((row, entry), _)| (entry.id, rows[*row].user.clone(), Channel::InApp))
        .collect()
}

fn marked(mark: &NewRow) -> Result<Vec<NotificationId>, StoreError> {
    ids_of(mark.id, &mark.content)
}

fn ids_of(mark: NotificationId, content: &[u8]) -> Result<Vec<NotificationId>, StoreError> {
    serde_json::from_slice(content).map_err(|error| {
        StoreError::Corrupt(format!(
            "read mark {mark} does not hold a JSON list of ids ({error}); the router must refuse it"
        ))
    })
}

/// Each user's rows with their places in the call, in order.
fn by_user(rows: &[NewRow]) -> Vec<(&str, Vec<(usize, Entry<'_>)>)> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut users: Vec<(&str, Vec<(usize, Entry<'_>)>)> = Vec::new();
    for (row, new) in rows.iter().enumerate() {
        let user = new.user.as_str();
        let place = *places.entry(user).or_insert_with(|| {
            users.push((user, Vec::new()));
            users.len() - 1
        });
        users[place].1.push((row, Entry::from(new)));
    }
    users
}

/// All of them, or the first row of the call that was refused; a store that is away comes before.
fn first_refused<'a>(
    plans: Vec<Result<Plan<'a>, StoreError>>,
) -> Result<Vec<Plan<'a>>, StoreError> {
    let mut refused = None;
    let mut planned = Vec::with_capacity(plans.len());
    for plan in plans {
        match plan {
            Ok(plan) => planned.push(plan),
            Err(StoreError::WentBack(one)) => {
                let before = |first: &WentBack| first.row < one.row;
                if !refused.as_ref().is_some_and(before) {
                    refused = Some(one);
                }
            }
            Err(error) => return Err(error),
        }
    }
    match refused {
        Some(first) => Err(first.into()),
        None => Ok(planned),
    }
}

/// What goes into one mutation each: of one bucket, and bounded.
fn parts<'w, 'a>(writes: &'w [Write<'a>]) -> Vec<&'w [Write<'a>]> {
    let mut parts = Vec::new();
    let (mut begin, mut bytes) = (0, 0);
    for (at, write) in writes.iter().enumerate() {
        let size = write.entry.content.len() + limits::ROW_BYTES_BESIDE;
        let fits = bytes + size <= limits::CASSANDRA_BATCH_BYTES;
        if at > begin && !(fits && write.bucket == writes[begin].bucket) {
            parts.push(&writes[begin..at]);
            (begin, bytes) = (at, 0);
        }
        bytes += size;
    }
    if begin < writes.len() {
        parts.push(&writes[begin..]);
    }
    parts
}
