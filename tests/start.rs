//! How processes start: wrong configuration, parts that are away, secrets.

#[path = "start/held.rs"]
mod held;
#[path = "start/script.rs"]
mod script;
#[path = "start/tls.rs"]
mod tls;
#[path = "start/units.rs"]
mod units;

use std::{os::unix::process::ExitStatusExt, time::Duration};
use testbed::fleet::{API_KEY, GRPC_SECRET, TOKEN_SECRET};
use testbed::{Client, Fleet, Herald, PATIENCE, free_port, keep_secret};
use tokio::time::Instant;

/// Starts the process with settings of which one is wrong. It has to name `key` in its only line, exit 64,
/// and leave Redis, Kafka and the disk alone.
fn refuses(command: &str, settings: &[(&str, &str)], key: &str) {
    let part = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    part.set_nonblocking(true).unwrap();
    let address = part.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("token.key");
    let text = "long enough a secret for a token key";
    keep_secret(text);
    std::fs::write(&secret, text).unwrap();
    std::fs::write(directory.path().join("empty"), "\n").unwrap();
    std::fs::write(
        directory.path().join("short"),
        "one-that-is-guessed-in-an-hour",
    )
    .unwrap();
    let store = directory.path().join("store");
    let listen = || format!("127.0.0.1:{}", free_port());
    let (client, http, admin, grpc) = (listen(), listen(), listen(), listen());
    let redis = format!("redis://{address}");
    let keys = format!("[{{ algorithm = \"HS256\", key_file = {secret:?} }}]");
    let door = [("gateway.listen", client.as_str()), ("auth.keys", &keys)];
    let parts = [
        ("kafka.brokers", address.as_str()),
        ("redis.url", &redis),
        ("grpc.listen", &grpc),
    ];
    let keeps = [
        ("http.listen", http.as_str()),
        ("store.path", store.to_str().unwrap()),
    ];
    let mut all = vec![("admin.listen", admin.as_str())];
    match command {
        "gateway" => {
            all.push(("dispatchers.addresses", "[\"127.0.0.1:1\"]"));
            all.extend(door.into_iter().chain(parts));
        }
        "dispatcher" => {
            all.push(("spool.path", store.to_str().unwrap()));
            all.extend(keeps.into_iter().chain(parts));
        }
        _ => all.extend(door.into_iter().chain(keeps)),
    }
    all.extend_from_slice(settings);
    let all: Vec<(&str, String)> = all
        .iter()
        .map(|(key, value)| {
            (
                *key,
                value.replace("DIR", directory.path().to_str().unwrap()),
            )
        })
        .collect();
    let all: Vec<(&str, &str)> = all
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .collect();
    let before = names_in(directory.path());
    let mut herald = Herald::new(&[command], &all);
    herald.start();
    let status = herald.wait();
    let said = herald.log();
    assert_eq!(status.code(), Some(64), "{settings:?}\n{said}");
    assert!(said.contains(key), "{said:?} does not name {key}");
    assert_eq!(said.lines().count(), 1, "{settings:?}: one line: {said}");
    assert_eq!(names_in(directory.path()), before, "{settings:?}");
    let reached = part.accept().map_err(|error| error.kind());
    let nobody = Some(std::io::ErrorKind::WouldBlock);
    assert_eq!(reached.err(), nobody, "{settings:?} reached for a part");
}

fn names_in(directory: &std::path::Path) -> Vec<std::ffi::OsString> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

#[test]
fn a_gateway_refuses_a_wrong_value_before_it_opens_anything() {
    for (key, value) in [
        ("gateway.cores", "many"),
        ("gateway.cores", "100000"),
        ("gateway.listen", "nowhere"),
        ("gateway.id", "GW_1"),
        ("gateway.shard", "4000000000"),
        ("gateway.proxy_trusted", "[\"10.0.0.0/99\"]"),
        ("gateway.origins", "[\"app.example.com\"]"),
        ("gateway.connections_hard", "9"),
        ("gateway.connections_soft", "18446744073709551615"),
        ("gateway.heartbeat_ms", "0"),
        ("gateway.dead_after_ms", "1000"),
        ("gateway.client_messages_per_s", "0"),
        ("gateway.lanes_bytes", "99999999999"),
        ("gateway.memory_bytes_max", "1"),
        ("gateway.steer", "interrupt"),
        (
            "auth.keys",
            "[{ algorithm = \"HS256\", key_file = \"/nonexistent\" }]",
        ),
        (
            "auth.keys",
            "[{ algorithm = \"HS256\", key_file = \"DIR/empty\" }]",
        ),
        ("auth.keys", "[]"),
        ("auth.jwks_url", "ftp://nowhere"),
        ("redis.url", "http://nowhere"),
        ("redis.url", "nowhere"),
        ("redis.password_file", "/nonexistent"),
        ("redis.ca_file", "DIR/token.key"),
        ("redis.timeout_ms", "0"),
        ("kafka.security", "trust-me"),
        ("kafka.brokers", "nowhere"),
        ("kafka.min_insync_replicas", "4"),
        ("dispatchers.addresses", "[]"),
        ("dispatchers.addresses", "[\"x\"]"),
        ("grpc.secret_file", "/nonexistent"),
        ("grpc.secret_file", "DIR/empty"),
        ("grpc.secret_file", "DIR/short"),
        ("grpc.advertise", "x"),
        ("drain.window_ms", "99999999999"),
        ("drain.deadline_ms", "0"),
        ("log.level", "loud=="),
        ("log.level", "foo"),
        ("log.format", "xml"),
    ] {
        let variable = format!("HERALD_{}", key.replacen('.', "__", 1).to_uppercase());
        refuses("gateway", &[(key, value)], key);
        refuses("gateway", &[(key, value)], &variable);
    }
    refuses(
        "gateway",
        &[("gateway.colour", "red")],
        "HERALD_GATEWAY__COLOUR",
    );
    refuses("gateway", &[("garage.doors", "2")], "HERALD_GARAGE__DOORS");
}

#[test]
fn a_variable_that_is_not_utf_8_ends_the_start_only_where_it_is_ours() {
    use std::os::unix::ffi::OsStrExt;
    let start = |name: &str, arguments: &[&str]| {
        std::process::Command::new(env!("CARGO_BIN_EXE_herald"))
            .args(arguments)
            .env(name, std::ffi::OsStr::from_bytes(b"\xff"))
            .output()
            .unwrap()
    };
    let missing = "/nonexistent.toml";
    let ours = "HERALD_GATEWAY__ID";
    for (name, arguments, named) in [
        (
            "SOMEBODY_ELSES",
            &["gateway", "--config", missing][..],
            missing,
        ),
        (ours, &["gateway"], ours),
    ] {
        let output = start(name, arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains(named), "{said}");
    }
}

#[test]
fn a_dispatcher_refuses_a_wrong_value_before_it_opens_anything() {
    for (key, value) in [
        ("store.path", "/nonexistent/parent/store"),
        // Its permissions let root make it; the file system does not.
        ("store.path", "/proc/store"),
        ("store.path", "DIR/token.key"),
        ("store.path", "DIR/token.key/store"),
        ("http.admin_key_file", "DIR/empty"),
        ("http.admin_key_file", "DIR/short"),
        ("redis.url", "rediss:"),
        ("kafka.sasl_username", "herald"),
        ("kafka.linger_ms", "60000"),
        ("fallback.push_after_s", "31"),
        ("preferences.mandatory_types", "[\"\"]"),
        ("templates.path", "/nonexistent"),
        ("templates.fallback_locale", "e_n"),
        ("email.relay", "nowhere"),
        ("email.from", "no-reply@example.com"),
        ("email.tls", "maybe"),
        ("email.unsubscribe_url", "https://notify.example.com"),
        ("email.dkim", "[{selector = \"a\"}]"),
        ("web_push.contact", "mailto:ops@example.com"),
        ("web_push.vapid_key_file", "DIR/token.key"),
        ("web_push.hosts", "[\"\"]"),
        ("web_push.hosts", "[\"https://fcm.googleapis.com\"]"),
        ("limits.producers", "{ \"A shop\" = 1 }"),
        ("fcm.service_account_file", "DIR/token.key"),
        ("fcm.url", "fcm.googleapis.com"),
        ("apns.address", "api.push.apple.com"),
        ("apns.gone_percent_max", "0"),
        ("fcm.gone_window", "1"),
        ("sms.callback_url", "herald.example.com"),
        ("sms.providers", "[{ name = \"one\" }]"),
        ("breaker.probe_ms", "1"),
        ("budgets.reserve_percent", "101"),
        ("budgets.email_price", "-1"),
        ("log.level", "foo"),
    ] {
        refuses("dispatcher", &[(key, value)], key);
    }
    // A file of authorities that holds none: nobody would be reached.
    for (key, needs) in [
        ("email.ca_file", ("email.relay", "smtp.example.com:587")),
        (
            "email.sns_ca_file",
            (
                "email.sns_topics",
                "[\"arn:aws:sns:eu-central-1:123456789012:ses\"]",
            ),
        ),
    ] {
        let from = ("email.from", "no-reply@example.com");
        let relay = ("email.relay", "smtp.example.com:587");
        refuses(
            "dispatcher",
            &[relay, from, needs, (key, "DIR/token.key")],
            key,
        );
    }
}

#[test]
fn a_standalone_refuses_a_wrong_value_before_it_makes_its_directory() {
    for (key, value) in [
        ("gateway.shard", "16"),
        ("gateway.cores", "100000"),
        ("gateway.heartbeat_ms", "0"),
        ("store.path", "/nonexistent/parent/store"),
        // Its permissions let root make it; the file system does not.
        ("store.path", "/proc/store"),
        ("email.relay", "127.0.0.1:25"),
        ("log.format", "xml"),
    ] {
        refuses("standalone", &[(key, value)], key);
    }
}

#[test]
fn two_listeners_on_one_address_are_refused_by_the_name_of_both() {
    let port = free_port();
    let one = format!("127.0.0.1:{port}");
    let every = format!("0.0.0.0:{port}");
    let settings = [("gateway.listen", every.as_str()), ("admin.listen", &one)];
    refuses("gateway", &settings, "gateway.listen");
    refuses("gateway", &settings, "admin.listen");
    let settings = [("http.listen", one.as_str()), ("admin.listen", &one)];
    refuses("dispatcher", &settings, "admin.listen");
}

#[test]
fn grpc_off_loopback_without_a_secret_refuses_to_start() {
    for command in ["gateway", "dispatcher"] {
        let listen = format!("0.0.0.0:{}", free_port());
        refuses(command, &[("grpc.listen", &listen)], "grpc.secret_file");
    }
}

#[test]
fn a_gateway_on_every_address_says_by_which_it_is_dialled() {
    let listen = format!("0.0.0.0:{}", free_port());
    let settings = [
        ("grpc.listen", listen.as_str()),
        ("grpc.secret_file", "DIR/token.key"),
    ];
    refuses("gateway", &settings, "grpc.advertise");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let mut herald = Herald::new(&["gateway", "--config", "/nonexistent.toml"], &[]);
    herald.start();
    assert_eq!(herald.wait().code(), Some(64));
    assert!(herald.log().contains("/nonexistent.toml"));
}

/// What every failing test of a fleet shows must tell one that died from one that does not answer.
#[test]
fn a_process_that_ended_unasked_has_its_status_in_its_log() {
    let mut herald = Herald::new(&["gateway", "--config", "/nonexistent.toml"], &[]);
    herald.start();
    let pid = herald.pid();
    let end = format!("process {pid} is no more: exit status: 64");
    let is_told = || herald.log().contains(&end);
    testbed::until("its status is told", is_told, || herald.log());
    herald.kill();
    assert!(!herald.log().contains(&end), "{}", herald.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_starts_without_anything_and_needs_no_dispatcher_to_be_ready_but_not_to_be_refused()
 {
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
    fleet.nobody_owned_a_shard();
    // Its topics are not there yet: Redis, which is back, is not to blame any more.
    fleet
        .eventually("only the shard is waited for", PATIENCE, async || {
            let Some((_, body)) = fleet.readyz(admin).await else {
                return 1;
            };
            let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            let shard = body["reasons"]["shard"].as_str().unwrap_or_default();
            let is_told = shard.contains("topics --apply") && body["reasons"]["lease"].is_null();
            usize::from(!is_told)
        })
        .await;
    fleet.apply_topics();
    let named = says(&fleet, admin, 200, "dispatcher").await;
    assert!(named.contains("dispatchers.addresses"), "{named}");
    fleet.dispatchers[0].process.start();
    fleet.ready().await;
    assert!(fleet.gateways[0].process.is_running());

    // Any other gateway would be let in.
    let wrong = fleet.dir.path().join("wrong.secret");
    let text = "not-the-fleets-grpc-secret-but-long";
    keep_secret(text);
    std::fs::write(&wrong, text).unwrap();
    let mut stranger = fleet.twin(0);
    stranger.process.set("gateway.id", "gw-9");
    let wrong = wrong.to_str().unwrap();
    stranger.process.set("grpc.secret_file", wrong);
    stranger.process.start();
    let named = says(&fleet, stranger.admin_port, 503, "dispatcher_refused").await;
    assert!(named.contains("grpc.secret_file"), "{named}");
}

/// Waits for a status with this cause, and answers what it says.
async fn says(fleet: &Fleet, admin: u16, status: u16, cause: &str) -> String {
    let mut said = String::new();
    fleet
        .eventually(&format!("{status}: {cause}"), PATIENCE, async || {
            let Some((found, body)) = fleet.readyz(admin).await else {
                return 1;
            };
            let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
            let key = if found == 200 { "degraded" } else { "reasons" };
            said = body[key][cause].as_str().unwrap_or_default().to_owned();
            usize::from(found != status || !said.contains("check"))
        })
        .await;
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_logs_everything_logs_no_secret_and_leaves_in_good_order_with_exit_0() {
    let mut fleet = Fleet::prepare(1, &[("log.level", "trace")]);
    fleet.dispatchers[0].process.set("log.level", "trace");
    fleet.apply_topics();
    fleet.run().await;
    let token = fleet.token("42");
    let client = Client::start_by_address(fleet.ws_urls(0), token.clone());
    let id = fleet.api.notify("42", "Hello").await.unwrap();
    fleet
        .eventually("it arrives and is acknowledged", PATIENCE, async || {
            let state = fleet.api.state(&id, "42").await;
            usize::from(client.times(&id) == 0 || state != "delivered")
        })
        .await;
    drop(client);
    fleet.gateways[0].process.signal(libc::SIGTERM);
    assert_eq!(
        fleet.gateways[0].process.wait().code(),
        Some(0),
        "{}",
        fleet.logs()
    );
    fleet.dispatchers[0].process.signal(libc::SIGTERM);
    assert_eq!(
        fleet.dispatchers[0].process.wait().code(),
        Some(0),
        "{}",
        fleet.logs()
    );
    for process in [&fleet.gateways[0].process, &fleet.dispatchers[0].process] {
        let log = process.log();
        assert!(log.contains("\"level\":\"TRACE\""), "everything is logged");
        for secret in [&token, TOKEN_SECRET, API_KEY, GRPC_SECRET] {
            let told = log.lines().find(|line| line.contains(secret));
            assert_eq!(told, None, "{secret}");
        }
    }
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

/// `herald ctl` with nobody to answer: what it says, and that it fails.
fn ctl(arguments: &[&str], settings: &[(&str, &str)]) -> String {
    ctl_exits(1, arguments, settings)
}

fn ctl_exits(status: i32, arguments: &[&str], settings: &[(&str, &str)]) -> String {
    let mut herald = Herald::new(&[&["ctl"], arguments].concat(), settings);
    herald.start();
    let code = herald.wait().code();
    assert_eq!(code, Some(status), "{arguments:?}\n{}", herald.log());
    herald.log()
}

#[test]
fn ctl_names_the_argument_that_is_wrong() {
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "a key").unwrap();
    let key = key.path().to_str().unwrap();
    let url = format!("http://127.0.0.1:{}", free_port());
    let send = ["send", "--user", "42", "--url", &url, "--api-key-file", key];
    let said = ctl_exits(
        64,
        &[&send[..], &["--idempotency-key", "a\nb"]].concat(),
        &[],
    );
    assert!(said.contains("--idempotency-key"), "{said}");
    for url in ["foo", "foo:80", "ftp://127.0.0.1"] {
        let said = ctl_exits(64, &["status", "--url", url, "--api-key-file", key], &[]);
        assert!(said.contains("--url"), "{said}");
    }
    let said = ctl_exits(64, &["token", "--user", "42", "--secret-file", key], &[]);
    assert!(said.contains("--secret-file"), "{said}");
    let said = ctl_exits(2, &["send", "--title", "x"], &[]);
    for target in ["--user", "--users", "--segment", "--all"] {
        assert!(said.contains(target), "{said}");
    }
}

#[test]
fn check_refuses_a_wrong_command_line_as_a_wrong_configuration_and_names_who_has_its_address() {
    let check = |arguments: &[&str], listen: &str| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_herald"))
            .arg("check")
            .args(arguments)
            .env("HERALD_GATEWAY__LISTEN", listen)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    for wrong in [&["--connections", "0"][..], &["--conections", "5"]] {
        let (status, said) = check(wrong, "127.0.0.1:0");
        assert_eq!(status, Some(64), "{said}");
        assert!(said.contains(wrong[0]), "{said}");
    }
    // As of a server that has opened many files before it listens.
    let _files = [(); 300].map(|()| std::fs::File::open("/dev/null").unwrap());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (status, said) = check(&["--connections", "5"], &address);
    assert_eq!(status, Some(1), "{said}");
    let named = format!("gateway.listen: {address} is taken by ");
    let ours = format!("process {}", std::process::id());
    assert!(said.contains(&named) && said.contains(&ours), "{said}");
}

#[test]
fn check_judges_the_configuration_of_a_dispatcher_and_of_a_standalone_too() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("herald.toml");
    let place = directory.path().display();
    let store = format!("[store]\npath = \"{place}/store\"\n[spool]\npath = \"{place}/spool\"\n");
    let standalone = format!("[gateway]\ncores = 1\n[store]\npath = \"{place}/data\"\n");
    for (own, section, status, told) in [
        (&store, "", 0, "in order"),
        (&store, "[email]\nrelay = \"nowhere\"\n", 64, "email.relay"),
        (
            &store,
            "[templates]\npath = \"/nonexistent\"\n",
            64,
            "templates.path",
        ),
        (&standalone, "[fcm]\nat_once = 0\n", 64, "fcm.at_once"),
        (&standalone, "[garage]\ndoors = 2\n", 64, "garage"),
    ] {
        std::fs::write(&file, format!("{own}{section}")).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_herald"))
            .args(["check", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(output.status.code(), Some(status), "{section}: {said}");
        assert!(said.contains(told), "{section}: {said}");
    }
    let made: Vec<_> = names_in(directory.path());
    assert_eq!(made, ["herald.toml"], "nothing is made");
}

#[test]
fn ctl_topics_without_a_broker_says_what_it_waits_for_and_why_it_gave_up() {
    let brokers = format!("127.0.0.1:{}", free_port());
    for what in ["--check", "--apply"] {
        let said = ctl(&["topics", what], &[("kafka.brokers", &brokers)]);
        assert!(
            said.contains(&format!("waiting for Kafka at {brokers}")),
            "{said}"
        );
        assert!(said.contains("Connection refused"), "{said}");
        assert!(said.contains("kafka.brokers = "), "{said}");
    }
}

#[test]
fn ctl_ends_without_a_word_when_nobody_reads_what_it_prints() {
    let secret = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(secret.path(), "long enough for a key of HS256, it is hoped").expect("written");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let ended = std::process::Command::new(testbed::herald::binary("herald"))
        .args(["ctl", "token", "--user", "42", "--secret-file"])
        .arg(secret.path())
        .stdout(writer)
        .output()
        .expect("it runs");
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    assert_eq!(
        ended.status.signal(),
        Some(libc::SIGPIPE),
        "as of any command"
    );
}

#[test]
fn ctl_without_a_dispatcher_names_it_and_the_cause() {
    let key = tempfile::NamedTempFile::new().unwrap();
    let text = "the key of a shell that finds nobody";
    keep_secret(text);
    std::fs::write(key.path(), text).unwrap();
    let url = format!("http://127.0.0.1:{}", free_port());
    let to = [
        "--url",
        &url,
        "--api-key-file",
        key.path().to_str().unwrap(),
    ];
    for command in [
        &["status"][..],
        &["user", "42"],
        &["send", "--user", "42"],
        &["api-key", "--producer", "shop"],
    ] {
        let said = ctl(&[command, &to].concat(), &[]);
        assert!(said.contains(&url), "{said}");
        assert!(said.contains("Connection refused"), "{said}");
    }
}
