//! The broadcast stream.

use super::{Home, offsets};
use crate::build::*;
use herald::position::Position;

pub async fn broadcasts_form_one_stream(home: &impl Home) {
    let store = home.open();
    let first = announce(&*store, broadcast(at(0))).await;
    let second = announce(&*store, broadcast(at(4))).await;
    assert_eq!((first, second), (Position::START, at(0)));
    let page = store.broadcast_page(None, 50).await.unwrap();
    assert_eq!(offsets(&page), [4, 0]);
    let page = store.broadcast_page(Some(at(4)), 50).await.unwrap();
    assert_eq!(offsets(&page), [0]);
}

pub async fn broadcasts_of_one_call_stand_one_behind_the_other_or_not_at_all(home: &impl Home) {
    let store = home.open();
    let rows = [1, 3, 4].map(|offset| broadcast(at(offset)));
    let prevs = store.append_broadcasts(rows.to_vec()).await;
    assert_eq!(prevs, Ok(vec![Position::START, at(1), at(3)]));
    // The second can't be true: 2 was passed over.
    let impossible = vec![broadcast(at(5)), broadcast(at(2))];
    store.append_broadcasts(impossible).await.unwrap_err();
    let page = store.broadcast_page(None, 50).await.unwrap();
    assert_eq!(offsets(&page), [4, 3, 1]);
}

pub async fn a_broadcast_stored_again_answers_the_same_prev(home: &impl Home) {
    let store = home.open();
    announce(&*store, broadcast(at(1))).await;
    let again = broadcast(at(2));
    announce(&*store, again.clone()).await;
    announce(&*store, broadcast(at(3))).await;
    assert_eq!(announce(&*store, again).await, at(1));
    assert_eq!(store.broadcast_page(None, 50).await.unwrap().len(), 3);
}

pub async fn a_broadcast_of_a_known_id_makes_no_second_row(home: &impl Home) {
    let store = home.open();
    let first = broadcast(at(1));
    let mut again = first.clone();
    again.pos = at(3);
    announce(&*store, first).await;
    announce(&*store, broadcast(at(2))).await;
    let prev = announce(&*store, again.clone()).await;
    assert_eq!(prev, at(2), "what is pushed for it hides nothing below it");
    announce(&*store, broadcast(at(4))).await;
    assert_eq!(announce(&*store, again).await, at(2));
    let page = store.broadcast_page(None, 50).await.unwrap();
    assert_eq!(offsets(&page), [4, 2, 1]);
}

pub async fn a_broadcast_is_found_by_its_id(home: &impl Home) {
    let store = home.open();
    let (ada, one) = (user("ada"), broadcast(at(1)));
    announce(&*store, one.clone()).await;
    let own = row(&ada, at(1));
    store.append(vec![own.clone()]).await.unwrap();
    let found = store.broadcast(one.id).await.unwrap().expect("it is there");
    assert_eq!((found.id, found.content), (one.id, one.content));
    assert_eq!(store.broadcast(own.id).await, Ok(None));
}

pub async fn sync_of_broadcasts_goes_by_pages(home: &impl Home) {
    let store = home.open();
    for offset in 1..=5 {
        announce(&*store, broadcast(at(offset))).await;
    }
    let page = store.broadcasts_after(Some(at(1)), 3).await.unwrap();
    assert_eq!(offsets(&page.rows), [2, 3, 4]);
    assert_eq!(
        (page.covered, page.has_more, page.complete),
        (at(4), true, true)
    );
    let page = store.broadcasts_after(Some(page.covered), 3).await.unwrap();
    assert_eq!((offsets(&page.rows), page.has_more), (vec![5], false));
    let page = store.broadcasts_after(None, 2).await.unwrap();
    assert_eq!((offsets(&page.rows), page.head), (vec![4, 5], at(5)));
}
