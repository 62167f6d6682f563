//! `herald ctl dlq`: what was given up, and what to do with it.

use super::{CtlError, Endpoint, show::printable};
use crate::config::ConfigError;
use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Dlq {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What stands there, oldest first.
    List {
        #[command(flatten)]
        filter: Filter,
        /// Also what was replayed or dropped.
        #[arg(long)]
        all: bool,
    },
    /// One record with its headers and what it holds.
    Show { at: String },
    /// Send records on their way again, as they came.
    Replay(Which),
    /// Leave records: they are not listed any more.
    Drop(Which),
}

#[derive(Debug, Args)]
struct Filter {
    /// Only of this topic, e.g. email.
    #[arg(long)]
    topic: Option<String>,
    /// Only of this cause, e.g. template.
    #[arg(long)]
    cause: Option<String>,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).multiple(true).args(["at", "topic", "cause"])))]
struct Which {
    /// As `list` names them: PARTITION/OFFSET.
    #[arg(conflicts_with_all = ["topic", "cause"])]
    at: Vec<String>,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Clone, Copy)]
enum Deed {
    Replay,
    Drop,
}

pub async fn run(endpoint: &Endpoint, dlq: Dlq, as_json: bool) -> Result<(), CtlError> {
    match dlq.command {
        Command::List { filter, all } => {
            let items = list(endpoint, &filter, all).await?;
            if as_json {
                println!("{:#}", Value::from(items));
                return Ok(());
            }
            items.iter().for_each(print);
        }
        Command::Show { at } => {
            let shown = endpoint.request(&path(&at)?).await?;
            println!("{shown:#}");
        }
        Command::Replay(which) => each(endpoint, which, Deed::Replay, as_json).await?,
        Command::Drop(which) => each(endpoint, which, Deed::Drop, as_json).await?,
    }
    Ok(())
}

/// All pages.
async fn list(endpoint: &Endpoint, filter: &Filter, all: bool) -> Result<Vec<Value>, CtlError> {
    let escaped = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut items = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let mut path = format!("/v1/dlq?all={all}");
        let pairs = [
            ("topic", &filter.topic),
            ("cause", &filter.cause),
            ("cursor", &cursor),
        ];
        for (name, value) in pairs {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", escaped(value)));
            }
        }
        let page = endpoint.request(&path).await?;
        items.extend(page["items"].as_array().into_iter().flatten().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return Ok(items),
        }
    }
}

/// What fails is told, and the others go on.
async fn each(
    endpoint: &Endpoint,
    which: Which,
    deed: Deed,
    as_json: bool,
) -> Result<(), CtlError> {
    let places = match which.at.is_empty() {
        false => which.at,
        true => {
            let items = list(endpoint, &which.filter, false).await?;
            let places = items.iter().filter_map(|item| item["at"].as_str());
            places.map(str::to_owned).collect()
        }
    };
    let (mut done, mut failed) = (Vec::new(), 0);
    for at in places {
        let path = path(&at)?;
        let answer = match deed {
            Deed::Replay => {
                let path = format!("{path}/replay");
                endpoint.post(&path, &json!({}), None).await.map(drop)
            }
            Deed::Drop => endpoint.delete(&path).await.map(drop),
        };
        match answer {
            Ok(()) => done.push(at),
            Err(CtlError::Refused { message, .. }) => {
                eprintln!("{at}: {message}");
                failed += 1;
            }
            Err(error) => return Err(error),
        }
    }
    let word = match deed {
        Deed::Replay => "replayed",
        Deed::Drop => "dropped",
    };
    match as_json {
        true => println!("{:#}", json!({ word: done, "failed": failed })),
        false => println!("{} {word}", done.len()),
    }
    match failed {
        0 => Ok(()),
        failed => Err(CtlError::Other(format!("{failed} could not be {word}"))),
    }
}

/// `3/17`
fn path(at: &str) -> Result<String, CtlError> {
    let is_number = |text: &str| text.parse::<u64>().is_ok();
    match at.split_once('/') {
        Some((partition, offset)) if is_number(partition) && is_number(offset) => {
            Ok(format!("/v1/dlq/{partition}/{offset}"))
        }
        _ => {
            let problem = format!("{at:?} is not PARTITION/OFFSET, as `ctl dlq list` names them");
            Err(ConfigError::new("AT", problem).into())
        }
    }
}

fn print(item: &Value) {
    let text = |name: &str| printable(item[name].as_str().unwrap_or("-"));
    println!(
        "{:<10} {:<8} {:<10} {} user {} {}{}",
        text("at"),
        text("topic"),
        text("cause"),
        text("id"),
        text("key"),
        text("reason"),
        match item["handled"].as_str() {
            Some(handled) => format!(" ({handled})"),
            None => String::new(),
        }
    );
}
