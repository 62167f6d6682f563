//! How the registry gets into its Redis: passwords, users with few rights, TLS. Only on Redis.

use crate::subject::*;
use herald::{
    envelope::Channel,
    ids::NotificationId,
    metrics::Metrics,
    registry::{
        Registry, RegistryError, SendClaim, SendKey, SharedRegistry, Spend,
        quota::{Admission, Draw, Rate},
        redis::RedisRegistry,
    },
};
use std::{io::Write, sync::Arc, time::Duration};
use tempfile::NamedTempFile;
use testbed::{
    certificates, free_port,
    redis::{RedisServer, fresh_namespace},
};

#[tokio::test]
async fn a_password_comes_from_its_file_and_is_read_again_when_refused() {
    let server = RedisServer::start_with(&["--requirepass", "right"]);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"wrong\n").unwrap();
    let mut config = impatient(server.url());
    config.password_file = Some(file.path().to_owned());
    let registry = open(&config, &Metrics::default());
    match registry.gateways().await {
        Err(RegistryError::Unavailable(why)) => assert!(!why.contains("wrong"), "{why}"),
        answer => panic!("{answer:?}"),
    }
    std::fs::write(file.path(), "right\n").unwrap();
    until("healthy", async || registry.healthy()).await;
}

#[tokio::test]
async fn a_configuration_that_can_not_work_names_its_key() {
    let namespace = fresh_namespace().parse().unwrap();
    let mut bad = impatient("http://127.0.0.1".into());
    let refused = RedisRegistry::connect(&bad, &namespace, &Metrics::default());
    assert_eq!(refused.err().unwrap().key, "redis.url");
    bad = impatient("redis://127.0.0.1:1".into());
    bad.password_file = Some("/nonexistent/password".into());
    let refused = RedisRegistry::connect(&bad, &namespace, &Metrics::default());
    assert_eq!(refused.err().unwrap().key, "redis.password_file");
}

/// What a shipped configuration tells operators to grant.
fn documented_rights(shipped: &str) -> Vec<String> {
    let line = shipped
        .lines()
        .find(|line| line.starts_with("# ~notifications:* "));
    let rights = line
        .expect("the rights stand in the file")
        .trim_start_matches("# ");
    let rights = rights.replace("~notifications:*", "~test-*");
    rights.split(' ').map(str::to_owned).collect()
}

/// A registry whose user has no other rights; beside it what it needs to go on.
fn with_rights(shipped: &str) -> (SharedRegistry, (RedisServer, NamedTempFile)) {
    let rights = documented_rights(shipped);
    let mut login = vec!["--user", "herald", "on", ">secret"];
    login.extend(rights.iter().map(String::as_str));
    let server = RedisServer::start_with(&login);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"secret").unwrap();
    let mut config = impatient(server.url());
    config.timeout_ms = 10_000;
    config.username = Some("herald".into());
    config.password_file = Some(file.path().to_owned());
    let namespace = fresh_namespace().parse().unwrap();
    let metrics = Metrics::default();
    let registry = RedisRegistry::connect_with(&config, &namespace, &metrics, LAPSING);
    (Arc::new(registry.unwrap()), (server, file))
}

#[tokio::test]
async fn a_dispatchers_documented_rights_let_it_claim_sends_and_count_what_they_cost() {
    let (registry, _needed) = with_rights(include_str!("../../config/dispatcher.toml"));
    let send = SendKey {
        channel: Channel::Email,
        id: NotificationId::generate(),
        user: user("ann"),
        device: "work".parse().unwrap(),
    };
    let lease = Duration::from_secs(60);
    let claim = async |owner| registry.claim_send(&send, owner, lease).await.unwrap();
    assert_eq!(claim("one").await, SendClaim::Ours);
    assert!(matches!(claim("two").await, SendClaim::Pending { .. }));
    registry.release_send(&send, "one").await.unwrap();
    registry.finish_send(&send).await.unwrap();
    assert_eq!(claim("one").await, SendClaim::Done);
    let spend = Spend {
        channel: Channel::Email,
        day: 1,
        cost: 5,
        limit: Some(9),
    };
    assert_eq!(registry.spend(&spend).await.unwrap().total, 5);
}

#[tokio::test]
async fn a_dispatchers_documented_rights_let_it_count() {
    let (registry, _needed) = with_rights(include_str!("../../config/dispatcher.toml"));
    let admission = Admission {
        user: user("ann"),
        id: NotificationId::generate(),
        limit: "push",
        most: 1,
        window: Duration::from_secs(60),
    };
    assert_eq!(registry.admit(&[admission]).await, Ok(vec![true]));
    let draw = Draw {
        name: "provider:x".into(),
        rate: Rate::new(1, Duration::from_secs(60), Duration::from_secs(60)),
        wanted: 1,
        forced: false,
    };
    assert_eq!(registry.draw(&[draw]).await.unwrap()[0].taken, 1);
}

#[tokio::test]
async fn a_user_with_only_the_documented_rights_can_do_everything() {
    let (registry, _needed) = with_rights(include_str!("../../config/gateway.toml"));
    let owner = started(&registry, "gw-1", Some(0)).await;
    registry
        .renew_gateway(&owner, &holder("gw-1"), &info(Some(0)))
        .await
        .unwrap();
    let lease = registry.claim_shard(&owner, exact(0)).await.unwrap();
    registry.renew_shard(&lease).await.unwrap();
    let entries = [entry("ann", 1), entry("bob", 2)];
    registry.register(&owner, &entries).await.unwrap();
    assert_eq!(lives(&registry, "ann").await, std::slice::from_ref(&owner));
    registry.unregister(&owner, &entries[..1]).await.unwrap();
    let missing = registry.missing(&owner, &entries).await;
    assert_eq!(missing.unwrap(), entries[..1]);
    assert_eq!(registry.sweep(100).await.unwrap().deleted, 1);
    registry.release_shard(&lease).await.unwrap();
    registry.release_gateway(&owner).await.unwrap();
    assert_eq!(registry.shards(1).await.unwrap().len(), 1);
    assert_eq!(registry.gateways().await.unwrap().len(), 1);
}

#[tokio::test]
async fn tls_with_certificates_of_both_sides_works_and_a_strange_server_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    certificates::make(directory.path(), &["server"]);
    let files: Vec<String> = ["server.pem", "server.key", "ca.pem"]
        .iter()
        .map(|name| path(name).display().to_string())
        .collect();
    let port = free_port().to_string();
    let server = RedisServer::start_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &files[0],
        "--tls-key-file",
        &files[1],
        "--tls-ca-cert-file",
        &files[2],
    ]);
    let mut config = impatient(format!("rediss://127.0.0.1:{port}"));
    config.timeout_ms = 10_000;
    config.cert_file = Some(path("server.pem"));
    config.key_file = Some(path("server.key"));
    let registry = open(&config, &Metrics::default());
    match registry.gateways().await {
        Err(RegistryError::Unavailable(why)) => assert!(why.contains("ertificate"), "{why}"),
        answer => panic!("the system's list does not know this authority: {answer:?}"),
    }
    config.ca_file = Some(path("ca.pem"));
    let registry = open(&config, &Metrics::default());
    assert_eq!(registry.gateways().await, Ok(vec![]));
    drop(server);
}
