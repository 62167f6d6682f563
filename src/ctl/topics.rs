//! `herald ctl topics`: Kafka's topics against what Herald needs.

use super::CtlError;
use crate::{
    bus::kafka::topics,
    config::{self, DispatcherConfig},
};
use clap::Args;
use std::path::PathBuf;

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
    let config: DispatcherConfig = config::load(asked.config.as_deref(), std::env::vars())?;
    let (kafka, namespace) = (&config.kafka, &config.node.namespace);
    let failed = |error: topics::TopicsError| match error {
        topics::TopicsError::Config(error) => CtlError::Config(error),
        error => CtlError::Other(error.to_string()),
    };
    let left = match asked.apply {
        false => topics::check(kafka, namespace).await.map_err(failed)?,
        true => {
            let applied = topics::apply(kafka, namespace).await.map_err(failed)?;
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
