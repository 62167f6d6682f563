//! The whole fleet in one thread and in virtual time: the product's own session, lanes, table, flights, flows,
//! router, tracker, sync, registry, pacing and slots, and the load tool's clients, under faults chosen by a
//! seed. After each event the promises are looked at; a seed that breaks one tells its shortest story.
//!
//! `HERALD_SIMULATION_SEEDS` is how many seeds, `HERALD_SIMULATION_SEED` which one alone.

mod client;
mod dispatcher;
mod elsewhere;
mod faults;
mod gateway;
mod ledger;
mod parts;
mod plan;
mod search;
mod world;

use ledger::Violation;
use plan::{Broken, Plan, What};

/// Seeds of a run by itself; `make chaos` takes thousands.
const SEEDS: u64 = 300;
/// A rule left out is found within so many.
const SEEDS_TO_FIND: u64 = 400;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
    )
}

#[test]
fn whatever_goes_wrong_the_promises_are_kept() {
    let seeds = match number("HERALD_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HERALD_SIMULATION_SEEDS").unwrap_or(SEEDS),
    };
    search::none(seeds, |seed| Plan::from_seed(seed, Broken::Nothing));
}

#[test]
fn whoever_stayed_connected_has_everything_soon_after_the_registry_is_back() {
    let seeds = match number("HERALD_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HERALD_SIMULATION_SEEDS").unwrap_or(SEEDS),
    };
    search::none(seeds, |seed| Plan::without_registry(seed, Broken::Nothing));
}

#[test]
fn no_survivor_is_stampeded_when_a_gateway_of_hundreds_dies() {
    search::none(0..2, |seed| {
        Plan::stampede(seed, Broken::Nothing, What::CrashGateway(seed as usize % 3))
    });
}

#[test]
fn no_sibling_is_stampeded_when_a_gateway_of_hundreds_is_drained() {
    search::none(0..2, |seed| {
        Plan::stampede(seed, Broken::Nothing, What::DrainGateway(seed as usize % 3))
    });
}

fn is_found(broken: Broken, promise: &str) -> (Plan, Violation) {
    let plan = |seed| Plan::from_seed(seed, broken);
    let found = search::first(0..SEEDS_TO_FIND, plan, promise);
    let (plan, violation) = found.unwrap_or_else(|| panic!("{broken:?} does not break it"));
    println!("seed {}: {}", plan.seed, violation.text);
    (plan, violation)
}

#[test]
fn looking_up_before_storing_is_found() {
    is_found(Broken::LookUpFirst, "in calm everything arrives at once");
}

#[test]
fn a_cursor_that_passes_over_a_hole_is_found_and_its_story_is_short() {
    let (plan, violation) = is_found(Broken::CursorOverHoles, "the cursor passed over a hole");
    let short = search::shrink(plan.clone(), violation);
    println!("{short}");
    assert!(short.plan.posts.len() < plan.posts.len());
    assert!(short.plan.faults.len() < plan.faults.len());
    let last = short.story.last().expect("a story");
    assert!(last.contains("live"), "the end is where it shows: {last}");
}

#[test]
fn a_commit_before_the_outcome_is_found() {
    is_found(Broken::CommitFirst, "a commit waits for the outcome");
}

#[test]
fn epochs_that_begin_anew_are_found() {
    is_found(Broken::EpochsBeginAnew, "epochs rise and never repeat");
}

#[test]
fn a_sweep_that_does_not_look_at_the_epoch_is_found() {
    is_found(Broken::SweepBlindly, "a sweep takes nothing that lives");
}

#[test]
fn a_memory_that_nobody_looks_after_is_found() {
    let plan = |seed| Plan::without_registry(seed, Broken::NoSecondLook);
    let promise = "who is connected gets everything, or is told";
    let found = search::first(0..SEEDS_TO_FIND, plan, promise);
    let (plan, violation) = found.expect("a device that misses something");
    println!("seed {}: {}", plan.seed, violation.text);
}

#[test]
fn sending_clients_away_blindly_is_found() {
    let plan = |seed| Plan::stampede(seed, Broken::EvictBlindly, What::DrainGateway(0));
    let found = search::first(0..1, plan, "no gateway is stampeded");
    assert!(found.is_some(), "siblings that are stampeded");
}
