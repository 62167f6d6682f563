//! The rules, stepped by hand.

use super::*;
use crate::options::Options;
use clap::Parser;
use rand::SeedableRng;

struct World {
    roster: Roster,
    settings: Settings,
    streams: StreamNames,
    tally: Tally,
    random: SmallRng,
    rules: Rules,
    now_ms: u64,
}

impl World {
    fn new() -> World {
        let line = "swarm --url ws://h --dialect plain --no-ack --users 7..9";
        let mut world = World {
            roster: Roster::new(&Options::parse_from(line.split(' '))).unwrap(),
            settings: Settings {
                run: "r".into(),
                acknowledge: true,
                events: false,
                tail: false,
                hole_wait_ms: 1_000,
                expect: None,
                slow_share: 0.0,
                slow_return: false,
            },
            streams: StreamNames::default(),
            tally: Tally::new(false),
            random: SmallRng::seed_from_u64(1),
            rules: Rules::default(),
            now_ms: 10_000,
        };
        world.rules.connecting(10_000);
        world
    }

    fn welcomed() -> World {
        let mut world = World::new();
        world.hear(
            r#"{"type":"welcome","heartbeat_ms":1000,"slot":{"after_ms_min":5,"after_ms_max":9}}"#,
        );
        world
    }

    /// With its place in the stream `s` known.
    fn at(position: u64) -> World {
        let mut world = World::welcomed();
        world.due();
        world.hear(&format!(
            r#"{{"type":"sync","cursors":{{"s":{position}}},"recovered":true,"has_more":false}}"#
        ));
        world
    }

    fn hear(&mut self, json: &str) -> Option<Wish> {
        let frame = ServerFrame::parse(json).expect("a frame");
        let mut ctx = Context {
            settings: &self.settings,
            streams: &mut self.streams,
            tally: &mut self.tally,
            random: &mut self.random,
            roster: Some(&self.roster),
            client: 0,
            now_ms: self.now_ms,
        };
        self.rules.heard(self.now_ms);
        self.rules.receive(&frame, &mut ctx)
    }

    fn due(&mut self) -> Vec<Say> {
        let mut says = Vec::new();
        let mut ctx = Context {
            settings: &self.settings,
            streams: &mut self.streams,
            tally: &mut self.tally,
            random: &mut self.random,
            roster: Some(&self.roster),
            client: 0,
            now_ms: self.now_ms,
        };
        self.rules.due(&mut ctx, &mut says);
        says
    }

    fn whats(&mut self) -> Vec<What> {
        self.due().iter().map(|say| say.what).collect()
    }
}

fn item(pos: u64, prev: u64) -> String {
    let id = Uuid::from_u128(u128::from(pos));
    format!(r#"{{"type":"notification","id":"{id}","stream":"s","pos":{pos},"prev":{prev}}}"#)
}

#[test]
fn a_new_client_asks_where_the_stream_stands() {
    let mut world = World::welcomed();
    let says = world.due();
    assert_eq!(says[0].json, r#"{"type":"sync","cursors":{},"limit":50}"#);
    assert_eq!(world.whats(), [], "one sync at a time");
}

#[test]
fn on_a_stream_of_events_the_first_sync_comes_unasked() {
    let mut world = World::new();
    world.settings.events = true;
    world.hear(r#"{"type":"welcome"}"#);
    assert_eq!(world.whats(), []);
    assert!(world.rules.is_syncing());
    world.hear(r#"{"type":"sync","cursors":{"s":4},"recovered":true,"has_more":false}"#);
    assert!(!world.rules.is_syncing());
    assert_eq!(world.rules.cursors_text(&world.streams), "s=4");
    assert_eq!(world.whats(), []);
}

#[test]
fn the_last_event_of_a_stream_is_a_close() {
    let mut world = World::at(1);
    let wish = world.hear(r#"{"type":"close","code":4510,"reason":"x","come_back":false}"#);
    assert_eq!(wish, Some(Wish::Close(4510)));
    for (code, back) in [
        (1001, true),
        (1012, true),
        (1002, false),
        (1009, false),
        (4403, true),
        (4499, true),
        (4510, false),
    ] {
        assert_eq!(comes_back(code), back, "{code}");
    }
}

#[test]
fn a_sync_without_an_answer_is_asked_again_ever_more_rarely() {
    let mut world = World::welcomed();
    assert_eq!(world.whats(), [What::Sync]);
    for wait_ms in [10_000, 20_000, 40_000] {
        world.now_ms += wait_ms - 1;
        world.rules.heard(world.now_ms);
        assert_eq!(world.whats(), []);
        world.now_ms += 1;
        assert_eq!(world.whats(), [What::Sync]);
    }
    assert!(world.rules.is_syncing());
}

#[test]
fn a_sync_that_is_on_its_way_is_waited_for() {
    let mut world = World::welcomed();
    assert_eq!(world.whats(), [What::Sync]);
    for wait_ms in [10_000, 20_000, 40_000] {
        world.now_ms += wait_ms;
        world.rules.heard(world.now_ms);
        assert_eq!(world.whats(), [What::Sync]);
        world.hear(r#"{"type":"error","code":"unavailable","message":"a sync is on its way"}"#);
        assert_eq!(world.whats(), []);
    }
    world.hear(r#"{"type":"sync","cursors":{"s":7},"recovered":true,"has_more":false}"#);
    assert!(!world.rules.is_syncing());
}

#[test]
fn a_tailing_client_starts_at_the_first_item() {
    let mut world = World::new();
    world.settings.tail = true;
    world.hear(r#"{"type":"welcome"}"#);
    assert_eq!(world.whats(), []);
    world.hear(&item(9, 4));
    assert_eq!(world.rules.cursors_text(&world.streams), "s=9");
    assert!(!world.rules.has_hole());
}

#[test]
fn items_are_acknowledged_together_and_repeats_again() {
    let mut world = World::at(1);
    world.hear(&item(2, 1));
    world.hear(&item(3, 2));
    world.hear(&item(3, 2));
    let says = world.due();
    assert_eq!(says.len(), 1);
    assert_eq!(says[0].json.matches("00000003").count(), 2);
    let counters = world.tally.counters;
    assert_eq!((counters.unique, counters.repeated_live), (2, 1));
    world.hear(&item(4, 3));
    assert_eq!(
        world.whats(),
        [],
        "not more often than the rate limit bears"
    );
    world.now_ms += ACK_EVERY_MS;
    assert_eq!(world.whats(), [What::Ack]);
}

#[test]
fn a_hole_that_lasts_asks_for_a_sync_and_heals_by_it() {
    let mut world = World::at(1);
    world.settings.acknowledge = false;
    world.hear(&item(5, 3));
    assert_eq!(world.whats(), []);
    world.now_ms += 1_000;
    let says = world.due();
    let expected = r#"{"type":"sync","cursors":{"s":1},"limit":50}"#;
    assert_eq!(says[0].json, expected);
    world.hear(&format!(
        r#"{{"type":"sync","items":[{}],"range":{{"s":{{"from":1,"to":5}}}},
            "cursors":{{"s":5}},"recovered":true,"has_more":false}}"#,
        item(3, 1)
    ));
    let counters = world.tally.counters;
    assert_eq!((counters.holes_seen, counters.holes_healed), (1, 1));
    assert_eq!((counters.by_sync, counters.syncs_false), (1, 0));
    assert_eq!(world.rules.cursors_text(&world.streams), "s=5");
}

#[test]
fn a_hole_that_closes_by_itself_asks_for_nothing() {
    let mut world = World::at(1);
    world.settings.acknowledge = false;
    world.hear(&item(5, 3));
    world.hear(&item(3, 1));
    world.now_ms += 5_000;
    world.rules.heard(world.now_ms);
    assert_eq!(world.whats(), []);
    assert_eq!(world.tally.counters.holes_healed, 1);
}

#[test]
fn a_sync_that_claims_recovery_over_a_hole_is_a_fault() {
    let mut world = World::at(1);
    world.hear(
        r#"{"type":"sync","range":{"s":{"from":4,"to":9}},"cursors":{"s":9},"recovered":true,"has_more":false}"#,
    );
    assert_eq!(world.tally.counters.syncs_false, 1);
}

#[test]
fn a_sync_with_more_to_come_goes_on_from_where_it_ended() {
    let mut world = World::at(1);
    world.hear(
        r#"{"type":"sync","range":{"s":{"from":1,"to":4}},"cursors":{"s":4},"recovered":true,"has_more":true}"#,
    );
    assert!(world.due()[0].json.contains(r#""s":4"#));
}

#[test]
fn collapsed_is_no_hole_and_pressure_asks_for_a_sync() {
    let mut world = World::at(1);
    world.hear(r#"{"type":"gap","stream":"s","from":1,"to":4,"cause":"collapsed"}"#);
    assert_eq!(world.rules.cursors_text(&world.streams), "s=4");
    assert_eq!(world.whats(), []);
    world.hear(
        r#"{"type":"gap","stream":"s","from":4,"to":9,"cause":"pressure","sync_after_ms":500}"#,
    );
    assert_eq!(world.whats(), []);
    world.now_ms += 500;
    assert_eq!(world.whats(), [What::Sync]);
}

#[test]
fn silence_is_first_asked_about_then_given_up() {
    let mut world = World::at(1);
    world.now_ms += 2_000;
    assert_eq!(world.whats(), [What::Ping]);
    assert_eq!(world.whats(), []);
    assert!(!world.rules.is_dead(world.now_ms));
    assert!(world.rules.is_dead(world.now_ms + 1_000));
}

#[test]
fn numbers_of_ours_are_told_by_target() {
    let mut world = World::at(1);
    let own = r#""to":"7","#;
    for to in [own, "", own] {
        world.hear(&posted(to));
    }
    let counters = world.tally.counters;
    assert_eq!((counters.unique_own, counters.repeated_live), (2, 1));
    assert_eq!(world.tally.latency_us.len(), 2);
}

/// The first of its target.
fn posted(to: &str) -> String {
    let id = Uuid::now_v7();
    format!(
        r#"{{"type":"notification","id":"{id}","stream":"s","pos":2,"prev":1,
            "data":{{"swarm":"r",{to}"n":1,"at_us":1}}}}"#
    )
}

#[test]
fn what_was_posted_for_somebody_else_is_neither_news_nor_a_repeat() {
    let mut world = World::at(1);
    for to in [r#""to":"8","#, r#""to":"7","#, r#""to":"8","#] {
        world.hear(&posted(to));
    }
    let counters = world.tally.counters;
    assert_eq!((counters.misdelivered, counters.received), (2, 3));
    assert_eq!((counters.unique, counters.repeated()), (1, 0));
    assert_eq!(world.tally.latency_us.len(), 1);
}

#[test]
fn a_client_comes_back_within_the_slot_and_then_backs_off() {
    let mut random = SmallRng::seed_from_u64(3);
    let slot = Slot {
        after_ms_min: 40_000,
        after_ms_max: 90_000,
    };
    for _ in 0..100 {
        let first = come_back_after_ms(slot, 0, 500, &mut random);
        assert!((40_000..=90_000).contains(&first));
        let none = Slot::default();
        assert!((250..=500).contains(&come_back_after_ms(none, 0, 500, &mut random)));
        assert!((4_000..=8_000).contains(&come_back_after_ms(none, 4, 500, &mut random)));
        assert!(come_back_after_ms(none, 60, 500, &mut random) <= 30_000);
    }
}

#[test]
fn a_server_that_goes_away_in_good_order_says_when_to_return() {
    let mut world = World::welcomed();
    let wish = world.hear(r#"{"type":"reconnect","after_ms":700,"reason":"drain"}"#);
    assert_eq!(wish, Some(Wish::ReconnectAfter(700)));
    world.hear(r#"{"type":"slot","after_ms_min":1,"after_ms_max":2}"#);
    assert_eq!(world.rules.slot().after_ms_max, 2);
}

#[test]
fn items_of_a_lane_that_come_out_of_order_are_counted_and_other_lanes_are_not_compared() {
    let mut world = World::at(1);
    for (pos, priority) in [(5, "normal"), (4, "high"), (9, "normal"), (7, "normal")] {
        let id = Uuid::from_u128(pos);
        world.hear(&format!(
            r#"{{"type":"notification","id":"{id}","stream":"s","pos":{pos},"prev":1,"priority":"{priority}"}}"#
        ));
    }
    assert_eq!(world.tally.counters.out_of_order, 1);
}

#[test]
fn a_client_that_stops_reading_has_no_latency_and_is_expected_only_if_it_reads_again() {
    for (slow_return, expected) in [(false, 0), (true, 1)] {
        let mut world = World::at(1);
        (world.settings.slow_share, world.settings.slow_return) = (1.0, slow_return);
        world.hear(&posted(r#""to":"7","#));
        assert_eq!(world.tally.latency_us.len(), 0);
        assert_eq!(world.tally.counters.unique_own, expected);
    }
}
