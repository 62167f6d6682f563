//! `herald ctl`: what an operator asks and does from a shell. It talks to a dispatcher over its HTTP API
//! with an API key, and finds the standalone's by the file that leaves in its data directory.

mod connection;
mod dlq;
mod drain;
mod privacy;
mod quarantine;
mod send;
mod show;
mod suppressions;
mod topics;

use crate::{
    auth,
    config::{ConfigError, Secret},
    ids::{IdError, UserId},
    process::StartError,
    sys,
};
use clap::{Args, Subcommand};
pub use connection::{Endpoint, StandaloneFile};
use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};

#[derive(Debug, Args)]
pub struct Ctl {
    #[command(flatten)]
    endpoint: Endpoint,
    /// Print the answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Mint a client token (HS256) for a user.
    Token {
        #[arg(long)]
        user: String,
        /// Life of the token in seconds.
        #[arg(long, default_value_t = 24 * 3600)]
        ttl_s: u64,
        /// File with the HS256 secret; default: the standalone's.
        #[arg(long)]
        secret_file: Option<PathBuf>,
    },
    /// Make an API key for a producer; it is shown once.
    ApiKey {
        /// Name of the producer, as it stands in logs and rows.
        #[arg(long)]
        producer: String,
        /// It may also make keys.
        #[arg(long)]
        admin: bool,
    },
    /// Send a notification.
    Send(Box<send::Send>),
    /// Cancel what is scheduled, or what a segment has not got yet.
    Cancel { id: String },
    /// Where a user is connected, what is unread, the latest outcomes.
    User { user: String },
    /// Forget a user: everything of before this order, in every store.
    Erase {
        user: String,
        /// Wait until it is done, and print what was removed and what the bus still holds until when.
        #[arg(long)]
        wait: bool,
    },
    /// All that is stored of a user, as JSON.
    Export { user: String },
    /// Gateways, shards, and the health of the parts.
    Status,
    /// Send a gateway's clients to the others, as fast as these take them.
    Drain(drain::Drain),
    /// Share the clients anew, after a gateway has joined.
    Rebalance,
    /// What was given up: look at it, replay it, drop it.
    Dlq(dlq::Dlq),
    /// E-mail addresses that are not sent to.
    Suppressions(suppressions::Suppressions),
    /// Devices that were called gone more often than is usual: look at them, restore or remove them.
    Quarantine(quarantine::Quarantine),
    /// What the channels cost today, and what is left of their budgets.
    Spend,
    /// Check or create the Kafka topics of a dispatcher's configuration.
    Topics(topics::Topics),
}

/// What went wrong, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{url} does not answer: {cause}. Is the dispatcher (or the standalone) running?")]
    Unreachable { url: String, cause: String },
    #[error("the answer of {url} broke off: {cause}. Try again")]
    BrokeOff { url: String, cause: String },
    #[error("{status}: {message}")]
    Refused { status: u16, message: String },
    #[error(
        "{url} answers {status}, and not as a dispatcher does: name its HTTP port (http.listen, 8090 by default)"
    )]
    Stranger { url: String, status: u16 },
    #[error("{0}")]
    Other(String),
}

/// Runs one command to its end.
pub fn main(ctl: Ctl) -> Result<(), StartError> {
    sys::end_with_reader().map_err(|error| StartError::Host(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| StartError::Host(error.to_string()))?;
    runtime.block_on(run(ctl)).map_err(|error| match error {
        CtlError::Config(error) => StartError::Config(error),
        error => StartError::Host(error.to_string()),
    })
}

async fn run(ctl: Ctl) -> Result<(), CtlError> {
    let as_json = ctl.json;
    let print = |answer: &Value, text: fn(&Value)| match as_json {
        true => println!("{answer:#}"),
        false => text(answer),
    };
    match ctl.command {
        Command::Token {
            user,
            ttl_s,
            secret_file,
        } => {
            println!("{}", token(&ctl.endpoint, &user, ttl_s, secret_file)?);
        }
        Command::ApiKey { producer, admin } => {
            let body = json!({ "producer": producer, "admin": admin });
            let answer = ctl.endpoint.post("/v1/api-keys", &body, None).await?;
            print(&answer, |answer| {
                println!("{}", answer["key"].as_str().unwrap_or_default())
            });
        }
        Command::Send(send) => print(&send.run(&ctl.endpoint).await?, |answer| {
            println!("{}", answer["id"].as_str().unwrap_or_default())
        }),
        Command::Cancel { id } => {
            let path = format!("/v1/notifications/{}", connection::path_segment(&id));
            ctl.endpoint.delete(&path).await?;
            print(&json!({ "cancelled": id }), |answer| {
                println!(
                    "{} cancelled",
                    answer["cancelled"].as_str().unwrap_or_default()
                );
            });
        }
        Command::User { user } => {
            let user = user_id("USER", &user)?;
            let path = format!("/v1/users/{}", connection::path_segment(user.as_str()));
            print(&ctl.endpoint.request(&path).await?, show::user);
        }
        Command::Erase { user, wait } => {
            let user = user_id("USER", &user)?;
            privacy::erase(&ctl.endpoint, &user, wait, as_json).await?;
        }
        Command::Export { user } => {
            privacy::export(&ctl.endpoint, &user_id("USER", &user)?).await?;
        }
        Command::Status => print(&ctl.endpoint.request("/v1/status").await?, show::status),
        Command::Spend => print(&ctl.endpoint.request("/v1/spend").await?, show::spend),
        Command::Drain(drain) => drain::run(&ctl.endpoint, drain, as_json).await?,
        Command::Rebalance => drain::rebalance(&ctl.endpoint, as_json).await?,
        Command::Dlq(dlq) => dlq::run(&ctl.endpoint, dlq, as_json).await?,
        Command::Suppressions(suppressions) => {
            suppressions::run(&ctl.endpoint, suppressions, as_json).await?;
        }
        Command::Quarantine(quarantine) => {
            quarantine::run(&ctl.endpoint, quarantine, as_json).await?
        }
        Command::Topics(topics) => topics::run(topics).await?,
    }
    Ok(())
}

fn token(
    endpoint: &Endpoint,
    user: &str,
    ttl_s: u64,
    secret_file: Option<PathBuf>,
) -> Result<String, CtlError> {
    let user = user_id("--user", user)?;
    let path = match secret_file {
        Some(path) => path,
        None => endpoint.standalone()?.token_secret_file,
    };
    let secret = Secret::from_file("--secret-file", &path)?;
    // Every gateway would refuse it.
    Secret::check_length("--secret-file", secret.expose())?;
    Ok(auth::mint_hs256(&secret, &user, Duration::from_secs(ttl_s)))
}

/// An empty id would make another path.
fn user_id(argument: &str, text: &str) -> Result<UserId, ConfigError> {
    let user = text.parse();
    user.map_err(|error: IdError| ConfigError::new(argument, error.to_string()))
}
