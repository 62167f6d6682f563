//! What is to be sent later.

use super::Home;
use herald::{
    bus::{Record, Topic},
    dispatcher::store::{Cancelled, Scheduled},
    ids::NotificationId,
};

fn scheduled(due_ms: u64) -> Scheduled {
    let mut record = Record::new("42", vec![0, 159, 146, 150]);
    record.set("v", "1");
    record.set("again", "1");
    Scheduled {
        id: NotificationId::generate(),
        due_ms,
        topic: Topic::Raw(1),
        record,
    }
}

pub async fn what_is_scheduled_comes_when_it_is_due_and_to_one_at_a_time(home: &impl Home) {
    let (late, early, later) = (scheduled(2_000), scheduled(1_000), scheduled(9_000));
    let store = home.open();
    for one in [&late, &early, &later, &late] {
        store.schedule(one.clone()).await.unwrap();
    }
    drop(store);
    let store = home.open();
    assert_eq!(store.scheduled(late.id).await, Ok(Some(late.clone())));
    assert_eq!(store.scheduled_due(late.id).await, Ok(Some(late.due_ms)));
    assert_eq!(store.take_due(999, 5_000, 9).await, Ok(vec![]));
    let first = store.take_due(3_000, 5_000, 1).await;
    assert_eq!(first, Ok(vec![early.clone()]));
    let second = store.take_due(3_000, 6_000, 9).await;
    assert_eq!(second, Ok(vec![late.clone()]));
    assert_eq!(store.take_due(3_000, 5_000, 9).await, Ok(vec![]));
    // Whoever took the first died.
    let again = store.take_due(5_000, 8_000, 9).await;
    assert_eq!(again, Ok(vec![early.clone()]));
    store.remove_scheduled(&[early.id, late.id]).await.unwrap();
    assert_eq!(store.take_due(8_999, 9_999, 9).await, Ok(vec![]));
    assert_eq!(store.scheduled(early.id).await, Ok(None));
    assert_eq!(store.scheduled_due(early.id).await, Ok(None));
    assert_eq!(store.take_due(9_000, 9_999, 9).await, Ok(vec![later]));
}

pub async fn what_is_scheduled_can_be_cancelled_until_it_is_taken(home: &impl Home) {
    let store = home.open();
    let (wanted, unwanted) = (scheduled(1_000), scheduled(1_000));
    store.schedule(wanted.clone()).await.unwrap();
    store.schedule(unwanted.clone()).await.unwrap();
    let cancel = async |id| store.cancel_scheduled(id).await;
    assert_eq!(cancel(unwanted.id).await, Ok(Cancelled::Yes));
    assert_eq!(cancel(unwanted.id).await, Ok(Cancelled::Unknown));
    let due = store.take_due(2_000, 3_000, 9).await;
    assert_eq!(due, Ok(vec![wanted.clone()]));
    assert_eq!(cancel(wanted.id).await, Ok(Cancelled::TooLate));
    store.remove_scheduled(&[wanted.id]).await.unwrap();
    assert_eq!(cancel(wanted.id).await, Ok(Cancelled::Unknown));
}
