//! What was done with records of `dlq`.

use super::Home;
use herald::dispatcher::store::{DeadLetterAt, Handled};

pub async fn what_was_done_with_a_dead_letter_first_stays_and_is_of_that_one_only(
    home: &impl Home,
) {
    let at = DeadLetterAt {
        partition: 3,
        offset: 17,
        appended_ms: 1_000,
    };
    let store = home.open();
    assert_eq!(store.handled_dead_letter(at).await, Ok(None));
    store
        .handle_dead_letter(at, Handled::Replayed)
        .await
        .unwrap();
    store
        .handle_dead_letter(at, Handled::Dropped)
        .await
        .unwrap();
    drop(store);
    let store = home.open();
    let handled = store.handled_dead_letter(at).await;
    assert_eq!(handled, Ok(Some(Handled::Replayed)));
    for other in [
        DeadLetterAt { offset: 18, ..at },
        DeadLetterAt { partition: 4, ..at },
        // Of a topic that was made anew.
        DeadLetterAt {
            appended_ms: 2_000,
            ..at
        },
    ] {
        assert_eq!(store.handled_dead_letter(other).await, Ok(None));
    }
}
