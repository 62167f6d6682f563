//! A Cassandra that wants TLS, a certificate and a password.

use herald::{
    config::{DispatcherStore, Node, StoreKind},
    dispatcher::store::cassandra::migrate,
};
use std::time::Duration;
use testbed::cassandra::{CassandraNode, DATACENTER, USER, fresh_keyspace};

#[tokio::test]
async fn the_way_there_is_tls_and_who_shows_another_password_is_refused() {
    let (node, directory) = CassandraNode::start_guarded();
    let file = |name: &str| Some(directory.path().join(name));
    let password = |text: &str| {
        let path = directory.path().join(format!("{text}.password"));
        std::fs::write(&path, text).expect("a file");
        Some(path)
    };
    let config = DispatcherStore {
        kind: StoreKind::Cassandra,
        contact_points: vec![node.address()],
        keyspace: fresh_keyspace(),
        datacenter: Some(DATACENTER.into()),
        username: Some(USER.into()),
        password_file: password(USER),
        ca_file: file("ca.pem"),
        cert_file: file("client.pem"),
        key_file: file("client.key"),
        replication: 1,
        timeout_ms: 30_000,
        ..DispatcherStore::default()
    };
    // The node makes its first user a moment after it serves.
    let last = tokio::time::Instant::now() + Duration::from_secs(60);
    let made = loop {
        match migrate(&config, &Node::default()).await {
            Ok(made) => break made,
            Err(error) => assert!(
                tokio::time::Instant::now() < last,
                "{error}\n{}",
                node.log()
            ),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(made.contains("was made"), "{made}");

    let refused = [
        DispatcherStore {
            password_file: password("another"),
            ..config.clone()
        },
        DispatcherStore {
            cert_file: None,
            key_file: None,
            ..config.clone()
        },
        DispatcherStore {
            ca_file: file("client.pem"),
            ..config
        },
    ];
    for config in refused {
        let error = migrate(&config, &Node::default()).await.unwrap_err();
        assert!(
            error.to_string().contains("store.contact_points"),
            "{error}"
        );
    }
}
