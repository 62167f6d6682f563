//! Where the load tool starts, and what its exit status says.

use std::process::ExitCode;
use swarm::{cli, run};

fn main() -> ExitCode {
    let options = match cli::parse() {
        Ok(options) => options,
        Err(error) => return failed(64, &error),
    };
    match run::run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => failed(2, &error),
    }
}

fn failed(status: u8, error: &anyhow::Error) -> ExitCode {
    eprintln!("swarm: {error:#}");
    ExitCode::from(status)
}
