//! A real fleet under load, faults chosen by a seed, and then the account of every notification: accepted and
//! not lost, live to whom it should have been live, nothing that nobody posted.
//!
//! `HERALD_SEED` repeats a run; `HERALD_CHAOS_ROUNDS` makes it a long one: as many rounds, each with a fleet and
//! a seed of its own, all kinds of faults, more clients. `HERALD_CHAOS_ONLY=BrokerDies` leaves only faults whose
//! names begin so; `HERALD_CHAOS_USERS` users instead of 500 suit a machine that has other things to do.

mod accounting;
mod disk;
mod faults;
mod inbox;
mod returned;
mod scene;
mod verdict;

use faults::{Fault, Window};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use scene::{Scene, Size};
use std::time::Duration;

/// Of the run in `make test`: the faults that cost least time.
const SHORT: Size = Size {
    users: 100,
    devices: 2,
    posts_per_s: 20,
};
const LONG: Size = Size {
    users: 500,
    devices: 2,
    posts_per_s: 30,
};
/// The first seed of a run that names none.
const SEED: u64 = 1;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_nothing_accepted_is_lost_and_who_stayed_connected_got_it_live() {
    let number = |name| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    let rounds = number("HERALD_CHAOS_ROUNDS");
    let first = number("HERALD_SEED").unwrap_or(SEED);
    for seed in first..first + rounds.unwrap_or(1) {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut size, mut faults) = match rounds {
            None => (SHORT, Fault::short(&mut random)),
            Some(_) => (LONG, Fault::all(&mut random)),
        };
        size.users = number("HERALD_CHAOS_USERS").map_or(size.users, |users| users as usize);
        faults.shuffle(&mut random);
        if let Ok(only) = std::env::var("HERALD_CHAOS_ONLY") {
            faults.retain(|fault| format!("{fault:?}").starts_with(&only));
        }
        round(seed, size, faults, rounds.is_some()).await;
    }
}

/// One fleet, these faults one after the other, and the verdict.
async fn round(seed: u64, size: Size, faults: Vec<Fault>, is_long: bool) {
    let mut scene = Scene::start(seed, size, is_long).await;
    let mut windows = vec![Window::calm(Duration::from_secs(3)).await];
    for fault in faults {
        // One that never ends is the last that was named.
        println!("seed {seed}: {fault:?}");
        windows.push(fault.happen(&mut scene).await);
    }
    let accounts = scene.account().await;
    let verdict = verdict::judge(&windows, &accounts, is_long);
    println!("seed {seed}, {size:?}\n{verdict}");
    if !verdict.is_good() {
        panic!("seed {seed} (HERALD_SEED={seed} repeats it)\n{verdict}");
    }
}
