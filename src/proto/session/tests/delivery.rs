//! What reaches the client, in which order, and what becomes of what doesn't.

use super::*;
use crate::limits::CONTROL_BYTES;
use Priority::{Critical, High, Low, Normal};

#[test]
fn an_idle_connection_is_sent_to_directly_and_owns_nothing() {
    let mut pair = Pair::websocket();
    pair.deliver(1, draft(1).item());
    assert_eq!(pair.fates(), [(1, Fate::Written)]);
    assert_eq!(pair.client.offsets(), [1]);
    assert!(pair.session.lanes.is_none() && pair.session.tracked.is_none());
}

#[test]
fn memory_of_a_busy_connection_is_freed_when_all_is_sent() {
    let mut pair = Pair::websocket();
    pair.block();
    pair.deliver(1, draft(1).item());
    pair.deliver(2, draft(2).item());
    assert!(pair.session.lanes.is_some());
    pair.unblock();
    assert!(pair.session.lanes.is_none());
    assert_eq!(pair.fates(), [(1, Fate::Written), (2, Fate::Written)]);
}

#[test]
fn the_urgent_goes_first_and_a_lane_keeps_its_order() {
    let mut pair = Pair::websocket();
    pair.block();
    for (offset, lane) in [
        (1, Low),
        (2, Normal),
        (3, High),
        (4, Critical),
        (5, Critical),
        (6, Low),
    ] {
        let item = Arc::new(draft(offset).lane(lane).item());
        pair.session
            .deliver(&item, offset, pair.now, &pair.cfg, &mut pair.actions);
    }
    pair.unblock();
    assert_eq!(pair.client.offsets(), [4, 5, 3, 2, 1, 6]);
    assert_eq!(pair.client.cursor(USER).position(), p(6));
}

#[test]
fn what_is_partly_sent_is_finished_before_anything_else() {
    for taken in [1, 2, 50] {
        let mut pair = Pair::websocket();
        pair.room = taken;
        pair.deliver(1, draft(1).lane(Low).item());
        pair.deliver(2, draft(2).lane(Critical).item());
        pair.session.control(&frames::pong(), &mut pair.actions);
        pair.unblock();
        assert_eq!(
            pair.client.types(),
            ["notification", "pong", "notification"]
        );
        assert_eq!(pair.client.offsets(), [1, 2]);
    }
}

#[test]
fn control_never_waits_behind_data() {
    let mut pair = Pair::websocket();
    pair.cfg.lanes_bytes = 256 * 1024;
    pair.block();
    for offset in 1..=100 {
        pair.deliver(offset, draft(offset).bytes(1_000).item());
    }
    pair.receive(r#"{"type":"ping"}"#);
    pair.unblock();
    // The first item was offered to the kernel already, so its place is settled.
    assert_eq!(pair.client.types()[..2], ["notification", "pong"]);
    assert_eq!(pair.client.offsets().len(), 100);
}

#[test]
fn what_is_offered_and_not_taken_delays_the_urgent_by_a_bounded_amount() {
    let mut pair = Pair::websocket();
    pair.block();
    for offset in 1..=100 {
        pair.deliver(offset, draft(offset).lane(Low).bytes(1_000).item());
    }
    pair.room = 1;
    pair.flush();
    pair.deliver(101, draft(101).lane(Critical).item());
    pair.unblock();
    let before = pair
        .client
        .offsets()
        .iter()
        .position(|&offset| offset == 101);
    let bound = crate::limits::OUTGOING_PIECES.min(crate::limits::OUTGOING_BYTES / 1_000 + 1);
    assert!(before.unwrap() <= bound, "{before:?}");
}

#[test]
fn several_items_leave_in_one_writev() {
    let mut pair = Pair::websocket();
    pair.block();
    for offset in 1..=10 {
        pair.deliver(offset, draft(offset).item());
    }
    let mut slices = SmallVec::new();
    pair.session
        .gather(pair.now, &mut slices, &mut pair.actions);
    assert_eq!(slices.len(), 10);
}

#[test]
fn a_later_item_of_its_key_replaces_an_unsent_one_and_the_cursor_passes_over_it() {
    let mut pair = Pair::websocket();
    pair.block();
    pair.deliver(1, draft(1).item());
    for offset in 2..=4 {
        pair.deliver(offset, draft(offset).key("score").item());
    }
    pair.deliver(5, draft(5).key("other").item());
    assert_eq!(pair.fates(), [(2, Fate::Collapsed), (3, Fate::Collapsed)]);
    pair.unblock();
    assert_eq!(pair.client.offsets(), [1, 4, 5]);
    assert_eq!(pair.client.cursor(USER).position(), p(5));
    let gaps: Vec<_> = pair.client.of_type("gap").cloned().collect();
    assert_eq!(gaps.len(), 1, "neighbours are told as one range");
    assert_eq!(gaps[0]["cause"], "collapsed");
    assert_eq!(gaps[0]["dropped"], 2);
    assert_eq!(
        (gaps[0]["from"].as_u64(), gaps[0]["to"].as_u64()),
        (Some(p(1).value()), Some(p(3).value()))
    );
}

#[test]
fn a_partly_sent_item_is_never_replaced() {
    let mut pair = Pair::websocket();
    pair.room = 3;
    pair.deliver(1, draft(1).key("score").item());
    pair.deliver(2, draft(2).key("score").item());
    pair.unblock();
    assert_eq!(pair.client.offsets(), [1, 2]);
    assert_eq!(pair.fates(), [(1, Fate::Written), (2, Fate::Written)]);
}

#[test]
fn an_item_that_arrives_after_its_successor_of_the_same_key_is_not_sent() {
    let mut pair = Pair::websocket();
    pair.block();
    pair.deliver(2, draft(2).key("score").item());
    pair.deliver(1, draft(1).key("score").item());
    assert_eq!(pair.fates(), [(1, Fate::Collapsed)]);
    pair.unblock();
    assert_eq!(pair.client.offsets(), [2]);
    assert_eq!(pair.client.cursor(USER).position(), p(2));
}

#[test]
fn a_repeated_item_does_not_collapse_itself() {
    let mut pair = Pair::websocket();
    pair.block();
    pair.deliver(1, draft(1).key("score").item());
    pair.deliver(2, draft(1).key("score").item());
    assert_eq!(pair.fates(), []);
}

#[test]
fn what_expires_unsent_is_dropped_and_the_cursor_passes_over_it() {
    let mut pair = Pair::websocket();
    pair.block();
    pair.deliver(1, draft(1).item());
    pair.deliver(2, draft(2).expires_in(1_500).item());
    pair.deliver(3, draft(3).expires_in(60_000).item());
    pair.after(3_000);
    assert!(
        !pair.fates().contains(&(2, Fate::Expired)),
        "within the tolerance"
    );
    pair.after(1_000);
    assert_eq!(pair.fates(), [(2, Fate::Expired)]);
    pair.unblock();
    assert_eq!(pair.client.offsets(), [1, 3]);
    assert_eq!(pair.client.cursor(USER).position(), p(3));
    assert_eq!(
        pair.client.of_type("gap").next().unwrap()["cause"],
        "expired"
    );
}

#[test]
fn what_has_expired_already_is_not_sent_even_to_an_idle_connection() {
    let mut pair = Pair::websocket();
    pair.after(10_000);
    pair.deliver(1, draft(1).expires_in(1_000).item());
    assert_eq!(pair.fates(), [(1, Fate::Expired)]);
    assert_eq!(pair.client.types(), ["gap"]);
    assert_eq!(pair.client.cursor(USER).position(), p(1));
}

#[test]
fn a_partly_sent_item_does_not_expire() {
    let mut pair = Pair::websocket();
    pair.room = 3;
    pair.deliver(1, draft(1).expires_in(1_000).item());
    pair.after(10_000);
    pair.unblock();
    assert_eq!(pair.client.offsets(), [1]);
    assert_eq!(pair.fates(), [(1, Fate::Deferred), (1, Fate::Written)]);
}

#[test]
fn under_pressure_the_low_goes_first_with_one_gap_for_the_episode() {
    let mut pair = Pair::websocket();
    pair.cfg.lanes_bytes = 10_000;
    pair.block();
    for offset in 1..=8 {
        pair.deliver(offset, draft(offset).lane(Low).bytes(1_000).item());
    }
    for offset in 9..=14 {
        pair.deliver(offset, draft(offset).lane(High).bytes(1_000).item());
    }
    let shed = pair
        .actions
        .iter()
        .filter(|action| **action == Action::Shed);
    assert!(shed.count() > 1);
    let fates = pair.fates();
    assert!(
        fates
            .iter()
            .all(|(ticket, fate)| *ticket <= 8 && *fate == Fate::Deferred)
    );
    pair.unblock();
    let (arrived, gaps) = (pair.client.offsets(), pair.client.of_type("gap"));
    assert_eq!(arrived.iter().filter(|offset| **offset >= 9).count(), 6);
    let gaps: Vec<_> = gaps.collect();
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0]["cause"], "pressure");
    assert_eq!(gaps[0]["dropped"], 14 - arrived.len());
    assert_eq!(gaps[0]["to"], p(8).value());
    assert!(gaps[0]["sync_after_ms"].as_u64().is_some());
    // What stayed of the low lane is its oldest part: it leads up to the hole.
    let low_kept = arrived.iter().filter(|offset| **offset <= 8).count() as u64;
    assert_eq!(pair.client.cursor(USER).position(), p(low_kept));
    assert!(pair.session.is_behind() && pair.client.cursor(USER).has_hole());
}

#[test]
fn when_all_is_equally_urgent_the_newest_is_shed() {
    let mut pair = Pair::websocket();
    pair.cfg.lanes_bytes = 6_000;
    pair.block();
    for offset in 1..=10 {
        pair.deliver(offset, draft(offset).bytes(1_000).item());
    }
    pair.unblock();
    assert_eq!(pair.client.offsets(), [1, 2, 3, 4]);
    assert_eq!(pair.client.cursor(USER).position(), p(4));
}

#[test]
fn an_episode_that_lasts_is_told_while_it_lasts() {
    let mut pair = Pair::websocket();
    pair.cfg.lanes_bytes = 5_000;
    pair.block();
    for offset in 1..=200 {
        pair.deliver(offset, draft(offset).bytes(1_000).item());
        // It reads, but never enough for the lanes to be half empty.
        pair.room = 100;
        pair.flush();
        pair.block();
        pair.after(500);
    }
    assert!(pair.client.of_type("gap").next().is_some());
}

#[test]
fn an_item_larger_than_the_lanes_still_goes_when_nothing_else_waits() {
    let mut pair = Pair::websocket();
    pair.cfg.lanes_bytes = 100;
    pair.block();
    let item = Arc::new(draft(1).bytes(1_000).item());
    pair.session
        .deliver(&item, 1, pair.now, &pair.cfg, &mut pair.actions);
    pair.unblock();
    assert_eq!(pair.client.offsets(), [1]);
}

#[test]
fn a_connection_that_is_gone_reports_what_was_unsent_once() {
    let mut pair = Pair::websocket();
    pair.room = 5;
    for offset in 1..=3 {
        pair.deliver(offset, draft(offset).item());
    }
    pair.session.abandon(&mut pair.actions);
    let mut fates = pair.fates();
    fates.sort();
    assert_eq!(fates, [1, 2, 3].map(|ticket| (ticket, Fate::Deferred)));
    pair.deliver(4, draft(4).item());
    assert_eq!(pair.fates(), [(4, Fate::Deferred)]);
    assert!(!pair.session.wants_write());
}

#[test]
fn after_the_close_frame_nothing_leaves_and_what_was_partly_sent_is_whole() {
    let mut pair = Pair::websocket();
    pair.room = 5;
    pair.deliver(1, draft(1).item());
    pair.deliver(2, draft(2).item());
    pair.session
        .finish(Bytes::from_static(&[0x88, 0]), &mut pair.actions);
    pair.deliver(3, draft(3).item());
    pair.unblock();
    assert_eq!(pair.client.types(), ["notification", "close"]);
    assert!(pair.client.unread.is_empty() && pair.session.lanes.is_none());
}

#[test]
fn one_that_asks_for_more_than_it_reads_is_closed() {
    let mut pair = Pair::websocket();
    pair.block();
    let answer = Bytes::from(format!(
        r#"{{"type":"sync","x":"{}"}}"#,
        "x".repeat(CONTROL_BYTES * 2 / 5)
    ));
    for _ in 0..2 {
        pair.session
            .synced(&answer, &Cursors::new(), false, &mut pair.actions);
    }
    assert_eq!(pair.closed(), None);
    pair.session
        .synced(&answer, &Cursors::new(), false, &mut pair.actions);
    assert_eq!(pair.closed(), Some(CloseCode::TooSlow));
}

#[test]
fn gaps_that_nobody_reads_are_bounded() {
    let mut pair = Pair::websocket();
    pair.block();
    pair.deliver(1, draft(1).item());
    // Every second one, so that no two ranges touch.
    for offset in (2..20_000).step_by(2) {
        pair.deliver(offset, draft(offset).key("score").item());
    }
    assert_eq!(pair.closed(), Some(CloseCode::TooSlow));
}
