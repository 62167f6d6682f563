//! Forgetting users, and finding all there is of one.

use super::{Home, offsets};
use crate::build::*;
use bytes::Bytes;
use herald::{
    bus::{Record, Topic},
    dispatcher::{
        devices::DeviceKind,
        intake::List,
        preferences::Preferences,
        store::{Erasure, Mark, Removed, Scheduled, Segment, SharedStore},
        suppression::{SuppressedFor, Suppression, mark_of},
    },
    envelope::{Channel, Fate},
    ids::{NotificationId, SegmentId, UserId},
    position::Position,
};
use serde_json::value::RawValue;

fn scheduled(topic: Topic, key: &str, value: impl Into<Bytes>) -> Scheduled {
    Scheduled {
        id: NotificationId::generate(),
        due_ms: now_ms() + 3_600_000,
        topic,
        record: Record::new(key.to_owned(), value),
    }
}

fn list(users: &[&UserId]) -> Vec<u8> {
    let list = List {
        users: users.iter().map(|user| (*user).clone()).collect(),
        content: RawValue::from_string(r#"{"type":"x","channels":[]}"#.into()).unwrap(),
    };
    serde_json::to_vec(&list).unwrap()
}

/// Something everywhere; the rows at these offsets.
async fn live(store: &SharedStore, user: &UserId, rows: &[u64]) -> Vec<NotificationId> {
    let ids = stored(store, user, rows).await;
    let entries: Vec<_> = ids
        .iter()
        .map(|id| (*id, user.clone(), Channel::InApp))
        .collect();
    store.pending(&entries, 5).await.unwrap();
    let written = outcome(ids[0], Some(user), Fate::Written);
    assert_eq!(store.record(&[written]).await, Ok(0));
    let device = email(user, "work", "ada@example.com");
    store.put_device(device).await.unwrap();
    let wishes = Preferences::from_json(br#"{"channels":{"email":false}}"#, &Default::default());
    store.put_preferences(user, &wishes.unwrap()).await.unwrap();
    ids
}

async fn rows(store: &SharedStore, user: &UserId) -> Vec<u64> {
    offsets(&store.rows_of(user, Position::START, 100).await.unwrap())
}

async fn erase(store: &SharedStore, erasure: &Erasure) -> Removed {
    let mut removed = Removed::default();
    loop {
        let step = store.erase(erasure).await.unwrap();
        if step.is_nothing() {
            return removed;
        }
        removed.add(step);
    }
}

pub async fn what_is_of_before_an_erasure_is_removed_and_what_is_of_after_stays(home: &impl Home) {
    let (ada, bob) = (user("ada"), user("bob"));
    let store = home.open();
    let ids = live(&store, &ada, &[1, 2, 3]).await;
    live(&store, &bob, &[1, 2]).await;
    let mark = read_mark(&ada, at(4), &ids[..2]);
    store
        .append(vec![mark, collapsing(&ada, at(5), "k")])
        .await
        .unwrap();
    let alone = scheduled(Topic::Raw(1), "ada", r#"{"type":"x"}"#);
    let together = scheduled(Topic::FanOut, "x", list(&[&ada, &bob]));
    for one in [&alone, &together] {
        store.schedule(one.clone()).await.unwrap();
    }
    let complained = Suppression::new("Ada@example.com", SuppressedFor::Complaint, "", 5);
    let others = Suppression::new("eve@example.com", SuppressedFor::Complaint, "", 5);
    store.suppress(vec![complained, others]).await.unwrap();
    let gone = browser(&ada, "phone", "https://push.example.com/1");
    store.put_device(gone.clone()).await.unwrap();
    assert_eq!(store.quarantine(&gone, 7).await, Ok(true));
    let erasure = Erasure {
        user: ada.clone(),
        id: NotificationId::generate(),
        below: at(6),
    };
    // Of after: accepted and entered since.
    let later = stored(&store, &ada, &[7]).await;
    let entry = (later[0], ada.clone(), Channel::InApp);
    store.pending(&[entry], 5).await.unwrap();
    let mut device = email(&ada, "home", "lovelace@example.org");
    device.updated_ms = erasure.id.unix_ms() + 1;
    store.put_device(device).await.unwrap();
    let after = scheduled(Topic::Raw(1), "ada", r#"{"type":"y"}"#);
    store.schedule(after.clone()).await.unwrap();

    store.begin_erasure(&erasure, now_ms()).await.unwrap();
    let removed = erase(&store, &erasure).await;
    assert_eq!(removed.inbox, 5);
    assert_eq!(removed.read_marks, 2);
    assert!(removed.delivery_log >= 3, "{removed:?}");
    assert_eq!((removed.devices, removed.scheduled), (2, 2));
    assert_eq!(removed.suppressions, 1);

    let store = home.open();
    assert_eq!(rows(&store, &ada).await, [7]);
    for id in &ids {
        assert_eq!(store.row(&ada, *id).await, Ok(None));
        assert_eq!(store.delivery(*id, Some(&ada), 10).await, Ok(vec![]));
        let states = store.delivery(*id, None, 10).await.unwrap();
        assert!(states.iter().all(|state| state.user.as_ref() != Some(&ada)));
    }
    assert_eq!(store.read_among(&ada, &ids).await, Ok(vec![]));
    let states = store.deliveries_of(&ada, None, 10).await.unwrap();
    assert_eq!(states.iter().map(|(id, _)| *id).collect::<Vec<_>>(), later);
    let devices = store.devices(&ada).await.unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].id.as_str(), "home");
    let asked = ["ada@example.com".to_owned(), "eve@example.com".to_owned()];
    let suppressed = store.suppressed(&asked).await.unwrap();
    assert_eq!(suppressed.iter().flatten().count(), 1);
    // What comes back of the address is known by its mark; what was entered since has none.
    let marks = ["ada@example.com", "lovelace@example.org"].map(mark_of);
    let marked = store.suppressed(&marks).await.unwrap();
    let expected = Suppression::erased("Ada@Example.com", erasure.id.unix_ms());
    assert_eq!(marked, [Some(expected), None]);
    let held = store.quarantined(DeviceKind::WebPush, None, 100).await;
    assert!(held.unwrap().devices.iter().all(|one| one.user != ada));
    let wishes = store
        .preferences(&[ada.clone(), bob.clone()])
        .await
        .unwrap();
    assert_eq!(wishes[0], Preferences::default());
    assert_ne!(wishes[1], Preferences::default());
    let left = store.scheduled_for(&ada).await.unwrap();
    assert_eq!(left, [after]);
    let left = store.scheduled_for(&bob).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].record.value, list(&[&bob]));
    // The stream goes on where it was, and others are not concerned.
    assert_eq!(rows(&store, &bob).await, [1, 2]);
    let row = row(&ada, at(9));
    let answer = store.append(vec![row]).await.unwrap();
    assert_eq!(super::prev_of(&answer[0]), at(7));
    assert_eq!(rows(&store, &ada).await, [7, 9]);
}

pub async fn an_erasure_is_known_until_it_has_its_proof_and_after(home: &impl Home) {
    let ada = user("ada");
    let store = home.open();
    assert_eq!(store.erasure(&ada).await, Ok(None));
    let (none, mark) = store.erasures_since(0).await.unwrap();
    assert!(none.iter().all(|erasure| erasure.user != ada));
    let first = Erasure {
        user: ada.clone(),
        id: NotificationId::generate(),
        below: at(6),
    };
    let began_ms = now_ms();
    store.begin_erasure(&first, began_ms).await.unwrap();
    let known = async |mark| {
        let (known, _) = store.erasures_since(mark).await.unwrap();
        known
            .into_iter()
            .filter(|one| one.user == ada)
            .collect::<Vec<_>>()
    };
    let open = async |before_ms| {
        let open = store.open_erasures(before_ms, 10).await.unwrap();
        open.into_iter()
            .filter(|one| one.user == ada)
            .collect::<Vec<_>>()
    };
    assert_eq!(known(mark).await, std::slice::from_ref(&first));
    assert!(open(began_ms).await.is_empty());
    assert_eq!(open(began_ms + 1).await, std::slice::from_ref(&first));
    // Read again, it takes nothing that was entered since.
    let wishes = Preferences::from_json(br#"{"channels":{"email":false}}"#, &Default::default());
    let wishes = wishes.unwrap();
    store.put_preferences(&ada, &wishes).await.unwrap();
    store.begin_erasure(&first, began_ms + 5).await.unwrap();
    assert_eq!(
        store.preferences(std::slice::from_ref(&ada)).await,
        Ok(vec![wishes])
    );

    store
        .end_erasure(&first, r#"{"removed":{}}"#)
        .await
        .unwrap();
    assert!(open(began_ms + 100).await.is_empty());
    let proof = Some(r#"{"removed":{}}"#.to_owned());
    assert_eq!(store.erasure(&ada).await, Ok(Some((first.clone(), proof))));
    // A later order takes its place, and an earlier one that is late does not.
    let second = Erasure {
        id: NotificationId::generate(),
        below: at(9),
        ..first.clone()
    };
    store.begin_erasure(&second, began_ms + 7).await.unwrap();
    store.begin_erasure(&first, began_ms + 8).await.unwrap();
    store.end_erasure(&first, "{}").await.unwrap();
    assert_eq!(store.erasure(&ada).await, Ok(Some((second.clone(), None))));
    assert_eq!(open(began_ms + 100).await, std::slice::from_ref(&second));
    assert!(known(mark).await.contains(&second));
}

pub async fn all_there_is_of_a_user_is_found(home: &impl Home) {
    let ada = user("ada");
    let store = home.open();
    let inbox = [1, 2, 3].map(|offset| collapsing(&ada, at(offset), "k"));
    store.append(inbox.to_vec()).await.unwrap();
    // What is superseded is stored all the same.
    let first = store.rows_of(&ada, Position::START, 2).await.unwrap();
    assert_eq!(offsets(&first), [1, 2]);
    let second = store.rows_of(&ada, at(2), 2).await.unwrap();
    assert_eq!(offsets(&second), [3]);
    let mut entries: Vec<_> = (0..5)
        .map(|_| (NotificationId::generate(), ada.clone(), Channel::Push))
        .collect();
    store.pending(&entries, 5).await.unwrap();
    entries.reverse();
    let pushed = entries.iter().map(|(id, ..)| *id);
    let stored_before = inbox.iter().rev().map(|row| row.id);
    let ids: Vec<NotificationId> = pushed.chain(stored_before).collect();
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = store.deliveries_of(&ada, before, 2).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        before = Some(*last);
        seen.extend(page.into_iter().map(|(id, _)| id));
    }
    assert_eq!(seen, ids);
    assert_eq!(store.scheduled_for(&ada).await, Ok(vec![]));
    // Marks, a page at a time, and segments.
    let own = stored(&store, &ada, &[11, 12, 13]).await;
    store
        .append(vec![read_mark(&ada, at(14), &own)])
        .await
        .unwrap();
    let marked = async |mark| {
        let mut seen = Vec::new();
        loop {
            let page = store
                .marks_of(&ada, mark, seen.last().copied(), 2)
                .await
                .unwrap();
            let Some(_) = page.last() else { return seen };
            seen.extend(page);
        }
    };
    assert_eq!(marked(Mark::Read).await, own);
    assert_eq!(marked(Mark::Dismissed).await, []);
    let to_all = broadcast(at(1));
    let id = to_all.id;
    store.append_broadcasts(vec![to_all]).await.unwrap();
    store.dismiss(&ada, &[id]).await.unwrap();
    assert_eq!(marked(Mark::Dismissed).await, [id]);
    let segment = Segment {
        id: SegmentId::generate(),
        producer: "shop".into(),
        created_ms: now_ms(),
    };
    store.make_segment(&segment).await.unwrap();
    assert_eq!(store.segments_of(&ada).await, Ok(vec![]));
    let users = std::slice::from_ref(&ada);
    store
        .add_to_segment(segment.id, users, now_ms())
        .await
        .unwrap();
    assert_eq!(store.segments_of(&ada).await, Ok(vec![segment.id]));
}
