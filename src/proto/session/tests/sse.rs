//! The same session under Server-Sent Events, and the cursors it keeps for the client.

use super::*;

fn pair() -> Pair {
    Pair::new(Framing::Sse)
}

fn id(offset: u64) -> Option<String> {
    Some(format!("{USER}={}", p(offset)))
}

#[test]
fn no_id_is_told_before_the_sync_at_connect_is_complete() {
    let mut pair = pair();
    pair.session.sync_asked();
    pair.deliver(1, draft(6).item());
    assert_eq!(pair.client.offsets(), [6]);
    assert_eq!(pair.client.last_event_id, None);
    pair.synced(5, true);
    assert_eq!(
        pair.client.last_event_id,
        id(6),
        "what came before the answer counts"
    );
    pair.deliver(2, draft(7).item());
    assert_eq!(pair.client.last_event_id, id(7));
    assert_eq!(pair.fates(), [(1, Fate::Written), (2, Fate::Written)]);
}

#[test]
fn an_id_never_passes_a_hole() {
    let mut pair = pair();
    pair.synced(5, true);
    pair.deliver(1, draft(8).item());
    assert_eq!(pair.client.last_event_id, id(5));
    pair.deliver(2, draft(7).item());
    pair.deliver(3, draft(6).item());
    assert_eq!(pair.client.last_event_id, id(8));
}

#[test]
fn an_id_passes_over_what_expired_and_what_collapsed() {
    let mut pair = pair();
    pair.synced(5, true);
    pair.block();
    pair.deliver(1, draft(6).expires_in(0).item());
    pair.deliver(2, draft(7).key("score").item());
    pair.deliver(3, draft(8).key("score").item());
    pair.after(5_000);
    pair.unblock();
    assert_eq!(pair.client.offsets(), [8]);
    assert_eq!(pair.client.last_event_id, id(8));
}

#[test]
fn an_id_does_not_pass_over_what_was_shed() {
    let mut pair = pair();
    pair.synced(5, true);
    pair.cfg.lanes_bytes = 3_000;
    pair.block();
    for offset in 6..=9 {
        pair.deliver(offset, draft(offset).bytes(1_000).item());
    }
    pair.unblock();
    pair.deliver(10, draft(10).item());
    assert_eq!(pair.client.offsets(), [6, 7, 10]);
    assert_eq!(pair.client.last_event_id, id(7));
    // The cursors are known here, so the client needn't ask.
    pair.actions.clear();
    pair.after(6_000);
    let cursors = Cursors::from([(USER.to_owned(), p(7))]);
    assert_eq!(
        pair.actions,
        [Action::Sync {
            cursors,
            limit: SYNC_ITEMS
        }]
    );
    pair.synced(10, true);
    assert_eq!(pair.client.last_event_id, id(10));
    assert!(!pair.session.is_behind());
}

#[test]
fn a_catch_up_in_parts_is_asked_for_to_its_end() {
    let mut pair = pair();
    pair.session.sync_asked();
    pair.synced(50, false);
    let ask = |offset| Action::Sync {
        cursors: Cursors::from([(USER.to_owned(), p(offset))]),
        limit: SYNC_ITEMS,
    };
    assert_eq!(pair.actions, [ask(50)]);
    pair.synced(100, false);
    assert_eq!(pair.actions, [ask(50), ask(100)]);
    assert_eq!(pair.client.last_event_id, None);
    pair.synced(120, true);
    assert_eq!(pair.client.last_event_id, id(120));
}

#[test]
fn an_answer_that_leads_nowhere_is_not_asked_for_again_and_again() {
    let mut pair = pair();
    pair.synced(50, false);
    pair.actions.clear();
    pair.synced(50, false);
    assert_eq!(pair.actions, []);
}

#[test]
fn a_sync_that_could_not_be_answered_is_asked_again_when_the_cause_has_ended() {
    let mut pair = pair();
    pair.session.sync_asked();
    // Nobody could answer: the cursors are those the client presented.
    pair.synced(5, false);
    pair.synced(5, false);
    pair.actions.clear();
    pair.session.behind(0, pair.now);
    pair.after(1_000);
    let cursors = Cursors::from([(USER.to_owned(), p(5))]);
    let limit = SYNC_ITEMS;
    assert_eq!(pair.actions, [Action::Sync { cursors, limit }]);
    pair.synced(9, true);
    assert_eq!(pair.client.last_event_id, id(9));
    assert!(!pair.session.is_behind());
}

#[test]
fn the_heartbeat_is_a_comment_and_silence_is_no_sign_of_death() {
    let mut pair = pair();
    pair.after(600_000);
    assert_eq!(pair.closed(), None);
    assert!((18..=22).contains(&pair.client.heartbeats));
}

#[test]
fn one_that_does_not_read_is_closed_all_the_same() {
    let mut pair = pair();
    pair.block();
    pair.deliver(1, draft(1).item());
    pair.after(30_000);
    assert_eq!(pair.closed(), Some(CloseCode::TooSlow));
}

#[test]
fn the_browsers_retry_follows_the_slot() {
    let mut pair = pair();
    let slot = |after_ms_min, after_ms_max| Slot {
        after_ms_min,
        after_ms_max,
    };
    pair.session.welcome(
        "gw-1.7.0-1-2",
        slot(3_000, 4_000),
        &pair.cfg,
        &mut pair.actions,
    );
    pair.flush();
    assert!((3_000..=4_000).contains(&pair.client.retry_ms.unwrap()));
    pair.session.slot(slot(8_000, 9_000), &mut pair.actions);
    pair.flush();
    assert!((8_000..=9_000).contains(&pair.client.retry_ms.unwrap()));
    pair.session.reconnect(70, "drain", &mut pair.actions);
    pair.flush();
    assert_eq!(pair.client.retry_ms, Some(70));
    assert_eq!(pair.client.types(), ["welcome", "slot", "reconnect"]);
}

#[test]
fn json_over_several_lines_stays_one_event() {
    let mut pair = pair();
    let json = b"{\"type\":\"notification\",\"stream\":\"user:local\",\n\"pos\":2,\r\n\"prev\":1}";
    let item = Item::new(
        Kind::Notification,
        NotificationId::generate(),
        USER.into(),
        p(2),
        p(1),
        Priority::Normal,
        None,
        None,
        Bytes::from_static(json),
    );
    pair.deliver(1, item);
    pair.synced(5, true);
    assert_eq!(pair.client.types(), ["notification", "sync"]);
}
