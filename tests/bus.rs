//! The bus's behaviour, on Kafka and embedded alike.

#[path = "support/kafka.rs"]
mod kafka;

#[tokio::test]
async fn a_test_gets_a_broker() {
    let namespace = kafka::fresh_namespace();
    kafka::create_topics(
        &kafka::brokers(),
        &namespace,
        &[(herald::bus::Topic::Dlq, 2)],
    )
    .await;
}
