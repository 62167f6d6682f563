//! Reading rows: after a cursor, by page, by id; what is read.

use super::{Home, offsets, prev_of};
use crate::build::*;
use herald::{
    dispatcher::store::{NewRow, RowKind, StoreError, Unread},
    limits,
    position::Position,
};

pub async fn sync_brings_rows_after_the_cursor_and_says_how_far_it_got(home: &impl Home) {
    let (store, ada) = (home.open(), user("ada"));
    let ids = stored(&store, &ada, &[1, 4, 6, 9]).await;
    let page = store.rows_after(&ada, Some(at(1)), 2).await.unwrap();
    assert_eq!(offsets(&page.rows), [4, 6]);
    assert_eq!((page.rows[0].id, page.rows[0].prev), (ids[1], at(1)));
    assert_eq!(
        (page.covered, page.has_more, page.head),
        (at(6), true, at(9))
    );
    assert!(page.complete && page.at_quorum);

    let page = store.rows_after(&ada, Some(at(6)), 2).await.unwrap();
    assert_eq!(offsets(&page.rows), [9]);
    assert_eq!((page.covered, page.has_more), (at(9), false));

    let page = store.rows_after(&ada, Some(at(9)), 2).await.unwrap();
    assert_eq!(
        (page.rows.len(), page.covered, page.has_more),
        (0, at(9), false)
    );
}

pub async fn sync_leaves_out_superseded_rows_and_covers_them(home: &impl Home) {
    let (store, ada) = (home.open(), user("ada"));
    let rows = vec![
        collapsing(&ada, at(1), "score"),
        row(&ada, at(2)),
        collapsing(&ada, at(3), "score"),
        collapsing(&ada, at(4), "weather"),
    ];
    store.append(rows).await.unwrap();
    let page = store.rows_after(&ada, Some(at(0)), 50).await.unwrap();
    assert_eq!(offsets(&page.rows), [2, 3, 4]);
    assert_eq!(
        (page.covered, page.has_more, page.complete),
        (at(4), false, true)
    );
}

pub async fn sync_over_many_superseded_rows_is_bounded_and_goes_on(home: &impl Home) {
    let (store, ada) = (home.open(), user("ada"));
    let superseded = limits::STORE_SCAN_ROWS as u64 + 100;
    let rows = (1..=superseded).map(|offset| collapsing(&ada, at(offset), "score"));
    store.append(rows.collect()).await.unwrap();
    let first = store.rows_after(&ada, Some(at(0)), 50).await.unwrap();
    assert!(first.rows.is_empty() && first.has_more && first.covered > at(0));
    let second = store
        .rows_after(&ada, Some(first.covered), 50)
        .await
        .unwrap();
    assert_eq!(offsets(&second.rows), [superseded]);
    assert!(!second.has_more);
}

pub async fn sync_without_a_cursor_brings_the_newest_and_the_head(home: &impl Home) {
    let (store, ada) = (home.open(), user("ada"));
    stored(&store, &ada, &[1, 4, 6, 9]).await;
    let page = store.rows_after(&ada, None, 2).await.unwrap();
    assert_eq!(offsets(&page.rows), [6, 9]);
    assert_eq!(
        (page.covered, page.head, page.has_more),
        (at(9), at(9), false)
    );
}

pub async fn a_cursor_above_the_head_is_not_called_complete(home: &impl Home) {
    let (store, ada) = (home.open(), user("ada"));
    stored(&store, &ada, &[1]).await;
    let page = store.rows_after(&ada, Some(at(2)), 50).await.unwrap();
    assert!(!page.complete);
    assert_eq!((page.rows.len(), page.head), (0, at(1)));
}

pub async fn an_unknown_user_has_an_empty_stream(home: &impl Home) {
    let (store, nobody) = (home.open(), user("nobody"));
    for cursor in [None, Some(Position::START)] {
        let page = store.rows_after(&nobody, cursor, 50).await.unwrap();
        assert!(page.rows.is_empty() && page.complete && !page.has_more);
        assert_eq!(page.head, Position::START);
    }
    assert_eq!(store.unread(&nobody).await, Ok(Unread::default()));
}
pub async fn a_read_mark_takes_a_position_and_marks_its_ids(home: &impl Home) {
    let (store, ada) = (home.open(), user("ada"));
    let ids = stored(&store, &ada, &[1, 2]).await;
    let mark = read_mark(&ada, at(3), &ids[..1]);
    let answer = store.append(vec![mark.clone()]).await.unwrap();
    assert_eq!(prev_of(&answer[0]), at(2));
    assert_eq!(store.read_among(&ada, &ids).await.unwrap(), &ids[..1]);

    let rows = store.rows_after(&ada, Some(at(0)), 50).await.unwrap().rows;
    let seen: Vec<_> = rows.iter().map(|row| (row.kind, row.read)).collect();
    assert_eq!(
        seen,
        [
            (RowKind::Notification, true),
            (RowKind::Notification, false),
            (RowKind::Read, false)
        ]
    );
    assert_eq!((rows[2].id, &rows[2].content), (mark.id, &mark.content));
}

pub async fn a_read_mark_of_a_broadcast_counts_for_its_user_only(home: &impl Home) {
    let (store, ada, bob) = (home.open(), user("ada"), user("bob"));
    let announced = broadcast(at(1));
    let id = announced.id;
    announce(&*store, announced).await;
    store
        .append(vec![read_mark(&ada, at(1), &[id])])
        .await
        .unwrap();
    assert_eq!(store.read_among(&ada, &[id]).await.unwrap(), [id]);
    assert_eq!(store.read_among(&bob, &[id]).await.unwrap(), []);
    assert_eq!(store.unread(&ada).await.unwrap().broadcasts, []);
    assert_eq!(store.unread(&bob).await.unwrap().broadcasts, [id]);
}

pub async fn a_read_mark_that_cannot_be_parsed_is_refused(home: &impl Home) {
    let (store, ada) = (home.open(), user("ada"));
    let mark = NewRow {
        content: "all of them".into(),
        ..read_mark(&ada, at(1), &[])
    };
    let error = store.append(vec![mark]).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    let head = store.rows_after(&ada, None, 1).await.unwrap().head;
    assert_eq!(head, Position::START);
}

pub async fn pages_show_notifications_newest_first(home: &impl Home) {
    let (store, ada) = (home.open(), user("ada"));
    let ids = stored(&store, &ada, &[1, 2, 3]).await;
    let more = vec![
        read_mark(&ada, at(4), &ids),
        collapsing(&ada, at(5), "score"),
        collapsing(&ada, at(6), "score"),
    ];
    store.append(more).await.unwrap();
    let page = store.page(&ada, None, 2).await.unwrap();
    assert_eq!(offsets(&page), [6, 3]);
    assert_eq!((page[0].read, page[1].read), (false, true));
    let page = store.page(&ada, Some(at(3)), 50).await.unwrap();
    assert_eq!(offsets(&page), [2, 1]);
}

pub async fn a_row_is_found_by_its_id(home: &impl Home) {
    let (store, ada, bob) = (home.open(), user("ada"), user("bob"));
    let new = NewRow {
        expires_ms: Some(77),
        ..collapsing(&ada, at(4), "k")
    };
    store.append(vec![new.clone()]).await.unwrap();
    let row = store.row(&ada, new.id).await.unwrap().expect("stored");
    assert_eq!((row.pos, row.prev), (at(4), Position::START));
    assert_eq!((row.kind, row.id), (new.kind, new.id));
    assert_eq!(
        (row.priority, row.created_ms),
        (new.priority, new.created_ms)
    );
    assert_eq!(
        (row.expires_ms, row.collapse_key),
        (new.expires_ms, new.collapse_key)
    );
    assert_eq!((row.content, row.read), (new.content, false));
    assert_eq!(store.row(&bob, new.id).await.unwrap(), None);
}

pub async fn unread_counts_what_is_neither_read_superseded_nor_expired(home: &impl Home) {
    let (store, ada) = (home.open(), user("ada"));
    let ids = stored(&store, &ada, &[1, 2]).await;
    let expired = NewRow {
        expires_ms: Some(now_ms() - 60_000),
        ..row(&ada, at(3))
    };
    let more = vec![
        expired,
        collapsing(&ada, at(4), "score"),
        collapsing(&ada, at(5), "score"),
        read_mark(&ada, at(6), &ids[..1]),
    ];
    store.append(more).await.unwrap();
    let announced = [1, 2].map(|offset| broadcast(at(offset)));
    for row in announced.clone() {
        announce(&*store, row).await;
    }
    let [earlier, later] = announced.map(|row| row.id);
    let unread = Unread {
        // Row 2 and the last score.
        own: 2,
        broadcasts: vec![later, earlier],
    };
    assert_eq!(store.unread(&ada).await, Ok(unread));
}
