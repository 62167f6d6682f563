use super::*;

const TICK: Duration = limits::CANARY_TICK;

/// Two cores with a connection each.
fn legs() -> Legs {
    let mut legs = Legs::new(2);
    legs.opened(0);
    legs.opened(1);
    legs
}

/// Time as it passes for a process that runs; `each` tick something may happen.
fn pass(legs: &mut Legs, time: Duration, mut each: impl FnMut(&mut Legs)) {
    let mut left = time;
    while left > Duration::ZERO {
        legs.pass(TICK);
        left = left.saturating_sub(TICK);
        each(legs);
    }
}

fn wait(legs: &mut Legs, time: Duration) {
    pass(legs, time, |_| {});
}

#[test]
fn a_round_that_comes_through_leaves_nothing_stuck_however_much_time_passes() {
    let mut legs = legs();
    for probe in 0..50 {
        legs.appended(0, probe * 3);
        wait(&mut legs, Duration::from_secs(1));
        legs.read(0, probe * 3 + 1);
        for core in 0..2 {
            legs.given(core, probe);
            legs.acknowledged(core, probe);
        }
        legs.reported();
        legs.accepted();
        wait(&mut legs, limits::CANARY_EVERY);
        assert_eq!(legs.stuck(), Stuck::default());
    }
}

#[test]
fn a_core_that_does_not_answer_is_named_and_the_other_is_not() {
    let mut legs = legs();
    for core in 0..2 {
        legs.given(core, 1);
    }
    legs.acknowledged(0, 1);
    wait(&mut legs, limits::CANARY_STUCK);
    assert_eq!(legs.stuck().silent, [1]);
    legs.acknowledged(1, 1);
    assert_eq!(legs.stuck(), Stuck::default());
}

#[test]
fn the_answer_to_an_earlier_probe_does_not_stand_in_for_a_later_one() {
    let mut legs = legs();
    legs.given(0, 5);
    legs.acknowledged(0, 4);
    wait(&mut legs, limits::CANARY_STUCK);
    assert_eq!(legs.stuck().silent, [0]);
    legs.acknowledged(0, 6);
    assert!(legs.stuck().silent.is_empty());
}

#[test]
fn a_core_without_a_connection_is_named_only_if_none_could_be_opened() {
    let mut legs = Legs::new(2);
    legs.opened(0);
    wait(&mut legs, limits::CANARY_STUCK * 2);
    assert_eq!(legs.stuck(), Stuck::default());
    legs.refused();
    assert_eq!(legs.stuck().closed, [1]);
    legs.opened(1);
    assert_eq!(legs.stuck(), Stuck::default());
    legs.closed(1);
    assert_eq!(legs.stuck(), Stuck::default());
}

#[test]
fn a_reader_that_stands_still_is_named_if_the_broker_answers() {
    let mut legs = legs();
    legs.appended(1, 7);
    wait(&mut legs, limits::CANARY_STUCK / 2);
    assert!(legs.doubts_reading(1) && !legs.doubts_reading(0));
    legs.broker_answered(1, true);
    assert_eq!(legs.stuck(), Stuck::default());
    wait(&mut legs, limits::CANARY_STUCK / 2);
    assert_eq!(legs.stuck().unread, [1]);
    legs.read(1, 8);
    assert_eq!(legs.stuck(), Stuck::default());
}

#[test]
fn a_reader_is_not_blamed_for_a_broker_that_does_not_answer_nor_right_after_it_came_back() {
    let mut legs = legs();
    legs.appended(0, 7);
    pass(&mut legs, limits::CANARY_STUCK * 3, |legs| {
        if legs.doubts_reading(0) {
            legs.broker_answered(0, false);
        }
        assert_eq!(legs.stuck(), Stuck::default());
    });
    pass(&mut legs, limits::CANARY_STUCK - TICK * 2, |legs| {
        if legs.doubts_reading(0) {
            legs.broker_answered(0, true);
        }
        assert!(legs.stuck().unread.is_empty());
    });
    legs.read(0, 8);
    assert_eq!(legs.stuck(), Stuck::default());
}

#[test]
fn a_backlog_is_not_stuck_as_long_as_the_position_moves() {
    let mut legs = legs();
    legs.appended(0, 1_000_000);
    let mut next = 0;
    pass(&mut legs, limits::CANARY_STUCK * 10, |legs| {
        next += 1;
        legs.read(0, next);
        legs.broker_answered(0, true);
        assert_eq!(legs.stuck(), Stuck::default());
    });
    assert!(legs.is_unread(0));
}

#[test]
fn a_reader_without_room_for_more_is_not_the_one_to_blame() {
    let mut legs = legs();
    legs.appended(0, 7);
    pass(&mut legs, limits::CANARY_STUCK * 2, |legs| {
        legs.has_no_room(0);
        legs.broker_answered(0, true);
        assert_eq!(legs.stuck(), Stuck::default());
    });
}

#[test]
fn outcomes_that_only_our_stream_does_not_get_accepted_are_our_fault() {
    let mut legs = legs();
    legs.reported();
    pass(&mut legs, limits::CANARY_STUCK, |legs| {
        if legs.doubts_acceptance() {
            legs.dispatcher_answered(true);
        }
    });
    assert_eq!(
        legs.stuck(),
        Stuck {
            unaccepted: true,
            ..Stuck::default()
        }
    );
    legs.accepted();
    assert_eq!(legs.stuck(), Stuck::default());
}

#[test]
fn outcomes_that_no_dispatcher_accepts_are_a_shared_fault_and_its_end_blames_nobody() {
    let mut legs = legs();
    legs.reported();
    pass(&mut legs, limits::CANARY_STUCK * 3, |legs| {
        if legs.doubts_acceptance() {
            legs.dispatcher_answered(false);
        }
        assert!(!legs.stuck().unaccepted);
    });
    assert!(legs.stuck().nobody_accepts);
    // Back: what waited is accepted within seconds.
    pass(&mut legs, limits::CANARY_STUCK / 2 + TICK, |legs| {
        if legs.doubts_acceptance() {
            legs.dispatcher_answered(true);
        }
        assert!(!legs.stuck().unaccepted);
    });
    legs.accepted();
    assert_eq!(legs.stuck(), Stuck::default());
}

#[test]
fn a_process_that_was_stopped_for_minutes_finds_nothing_stuck() {
    let mut legs = legs();
    legs.appended(0, 7);
    legs.given(0, 1);
    legs.reported();
    wait(&mut legs, Duration::from_secs(1));
    legs.pass(Duration::from_secs(600));
    assert_eq!(legs.stuck(), Stuck::default());
    assert!(!legs.doubts_reading(0) && !legs.doubts_acceptance());
}

#[test]
fn with_another_shard_or_none_nothing_of_the_former_is_waited_for() {
    let mut legs = legs();
    legs.appended(0, 7);
    legs.given(0, 1);
    legs.reported();
    wait(&mut legs, limits::CANARY_STUCK * 2);
    legs.start_afresh();
    assert_eq!(legs.stuck(), Stuck::default());
    wait(&mut legs, limits::CANARY_STUCK * 2);
    assert_eq!(legs.stuck(), Stuck::default());
}
