//! The bus's behaviour: one suite on Kafka and on the embedded bus, then what only one of them has.

#[path = "bus/embedded.rs"]
mod embedded_only;
#[path = "bus/kafka.rs"]
mod kafka_only;
#[path = "bus/suite.rs"]
mod suite;

use herald::{
    bus::{
        SharedBus, Topic,
        embedded::{EmbeddedBus, Options},
        kafka::KafkaBus,
    },
    config,
    ids::Namespace,
    metrics::Metrics,
};
use std::sync::Arc;
use testbed::kafka;

/// Topics the suite uses, and the partitions it expects of them.
const TOPICS: [(Topic, u32); 4] = [
    (Topic::Raw(1), 4),
    (Topic::InApp, 4),
    (Topic::FanOut, 4),
    (Topic::Broadcast, 1),
];

fn kafka_config(brokers: String) -> config::Kafka {
    config::Kafka {
        brokers,
        replication: 1,
        min_insync_replicas: 1,
        ..config::Kafka::default()
    }
}

fn connect(brokers: String, namespace: &Namespace) -> KafkaBus {
    KafkaBus::connect(&kafka_config(brokers), namespace, &Metrics::default()).unwrap()
}

async fn on_kafka() -> SharedBus {
    let namespace = kafka::fresh_namespace();
    kafka::create_topics(&kafka::brokers(), &namespace, &TOPICS).await;
    Arc::new(connect(kafka::brokers(), &namespace))
}

/// The directory goes when the test ends.
fn embedded(directory: &tempfile::TempDir) -> SharedBus {
    let options = Options { partitions_max: 4 };
    Arc::new(EmbeddedBus::open(directory.path(), options, &Metrics::default()).unwrap())
}

macro_rules! on_both {
    ($($behaviour:ident),* $(,)?) => {
        mod on_kafka {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                crate::suite::$behaviour(&crate::on_kafka().await).await;
            }
        )*}
        mod on_embedded {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                let directory = tempfile::tempdir().unwrap();
                crate::suite::$behaviour(&crate::embedded(&directory)).await;
            }
        )*}
    };
}

on_both! {
    offsets_are_answered_in_the_order_of_the_input,
    records_of_a_partition_are_read_in_the_order_of_their_offsets,
    a_record_is_read_as_it_was_written,
    a_key_stays_in_its_partition,
    the_end_is_the_offset_of_the_next_record,
    a_reader_starts_at_the_offset_it_asks_for,
    what_was_not_committed_is_read_again,
    a_group_goes_on_where_it_committed,
    a_group_without_a_commit_starts_at_the_beginning,
    groups_do_not_see_each_other,
    members_share_the_partitions_and_are_told,
    a_commit_leaves_out_what_was_revoked,
    a_waiting_reader_is_woken_by_a_record,
    a_poll_takes_no_more_than_it_was_asked_for,
    a_paused_partition_is_silent_and_goes_on_where_it_stopped,
    silence_is_idle,
    a_record_of_the_largest_size_passes_and_a_larger_one_is_refused,
    what_does_not_exist_is_named,
    thousands_of_callers_at_once_are_all_answered,
}
