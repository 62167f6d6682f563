//! What a run does, as a TOML file: how many clients, what is sent when, who leaves, who stops reading.
//! Where it happens (addresses, keys) is the command line's.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::{collections::BTreeMap, path::Path};
use toml::{Table, Value};

/// Those that come with the tool, by name.
const SHIPPED: [(&str, &str); 8] = [
    ("idle", include_str!("../scenarios/idle.toml")),
    ("unicast", include_str!("../scenarios/unicast.toml")),
    ("broadcast", include_str!("../scenarios/broadcast.toml")),
    ("burst", include_str!("../scenarios/burst.toml")),
    ("churn", include_str!("../scenarios/churn.toml")),
    (
        "reconnect_storm",
        include_str!("../scenarios/reconnect_storm.toml"),
    ),
    (
        "slow_readers",
        include_str!("../scenarios/slow_readers.toml"),
    ),
    ("mixed_day", include_str!("../scenarios/mixed_day.toml")),
];

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, in a sentence.
    pub about: String,
    pub users: u32,
    /// Connections of each user.
    #[serde(default = "one")]
    pub devices: u32,
    /// First connects per second.
    #[serde(default = "default_connect_rate")]
    pub connect_rate: u32,
    /// From the moment everybody is connected.
    pub duration_s: u64,
    #[serde(default)]
    pub transport: Transport,
    #[serde(default = "yes")]
    pub acknowledge: bool,
    /// Start at the first item that arrives, without asking for the newest rows when new.
    #[serde(default)]
    pub tail: bool,
    #[serde(default)]
    pub send: Vec<Sending>,
    pub churn: Option<Churn>,
    pub storm: Option<Storm>,
    pub slow: Option<Slow>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    #[default]
    Websocket,
    Events,
}

/// One stream of notifications.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Sending {
    #[serde(default)]
    pub to: To,
    /// Notifications per second.
    pub rate: f64,
    /// As many are due at the same moment, and the moments are so much rarer.
    #[serde(default = "one")]
    pub at_once: u32,
    /// Bytes of the body's text.
    #[serde(default = "default_size")]
    pub size: u32,
    /// Tier and weight.
    #[serde(default = "normal")]
    pub priorities: BTreeMap<String, f64>,
    #[serde(default)]
    pub from_s: f64,
    /// To the end of the run if it is not there.
    pub for_s: Option<f64>,
    /// Ends it sooner.
    pub count: Option<u32>,
    /// Shape of the rate over the sending's time: factors at equal distances, with lines between them.
    #[serde(default)]
    pub shape: Vec<f64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum To {
    /// A random user each.
    #[default]
    Users,
    /// Everybody at once.
    All,
    /// Every tenth to everybody.
    Mixed,
    /// All of one moment to one user.
    OneUser,
}

/// Clients leave in good order and come back.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Churn {
    /// Clients per second.
    pub rate: f64,
    pub away_ms: u64,
}

/// Connections break all at once.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Storm {
    pub at_s: f64,
    /// Of the clients, 0 to 1.
    #[serde(default = "whole")]
    pub share: f64,
    /// Come back in the advertised slot; else as soon as possible. `Retry-After` is kept in either case.
    #[serde(default)]
    pub in_slot: bool,
}

/// Clients stop reading.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Slow {
    /// Of the clients, 0 to 1.
    pub share: f64,
    #[serde(default)]
    pub from_s: f64,
    /// To the end of the run if it is not there.
    pub for_s: Option<f64>,
}

fn one() -> u32 {
    1
}
fn whole() -> f64 {
    1.0
}
fn yes() -> bool {
    true
}
fn default_connect_rate() -> u32 {
    1_000
}
fn default_size() -> u32 {
    200
}
fn normal() -> BTreeMap<String, f64> {
    BTreeMap::from([("normal".into(), 1.0)])
}

impl Scenario {
    /// By the name of a shipped one or by file; `changes` are `key=value`, the key dotted.
    pub fn read(name: &str, changes: &[String]) -> Result<Scenario> {
        let text = match SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
            Some((_, text)) => (*text).to_owned(),
            None if name.contains(['/', '.']) => std::fs::read_to_string(Path::new(name))
                .with_context(|| format!("can't read {name}"))?,
            None => {
                let names: Vec<_> = SHIPPED.iter().map(|(name, _)| *name).collect();
                bail!("no scenario {name:?}: {}, or a file", names.join(", "));
            }
        };
        Scenario::parse(&text, changes).with_context(|| format!("scenario {name}"))
    }

    fn parse(text: &str, changes: &[String]) -> Result<Scenario> {
        let mut table: Table = text.parse()?;
        for change in changes {
            apply(&mut table, change)?;
        }
        // From text again, so that an error shows the line.
        let scenario: Scenario = match changes.is_empty() {
            true => toml::from_str(text)?,
            false => table.try_into()?,
        };
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<()> {
        let within = |key: &str, value: f64, low: f64, high: f64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            bail!("{key} = {value}: from {low} to {high}");
        };
        within("duration_s", self.duration_s as f64, 1.0, SECONDS_MAX)?;
        // What would begin after the end would look as if it had gone well.
        let begins = |key: &str, at_s: f64| match at_s < self.duration_s as f64 {
            true => Ok(()),
            false => bail!(
                "{key} = {at_s}: the run is over by then, duration_s = {}",
                self.duration_s
            ),
        };
        within("users", self.users.into(), 1.0, f64::from(1 << 30))?;
        within("devices", self.devices.into(), 1.0, 100.0)?;
        within("connect_rate", self.connect_rate.into(), 1.0, 1e6)?;
        for (n, send) in self.send.iter().enumerate() {
            let key = |name: &str| format!("send.{n}.{name}");
            within(&key("rate"), send.rate, 1e-6, 1e7)?;
            within(&key("at_once"), send.at_once.into(), 1.0, 1e6)?;
            within(&key("size"), send.size.into(), 0.0, 16_384.0)?;
            within(&key("from_s"), send.from_s, 0.0, SECONDS_MAX)?;
            begins(&key("from_s"), send.from_s)?;
            if let Some(for_s) = send.for_s {
                within(&key("for_s"), for_s, 0.0, SECONDS_MAX)?;
            }
            for factor in &send.shape {
                within(&key("shape"), *factor, 0.0, 1e6)?;
            }
            for (tier, weight) in &send.priorities {
                if !PRIORITIES.contains(&tier.as_str()) {
                    bail!(
                        "{}: {tier:?} is none of {}",
                        key("priorities"),
                        PRIORITIES.join(", ")
                    );
                }
                within(&key("priorities"), *weight, 0.0, 1e6)?;
            }
            if send.priorities.values().sum::<f64>() <= 0.0 {
                bail!("{}: all weights are 0", key("priorities"));
            }
        }
        if let Some(churn) = &self.churn {
            within("churn.rate", churn.rate, 1e-6, 1e6)?;
            within(
                "churn.away_ms",
                churn.away_ms as f64,
                0.0,
                SECONDS_MAX * 1e3,
            )?;
        }
        if let Some(storm) = &self.storm {
            within("storm.share", storm.share, 0.0, 1.0)?;
            within("storm.at_s", storm.at_s, 0.0, SECONDS_MAX)?;
            begins("storm.at_s", storm.at_s)?;
        }
        if let Some(slow) = &self.slow {
            within("slow.share", slow.share, 0.0, 1.0)?;
            within("slow.from_s", slow.from_s, 0.0, SECONDS_MAX)?;
            begins("slow.from_s", slow.from_s)?;
            if let Some(for_s) = slow.for_s {
                within("slow.for_s", for_s, 0.0, SECONDS_MAX)?;
            }
        }
        Ok(())
    }
}

/// Of any moment and span of a scenario: a month.
const SECONDS_MAX: f64 = 31.0 * 24.0 * 3_600.0;

/// From the least urgent.
pub const PRIORITIES: [&str; 4] = ["low", "normal", "high", "critical"];

/// `storm.at_s=20`, `send.0.rate=500`.
fn apply(table: &mut Table, change: &str) -> Result<()> {
    let (key, text) = change
        .split_once('=')
        .with_context(|| format!("--set {change}: expected KEY=VALUE"))?;
    let value = match format!("value = {text}").parse::<Table>() {
        Ok(mut parsed) => parsed.remove("value").context("a value")?,
        Err(_) => Value::String(text.to_owned()),
    };
    let mut steps: Vec<&str> = key.split('.').collect();
    let last = steps.pop().unwrap_or_default();
    let mut at = table;
    let mut rest = steps.into_iter();
    while let Some(step) = rest.next() {
        let below = at.entry(step).or_insert_with(|| Value::Table(Table::new()));
        at = match below {
            Value::Table(table) => table,
            Value::Array(array) => rest
                .next()
                .and_then(|index| array.get_mut(index.parse::<usize>().ok()?)?.as_table_mut())
                .with_context(|| {
                    format!("--set {key}: {step} is a list, give the number of one")
                })?,
            _ => bail!("--set {key}: {step} has nothing below it"),
        };
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "about = 'x'\nusers = 5\nduration_s = 9\n[[send]]\nrate = 2.0\n";

    fn error(text: &str, changes: &[&str]) -> String {
        let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
        format!("{:#}", Scenario::parse(text, &changes).unwrap_err())
    }

    #[test]
    fn the_shipped_ones_are_read_and_say_what_they_show() {
        for (name, _) in SHIPPED {
            let scenario = Scenario::read(name, &[]).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            assert!(!scenario.about.is_empty(), "{name}");
        }
    }

    #[test]
    fn a_key_nobody_knows_is_refused_by_name() {
        assert!(error(&format!("{SMALL}paste = 1\n"), &[]).contains("paste"));
        assert!(error(SMALL, &["rates=1"]).contains("rates"));
        assert!(error(SMALL, &["send.0.speed=1"]).contains("speed"));
    }

    #[test]
    fn values_out_of_their_bounds_are_refused_by_key() {
        assert!(error(SMALL, &["send.0.rate=0.0"]).contains("send.0.rate"));
        assert!(error(SMALL, &["send.0.priorities.urgent=1.0"]).contains("urgent"));
        assert!(error(SMALL, &["storm.at_s=1.0", "storm.share=2.0"]).contains("storm.share"));
        for moment in ["-1.0", "nan", "inf"] {
            let (from, to) = (
                format!("send.0.from_s={moment}"),
                format!("send.0.for_s={moment}"),
            );
            assert!(error(SMALL, &[&from]).contains("send.0.from_s"), "{moment}");
            assert!(error(SMALL, &[&to]).contains("send.0.for_s"), "{moment}");
            let storm = format!("storm.at_s={moment}");
            assert!(error(SMALL, &[&storm]).contains("storm.at_s"), "{moment}");
        }
    }

    #[test]
    fn what_would_begin_after_the_end_is_refused_by_key() {
        for key in ["storm.at_s", "slow.from_s", "send.0.from_s"] {
            let changes = [&format!("{key}=9.0"), "slow.share=0.1"];
            let error = error(SMALL, &changes);
            assert!(
                error.contains(key) && error.contains("duration_s = 9"),
                "{error}"
            );
        }
        assert!(error(SMALL, &["duration_s=0"]).contains("duration_s"));
    }

    #[test]
    fn single_values_are_changed_on_the_command_line() {
        let changes = [
            "send.0.rate=7.5".into(),
            "storm.at_s=3.0".into(),
            "transport=events".into(),
        ];
        let scenario = Scenario::parse(SMALL, &changes).unwrap();
        assert_eq!(scenario.send[0].rate, 7.5);
        assert_eq!(scenario.storm.unwrap().at_s, 3.0);
        assert_eq!(scenario.transport, Transport::Events);
    }

    #[test]
    fn a_scenario_that_is_not_there_names_those_that_are() {
        let error = Scenario::read("idel", &[]).unwrap_err().to_string();
        assert!(error.contains("idle, unicast"), "{error}");
    }
}
