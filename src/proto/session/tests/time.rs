//! What passing time does to a connection.

use super::*;
use crate::config::Secret;

/// Seconds at which heartbeats arrived within five minutes.
fn heartbeat_times(salt: u32) -> Vec<u64> {
    let mut pair = Pair::websocket();
    pair.session = Session::new(Framing::WebSocket, EXPIRES_S, salt, pair.now, &pair.cfg);
    let mut times = Vec::new();
    for second in 0..300 {
        let before = pair.client.heartbeats;
        pair.after(1_000);
        pair.session.heard(pair.now);
        if pair.client.heartbeats > before {
            times.push(second);
        }
    }
    times
}

#[test]
fn a_ping_comes_every_thirty_seconds_give_or_take_a_tenth() {
    for salt in 0..50 {
        let times = heartbeat_times(salt);
        assert!((9..=11).contains(&times.len()), "{times:?}");
        for pair in times.windows(2) {
            // A tick is a second, so a ping is up to one late.
            assert!((27..=34).contains(&(pair[1] - pair[0])), "{times:?}");
        }
    }
    assert_ne!(heartbeat_times(1), heartbeat_times(2));
}

#[test]
fn a_ping_that_is_partly_taken_is_finished_even_before_the_close_frame() {
    let mut pair = Pair::websocket();
    pair.room = 1;
    pair.after(33_000);
    assert!(pair.session.wants_write());
    pair.session
        .finish(Bytes::from_static(b"\x88\x00"), &mut pair.actions);
    pair.unblock();
    assert_eq!(pair.client.heartbeats, 1);
    assert!(!pair.session.wants_write());
}

#[test]
fn one_with_a_backlog_is_asked_for_signs_of_life_as_well() {
    let mut pair = Pair::websocket();
    pair.cfg.lanes_bytes = 256 * 1024;
    pair.block();
    for offset in 1..=200 {
        pair.deliver(offset, draft(offset).bytes(1_000).item());
    }
    for _ in 0..60 {
        pair.room = 1_000;
        pair.flush();
        pair.after(1_000);
    }
    assert!(pair.session.wants_write() && pair.client.heartbeats >= 1);
}

#[test]
fn ninety_seconds_of_silence_are_the_end_of_a_websocket() {
    let mut pair = Pair::websocket();
    pair.after(60_000);
    pair.session.heard(pair.now);
    pair.after(89_000);
    assert_eq!(pair.closed(), None);
    pair.after(1_000);
    assert_eq!(pair.closed(), Some(CloseCode::Dead));
    pair.actions.clear();
    pair.after(100_000);
    assert_eq!(pair.actions, [], "it ends once");
}

#[test]
fn a_clients_ping_is_answered() {
    let mut pair = Pair::websocket();
    pair.receive(r#"{"type":"ping"}"#);
    assert_eq!(pair.client.types(), ["pong"]);
    assert!(pair.session.lanes.is_none());
}

#[test]
fn what_a_client_asks_for_is_handed_on() {
    let mut pair = Pair::websocket();
    let id = NotificationId::generate();
    pair.receive(&format!(r#"{{"type":"ack","ids":["{id}"]}}"#));
    pair.receive(&format!(r#"{{"type":"read","ids":["{id}"]}}"#));
    pair.receive(r#"{"type":"sync","cursors":{}}"#);
    pair.receive(r#"{"type":"auth","token":"t"}"#);
    let (token, cursors, limit) = (Secret::new("t"), Cursors::new(), SYNC_ITEMS);
    assert_eq!(
        pair.actions,
        [
            Action::Acked(vec![id]),
            Action::Read(vec![id]),
            Action::Sync { cursors, limit },
            Action::Authenticate {
                token,
                cursors: None
            },
        ]
    );
}

#[test]
fn a_frame_that_is_not_understood_is_answered_and_the_connection_lives_on() {
    let mut pair = Pair::websocket();
    pair.receive(r#"{"type":"hologram"}"#);
    pair.receive("nonsense");
    let codes: Vec<_> = pair
        .client
        .of_type("error")
        .map(|e| e["code"].clone())
        .collect();
    assert_eq!(codes, ["unknown_type", "bad_json"]);
    assert_eq!(
        pair.actions,
        [
            Action::Refused(ErrorCode::UnknownType),
            Action::Refused(ErrorCode::BadJson)
        ]
    );
}

#[test]
fn fifty_messages_at_once_are_taken_and_one_more_closes() {
    let mut pair = Pair::websocket();
    for _ in 0..50 {
        pair.receive(r#"{"type":"ping"}"#);
    }
    assert_eq!((pair.client.frames.len(), pair.closed()), (50, None));
    pair.receive(r#"{"type":"ping"}"#);
    assert_eq!(pair.closed(), Some(CloseCode::RateLimited));
    assert_eq!(pair.client.frames.last().unwrap()["code"], "rate_limited");
}

#[test]
fn ten_messages_a_second_go_on_for_ever() {
    let mut pair = Pair::websocket();
    for _ in 0..60 {
        for _ in 0..10 {
            pair.receive(r#"{"type":"ping"}"#);
        }
        pair.after(1_000);
    }
    assert_eq!(pair.closed(), None);
    pair.after(60_000);
    for _ in 0..50 {
        pair.receive(r#"{"type":"ping"}"#);
    }
    assert_eq!(pair.closed(), None, "the allowance is whole again");
}

#[test]
fn a_token_is_warned_of_and_its_end_is_the_connections() {
    let mut pair = Pair::websocket();
    pair.session.refreshed(START_S + 80);
    pair.after(19_000);
    assert_eq!(pair.client.of_type("auth_expiring").count(), 0);
    pair.after(60_000);
    let told: Vec<_> = pair.client.of_type("auth_expiring").collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["in_ms"], 60_000);
    assert_eq!(pair.closed(), None);
    pair.after(1_000);
    assert_eq!(pair.closed(), Some(CloseCode::TokenExpired));
}

#[test]
fn a_refreshed_token_keeps_the_connection() {
    let mut pair = Pair::websocket();
    pair.session.refreshed(START_S + 30);
    pair.after(10_000);
    pair.session.refreshed(START_S + 120);
    pair.after(70_000);
    assert_eq!(pair.closed(), None);
    assert_eq!(pair.client.of_type("auth_expiring").count(), 2);
}

#[test]
fn an_item_unsent_for_a_second_is_deferred_once_and_its_end_still_told() {
    let mut pair = Pair::websocket();
    pair.block();
    pair.deliver(1, draft(1).item());
    pair.deliver(2, draft(2).key("score").item());
    pair.deliver(3, draft(3).expires_in(1_000).item());
    pair.after(2_000);
    assert_eq!(
        pair.fates(),
        [1, 2, 3].map(|ticket| (ticket, Fate::Deferred))
    );
    pair.deliver(4, draft(4).key("score").item());
    pair.after(3_000);
    assert_eq!(
        pair.fates(),
        [
            (2, Fate::Collapsed),
            (4, Fate::Deferred),
            (3, Fate::Expired)
        ]
    );
    pair.unblock();
    assert_eq!(pair.fates(), [(1, Fate::Written), (4, Fate::Written)]);
}

#[test]
fn twenty_seconds_without_a_byte_taken_close_and_one_byte_does_not() {
    let mut pair = Pair::websocket();
    pair.block();
    pair.deliver(1, draft(1).item());
    for _ in 0..5 {
        pair.after(18_000);
        pair.session.heard(pair.now);
        pair.room = 1;
        pair.flush();
    }
    assert_eq!(pair.closed(), None);
    pair.after(21_000);
    assert_eq!(pair.closed(), Some(CloseCode::TooSlow));
}

fn behind_gaps(pair: &Pair) -> usize {
    let gaps = pair.client.of_type("gap");
    gaps.filter(|gap| gap["cause"] == "behind").count()
}

#[test]
fn one_that_is_behind_is_told_after_the_pause_and_again_until_it_has_synced() {
    let mut pair = Pair::websocket();
    pair.session.behind(5_000, pair.now);
    pair.after(4_000);
    assert_eq!(behind_gaps(&pair), 0);
    pair.after(1_000);
    assert_eq!(behind_gaps(&pair), 1);
    pair.after(30_000);
    assert_eq!(behind_gaps(&pair), 2);
    pair.receive(r#"{"type":"sync"}"#);
    pair.synced(1, false);
    assert!(
        pair.session.is_behind(),
        "an incomplete sync clears nothing"
    );
    pair.receive(r#"{"type":"sync"}"#);
    pair.synced(1, true);
    assert!(!pair.session.is_behind());
    pair.session.heard(pair.now);
    pair.after(60_000);
    assert_eq!(behind_gaps(&pair), 2);
}

#[test]
fn a_sync_asked_before_something_was_missed_does_not_vouch_for_it() {
    let mut pair = Pair::websocket();
    pair.receive(r#"{"type":"sync"}"#);
    pair.session.behind(0, pair.now);
    pair.synced(1, true);
    assert!(pair.session.is_behind());
    pair.after(1_000);
    pair.receive(r#"{"type":"sync"}"#);
    pair.synced(2, true);
    assert!(!pair.session.is_behind());
}

#[test]
fn a_further_sync_is_refused_until_the_first_is_answered() {
    let mut pair = Pair::websocket();
    let asked = |pair: &Pair| {
        let syncs = pair.actions.iter();
        syncs
            .filter(|action| matches!(action, Action::Sync { .. }))
            .count()
    };
    pair.receive(r#"{"type":"sync"}"#);
    pair.receive(r#"{"type":"sync"}"#);
    assert_eq!(asked(&pair), 1);
    assert_eq!(pair.client.types(), ["error"]);
    pair.synced(1, true);
    pair.receive(r#"{"type":"sync"}"#);
    assert_eq!(asked(&pair), 2);
}

#[test]
fn the_sync_at_connect_counts_as_asked() {
    let mut pair = Pair::websocket();
    pair.session.sync_asked();
    pair.session.behind(0, pair.now);
    pair.synced(1, true);
    assert!(pair.session.is_behind());
}

#[test]
fn an_answer_that_never_came_does_not_keep_one_behind_for_ever() {
    let mut pair = Pair::websocket();
    pair.receive(r#"{"type":"sync"}"#);
    pair.session.behind(0, pair.now);
    pair.after(35_000);
    pair.receive(r#"{"type":"sync"}"#);
    pair.synced(1, true);
    assert!(!pair.session.is_behind());
}
