//! The command line: flags alone, or a scenario with flags that change it.

use crate::{
    options::{Load, Options},
    scenario::{Scenario, Transport},
};
use anyhow::{Context, Result, bail};
use clap::{ArgMatches, Args, CommandFactory, Parser, Subcommand, parser::ValueSource};
use std::path::PathBuf;

/// Hundreds of thousands of rule-following Herald clients in one process.
///
/// Connects every user's devices, receives and acknowledges as the client library would (contiguous
/// cursors, sync over holes, return in the advertised slot), and says what arrived. With --post-url it
/// posts numbered notifications itself and knows exactly what should have arrived where.
///
/// Exit status: 0 everything arrived · 1 something is missing or reached somebody else, a hole stayed open
/// or a client stayed away · 2 the run could not be set up, broke off or its result could not be written ·
/// 64 the command line or the scenario is wrong.
#[derive(Debug, Parser)]
#[command(
    name = "swarm",
    version,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Line {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A scenario: idle, unicast, broadcast, burst, churn, reconnect_storm, slow_readers, mixed_day, or
    /// a TOML file.
    ///
    /// Every flag changes it; --rate, --count, --to, --priority and --body-bytes its first sending.
    #[command(args_override_self = true)]
    Run(Box<Run>),
    /// Joins the JSON results of swarms that shared a run (--run) into one.
    Merge(Merge),
}

#[derive(Args, Debug)]
pub struct Merge {
    /// Results, as --json writes them.
    #[arg(required = true, value_name = "RESULT")]
    pub results: Vec<PathBuf>,

    /// Write the joined result there.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write it as one HTML page with plots there.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// What is to be done.
#[derive(Debug)]
pub enum Task {
    Load(Box<Options>),
    Merge(Merge),
}

#[derive(Args, Debug)]
struct Run {
    /// Name of a shipped scenario, or a TOML file.
    scenario: String,

    /// Clients in all; users are clients ÷ devices.
    #[arg(long, value_name = "N")]
    clients: Option<u32>,

    /// From the moment everybody is connected.
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u64>,

    /// Another value of the scenario: storm.at_s=5, send.1.rate=20.
    #[arg(long, value_name = "KEY=VALUE", action = clap::ArgAction::Append)]
    set: Vec<String>,

    #[command(flatten)]
    options: Options,
}

const EXAMPLES: &str = "\
Examples:
  swarm run unicast --target ws://127.0.0.1:8080 --secret-file dev.key \\
        --post-url http://127.0.0.1:8090 --api-key-file api.key --clients 50000 --rate 5000
  swarm --url ws://127.0.0.1:8080 --secret-file dev.key --users 1..1000 --devices 2 --hold-s 60
  swarm --url ws://gw-1:8080 --url ws://gw-2:8080 --secret-file dev.key --users 1..1000 \\
        --post-url http://127.0.0.1:8090 --api-key-file api.key --count 10000 --rate 500
  swarm merge host-a.json host-b.json --html run.html";

/// Ends the process where clap has something to say.
pub fn parse() -> Result<Task> {
    let raw: Vec<String> = std::env::args().collect();
    let line = Line::try_parse_from(&raw).unwrap_or_else(|error| leave(&error));
    let options = match line.command {
        None => {
            let mut options = line.options;
            options.load = by_flags(&options);
            options
        }
        Some(Command::Run(run)) => of_scenario(&raw, &run)?,
        Some(Command::Merge(merge)) => return Ok(Task::Merge(merge)),
    };
    options.check()?;
    Ok(Task::Load(Box::new(options)))
}

/// Clap's own status of a wrong command line is 2, which says something else here.
fn leave(error: &clap::Error) -> ! {
    let _ = error.print();
    std::process::exit(if error.use_stderr() { 64 } else { 0 })
}

fn by_flags(options: &Options) -> Load {
    Load {
        sendings: match options.post_urls.is_empty() {
            true => Vec::new(),
            false => vec![options.sending()],
        },
        ..Load::default()
    }
}

/// The scenario's values stand before the command line's, where the later one counts.
fn of_scenario(raw: &[String], run: &Run) -> Result<Options> {
    let matches = Line::command().try_get_matches_from(raw);
    let matches = matches.unwrap_or_else(|error| leave(&error));
    let given = matches.subcommand_matches("run").context("run was read")?;
    let scenario = Scenario::read(&run.scenario, &changes(run, given)?)?;
    let flags = flags(&scenario);
    let before = raw[..2].iter().cloned().chain(flags);
    let line = Line::try_parse_from(before.chain(raw[2..].iter().cloned()));
    let line = line.unwrap_or_else(|error| leave(&error));
    let Some(Command::Run(run)) = line.command else {
        bail!("`run` must come first");
    };
    let run = *run;
    let mut options = run.options;
    options.load = Load {
        users: run.clients.map(|_| scenario.users),
        scenario: run.scenario,
        about: scenario.about,
        sendings: scenario.send,
        duration_s: Some(scenario.duration_s),
        churn: scenario.churn,
        storm: scenario.storm,
        slow: scenario.slow,
    };
    Ok(options)
}

/// What the command line changes in the scenario itself.
fn changes(run: &Run, given: &ArgMatches) -> Result<Vec<String>> {
    let mut changes = run.set.clone();
    let is_given = |name: &str| given.value_source(name) == Some(ValueSource::CommandLine);
    if let Some(seconds) = run.duration {
        changes.push(format!("duration_s={seconds}"));
    }
    if let Some(clients) = run.clients {
        if is_given("users") {
            bail!("--clients and --users say the same: give one");
        }
        let devices = match is_given("devices") {
            true => run.options.devices,
            false => Scenario::read(&run.scenario, &changes)?.devices,
        };
        changes.push(format!("users={}", clients.div_ceil(devices)));
    }
    let first = run.options.sending();
    for (name, value) in [
        ("rate", format!("send.0.rate={:?}", first.rate)),
        ("count", format!("send.0.count={}", run.options.count)),
        ("body_bytes", format!("send.0.size={}", first.size)),
        ("to", format!("send.0.to={:?}", given_text(given, "to"))),
        (
            "priority",
            format!("send.0.priorities={}", inline(&first.priorities)),
        ),
    ] {
        if is_given(name) {
            changes.push(value);
        }
    }
    Ok(changes)
}

fn given_text(given: &ArgMatches, name: &str) -> String {
    let raw = given
        .get_raw(name)
        .and_then(|mut values| values.next_back());
    raw.map_or_else(String::new, |text| text.to_string_lossy().replace('-', "_"))
}

fn inline(weights: &std::collections::BTreeMap<String, f64>) -> String {
    let pairs: Vec<_> = weights
        .iter()
        .map(|(tier, weight)| format!("{tier} = {weight:?}"))
        .collect();
    format!("{{ {} }}", pairs.join(", "))
}

fn flags(scenario: &Scenario) -> Vec<String> {
    let mut flags = vec![
        format!("--users=1..{}", scenario.users),
        format!("--devices={}", scenario.devices),
        format!("--connect-rate={}", scenario.connect_rate),
        format!("--hold-s={}", scenario.duration_s),
    ];
    for (is_set, flag) in [
        (scenario.transport == Transport::Events, "--sse"),
        (!scenario.acknowledge, "--no-ack"),
        (scenario.tail, "--tail"),
    ] {
        if is_set {
            flags.push(flag.to_owned());
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &str) -> Result<Options> {
        let raw: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        let line = Line::try_parse_from(&raw)?;
        match line.command {
            Some(Command::Run(run)) => of_scenario(&raw, &run),
            Some(Command::Merge(_)) | None => Ok(line.options),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Line::command().debug_assert();
    }

    #[test]
    fn a_scenario_says_what_the_command_line_does_not() {
        let run = "swarm run unicast --target ws://h --secret-file s --connect-rate 7 --rate 5";
        let options = options(run).unwrap();
        assert_eq!((options.connect_rate, options.hold_s), (7, 60));
        assert_eq!(options.users.0, 1..=10_000);
        let first = &options.load.sendings[0];
        assert_eq!((first.rate, first.size), (5.0, 200));
        assert!(first.priorities.contains_key("critical"));
    }

    #[test]
    fn clients_duration_and_single_values_change_it() {
        let run = "swarm run slow_readers --target ws://h --secret-file s --clients 90 --devices 3 \
                   --duration 5 --set slow.share=0.5 --priority mixed --to one-user";
        let run: Vec<_> = run.split_whitespace().collect();
        let options = options(&run.join(" ")).unwrap();
        assert_eq!((options.users.0.clone(), options.devices), (1..=30, 3));
        assert_eq!((options.hold_s, options.load.duration_s), (5, Some(5)));
        assert_eq!(options.load.slow.unwrap().share, 0.5);
        assert_eq!(options.load.sendings[0].priorities.len(), 4);
        assert!(options.no_ack);
    }

    #[test]
    fn what_begins_late_fits_a_run_that_is_made_longer() {
        let run = "swarm run unicast --target ws://h --secret-file s --clients 90 --duration 600 \
                   --set send.0.from_s=300";
        let run: Vec<_> = run.split_whitespace().collect();
        let options = options(&run.join(" ")).unwrap();
        assert_eq!(options.load.duration_s, Some(600));
        assert_eq!(options.load.sendings[0].from_s, 300.0);
    }

    #[test]
    fn flags_alone_need_a_target_and_a_scenario_does_too() {
        for line in ["swarm --secret-file s", "swarm run idle --secret-file s"] {
            let error = options(line).unwrap_err().to_string();
            assert!(error.contains("--url"), "{error}");
        }
    }
}
