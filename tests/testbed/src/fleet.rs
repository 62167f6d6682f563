//! A real fleet on this machine: Redis, Kafka with its topics, dispatchers, gateways.

use crate::{
    Api, Herald, PATIENCE, UNLIMITED, eventually, free_port, herald::binary, kafka, keep_secret,
    redis::RedisServer,
};
use herald::{
    auth,
    bus::{Topic, shard_group},
    config::Secret,
};
use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;

pub const TOKEN_SECRET: &str = "the fleet's token secret, long enough for HS256";
pub const API_KEY: &str = "the-fleets-admin-key-nobody-guesses";
pub const GRPC_SECRET: &str = "the-fleets-grpc-secret-nobody-guesses";

/// The gateways of a fleet take turns.
const ENGINES: [&str; 2] = ["uring", "epoll"];

pub struct Fleet {
    pub redis: RedisServer,
    pub dispatchers: Vec<Dispatcher>,
    pub gateways: Vec<Gateway>,
    pub namespace: String,
    pub brokers: String,
    pub dir: TempDir,
    /// The first dispatcher's.
    pub api: Api,
}

pub struct Dispatcher {
    pub process: Herald,
    pub api: Api,
    pub admin_port: u16,
    pub grpc_port: u16,
}

pub struct Gateway {
    pub process: Herald,
    /// As it was asked for.
    engine: String,
    pub client_port: u16,
    pub admin_port: u16,
}

impl Fleet {
    pub async fn start(gateways: usize, settings: &[(&str, &str)]) -> Fleet {
        Fleet::start_on(kafka::brokers(), gateways, settings).await
    }

    /// With a broker of the test's own, which it may kill.
    pub async fn start_on(brokers: String, gateways: usize, settings: &[(&str, &str)]) -> Fleet {
        let mut fleet = Fleet::prepare_on(brokers, 1, gateways, settings);
        fleet.apply_topics();
        fleet.run().await;
        fleet
    }

    /// Starts all processes of ours and waits until they are ready.
    pub async fn run(&mut self) {
        for dispatcher in &mut self.dispatchers {
            dispatcher.process.start();
        }
        for gateway in &mut self.gateways {
            gateway.process.start();
        }
        self.ready().await;
    }

    /// Everything but our own processes: Redis and Kafka run, topics are not there yet.
    pub fn prepare(gateways: usize, settings: &[(&str, &str)]) -> Fleet {
        Fleet::prepare_on(kafka::brokers(), 1, gateways, settings)
    }

    /// As [`Fleet::prepare`], with a broker of the test's own and several dispatchers, which share a store.
    pub fn prepare_on(
        brokers: String,
        dispatchers: usize,
        gateways: usize,
        settings: &[(&str, &str)],
    ) -> Fleet {
        let redis = RedisServer::start();
        let namespace = kafka::fresh_namespace().to_string();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path.to_str().expect("a plain path").to_owned()
        };
        for secret in [TOKEN_SECRET, API_KEY, GRPC_SECRET] {
            keep_secret(secret);
        }
        let token_file = file("token.key", TOKEN_SECRET);
        let admin_file = file("admin.key", API_KEY);
        let secret_file = file("grpc.secret", GRPC_SECRET);
        let shared = [
            ("node.namespace", namespace.as_str()),
            ("redis.url", &redis.url()),
            ("kafka.brokers", &brokers),
            ("kafka.replication", "1"),
            ("kafka.min_insync_replicas", "1"),
            ("grpc.secret_file", &secret_file),
            ("log.format", "json"),
        ]
        .map(|(key, value)| (key, value.to_owned()));
        let place = |name: &str| dir.path().join(name).to_str().expect("a path").to_owned();
        let dispatchers: Vec<Dispatcher> = (1..=dispatchers)
            .map(|n| {
                let (http, admin_port, grpc_port) = (free_port(), free_port(), free_port());
                let own = [
                    ("http.listen", address(http)),
                    ("http.admin_key_file", admin_file.clone()),
                    ("admin.listen", address(admin_port)),
                    ("grpc.listen", address(grpc_port)),
                    ("store.path", place("store")),
                    ("spool.path", place(&format!("spool-{n}"))),
                ];
                Dispatcher {
                    process: process("dispatcher", &shared, &own, &[]),
                    api: Api::new(http, API_KEY.to_owned()),
                    admin_port,
                    grpc_port,
                }
            })
            .collect();
        let grpc: Vec<String> = dispatchers
            .iter()
            .map(|dispatcher| address(dispatcher.grpc_port))
            .collect();
        let asked = settings.iter().find(|(key, _)| *key == "gateway.engine");
        let asked = asked.map(|(_, engine)| *engine);
        let gateways = (1..=gateways)
            .map(|n| {
                let engine = asked.unwrap_or(ENGINES[(n - 1) % ENGINES.len()]).to_owned();
                let (client_port, admin_port) = (free_port(), free_port());
                let keys = format!("[{{ algorithm = \"HS256\", key_file = \"{token_file}\" }}]");
                let own = [
                    ("gateway.id", format!("gw-{n}")),
                    ("gateway.listen", address(client_port)),
                    ("gateway.cores", "2".to_owned()),
                    ("gateway.engine", engine.clone()),
                    ("gateway.pin", "false".to_owned()),
                    ("auth.keys", keys),
                    ("dispatchers.addresses", format!("{grpc:?}")),
                    ("admin.listen", address(admin_port)),
                    ("grpc.listen", address(free_port())),
                    ("drain.grace_ms", "0".to_owned()),
                    ("drain.window_ms", "500".to_owned()),
                ];
                let process = process("gateway", &shared, &own, settings);
                Gateway {
                    process,
                    engine,
                    client_port,
                    admin_port,
                }
            })
            .collect();
        Fleet {
            api: dispatchers[0].api.clone(),
            redis,
            dispatchers,
            gateways,
            namespace,
            brokers,
            dir,
        }
    }

    /// An empty Redis makes a first claim of a shard wait, since an owner may live that it forgot. Here nobody
    /// can have owned one.
    pub fn nobody_owned_a_shard(&self) {
        for shard in 0..self.gateways.len() {
            let key = format!("{}:shard:{shard}", self.namespace);
            self.redis
                .raw(&["HSET", &key, "state", "waiting", "until", "1"]);
        }
    }

    /// Another gateway under the id of the `n`th, on ports of its own.
    pub fn twin(&self, n: usize) -> Gateway {
        let (client_port, admin_port) = (free_port(), free_port());
        let process = self.gateways[n].process.twin(&[
            ("gateway.listen", &address(client_port)),
            ("admin.listen", &address(admin_port)),
            ("grpc.listen", &address(free_port())),
        ]);
        Gateway {
            process,
            engine: self.gateways[n].engine.clone(),
            client_port,
            admin_port,
        }
    }

    /// As [`Fleet::apply_topics`], with this many shards.
    pub async fn make_topics(&self, shards: u32) {
        let partitions = |topic: Topic| match topic {
            Topic::InApp | Topic::Critical => shards,
            topic => topic.spec().partitions,
        };
        let topics = Topic::all().into_iter();
        let topics: Vec<_> = topics.map(|topic| (topic, partitions(topic))).collect();
        let namespace = self.namespace.parse().expect("a label");
        kafka::create_topics(&self.brokers, &namespace, &topics).await;
    }

    /// By the operator's own command.
    pub fn apply_topics(&self) {
        let status = Command::new(binary("herald"))
            .args(["ctl", "topics", "--apply"])
            .env("HERALD_NODE__NAMESPACE", &self.namespace)
            .env("HERALD_KAFKA__BROKERS", &self.brokers)
            .env("HERALD_KAFKA__REPLICATION", "1")
            .env("HERALD_KAFKA__MIN_INSYNC_REPLICAS", "1")
            .status();
        assert!(status.expect("it runs").success(), "topics can't be made");
    }

    pub async fn ready(&self) {
        for gateway in &self.gateways {
            self.ready_with(gateway.admin_port, &["dispatcher"]).await;
            let metrics = self.api.metrics(gateway.admin_port).await;
            let runs = format!("herald_engine{{engine=\"{}\"}} 1\n", gateway.engine);
            let is_asked_for = gateway.engine == "auto" || metrics.contains(&runs);
            assert!(is_asked_for, "no {runs}in {metrics}");
        }
        for dispatcher in &self.dispatchers {
            self.ready_with(dispatcher.admin_port, &["bus", "registry"])
                .await;
        }
    }

    pub async fn ready_at(&self, port: u16) {
        self.ready_with(port, &[]).await;
    }

    /// None of these parts is named as being away.
    async fn ready_with(&self, port: u16, parts: &[&str]) {
        let unready = async || {
            let is_ready = |(status, body): (u16, String)| {
                let away = parts
                    .iter()
                    .any(|part| body.contains(&format!("\"{part}\"")));
                status == 200 && !away
            };
            usize::from(!self.readyz(port).await.is_some_and(is_ready))
        };
        // A broker's first readers wait until it has made the topic of their offsets.
        let what = format!("port {port} ready");
        eventually(&what, PATIENCE * 2, unready, || self.logs()).await;
    }

    pub async fn readyz(&self, port: u16) -> Option<(u16, String)> {
        self.api.admin(port, "readyz").await
    }

    /// Polls until nothing is missing; the logs of all processes say why something is.
    pub async fn eventually(
        &self,
        what: &str,
        within: Duration,
        missing: impl AsyncFnMut() -> usize,
    ) {
        eventually(what, within, missing, || self.logs()).await;
    }

    pub fn logs(&self) -> String {
        let gateways = self.gateways.iter().map(|gateway| gateway.process.log());
        let dispatchers = self.dispatchers.iter().map(|one| one.process.log());
        let logs: Vec<String> = gateways.chain(dispatchers).collect();
        logs.join("\n────\n")
    }

    /// Addresses of all gateways, the `first` one in front.
    pub fn ws_urls(&self, first: usize) -> Vec<String> {
        let count = self.gateways.len();
        let ports = (0..count).map(|n| self.gateways[(first + n) % count].client_port);
        ports
            .map(|port| format!("ws://127.0.0.1:{port}/ws/notifications"))
            .collect()
    }

    pub fn token(&self, user: &str) -> String {
        let user = user.parse().expect("a user id");
        auth::mint_hs256(&Secret::new(TOKEN_SECRET), &user, Duration::from_secs(3600))
    }

    pub fn token_file(&self) -> PathBuf {
        self.dir.path().join("token.key")
    }

    pub fn admin_key_file(&self) -> PathBuf {
        self.dir.path().join("admin.key")
    }

    /// The load tool, with clients of these addresses, producers of every dispatcher and the keys for both.
    pub fn swarm(&self, ws_urls: impl IntoIterator<Item = String>) -> Command {
        let mut command = Command::new(binary("swarm"));
        for url in ws_urls {
            command.args(["--url", &url]);
        }
        for dispatcher in &self.dispatchers {
            command.args(["--post-url", &dispatcher.api.url("")]);
        }
        command.arg("--secret-file").arg(self.token_file());
        command.arg("--api-key-file").arg(self.admin_key_file());
        command.stdin(Stdio::null());
        command
    }

    /// Records ever appended to a topic of this fleet.
    pub async fn records(&self, topic: Topic) -> usize {
        let (brokers, namespace) = (self.brokers.clone(), self.namespace.clone());
        let count = move || kafka::records(&brokers, &namespace.parse().expect("a label"), topic);
        tokio::task::spawn_blocking(count).await.expect("it counts")
    }

    /// Where records of the shards' topics and of `raw` are not committed.
    pub async fn uncommitted(&self) -> Vec<kafka::Uncommitted> {
        let (brokers, namespace) = (self.brokers.clone(), self.namespace.clone());
        let count = move || {
            let namespace = namespace.parse().expect("a label");
            let left = |group: &str, topic, partition| {
                kafka::uncommitted(&brokers, &namespace, group, topic, partition)
            };
            let shards = 0..Topic::InApp.spec().partitions;
            let mut places = left("router", Topic::Raw(1), None);
            for shard in shards {
                for topic in [Topic::InApp, Topic::Critical] {
                    places.extend(left(&shard_group(shard), topic, Some(shard)));
                }
            }
            places
        };
        tokio::task::spawn_blocking(count).await.expect("it counts")
    }

    /// Enters a user in the registry for a gateway's life that is not there, as a killed one leaves it.
    pub fn plant_entry(&self, user: &str, life: &str) {
        let key = format!("{}:conn:{user}", self.namespace);
        self.redis.raw(&["HSET", &key, life, "1"]);
    }
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn process(
    command: &str,
    shared: &[(&str, String)],
    own: &[(&str, String)],
    settings: &[(&str, &str)],
) -> Herald {
    let all = shared
        .iter()
        .chain(own)
        .map(|(key, value)| (*key, value.as_str()));
    let lifted: &[(&str, &str)] = match command {
        "dispatcher" => &UNLIMITED,
        _ => &[],
    };
    let all = lifted.iter().copied().chain(all);
    let all: Vec<_> = all.chain(settings.iter().copied()).collect();
    Herald::new(&[command], &all)
}
