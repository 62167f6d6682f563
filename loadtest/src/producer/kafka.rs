//! Straight into the shard of a gateway, as a router would write it: what a gateway can do by itself, with
//! no dispatcher in the way. Nothing is stored, so a client that was away never sees what came meanwhile.
//!
//! `kafka://broker:port/namespace?shard=0&region=local&linger_ms=0`

use super::{Accepted, Attempt, Content, FIRST_POSITION, PAUSE, Place};
use crate::rules::unix_us;
use anyhow::{Context, Result, bail};
use rdkafka::{
    ClientConfig,
    error::KafkaResult,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
    util::Timeout,
};
use std::{collections::HashMap, sync::Mutex, time::Duration};
use uuid::Uuid;

const TO_ALL: &str = "";

pub struct Kafka {
    producer: FutureProducer,
    topics: Topics,
    positions: Mutex<Positions>,
}

#[derive(Debug, PartialEq, Eq)]
struct Topics {
    brokers: String,
    namespace: String,
    shard: i32,
    region: String,
    linger_ms: String,
}

/// The last one given, and by user (all: the empty name) the last one of its stream.
struct Positions {
    last: u64,
    heads: HashMap<String, u64>,
}

impl Kafka {
    pub fn new(urls: &[String]) -> Result<Kafka> {
        let [url] = urls else {
            bail!("--post-url kafka://: one, with its brokers separated by commas");
        };
        let topics = Topics::parse(url).with_context(|| format!("--post-url {url}"))?;
        let producer: KafkaResult<FutureProducer> = ClientConfig::new()
            .set("bootstrap.servers", &topics.brokers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("linger.ms", &topics.linger_ms)
            .set("message.timeout.ms", "10000")
            .create();
        Ok(Kafka {
            producer: producer.context("no Kafka producer")?,
            topics,
            positions: Mutex::new(Positions {
                // Another run's are below: microseconds only rise.
                last: FIRST_POSITION + ((unix_us() / 1_000) & 0x3f_ffff_ffff),
                heads: HashMap::new(),
            }),
        })
    }

    pub async fn attempt(&self, content: &Content<'_>) -> Attempt {
        let id = Uuid::now_v7();
        let is_to_all = content.post.user.is_none();
        let user = if is_to_all {
            TO_ALL
        } else {
            &content.post.name
        };
        let (pos, prev) = self.position(user);
        let (topic, partition) = match (is_to_all, content.post.priority.as_str()) {
            (true, _) => ("broadcast", 0),
            (false, "critical") => ("critical", self.topics.shard),
            (false, _) => ("in_app", self.topics.shard),
        };
        let topic = format!("{}.{topic}", self.topics.namespace);
        let stream = format!(
            "{}:{}",
            if is_to_all { "all" } else { "user" },
            self.topics.region
        );
        let created_ms = unix_us() / 1_000;
        let frame = content.frame(&Place {
            id,
            created_ms,
            stream: &stream,
            pos,
            prev,
        });
        let mut headers = OwnedHeaders::new();
        for (key, value) in [
            ("v", "1"),
            (
                "kind",
                if is_to_all {
                    "broadcast"
                } else {
                    "notification"
                },
            ),
            ("id", &id.to_string()),
            ("created_ms", &created_ms.to_string()),
            ("priority", &content.post.priority),
            ("region", &self.topics.region),
            ("stream", &stream),
            ("pos", &pos.to_string()),
            ("prev", &prev.to_string()),
            ("user", user),
        ] {
            if (key, value) != ("user", TO_ALL) {
                headers = headers.insert(Header {
                    key,
                    value: Some(value),
                });
            }
        }
        let record = FutureRecord::to(&topic)
            .key(user)
            .payload(frame.as_str())
            .partition(partition)
            .headers(headers);
        match self
            .producer
            .send(record, Timeout::After(Duration::ZERO))
            .await
        {
            Ok(_) => Attempt::Accepted(Some(Accepted {
                id,
                durability: "bus".into(),
            })),
            Err((error, _)) => Attempt::Passing(format!("Kafka: {error}"), PAUSE),
        }
    }

    fn position(&self, user: &str) -> (u64, u64) {
        let mut positions = self.positions.lock().expect("no panics");
        positions.last += 1;
        let pos = positions.last;
        let prev = positions.heads.insert(user.to_owned(), pos);
        (pos, prev.unwrap_or(0))
    }
}

impl Topics {
    fn parse(url: &str) -> Result<Topics> {
        let rest = url.strip_prefix("kafka://").context("expected kafka://")?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (brokers, namespace) = rest.split_once('/').unwrap_or((rest, ""));
        if brokers.is_empty() {
            bail!("a broker is missing");
        }
        let mut topics = Topics {
            brokers: brokers.to_owned(),
            namespace: if namespace.is_empty() {
                "notifications"
            } else {
                namespace
            }
            .to_owned(),
            shard: 0,
            region: "local".to_owned(),
            linger_ms: "0".to_owned(),
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "shard" => topics.shard = value.parse().context("shard: expected a number")?,
                "region" => topics.region = value.to_owned(),
                "linger_ms" => topics.linger_ms = value.to_owned(),
                _ => bail!("{key:?} is none of shard, region, linger_ms"),
            }
        }
        Ok(topics)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_brokers_namespace_and_shard() {
        let topics = Topics::parse("kafka://a:1,b:2/n?shard=3&linger_ms=1").unwrap();
        assert_eq!(
            (&topics.brokers[..], &topics.namespace[..]),
            ("a:1,b:2", "n")
        );
        assert_eq!(
            (topics.shard, &topics.linger_ms[..], &topics.region[..]),
            (3, "1", "local")
        );
        assert_eq!(
            Topics::parse("kafka://a:1").unwrap().namespace,
            "notifications"
        );
        assert!(Topics::parse("kafka://a:1?shrad=3").is_err());
        assert!(Topics::parse("kafka://").is_err());
    }
}
