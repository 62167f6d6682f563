//! Storing rows.

use super::{Home, offsets, prev_of};
use crate::build::*;
use herald::{
    dispatcher::store::{Appended, NewRow, StoreError},
    envelope::Fate,
    position::Position,
};

pub async fn a_row_follows_the_head_its_user_had(home: &impl Home) {
    let (store, ada, bob) = (home.open(), user("ada"), user("bob"));
    let first = store.append(vec![row(&ada, at(3))]).await.unwrap();
    assert_eq!(prev_of(&first[0]), Position::START);
    let other = store.append(vec![row(&bob, at(4))]).await.unwrap();
    assert_eq!(prev_of(&other[0]), Position::START);
    let second = store.append(vec![row(&ada, at(9))]).await.unwrap();
    assert_eq!(prev_of(&second[0]), at(3));
}

pub async fn rows_of_one_call_follow_each_other(home: &impl Home) {
    let (store, ada, bob) = (home.open(), user("ada"), user("bob"));
    let rows = vec![row(&ada, at(1)), row(&bob, at(2)), row(&ada, at(3))];
    let answers = store.append(rows).await.unwrap();
    let prevs: Vec<_> = answers.iter().map(prev_of).collect();
    assert_eq!(prevs, [Position::START, Position::START, at(1)]);
}

pub async fn a_row_stored_again_answers_where_it_stands(home: &impl Home) {
    let (store, ada) = (home.open(), user("ada"));
    stored(&store, &ada, &[1]).await;
    let again = row(&ada, at(5));
    store.append(vec![again.clone()]).await.unwrap();
    stored(&store, &ada, &[8]).await;
    let expected = Appended::Existing {
        pos: at(5),
        prev: at(1),
        written: false,
    };
    assert_eq!(store.append(vec![again]).await.unwrap(), [expected]);
    let rows = store.rows_after(&ada, Some(at(0)), 50).await.unwrap().rows;
    assert_eq!(offsets(&rows), [1, 5, 8]);
}

pub async fn the_lowest_position_wins_when_an_id_comes_again(home: &impl Home) {
    let (store, ada) = (home.open(), user("ada"));
    let first = row(&ada, at(2));
    let later = NewRow {
        pos: at(7),
        ..first.clone()
    };
    let next = row(&ada, at(9));
    let answers = store.append(vec![first, later, next]).await.unwrap();
    let existing = Appended::Existing {
        pos: at(2),
        prev: Position::START,
        written: false,
    };
    assert_eq!(answers[1], existing);
    assert_eq!(
        prev_of(&answers[2]),
        at(2),
        "the later position is no one's prev"
    );
}

pub async fn a_row_that_reached_a_device_answers_written(home: &impl Home) {
    let (store, ada) = (home.open(), user("ada"));
    let row = row(&ada, at(2));
    store.append(vec![row.clone()]).await.unwrap();
    for (fate, expected) in [(Fate::Deferred, false), (Fate::Written, true)] {
        let outcome = outcome(row.id, Some(&ada), fate);
        store.record(&[outcome]).await.unwrap();
        let answers = store.append(vec![row.clone()]).await.unwrap();
        assert!(
            matches!(answers[..], [Appended::Existing { written, .. }] if written == expected),
            "{fate}: {answers:?}"
        );
    }
}

pub async fn a_position_below_the_head_that_was_never_stored_is_refused_loudly(home: &impl Home) {
    let (store, ada) = (home.open(), user("ada"));
    stored(&store, &ada, &[5]).await;
    for offset in [5, 4] {
        let error = store.append(vec![row(&ada, at(offset))]).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::WentBack(why) if (why.row, why.pos) == (0, at(offset))),
            "{error}"
        );
        assert!(error.to_string().contains("new generation"), "{error}");
    }
    stored(&store, &ada, &[6]).await;
}

pub async fn a_refused_row_takes_nothing_of_its_call_with_it(home: &impl Home) {
    let (store, ada, bob) = (home.open(), user("ada"), user("bob"));
    stored(&store, &ada, &[5]).await;
    let call = vec![row(&bob, at(6)), row(&ada, at(2))];
    assert!(store.append(call).await.is_err());
    let rows = store.rows_after(&bob, None, 50).await.unwrap();
    assert_eq!((rows.rows.len(), rows.head), (0, Position::START));
}

pub async fn what_was_answered_is_there_after_opening_again(home: &impl Home) {
    let ada = user("ada");
    let store = home.open();
    let ids = stored(&store, &ada, &[1, 2]).await;
    let mark = read_mark(&ada, at(3), &ids[..1]);
    store.append(vec![mark]).await.unwrap();
    drop(store);

    let store = home.open();
    let rows = store.rows_after(&ada, Some(at(0)), 50).await.unwrap();
    assert_eq!(offsets(&rows.rows), [1, 2, 3]);
    assert_eq!(store.read_among(&ada, &ids).await.unwrap(), &ids[..1]);
    let next = store.append(vec![row(&ada, at(9))]).await.unwrap();
    assert_eq!(prev_of(&next[0]), at(3));
}

/// Each partition has its users and its writer, as routers do; all write at the same time.
pub async fn chains_have_no_gap_under_concurrent_batches_of_many_users(home: &impl Home) {
    const PARTITIONS: u64 = 8;
    const BATCHES: u64 = 20;
    const BATCH: u64 = 25;
    let store = home.open();
    let users_of = |partition: u64| (0..5).map(move |n| user(&format!("{partition}-{n}")));
    let mut writers = tokio::task::JoinSet::new();
    for partition in 0..PARTITIONS {
        let store = store.clone();
        let users: Vec<_> = users_of(partition).collect();
        writers.spawn(async move {
            for batch in 0..BATCHES {
                let rows = (0..BATCH).map(|n| {
                    let offset = batch * BATCH + n;
                    row(&users[(offset * 7 % 5) as usize], at(offset))
                });
                store.append(rows.collect()).await.unwrap();
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    for user in (0..PARTITIONS).flat_map(users_of) {
        let mut head = Position::START;
        let mut count = 0;
        loop {
            let page = store.rows_after(&user, Some(head), 50).await.unwrap();
            for row in &page.rows {
                assert_eq!(row.prev, head, "{user:?}");
                head = row.pos;
                count += 1;
            }
            if !page.has_more {
                break;
            }
        }
        assert_eq!(count, BATCHES * BATCH / 5);
    }
}
