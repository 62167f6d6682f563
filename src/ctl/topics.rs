//! `herald ctl topics`: Kafka's topics against what Herald needs.

use super::CtlError;
use crate::{
    bus::kafka::topics,
    config::{self, ConfigError, DispatcherConfig},
    limits,
};
use clap::Args;
use std::{path::PathBuf, pin::pin};

#[derive(Debug, Args)]
pub struct Topics {
    /// Report what differs; exit 1 if anything does.
    #[arg(long, group = "what", required_unless_present = "apply")]
    check: bool,
    /// Make what is missing, report the rest.
    #[arg(long, group = "what")]
    apply: bool,
    /// Configuration file of a dispatcher: its [node] and [kafka] count.
    #[arg(long)]
    config: Option<PathBuf>,
}

pub async fn run(asked: Topics) -> Result<(), CtlError> {
    let config = config::load(asked.config.as_deref(), std::env::vars_os());
    let config: DispatcherConfig =
        config.map_err(|error: ConfigError| error.naming_variable(std::env::vars_os()))?;
    let (kafka, namespace) = (&config.kafka, &config.node.namespace);
    let failed = |error: topics::TopicsError| match error {
        topics::TopicsError::Config(error) => CtlError::Config(error),
        error => CtlError::Other(error.to_string()),
    };
    let left = match asked.apply {
        false => announced(&kafka.brokers, topics::check(kafka, namespace))
            .await
            .map_err(failed)?,
        true => {
            let applied = announced(&kafka.brokers, topics::apply(kafka, namespace))
                .await
                .map_err(failed)?;
            for name in &applied.made {
                println!("made {name}");
            }
            for (name, partitions) in &applied.grown {
                println!("{name} now has {partitions} partitions");
            }
            applied.left
        }
    };
    for difference in &left {
        println!("{difference}");
    }
    match left.len() {
        0 => Ok(()),
        count => Err(CtlError::Other(format!("{count} differences are left"))),
    }
}

/// Who sees nothing happen is told what is waited for.
async fn announced<T>(brokers: &str, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    match tokio::time::timeout(limits::KAFKA_REACH_SAID, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            eprintln!("waiting for Kafka at {brokers} (kafka.brokers)");
            work.await
        }
    }
}
