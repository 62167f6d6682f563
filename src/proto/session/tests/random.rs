//! Whatever happens in whatever order: the byte stream stays whole, every ticket gets its fates, and
//! no cursor passes over an item that neither arrived nor was told to be dropped for good.

use super::*;
use crate::proto::client;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Step {
    Deliver {
        lane: u8,
        key: u8,
        ttl_s: u8,
        bytes: u16,
    },
    /// Swaps with the item delivered next.
    Late,
    Take(u16),
    Pass(u16),
    Control,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..4u8, 0..6u8, 0..12u8, 0..3_000u16).prop_map(|(lane, key, ttl_s, bytes)| {
            Step::Deliver { lane, key, ttl_s, bytes }
        }),
        1 => Just(Step::Late),
        2 => (0..6_000u16).prop_map(Step::Take),
        2 => (0..3_000u16).prop_map(Step::Pass),
        1 => Just(Step::Control),
    ]
}

fn make(offset: u64, step: &Step, now: Now) -> Option<Item> {
    let Step::Deliver {
        lane,
        key,
        ttl_s,
        bytes,
    } = *step
    else {
        return None;
    };
    use Priority::{Critical, High, Low, Normal};
    let lane = [Critical, High, Normal, Low][usize::from(lane)];
    let mut draft = draft(offset).lane(lane).bytes(usize::from(bytes));
    draft.collapse_key = ["a", "b"].get(usize::from(key)).copied();
    draft.expires_ms = (ttl_s < 4).then(|| now.unix_ms + u64::from(ttl_s) * 1_000);
    Some(draft.item())
}

/// One first fate per ticket; after `Deferred` at most one final one.
fn check_fates(fates: &[(Ticket, Fate)], tickets: u64) -> BTreeMap<Ticket, Fate> {
    let mut last = BTreeMap::new();
    for &(ticket, fate) in fates {
        let before = last.insert(ticket, fate);
        let legal = before.is_none() || (before == Some(Fate::Deferred) && fate != Fate::Deferred);
        assert!(legal, "ticket {ticket}: {fate} after {before:?}");
    }
    assert_eq!(last.len() as u64, tickets, "every ticket has an answer");
    last
}

fn run(framing: Framing, steps: &[Step]) {
    let mut pair = Pair::new(framing);
    pair.cfg.lanes_bytes = 8_000;
    pair.synced(0, true);
    let (mut offset, mut late) = (0, None);
    for step in steps {
        match step {
            Step::Deliver { .. } => {
                offset += 1;
                let item = make(offset, step, pair.now).unwrap();
                pair.deliver(offset, item);
                if let Some((ticket, item)) = late.take() {
                    pair.deliver(ticket, item);
                }
            }
            Step::Late if late.is_none() => {
                offset += 1;
                late = Some((offset, draft(offset).key("a").item()));
            }
            Step::Late => {}
            Step::Take(bytes) => {
                pair.room = usize::from(*bytes);
                pair.flush();
            }
            Step::Pass(ms) => pair.after(u64::from(*ms)),
            Step::Control => pair.session.control(&frames::pong(), &mut pair.actions),
        }
        check_cursor(&mut pair, offset);
    }
    if let Some((ticket, item)) = late {
        pair.deliver(ticket, item);
    }
    if pair.closed().is_none() {
        pair.unblock();
        assert!(
            pair.session.lanes.is_none(),
            "an idle connection owns nothing"
        );
        assert!(pair.client.unread.is_empty(), "frames are whole");
    }
    pair.session.abandon(&mut pair.actions);
    check_cursor(&mut pair, offset);
    let shed = pair.actions.contains(&Action::Shed);
    let closed = pair.closed().is_some();
    let last = check_fates(&pair.fates(), offset);
    let arrived: BTreeSet<_> = pair.client.offsets().into_iter().collect();
    for (ticket, fate) in last {
        assert!(
            fate != Fate::Written || arrived.contains(&ticket),
            "{ticket}"
        );
    }
    if !shed && !closed {
        assert_eq!(
            pair.client.cursor(USER).position(),
            p(offset),
            "nothing is missing"
        );
    }
}

/// The client's cursor, and the one told by `id:`, pass only over what arrived, expired or collapsed.
fn check_cursor(pair: &mut Pair, offset: u64) {
    let mut passed: BTreeSet<_> = pair.client.offsets().into_iter().collect();
    for action in &pair.actions {
        if let Action::Fate {
            ticket,
            fate: Fate::Expired | Fate::Collapsed,
        } = action
        {
            passed.insert(*ticket);
        }
    }
    let contiguous = (1..=offset)
        .take_while(|offset| passed.contains(offset))
        .count() as u64;
    assert!(pair.client.cursor(USER).position() <= p(contiguous));
    if let Some(id) = &pair.client.last_event_id {
        let told = client::cursors::from_text(id).unwrap()[USER];
        assert!(told <= p(contiguous), "{id} passes {contiguous}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_websocket_client_can_tell_that_nothing_is_missing(steps in prop::collection::vec(step(), 1..120)) {
        run(Framing::WebSocket, &steps);
    }

    #[test]
    fn an_sse_client_can_tell_that_nothing_is_missing(steps in prop::collection::vec(step(), 1..120)) {
        run(Framing::Sse, &steps);
    }
}
