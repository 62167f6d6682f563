//! What may be committed, and when.

use crate::rig::{Rig, Setup, routed, until};
use herald::{
    bus::{Bus, Topic},
    envelope::{self, Fate},
};
use std::sync::atomic::Ordering;

#[tokio::test]
async fn an_offset_is_committed_only_after_everything_before_it_was_accepted() {
    let rig = Rig::ready().await;
    rig.core().open(1, "ann", None);
    until("ann", async || (rig.metric("users") == 1.0).then_some(())).await;
    let records: Vec<_> = (0..3).map(|n| routed("ann", n).into_record()).collect();
    rig.route(Topic::InApp, records).await;
    let delivered = rig.core().delivered(3).await;
    for at in [2, 1] {
        let (ticket, id, _) = &delivered[at];
        rig.core().fate(*ticket, Fate::Written, 1);
        rig.until_fates(*id, &[(Fate::Written, 1)]).await;
    }
    assert_eq!(rig.committed(Topic::InApp).await, None);
    rig.core().fate(delivered[0].0, Fate::Deferred, 1);
    rig.until_committed(Topic::InApp, 3).await;
    rig.leave().await;
}

#[tokio::test]
async fn a_commit_that_did_not_work_is_made_again_though_nothing_follows() {
    let rig = Rig::ready().await;
    rig.loses_commit.store(true, Ordering::Relaxed);
    rig.route(Topic::InApp, vec![routed("nobody", 1).into_record()])
        .await;
    let lost = async || (!rig.loses_commit.load(Ordering::Relaxed)).then_some(());
    until("a commit is lost", lost).await;
    rig.until_committed(Topic::InApp, 1).await;
    rig.leave().await;
}

#[tokio::test]
async fn outcomes_that_come_while_a_batch_is_on_its_way_follow_it_together() {
    let rig = Rig::ready().await;
    rig.dispatcher.busy.store(true, Ordering::Relaxed);
    let alone = routed("nobody", 0);
    let first = alone.head.id;
    rig.route(Topic::InApp, vec![alone.into_record()]).await;
    rig.until_fates(first, &[(Fate::NotHere, 0)]).await;
    for n in 1..20 {
        rig.route(Topic::InApp, vec![routed("nobody", n).into_record()])
            .await;
    }
    let gathered = async || (rig.metric("outcomes_waiting") == 19.0).then_some(());
    until("the others wait", gathered).await;
    assert_eq!(*rig.dispatcher.batches.lock(), [1]);
    rig.dispatcher.busy.store(false, Ordering::Relaxed);
    rig.until_committed(Topic::InApp, 20).await;
    assert_eq!(*rig.dispatcher.batches.lock(), [1, 19]);
    rig.leave().await;
}

#[tokio::test]
async fn the_final_fate_of_a_deferred_record_is_an_outcome_of_its_own() {
    let rig = Rig::ready().await;
    rig.core().open(1, "ann", None);
    until("ann", async || (rig.metric("users") == 1.0).then_some(())).await;
    rig.route(Topic::InApp, vec![routed("ann", 1).into_record()])
        .await;
    let (ticket, id, _) = rig.core().delivered(1).await.remove(0);
    rig.core().fate(ticket, Fate::Deferred, 1);
    rig.until_fates(id, &[(Fate::Deferred, 1)]).await;
    rig.core().fate(ticket, Fate::Written, 1);
    rig.until_fates(id, &[(Fate::Deferred, 1), (Fate::Written, 1)])
        .await;
    rig.leave().await;
}

#[tokio::test]
async fn without_a_dispatcher_outcomes_go_to_delivery_and_offsets_move_on() {
    let rig = Rig::ready().await;
    rig.dispatcher.away.store(true, Ordering::Relaxed);
    let records: Vec<_> = (0..5).map(|n| routed("nobody", n)).collect();
    let mut ids: Vec<_> = records.iter().map(|routed| routed.head.id).collect();
    let records = records.into_iter().map(|routed| routed.into_record());
    rig.route(Topic::InApp, records.collect()).await;
    rig.until_committed(Topic::InApp, 5).await;
    let mut spilled: Vec<_> = rig
        .read_all(Topic::Delivery)
        .await
        .iter()
        .flat_map(|record| envelope::read_outcomes(record).unwrap())
        .map(|outcome| (outcome.id, outcome.fate))
        .collect();
    spilled.sort();
    ids.sort();
    let expected: Vec<_> = ids.into_iter().map(|id| (id, Fate::NotHere)).collect();
    assert_eq!(spilled, expected);
    assert!(rig.dispatcher.reported.lock().is_empty());
    rig.leave().await;
}

#[tokio::test]
async fn what_was_not_accepted_is_read_again_by_the_next_life() {
    let setup = Setup::default();
    let timings = setup.timings;
    let rig = Rig::ready_with(setup).await;
    rig.core().open(1, "ann", None);
    until("ann", async || (rig.metric("users") == 1.0).then_some(())).await;
    let routed = routed("ann", 1);
    let id = routed.head.id;
    rig.route(Topic::InApp, vec![routed.into_record()]).await;
    rig.core().delivered(1).await;
    let shared = rig.shared.clone();
    // The core never answered.
    rig.leave().await;
    let next = Rig::ready_with(Setup {
        shared: Some(shared),
        timings,
        ..Setup::default()
    })
    .await;
    next.until_fates(id, &[(Fate::NotHere, 0)]).await;
    next.until_committed(Topic::InApp, 1).await;
    assert!(next.shared.bus.healthy());
    next.leave().await;
}
