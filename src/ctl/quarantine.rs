//! `herald ctl quarantine`: devices that a provider called gone when it was not believed.

use super::{CtlError, Endpoint, connection::path_segment, user_id};
use crate::{config::ConfigError, ids::DeviceId};
use clap::{Args, Subcommand};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

/// Kinds of devices whose providers can call them gone.
const KINDS: [&str; 3] = ["apns", "fcm", "web_push"];

#[derive(Debug, Args)]
pub struct Quarantine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The devices, and since when they are there.
    List {
        /// apns, fcm or web_push; default: all three.
        #[arg(long)]
        kind: Option<String>,
    },
    /// Send to devices again.
    Restore(Which),
    /// They are gone indeed: remove them.
    Confirm(Which),
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["user", "kind"])))]
struct Which {
    #[arg(requires = "device")]
    user: Option<String>,
    device: Option<String>,
    /// All of apns, fcm or web_push.
    #[arg(long)]
    kind: Option<String>,
}

#[derive(Clone, Copy)]
enum Deed {
    Restore,
    Confirm,
}

impl Deed {
    fn done(self) -> &'static str {
        match self {
            Deed::Restore => "restored",
            Deed::Confirm => "removed",
        }
    }
}

pub async fn run(
    endpoint: &Endpoint,
    quarantine: Quarantine,
    as_json: bool,
) -> Result<(), CtlError> {
    match quarantine.command {
        Command::List { kind } => {
            let kinds = match &kind {
                Some(kind) => vec![known(kind)?],
                None => KINDS.to_vec(),
            };
            let mut items = Vec::new();
            for kind in kinds {
                items.extend(list(endpoint, kind).await?);
            }
            match as_json {
                true => println!("{:#}", Value::from(items)),
                false => items.iter().for_each(print),
            }
        }
        Command::Restore(which) => release(endpoint, which, Deed::Restore, as_json).await?,
        Command::Confirm(which) => release(endpoint, which, Deed::Confirm, as_json).await?,
    }
    Ok(())
}

fn known(kind: &str) -> Result<&'static str, CtlError> {
    let known = KINDS.into_iter().find(|known| *known == kind);
    known.ok_or_else(|| ConfigError::new("--kind", "must be apns, fcm or web_push").into())
}

/// All pages.
async fn list(endpoint: &Endpoint, kind: &str) -> Result<Vec<Value>, CtlError> {
    let mut items = Vec::new();
    let mut path = format!("/v1/quarantine/{kind}");
    loop {
        let page = endpoint.request(&path).await?;
        items.extend(page["items"].as_array().into_iter().flatten().cloned());
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/quarantine/{kind}?cursor={}", escaped(next)),
            None => return Ok(items),
        }
    }
}

async fn release(
    endpoint: &Endpoint,
    which: Which,
    deed: Deed,
    as_json: bool,
) -> Result<(), CtlError> {
    let count = match (which.kind, which.user, which.device) {
        (Some(kind), _, _) => all(endpoint, known(&kind)?, deed).await?,
        (None, user, device) => {
            let (user, device) = (user.unwrap_or_default(), device.unwrap_or_default());
            one(endpoint, &user, &device, deed).await?;
            1
        }
    };
    let word = deed.done();
    match as_json {
        true => println!("{:#}", json!({ word: count })),
        false => println!("{count} {word}"),
    }
    Ok(())
}

/// Page by page.
async fn all(endpoint: &Endpoint, kind: &str, deed: Deed) -> Result<u64, CtlError> {
    let (mut count, mut cursor) = (0, String::new());
    loop {
        let answer = match deed {
            Deed::Restore => {
                let path = format!("/v1/quarantine/{kind}/restore{cursor}");
                endpoint.post(&path, &json!({}), None).await?
            }
            Deed::Confirm => {
                endpoint
                    .delete(&format!("/v1/quarantine/{kind}{cursor}"))
                    .await?
            }
        };
        count += answer[deed.done()].as_u64().unwrap_or_default();
        match answer["next"].as_str() {
            Some(next) => cursor = format!("?cursor={}", escaped(next)),
            None => return Ok(count),
        }
    }
}

async fn one(endpoint: &Endpoint, user: &str, device: &str, deed: Deed) -> Result<(), CtlError> {
    let user = user_id("USER", user)?;
    let id: Result<DeviceId, _> = device.parse();
    let id = id.map_err(|error| ConfigError::new("DEVICE", error.to_string()))?;
    let path = format!("/v1/users/{}/devices/{id}", path_segment(user.as_str()));
    let done = match deed {
        Deed::Restore => {
            let path = format!("{path}/restore");
            endpoint.post(&path, &json!({}), None).await
        }
        Deed::Confirm => endpoint.delete(&path).await,
    };
    done.map(drop)
}

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn print(item: &Value) {
    let text = |name: &str| item[name].as_str().unwrap_or("-");
    println!(
        "{:<8} user {} device {} since {}",
        text("kind"),
        text("user"),
        text("id"),
        item["quarantined_at"]
    );
}
