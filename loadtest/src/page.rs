//! The result as one HTML page that needs nothing else: figures, tables, charts.

use crate::{
    plot::{Across, Chart, Line, Unit, written},
    report::{Latency, Report},
    series::Second,
    table,
};
use std::fmt::Write;

const STYLE: &str = include_str!("page.css");

pub fn html(report: &Report) -> String {
    let title = match report.scenario.as_str() {
        "" => format!("swarm · run {}", report.run),
        scenario => format!("swarm · {scenario}"),
    };
    let mut page = format!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\
         <meta name=viewport content='width=device-width, initial-scale=1'>\
         <title>{0}</title><style>{STYLE}</style></head><body><main>\
         <header><h1>{0}</h1>{1}<p>{2}</p></header>",
        escaped(&title),
        verdict(report),
        escaped(&report.about),
    );
    tiles(report, &mut page);
    if !report.bottlenecks.is_empty() {
        let title = "<b>The load tool was at its limit.</b> Figures may be its own:";
        aside(title, &report.bottlenecks, &mut page);
    }
    if !report.remarks.is_empty() {
        aside("<b>Known beside.</b>", &report.remarks, &mut page);
    }
    page.push_str("<section class=charts>");
    for chart in charts(report) {
        page.push_str(&chart);
    }
    page.push_str("</section>");
    latencies(report, &mut page);
    details(report, &mut page);
    let _ = writeln!(
        page,
        "<footer>run {} · {} · swarm {}</footer></main></body></html>",
        escaped(&report.run),
        escaped(&report.hosts.join(", ")),
        env!("CARGO_PKG_VERSION")
    );
    page
}

fn aside(title: &str, lines: &[String], page: &mut String) {
    let _ = write!(page, "<aside>{title}<ul>");
    for one in lines {
        let _ = write!(page, "<li>{}</li>", escaped(one));
    }
    page.push_str("</ul></aside>");
}

fn verdict(report: &Report) -> String {
    match report.ok {
        true => "<p class='verdict good'>Everything arrived.</p>".to_owned(),
        false => format!(
            "<p class='verdict bad'>Not all well: {}.</p>",
            escaped(&table::faults(report))
        ),
    }
}

fn tiles(report: &Report, page: &mut String) {
    let count = |value: u64| written(value as f64, Unit::Count);
    let ms = |of: &Option<Latency>, part: fn(&Latency) -> f64| {
        of.as_ref()
            .map_or("–".to_owned(), |latency| written(part(latency), Unit::Ms))
    };
    let mut all = vec![
        ("clients", count(report.clients.into())),
        ("received", count(report.counters.received)),
        ("missing", count(report.missing)),
        (
            "latency, median",
            ms(&report.latency_ms, |latency| latency.p50),
        ),
        (
            "latency, 99 %",
            ms(&report.latency_ms, |latency| latency.p99),
        ),
        (
            "latency, most",
            ms(&report.latency_ms, |latency| latency.max),
        ),
    ];
    for (name, peak) in table::peaks(&report.series) {
        let of_server = name != crate::series::CLIENT;
        if of_server {
            all.push(("server memory, most", written(peak as f64, Unit::Bytes)));
        }
    }
    page.push_str("<section class=tiles>");
    for (name, value) in all {
        let _ = write!(page, "<div><b>{value}</b><span>{name}</span></div>");
    }
    page.push_str("</section>");
}

fn charts(report: &Report) -> Vec<String> {
    let series = &report.series;
    let began = report
        .began_unix_s
        .or(series.first().map(|second| second.unix_s));
    let at = |second: &Second| second.unix_s as f64 - began.unwrap_or(0) as f64;
    let points = |of: &dyn Fn(&Second) -> Option<f64>| -> Vec<(f64, f64)> {
        series
            .iter()
            .filter_map(|second| Some((at(second), of(second)?)))
            .collect()
    };
    let line = |name: &'static str, colour: usize, of: &dyn Fn(&Second) -> Option<f64>| Line {
        name,
        colour,
        points: points(of),
    };
    let chart = |title: &'static str, unit: Unit, logarithmic: bool, lines: Vec<Line<'_>>| {
        Chart {
            title,
            unit,
            across: Across::Seconds,
            logarithmic,
            lines,
        }
        .svg()
    };
    let quantile = |second: &Second, q: f64| {
        let of = &second.latency;
        (!of.is_empty()).then(|| of.value_at_quantile(q) as f64 / 1_000.0)
    };
    let mut names: Vec<&String> = series
        .iter()
        .flat_map(|second| second.usage.keys())
        .collect();
    names.sort();
    names.dedup();
    let by_process = |of: fn(&crate::procfs::Usage) -> f64| -> Vec<Line<'_>> {
        let mut lines = Vec::new();
        for (n, name) in names.iter().enumerate() {
            let points = points(&|second| second.usage.get(*name).map(of));
            lines.push(Line {
                name: name.as_str(),
                colour: n % 6 + 1,
                points,
            });
        }
        lines
    };
    let mut cpus = by_process(|usage| usage.cpus);
    cpus.push(line("whole machine", 6, &|second| {
        Some(second.machine_cpus)
    }));
    let kernel = vec![
        line("sockets, files and the like", 5, &|second| {
            Some(second.slab_bytes as f64)
        }),
        line("data in socket buffers", 3, &|second| {
            Some(second.tcp_bytes as f64)
        }),
    ];
    vec![
        chart(
            "Connected clients",
            Unit::Count,
            false,
            vec![line("connected", 1, &|second| {
                Some(second.connected as f64)
            })],
        ),
        chart(
            "Latency from the intended moment, by second",
            Unit::Ms,
            true,
            vec![
                line("median", 1, &|second| quantile(second, 0.5)),
                line("99 %", 2, &|second| quantile(second, 0.99)),
                line("most", 3, &|second| quantile(second, 1.0)),
            ],
        ),
        chart(
            "Notifications per second",
            Unit::Count,
            false,
            vec![
                line("received", 1, &|second| Some(second.received as f64)),
                line("accepted of what was posted", 2, &|second| {
                    Some(second.posted as f64)
                }),
            ],
        ),
        percentiles(report),
        chart(
            "Connections per second",
            Unit::Count,
            false,
            vec![
                line("begun", 1, &|second| Some(second.connects as f64)),
                line("welcomed", 2, &|second| Some(second.welcomes as f64)),
            ],
        ),
        chart("CPUs used", Unit::Cpus, false, cpus),
        chart(
            "Memory of the processes",
            Unit::Bytes,
            false,
            by_process(|usage| usage.resident_bytes as f64),
        ),
        chart(
            "Memory of the kernel, whole machine",
            Unit::Bytes,
            false,
            kernel,
        ),
    ]
}

/// Latency by percentile, the axis stretched towards the last ones.
fn percentiles(report: &Report) -> String {
    let of = &report.histograms_us;
    let all = [
        ("all", 1, &of.latency),
        ("critical", 3, &of.critical),
        ("high", 4, &of.high),
        ("normal", 2, &of.normal),
        ("low", 5, &of.low),
    ];
    let tiers = report.latency_ms_by_priority.len();
    let lines = all
        .into_iter()
        .filter(|(name, _, _)| *name == "all" || tiers > 1);
    let lines = lines.map(|(name, colour, histogram)| {
        // No further than there are values: beyond, the line only repeats the last one.
        let nines_max = (histogram.len() as f64).max(1.0).log10().min(5.0);
        let steps = (nines_max * 20.0) as usize;
        let point = |step: usize| {
            let nines = step as f64 / 20.0;
            let us = histogram.value_at_quantile(1.0 - 10_f64.powf(-nines));
            (nines, us as f64 / 1_000.0)
        };
        Line {
            name,
            colour,
            points: (0..=steps)
                .filter(|_| !histogram.is_empty())
                .map(point)
                .collect(),
        }
    });
    Chart {
        title: "Latency by percentile",
        unit: Unit::Ms,
        across: Across::Nines,
        logarithmic: true,
        lines: lines.collect(),
    }
    .svg()
}

fn latencies(report: &Report, page: &mut String) {
    page.push_str(
        "<section><h2>Times</h2><table><thead><tr><th><th>count<th>mean<th>50 %<th>90 %<th>99 %<th>99.9 %<th>most\
         </thead><tbody>",
    );
    for (name, latency) in table::times(report) {
        let _ = write!(page, "<tr><th>{}<td>{}", escaped(&name), latency.count);
        for ms in [
            latency.mean,
            latency.p50,
            latency.p90,
            latency.p99,
            latency.p999,
            latency.max,
        ] {
            let _ = write!(page, "<td>{}", written(ms, Unit::Ms));
        }
    }
    page.push_str("</tbody></table></section>");
}

fn details(report: &Report, page: &mut String) {
    page.push_str("<section><h2>Counts</h2><div class=columns>");
    for (title, rows) in table::counts(report) {
        let _ = write!(
            page,
            "<table><thead><tr><th colspan=2>{title}</thead><tbody>"
        );
        for (name, value) in rows {
            let _ = write!(page, "<tr><th>{}<td>{value}", escaped(&name));
        }
        page.push_str("</tbody></table>");
    }
    page.push_str("</div></section>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&#39;")
}
