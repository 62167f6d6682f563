//! Figures of several runs as a Markdown table: least, median, and the floor's beside.

/// What one run says of one subject.
pub struct Figure {
    pub name: String,
    pub unit: &'static str,
    pub runs: Vec<f64>,
    /// Of the same runs; empty where there is no floor.
    pub floor: Vec<f64>,
}

impl Figure {
    pub fn new(name: impl Into<String>, unit: &'static str) -> Figure {
        Figure {
            name: name.into(),
            unit,
            runs: Vec::new(),
            floor: Vec::new(),
        }
    }
}

pub fn print(title: &str, floor: &str, figures: &[Figure]) {
    println!("\n### {title}\n");
    println!("| | unit | min | median | {floor}: min | median | ratio of medians |");
    println!("|---|---|---|---|---|---|---|");
    for figure in figures {
        let (least, median) = summary(&figure.runs);
        let name = &figure.name;
        let own = format!(
            "| {name} | {} | {} | {} |",
            figure.unit,
            short(least),
            short(median)
        );
        match figure.floor[..] {
            [] => println!("{own} – | – | – |"),
            _ => {
                let (floor_least, floor_median) = summary(&figure.floor);
                let ratio = short(median / floor_median);
                println!(
                    "{own} {} | {} | {ratio} |",
                    short(floor_least),
                    short(floor_median)
                );
            }
        }
    }
}

/// Least and median.
fn summary(runs: &[f64]) -> (f64, f64) {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    (sorted[0], sorted[sorted.len() / 2])
}

/// Three digits that say something.
pub fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
