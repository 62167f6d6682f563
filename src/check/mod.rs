//! `herald check`: what the configured connections cost in memory, and whether this host is set up for them.
//!
//! [`host`] reads what the kernel says, [`needs`] compares it with what the configuration asks, and here it is
//! told: what differs, why it matters, and the command that mends it. Nothing is changed.

mod host;
mod needs;
mod told;

use crate::{
    config::{self, ConfigError, GatewayConfig},
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
    /// The gateway's configuration; without one the defaults are looked at, and what they lack is no error.
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
    let config: GatewayConfig = match &check.config {
        Some(path) => process::load(Some(path), |_| {})?,
        None => config::load(None, std::env::vars_os())?,
    };
    config.gateway.check()?;
    let host = Host::new(Path::new("/"));
    let needs = Needs::new(
        &config.gateway,
        config.admin.listen,
        check.connections,
        &host,
    );
    let findings = needs.findings(&host);
    match check.json {
        true => println!("{}", told::json(&needs, &findings)),
        false => print!("{}", told::text(&needs, &findings)),
    }
    let is_serious = findings.iter().any(|finding| finding.is_serious);
    Ok(ExitCode::from(u8::from(is_serious)))
}
