//! Every order in which connect, registry write, store read, sync, store, look-up, push, live frames,
//! unregister and reconnect can happen to one user: the client has no hole it can't see, and none that
//! it is told is closed. And each rule the design gives for it is needed: broken, the search finds the
//! order in which the client is deceived.

mod model;

use hashbrown::HashMap;
use model::{Rules, SOUND, Scenario, State, Step};

/// An order of steps that ends badly, and why.
struct Violation {
    trace: Vec<Step>,
    problem: &'static str,
}

/// Visits every reachable state once; counts the orders that lead through them.
struct Search {
    scenario: Scenario,
    /// Orders from a visited state to the end.
    orders: HashMap<State, f64>,
    trace: Vec<Step>,
}

/// No order is longer: every step uses something up.
const STEPS_MAX: usize = 100;

impl Search {
    fn run(scenario: Scenario) -> Result<(usize, f64), Violation> {
        let mut search = Search {
            scenario,
            orders: HashMap::new(),
            trace: Vec::new(),
        };
        let orders = search.visit(&State::start())?;
        Ok((search.orders.len(), orders))
    }

    fn visit(&mut self, state: &State) -> Result<f64, Violation> {
        if let Some(&orders) = self.orders.get(state) {
            return Ok(orders);
        }
        assert!(
            self.trace.len() < STEPS_MAX,
            "it never ends: {:?}",
            self.trace
        );
        self.check(state.tells_no_lie(&self.scenario), "a hole is told closed")?;
        let steps = state.steps(&self.scenario);
        let mut orders = 0.0;
        if steps.iter().all(|step| step.is_optional()) {
            orders = 1.0;
            let whole = state.has_everything(&self.scenario);
            let unseen = state.has_unseen_hole(&self.scenario);
            self.check(whole || !unseen, "a hole that can't be seen")?;
            self.check(whole, "a hole that nothing heals")?;
        }
        for step in steps {
            self.trace.push(step);
            orders += self.visit(&state.after(&self.scenario, step))?;
            self.trace.pop();
        }
        self.orders.insert(state.clone(), orders);
        Ok(orders)
    }

    fn check(&self, holds: bool, problem: &'static str) -> Result<(), Violation> {
        if holds {
            return Ok(());
        }
        Err(Violation {
            trace: self.trace.clone(),
            problem,
        })
    }
}

const PLAIN: Scenario = Scenario {
    rules: SOUND,
    batches: &[1, 1, 1],
    broadcast: false,
    gateways: [0, 1],
    superseded: None,
    read_mark: None,
    page: 50,
    sheds: 0,
    registry_losses: 0,
    stale_reads: 0,
    repeats: 0,
};

/// Same and other gateway for the second connection.
fn both_ways_to_come_back(scenario: Scenario) -> [Scenario; 2] {
    [[0, 0], [0, 1]].map(|gateways| Scenario {
        gateways,
        ..scenario
    })
}

fn holds(scenario: Scenario) {
    for scenario in both_ways_to_come_back(scenario) {
        match Search::run(scenario) {
            Ok((states, orders)) => {
                println!("{states} states, {orders:.0e} orders");
                assert!(
                    orders > 1_000.0,
                    "too few orders to mean anything: {orders}"
                );
            }
            Err(Violation { trace, problem }) => panic!("{problem}: {trace:?} in {scenario:?}"),
        }
    }
}

/// The problem found, in whichever way of coming back shows it first.
fn finds(scenario: Scenario) -> &'static str {
    let found = both_ways_to_come_back(scenario)
        .into_iter()
        .find_map(|scenario| Search::run(scenario).err());
    let Violation { trace, problem } = found.expect("an order in which the client is deceived");
    println!("{problem}: {trace:?}");
    problem
}

fn broken(rules: Rules) -> Scenario {
    Scenario { rules, ..PLAIN }
}

#[test]
fn in_every_order_a_client_ends_with_every_row() {
    holds(PLAIN);
}

#[test]
fn rows_of_one_batch_change_nothing() {
    holds(Scenario {
        batches: &[2, 1],
        ..PLAIN
    });
}

#[test]
fn a_read_mark_is_never_passed_over() {
    holds(Scenario {
        read_mark: Some((2, 1)),
        repeats: 1,
        ..PLAIN
    });
}

#[test]
fn superseded_rows_are_left_out_and_their_range_is_covered() {
    holds(Scenario {
        superseded: Some((1, 3)),
        ..PLAIN
    });
    holds(Scenario {
        superseded: Some((2, 3)),
        ..PLAIN
    });
}

#[test]
fn a_sync_in_parts_leaves_nothing_out() {
    holds(Scenario { page: 1, ..PLAIN });
}

#[test]
fn what_a_gateway_sheds_is_healed() {
    holds(Scenario {
        batches: &[1, 1],
        sheds: 2,
        ..PLAIN
    });
}

#[test]
fn a_registry_that_forgets_costs_a_sync_and_no_row() {
    holds(Scenario {
        batches: &[1, 1],
        registry_losses: 1,
        ..PLAIN
    });
}

#[test]
fn a_read_that_lacks_a_row_deceives_nobody() {
    holds(Scenario {
        stale_reads: 1,
        ..PLAIN
    });
}

#[test]
fn several_faults_at_once_are_healed_as_well() {
    holds(Scenario {
        batches: &[1, 1],
        superseded: Some((1, 2)),
        sheds: 1,
        registry_losses: 1,
        ..PLAIN
    });
}

#[test]
fn a_gateway_that_starts_in_the_middle_misses_no_broadcast() {
    holds(Scenario {
        broadcast: true,
        sheds: 1,
        ..PLAIN
    });
}

#[test]
fn looking_up_before_storing_is_found_out() {
    let problem = finds(broken(Rules {
        store_before_look_up: false,
        ..SOUND
    }));
    assert_eq!(problem, "a hole that can't be seen");
}

#[test]
fn reading_the_store_before_the_registry_write_is_found_out() {
    let problem = finds(broken(Rules {
        register_before_reading: false,
        ..SOUND
    }));
    assert_eq!(problem, "a hole that can't be seen");
}

#[test]
fn counting_as_behind_before_registering_anew_is_found_out() {
    let scenario = broken(Rules {
        register_before_behind: false,
        ..SOUND
    });
    let problem = finds(Scenario {
        registry_losses: 1,
        ..scenario
    });
    assert_eq!(problem, "a hole that can't be seen");
}

#[test]
fn letting_any_sync_vouch_for_what_was_missed_is_found_out() {
    let scenario = broken(Rules {
        only_later_syncs_vouch: false,
        ..SOUND
    });
    let problem = finds(Scenario {
        sheds: 1,
        ..scenario
    });
    assert_eq!(problem, "a hole that can't be seen");
}

#[test]
fn shedding_in_silence_is_found_out() {
    let scenario = broken(Rules {
        shed_is_missed: false,
        ..SOUND
    });
    let problem = finds(Scenario {
        sheds: 1,
        ..scenario
    });
    assert_eq!(problem, "a hole that can't be seen");
}

#[test]
fn recovered_over_a_read_that_lacks_a_row_is_found_out() {
    let scenario = broken(Rules {
        honest_recovered: false,
        ..SOUND
    });
    let problem = finds(Scenario {
        stale_reads: 1,
        ..scenario
    });
    assert_eq!(problem, "a hole is told closed");
}

#[test]
fn producing_a_broadcast_before_storing_it_is_found_out() {
    let scenario = broken(Rules {
        store_before_look_up: false,
        ..SOUND
    });
    let problem = finds(Scenario {
        broadcast: true,
        ..scenario
    });
    assert_eq!(problem, "a hole that can't be seen");
}

#[test]
fn accepting_before_the_end_of_broadcast_is_noted_is_found_out() {
    let scenario = broken(Rules {
        note_before_accepting: false,
        ..SOUND
    });
    let problem = finds(Scenario {
        broadcast: true,
        ..scenario
    });
    assert_eq!(problem, "a hole that can't be seen");
}
