//! A real Cassandra (one node) for a test binary, on ports of its own, by `scripts/cassandra.sh`.
//!
//! Most tests want [`node`]: one for the binary (or the one named by `HERALD_TEST_CASSANDRA=host:port`), where each
//! test keeps apart by [`fresh_keyspace`]. A test that kills its node starts its own by [`CassandraNode::start`].

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
    time::Duration,
};
use tempfile::TempDir;

/// How long a node may take to serve; one takes 10 s on a machine with nothing else to do.
const START_MAX: Duration = Duration::from_secs(300);

/// Name of the user that a guarded node has from its first start, and his password.
pub const USER: &str = "cassandra";

/// Name of the only data centre of a node.
pub const DATACENTER: &str = "datacenter1";

pub struct CassandraNode {
    port: u16,
    storage: u16,
    directory: TempDir,
    /// What is added to its configuration.
    yaml: String,
    /// Killed: what it had acknowledged is in the kernel's cache, so it survives.
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
        CassandraNode::start_with("")
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
        let node = CassandraNode::start_with(&format!(
            "authenticator: PasswordAuthenticator\n\
             role_manager: CassandraRoleManager\n\
             client_encryption_options:\n  enabled: true\n  require_client_auth: true\n  \
             keystore: {keystore}\n  truststore: {}\n  ssl_context_factory:\n    \
             class_name: org.apache.cassandra.security.PEMBasedSslContextFactory\n",
            authority.display()
        ));
        (node, directory)
    }

    fn start_with(yaml: &str) -> CassandraNode {
        fetch_jars();
        // Another process may take a port between the look and the start: try others.
        for _ in 0..5 {
            let mut node = CassandraNode {
                port: free_port(),
                storage: free_port(),
                directory: tempfile::tempdir().expect("a temporary directory"),
                yaml: yaml.to_owned(),
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
        format!("127.0.0.1:{}", self.port)
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
