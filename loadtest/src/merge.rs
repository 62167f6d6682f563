//! Results of several hosts that shared a run, as one.

use crate::{
    report::{Report, ToAll},
    series::Second,
};
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use std::{collections::BTreeMap, path::PathBuf};

/// Examples kept of what is missing.
const EXAMPLES_MAX: usize = 20;

pub fn read(files: &[PathBuf]) -> Result<Report> {
    let mut reports = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("can't read {}", file.display()))?;
        let report = serde_json::from_str(&text);
        reports.push(report.with_context(|| format!("{} is no result of swarm", file.display()))?);
    }
    merged(reports)
}

pub fn merged(reports: Vec<Report>) -> Result<Report> {
    let elsewhere = missing_elsewhere(&reports)?;
    let mut reports = reports.into_iter();
    let mut sum = reports.next().context("nothing to merge")?;
    for report in reports {
        if report.run != sum.run {
            bail!(
                "runs {} and {} are not the same: give each swarm the same --run",
                sum.run,
                report.run
            );
        }
        add(&mut sum, report);
    }
    sum.missing += elsewhere;
    sum.ok &= elsewhere == 0;
    sum.summarize();
    Ok(sum)
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

    fn received(runs: &[(u32, u32, u64)]) -> ToAll {
        ToAll {
            posted: Vec::new(),
            received: runs.to_vec(),
        }
    }

    #[test]
    fn deliveries_within_a_range_are_counted() {
        let to_all = received(&[(1, 3, 10), (4, 9, 7)]);
        assert_eq!(held(&to_all, 1, 9), 30 + 42);
        assert_eq!(held(&to_all, 3, 4), 17);
        assert_eq!(held(&to_all, 10, 12), 0);
    }
}
