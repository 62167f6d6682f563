//! Runs seeds, two at a time; the first that breaks a promise is made as small as it can be and told.

use crate::{ledger::Violation, plan::Plan, world::World};
use std::{
    fmt,
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// CI has as many cores.
const THREADS: usize = 2;
/// Events spent on making a story shorter: some ten seconds.
const SHRINK_EVENTS_MAX: u64 = 3_000_000;

/// A broken promise and its shortest story.
pub struct Found {
    pub plan: Plan,
    violation: Violation,
    pub story: Vec<String>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { promise, text, .. } = &self.violation;
        writeln!(f, "seed {}: {promise}: {text}", self.plan.seed)?;
        self.story.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Fails with the story of the first seed that breaks a promise.
pub fn none(seeds: Range<u64>, plan: impl Fn(u64) -> Plan + Sync) {
    let count = seeds.end - seeds.start;
    let events = AtomicU64::new(0);
    let copies = AtomicU64::new(0);
    let found = search(seeds, &plan, None, |world| {
        events.fetch_add(world.events, Ordering::Relaxed);
        copies.fetch_max(u64::from(world.ledger.copies_max), Ordering::Relaxed);
    });
    if let Some((plan, violation)) = found {
        let found = shrink(plan, violation);
        panic!("{found}\nagain: HERALD_SIMULATION_SEED={}", found.plan.seed);
    }
    let (events, copies) = (events.into_inner(), copies.into_inner());
    println!("{count} seeds, {events} events, {copies} live copies of one notification at most");
}

/// The first of the seeds that breaks this promise: how, and the plan as it came. What breaks one may break another first.
pub fn first(
    seeds: Range<u64>,
    plan: impl Fn(u64) -> Plan + Sync,
    promise: &str,
) -> Option<(Plan, Violation)> {
    search(seeds, &plan, Some(promise), |_| {})
}

fn search(
    seeds: Range<u64>,
    plan: &(impl Fn(u64) -> Plan + Sync),
    promise: Option<&str>,
    kept: impl Fn(&World) + Sync,
) -> Option<(Plan, Violation)> {
    let next = AtomicU64::new(seeds.start);
    let found: Mutex<Option<(u64, Violation)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let over = found.lock().expect("no panic").is_some();
                    if seed >= seeds.end || over {
                        return;
                    }
                    let mut world = World::new(plan(seed));
                    match world.run() {
                        Ok(()) => kept(&world),
                        Err(violation) if promise.is_some_and(|one| one != violation.promise) => {}
                        Err(violation) => {
                            let mut found = found.lock().expect("no panic");
                            // The lowest, whichever thread was faster.
                            if found.as_ref().is_none_or(|(other, _)| seed < *other) {
                                *found = Some((seed, violation));
                            }
                        }
                    }
                }
            });
        }
    });
    let (seed, violation) = found.into_inner().expect("no panic")?;
    Some((plan(seed), violation))
}

/// Leaves out whatever the story does without.
pub fn shrink(mut plan: Plan, mut violation: Violation) -> Found {
    let mut events = 0;
    'smaller: loop {
        for candidate in plan.smaller() {
            if events > SHRINK_EVENTS_MAX {
                break 'smaller;
            }
            let mut world = World::new(candidate.clone());
            let kept = world.run();
            events += world.events;
            if let Err(other) = kept
                && other.promise == violation.promise
            {
                (plan, violation) = (candidate, other);
                continue 'smaller;
            }
        }
        break;
    }
    let mut world = World::new(plan.clone());
    world.keep_story();
    let story = match world.run() {
        Err(violation) => world.story_of(&violation),
        Ok(()) => vec!["the same plan told another story: a run is not reproducible".to_owned()],
    };
    Found {
        plan,
        violation,
        story,
    }
}
