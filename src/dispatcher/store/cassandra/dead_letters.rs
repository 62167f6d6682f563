//! What was done with records of `dlq`.

use super::{
    link::{Level, Link},
    stream::{damaged, ms},
};
use crate::dispatcher::store::{DeadLetterAt, Handled, StoreError};

/// What was noted first stays.
pub async fn put(link: &Link, at: DeadLetterAt, handled: Handled) -> Result<(), StoreError> {
    let (partition, record, appended_ms) = place(at);
    let values = (partition, record, appended_ms, handled.as_str());
    let answer = link.compare_and_set(&link.statements.put_dead_letter, values);
    answer.await.map(drop)
}

pub async fn find(link: &Link, at: DeadLetterAt) -> Result<Option<Handled>, StoreError> {
    let reader = link.reader(Level::Quorum);
    let found = reader.first::<(String,)>(&link.statements.dead_letter, place(at));
    let word = found.await?.map(|(word,)| word.parse());
    word.transpose()
        .map_err(|()| damaged("a dead letter with an unknown word"))
}

fn place(at: DeadLetterAt) -> (i32, i64, i64) {
    (at.partition as i32, ms(at.offset), ms(at.appended_ms))
}
