//! Where the load tool starts, and what its exit status says.

use std::process::ExitCode;
use swarm::{
    cli::{self, Task},
    outputs::say,
    run,
};

fn main() -> ExitCode {
    let task = match cli::parse() {
        Ok(task) => task,
        Err(error) => return failed(64, &error),
    };
    let result = match task {
        Task::Load(options) => run::run(&options),
        Task::Merge(merge) => run::merge(&merge),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => failed(2, &error),
    }
}

fn failed(status: u8, error: &anyhow::Error) -> ExitCode {
    say(&format!("swarm: {error:#}\n"));
    ExitCode::from(status)
}
