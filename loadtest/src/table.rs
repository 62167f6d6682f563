//! The result in rows: what the terminal shows at the end, and the page too.

use crate::{
    plot::{Unit, written},
    report::{Latency, Report},
    series::Second,
};
use std::{collections::BTreeMap, fmt::Write};

/// Every time that was measured, by name.
pub fn times(report: &Report) -> Vec<(String, &Latency)> {
    let mut all: Vec<(String, Option<&Latency>)> =
        vec![("latency".into(), report.latency_ms.as_ref())];
    if report.latency_ms_by_priority.len() > 1 {
        let tiers = report.latency_ms_by_priority.iter();
        all.extend(tiers.map(|(tier, of)| (format!("latency, {tier}"), Some(of))));
    }
    for window in &report.windows {
        all.push((
            format!("latency {}", window.name),
            window.latency_ms.as_ref(),
        ));
    }
    all.push(("connect to welcome".into(), report.connect_ms.as_ref()));
    all.push(("lost to welcome".into(), report.return_ms.as_ref()));
    all.push(("posts late".into(), report.lag_ms.as_ref()));
    all.into_iter()
        .filter_map(|(name, of)| Some((name, of?)))
        .collect()
}

/// Groups of counts, empty ones left out.
pub fn counts(report: &Report) -> Vec<(&'static str, Vec<(String, u64)>)> {
    let counters = &report.counters;
    let named = |rows: &[(&str, u64)]| -> Vec<(String, u64)> {
        let rows = rows.iter().filter(|(_, count)| *count > 0);
        rows.map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    };
    let of_map = |map: &BTreeMap<String, u64>| {
        map.iter()
            .map(|(name, count)| (name.clone(), *count))
            .collect()
    };
    let posted = report.posted.as_ref();
    let mut posts = named(&[
        ("due", posted.map_or(0, |posted| posted.due)),
        ("accepted", posted.map_or(0, |posted| posted.accepted)),
        ("repeated", posted.map_or(0, |posted| posted.repeated)),
    ]);
    if let Some(posted) = posted {
        posts.extend(
            posted
                .refused
                .iter()
                .map(|(why, count)| (format!("refused: {why}"), *count)),
        );
    }
    let all = vec![
        (
            "Clients",
            named(&[
                ("in all", report.clients.into()),
                ("ever connected", counters.ever_connected),
                ("connected at the end", counters.connected),
                ("connects", counters.connects),
                ("returned", counters.reconnects),
                ("left on purpose", counters.left),
                ("gave up", counters.gave_up),
                ("TLS handshakes, full", counters.tls_full),
                ("TLS handshakes, resumed", counters.tls_resumed),
                ("pings answered", counters.pings_answered),
                ("own pings", counters.pings_sent),
            ]),
        ),
        ("Posts", posts),
        (
            "Content",
            named(&[
                ("received", counters.received),
                ("distinct", counters.unique),
                ("first seen by sync", counters.by_sync),
                ("repeated live", counters.repeated_live),
                ("repeated by sync", counters.repeated_by_sync),
                ("out of order in a lane", counters.out_of_order),
                ("missing", report.missing),
                ("for somebody else", counters.misdelivered),
                ("stalled at the end", report.stalled),
                ("away at the end", report.away),
                ("acknowledged", counters.acks_sent),
                ("unreadable", counters.unreadable),
            ]),
        ),
        (
            "Holes and syncs",
            named(&[
                ("holes seen", counters.holes_seen),
                ("holes healed", counters.holes_healed),
                ("syncs asked", counters.syncs_asked),
                ("recovered", counters.syncs_recovered),
                ("not recovered", counters.syncs_unrecovered),
                ("recovered over a hole", counters.syncs_false),
            ]),
        ),
        ("Closes by code", of_map(&report.closes)),
        ("Failures", of_map(&report.failures)),
        ("Gaps by cause", of_map(&report.gaps)),
        ("Errors by code", of_map(&report.errors)),
    ];
    all.into_iter()
        .filter(|(_, rows): &(_, Vec<_>)| !rows.is_empty())
        .collect()
}

/// The most memory of each process.
pub fn peaks(series: &[Second]) -> BTreeMap<&str, u64> {
    let mut peaks = BTreeMap::new();
    for (name, usage) in series.iter().flat_map(|second| &second.usage) {
        let peak: &mut u64 = peaks.entry(name.as_str()).or_default();
        *peak = (*peak).max(usage.resident_bytes);
    }
    peaks
}

/// For the terminal.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    let seconds = report.seconds;
    let (run, scenario) = (&report.run, &report.scenario);
    let _ = writeln!(
        text,
        "\nrun {run} {scenario} · {} clients · {seconds:.0} s",
        report.clients
    );
    let _ = writeln!(
        text,
        "\n{:<32}{:>10}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}",
        "", "count", "mean", "50 %", "90 %", "99 %", "99.9 %", "most"
    );
    for (name, of) in times(report) {
        let _ = write!(text, "{name:<32}{:>10}", of.count);
        for ms in [of.mean, of.p50, of.p90, of.p99, of.p999, of.max] {
            let _ = write!(text, "{:>11}", written(ms, Unit::Ms));
        }
        text.push('\n');
    }
    for (title, rows) in counts(report) {
        let _ = writeln!(text, "\n{title}");
        for (name, count) in rows {
            let _ = writeln!(text, "  {name:<30}{count:>10}");
        }
    }
    let peaks = peaks(&report.series);
    if !peaks.is_empty() {
        let _ = writeln!(
            text,
            "\nProcesses{:>35}{:>12}",
            "memory, most", "CPUs, mean"
        );
    }
    for (name, peak) in peaks {
        let used = report
            .series
            .iter()
            .filter_map(|second| second.usage.get(name));
        let (sum, count) = used.fold((0.0, 0), |(sum, count), usage| {
            (sum + usage.cpus, count + 1)
        });
        let mean = sum / f64::from(count.max(1));
        let _ = writeln!(
            text,
            "  {name:<30}{:>12}{mean:>12.2}",
            written(peak as f64, Unit::Bytes)
        );
    }
    for one in &report.bottlenecks {
        let _ = writeln!(text, "\nThe tool's own limit: {one}.");
    }
    for one in &report.remarks {
        let _ = writeln!(text, "\nKnown beside: {one}.");
    }
    let _ = writeln!(text, "\n{}", verdict(report));
    text
}

/// What is not as it should be, those parts of it that are there.
pub fn faults(report: &Report) -> String {
    let counters = &report.counters;
    let parts = [
        (report.missing, "missing"),
        (counters.misdelivered, "for somebody else"),
        (report.never_connected, "never connected"),
        (report.holes_open, "holes open"),
        (report.unsynced, "unsynced"),
        (counters.syncs_false, "syncs that recovered over a hole"),
        (counters.sse_ids_ahead, "event ids ahead of what came"),
        (counters.gave_up, "gave up"),
        (report.refused(), "posts refused"),
    ];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<_> = parts
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    match parts.is_empty() {
        // Its reason stands on a line of its own.
        true => "the run was broken off".into(),
        false => parts.join(", "),
    }
}

fn verdict(report: &Report) -> String {
    match report.ok {
        true => "Everything arrived.".into(),
        false => format!("NOT ALL WELL: {}.", faults(report)),
    }
}
