//! A real Cassandra for a test binary, one node or a cluster of several, on ports of its own, by `scripts/cassandra.sh`.
//!
//! Most tests want [`node`]: one for the binary (or the one named by `HERALD_TEST_CASSANDRA=host:port`), where each
//! test keeps apart by [`fresh_keyspace`]. A test that kills its node starts its own by
//! [`CassandraNode::start_lasting`].

use crate::{
    at_exit::drop_at_exit,
    certificates,
    child::{Guarded, Running, is_a_process},
    free_port,
};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a node may take to serve; one takes 10 s on a machine with nothing else to do.
const START_MAX: Duration = Duration::from_secs(300);

/// Name of the user that a guarded node has from its first start, and his password.
pub const USER: &str = "cassandra";

/// Name of the only data centre of a node.
pub const DATACENTER: &str = "datacenter1";

pub struct CassandraNode {
    host: String,
    port: u16,
    storage: u16,
    directory: TempDir,
    /// What is added to its configuration.
    yaml: String,
    /// Its tables are on the disk once they are made; what is only in the log is of no table when it starts again.
    lasts: bool,
    running: Running,
}

is_a_process!(CassandraNode);

/// `host:port` of a node that all tests of this binary share.
pub fn node() -> String {
    static SHARED: OnceLock<String> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        std::env::var("HERALD_TEST_CASSANDRA").unwrap_or_else(|_| {
            let node = CassandraNode::start();
            let address = node.address();
            drop_at_exit(node);
            address
        })
    });
    shared.clone()
}

/// A keyspace that no other test uses, in this process or another.
pub fn fresh_keyspace() -> String {
    format!("test_{}", uuid::Uuid::now_v7().simple())
}

impl CassandraNode {
    pub fn start() -> CassandraNode {
        CassandraNode::start_with("", false)
    }

    /// One that has all it acknowledged again after it was killed: it writes its log before it answers. By default it
    /// marks every 100 ms how far its log may be read, and what came after the last mark is lost with the process.
    pub fn start_lasting() -> CassandraNode {
        CassandraNode::start_with("commitlog_sync: batch\ncommitlog_sync_period: 0ms\n", true)
    }

    /// One that wants TLS with a certificate of its authority, and the user [`USER`]: in the directory stand `ca.pem`,
    /// `client.pem` and `client.key`.
    pub fn start_guarded() -> (CassandraNode, TempDir) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        certificates::make(directory.path(), &["server", "client"]);
        let read = |name| std::fs::read_to_string(directory.path().join(name));
        let pair = ["server.key", "server.pem"].map(|name| read(name).expect("just made"));
        let keystore = directory.path().join("keystore.pem");
        std::fs::write(&keystore, pair.concat()).expect("a file");
        let (keystore, authority) = (keystore.display(), directory.path().join("ca.pem"));
        let yaml = format!(
            "authenticator: PasswordAuthenticator\n\
             role_manager: CassandraRoleManager\n\
             client_encryption_options:\n  enabled: true\n  require_client_auth: true\n  \
             keystore: {keystore}\n  truststore: {}\n  ssl_context_factory:\n    \
             class_name: org.apache.cassandra.security.PEMBasedSslContextFactory\n",
            authority.display()
        );
        (CassandraNode::start_with(&yaml, false), directory)
    }

    fn start_with(yaml: &str, lasts: bool) -> CassandraNode {
        fetch_jars();
        // Another process may take a port between the look and the start: try others.
        for _ in 0..5 {
            let mut node = CassandraNode {
                host: "127.0.0.1".to_owned(),
                port: free_port(),
                storage: free_port(),
                directory: tempfile::tempdir().expect("a temporary directory"),
                yaml: yaml.to_owned(),
                lasts,
                running: Running::default(),
            };
            if node.launch() {
                return node;
            }
            eprintln!("a node ended at its start: {}", node.log());
        }
        panic!("Cassandra does not start; try `scripts/cassandra.sh start 19042 /tmp/cassandra`");
    }

    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// As many nodes that know of each other, with a share of the ring each, so that three copies of a row are one on
    /// every one of three.
    pub fn start_cluster(nodes: u64) -> Vec<CassandraNode> {
        fetch_jars();
        // Ports of 127.0.0.1 are reserved; nobody else takes them on its neighbours.
        let (port, storage) = (free_port(), free_port());
        let seeds: Vec<String> = (1..=nodes)
            .map(|n| format!("127.0.0.{n}:{storage}"))
            .collect();
        let nodes = (1..=nodes).map(|n| {
            let (host, token) = (format!("127.0.0.{n}"), (u64::MAX / nodes) as i128 * n as i128);
            let token = token - (1 << 63);
            let yaml = format!(
                "listen_address: {host}\nrpc_address: {host}\ninitial_token: '{token}'\nauto_bootstrap: false\n\
                 seed_provider:\n  - class_name: org.apache.cassandra.locator.SimpleSeedProvider\n    parameters:\n      \
                 - seeds: \"{}\"\n",
                seeds.join(",")
            );
            let directory = tempfile::tempdir().expect("a temporary directory");
            CassandraNode { host, port, storage, directory, yaml, lasts: true, running: Running::default() }
        });
        let mut nodes: Vec<CassandraNode> = nodes.collect();
        std::thread::scope(|scope| {
            for node in &mut nodes {
                scope.spawn(|| assert!(node.launch(), "{}", node.log()));
            }
        });
        nodes.iter().for_each(|node| node.wait_for_others(&nodes));
        nodes
    }

    /// One that does not know the others yet takes a schema that they never hear of.
    fn wait_for_others(&self, nodes: &[CassandraNode]) {
        let began = Instant::now();
        let others = nodes.iter().filter(|node| node.host != self.host);
        let known: Vec<String> = others
            .map(|node| format!("/{}:{} is now UP", node.host, node.storage))
            .collect();
        while !known.iter().all(|line| self.log().contains(line)) {
            assert!(began.elapsed() < START_MAX, "{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// On the same ports with the same data.
    pub fn start_again(&mut self) {
        // An old "listening" must not be taken for the new one.
        let _ = std::fs::remove_file(self.log_file());
        assert!(self.launch(), "no restart: {}", self.log());
    }

    /// True once it serves, false when it ended instead.
    fn launch(&mut self) -> bool {
        let listens = "Startup complete";
        let (node, log) = (self.spawn(), self.log_file());
        self.running
            .serves_once_it_says(node, listens, &log, START_MAX)
    }

    fn spawn(&self) -> Guarded {
        let yaml = self.directory.path().join("added.yaml");
        std::fs::write(&yaml, &self.yaml).expect("a file");
        let mut command = Command::new(script());
        command
            .args(["run", &self.port.to_string()])
            .arg(self.directory.path())
            .env("HERALD_CASSANDRA_STORAGE", self.storage.to_string())
            .env("HERALD_CASSANDRA_YAML", yaml)
            .env("HERALD_CASSANDRA_LASTS", self.lasts.to_string())
            .stdin(Stdio::null());
        Guarded::spawn(command).expect("scripts/cassandra.sh runs")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("node.log")
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/cassandra.sh")
}

fn fetch_jars() {
    let status = Command::new(script()).arg("jars").status();
    assert!(
        status.expect("scripts/cassandra.sh runs").success(),
        "Cassandra's jars can't be fetched: is Maven installed, is the network there?"
    );
}
