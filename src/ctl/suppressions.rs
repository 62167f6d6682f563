//! `herald ctl suppressions`: e-mail addresses that are not sent to.

use super::{CtlError, Endpoint, connection::path_segment, show::printable};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

#[derive(Debug, Args)]
pub struct Suppressions {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All of them, with their causes.
    List,
    /// Send to these again.
    Remove {
        #[arg(required = true)]
        address: Vec<String>,
    },
}

pub async fn run(
    endpoint: &Endpoint,
    suppressions: Suppressions,
    as_json: bool,
) -> Result<(), CtlError> {
    match suppressions.command {
        Command::List => list(endpoint, as_json).await,
        Command::Remove { address } => remove(endpoint, address, as_json).await,
    }
}

/// All pages.
async fn list(endpoint: &Endpoint, as_json: bool) -> Result<(), CtlError> {
    let mut items: Vec<Value> = Vec::new();
    let mut path = "/v1/suppressions".to_owned();
    loop {
        let page = endpoint.request(&path).await?;
        items.extend(page["items"].as_array().into_iter().flatten().cloned());
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/suppressions?cursor={}", path_segment(next)),
            None => break,
        }
    }
    if as_json {
        println!("{:#}", Value::from(items));
        return Ok(());
    }
    for item in &items {
        let text = |name: &str| printable(item[name].as_str().unwrap_or_default());
        println!(
            "{:<40} {:<12} {}",
            text("address"),
            text("cause"),
            text("reason")
        );
    }
    Ok(())
}

/// What fails is told, and the others go on.
async fn remove(
    endpoint: &Endpoint,
    addresses: Vec<String>,
    as_json: bool,
) -> Result<(), CtlError> {
    let (mut removed, mut failed) = (Vec::new(), 0);
    for address in addresses {
        let path = format!("/v1/suppressions/{}", path_segment(&address));
        match endpoint.delete(&path).await {
            Ok(_) => removed.push(address),
            Err(CtlError::Refused { message, .. }) => {
                eprintln!("{address}: {message}");
                failed += 1;
            }
            Err(error) => return Err(error),
        }
    }
    match as_json {
        true => println!("{:#}", json!({ "removed": removed, "failed": failed })),
        false => println!("{} removed", removed.len()),
    }
    match failed {
        0 => Ok(()),
        failed => Err(CtlError::Other(format!("{failed} could not be removed"))),
    }
}
