//! The broadcast stream.

use super::{Home, offsets};
use crate::build::*;
use herald::position::Position;

pub async fn broadcasts_form_one_stream(home: &impl Home) {
    let store = home.open();
    let first = store.append_broadcast(broadcast(at(0))).await.unwrap();
    let second = store.append_broadcast(broadcast(at(4))).await.unwrap();
    assert_eq!((first, second), (Position::START, at(0)));
    let page = store.broadcast_page(None, 50).await.unwrap();
    assert_eq!(offsets(&page), [4, 0]);
    let page = store.broadcast_page(Some(at(4)), 50).await.unwrap();
    assert_eq!(offsets(&page), [0]);
}

pub async fn a_broadcast_stored_again_answers_the_same_prev(home: &impl Home) {
    let store = home.open();
    store.append_broadcast(broadcast(at(1))).await.unwrap();
    let again = broadcast(at(2));
    store.append_broadcast(again.clone()).await.unwrap();
    store.append_broadcast(broadcast(at(3))).await.unwrap();
    assert_eq!(store.append_broadcast(again).await.unwrap(), at(1));
    assert_eq!(store.broadcast_page(None, 50).await.unwrap().len(), 3);
}

pub async fn a_broadcast_of_a_known_id_makes_no_second_row(home: &impl Home) {
    let store = home.open();
    let first = broadcast(at(1));
    let mut again = first.clone();
    again.pos = at(3);
    store.append_broadcast(first).await.unwrap();
    store.append_broadcast(broadcast(at(2))).await.unwrap();
    let prev = store.append_broadcast(again.clone()).await.unwrap();
    assert_eq!(prev, at(2), "what is pushed for it hides nothing below it");
    store.append_broadcast(broadcast(at(4))).await.unwrap();
    assert_eq!(store.append_broadcast(again).await.unwrap(), at(2));
    let page = store.broadcast_page(None, 50).await.unwrap();
    assert_eq!(offsets(&page), [4, 2, 1]);
}

pub async fn sync_of_broadcasts_goes_by_pages(home: &impl Home) {
    let store = home.open();
    for offset in 1..=5 {
        store.append_broadcast(broadcast(at(offset))).await.unwrap();
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
