//! A real Kafka broker for a test binary, on ports of its own, by `scripts/kafka.sh`.
//!
//! Most tests want [`brokers`]: one broker for the binary (or the one named by
//! `HERALD_TEST_KAFKA=host:port`), where each test keeps apart by [`fresh_namespace`]. A test that kills its
//! broker starts its own by [`KafkaBroker::start`].
//!
//! No broker outlives its tests: it dies with the value (`Drop`), at the exit of the process, and with it.

use crate::{
    at_exit::drop_at_exit,
    certificates,
    child::{Guarded, Running, is_a_process},
    free_port, keep_secret,
};
use herald::{bus::Topic, ids::Namespace};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a broker may take to serve, the first time with the download of its jars.
const START_MAX: Duration = Duration::from_secs(300);

pub struct KafkaBroker {
    port: u16,
    controller: u16,
    directory: TempDir,
    environment: Vec<(&'static str, String)>,
    /// Killed: what it had acknowledged is in the kernel's cache, so it survives.
    running: Running,
}

is_a_process!(KafkaBroker);

/// What clients of a guarded broker show: [`KafkaBroker::start_guarded`].
pub struct Credentials {
    pub username: &'static str,
    pub password: &'static str,
    /// Holds `ca.pem`, `client.pem` and `client.key`.
    pub directory: TempDir,
    /// `host:port` of the listener that wants both.
    pub brokers: String,
}

/// `host:port` of a broker that all tests of this binary share.
pub fn brokers() -> String {
    static SHARED: OnceLock<String> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        std::env::var("HERALD_TEST_KAFKA").unwrap_or_else(|_| {
            let broker = KafkaBroker::start();
            let address = broker.brokers();
            drop_at_exit(broker);
            address
        })
    });
    shared.clone()
}

/// A namespace that no other test uses, in this process or another.
pub fn fresh_namespace() -> Namespace {
    let name = format!("test-{}", uuid::Uuid::now_v7().simple());
    name.parse().expect("a label")
}

/// Makes topics with as many partitions as a test wants; a broker for tests has no room for all of
/// production's. Their timestamps are the broker's, as `ctl topics --apply` makes them.
pub async fn create_topics(brokers: &str, namespace: &Namespace, topics: &[(Topic, u32)]) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("allow.auto.create.topics", "false")
        .create()
        .expect("an admin client");
    let names: Vec<String> = topics
        .iter()
        .map(|(topic, _)| topic.name(namespace))
        .collect();
    let wanted: Vec<NewTopic<'_>> = names
        .iter()
        .zip(topics)
        .map(|(name, (_, partitions))| {
            NewTopic::new(name, *partitions as i32, TopicReplication::Fixed(1))
                .set("message.timestamp.type", "LogAppendTime")
                .set("max.message.bytes", "2200000")
        })
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    let made = admin.create_topics(&wanted, &options).await;
    for result in made.expect("the broker answers") {
        result.expect("a new topic");
    }
    for (name, (_, partitions)) in names.iter().zip(topics) {
        until_served(&admin, name, *partitions).await;
    }
}

/// Takes a topic away from a fleet that uses it.
pub async fn delete_topic(brokers: &str, namespace: &str, topic: Topic) {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .expect("an admin client");
    let name = topic.name(&namespace.parse().expect("a label"));
    let deleted = admin.delete_topics(&[&name], &AdminOptions::new()).await;
    for result in deleted.expect("the broker answers") {
        result.expect("a topic that is there");
    }
}

/// Records ever appended to a topic.
pub fn records(brokers: &str, namespace: &Namespace, topic: Topic) -> usize {
    const WAIT: Duration = Duration::from_secs(10);
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("allow.auto.create.topics", "false")
        .create()
        .expect("a client");
    let name = topic.name(namespace);
    let metadata = client.fetch_metadata(Some(&name), WAIT);
    let metadata = metadata.expect("the broker answers");
    let partitions = metadata.topics()[0].partitions().iter();
    let ends = partitions.map(|partition| {
        let marks = client.fetch_watermarks(&name, partition.id(), WAIT);
        marks.expect("the broker answers").1 as usize
    });
    ends.sum()
}

/// What a group has yet to commit in a partition.
#[derive(Debug)]
pub struct Uncommitted {
    pub records: usize,
    pub place: String,
}

/// Where this group has yet to commit records of a topic; of one partition, if it is named.
pub fn uncommitted(
    brokers: &str,
    namespace: &Namespace,
    group: &str,
    topic: Topic,
    partition: Option<u32>,
) -> Vec<Uncommitted> {
    const WAIT: Duration = Duration::from_secs(10);
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("allow.auto.create.topics", "false")
        .set("group.id", format!("{namespace}.{group}"))
        .set("enable.auto.commit", "false")
        .create()
        .expect("a client");
    let name = topic.name(namespace);
    let partitions = match partition {
        Some(partition) => partition..partition + 1,
        None => 0..topic.spec().partitions,
    };
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition(&name, partition as i32);
    }
    let committed = client.committed_offsets(asked, WAIT);
    let committed = committed.expect("the broker answers");
    let places = committed.elements().into_iter();
    let left = places.filter_map(|place| {
        let marks = client.fetch_watermarks(&name, place.partition(), WAIT);
        let (begin, end) = marks.expect("the broker answers");
        let next = match place.offset() {
            Offset::Offset(next) => next,
            _ => begin,
        };
        let left = (end - next) as usize;
        let partition = place.partition();
        let place = || format!("{group} is at {next} of {end} in {name}/{partition}");
        (left > 0).then(|| Uncommitted {
            records: left,
            place: place(),
        })
    });
    left.collect()
}

/// The controller knows a topic before the broker serves it.
pub async fn until_served(admin: &AdminClient<DefaultClientContext>, topic: &str, partitions: u32) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while served_partitions(admin, topic) < partitions as usize {
        assert!(Instant::now() < deadline, "{topic} is not served");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn served_partitions(admin: &AdminClient<DefaultClientContext>, topic: &str) -> usize {
    let client = admin.inner();
    let Ok(metadata) = client.fetch_metadata(Some(topic), Duration::from_secs(5)) else {
        return 0;
    };
    let partitions = metadata
        .topics()
        .iter()
        .flat_map(|topic| topic.partitions());
    partitions
        .filter(|p| p.error().is_none() && p.leader() >= 0)
        .count()
}

impl KafkaBroker {
    pub fn start() -> KafkaBroker {
        KafkaBroker::start_with(None)
    }

    /// Beside its plain listener it has one that wants a certificate of an authority of its own, and a
    /// password (SCRAM-SHA-512).
    pub fn start_guarded() -> (KafkaBroker, Credentials) {
        let credentials = Credentials::make();
        (KafkaBroker::start_with(Some(&credentials)), credentials)
    }

    fn start_with(credentials: Option<&Credentials>) -> KafkaBroker {
        fetch_jars();
        // Another process may take a port between the look and the start: try others.
        for _ in 0..5 {
            let (port, controller) = (free_port(), free_port());
            let directory = tempfile::tempdir().expect("a temporary directory");
            let environment =
                credentials.map(|c| c.environment(port, controller, directory.path()));
            let mut broker = KafkaBroker {
                port,
                controller,
                directory,
                environment: environment.unwrap_or_default(),
                running: Running::default(),
            };
            if broker.launch() {
                return broker;
            }
            eprintln!("a broker ended at its start: {}", broker.log());
        }
        panic!("Kafka does not start; try `scripts/kafka.sh start 19092 /tmp/kafka`");
    }

    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it again on the same ports with the same data.
    pub fn restart(&mut self) {
        self.kill();
        let deadline = Instant::now() + START_MAX;
        while !self.launch() {
            assert!(Instant::now() < deadline, "no restart: {}", self.log());
        }
    }

    /// True once it serves, false when it ended instead.
    fn launch(&mut self) -> bool {
        let log = self.log_file();
        // An old "started" must not be taken for the new one.
        let _ = std::fs::remove_file(&log);
        let broker = self.spawn();
        let started = "Kafka Server started";
        self.running
            .serves_once_it_says(broker, started, &log, START_MAX)
    }

    fn spawn(&self) -> Guarded {
        let mut command = Command::new(script());
        command
            .args(["run", &self.port.to_string()])
            .arg(self.directory.path())
            .env("HERALD_KAFKA_CONTROLLER", self.controller.to_string())
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null());
        Guarded::spawn(command).expect("scripts/kafka.sh runs")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("broker.log")
    }
}

impl Credentials {
    fn make() -> Credentials {
        let directory = tempfile::tempdir().expect("a temporary directory");
        certificates::make(directory.path(), &["server", "client"]);
        let password = "the-brokers-password";
        keep_secret(password);
        Credentials {
            username: "herald",
            password,
            directory,
            brokers: format!("127.0.0.1:{}", free_port()),
        }
    }

    /// For `scripts/kafka.sh`: the guarded listener beside the plain one, and the user.
    fn environment(&self, plain: u16, controller: u16, data: &Path) -> Vec<(&'static str, String)> {
        let read = |name| std::fs::read_to_string(self.directory.path().join(name));
        let keystore = data.join("server.pem");
        let pair = ["server.key", "server.pem"].map(|name| read(name).expect("just made"));
        std::fs::write(&keystore, pair.concat()).expect("a file");
        let (guarded, keystore) = (&self.brokers, keystore.display());
        let authority = self.directory.path().join("ca.pem");
        let authority = authority.display();
        let properties = data.join("guarded.properties");
        let text = format!(
            "listeners=PLAINTEXT://127.0.0.1:{plain},GUARDED://{guarded},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{plain},GUARDED://{guarded}\n\
             inter.broker.listener.name=PLAINTEXT\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_SSL\n\
             sasl.enabled.mechanisms=SCRAM-SHA-512\n\
             listener.name.guarded.scram-sha-512.sasl.jaas.config=\
             org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             ssl.keystore.type=PEM\nssl.keystore.location={keystore}\n\
             ssl.truststore.type=PEM\nssl.truststore.location={authority}\n\
             ssl.client.auth=required\n"
        );
        std::fs::write(&properties, text).expect("a file");
        let user = format!("name={},password={}", self.username, self.password);
        vec![
            ("HERALD_KAFKA_PROPERTIES", properties.display().to_string()),
            ("HERALD_KAFKA_SCRAM", user),
        ]
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/kafka.sh")
}

fn fetch_jars() {
    let status = Command::new(script()).arg("jars").status();
    assert!(
        status.expect("scripts/kafka.sh runs").success(),
        "Kafka's jars can't be fetched: is Maven installed, is the network there?"
    );
}
