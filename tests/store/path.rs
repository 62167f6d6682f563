//! The whole path with the store on Cassandra: a notification of somebody who is away, stored, and brought by the
//! sync of his next connect.

use std::{
    process::{Command, Output},
    time::Duration,
};
use testbed::{
    Client, Fleet,
    cassandra::{DATACENTER, fresh_keyspace, node},
    herald::binary,
};

const WAIT: Duration = Duration::from_secs(60);

type Settings = Vec<(&'static str, String)>;

fn settings() -> Settings {
    vec![
        ("store.kind", "cassandra".to_owned()),
        ("store.contact_points", format!("[{:?}]", node())),
        ("store.keyspace", fresh_keyspace()),
        ("store.datacenter", DATACENTER.to_owned()),
        ("store.replication", "1".to_owned()),
        ("store.timeout_ms", "30000".to_owned()),
    ]
}

fn migrate(namespace: &str, settings: &Settings) -> Output {
    let mut command = Command::new(binary("herald"));
    command.args(["dispatcher", "migrate"]);
    command.env("HERALD_NODE__NAMESPACE", namespace);
    for (key, value) in settings {
        let variable = key.replacen('.', "__", 1).to_uppercase();
        command.env(format!("HERALD_{variable}"), value);
    }
    command.output().expect("it runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_of_somebody_who_is_away_is_stored_and_comes_with_his_next_sync() {
    let mut fleet = Fleet::prepare(1, &[]);
    let settings = settings();
    for (key, value) in &settings {
        fleet.dispatchers[0].process.set(key, value);
    }
    fleet.apply_topics();

    // Without tables it does not start, and says what makes them.
    let dispatcher = &mut fleet.dispatchers[0].process;
    dispatcher.start();
    assert_eq!(dispatcher.wait().code(), Some(64));
    let log = dispatcher.log();
    assert!(
        log.contains("store.keyspace") && log.contains("herald dispatcher migrate"),
        "{log}"
    );
    let migrated = migrate(&fleet.namespace, &settings);
    assert!(migrated.status.success(), "{migrated:?}");
    fleet.run().await;

    let mut ids = Vec::new();
    for title in ["one", "two"] {
        ids.push(fleet.api.notify("42", title).await.expect("accepted"));
    }
    fleet
        .eventually("both are stored", WAIT, async || {
            let inbox = fleet.api.fetch("/v1/users/42/notifications").await;
            2 - inbox["items"].as_array().map_or(0, Vec::len).min(2)
        })
        .await;
    let client = Client::start(fleet.ws_urls(0), fleet.token("42"));
    fleet
        .eventually("both come by sync", WAIT, async || {
            ids.iter().filter(|id| client.times(id) == 0).count()
        })
        .await;
    let third = fleet.api.notify("42", "three").await.expect("accepted");
    fleet
        .eventually("a third comes live and is acknowledged", WAIT, async || {
            let state = fleet.api.state(&third, "42").await;
            usize::from(client.live(&third) == 0 || state != "delivered")
        })
        .await;
    assert!(!client.has_hole());
    let metrics = fleet.api.metrics(fleet.dispatchers[0].admin_port).await;
    assert!(
        metrics.contains("herald_store_request_seconds_count{kind=\"write\"}"),
        "{metrics}"
    );
}

#[test]
fn sqlite_has_nothing_to_migrate() {
    let refused = migrate("notifications", &Settings::new());
    assert_eq!(refused.status.code(), Some(64));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("store.kind"), "{said}");
}
