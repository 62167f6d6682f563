//! A real fleet on this machine: Redis, Kafka with its topics, a dispatcher, gateways.

use crate::{
    Api, Herald, PATIENCE, eventually, free_port, herald::binary, kafka, redis::RedisServer,
};
use herald::{auth, bus::Topic, config::Secret};
use std::{path::PathBuf, process::Command, time::Duration};
use tempfile::TempDir;

const TOKEN_SECRET: &str = "the fleet's token secret, long enough for HS256";
pub const API_KEY: &str = "the-fleets-admin-key";
pub const GRPC_SECRET: &str = "the-fleets-grpc-secret";

pub struct Fleet {
    pub redis: RedisServer,
    pub dispatcher: Herald,
    pub gateways: Vec<Gateway>,
    pub namespace: String,
    pub brokers: String,
    pub dir: TempDir,
    pub api: Api,
    pub dispatcher_admin: u16,
}

pub struct Gateway {
    pub process: Herald,
    pub client_port: u16,
    pub admin_port: u16,
}

impl Fleet {
    pub async fn start(gateways: usize, settings: &[(&str, &str)]) -> Fleet {
        Fleet::start_on(kafka::brokers(), gateways, settings).await
    }

    /// With a broker of the test's own, which it may kill.
    pub async fn start_on(brokers: String, gateways: usize, settings: &[(&str, &str)]) -> Fleet {
        let mut fleet = Fleet::prepare_on(brokers, gateways, settings);
        fleet.apply_topics();
        fleet.dispatcher.start();
        for gateway in &mut fleet.gateways {
            gateway.process.start();
        }
        fleet.ready().await;
        fleet
    }

    /// Everything but our own processes: Redis and Kafka run, topics are not there yet.
    pub fn prepare(gateways: usize, settings: &[(&str, &str)]) -> Fleet {
        Fleet::prepare_on(kafka::brokers(), gateways, settings)
    }

    fn prepare_on(brokers: String, gateways: usize, settings: &[(&str, &str)]) -> Fleet {
        let redis = RedisServer::start();
        let namespace = kafka::fresh_namespace().to_string();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("a file");
            path.to_str().expect("a plain path").to_owned()
        };
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
        let address = |port: u16| format!("127.0.0.1:{port}");
        let (http, admin, grpc) = (free_port(), free_port(), free_port());
        let store = dir
            .path()
            .join("store")
            .to_str()
            .expect("a plain path")
            .to_owned();
        let spool = dir
            .path()
            .join("spool")
            .to_str()
            .expect("a plain path")
            .to_owned();
        let own = [
            ("http.listen", address(http)),
            ("http.admin_key_file", admin_file),
            ("admin.listen", address(admin)),
            ("grpc.listen", address(grpc)),
            ("store.path", store),
            ("spool.path", spool),
        ];
        let dispatcher = process("dispatcher", &shared, &own, &[]);
        let gateways = (1..=gateways)
            .map(|n| {
                let (client_port, admin_port) = (free_port(), free_port());
                let keys = format!("[{{ algorithm = \"HS256\", key_file = \"{token_file}\" }}]");
                let own = [
                    ("gateway.id", format!("gw-{n}")),
                    ("gateway.listen", address(client_port)),
                    ("gateway.cores", "2".to_owned()),
                    ("gateway.pin", "false".to_owned()),
                    ("auth.keys", keys),
                    ("dispatchers.addresses", format!("[\"{}\"]", address(grpc))),
                    ("admin.listen", address(admin_port)),
                    ("grpc.listen", address(free_port())),
                    ("drain.grace_ms", "0".to_owned()),
                    ("drain.window_ms", "500".to_owned()),
                ];
                let process = process("gateway", &shared, &own, settings);
                Gateway {
                    process,
                    client_port,
                    admin_port,
                }
            })
            .collect();
        Fleet {
            redis,
            dispatcher,
            gateways,
            namespace,
            brokers,
            dir,
            api: Api::new(http, API_KEY.to_owned()),
            dispatcher_admin: admin,
        }
    }

    /// Another gateway under the id of the `n`th, on ports of its own.
    pub fn twin(&self, n: usize) -> Gateway {
        let (client_port, admin_port) = (free_port(), free_port());
        let address = |port: u16| format!("127.0.0.1:{port}");
        let process = self.gateways[n].process.twin(&[
            ("gateway.listen", &address(client_port)),
            ("admin.listen", &address(admin_port)),
            ("grpc.listen", &address(free_port())),
        ]);
        Gateway {
            process,
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
        let gateways = self.gateways.iter().map(|gateway| gateway.admin_port);
        for port in gateways.chain([self.dispatcher_admin]) {
            self.ready_at(port).await;
        }
    }

    pub async fn ready_at(&self, port: u16) {
        let unready = async || {
            (self
                .readyz(port)
                .await
                .is_none_or(|(status, _)| status != 200))
            .into()
        };
        eventually(&format!("port {port} ready"), PATIENCE, unready, || {
            self.logs()
        })
        .await;
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
        let logs: Vec<String> = gateways.chain([self.dispatcher.log()]).collect();
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

    /// Records ever appended to a topic of this fleet.
    pub async fn records(&self, topic: Topic) -> usize {
        let (brokers, namespace) = (self.brokers.clone(), self.namespace.clone());
        let count = move || kafka::records(&brokers, &namespace.parse().expect("a label"), topic);
        tokio::task::spawn_blocking(count).await.expect("it counts")
    }

    /// Enters a user in the registry for a gateway's life that is not there, as a killed one leaves it.
    pub fn plant_entry(&self, user: &str, life: &str) {
        let key = format!("{}:conn:{user}", self.namespace);
        self.redis.raw(&["HSET", &key, life, "1"]);
    }
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
    let all: Vec<_> = all.chain(settings.iter().copied()).collect();
    Herald::new(&[command], &all)
}
