//! The fleet that is tried, and the clients it is tried on.

use crate::{
    accounting::{Account, Accounts},
    disk::SmallDisk,
    faults::{CUT_OFF, Process, REDIS, WRONG_CLOCKS},
    inbox::{self, Inboxes},
    returned,
};
use serde_json::{Value, json};
use std::{
    fmt::Debug,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tempfile::TempDir;
use testbed::{Fleet, HaProxy, api::sum_of, child::Guarded, kafka::KafkaBroker, proxy::TcpProxy};

#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Of both kinds of clients, WebSocket and SSE.
    pub users: usize,
    pub devices: usize,
    pub posts_per_s: usize,
}

/// Three gateways behind a load balancer, two dispatchers that share a store.
pub struct Scene {
    pub fleet: Fleet,
    pub broker: KafkaBroker,
    /// Between those who can be cut off and Redis.
    to_redis: Vec<(Process, TcpProxy)>,
    /// Between the last swarm and the load balancer.
    pub to_gateways: TcpProxy,
    /// Under the spool of the first dispatcher.
    pub small_disk: Option<SmallDisk>,
    proxy: HaProxy,
    swarms: Vec<Swarm>,
    dir: TempDir,
    seed: u64,
}

/// One process of clients that follow the rules, and of posts to them.
struct Swarm {
    process: Guarded,
    accounts: PathBuf,
}

/// How long clients may need to come back, and what is missing to arrive, on a loaded machine.
const WAIT: Duration = Duration::from_secs(120);

impl Scene {
    /// A long run has the parts that only its faults need.
    pub async fn start(seed: u64, size: Size, is_long: bool) -> Scene {
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
        if is_long {
            for process in WRONG_CLOCKS {
                let file = true_clock(&fleet, process);
                process.of(&mut fleet).follow_clock(&file);
            }
            let file = true_clock(&fleet, REDIS);
            fleet.redis.follow_clock(&file);
            fleet.redis.restart();
        }
        fleet.nobody_owned_a_shard();
        let mut to_redis = Vec::new();
        for process in CUT_OFF {
            let proxy = TcpProxy::start(local(fleet.redis.port())).await;
            let url = format!("redis://{}", local(proxy.port()));
            process.of(&mut fleet).set("redis.url", &url);
            to_redis.push((process, proxy));
        }
        let mut small_disk = None;
        if is_long {
            small_disk = SmallDisk::mount(&fleet.dir.path().join("spool-1"));
        }
        fleet.run().await;
        let proxy = HaProxy::start(&fleet);
        let to_gateways = TcpProxy::start(local(proxy.port())).await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let kinds = Kind::all(size, proxy.port(), to_gateways.port());
        let swarms = kinds
            .iter()
            .map(|kind| Swarm::start(kind, &fleet, dir.path()))
            .collect();
        let scene = Scene {
            fleet,
            broker,
            to_redis,
            to_gateways,
            small_disk,
            proxy,
            swarms,
            dir,
            seed,
        };
        let clients = kinds.iter().map(|kind| kind.users * kind.devices).sum();
        scene.everyone_is_in(clients).await;
        scene
    }

    pub async fn without_broker(&mut self, time: Duration) {
        self.broker.kill();
        tokio::time::sleep(time).await;
        tokio::task::block_in_place(|| self.broker.restart());
    }

    pub fn to_redis(&self, process: Process) -> &TcpProxy {
        let way = self.to_redis.iter().find(|(whose, _)| *whose == process);
        &way.expect("one that can be cut off").1
    }

    /// Clients that may be stopped, and may be cut off.
    pub fn patient_clients(&self) -> &Guarded {
        &self.swarms.last().expect("until the end").process
    }

    /// How far the wall clock of a process is from the true one.
    pub fn set_clock(&self, process: impl Debug, seconds: i32) {
        let file = clock(&self.fleet, process);
        std::fs::write(file, format!("{seconds:+}")).expect("a file");
    }

    async fn everyone_is_in(&self, clients: usize) {
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
                        status == 200 && body["degraded"] == json!({})
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
        let mut accounts = Accounts::new(accounts, inboxes);
        accounts.unacknowledged = inbox::unacknowledged(&self.fleet.api, accounts.accepted()).await;
        accounts.returned = returned::by_sync(&self.fleet, self.proxy.port(), &accounts).await;
        accounts
    }

    /// Copies logs and accounts to where they survive.
    fn keep(&self) {
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/chaos");
        let place = place.join(format!("seed-{}", self.seed));
        let _ = std::fs::remove_dir_all(&place);
        std::fs::create_dir_all(&place).expect("a directory");
        let write = |name: &str, text: &str| {
            std::fs::write(place.join(name), text).expect("room for a log");
        };
        write("broker.log", &self.broker.log());
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
        println!("logs and accounts are in {}", place.display());
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep();
        }
    }
}

/// A kind of clients, and what is posted to them.
struct Kind {
    name: &'static str,
    users: usize,
    devices: usize,
    posts_per_s: usize,
    port: u16,
    arguments: &'static [&'static str],
}

impl Kind {
    /// Broadcasts come from the first only: it ends first, so that the others' clients see all of them.
    fn all(size: Size, port: u16, fragile_port: u16) -> [Kind; 3] {
        let kind = |name, arguments| Kind {
            name,
            users: size.users,
            devices: size.devices,
            posts_per_s: size.posts_per_s / 2,
            port,
            arguments,
        };
        [
            kind("w", &["--to", "mixed"]),
            kind("s", &["--to", "users", "--sse"]),
            Kind {
                users: 20,
                devices: 1,
                posts_per_s: 4,
                port: fragile_port,
                ..kind("p", &["--to", "users", "--body-bytes", "8000"])
            },
        ]
    }
}

impl Swarm {
    fn start(kind: &Kind, fleet: &Fleet, dir: &Path) -> Swarm {
        let accounts = dir.join(kind.name);
        std::fs::create_dir_all(&accounts).expect("a directory");
        let said = std::fs::File::create(accounts.join("said")).expect("a file");
        let mut command = fleet.swarm([format!("ws://{}", local(kind.port))]);
        command
            .args(["--user-prefix", kind.name])
            .args(["--users", &format!("1..{}", kind.users)])
            .args(["--devices", &kind.devices.to_string()])
            .args(["--connect-rate", "300"])
            // Longer than what is promised may take: who needs this was not served live.
            .args(["--hole-wait-ms", "10000"])
            .args(["--rate", &kind.posts_per_s.to_string()])
            // Until told that it is enough.
            .args(["--count", &u32::MAX.to_string(), "--priority", "mixed"])
            .args(["--give-up-s", "60"])
            .args(kind.arguments)
            .arg("--accounting")
            .arg(&accounts)
            .arg("--json")
            .arg(accounts.join("report"))
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

/// What the clock of a process follows.
fn clock(fleet: &Fleet, process: impl Debug) -> PathBuf {
    fleet.dir.path().join(format!("clock-{process:?}"))
}

fn true_clock(fleet: &Fleet, process: impl Debug) -> PathBuf {
    let file = clock(fleet, process);
    std::fs::write(&file, "+0").expect("a file");
    file
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_millis() as u64
}
