//! CPU per delivery on one core thread and on two, on io_uring and on epoll: the standalone, one after the other in the
//! same run. Two threads on a machine with two CPUs, one of which the clients have, show what sharing costs, not a rate.

use crate::{
    Options, broadcast,
    table::{self, Figure},
};
use anyhow::Result;

const VARIANTS: [(&str, &str); 4] = [
    ("1", "uring"),
    ("2", "uring"),
    ("1", "epoll"),
    ("2", "epoll"),
];

pub async fn run(options: &Options) -> Result<()> {
    let mut figures: Vec<Figure> = VARIANTS
        .iter()
        .flat_map(|(cores, engine)| {
            let name = |part: &str| format!("{cores} core threads, {engine}: {part}");
            let parts = [
                "to all, core threads",
                "to all, process",
                "connect, process",
            ];
            parts.map(|part| Figure::new(name(part), "µs CPU"))
        })
        .collect();
    let parts = figures.len() / VARIANTS.len();
    for run in 1..=options.runs {
        let mut first = None;
        for (n, (cores, engine)) in VARIANTS.into_iter().enumerate() {
            eprintln!("cores: run {run} of {}, {cores} on {engine}", options.runs);
            let own = [
                ("HERALD_GATEWAY__CORES", cores.to_owned()),
                ("HERALD_GATEWAY__ENGINE", engine.to_owned()),
            ];
            let measured = broadcast::of_herald(options, &own).await?;
            eprintln!("  {measured:.2?}");
            let (delivery, connect) = (measured.delivery, measured.connect);
            let own = [delivery.cores_us, delivery.whole_us, connect.whole_us];
            let beside = *first.get_or_insert(own);
            for (at, (own, beside)) in own.into_iter().zip(beside).enumerate() {
                let figure = &mut figures[n * parts + at];
                figure.runs.push(own);
                figure.floor.push(beside);
            }
        }
    }
    let title = format!(
        "Standalone, {} connections, {} × 200 B to all, {} runs",
        options.clients, options.broadcasts, options.runs
    );
    table::print(&title, "1 core thread, uring", &figures);
    Ok(())
}
