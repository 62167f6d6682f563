//! The command line of the load tool.

use clap::Parser;
use std::process::ExitCode;
use swarm::{options::Options, run};

fn main() -> ExitCode {
    match run::run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("swarm: {error:#}");
            ExitCode::from(2)
        }
    }
}
