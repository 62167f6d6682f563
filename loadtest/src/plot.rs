//! Line charts as SVG text: axes with round steps, a legend, nothing that needs a script.

use std::fmt::Write;

const WIDTH: f64 = 680.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 34.0;
/// Points of a line; longer ones are thinned, keeping the highest of each piece.
const POINTS_MAX: usize = 600;

/// How values of the vertical axis are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Count,
    Bytes,
    Ms,
    Cpus,
}

/// How the horizontal axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Across {
    Seconds,
    /// Nines of a percentile: 0 is the median's side, 1 is 90 %, 2 is 99 %.
    Nines,
}

pub struct Chart<'a> {
    pub title: &'a str,
    pub unit: Unit,
    pub across: Across,
    /// The vertical axis by powers of ten.
    pub logarithmic: bool,
    pub lines: Vec<Line<'a>>,
}

pub struct Line<'a> {
    pub name: &'a str,
    /// Which of the page's colours: 1 to 6.
    pub colour: usize,
    pub points: Vec<(f64, f64)>,
}

impl Chart<'_> {
    /// A figure with its heading; empty when there is nothing to draw.
    pub fn svg(&self) -> String {
        let lines = self.lines.iter().filter(|line| !line.points.is_empty());
        let lines: Vec<_> = lines.collect();
        let Some(scale) = Scale::of(self, &lines) else {
            return String::new();
        };
        let mut svg = format!(
            "<figure><figcaption>{}</figcaption><div class=legend>",
            self.title
        );
        for line in &lines {
            let _ = write!(svg, "<span class=k{}>{}</span>", line.colour, line.name);
        }
        let _ = write!(
            svg,
            "</div><svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img aria-label='{}'>",
            self.title
        );
        scale.grid(self, &mut svg);
        for line in &lines {
            let _ = write!(
                svg,
                "<path class=c{} d='{}'/>",
                line.colour,
                scale.path(&line.points)
            );
        }
        svg.push_str("</svg></figure>");
        svg
    }
}

struct Scale {
    x_min: f64,
    x_max: f64,
    y_min: f64,
    y_max: f64,
    y_step: f64,
    logarithmic: bool,
}

impl Scale {
    fn of(chart: &Chart<'_>, lines: &[&Line<'_>]) -> Option<Scale> {
        let points = || lines.iter().flat_map(|line| &line.points);
        let x_min = points().map(|point| point.0).min_by(f64::total_cmp)?;
        let x_max = points().map(|point| point.0).max_by(f64::total_cmp)?;
        let highest = points().map(|point| point.1).max_by(f64::total_cmp)?;
        let (y_min, y_max, y_step) = match chart.logarithmic {
            true => {
                let lowest = points().map(|point| point.1).filter(|y| *y > 0.0);
                let lowest = lowest.min_by(f64::total_cmp).unwrap_or(0.1);
                let (low, high) = (lowest.log10().floor(), highest.max(0.001).log10().ceil());
                (low, high.max(low + 1.0), 1.0)
            }
            false => {
                let step = round_step(highest.max(1e-9) / 4.0, chart.unit);
                (0.0, (highest / step).ceil().max(1.0) * step, step)
            }
        };
        Some(Scale {
            x_min,
            x_max: x_max.max(x_min + 1.0),
            y_min,
            y_max,
            y_step,
            logarithmic: chart.logarithmic,
        })
    }

    fn x(&self, x: f64) -> f64 {
        LEFT + (x - self.x_min) / (self.x_max - self.x_min) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, y: f64) -> f64 {
        let y = match self.logarithmic {
            true => y.max(1e-9).log10().max(self.y_min),
            false => y,
        };
        HEIGHT - BOTTOM - (y - self.y_min) / (self.y_max - self.y_min) * (HEIGHT - TOP - BOTTOM)
    }

    fn grid(&self, chart: &Chart<'_>, svg: &mut String) {
        let steps = ((self.y_max - self.y_min) / self.y_step).round() as usize;
        for step in 0..=steps {
            let at = self.y_min + step as f64 * self.y_step;
            let value = if self.logarithmic {
                10_f64.powf(at)
            } else {
                at
            };
            let y = self.y(value);
            let _ = write!(
                svg,
                "<line class=grid x1={LEFT} x2={} y1={y:.1} y2={y:.1} /><text x={} y={:.1} text-anchor=end>{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                written(value, chart.unit)
            );
        }
        for (at, text) in self.ticks(chart.across) {
            let x = self.x(at);
            let _ = write!(
                svg,
                "<text x={x:.1} y={} text-anchor=middle>{text}</text>",
                HEIGHT - BOTTOM + 20.0
            );
        }
    }

    fn ticks(&self, across: Across) -> Vec<(f64, String)> {
        match across {
            Across::Nines => {
                let names = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"];
                let all = names.iter().enumerate();
                let all = all.map(|(nines, name)| (nines as f64, (*name).to_owned()));
                all.filter(|(at, _)| *at <= self.x_max).collect()
            }
            Across::Seconds => {
                let span = self.x_max - self.x_min;
                let steps = [
                    1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0,
                ];
                let step = steps.into_iter().find(|step| span / step <= 8.0);
                let step = step.unwrap_or(3_600.0 * (span / 3_600.0 / 8.0).ceil());
                let first = (self.x_min / step).ceil() as i64;
                let last = (self.x_max / step).floor() as i64;
                (first..=last)
                    .map(|n| n as f64 * step)
                    .map(|at| (at, seconds(at)))
                    .collect()
            }
        }
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        let piece = points.len().div_ceil(POINTS_MAX).max(1);
        let mut path = String::new();
        for some in points.chunks(piece) {
            let highest = some
                .iter()
                .max_by(|a, b| a.1.total_cmp(&b.1))
                .expect("not empty");
            let verb = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(
                path,
                "{verb}{:.1} {:.1}",
                self.x(highest.0),
                self.y(highest.1)
            );
        }
        path
    }
}

/// 1, 2 or 5 times a power of ten; of bytes, of two.
fn round_step(least: f64, unit: Unit) -> f64 {
    if unit == Unit::Bytes {
        return 2_f64.powf(least.max(1.0).log2().ceil());
    }
    let power = 10_f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    steps
        .into_iter()
        .find(|step| *step >= least * 0.999)
        .unwrap_or(power * 10.0)
}

fn seconds(at: f64) -> String {
    match at {
        at if at < 0.0 => format!("−{}", seconds(-at)),
        at if at < 120.0 => format!("{at:.0} s"),
        at if at % 60.0 == 0.0 => format!("{:.0} min", at / 60.0),
        at => format!("{:.1} min", at / 60.0),
    }
}

/// A value as a person reads it.
pub fn written(value: f64, unit: Unit) -> String {
    let short = |value: f64| match value {
        0.0 => "0".to_owned(),
        v if v.abs() >= 100.0 || v.fract() == 0.0 => format!("{v:.0}"),
        v if v.abs() >= 10.0 => format!("{v:.1}"),
        v if v.abs() >= 1.0 => format!("{v:.2}"),
        v => format!("{:.1$}", v, (1.0 - v.abs().log10().floor()) as usize),
    };
    match unit {
        Unit::Count => match value {
            v if v >= 1e9 => format!("{} G", short(v / 1e9)),
            v if v >= 1e6 => format!("{} M", short(v / 1e6)),
            v if v >= 1e4 => format!("{} k", short(v / 1e3)),
            v => short(v),
        },
        Unit::Bytes => match value {
            v if v >= 1_073_741_824.0 => format!("{} GiB", short(v / 1_073_741_824.0)),
            v if v >= 1_048_576.0 => format!("{} MiB", short(v / 1_048_576.0)),
            v if v >= 1_024.0 => format!("{} KiB", short(v / 1_024.0)),
            v => format!("{} B", short(v)),
        },
        Unit::Ms => match value {
            v if v >= 10_000.0 => format!("{} s", short(v / 1_000.0)),
            v => format!("{} ms", short(v)),
        },
        Unit::Cpus => short(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>, logarithmic: bool) -> String {
        let line = Line {
            name: "a",
            colour: 1,
            points,
        };
        let chart = Chart {
            title: "t",
            unit: Unit::Count,
            across: Across::Seconds,
            logarithmic,
            lines: vec![line],
        };
        chart.svg()
    }

    #[test]
    fn a_chart_of_nothing_is_nothing() {
        assert_eq!(chart(Vec::new(), false), "");
    }

    #[test]
    fn lines_stay_within_the_picture() {
        for logarithmic in [false, true] {
            let svg = chart(vec![(0.0, 0.0), (10.0, 123_456.0)], logarithmic);
            let path = svg
                .split("d='M")
                .nth(1)
                .and_then(|rest| rest.split('\'').next());
            let numbers = path.expect("a path").split(['L', ' ']);
            let numbers: Vec<f64> = numbers.map(|number| number.parse().unwrap()).collect();
            for pair in numbers.chunks(2) {
                assert!((LEFT..=WIDTH).contains(&pair[0]), "{svg}");
                assert!(
                    (TOP - 0.1..=HEIGHT - BOTTOM + 0.1).contains(&pair[1]),
                    "{svg}"
                );
            }
        }
    }

    #[test]
    fn a_long_line_is_thinned_and_keeps_its_peak() {
        let mut points: Vec<_> = (0..100_000).map(|n| (f64::from(n), 1.0)).collect();
        points[77_777].1 = 1_000.0;
        let svg = chart(points, false);
        assert!(svg.len() < 20_000);
        assert!(
            svg.contains(&format!("{:.1}", TOP)),
            "the peak reaches the top"
        );
    }

    #[test]
    fn values_are_written_for_people() {
        for (value, unit, text) in [
            (500_000.0, Unit::Count, "500 k"),
            (0.25, Unit::Ms, "0.25 ms"),
            (0.5, Unit::Cpus, "0.50"),
            (1_610_612_736.0, Unit::Bytes, "1.50 GiB"),
            (12_500.0, Unit::Ms, "12.5 s"),
        ] {
            assert_eq!(written(value, unit), text);
        }
    }
}
