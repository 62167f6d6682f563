//! How processes start: wrong configuration, parts that are away, secrets.

use std::time::Duration;
use testbed::{Fleet, Herald, PATIENCE, free_port};
use tokio::time::Instant;

fn refuses(command: &str, settings: &[(&str, &str)], key: &str) {
    let port = free_port().to_string();
    let listen = format!("127.0.0.1:{port}");
    let door = if command == "gateway" {
        "gateway.listen"
    } else {
        "http.listen"
    };
    let mut all = vec![(door, listen.as_str())];
    if command == "gateway" {
        all.push(("dispatchers.addresses", "[\"127.0.0.1:1\"]"));
    }
    all.extend_from_slice(settings);
    let mut herald = Herald::new(&[command], &all);
    herald.start();
    let status = herald.wait();
    assert_eq!(status.code(), Some(64), "{settings:?}\n{}", herald.log());
    let said = herald.log();
    assert!(said.contains(key), "{said:?} does not name {key}");
    // A part that was reached before the fault was found may have logged (JSON); the answer is one line.
    let answer = said
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('{'));
    assert_eq!(answer.count(), 1, "one line, no stack trace: {said}");
}

#[test]
fn a_wrong_configuration_names_the_key_and_exits_64() {
    for (settings, key) in [
        (("gateway.cores", "many"), "gateway.cores"),
        (("gateway.colour", "red"), "colour"),
        (("gateway.listen", "nowhere"), "gateway.listen"),
        (("gateway.id", "GW_1"), "gateway.id"),
        (
            ("gateway.proxy_trusted", "[\"10.0.0.0/99\"]"),
            "gateway.proxy_trusted",
        ),
        (("log.level", "loud=="), "log.level"),
        (("log.format", "xml"), "log.format"),
        (("kafka.security", "trust-me"), "kafka.security"),
        (("redis.url", "http://nowhere"), "redis.url"),
        (
            ("redis.password_file", "/nonexistent"),
            "redis.password_file",
        ),
        (("grpc.secret_file", "/nonexistent"), "grpc.secret_file"),
        (("dispatchers.addresses", "[]"), "dispatchers.addresses"),
    ] {
        refuses("gateway", &[settings], key);
    }
    let keys = (
        "auth.keys",
        "[{ algorithm = \"HS256\", key_file = \"/nonexistent\" }]",
    );
    refuses("gateway", &[keys], "auth.keys");
}

#[test]
fn grpc_off_loopback_without_a_secret_refuses_to_start() {
    for command in ["gateway", "dispatcher"] {
        let listen = format!("0.0.0.0:{}", free_port());
        refuses(command, &[("grpc.listen", &listen)], "grpc.secret_file");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let mut herald = Herald::new(&["gateway", "--config", "/nonexistent.toml"], &[]);
    herald.start();
    assert_eq!(herald.wait().code(), Some(64));
    assert!(herald.log().contains("/nonexistent.toml"));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_redis_kafka_and_the_dispatcher_down_a_gateway_starts_says_so_and_recovers() {
    let mut fleet = Fleet::prepare(1, &[]);
    fleet.redis.kill();
    fleet.gateways[0].process.start();
    let admin = fleet.gateways[0].admin_port;
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some((status, body)) = fleet.readyz(admin).await {
            assert_eq!(status, 503, "{body}");
            break;
        }
        assert!(Instant::now() < deadline, "{}", fleet.logs());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fleet.redis.restart();
    fleet.apply_topics();
    fleet.dispatcher.start();
    fleet.ready().await;
    assert!(fleet.gateways[0].process.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_leaves_in_good_order_and_exits_0() {
    let mut fleet = Fleet::start(1, &[]).await;
    fleet.gateways[0].process.signal(libc::SIGTERM);
    assert_eq!(
        fleet.gateways[0].process.wait().code(),
        Some(0),
        "{}",
        fleet.logs()
    );
    fleet.dispatcher.signal(libc::SIGTERM);
    assert_eq!(fleet.dispatcher.wait().code(), Some(0), "{}", fleet.logs());
}

#[test]
fn a_port_that_another_process_shares_is_refused_and_named() {
    let taken = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    // As a forgotten gateway would hold it.
    taken.set_reuse_port(true).unwrap();
    let port = free_port();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    taken.bind(&address.into()).unwrap();
    taken.listen(1).unwrap();
    let data = tempfile::tempdir().unwrap();
    let data = data.path().to_str().unwrap();
    let mut herald = Herald::new(
        &["standalone", "--data", data],
        &[("gateway.listen", &address.to_string())],
    );
    herald.start();
    assert_eq!(herald.wait().code(), Some(1), "{}", herald.log());
    assert!(herald.log().contains("gateway.listen"), "{}", herald.log());
}
