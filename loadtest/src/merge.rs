//! Results of several hosts that shared a run, as one.

use crate::{
    report::{Report, ToAll, Users},
    series::Second,
};
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use std::{collections::BTreeMap, path::PathBuf};

/// A longer gap is one of the clock.
const GAP_S_MAX: u64 = 3_600;
/// Examples kept of what is missing.
const EXAMPLES_MAX: usize = 20;

/// A result and where it was read.
struct Part {
    file: String,
    report: Report,
}

pub fn read(files: &[PathBuf]) -> Result<Report> {
    let mut parts: Vec<Part> = Vec::new();
    let mut known: BTreeMap<PathBuf, &PathBuf> = BTreeMap::new();
    for file in files {
        let read =
            || -> std::io::Result<_> { Ok((file.canonicalize()?, std::fs::read_to_string(file)?)) };
        let (path, text) = read().with_context(|| format!("can't read {}", file.display()))?;
        if let Some(other) = known.insert(path, file) {
            bail!(
                "{} and {} are the same file: give each once",
                other.display(),
                file.display()
            );
        }
        let report = serde_json::from_str(&text);
        parts.push(Part {
            report: report.with_context(|| format!("{} is no result of swarm", file.display()))?,
            file: file.display().to_string(),
        });
    }
    merged(parts)
}

fn merged(mut parts: Vec<Part>) -> Result<Report> {
    for (n, part) in parts.iter().enumerate() {
        for other in &parts[..n] {
            together(other, part)?;
        }
    }
    for part in &mut parts {
        fill(part);
    }
    tell_scenarios_apart(&mut parts);
    let reports: Vec<Report> = parts.into_iter().map(|part| part.report).collect();
    let elsewhere = missing_elsewhere(&reports)?;
    let mut reports = reports.into_iter();
    let mut sum = reports.next().context("nothing to merge")?;
    for report in reports {
        add(&mut sum, report);
    }
    sum.missing += elsewhere;
    sum.ok &= elsewhere == 0;
    sum.summarize();
    Ok(sum)
}

/// Whether two results can be of hosts that shared a run.
fn together(one: &Part, other: &Part) -> Result<()> {
    let (mine, theirs) = (&one.report, &other.report);
    if mine.run != theirs.run {
        bail!(
            "{} is of run {} and {} of run {}: give each swarm the same --run",
            one.file,
            mine.run,
            other.file,
            theirs.run
        );
    }
    for my in &mine.users {
        let common = |their: &&Users| {
            my.prefix == their.prefix && my.first <= their.last && their.first <= my.last
        };
        if let Some(their) = theirs.users.iter().find(common) {
            bail!(
                "{} has users {} and {} has users {}, some of them twice: give each swarm its own --users, and \
                 each of its results once",
                one.file,
                written(my),
                other.file,
                written(their)
            );
        }
    }
    Ok(())
}

fn written(users: &Users) -> String {
    let Users {
        prefix,
        first,
        last,
    } = users;
    match prefix.as_str() {
        "" => format!("{first}..{last}"),
        _ => format!("{first}..{last} of prefix {prefix:?}"),
    }
}

/// A second in which a host's tool was held up has no figures, and would look as if its clients had been gone: what
/// stood before it stood in it, too.
fn fill(part: &mut Part) {
    let seconds = std::mem::take(&mut part.report.series);
    let (mut filled, mut first_s): (Vec<Second>, _) = (Vec::new(), None);
    for second in seconds {
        while let Some(before) = filled.last()
            && (2..GAP_S_MAX).contains(&second.unix_s.saturating_sub(before.unix_s))
        {
            let still = before.still();
            first_s = first_s.or(Some(still.unix_s));
            filled.push(still);
        }
        filled.push(second);
    }
    if let Some(first_s) = first_s {
        part.report.remarks.push(format!(
            "{} skips seconds, the first one {first_s} (Unix time): the tool was held up there, and what it counted \
             stands in the second after",
            part.file
        ));
    }
    part.report.series = filled;
}

/// Hosts that share a run do not do the same where their scenarios differ; the result is headed by the first one's.
fn tell_scenarios_apart(parts: &mut [Part]) {
    let Some((first, others)) = parts.split_first_mut() else {
        return;
    };
    let name = |scenario: &str| match scenario {
        "" => "no scenario".to_owned(),
        named => format!("scenario {named}"),
    };
    for other in others {
        let (mine, theirs) = (&first.report.scenario, &other.report.scenario);
        if mine != theirs {
            first.report.remarks.push(format!(
                "{} ran {}, {} ran {}",
                first.file,
                name(mine),
                other.file,
                name(theirs)
            ));
        }
    }
}

/// What one host posted to everybody, and other hosts' clients did not get.
fn missing_elsewhere(reports: &[Report]) -> Result<u64> {
    let (mut missing, mut posters) = (0, reports.iter().filter(|r| !r.to_all.posted.is_empty()));
    let Some(poster) = posters.next() else {
        return Ok(0);
    };
    if posters.next().is_some() {
        bail!("two hosts posted to everybody under the same numbers: let one do it");
    }
    for report in reports
        .iter()
        .filter(|report| !std::ptr::eq(*report, poster))
    {
        let excused = report.stalled + report.away;
        let reading = u64::from(report.clients).saturating_sub(excused);
        for &(from, to) in &poster.to_all.posted {
            let wanted = reading * (u64::from(to - from) + 1);
            missing += wanted.saturating_sub(held(&report.to_all, from, to));
        }
    }
    Ok(missing)
}

/// Deliveries of these numbers that happened.
fn held(to_all: &ToAll, from: u32, to: u32) -> u64 {
    let runs = to_all.received.iter();
    let within = runs.filter_map(|&(first, last, clients)| {
        let (first, last) = (first.max(from), last.min(to));
        (first <= last).then(|| (u64::from(last - first) + 1) * clients)
    });
    within.sum()
}

fn add(sum: &mut Report, report: Report) {
    sum.ok &= report.ok;
    sum.hosts.extend(report.hosts.clone());
    sum.users.extend(report.users);
    sum.remarks.extend(report.remarks);
    sum.seconds = sum.seconds.max(report.seconds);
    sum.clients += report.clients;
    sum.never_connected += report.never_connected;
    sum.missing += report.missing;
    sum.missing_examples.extend(report.missing_examples);
    sum.missing_examples.truncate(EXAMPLES_MAX);
    sum.holes_open += report.holes_open;
    sum.unsynced += report.unsynced;
    sum.stalled += report.stalled;
    sum.away += report.away;
    sum.repeated += report.repeated;
    sum.posted = match (sum.posted.take(), report.posted) {
        (Some(mut one), Some(other)) => {
            one.due += other.due;
            one.accepted += other.accepted;
            one.repeated += other.repeated;
            add_counts(&mut one.refused, other.refused);
            Some(one)
        }
        (one, other) => one.or(other),
    };
    let weight = |clients: u32, bytes: u64| u64::from(clients) * bytes;
    let before = sum.clients - report.clients;
    sum.memory_bytes_per_client = (weight(before, sum.memory_bytes_per_client)
        + weight(report.clients, report.memory_bytes_per_client))
        / u64::from(sum.clients.max(1));
    sum.counters.add(&report.counters);
    add_counts(&mut sum.closes, report.closes);
    add_counts(&mut sum.failures, report.failures);
    add_counts(&mut sum.gaps, report.gaps);
    add_counts(&mut sum.errors, report.errors);
    let host = report.hosts.join(", ");
    sum.bottlenecks.extend(
        report
            .bottlenecks
            .into_iter()
            .map(|one| format!("{host}: {one}")),
    );
    sum.away_ms_max = sum.away_ms_max.max(report.away_ms_max);
    // Together they are there when the last one is.
    sum.began_unix_s = sum.began_unix_s.max(report.began_unix_s);
    sum.to_all.posted.extend(report.to_all.posted);
    sum.to_all.received.extend(report.to_all.received);
    let (mine, theirs) = (&mut sum.histograms_us, report.histograms_us);
    add_times(&mut mine.latency, &theirs.latency);
    add_times(&mut mine.low, &theirs.low);
    add_times(&mut mine.normal, &theirs.normal);
    add_times(&mut mine.high, &theirs.high);
    add_times(&mut mine.critical, &theirs.critical);
    add_times(&mut mine.connect, &theirs.connect);
    add_times(&mut mine.back, &theirs.back);
    add_times(&mut mine.lag, &theirs.lag);
    sum.series = seconds(std::mem::take(&mut sum.series), report.series);
}

fn add_counts(sum: &mut BTreeMap<String, u64>, other: BTreeMap<String, u64>) {
    for (name, count) in other {
        *sum.entry(name).or_default() += count;
    }
}

fn add_times(sum: &mut Histogram<u64>, other: &Histogram<u64>) {
    sum.add(other).expect("same bounds");
}

/// By their clock, which hosts of a fleet keep in step.
fn seconds(one: Vec<Second>, other: Vec<Second>) -> Vec<Second> {
    let mut all: BTreeMap<u64, Second> = BTreeMap::new();
    for second in one.into_iter().chain(other) {
        match all.get_mut(&second.unix_s) {
            Some(sum) => sum.add(&second),
            None => drop(all.insert(second.unix_s, second)),
        }
    }
    all.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        hdr,
        options::{Load, Options},
        report::Wanted,
        roster::Roster,
        series::Recorder,
        tally::{Counters, Tally},
    };
    use clap::Parser;
    use std::time::Duration;

    fn received(runs: &[(u32, u32, u64)]) -> ToAll {
        ToAll {
            posted: Vec::new(),
            received: runs.to_vec(),
        }
    }

    fn users(prefix: &str, first: u64, last: u64) -> Users {
        Users {
            prefix: prefix.into(),
            first,
            last,
        }
    }

    /// A result of these users, with figures of these seconds.
    fn part(file: &str, users: Users, seconds: &[u64]) -> Part {
        let line = "swarm --url ws://h --dialect plain --no-ack --users 1..2";
        let roster = Roster::new(&Options::parse_from(line.split(' '))).unwrap();
        let wanted = Wanted {
            run: "r",
            load: &Load::default(),
            roster: &roster,
            ledger: None,
            expect: None,
            elapsed: Duration::ZERO,
            began_unix_s: None,
            producer_short: 0,
        };
        let mut recorder = Recorder::new(&[]).unwrap();
        let mut counters = Counters::default();
        for second in seconds {
            (counters.connected, counters.received) = (2, counters.received + 5);
            recorder.look(&counters, 0, hdr::rough());
            recorder.seconds.last_mut().unwrap().unix_s = *second;
        }
        let mut report = Report::new(&wanted, Tally::new(false), &[], recorder.seconds);
        report.users = vec![users];
        Part {
            file: file.into(),
            report,
        }
    }

    #[test]
    fn users_that_two_results_have_are_refused_with_both_files() {
        for (other, common) in [
            (users("", 6, 9), false),
            (users("", 5, 9), true),
            (users("", 2, 3), true),
            (users("x", 1, 5), false),
        ] {
            let parts = vec![
                part("a.json", users("", 1, 5), &[]),
                part("b.json", other, &[]),
            ];
            let error = merged(parts).err().map(|error| error.to_string());
            assert_eq!(error.is_some(), common, "{error:?}");
            let named = error.unwrap_or("a.json b.json".into());
            assert!(
                named.contains("a.json") && named.contains("b.json"),
                "{named}"
            );
        }
    }

    #[test]
    fn hosts_that_ran_different_scenarios_are_told_apart() {
        let mut other = part("b.json", users("", 4, 6), &[100]);
        other.report.scenario = "idle".into();
        let sum = merged(vec![part("a.json", users("", 1, 3), &[100]), other]).unwrap();
        assert_eq!(
            sum.remarks,
            ["a.json ran no scenario, b.json ran scenario idle"]
        );
    }

    #[test]
    fn a_skipped_second_is_told_with_its_file_and_its_clients_are_not_gone() {
        let parts = vec![
            part("a.json", users("", 1, 2), &[100, 101, 102, 103]),
            part("b.json", users("", 3, 4), &[100, 103]),
        ];
        let sum = merged(parts).unwrap();
        let seconds: Vec<_> = sum
            .series
            .iter()
            .map(|second| (second.unix_s, second.connected, second.received))
            .collect();
        assert_eq!(
            seconds,
            [(100, 4, 10), (101, 4, 5), (102, 4, 5), (103, 4, 10)]
        );
        assert_eq!(sum.remarks.len(), 1);
        assert!(sum.remarks[0].starts_with("b.json skips seconds, the first one 101"));
    }

    #[test]
    fn deliveries_within_a_range_are_counted() {
        let to_all = received(&[(1, 3, 10), (4, 9, 7)]);
        assert_eq!(held(&to_all, 1, 9), 30 + 42);
        assert_eq!(held(&to_all, 3, 4), 17);
        assert_eq!(held(&to_all, 10, 12), 0);
    }
}
