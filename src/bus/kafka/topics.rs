//! `herald ctl topics --check|--apply`: topics as Herald needs them.
//!
//! What is missing is made. Partitions are added where a key may move. Everything else is only
//! reported, each difference with its fix: a setting an operator chose is not taken back unasked, and
//! the partitions of `raw` never change, because positions are offsets in them.

use super::settings::{BATCH_OVERHEAD_BYTES, Settings};
use crate::{
    bus::{BusError, Topic},
    config::{ConfigError, Kafka},
    ids::Namespace,
    limits,
};
use parking_lot::Mutex;
use rdkafka::{
    admin::{
        AdminClient, AdminOptions, ConfigResource, NewPartitions, NewTopic, OwnedResourceSpecifier,
        ResourceSpecifier, TopicReplication,
    },
    client::{ClientContext, DefaultClientContext},
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};
use thiserror::Error;
use tokio::time::{Instant, sleep};

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Full name of the topic.
    pub topic: String,
    pub problem: Problem,
    /// What to do about it.
    pub fix: String,
}

#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Problem {
    #[error("does not exist")]
    Missing,
    #[error("has {found} partitions, {wanted} are needed")]
    Partitions { found: u32, wanted: u32 },
    #[error("is replicated {found} times, {wanted} are configured")]
    Replication { found: u32, wanted: u32 },
    #[error("{name} is {found}, {wanted} is needed")]
    Setting {
        name: &'static str,
        found: String,
        wanted: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.topic, self.problem, self.fix)
    }
}

#[derive(Debug, Error)]
pub enum TopicsError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(
        "no broker of kafka.brokers = {brokers} answered within {} s: {cause}. Is Kafka running there, and do \
         kafka.security and its credentials fit the listener?",
        limits::KAFKA_REACH.as_secs()
    )]
    Unreached { brokers: String, cause: String },
    #[error("Kafka refused to {what} {topic}: {cause}")]
    Refused {
        what: &'static str,
        topic: String,
        cause: String,
    },
}

/// What `apply` did, and what it left to the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub made: Vec<String>,
    /// Topics that got partitions, and how many they have now.
    pub grown: Vec<(String, u32)>,
    pub left: Vec<Difference>,
}

/// Compares Kafka's topics with [`Topic::spec`] and the configuration.
pub async fn check(config: &Kafka, namespace: &Namespace) -> Result<Vec<Difference>, TopicsError> {
    Admin::connect(config, namespace)?.differences().await
}

/// Makes what is missing, adds partitions where that is allowed, and reports the rest.
pub async fn apply(config: &Kafka, namespace: &Namespace) -> Result<Applied, TopicsError> {
    let admin = Admin::connect(config, namespace)?;
    let mut applied = Applied::default();
    for difference in admin.differences().await? {
        let topic = admin.topic(&difference.topic);
        match difference.problem {
            Problem::Missing => applied.made.push(difference.topic),
            Problem::Partitions { found, wanted } if found < wanted && may_grow(topic) => {
                admin.grow(&difference.topic, wanted).await?;
                applied.grown.push((difference.topic, wanted));
            }
            _ => applied.left.push(difference),
        }
    }
    admin.make(&applied.made).await?;
    admin.served(&applied).await?;
    Ok(applied)
}

/// Where a key (or a shard) may get another partition: order is kept by position, or does not matter.
/// Never `raw`, whose offsets are positions, nor what has one partition by design.
fn may_grow(topic: Topic) -> bool {
    !matches!(topic, Topic::Raw(_) | Topic::FanOutAll | Topic::Broadcast)
}

/// A topic as the broker has it.
struct Found {
    partitions: u32,
    replication: u32,
}

/// What the library last reported of its connections: a call only answers that there is none.
#[derive(Clone, Default)]
struct Complaint(Arc<Mutex<Option<String>>>);

impl ClientContext for Complaint {
    fn error(&self, error: KafkaError, reason: &str) {
        // That all are down is what an operator sees; why one is, stood before.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.0.lock() = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Complaint {}

struct Admin {
    client: AdminClient<DefaultClientContext>,
    /// Asks what there is. Unlike the other it hands out what the library reports.
    metadata: Arc<BaseConsumer<Complaint>>,
    complaint: Complaint,
    config: Kafka,
    namespace: Namespace,
}

impl Admin {
    fn connect(config: &Kafka, namespace: &Namespace) -> Result<Admin, ConfigError> {
        let complaint = Complaint::default();
        let settings = Settings::new(config)?.plain();
        let refused = |error: KafkaError| super::settings::refused(&error);
        let metadata = settings.create_with_context(complaint.clone());
        Ok(Admin {
            client: settings.create().map_err(refused)?,
            metadata: Arc::new(metadata.map_err(refused)?),
            complaint,
            config: config.clone(),
            namespace: namespace.clone(),
        })
    }

    /// The topic of a name that [`Admin::differences`] gave.
    fn topic(&self, name: &str) -> Topic {
        let mut all = Topic::all().into_iter();
        let topic = all.find(|topic| topic.name(&self.namespace) == name);
        topic.expect("only known topics are compared")
    }

    async fn differences(&self) -> Result<Vec<Difference>, TopicsError> {
        let found = self.found().await?;
        let names: Vec<String> = found.keys().cloned().collect();
        let settings = self.settings(&names).await?;
        let mut differences = Vec::new();
        for topic in Topic::all() {
            let name = topic.name(&self.namespace);
            let Some(found) = found.get(&name) else {
                differences.push(Difference {
                    topic: name,
                    problem: Problem::Missing,
                    fix: "run `herald ctl topics --apply`".into(),
                });
                continue;
            };
            differences.extend(self.compare_partitions(topic, found));
            if let Some(settings) = settings.get(&name) {
                differences.extend(self.compare_settings(topic, settings));
            }
        }
        differences.extend(self.compare_shards(&found));
        Ok(differences)
    }

    /// Of all our topics that exist.
    async fn found(&self) -> Result<BTreeMap<String, Found>, TopicsError> {
        let client = self.metadata.clone();
        let metadata = tokio::task::spawn_blocking(move || {
            let metadata = client.fetch_metadata(None, limits::KAFKA_REACH);
            // A poll without any time ends at the first line of the library's log.
            while metadata.is_err() && client.poll(limits::KAFKA_RETRY_PAUSE).is_some() {}
            metadata
        });
        let metadata = metadata.await.expect("the library does not panic");
        let metadata = metadata.map_err(|error| self.unreached(&error))?;
        let names: Vec<String> = Topic::all()
            .into_iter()
            .map(|topic| topic.name(&self.namespace))
            .collect();
        let found = metadata
            .topics()
            .iter()
            .filter(|topic| names.iter().any(|name| name == topic.name()))
            .filter(|topic| !topic.partitions().is_empty())
            .map(|topic| {
                let partitions = topic.partitions();
                let replicas = partitions.iter().map(|p| p.replicas().len() as u32);
                let found = Found {
                    partitions: partitions.len() as u32,
                    replication: replicas.min().unwrap_or(0),
                };
                (topic.name().to_owned(), found)
            });
        Ok(found.collect())
    }

    /// Waits until the brokers serve what was made: the controller knows it earlier.
    async fn served(&self, applied: &Applied) -> Result<(), TopicsError> {
        let made = applied.made.iter();
        let made = made.map(|name| (name, self.topic(name).spec().partitions));
        let grown = applied.grown.iter().map(|(name, wanted)| (name, *wanted));
        let wanted: Vec<(&String, u32)> = made.chain(grown).collect();
        let deadline = Instant::now() + limits::KAFKA_ADMIN;
        loop {
            let found = self.found().await?;
            let missing = wanted.iter().find(|(name, wanted)| {
                found
                    .get(*name)
                    .is_none_or(|found| found.partitions < *wanted)
            });
            let Some((name, _)) = missing else {
                return Ok(());
            };
            if Instant::now() >= deadline {
                let text = format!("kafka at {}: {name} is not served yet", self.config.brokers);
                return Err(BusError::Unavailable(text).into());
            }
            sleep(limits::KAFKA_RETRY_PAUSE).await;
        }
    }

    async fn settings(
        &self,
        names: &[String],
    ) -> Result<BTreeMap<String, ConfigResource>, TopicsError> {
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let wanted: Vec<ResourceSpecifier<'_>> = names
            .iter()
            .map(|name| ResourceSpecifier::Topic(name))
            .collect();
        let described = self.client.describe_configs(&wanted, &options()).await;
        let described = described.map_err(|error| self.away(&error))?;
        let mut settings = BTreeMap::new();
        for result in described {
            let resource = result.map_err(|code| refused("describe", "a topic", code))?;
            if let OwnedResourceSpecifier::Topic(name) = &resource.specifier {
                settings.insert(name.clone(), resource);
            }
        }
        Ok(settings)
    }

    fn compare_partitions(&self, topic: Topic, found: &Found) -> Vec<Difference> {
        let wanted = topic.spec().partitions;
        let mut differences = Vec::new();
        let mut differs = |problem, fix: &str| {
            differences.push(Difference {
                topic: topic.name(&self.namespace),
                problem,
                fix: fix.into(),
            });
        };
        let partitions = Problem::Partitions {
            found: found.partitions,
            wanted,
        };
        match topic {
            Topic::Raw(_) if found.partitions != wanted => differs(
                partitions,
                "positions depend on it, so it is never altered; a topic still empty can be deleted and made by `herald ctl topics --apply`",
            ),
            Topic::FanOutAll | Topic::Broadcast if found.partitions != 1 => differs(
                partitions,
                "its offsets are positions of one stream; delete it while it is empty and run `herald ctl topics --apply`",
            ),
            _ if found.partitions < wanted => {
                differs(partitions, "run `herald ctl topics --apply`");
            }
            _ => {}
        }
        if found.replication < self.config.replication {
            let replication = Problem::Replication {
                found: found.replication,
                wanted: self.config.replication,
            };
            differs(
                replication,
                "add replicas by kafka-reassign-partitions.sh, or lower kafka.replication",
            );
        }
        differences
    }

    fn compare_settings(&self, topic: Topic, found: &ConfigResource) -> Vec<Difference> {
        let name = topic.name(&self.namespace);
        let wanted = wanted_settings(topic, &self.config);
        let differences = wanted.into_iter().filter_map(|(setting, wanted)| {
            let value = found.get(setting).and_then(|entry| entry.value.clone())?;
            if is_enough(setting, &value, &wanted) {
                return None;
            }
            let fix = format!(
                "run kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {name} --add-config {setting}={wanted}",
                self.config.brokers
            );
            let problem = Problem::Setting {
                name: setting,
                found: value,
                wanted,
            };
            Some(Difference {
                topic: name.clone(),
                problem,
                fix,
            })
        });
        differences.collect()
    }

    /// A shard is one partition in each of the two.
    fn compare_shards(&self, found: &BTreeMap<String, Found>) -> Option<Difference> {
        let in_app = found.get(&Topic::InApp.name(&self.namespace))?.partitions;
        let critical = Topic::Critical.name(&self.namespace);
        let partitions = found.get(&critical)?.partitions;
        // Below the specification it is reported already.
        let spec = Topic::Critical.spec().partitions;
        (in_app != partitions && in_app.min(partitions) >= spec).then(|| Difference {
            topic: critical,
            problem: Problem::Partitions {
                found: partitions,
                wanted: in_app,
            },
            fix: "in_app and critical need as many partitions as there are shards: raise the lower one by kafka-topics.sh --alter --partitions".into(),
        })
    }

    /// In one request: a topic takes its time, and they take it together.
    async fn make(&self, names: &[String]) -> Result<(), TopicsError> {
        if names.is_empty() {
            return Ok(());
        }
        let settings: Vec<_> = names
            .iter()
            .map(|name| wanted_settings(self.topic(name), &self.config))
            .collect();
        let new = names.iter().zip(&settings).map(|(name, settings)| {
            let partitions = self.topic(name).spec().partitions as i32;
            let replication = TopicReplication::Fixed(self.config.replication as i32);
            let new = NewTopic::new(name, partitions, replication);
            let settings = settings.iter();
            settings.fold(new, |new, (setting, value)| new.set(setting, value))
        });
        let new: Vec<NewTopic<'_>> = new.collect();
        let made = self.client.create_topics(&new, &options()).await;
        for result in made.map_err(|error| self.away(&error))? {
            match result {
                // Somebody else applied at the same time.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => return Err(refused("make", &name, code)),
            }
        }
        Ok(())
    }

    async fn grow(&self, name: &str, partitions: u32) -> Result<(), TopicsError> {
        let new = NewPartitions::new(name, partitions as usize);
        let grown = self.client.create_partitions([&new], &options()).await;
        match grown.map_err(|error| self.away(&error))?.pop() {
            Some(Err((name, code))) => Err(refused("add partitions to", &name, code)),
            _ => Ok(()),
        }
    }

    fn unreached(&self, error: &KafkaError) -> TopicsError {
        let complaint = self.complaint.0.lock().clone();
        TopicsError::Unreached {
            brokers: self.config.brokers.clone(),
            cause: complaint.unwrap_or_else(|| error.to_string()),
        }
    }

    fn away(&self, error: &KafkaError) -> BusError {
        BusError::Unavailable(format!("kafka at {}: {error}", self.config.brokers))
    }
}

/// What a topic is made with.
fn wanted_settings(topic: Topic, config: &Kafka) -> Vec<(&'static str, String)> {
    let spec = topic.spec();
    let bytes = spec.message_bytes_max + BATCH_OVERHEAD_BYTES;
    vec![
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", spec.retention_ms.to_string()),
        ("max.message.bytes", bytes.to_string()),
        (
            "min.insync.replicas",
            config.min_insync_replicas.to_string(),
        ),
        // Buckets and time-to-live count from the broker's append time, not from a producer's clock.
        ("message.timestamp.type", "LogAppendTime".to_owned()),
    ]
}

/// More retention, room or safety than asked for is the operator's choice.
fn is_enough(setting: &str, found: &str, wanted: &str) -> bool {
    let at_least = matches!(
        setting,
        "retention.ms" | "max.message.bytes" | "min.insync.replicas"
    );
    match (found.parse::<i64>(), wanted.parse::<i64>()) {
        // Kafka writes "for ever" as -1.
        (Ok(found), Ok(wanted)) if at_least => found >= wanted || found == -1,
        _ => found == wanted,
    }
}

fn refused(what: &'static str, topic: &str, code: RDKafkaErrorCode) -> TopicsError {
    TopicsError::Refused {
        what,
        topic: topic.to_owned(),
        cause: code.to_string(),
    }
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .operation_timeout(Some(limits::KAFKA_ADMIN))
        .request_timeout(Some(limits::KAFKA_ADMIN + Duration::from_secs(5)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_is_needed_is_no_difference() {
        assert!(is_enough("retention.ms", "-1", "1000"));
        assert!(is_enough("retention.ms", "2000", "1000"));
        assert!(!is_enough("retention.ms", "999", "1000"));
        assert!(!is_enough("cleanup.policy", "compact", "delete"));
    }

    #[test]
    fn topics_whose_offsets_are_positions_never_grow() {
        let fixed = Topic::all().into_iter().filter(|topic| !may_grow(*topic));
        let fixed: Vec<Topic> = fixed.collect();
        assert_eq!(fixed, [Topic::Raw(1), Topic::FanOutAll, Topic::Broadcast]);
    }
}
