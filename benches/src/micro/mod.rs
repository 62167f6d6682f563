//! Steps of the path by themselves, each beside a bare loop that does the least the step must do.

mod frames;
mod lookup;
mod mailbox;
mod writes;

use crate::table::{self, Figure};
use anyhow::Result;
use std::{hint::black_box, time::Instant};

pub async fn run(runs: usize) -> Result<()> {
    eprintln!("micro: frames, mailbox, look-up, write paths");
    let mut figures = frames::figures(runs);
    figures.extend(mailbox::figures(runs).await?);
    let title = format!("Steps by themselves, {runs} runs");
    table::print(&title, "bare loop", &figures);
    let figures = lookup::figures(runs).await?;
    table::print("Router's look-up, per user", "bare loop", &figures);
    let figures = writes::figures(runs)?;
    table::print("Write paths", "a system call each", &figures);
    Ok(())
}

/// ns of one of `count` turns.
fn each_ns<T>(count: u32, mut turn: impl FnMut() -> T) -> f64 {
    // The first ones pay for cold caches.
    for _ in 0..count / 10 {
        black_box(turn());
    }
    let began = Instant::now();
    for _ in 0..count {
        black_box(turn());
    }
    began.elapsed().as_secs_f64() * 1e9 / f64::from(count)
}

/// Both loops `runs` times, in turn, so that what else happens on the machine hits both.
fn compare<T, B>(
    name: &str,
    (runs, count): (usize, u32),
    mut turn: impl FnMut() -> T,
    mut bare: impl FnMut() -> B,
) -> Figure {
    let mut figure = Figure::new(name, "ns");
    for _ in 0..runs {
        figure.runs.push(each_ns(count, &mut turn));
        figure.floor.push(each_ns(count, &mut bare));
    }
    figure
}
