//! The shipped units, run by a real systemd.

use std::path::Path;
use tempfile::TempDir;
use testbed::{Client, Container, Fleet, free_port, herald::binary, until};

const GATEWAY: &str = "herald-gateway.service";
const DISPATCHER: &str = "herald-dispatcher.service";

#[tokio::test(flavor = "multi_thread")]
async fn under_systemd_the_units_start_tell_their_state_reload_and_stop_in_good_order() {
    let fleet = Fleet::prepare(0, &[]);
    let (etc, ports) = etc(&fleet);
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let installed = |unit: &str| format!("/etc/systemd/system/{unit}");
    let booted = Container::boot(&[
        (&binary("herald"), "/usr/bin/herald"),
        (etc.path(), "/etc/herald"),
        (&units.join(GATEWAY), &installed(GATEWAY)),
        (&units.join(DISPATCHER), &installed(DISPATCHER)),
    ]);
    let Some(container) = booted else {
        return;
    };
    let logs = || container.journal(GATEWAY) + &container.journal(DISPATCHER);
    let systemctl = |verb: &str, unit: &str| {
        let done = container.run(&["systemctl", verb, unit]);
        assert!(done.status.success(), "{verb} {unit}: {done:?}\n{}", logs());
    };
    let shows = |unit: &str, expected: &str| {
        let status = || container.property(unit, "StatusText");
        until(
            &format!("the status of {unit} is {expected:?}"),
            || status() == expected,
            || format!("it is {:?}\n{}", status(), logs()),
        );
    };

    // Topics are missing yet: that keeps no service from starting.
    systemctl("start", DISPATCHER);
    systemctl("start", GATEWAY);
    fleet.apply_topics();
    shows(DISPATCHER, "ready");
    shows(GATEWAY, "ready; connections: 0");
    let checked = container.journal(GATEWAY);
    assert!(
        checked.contains("another idle connection takes"),
        "{checked}"
    );
    let metrics = fleet.api.metrics(ports.gateway_admin).await;
    assert!(
        metrics.contains("herald_engine{engine=\"uring\"} 1"),
        "{metrics}"
    );

    for unit in [DISPATCHER, GATEWAY] {
        systemctl("reload", unit);
        until(
            "the configuration is read again",
            || container.journal(unit).contains("configuration re-read"),
            logs,
        );
    }

    let url = format!("ws://127.0.0.1:{}/ws/notifications", ports.client);
    let _client = Client::start(vec![url], fleet.token("42"));
    shows(GATEWAY, "ready; connections: 1");
    for unit in [GATEWAY, DISPATCHER] {
        systemctl("stop", unit);
        let result = container.property(unit, "Result");
        let status = container.property(unit, "ExecMainStatus");
        assert_eq!((&result[..], &status[..]), ("success", "0"), "{}", logs());
    }
}

struct Ports {
    client: u16,
    gateway_admin: u16,
}

/// /etc/herald as the units want it: secrets come as credentials.
fn etc(fleet: &Fleet) -> (TempDir, Ports) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let secrets = path.join("secrets");
    std::fs::create_dir(&secrets).expect("a directory");
    for name in ["token.key", "admin.key", "grpc.secret"] {
        std::fs::copy(fleet.dir.path().join(name), secrets.join(name)).expect("a secret");
    }
    let shared = format!(
        "[node]\nnamespace = \"{}\"\n[redis]\nurl = \"{}\"\n[kafka]\nbrokers = \"{}\"\n",
        fleet.namespace,
        fleet.redis.url(),
        fleet.brokers
    );
    let secret = |unit: &str, name: &str| format!("\"/run/credentials/{unit}/secret_{name}\"");
    let [client, gateway_admin, gateway_grpc, http, admin, grpc] =
        std::array::from_fn(|_| free_port());
    let dispatcher = format!(
        "{shared}\
         [http]\nlisten = \"127.0.0.1:{http}\"\nadmin_key_file = {}\n\
         [admin]\nlisten = \"127.0.0.1:{admin}\"\n\
         [grpc]\nlisten = \"127.0.0.1:{grpc}\"\nsecret_file = {}\n",
        secret(DISPATCHER, "admin.key"),
        secret(DISPATCHER, "grpc.secret"),
    );
    let gateway = format!(
        "{shared}\
         [gateway]\nlisten = \"127.0.0.1:{client}\"\nengine = \"uring\"\npin = false\n\
         [auth]\nkeys = [{{ algorithm = \"HS256\", key_file = {} }}]\n\
         [dispatchers]\naddresses = [\"127.0.0.1:{grpc}\"]\n\
         [admin]\nlisten = \"127.0.0.1:{gateway_admin}\"\n\
         [grpc]\nlisten = \"127.0.0.1:{gateway_grpc}\"\nsecret_file = {}\n\
         [drain]\ngrace_ms = 0\nwindow_ms = 500\n",
        secret(GATEWAY, "token.key"),
        secret(GATEWAY, "grpc.secret"),
    );
    std::fs::write(path.join("dispatcher.toml"), dispatcher).expect("a file");
    std::fs::write(path.join("gateway.toml"), gateway).expect("a file");
    let ports = Ports {
        client,
        gateway_admin,
    };
    (directory, ports)
}
