//! The delivery log.

use super::Home;
use crate::build::*;
use herald::{
    dispatcher::store::{SendState, Sending, SharedStore},
    envelope::{Channel, Fate},
    ids::NotificationId,
};

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
    let (store, ada, announced) = (home.open(), user("ada"), broadcast(at(1)));
    let id = announced.id;
    announce(&*store, announced).await;
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

pub async fn what_a_client_says_of_an_id_its_user_does_not_have_leaves_nothing(home: &impl Home) {
    let (store, ada, bob) = (home.open(), user("ada"), user("bob"));
    let own = stored(&store, &ada, &[1]).await[0];
    let mark = read_mark(&ada, at(2), &[own]);
    store.append(vec![mark.clone()]).await.unwrap();
    let unheard_of = NotificationId::generate();
    let said = [
        (unheard_of, &ada, Fate::Read),
        (unheard_of, &ada, Fate::Acked),
        (own, &bob, Fate::Read),
        (mark.id, &ada, Fate::Read),
        (own, &ada, Fate::Acked),
    ];
    let outcomes = said.map(|(id, user, fate)| outcome(id, Some(user), fate));
    assert_eq!(store.record(&outcomes).await, Ok(4));
    assert_eq!(store.delivery(unheard_of, None, 10).await.unwrap(), []);
    assert_eq!(store.delivery(mark.id, None, 10).await.unwrap(), []);
    assert_eq!(store.delivery(own, None, 10).await.unwrap().len(), 1);
    assert_eq!(in_app_state(&store, own, "ada").await.0, "delivered");

    let next = stored(&store, &ada, &[3]).await[0];
    let ids = [own, next, unheard_of, mark.id];
    assert_eq!(store.unread_among(&ada, &ids).await.unwrap(), [next]);
    assert_eq!(store.unread_among(&bob, &ids).await.unwrap(), []);
}

pub async fn what_a_gateway_was_given_may_be_acknowledged_before_its_row_is_stored(
    home: &impl Home,
) {
    let (store, ada) = (home.open(), user("ada"));
    // The gateway says in one batch that it wrote it and that it was acknowledged, in whatever order.
    let written = NotificationId::generate();
    let batch = [Fate::Acked, Fate::Written].map(|fate| outcome(written, Some(&ada), fate));
    assert_eq!(store.record(&batch).await, Ok(0));
    assert_eq!(in_app_state(&store, written, "ada").await.0, "delivered");

    let pending = NotificationId::generate();
    let entry = (pending, ada.clone(), Channel::InApp);
    store.pending(&[entry], 5).await.unwrap();
    let read = outcome(pending, Some(&ada), Fate::Read);
    assert_eq!(store.record(&[read]).await, Ok(0));
    assert_eq!(in_app_state(&store, pending, "ada").await.0, "read");
    let unread = store.unread_among(&ada, &[pending]).await.unwrap();
    assert_eq!(unread, [pending]);
}

pub async fn a_stored_row_is_pending_in_app_until_more_is_known_of_it(home: &impl Home) {
    let (store, ada, bob) = (home.open(), user("ada"), user("bob"));
    let first = row(&ada, at(1));
    let mut second = row(&bob, at(2));
    second.id = first.id;
    let mark = read_mark(&ada, at(3), &[first.id]);
    let marked = mark.id;
    store
        .append(vec![first.clone(), second, mark])
        .await
        .unwrap();
    let push = (first.id, ada.clone(), Channel::Push);
    store.pending(&[push], 5).await.unwrap();
    let all = async || {
        let mut states = store.delivery(first.id, None, 10).await.unwrap();
        states.sort_by_key(|state| (state.user.clone(), state.channel));
        let seen = states.into_iter();
        let seen = seen.map(|one| (one.user.unwrap().to_string(), one.channel, one.state));
        seen.collect::<Vec<_>>()
    };
    let of = |name: &str, channel, state: &str| (name.to_owned(), channel, state.to_owned());
    let (pushed, waits) = (
        of("ada", Channel::Push, "pending"),
        of("bob", Channel::InApp, "pending"),
    );
    let begun = of("ada", Channel::InApp, "pending");
    assert_eq!(all().await, [begun, pushed.clone(), waits.clone()]);
    assert_eq!(
        in_app_state(&store, first.id, "bob").await,
        ("pending".into(), 0)
    );
    let one = store.delivery(first.id, None, 1).await.unwrap();
    assert_eq!(one.len(), 1);
    assert_eq!(store.delivery(marked, None, 10).await, Ok(vec![]));
    let of_bob = store.deliveries_of(&bob, None, 10).await.unwrap();
    assert_eq!((of_bob.len(), of_bob[0].0), (1, first.id));

    let written = outcome(first.id, Some(&ada), Fate::Written);
    store.record(&[written]).await.unwrap();
    let written = of("ada", Channel::InApp, "written");
    assert_eq!(
        all().await,
        [written.clone(), pushed.clone(), waits.clone()]
    );
    // Read from the bus again.
    store.append(vec![first.clone()]).await.unwrap();
    assert_eq!(all().await, [written, pushed, waits]);
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
    let mut ids = stored(&store, &ada, &[1, 2, 3]).await;
    let others = stored(&store, &bob, &[1]).await;
    // Read and not of the inbox, or of another channel.
    let to_all = broadcast(at(1));
    ids.push(to_all.id);
    store.append_broadcasts(vec![to_all]).await.unwrap();
    let mark = read_mark(&ada, at(4), &ids[3..]);
    store.append(vec![mark]).await.unwrap();
    let read = outcome(ids[3], Some(&ada), Fate::Read);
    store.record(&[read]).await.unwrap();
    let by_push = attempted(NotificationId::generate(), &ada, SendState::Sent, 1);
    ids.push(by_push.id);
    store.record_attempts(&[by_push]).await.unwrap();
    let written = ids[..3].iter().map(|id| (*id, &ada));
    for (id, user) in written.chain([(others[0], &bob)]) {
        let outcome = outcome(id, Some(user), Fate::Written);
        store.record(&[outcome]).await.unwrap();
    }
    let recent = store.deliveries_of(&ada, None, 4).await.unwrap();
    let seen: Vec<_> = recent.iter().map(|(id, _)| *id).collect();
    assert_eq!(seen, [ids[4], ids[3], ids[2], ids[1]]);
    let older = store.deliveries_of(&ada, Some(ids[1]), 4).await.unwrap();
    assert_eq!(
        older.iter().map(|(id, _)| *id).collect::<Vec<_>>(),
        ids[..1]
    );
    assert!(
        recent
            .iter()
            .all(|(_, state)| state.user == Some(ada.clone()))
    );
}

pub async fn a_channels_state_only_moves_forward_and_shows_its_last_attempt(home: &impl Home) {
    let (store, ada, id) = (home.open(), user("ada"), NotificationId::generate());
    let entry = (id, ada.clone(), Channel::Email);
    store
        .pending(std::slice::from_ref(&entry), 5)
        .await
        .unwrap();
    let steps = [
        (SendState::Pending, 1, "pending", 1),
        (SendState::Pending, 2, "pending", 2),
        (SendState::Pending, 1, "pending", 2),
        (SendState::Failed, 3, "failed", 3),
        (SendState::Pending, 4, "failed", 3),
        (SendState::Sent, 4, "sent", 4),
        (SendState::Failed, 5, "sent", 4),
    ];
    for (state, attempt, shown, attempts) in steps {
        let attempt = attempted(id, &ada, state, attempt);
        store.record_attempts(&[attempt]).await.unwrap();
        let states = store.delivery(id, Some(&ada), 10).await.unwrap();
        let [only] = &states[..] else {
            panic!("{states:?}");
        };
        assert_eq!((only.channel, &only.state[..]), (Channel::Email, shown));
        assert_eq!(only.sending.attempts, attempts);
        assert_eq!(only.sending.began_ms, 101, "that of the first attempt");
        assert_eq!(only.updated_ms, 100 + u64::from(attempts));
    }
    store.pending(&[entry], 500).await.unwrap();
    let states = store.delivery(id, Some(&ada), 10).await.unwrap();
    assert_eq!(states[0].state, "sent");
}

pub async fn a_channels_attempt_told_twice_says_the_same(home: &impl Home) {
    let (store, ada, id) = (home.open(), user("ada"), NotificationId::generate());
    let mut attempt = attempted(id, &ada, SendState::Sent, 2);
    attempt.devices = 3;
    attempt.sending.error = "timeout".into();
    attempt.sending.reference = "queued as 5".into();
    let mut told = Vec::new();
    for _ in 0..2 {
        store
            .record_attempts(std::slice::from_ref(&attempt))
            .await
            .unwrap();
        told.push(store.delivery(id, Some(&ada), 10).await.unwrap());
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0][0].devices, 3);
    assert_eq!(told[0][0].sending, attempt.sending);
}

pub async fn what_a_provider_reports_moves_a_channels_state_on_whenever_it_comes(home: &impl Home) {
    let (store, ada) = (home.open(), user("ada"));
    let sent = |id| {
        let mut sent = attempted(id, &ada, SendState::Sent, 2);
        sent.devices = 2;
        sent.sending.reference = "SM1".into();
        sent
    };
    let report = |id, state, error: &str, at_ms| {
        let mut report = attempted(id, &ada, state, 0);
        report.sending = Sending {
            error: error.into(),
            reference: "SM1".into(),
            ..Sending::default()
        };
        report.devices = 1;
        report.at_ms = at_ms;
        report
    };
    for is_early in [false, true] {
        let id = NotificationId::generate();
        let undelivered = report(id, SendState::Undelivered, "30006", 200);
        let told = match is_early {
            false => [sent(id), undelivered.clone()],
            true => [undelivered.clone(), sent(id)],
        };
        for one in told {
            store.record_attempts(&[one]).await.unwrap();
        }
        let shown = async || store.delivery(id, Some(&ada), 10).await.unwrap().remove(0);
        let seen = shown().await;
        assert_eq!(
            (&*seen.state, &*seen.sending.error),
            ("undelivered", "30006")
        );
        assert_eq!((seen.sending.attempts, seen.devices), (2, 2));
        assert_eq!((seen.sending.began_ms, seen.updated_ms), (102, 200));
        store.record_attempts(&[undelivered]).await.unwrap();
        assert_eq!(shown().await, seen, "told twice");
        let delivered = report(id, SendState::Delivered, "", 300);
        store.record_attempts(&[delivered]).await.unwrap();
        let late = report(id, SendState::GivenUp, "30008", 400);
        store.record_attempts(&[late]).await.unwrap();
        let seen = shown().await;
        assert_eq!((&*seen.state, &*seen.sending.error), ("delivered", ""));
        assert_eq!(seen.sending.reference, "SM1");
    }
}
