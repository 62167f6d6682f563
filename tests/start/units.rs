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
    let host = Host {
        container,
        fleet,
        etc,
        ports,
    };
    host.starts_tells_and_reloads().await;
    host.a_drain_outlasts_the_time_a_stop_has();
    host.a_second_sigterm_ends_a_drain_at_once();
    host.systemctl("stop", DISPATCHER);
    host.ended_well(DISPATCHER);
}

/// A host with both services, and the rest of their fleet.
struct Host {
    container: Container,
    fleet: Fleet,
    etc: TempDir,
    ports: Ports,
}

impl Host {
    async fn starts_tells_and_reloads(&self) {
        // As an operator does; and systemd forgets how a unit ended that nothing else names.
        self.systemctl("enable", DISPATCHER);
        self.systemctl("enable", GATEWAY);
        // Topics are missing yet: that keeps no service from starting.
        self.systemctl("start", DISPATCHER);
        self.systemctl("start", GATEWAY);
        self.fleet.apply_topics();
        self.shows(DISPATCHER, "ready");
        self.shows(GATEWAY, "ready; connections: 0");
        let checked = self.container.journal(GATEWAY);
        assert!(
            checked.contains("another idle connection takes"),
            "{checked}"
        );
        let metrics = self.fleet.api.metrics(self.ports.gateway_admin).await;
        assert!(
            metrics.contains("herald_engine{engine=\"uring\"} 1"),
            "{metrics}"
        );
        for unit in [DISPATCHER, GATEWAY] {
            self.systemctl("reload", unit);
            until(
                "the configuration is read again",
                || {
                    let journal = self.container.journal(unit);
                    journal.contains("configuration re-read")
                },
                || self.logs(),
            );
        }
        let _client = self.client();
        self.shows(GATEWAY, "ready; connections: 1");
        self.systemctl("stop", GATEWAY);
        self.ended_well(GATEWAY);
    }

    /// A host with clients needs the time that the others take for them, however long systemd waits by itself.
    fn a_drain_outlasts_the_time_a_stop_has(&self) {
        self.drop_in("[Service]\nTimeoutStopSec=3\n");
        self.drain(9_000);
        self.systemctl("start", GATEWAY);
        let _client = self.client();
        self.shows(GATEWAY, "ready; connections: 1");
        self.systemctl("stop", GATEWAY);
        self.ended_well(GATEWAY);
        let at = |property: &str| -> u64 {
            let micros = self.container.property(GATEWAY, property);
            micros.parse().expect("microseconds")
        };
        let took = at("InactiveEnterTimestampMonotonic") - at("ActiveExitTimestampMonotonic");
        assert!(took > 3_000_000, "{took} µs");
        self.drop_in("");
    }

    fn a_second_sigterm_ends_a_drain_at_once(&self) {
        // For as long as the test looks.
        self.drain(600_000);
        self.systemctl("start", GATEWAY);
        let _client = self.client();
        self.shows(GATEWAY, "ready; connections: 1");
        let stop = ["systemctl", "stop", "--no-block", GATEWAY];
        assert!(self.container.run(&stop).status.success());
        let leaves = "not ready; draining: leaving: clients are sent elsewhere";
        self.shows(GATEWAY, &format!("{leaves}; connections: 1; grace at 0/s"));
        self.systemctl("kill", GATEWAY);
        until(
            "the gateway has ended",
            || self.container.property(GATEWAY, "ActiveState") == "inactive",
            || self.logs(),
        );
        self.ended_well(GATEWAY);
        let journal = self.container.journal(GATEWAY);
        assert!(
            journal.contains("second signal: ending at once"),
            "{journal}"
        );
    }

    fn client(&self) -> Client {
        let url = format!("ws://127.0.0.1:{}/ws/notifications", self.ports.client);
        Client::start(vec![url], self.fleet.token("42"))
    }

    /// How long the gateway waits before it sends clients away.
    fn drain(&self, grace_ms: u32) {
        let path = self.etc.path().join("gateway.toml");
        let text = std::fs::read_to_string(&path).expect("a file");
        let (kept, _) = text.split_once("grace_ms").expect("the last section");
        let text = format!("{kept}grace_ms = {grace_ms}\nwindow_ms = 500\n");
        std::fs::write(&path, text).expect("a file");
    }

    /// What an operator adds to the gateway's unit.
    fn drop_in(&self, text: &str) {
        let place = format!("/run/systemd/system/{GATEWAY}.d");
        let write = format!("mkdir -p {place} && printf '{text}' > {place}/test.conf");
        let written = self.container.run(&["sh", "-c", &write]);
        assert!(written.status.success(), "{written:?}");
        let reloaded = self.container.run(&["systemctl", "daemon-reload"]);
        assert!(reloaded.status.success(), "{reloaded:?}");
    }

    fn systemctl(&self, verb: &str, unit: &str) {
        let done = self.container.run(&["systemctl", verb, unit]);
        let logs = self.logs();
        assert!(done.status.success(), "{verb} {unit}: {done:?}\n{logs}");
    }

    fn shows(&self, unit: &str, expected: &str) {
        let status = || self.container.property(unit, "StatusText");
        until(
            &format!("the status of {unit} is {expected:?}"),
            || status() == expected,
            || format!("it is {:?}\n{}", status(), self.logs()),
        );
    }

    fn ended_well(&self, unit: &str) {
        let result = self.container.property(unit, "Result");
        let status = self.container.property(unit, "ExecMainStatus");
        let started = self.container.property(unit, "ExecMainStartTimestamp");
        let logs = self.logs();
        assert!(!started.is_empty(), "its end is forgotten");
        assert_eq!((&result[..], &status[..]), ("success", "0"), "{logs}");
    }

    fn logs(&self) -> String {
        self.container.journal(GATEWAY) + &self.container.journal(DISPATCHER)
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
