//! Leaving in good order, and at once.

use crate::rig::{Rig, cursors, routed, until};
use herald::{
    bus::Topic,
    envelope::Fate,
    gateway::mailbox::{FromCore, ToCore},
    registry::Registry,
};

#[tokio::test]
async fn a_gateway_leaves_in_order_and_finishes_what_is_in_flight() {
    let rig = Rig::ready().await;
    let conn = rig.core().open(1, "ann", Some(cursors(1)));
    rig.core().synced(conn).await;
    rig.shutdown.cancel();
    rig.until_not_ready("draining").await;
    let mut order = Vec::new();
    rig.core()
        .expect("the drain", |message| match message {
            ToCore::StopAccepting => {
                order.push("stop accepting");
                None
            }
            ToCore::Leave(true) => {
                order.push("leave");
                None
            }
            ToCore::Evict { clients, .. } => {
                assert!(*clients >= 1);
                order.push("evict");
                Some(())
            }
            _ => None,
        })
        .await;
    assert_eq!(order, ["stop accepting", "leave", "evict"]);
    // Delivered while it leaves; the core answers after its last connection is gone.
    rig.route(Topic::InApp, vec![routed("ann", 1).into_record()])
        .await;
    let (ticket, id, _) = rig.core().delivered(1).await.remove(0);
    rig.core().say(FromCore::Closed {
        conn,
        user: "ann".parse().unwrap(),
    });
    rig.core().say(FromCore::Drained { core: 0 });
    rig.core().fate(ticket, Fate::Written, 1);
    rig.core()
        .expect("shutdown", |m| matches!(m, ToCore::Shutdown).then_some(()))
        .await;
    rig.until_fates(id, &[(Fate::Written, 1)]).await;
    rig.running.await.unwrap().unwrap();

    let ann = ["ann".parse().unwrap()];
    assert!(rig.shared.registry.lookup(&ann).await.unwrap()[0].is_empty());
    assert!(!rig.shared.registry.gateways().await.unwrap()[0].live);
    assert!(!rig.shared.registry.shards(4).await.unwrap()[0].live);
    let journal = rig.journal.lock().clone();
    let end = &journal[journal.len() - 3..];
    assert_eq!(
        end,
        ["unregistered ann", "release shard", "release gateway"]
    );
    let at = herald::bus::TopicPartition {
        topic: Topic::InApp,
        partition: 0,
    };
    let bus: herald::bus::SharedBus = rig.shared.bus.clone();
    assert_eq!(
        bus.committed("notifications.shard.0", at).await.unwrap(),
        Some(1)
    );
}

#[tokio::test]
async fn a_second_wish_to_leave_ends_at_once_and_still_gives_the_leases_back() {
    let rig = Rig::ready().await;
    rig.core().open(1, "ann", None);
    until("ann", async || (rig.metric("users") == 1.0).then_some(())).await;
    rig.shutdown.cancel();
    rig.core()
        .expect("the drain", |m| {
            matches!(m, ToCore::Evict { .. }).then_some(())
        })
        .await;
    rig.now.cancel();
    rig.running.await.unwrap().unwrap();
    assert!(!rig.shared.registry.gateways().await.unwrap()[0].live);
}
