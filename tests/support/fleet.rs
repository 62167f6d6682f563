//! A real fleet on this machine: Redis, Kafka with its topics, a dispatcher, gateways.

#![allow(dead_code)]

use super::{
    kafka,
    process::{Herald, PATIENCE, free_port},
    redis::RedisServer,
};
use herald::{auth, config::Secret};
use serde_json::{Value, json};
use std::{path::PathBuf, process::Command, time::Duration};
use tempfile::TempDir;
use tokio::time::Instant;

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
    dispatcher_http: u16,
    dispatcher_admin: u16,
    http: reqwest::Client,
}

pub struct Gateway {
    pub process: Herald,
    pub client_port: u16,
    pub admin_port: u16,
}

impl Fleet {
    pub async fn start(gateways: usize, settings: &[(&str, &str)]) -> Fleet {
        let mut fleet = Fleet::prepare(gateways, settings);
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
        let redis = RedisServer::start();
        let brokers = kafka::brokers();
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
        let own = [
            ("http.listen", address(http)),
            ("http.admin_key_file", admin_file),
            ("admin.listen", address(admin)),
            ("grpc.listen", address(grpc)),
            ("store.path", store),
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
        let http_client = reqwest::Client::builder()
            .timeout(Duration::from_secs(20))
            .build();
        Fleet {
            redis,
            dispatcher,
            gateways,
            namespace,
            brokers,
            dir,
            dispatcher_http: http,
            dispatcher_admin: admin,
            http: http_client.expect("a client"),
        }
    }

    /// By the operator's own command.
    pub fn apply_topics(&self) {
        let status = Command::new(env!("CARGO_BIN_EXE_herald"))
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

    async fn ready_at(&self, port: u16) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self
                .readyz(port)
                .await
                .is_some_and(|(status, _)| status == 200)
            {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "port {port} not ready;\n{}",
                self.logs()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn readyz(&self, port: u16) -> Option<(u16, String)> {
        let url = format!("http://127.0.0.1:{port}/readyz");
        let answer = self.http.get(url).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
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

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.dispatcher_http)
    }

    /// As a producer does it: a refusal that passes by itself is tried again under the same key.
    pub async fn notify(&self, user: &str, title: &str) -> Result<String, String> {
        let body = json!({ "target": { "user": user }, "type": "test", "title": title });
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = self.http.post(self.url("/v1/notifications"));
            let request = request.bearer_auth(API_KEY).json(&body);
            let request = request.header("idempotency-key", format!("{user}/{title}"));
            match request.send().await {
                Ok(answer) if answer.status() == 202 => {
                    let body: Value = answer.json().await.map_err(|error| error.to_string())?;
                    return Ok(body["id"].as_str().expect("an id").to_owned());
                }
                Ok(answer) if answer.status() == 503 && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok(answer) => return Err(answer.status().to_string()),
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// State of the in-app channel of one notification for one user; `none` until it is routed.
    pub async fn state(&self, id: &str, user: &str) -> String {
        let url = self.url(&format!("/v1/notifications/{id}/delivery?user={user}"));
        let request = self.http.get(url).bearer_auth(API_KEY);
        let answer = request.send().await.expect("it answers");
        if answer.status() == 404 {
            return "none".into();
        }
        assert_eq!(answer.status(), 200);
        let answer: Value = answer.json().await.expect("JSON");
        let states = answer["states"].as_array().expect("a list");
        let in_app = states.iter().find(|state| state["channel"] == "in_app");
        in_app.map_or("none".into(), |state| {
            state["state"].as_str().unwrap().to_owned()
        })
    }

    pub async fn metrics(&self, port: u16) -> String {
        let url = format!("http://127.0.0.1:{port}/metrics");
        self.http
            .get(url)
            .send()
            .await
            .expect("it answers")
            .text()
            .await
            .expect("text")
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
