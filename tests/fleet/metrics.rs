//! What `/metrics` says of a fleet, and how.

use crate::WAIT;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use testbed::{Fleet, api::sum_of};

/// Partitions of the widest topic; nothing else has as many values.
const LABEL_VALUES_MAX: usize = 64;

/// Every admin port, with what it is in this fleet.
fn ports(fleet: &Fleet) -> impl Iterator<Item = (u16, &'static str)> {
    let gateways = fleet.gateways.iter().map(|one| (one.admin_port, "gateway"));
    let dispatchers = fleet.dispatchers.iter();
    gateways.chain(dispatchers.map(|one| (one.admin_port, "dispatcher")))
}

/// What librdkafka tells, once all is read and committed: its own view agrees with the broker's.
pub async fn tell_of_kafka(fleet: &Fleet) {
    for (port, kind) in ports(fleet) {
        let (group, topic) = match kind {
            "gateway" => ("shard.", "in_app"),
            _ => ("router", "raw.g1"),
        };
        let reads = format!("herald_kafka_consumer_lag{{group=\"{group}");
        fleet
            .eventually("statistics of Kafka", WAIT, async || {
                let metrics = fleet.api.metrics(port).await;
                let lag = metrics.lines().filter(|line| {
                    line.starts_with(&reads) && line.contains(&format!("topic=\"{topic}\""))
                });
                let all_read =
                    lag.clone().count() > 0 && lag.clone().all(|line| line.ends_with(" 0"));
                let up = sum_of(&metrics, "herald_kafka_brokers_up") == 1;
                let queue = metrics.contains("herald_kafka_producer_queue{unit=\"messages\"} 0")
                    && metrics.contains("herald_kafka_producer_queue{unit=\"bytes\"} 0");
                [all_read, up, queue]
                    .into_iter()
                    .filter(|holds| !holds)
                    .count()
            })
            .await;
    }
}

/// Every family says what it is, and no label of it has values without end: no user, no id.
pub async fn are_explained_and_bounded(fleet: &Fleet) {
    for (port, kind) in ports(fleet) {
        let text = fleet.api.metrics(port).await;
        let families = Families::of(&text);
        assert!(
            families.samples > 100,
            "{kind}: {} samples",
            families.samples
        );
        for ((family, label), values) in &families.labels {
            let (count, values) = (values.len(), values.iter());
            assert!(
                count <= LABEL_VALUES_MAX,
                "{kind}: {family}{{{label}}}: {count} values"
            );
            for value in values {
                assert!(!names_one(value), "{kind}: {family}{{{label}=\"{value}\"}}");
            }
        }
    }
}

/// A user of this test, or an id.
fn names_one(value: &str) -> bool {
    let user = value
        .strip_prefix('u')
        .is_some_and(|n| n.parse::<usize>().is_ok());
    user || uuid::Uuid::parse_str(value).is_ok()
}

struct Families<'a> {
    samples: usize,
    /// By family and label.
    labels: BTreeMap<(&'a str, &'a str), BTreeSet<&'a str>>,
}

impl<'a> Families<'a> {
    /// # Panics
    /// When a sample stands there without the help and the type of its family.
    fn of(text: &'a str) -> Families<'a> {
        let (mut helped, mut types) = (BTreeSet::new(), HashMap::new());
        let mut families = Families {
            samples: 0,
            labels: BTreeMap::new(),
        };
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (family, help) = help.split_once(' ').expect("a help");
                assert!(help.len() > 10, "{line}");
                helped.insert(family);
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (family, kind) = kind.split_once(' ').expect("a type");
                types.insert(family, kind);
            } else {
                let name = line.split(['{', ' ']).next().expect("a name");
                let family = family(name, &types);
                assert!(family.starts_with("herald_"), "{line}");
                assert!(
                    helped.contains(family) && types.contains_key(family),
                    "{line}"
                );
                families.add(family, line);
            }
        }
        families
    }

    fn add(&mut self, family: &'a str, line: &'a str) {
        self.samples += 1;
        let Some((_, labels)) = line.split_once('{') else {
            return;
        };
        let (labels, _) = labels.rsplit_once("\"}").expect("the end of the labels");
        for pair in labels.split("\",") {
            let (label, value) = pair.split_once("=\"").expect("a label");
            self.labels
                .entry((family, label))
                .or_default()
                .insert(value);
        }
    }
}

/// A histogram's samples have names of their own.
fn family<'a>(name: &'a str, types: &HashMap<&str, &str>) -> &'a str {
    let of_histogram = ["_bucket", "_sum", "_count"].into_iter().find_map(|end| {
        let family = name.strip_suffix(end)?;
        (types.get(family) == Some(&"histogram")).then_some(family)
    });
    of_histogram.unwrap_or(name)
}
