//! One table: a row for each figure, a column for each server; how many times Herald's it is, then the figure.

use super::{course::Measured, servers::Kind};
use crate::{Options, table::short};

pub struct Column {
    name: String,
    version: String,
    pub runs: Vec<Measured>,
    pub why_not: Option<String>,
}

impl Column {
    pub fn new(kind: &Kind) -> Column {
        Column {
            name: kind.name().to_owned(),
            version: kind.version(),
            runs: Vec::new(),
            why_not: None,
        }
    }

    fn median(&self, of: fn(&Measured) -> f64) -> Option<f64> {
        let mut values: Vec<f64> = self.runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }
}

type Row = (&'static str, fn(&Measured) -> f64);

const ROWS: [Row; 11] = [
    ("idle connection, user memory (PSS), B", |m| m.proportional),
    ("the same by RSS of the main process, B", |m| m.resident),
    ("idle connection, kernel, both ends, B", |m| m.kernel),
    ("connect, µs CPU", |m| m.connect),
    ("to all, µs CPU per delivery", |m| m.to_all),
    ("to all, p99, ms", |m| m.to_all_p99_ms),
    ("to one, µs CPU per message", |m| m.to_one),
    ("to one, p50, ms", |m| m.to_one_p50_ms),
    ("to one, p99, ms", |m| m.to_one_p99_ms),
    ("a client that stops reading, user memory, KB", |m| {
        m.slow_user / 1e3
    }),
    ("the same, kernel, both ends, KB", |m| m.slow_kernel / 1e3),
];

pub fn print(options: &Options, columns: &[Column]) {
    println!(
        "\n### Peers, {} connections, 200 B, median of {} (each cell: times Herald's, figure)\n",
        options.clients, options.runs
    );
    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    println!("| | {} |", names.join(" | "));
    println!("|---|{}", "---|".repeat(columns.len()));
    for (name, of) in ROWS {
        let own = columns.first().and_then(|column| column.median(of));
        let cells: Vec<_> = (columns.iter())
            .map(|column| match (column.median(of), own) {
                (None, _) => "–".to_owned(),
                (Some(value), Some(own)) if own > 0.0 => {
                    format!("{:.2}× · {}", value / own, short(value))
                }
                (Some(value), _) => short(value),
            })
            .collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
    println!();
    for column in columns {
        let mut notes: Vec<&str> = Vec::new();
        notes.extend(column.why_not.as_deref());
        notes.extend(
            column
                .runs
                .iter()
                .flat_map(|run| &run.remarks)
                .map(String::as_str),
        );
        let notes = match notes[..] {
            [] => String::new(),
            _ => format!("; {}", notes.join("; ")),
        };
        println!("* {}: {}{notes}", column.name, column.version);
    }
}
