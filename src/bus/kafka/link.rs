//! What all parts of the Kafka bus share: settings, metadata, and whether Kafka answers.

use super::{
    metrics::{KafkaMetrics, Reports, Role},
    settings::{Settings, refused},
};
use crate::{
    bus::{BusError, Topic, TopicPartition},
    config::{self, ConfigError},
    ids::Namespace,
    limits,
    metrics::Metrics,
};
use arc_swap::ArcSwap;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::{Mutex, RwLock};
use prometheus::IntGauge;
use rdkafka::{
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Asks for metadata and watermarks. The probe puts another in its place when it gets no answers.
type SharedClient = Arc<ArcSwap<Client>>;
type Client = BaseConsumer<Reports>;

pub(super) struct Link {
    pub(super) settings: Settings,
    pub(super) namespace: Namespace,
    pub(super) metrics: KafkaMetrics,
    pub(super) health: Arc<Health>,
    client: SharedClient,
    /// Partition counts as last heard. They only grow.
    counts: RwLock<HashMap<Topic, u32>>,
    probe: Option<JoinHandle<()>>,
    /// Threads in which consumers take their leave.
    leaving: Mutex<Vec<JoinHandle<()>>>,
}

impl Link {
    pub(super) fn connect(
        config: &config::Kafka,
        namespace: &Namespace,
        metrics: &Metrics,
    ) -> Result<Arc<Link>, ConfigError> {
        let settings = Settings::new(config)?;
        let metrics = KafkaMetrics::new(metrics);
        let (wake, woken) = bounded(1);
        let health = Arc::new(Health {
            brokers: config.brokers.clone(),
            gauge: metrics.bus.healthy.clone(),
            is_said: AtomicBool::new(false),
            cause: Mutex::new("not connected yet".into()),
            wake: Mutex::new(Some(wake)),
        });
        let make = {
            let (settings, namespace) = (settings.clone(), namespace.clone());
            let (metrics, health) = (metrics.clone(), health.clone());
            move || {
                let reports = Reports::new(Role::Plain, &namespace, &metrics, &health, &settings);
                settings.plain().create_with_context(reports)
            }
        };
        let client = make().map_err(|error| refused(&error))?;
        let client: SharedClient = Arc::new(ArcSwap::from_pointee(client));
        let probe = Probe {
            client: client.clone(),
            make: Box::new(make),
            closing: None,
            health: health.clone(),
            topic: Topic::Raw(1).name(namespace),
            woken,
        };
        let probe = std::thread::Builder::new()
            .name("kafka-probe".into())
            .spawn(move || probe.run())
            .expect("a process that starts can make a thread");
        Ok(Arc::new(Link {
            settings,
            namespace: namespace.clone(),
            metrics,
            health,
            client,
            counts: RwLock::default(),
            probe: Some(probe),
            leaving: Mutex::default(),
        }))
    }

    pub(super) fn name(&self, topic: Topic) -> String {
        topic.name(&self.namespace)
    }

    /// Group ids stand under the namespace too.
    pub(super) fn group(&self, group: &str) -> String {
        format!("{}.{group}", self.namespace)
    }

    pub(super) fn reports(&self, role: Role) -> Reports {
        let (namespace, settings) = (&self.namespace, &self.settings);
        Reports::new(role, namespace, &self.metrics, &self.health, settings)
    }

    /// Partitions of the topic, by what was heard before if there is something.
    pub(super) async fn known_partitions(&self, topic: Topic) -> Result<u32, BusError> {
        let known = self.counts.read().get(&topic).copied();
        match known {
            Some(partitions) => Ok(partitions),
            None => self.count_partitions(topic).await,
        }
    }

    /// Asks the broker.
    pub(super) async fn count_partitions(&self, topic: Topic) -> Result<u32, BusError> {
        let name = self.name(topic);
        let client = self.client.load_full();
        let asked = name.clone();
        let found = self
            .blocking(move || client.fetch_metadata(Some(&asked), limits::KAFKA_CALL))
            .await?;
        let found = found.topics().iter().find(|found| found.name() == name);
        let partitions = found.map_or(0, |found| found.partitions().len() as u32);
        if partitions == 0 {
            self.forget(topic);
            return Err(BusError::NoTopic(name));
        }
        self.counts.write().insert(topic, partitions);
        Ok(partitions)
    }

    /// Errs when the partition does not exist.
    pub(super) async fn find(&self, at: TopicPartition) -> Result<(), BusError> {
        if at.partition < self.known_partitions(at.topic).await? {
            return Ok(());
        }
        // It may have been added since.
        if at.partition < self.count_partitions(at.topic).await? {
            return Ok(());
        }
        let name = self.name(at.topic);
        Err(BusError::NoTopic(format!(
            "{name} partition {}",
            at.partition
        )))
    }

    pub(super) async fn end(&self, at: TopicPartition) -> Result<u64, BusError> {
        self.find(at).await?;
        let client = self.client.load_full();
        let name = self.name(at.topic);
        let partition = at.partition as i32;
        let deadline = Instant::now() + limits::KAFKA_CALL;
        let end = move || loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match client.fetch_watermarks(&name, partition, left) {
                Ok((_, end)) => return Ok(end as u64),
                Err(error) if leader_moves(&error) && !left.is_zero() => {
                    std::thread::sleep(limits::KAFKA_RETRY_PAUSE);
                }
                Err(error) => return Err(error),
            }
        };
        self.blocking(end).await
    }

    /// Runs a blocking call of librdkafka, which has its own timeout.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, BusError> {
        let result = tokio::task::spawn_blocking(call).await;
        let result = result.map_err(|error| BusError::Unavailable(error.to_string()))?;
        result.map_err(|error| self.failed(&error))
    }

    pub(super) fn failed(&self, error: &KafkaError) -> BusError {
        self.health.suspect(error.to_string());
        self.health.unavailable()
    }

    /// What an error means for the topic it was about.
    pub(super) fn failed_at(&self, topic: Topic, bytes: usize, error: &KafkaError) -> BusError {
        use RDKafkaErrorCode::*;
        match error.rdkafka_error_code() {
            Some(UnknownTopic | UnknownTopicOrPartition | UnknownPartition) => {
                self.forget(topic);
                BusError::NoTopic(self.name(topic))
            }
            Some(MessageSizeTooLarge) => BusError::TooLarge { topic, bytes },
            _ => self.failed(error),
        }
    }

    pub(super) fn forget(&self, topic: Topic) {
        self.counts.write().remove(&topic);
    }

    /// Closing a consumer waits for the broker: that is done aside. Dropping the link waits for it, so
    /// that a process which ends in good order has left its groups.
    pub(super) fn close_aside(&self, close: impl FnOnce() + Send + 'static) {
        let thread = std::thread::Builder::new()
            .name("kafka-close".into())
            .spawn(close);
        let mut leaving = self.leaving.lock();
        leaving.retain(|thread| !thread.is_finished());
        leaving.extend(thread);
    }
}

/// A topic that was just made, or a broker that just left.
fn leader_moves(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{LeaderNotAvailable, NotLeaderForPartition};
    let code = error.rdkafka_error_code();
    matches!(code, Some(LeaderNotAvailable | NotLeaderForPartition))
}

impl Drop for Link {
    fn drop(&mut self) {
        self.health.wake.lock().take();
        let threads = self.leaving.get_mut().drain(..).chain(self.probe.take());
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the Kafka bus panicked");
            }
        }
    }
}

/// Whether Kafka answers, and if not, why. Anything may raise a suspicion; the probe decides.
pub(super) struct Health {
    brokers: String,
    gauge: IntGauge,
    /// The outage that lasts was logged.
    is_said: AtomicBool,
    cause: Mutex<String>,
    /// Gone once the bus is dropped.
    wake: Mutex<Option<Sender<()>>>,
}

impl Health {
    /// As configured.
    pub(super) fn brokers(&self) -> &str {
        &self.brokers
    }

    pub(super) fn is_well(&self) -> bool {
        self.gauge.get() == 1
    }

    fn well(&self) {
        if !self.is_well() {
            self.gauge.set(1);
            self.is_said.store(false, Ordering::Relaxed);
            tracing::info!(brokers = self.brokers, "Kafka answers");
        }
    }

    pub(super) fn suspect(&self, cause: String) {
        *self.cause.lock() = cause;
        if let Some(wake) = &*self.wake.lock() {
            // Full means the probe is about to look anyway.
            let _ = wake.try_send(());
        }
    }

    fn away(&self) {
        self.gauge.set(0);
        if !self.is_said.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                brokers = self.brokers,
                cause = *self.cause.lock(),
                "Kafka does not answer: calls are refused until it does; check the brokers and kafka.brokers, this ends by itself"
            );
        }
    }

    pub(super) fn unavailable(&self) -> BusError {
        BusError::Unavailable(format!("kafka at {}: {}", self.brokers, self.cause.lock()))
    }
}

/// Asks for metadata: now and then, and at once on a suspicion. One question without an answer may be a
/// slow moment of a broker; [`limits::KAFKA_PROBES`] in a row are an absence.
///
/// A client of librdkafka (2.12.1) may get no answers for minutes after its broker stood still for longer than the
/// controller waits, though every new one gets them. So one that gets none is replaced, for as long as that lasts.
struct Probe {
    client: SharedClient,
    make: Box<dyn Fn() -> Result<Client, KafkaError> + Send>,
    /// The last one that was replaced, while it takes its leave.
    closing: Option<JoinHandle<()>>,
    health: Arc<Health>,
    topic: String,
    woken: Receiver<()>,
}

impl Probe {
    fn run(mut self) {
        let mut unanswered = 0;
        // By this client; a new one has its time to connect.
        let mut answered = Instant::now();
        loop {
            let client = self.client.load_full();
            match client.fetch_metadata(Some(&self.topic), limits::KAFKA_PROBE) {
                Ok(_) => {
                    unanswered = 0;
                    answered = Instant::now();
                    self.health.well();
                }
                Err(_) => unanswered += 1,
            }
            if unanswered >= limits::KAFKA_PROBES {
                self.health.away();
            }
            // The client's own events would pile up unseen; they say why it is away.
            while client.poll(Duration::ZERO).is_some() {}
            client.context().brokers().ensure(client.client());
            if unanswered > 0 && answered.elapsed() >= limits::KAFKA_UNANSWERED && self.replace() {
                answered = Instant::now();
            }
            let pause = match unanswered {
                0 => limits::KAFKA_PROBE_EVERY,
                _ => limits::KAFKA_PROBE_AWAY,
            };
            if self.woken.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    /// One goes at a time: what waits for a broker would pile up.
    fn replace(&mut self) -> bool {
        if self
            .closing
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
        {
            return false;
        }
        let Ok(fresh) = (self.make)() else {
            return false;
        };
        tracing::debug!("the client that asks for metadata gets no answers: another one is made");
        let former = self.client.swap(Arc::new(fresh));
        let thread = std::thread::Builder::new().name("kafka-close".into());
        self.closing = thread.spawn(move || drop(former)).ok();
        true
    }
}
