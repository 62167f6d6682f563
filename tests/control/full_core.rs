//! A core that does not take its messages harms nobody but itself.

use crate::rig::{Rig, Setup, routed, until};
use herald::{bus::Topic, envelope::Fate, gateway::mailbox::ToCore, limits};

#[tokio::test]
async fn a_full_core_sheds_its_own_records_as_deferred_and_holds_nobody() {
    let rig = Rig::ready_with(Setup {
        cores: 2,
        ..Setup::default()
    })
    .await;
    let stuck = rig.cores[0].open(1, "ann", None);
    let fine = rig.cores[1].open(1, "bob", None);
    until("two users", async || {
        (rig.metric("users") == 2.0).then_some(())
    })
    .await;
    // More polls than an inbox has room for: one record each, so one message each.
    let total = limits::CORE_INBOX + 50;
    let mut sent = 0;
    while sent < total {
        let records = (0..512).map(|n| {
            let mut close = routed("ann", n).into_record();
            close.set("kind", "disconnect");
            close
        });
        rig.route(Topic::InApp, records.collect()).await;
        sent += 512;
    }
    let shed = routed("ann", 1);
    let (shed_id, other) = (shed.head.id, routed("bob", 2));
    let other_id = other.head.id;
    rig.route(Topic::InApp, vec![shed.into_record(), other.into_record()])
        .await;
    let delivered = rig.cores[1].delivered(1).await;
    assert_eq!(delivered[0].1, other_id);
    assert_eq!(delivered[0].2, [fine]);
    rig.until_fates(shed_id, &[(Fate::Deferred, 1)]).await;
    rig.cores[1].fate(delivered[0].0, Fate::Written, 1);
    rig.until_committed(Topic::InApp, (sent + 2) as u64).await;
    assert!(rig.metric(r#"core_shed_total{kind="deliver"}"#) >= 1.0);
    // It takes messages again: what it holds is told that it may be behind. Its end was not shed.
    let mut closes = 0;
    rig.cores[0]
        .expect("behind", |message| match message {
            ToCore::Close { .. } => {
                closes += 1;
                None
            }
            ToCore::Behind { conn, .. } if *conn == stuck => Some(()),
            _ => None,
        })
        .await;
    // One connection is ended once, however often it is asked for while nobody listens.
    assert!((1..=limits::CORE_INBOX + 1).contains(&closes), "{closes}");
    rig.leave().await;
}
