//! Subcommands, nothing else.

use clap::{Args, Parser, Subcommand};
use herald::{check, config, ctl, process};
use std::{path::PathBuf, process::ExitCode};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Notification delivery: a gateway for clients, a dispatcher for producers.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything in one process, with bus and store in SQLite.
    Standalone {
        #[command(flatten)]
        file: File,
        /// Directory of everything that lasts.
        #[arg(long)]
        data: Option<PathBuf>,
    },
    /// Holds the clients' connections of this host.
    Gateway(File),
    /// Takes notifications in, routes them, keeps storage.
    #[command(args_conflicts_with_subcommands = true)]
    Dispatcher {
        #[command(flatten)]
        file: File,
        #[command(subcommand)]
        task: Option<DispatcherTask>,
    },
    /// What the configured connections cost in memory, and whether this host is set up for them; or whether a dispatcher's
    /// configuration is in order.
    Check(check::Check),
    /// Ask and command a running Herald.
    Ctl(Box<ctl::Ctl>),
}

#[derive(Debug, Subcommand)]
enum DispatcherTask {
    /// Makes the tables in Cassandra, or brings them up to this release; one at a time.
    Migrate(File),
}

#[derive(Debug, Args)]
struct File {
    /// TOML file; every key can be overridden as HERALD_<SECTION>__<KEY>.
    #[arg(long)]
    config: Option<PathBuf>,
}

impl File {
    fn load<T: process::Checked>(
        &self,
        adjust: impl FnOnce(&mut T),
    ) -> Result<T, config::ConfigError> {
        process::load(self.config.as_deref(), adjust)
    }
}

/// What `check` is asked in a wrong way is a wrong configuration; clap has another status for that.
fn leave(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    let asks = std::env::args().nth(1);
    match u8::try_from(error.exit_code()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) if asks.as_deref() == Some("check") => ExitCode::from(config::EXIT_CONFIG),
        status => ExitCode::from(status.unwrap_or(u8::MAX)),
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return leave(&error),
    };
    let ended = match cli.command {
        Command::Standalone { file, data } => process::standalone::run(move || {
            file.load(|config: &mut config::StandaloneConfig| {
                if let Some(data) = &data {
                    config.store.path.clone_from(data);
                }
            })
        }),
        Command::Gateway(file) => process::gateway::run(move || file.load(|_| {})),
        Command::Dispatcher {
            task: Some(DispatcherTask::Migrate(file)),
            ..
        } => file
            .load(|_| {})
            .map_err(Into::into)
            .and_then(|config| process::dispatcher::migrate(&config)),
        Command::Dispatcher { file, task: None } => {
            process::dispatcher::run(move || file.load(|_| {}))
        }
        Command::Check(check) => match check::main(&check) {
            Ok(status) => return status,
            Err(error) => Err(error.into()),
        },
        Command::Ctl(ctl) => ctl::main(*ctl),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("herald: {error}");
            error.exit_code()
        }
    }
}
