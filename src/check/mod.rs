//! `herald check`: what the configured connections cost in memory, and whether this host is set up for them.
//!
//! [`host`] reads what the kernel says, [`needs`] compares it with what the configuration asks, and here it is
//! told: what differs, why it matters, and the command that mends it. Nothing is changed. Of a dispatcher only the
//! configuration is judged.

mod host;
mod needs;
mod told;

use crate::{
    config::{
        self, Admin, ConfigError, DispatcherConfig, Gateway, GatewayConfig, Owner, StandaloneConfig,
    },
    process,
};
use clap::Args;
use host::Host;
use needs::Needs;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Exit status: 0 this host will do (advice may remain) · 1 something stands against what is configured · 64
/// the configuration, or the command line, is wrong.
#[derive(Debug, Args)]
pub struct Check {
    /// The configuration of a gateway, a standalone or a dispatcher (of which only that is looked at); without one the defaults are looked at, and what they lack is no error.
    #[arg(long)]
    config: Option<PathBuf>,
    /// So many connections instead of `gateway.connections_soft`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4_000_000))]
    connections: Option<u64>,
    /// One JSON document instead of text.
    #[arg(long)]
    json: bool,
}

pub fn main(check: &Check) -> Result<ExitCode, ConfigError> {
    let Some((gateway, admin)) = configured(check.config.as_deref())? else {
        match check.json {
            true => println!("{}", serde_json::json!({ "findings": [] })),
            false => println!("The dispatcher's configuration is in order."),
        }
        return Ok(ExitCode::SUCCESS);
    };
    gateway.check()?;
    let host = Host::new(Path::new("/"));
    let needs = Needs::new(&gateway, admin.listen, check.connections, &host);
    let findings = needs.findings(&host);
    match check.json {
        true => println!("{}", told::json(&needs, &findings)),
        false => print!("{}", told::text(&needs, &findings)),
    }
    let is_serious = findings.iter().any(|finding| finding.is_serious);
    Ok(ExitCode::from(u8::from(is_serious)))
}

/// What holds connections, and its admin port; `None`: nothing does, and all else is in order.
fn configured(path: Option<&Path>) -> Result<Option<(Gateway, Admin)>, ConfigError> {
    let Some(path) = path else {
        let config: GatewayConfig = config::load(None, std::env::vars_os())?;
        return Ok(Some((config.gateway, config.admin)));
    };
    Ok(match config::owner(path)? {
        Owner::Gateway => {
            let config: GatewayConfig = process::load(Some(path), |_| {})?;
            Some((config.gateway, config.admin))
        }
        Owner::Standalone => {
            let config: StandaloneConfig = process::load(Some(path), |_| {})?;
            Some((config.gateway, config.admin))
        }
        Owner::Dispatcher => {
            let _: DispatcherConfig = process::load(Some(path), |_| {})?;
            None
        }
    })
}
