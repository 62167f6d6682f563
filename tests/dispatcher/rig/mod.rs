//! One dispatcher on ports of its own, its parts in reach of the test, and a gateway that is only a lease.

pub mod contract;
mod gateway;

use herald::{
    bus::{
        Polled, Record, SharedBus, Start, Topic, TopicPartition,
        embedded::{EmbeddedBus, Options},
    },
    config,
    dispatcher::{
        Addresses, Dispatcher, Parts, Rules, api_keys,
        channel::Channels,
        store::{
            SharedStore, Store,
            sqlite::{FILE, SqliteStore},
        },
    },
    envelope::Routed,
    ids::{NotificationId, UserId},
    metrics::Metrics,
    position::Position,
    registry::{SharedRegistry, embedded::EmbeddedRegistry, redis::RedisRegistry},
};
use parking_lot::Mutex;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    future::Future,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use testbed::redis::{RedisServer, fresh_namespace};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use gateway::outcome;

/// Longest a test waits for something that is on its way.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Rig {
    pub bus: SharedBus,
    pub registry: SharedRegistry,
    pub store: SharedStore,
    pub metrics: Metrics,
    pub addresses: Addresses,
    pub key: String,
    pub admin_key: String,
    client: reqwest::Client,
    spool: Option<config::Spool>,
    sending: Sending,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
    /// Operations of the API that were answered with success.
    pub driven: Mutex<BTreeSet<String>>,
    dir: TempDir,
}

/// For [`Rig::state`].
pub fn is(wanted: &'static str) -> impl Fn(&Value) -> bool {
    move |state| state["state"] == wanted
}

/// By what a dispatcher sends, and by which rules.
#[derive(Clone, Default)]
pub struct Sending {
    pub channels: Channels,
    pub rules: Rules,
    /// Without them nothing is limited.
    pub limits: Option<config::Limits>,
}

pub struct Answer {
    pub status: StatusCode,
    pub body: Value,
    pub retry_after: Option<String>,
}

impl Rig {
    pub async fn start() -> Rig {
        let registry: SharedRegistry = Arc::new(EmbeddedRegistry::default());
        Rig::sharing(&registry).await
    }

    /// With its registry in Redis.
    pub async fn on_redis(redis: &RedisServer) -> Rig {
        let dir = directory();
        let metrics = Metrics::default();
        let bus = EmbeddedBus::open(dir.path(), Options::default(), &metrics).unwrap();
        let store = SqliteStore::open(dir.path(), &config::Node::default()).unwrap();
        let config = config::Redis {
            url: redis.url(),
            ..config::Redis::default()
        };
        let namespace = fresh_namespace().parse().unwrap();
        let registry = RedisRegistry::connect(&config, &namespace, &metrics).unwrap();
        Rig::over(
            dir,
            metrics,
            Arc::new(bus),
            Arc::new(registry),
            Arc::new(store),
        )
        .await
    }

    /// Another dispatcher of the fleet that `registry` is of.
    pub async fn sharing(registry: &SharedRegistry) -> Rig {
        let dir = directory();
        let metrics = Metrics::default();
        let bus = EmbeddedBus::open(dir.path(), Options::default(), &metrics).unwrap();
        let store = SqliteStore::open(dir.path(), &config::Node::default()).unwrap();
        Rig::over(
            dir,
            metrics,
            Arc::new(bus),
            registry.clone(),
            Arc::new(store),
        )
        .await
    }

    pub async fn over(
        dir: TempDir,
        metrics: Metrics,
        bus: SharedBus,
        registry: SharedRegistry,
        store: SharedStore,
    ) -> Rig {
        Rig::with_spool(dir, metrics, bus, registry, store, None).await
    }

    pub async fn with_spool(
        dir: TempDir,
        metrics: Metrics,
        bus: SharedBus,
        registry: SharedRegistry,
        store: SharedStore,
        spool: Option<config::Spool>,
    ) -> Rig {
        let sending = Sending::default();
        Rig::made_of(dir, metrics, bus, registry, store, spool, sending).await
    }

    /// That sends e-mail.
    pub async fn with_email(email: &config::Email) -> Rig {
        let registry: SharedRegistry = Arc::new(EmbeddedRegistry::default());
        Rig::with_email_and(email, registry).await
    }

    pub async fn with_email_and(email: &config::Email, registry: SharedRegistry) -> Rig {
        let channels = config::Channels {
            email: email.clone(),
            ..config::Channels::default()
        };
        Rig::with_channels_and(&channels, registry).await
    }

    pub async fn sending(sending: Sending, registry: SharedRegistry) -> Rig {
        let dir = directory();
        let metrics = Metrics::default();
        let bus = EmbeddedBus::open(dir.path(), Options::default(), &metrics).unwrap();
        let store = SqliteStore::open(dir.path(), &config::Node::default()).unwrap();
        let (bus, store) = (Arc::new(bus), Arc::new(store));
        Rig::made_of(dir, metrics, bus, registry, store, None, sending).await
    }

    /// That sends by these.
    pub async fn with_channels(channels: &config::Channels) -> Rig {
        Rig::with_channels_and(channels, Arc::new(EmbeddedRegistry::default())).await
    }

    async fn with_channels_and(channels: &config::Channels, registry: SharedRegistry) -> Rig {
        let sending = Sending {
            channels: Channels::from_config(channels).unwrap(),
            ..Sending::default()
        };
        Rig::sending(sending, registry).await
    }

    async fn made_of(
        dir: TempDir,
        metrics: Metrics,
        bus: SharedBus,
        registry: SharedRegistry,
        store: SharedStore,
        spool: Option<config::Spool>,
        sending: Sending,
    ) -> Rig {
        let mut keys = Vec::new();
        for (producer, admin) in [("shop", false), ("operator", true)] {
            let (clear, key) = api_keys::generate(producer, admin, 1).unwrap();
            store.put_api_key(key).await.unwrap();
            keys.push(clear);
        }
        let (addresses, shutdown, running) =
            run_sending(&bus, &registry, &store, spool.clone(), &sending, &metrics).await;
        Rig {
            bus,
            registry,
            store,
            metrics,
            addresses,
            admin_key: keys.pop().unwrap(),
            key: keys.pop().unwrap(),
            client: reqwest::Client::new(),
            spool,
            sending,
            shutdown,
            running,
            driven: Mutex::default(),
            dir,
        }
    }

    /// A key of another producer.
    pub async fn key_of(&self, producer: &str) -> String {
        let (clear, key) = api_keys::generate(producer, false, 1).unwrap();
        self.store.put_api_key(key).await.unwrap();
        clear
    }

    /// Of a store in SQLite.
    pub fn store_file(&self) -> PathBuf {
        self.dir.path().join(FILE)
    }

    /// Another dispatcher over the same bus, registry and store, in its place.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.metrics = Metrics::default();
        let started = run_sending(
            &self.bus,
            &self.registry,
            &self.store,
            self.spool.clone(),
            &self.sending,
            &self.metrics,
        )
        .await;
        (self.addresses, self.shutdown, self.running) = started;
    }

    pub async fn stop(&mut self) {
        self.shutdown.cancel();
        (&mut self.running).await.unwrap();
        // Taken twice when it restarts after a stop: a task that ended stays ended.
        self.running = tokio::spawn(async {});
    }

    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.call_as(&self.key, method, path, body, None).await
    }

    pub async fn call_as(
        &self,
        key: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
        idempotency_key: Option<&str>,
    ) -> Answer {
        let url = format!("http://{}{path}", self.addresses.http);
        let mut request = self.client.request(method.clone(), url);
        request = request.bearer_auth(key);
        if let Some(body) = &body {
            request = request.json(body);
        }
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let answer = answer(request).await;
        self.check(&method, path, body.as_ref(), &answer);
        answer
    }

    /// Without a key.
    pub async fn post_with(&self, path: &str, headers: &[(&str, String)], body: &Value) -> Answer {
        let mut request = self
            .client
            .post(format!("http://{}{path}", self.addresses.http));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let answer = answer(request.body(body.to_string())).await;
        self.check(&Method::POST, path, Some(body), &answer);
        answer
    }

    /// That it is as `openapi.json` says.
    fn check(&self, method: &Method, path: &str, body: Option<&Value>, answer: &Answer) {
        let status = answer.status.as_u16();
        let name = contract::check(method, path, body, status, &answer.body);
        self.driven
            .lock()
            .extend(name.filter(|_| answer.status.is_success()));
    }

    /// A notification as it is written here, not as a library writes it.
    pub async fn post_text(&self, body: &str) -> Answer {
        let url = format!("http://{}/v1/notifications", self.addresses.http);
        let request = self.client.post(url).bearer_auth(&self.key);
        let answer = answer(request.body(body.to_owned())).await;
        self.check(&Method::POST, "/v1/notifications", None, &answer);
        answer
    }

    pub async fn get_text(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.addresses.http);
        let response = self.client.get(url).bearer_auth(&self.key).send().await;
        response.unwrap().text().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.call(Method::GET, path, None).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.body
    }

    /// Posts and expects it to be taken.
    pub async fn post(&self, notification: Value) -> NotificationId {
        let answer = self
            .call(Method::POST, "/v1/notifications", Some(notification))
            .await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        id_of(&answer.body)
    }

    /// The state of a notification in a channel, once it is as asked.
    pub async fn state(&self, channel: &str, id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/v1/notifications/{id}/delivery");
        let seen = eventually(|| async {
            let Answer { status, body, .. } = self.call(Method::GET, &path, None).await;
            let states = body["states"].as_array().filter(|_| status == 200)?;
            let found = states.iter().find(|state| state["channel"] == channel);
            found.filter(|state| is_so(state)).cloned()
        });
        seen.await
    }

    /// By push alone; `more` is added to the request. Answers the id.
    pub async fn push_to(&self, user: &str, more: Value) -> String {
        let mut body = json!({
            "target": { "user": user }, "type": "order", "channels": ["push"], "title": "On its way"
        });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        self.post(body).await.to_string()
    }

    pub async fn post_to(&self, user: &str, title: &str) -> NotificationId {
        self.post(json!({ "target": { "user": user }, "type": "test", "title": title }))
            .await
    }

    /// The first `count` records of a partition, as soon as they are there.
    pub async fn records(&self, topic: Topic, partition: u32, count: usize) -> Vec<Routed> {
        let records = self.raw_records(topic, partition, count).await;
        records
            .iter()
            .map(|record| Routed::read(record).unwrap())
            .collect()
    }

    pub async fn raw_records(&self, topic: Topic, partition: u32, count: usize) -> Vec<Record> {
        let at = TopicPartition { topic, partition };
        let mut consumer = self
            .bus
            .assign("test", &[(at, Start::At(0))])
            .await
            .unwrap();
        let mut records = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while records.len() < count {
            assert!(
                Instant::now() < deadline,
                "{} of {count} records in {at:?}",
                records.len()
            );
            let polled = consumer
                .poll(512, Duration::from_millis(100))
                .await
                .unwrap();
            if let Polled::Records(some) = polled {
                records.extend(some.into_iter().map(|consumed| consumed.record));
            }
        }
        records
    }

    /// What stands in a topic, by partition.
    pub async fn all_records(&self, topic: Topic) -> Vec<Record> {
        let mut records = Vec::new();
        for partition in 0..self.bus.partitions(topic).await.unwrap() {
            let at = TopicPartition { topic, partition };
            let count = self.bus.end(at).await.unwrap() as usize;
            records.extend(self.raw_records(topic, partition, count).await);
        }
        records
    }

    /// Records of a topic over all its partitions.
    pub async fn count(&self, topic: Topic) -> u64 {
        let mut count = 0;
        for partition in 0..self.bus.partitions(topic).await.unwrap() {
            count += self
                .bus
                .end(TopicPartition { topic, partition })
                .await
                .unwrap();
        }
        count
    }

    /// Until the router committed everything in `raw`.
    pub async fn routed(&self) {
        self.drained("router", Topic::Raw(1)).await;
    }

    pub async fn drained(&self, group: &str, topic: Topic) {
        eventually(|| async {
            for partition in 0..self.bus.partitions(topic).await.unwrap() {
                let at = TopicPartition { topic, partition };
                let end = self.bus.end(at).await.unwrap();
                let committed = self.bus.committed(group, at).await.unwrap();
                if committed.unwrap_or(0) < end {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub async fn run_dispatcher(
    bus: &SharedBus,
    registry: &SharedRegistry,
    store: &SharedStore,
    spool: Option<config::Spool>,
    metrics: &Metrics,
) -> (Addresses, CancellationToken, JoinHandle<()>) {
    run_sending(bus, registry, store, spool, &Sending::default(), metrics).await
}

async fn run_sending(
    bus: &SharedBus,
    registry: &SharedRegistry,
    store: &SharedStore,
    spool: Option<config::Spool>,
    sending: &Sending,
    metrics: &Metrics,
) -> (Addresses, CancellationToken, JoinHandle<()>) {
    let here = "127.0.0.1:0".parse().unwrap();
    let dispatcher = Dispatcher::bind(Parts {
        node: config::Node::default(),
        http: config::Http {
            listen: here,
            ..config::Http::default()
        },
        grpc: Some(config::Grpc {
            listen: here,
            advertise: None,
            secret_file: None,
        }),
        admin_key: Default::default(),
        admin: Some(config::Admin { listen: here }),
        bus: bus.clone(),
        registry: registry.clone(),
        store: store.clone(),
        spool,
        channels: sending.channels.clone(),
        limits: sending.limits.clone().unwrap_or_else(config::Limits::none),
        rules: sending.rules.clone(),
        metrics: metrics.clone(),
        origins: vec!["https://console.example".into()],
        pages: None,
    })
    .await
    .unwrap();
    let (addresses, shutdown) = (dispatcher.addresses(), CancellationToken::new());
    let leaving = shutdown.clone();
    let running = tokio::spawn(async move { dispatcher.run(leaving).await.unwrap() });
    (addresses, shutdown, running)
}

/// The key that a configuration of channels is refused for.
pub fn refused_key(channels: &config::Channels) -> Option<String> {
    let refused = Channels::from_config(channels).err();
    refused.map(|error| error.key)
}

pub fn user(name: &str) -> UserId {
    name.parse().unwrap()
}

pub fn id_of(body: &Value) -> NotificationId {
    body["id"].as_str().unwrap().parse().unwrap()
}

/// In memory where there is such a place: what is tried here is not durability, and a disk that all tests
/// of this machine wait for makes intake answer 503, as it should.
pub fn directory() -> TempDir {
    match std::path::Path::new("/dev/shm") {
        memory if memory.is_dir() => tempfile::tempdir_in(memory).unwrap(),
        _ => tempfile::tempdir().unwrap(),
    }
}

/// Asks until there is an answer.
pub async fn eventually<T, F: Future<Output = Option<T>>>(mut ask: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "it did not happen in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The stored rows of a user, oldest first.
pub async fn rows(store: &dyn Store, name: &str) -> Vec<herald::dispatcher::store::Row> {
    let after = store
        .rows_after(&user(name), Some(Position::START), 500)
        .await;
    after.unwrap().rows
}

/// What the admin port says: status and body.
pub async fn readiness(rig: &Rig) -> (u16, serde_json::Value) {
    let url = format!("http://{}/readyz", rig.addresses.admin.unwrap());
    let response = reqwest::get(url).await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let retry_after = response.headers().get("retry-after");
    Answer {
        retry_after: retry_after.map(|value| value.to_str().unwrap().to_owned()),
        status: response.status(),
        body: serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null),
    }
}
