//! The fleet that is tried, and the clients it is tried on.

use crate::{
    accounting::{Account, Accounts},
    inbox::{self, Inboxes},
};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;
use testbed::{
    Fleet, HaProxy, api::sum_of, child::Guarded, eventually, herald::binary, kafka::KafkaBroker,
};

#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Of each kind of client, WebSocket and SSE.
    pub users: usize,
    pub devices: usize,
    pub posts_per_s: usize,
}

/// Three gateways behind a load balancer, two dispatchers that share a store.
pub struct Scene {
    pub fleet: Fleet,
    pub broker: KafkaBroker,
    _proxy: HaProxy,
    swarms: Vec<Swarm>,
    dir: TempDir,
}

/// One process of clients that follow the rules, and of posts to them.
struct Swarm {
    process: Guarded,
    accounts: PathBuf,
}

/// How long clients may need to come back, and what is missing to arrive, on a loaded machine.
const WAIT: Duration = Duration::from_secs(120);

impl Scene {
    pub async fn start(size: Size) -> Scene {
        let broker = tokio::task::spawn_blocking(KafkaBroker::start).await;
        let broker = broker.expect("it starts");
        let settings = [
            ("gateway.proxy_trusted", "[\"127.0.0.0/8\"]"),
            // A connection that was silent for three of them is given up by both sides.
            ("gateway.heartbeat_ms", "10000"),
            ("gateway.dead_after_ms", "30000"),
        ];
        let mut fleet = Fleet::prepare_on(broker.brokers(), 2, 3, &settings);
        fleet.make_topics(4).await;
        fleet.nobody_owned_a_shard();
        fleet.run().await;
        let proxy = HaProxy::start(&fleet);
        let dir = tempfile::tempdir().expect("a temporary directory");
        // Broadcasts come from the first only: it ends first, and the other's clients see all of them.
        let kinds = [
            ("w", &["--to", "mixed"][..]),
            ("s", &["--to", "users", "--sse"]),
        ];
        let swarms = kinds.into_iter().map(|(name, arguments)| {
            Swarm::start(name, arguments, size, &fleet, &proxy, dir.path())
        });
        let scene = Scene {
            swarms: swarms.collect(),
            broker,
            _proxy: proxy,
            dir,
            fleet,
        };
        scene.everyone_is_in(size).await;
        scene
    }

    async fn everyone_is_in(&self, size: Size) {
        let clients = 2 * size.users * size.devices;
        let fleet = &self.fleet;
        fleet
            .eventually("everyone is in", WAIT, async || {
                let mut here = 0;
                for gateway in &fleet.gateways {
                    let metrics = fleet.api.metrics(gateway.admin_port).await;
                    here += sum_of(&metrics, "herald_connections_open ");
                }
                clients.saturating_sub(here)
            })
            .await;
    }

    /// Every process of ours is ready, and none misses a part that all share.
    pub async fn recovered(&self) {
        let fleet = &self.fleet;
        let gateways = fleet.gateways.iter().map(|one| one.admin_port);
        let dispatchers = fleet.dispatchers.iter().map(|one| one.admin_port);
        let ports: Vec<u16> = gateways.chain(dispatchers).collect();
        fleet
            .eventually("nothing is degraded", WAIT, async || {
                let mut troubled = 0;
                for port in &ports {
                    let answer = fleet.readyz(*port).await;
                    let well = answer.is_some_and(|(status, text)| {
                        let body: Value = serde_json::from_str(&text).expect("JSON");
                        // A dispatcher says whether, a gateway of what.
                        let degraded = &body["degraded"];
                        let none = degraded.as_array().is_none_or(Vec::is_empty);
                        status == 200 && *degraded != Value::Bool(true) && none
                    });
                    troubled += usize::from(!well);
                }
                troubled
            })
            .await;
    }

    /// Ends posting, waits until all has arrived, and collects what everybody knows.
    pub async fn account(&mut self) -> Accounts {
        let mut accounts = Vec::new();
        for swarm in self.swarms.drain(..) {
            accounts.push(swarm.end().await);
        }
        let users = accounts.iter().flat_map(Account::users).collect();
        let inboxes = Inboxes::read(&self.fleet.api, users).await;
        let accounts = Accounts::new(accounts, inboxes);
        let mut waiting = accounts.accepted();
        let explain = || self.fleet.logs();
        eventually(
            "acknowledgements in storage",
            WAIT,
            async || inbox::unacknowledged(&self.fleet.api, &mut waiting).await,
            explain,
        )
        .await;
        accounts
    }

    /// Copies logs and accounts to where they survive, for a seed that failed.
    pub fn keep(&self, seed: u64, verdict: &str) -> PathBuf {
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/chaos/seed-{seed}"));
        let _ = std::fs::remove_dir_all(&place);
        std::fs::create_dir_all(&place).expect("a directory");
        let write = |name: &str, text: &str| {
            std::fs::write(place.join(name), text).expect("room for a log");
        };
        write("verdict", verdict);
        for (n, gateway) in (1..).zip(&self.fleet.gateways) {
            write(&format!("gateway-{n}.log"), &gateway.process.log());
        }
        for (n, dispatcher) in (1..).zip(&self.fleet.dispatchers) {
            write(&format!("dispatcher-{n}.log"), &dispatcher.process.log());
        }
        let copied = Command::new("cp")
            .arg("-r")
            .arg(self.dir.path())
            .arg(place.join("swarm"))
            .status();
        assert!(copied.is_ok_and(|status| status.success()), "accounts lost");
        place
    }
}

impl Swarm {
    fn start(
        name: &str,
        arguments: &[&str],
        size: Size,
        fleet: &Fleet,
        proxy: &HaProxy,
        dir: &Path,
    ) -> Swarm {
        let accounts = dir.join(name);
        std::fs::create_dir_all(&accounts).expect("a directory");
        let said = std::fs::File::create(accounts.join("said")).expect("a file");
        let mut command = Command::new(binary("swarm"));
        command
            .args(["--url", &format!("ws://{}", proxy.address())])
            .args(["--user-prefix", name])
            .args(["--users", &format!("1..{}", size.users)])
            .args(["--devices", &size.devices.to_string()])
            .args(["--connect-rate", "300"])
            // Longer than what is promised may take: who needs this was not served live.
            .args(["--hole-wait-ms", "10000"])
            .args(["--rate", &(size.posts_per_s / 2).to_string()])
            // Until told that it is enough.
            .args(["--count", &u32::MAX.to_string(), "--priority", "mixed"])
            .args(["--give-up-s", "60"])
            .args(arguments)
            .arg("--secret-file")
            .arg(fleet.token_file())
            .arg("--api-key-file")
            .arg(fleet.admin_key_file())
            .arg("--accounting")
            .arg(&accounts)
            .arg("--json")
            .arg(accounts.join("report"));
        for dispatcher in &fleet.dispatchers {
            command.args(["--post-url", &dispatcher.api.url("")]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said);
        let process = Guarded::spawn(command).expect("swarm starts");
        Swarm { process, accounts }
    }

    /// It posts no more, waits for what is missing, and says what it saw.
    async fn end(self) -> Account {
        self.process.signal(libc::SIGTERM);
        let ended = tokio::task::spawn_blocking(move || self.process.output());
        ended.await.expect("it only waits");
        Account::read(&self.accounts)
    }
}

pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_millis() as u64
}
