//! The promises of the `Store` trait, one sentence each. A store joins by a [`Home`] and one line.

use crate::build::*;
use herald::{
    dispatcher::store::{ApiKey, Appended, Idempotency, NewRow, RowKind, SharedStore, StoreError},
    envelope::{Channel, Fate},
    ids::NotificationId,
    limits,
    position::Position,
};

/// Where a store lives. Opened again, it holds everything that was answered before.
pub trait Home {
    fn open(&self) -> SharedStore;
}

/// Makes a test of each sentence for one kind of home.
macro_rules! every_behaviour_holds_in {
    ($home:expr) => {
        $crate::behaviour::every_behaviour_holds_in! { $home =>
            a_row_follows_the_head_its_user_had
            rows_of_one_call_follow_each_other
            a_row_stored_again_answers_where_it_stands
            the_lowest_position_wins_when_an_id_comes_again
            a_row_that_reached_a_device_answers_written
            a_position_below_the_head_that_was_never_stored_is_refused_loudly
            a_refused_row_takes_nothing_of_its_call_with_it
            what_was_answered_is_there_after_opening_again
            chains_have_no_gap_under_concurrent_batches_of_many_users
            sync_brings_rows_after_the_cursor_and_says_how_far_it_got
            sync_leaves_out_superseded_rows_and_covers_them
            sync_over_many_superseded_rows_is_bounded_and_goes_on
            sync_without_a_cursor_brings_the_newest_and_the_head
            a_cursor_above_the_head_is_not_called_complete
            an_unknown_user_has_an_empty_stream
            a_read_mark_takes_a_position_and_marks_its_ids
            a_read_mark_of_a_broadcast_counts_for_its_user_only
            a_read_mark_that_cannot_be_parsed_is_refused
            pages_show_notifications_newest_first
            a_row_is_found_by_its_id
            unread_counts_what_is_neither_read_superseded_nor_expired
            broadcasts_form_one_stream
            a_broadcast_stored_again_answers_the_same_prev
            a_broadcast_of_a_known_id_makes_no_second_row
            sync_of_broadcasts_goes_by_pages
            delivery_states_only_move_forward
            the_furthest_gateway_gives_the_state_and_its_devices
            an_outcome_reported_twice_counts_once
            outcomes_of_a_broadcast_are_counted_by_gateway_and_kind
            pending_never_hides_an_outcome
            the_latest_states_of_a_user_come_newest_first
            an_idempotency_key_is_claimed_once_until_it_is_done
            an_idempotency_key_with_another_body_conflicts
            an_idempotency_key_is_free_after_a_day
            a_claim_given_back_is_free_but_a_finished_one_stays
            producers_do_not_share_idempotency_keys
            an_api_key_is_found_by_its_hash
        }
    };
    ($home:expr => $($sentence:ident)*) => {$(
        #[tokio::test]
        async fn $sentence() {
            $crate::behaviour::$sentence(&$home).await;
        }
    )*};
}
pub(crate) use every_behaviour_holds_in;

fn prev_of(answer: &Appended) -> Position {
    match answer {
        Appended::Stored { prev } => *prev,
        other => panic!("not stored anew: {other:?}"),
    }
}

fn offsets(rows: &[herald::dispatcher::store::Row]) -> Vec<u64> {
    rows.iter().map(|row| row.pos.offset()).collect()
}

// ── storing ────────────────────────────────────────────────────────────────────────────────────

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
            matches!(&error, StoreError::Corrupt(cause) if cause.contains("new generation")),
            "{error}"
        );
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

// ── sync ───────────────────────────────────────────────────────────────────────────────────────

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
    assert_eq!(store.unread(&nobody).await.unwrap(), 0);
}

// ── reading ────────────────────────────────────────────────────────────────────────────────────

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
    store.append_broadcast(announced).await.unwrap();
    store
        .append(vec![read_mark(&ada, at(1), &[id])])
        .await
        .unwrap();
    assert_eq!(store.read_among(&ada, &[id]).await.unwrap(), [id]);
    assert_eq!(store.read_among(&bob, &[id]).await.unwrap(), []);
    assert_eq!(store.unread(&ada).await.unwrap(), 0);
    assert_eq!(store.unread(&bob).await.unwrap(), 1);
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
    for offset in [1, 2] {
        store.append_broadcast(broadcast(at(offset))).await.unwrap();
    }
    // Row 2, the last score, and two broadcasts.
    assert_eq!(store.unread(&ada).await.unwrap(), 4);
}

// ── broadcasts ─────────────────────────────────────────────────────────────────────────────────

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

// ── the delivery log ───────────────────────────────────────────────────────────────────────────

async fn in_app_state(store: &SharedStore, id: NotificationId, name: &str) -> (String, u32) {
    let states = store.delivery(id, Some(&user(name)), 10).await.unwrap();
    assert_eq!(states.len(), 1, "{states:?}");
    assert_eq!(states[0].channel, Channel::InApp);
    (states[0].state.clone(), states[0].devices)
}

pub async fn delivery_states_only_move_forward(home: &impl Home) {
    let (store, ada, id) = (home.open(), user("ada"), NotificationId::generate());
    let steps = [
        (Fate::NotHere, "not_here"),
        (Fate::Deferred, "deferred"),
        (Fate::Written, "written"),
        (Fate::Deferred, "written"),
        (Fate::Expired, "written"),
        (Fate::Read, "read"),
        (Fate::Acked, "read"),
    ];
    for (fate, expected) in steps {
        store
            .record(&[outcome(id, Some(&ada), fate)])
            .await
            .unwrap();
        assert_eq!(in_app_state(&store, id, "ada").await.0, expected, "{fate}");
    }
}

pub async fn the_furthest_gateway_gives_the_state_and_its_devices(home: &impl Home) {
    let (store, ada, id) = (home.open(), user("ada"), NotificationId::generate());
    let from = |gateway: &str, fate, devices| {
        let mut outcome = outcome(id, Some(&ada), fate);
        (outcome.gateway, outcome.devices) = (gateway.into(), devices);
        outcome
    };
    let outcomes = [
        from("gw-1.7", Fate::Written, 2),
        from("gw-2.7", Fate::Written, 1),
        from("gw-3.7", Fate::NotHere, 0),
    ];
    store.record(&outcomes).await.unwrap();
    assert_eq!(in_app_state(&store, id, "ada").await, ("written".into(), 3));
    store
        .record(&[from("gw-2.7", Fate::Acked, 1)])
        .await
        .unwrap();
    assert_eq!(
        in_app_state(&store, id, "ada").await,
        ("delivered".into(), 1)
    );
}

pub async fn an_outcome_reported_twice_counts_once(home: &impl Home) {
    let (store, ada, id) = (home.open(), user("ada"), NotificationId::generate());
    let mut outcome = outcome(id, Some(&ada), Fate::Written);
    outcome.devices = 2;
    let twice = [outcome.clone(), outcome];
    store.record(&twice).await.unwrap();
    store.record(&twice).await.unwrap();
    assert_eq!(in_app_state(&store, id, "ada").await, ("written".into(), 2));
}

pub async fn outcomes_of_a_broadcast_are_counted_by_gateway_and_kind(home: &impl Home) {
    let (store, ada, id) = (home.open(), user("ada"), NotificationId::generate());
    let mut outcomes = Vec::new();
    for (gateway, fate, devices) in [
        ("gw-1.7", Fate::Written, 500),
        ("gw-1.7", Fate::Deferred, 3),
        ("gw-2.9", Fate::Written, 400),
    ] {
        let mut outcome = outcome(id, None, fate);
        (outcome.gateway, outcome.devices) = (gateway.into(), devices);
        outcomes.push(outcome);
    }
    outcomes.push(outcome(id, Some(&ada), Fate::Read));
    store.record(&outcomes).await.unwrap();

    let mut states = store.delivery(id, None, 10).await.unwrap();
    states.sort_by(|a, b| (&a.user, &a.gateway, &a.state).cmp(&(&b.user, &b.gateway, &b.state)));
    let seen: Vec<_> = states
        .iter()
        .map(|s| (s.user.clone(), &s.gateway[..], &s.state[..], s.devices))
        .collect();
    let expected = [
        (None, "gw-1.7", "deferred", 3),
        (None, "gw-1.7", "written", 500),
        (None, "gw-2.9", "written", 400),
        (Some(ada), "gw-1.7", "read", 1),
    ];
    assert_eq!(seen, expected);
    assert_eq!(store.delivery(id, None, 2).await.unwrap().len(), 2);
}

pub async fn pending_never_hides_an_outcome(home: &impl Home) {
    let (store, ada, id) = (home.open(), user("ada"), NotificationId::generate());
    let entries = [
        (id, ada.clone(), Channel::InApp),
        (id, ada.clone(), Channel::Push),
    ];
    store.pending(&entries, 5).await.unwrap();
    store
        .record(&[outcome(id, Some(&ada), Fate::Written)])
        .await
        .unwrap();
    store.pending(&entries, 6).await.unwrap();
    let mut states = store.delivery(id, Some(&ada), 10).await.unwrap();
    states.sort_by_key(|state| state.channel);
    let seen: Vec<_> = states.iter().map(|s| (s.channel, &s.state[..])).collect();
    assert_eq!(
        seen,
        [(Channel::InApp, "written"), (Channel::Push, "pending")]
    );
    assert_eq!((states[1].updated_ms, states[1].devices), (5, 0));
}

pub async fn the_latest_states_of_a_user_come_newest_first(home: &impl Home) {
    let (store, ada, bob) = (home.open(), user("ada"), user("bob"));
    let ids: Vec<_> = (0..5).map(|_| NotificationId::generate()).collect();
    for id in &ids {
        for user in [&ada, &bob] {
            store
                .record(&[outcome(*id, Some(user), Fate::Written)])
                .await
                .unwrap();
        }
    }
    let recent = store.recent(&ada, 3).await.unwrap();
    let seen: Vec<_> = recent.iter().map(|(id, _)| *id).collect();
    assert_eq!(seen, [ids[4], ids[3], ids[2]]);
    assert!(
        recent
            .iter()
            .all(|(_, state)| state.user == Some(ada.clone()))
    );
}

// ── claims and keys ────────────────────────────────────────────────────────────────────────────

pub async fn an_idempotency_key_is_claimed_once_until_it_is_done(home: &impl Home) {
    let store = home.open();
    let (first, other) = (NotificationId::generate(), NotificationId::generate());
    let claim = |id| store.claim("shop", "order-1", [1; 32], id, now_ms());
    assert_eq!(claim(first).await, Ok(Idempotency::Claimed));
    assert_eq!(claim(other).await, Ok(Idempotency::Pending(first)));
    store.finish_claim("shop", "order-1").await.unwrap();
    assert_eq!(claim(other).await, Ok(Idempotency::Done(first)));
}

pub async fn an_idempotency_key_with_another_body_conflicts(home: &impl Home) {
    let store = home.open();
    let id = NotificationId::generate();
    let claim = |body| store.claim("shop", "order-1", [body; 32], id, now_ms());
    assert_eq!(claim(1).await, Ok(Idempotency::Claimed));
    assert_eq!(claim(2).await, Ok(Idempotency::Conflict));
    store.finish_claim("shop", "order-1").await.unwrap();
    assert_eq!(claim(2).await, Ok(Idempotency::Conflict));
}

pub async fn an_idempotency_key_is_free_after_a_day(home: &impl Home) {
    let store = home.open();
    let (first, other) = (NotificationId::generate(), NotificationId::generate());
    let (start_ms, day_ms) = (now_ms(), limits::IDEMPOTENCY_S * 1000);
    let claim = |id, body, at_ms| store.claim("shop", "order-1", [body; 32], id, at_ms);
    assert_eq!(claim(first, 1, start_ms).await, Ok(Idempotency::Claimed));
    store.finish_claim("shop", "order-1").await.unwrap();
    let within = claim(other, 1, start_ms + day_ms - 1).await;
    assert_eq!(within, Ok(Idempotency::Done(first)));
    let after = claim(other, 2, start_ms + day_ms).await;
    assert_eq!(after, Ok(Idempotency::Claimed));
    let again = claim(first, 2, start_ms + day_ms + 1).await;
    assert_eq!(again, Ok(Idempotency::Pending(other)));
}

pub async fn a_claim_given_back_is_free_but_a_finished_one_stays(home: &impl Home) {
    let store = home.open();
    let (first, other) = (NotificationId::generate(), NotificationId::generate());
    let claim = |id| store.claim("shop", "order-1", [1; 32], id, now_ms());
    claim(first).await.unwrap();
    store.release_claim("shop", "order-1").await.unwrap();
    assert_eq!(claim(other).await, Ok(Idempotency::Claimed));
    store.finish_claim("shop", "order-1").await.unwrap();
    store.release_claim("shop", "order-1").await.unwrap();
    assert_eq!(claim(first).await, Ok(Idempotency::Done(other)));
}

pub async fn producers_do_not_share_idempotency_keys(home: &impl Home) {
    let store = home.open();
    for producer in ["shop", "bank"] {
        let id = NotificationId::generate();
        let claimed = store.claim(producer, "1", [1; 32], id, now_ms()).await;
        assert_eq!(claimed, Ok(Idempotency::Claimed), "{producer}");
    }
}

pub async fn an_api_key_is_found_by_its_hash(home: &impl Home) {
    let store = home.open();
    let key = |hash, producer: &str, admin, created_ms| ApiKey {
        producer: producer.into(),
        hash: [hash; 32],
        admin,
        created_ms,
    };
    let (shop, bank) = (key(2, "shop", false, 10), key(1, "bank", true, 20));
    for key in [&bank, &shop] {
        store.put_api_key(key.clone()).await.unwrap();
    }
    assert_eq!(store.api_key(&[1; 32]).await, Ok(Some(bank.clone())));
    assert_eq!(store.api_key(&[9; 32]).await, Ok(None));
    assert_eq!(store.api_keys().await, Ok(vec![shop, bank]));
}
