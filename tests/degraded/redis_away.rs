//! Redis stands still, or refuses writes: users are pushed to where they were; who is unknown, or has moved, is looked for at every
//! gateway by one record, and those that do not hold the user say nothing.

use crate::{
    WAIT, World, device,
    load::{Accepted, post, post_to_all},
    print_clock,
    said::Mark,
};
use herald::bus::Topic;
use serde_json::Value;
use testbed::{Fleet, Herald, api::sum_of};

/// Notifications to each user in one measurement.
const TIMES: usize = 25;

pub async fn users_are_found_where_they_were_or_by_asking_everyone_once(world: &mut World) {
    everyone_is_where_they_are(world).await;
    let (once, by_all) = (1, world.fleet.gateways.len());
    world.costs("with Redis", once).await;
    let marks: Vec<Mark> = processes(&world.fleet).map(Mark::of).collect();
    world.fleet.redis.freeze();
    let clock = world.clock("registry");
    world.gateways_name("registry", true).await;
    print_clock("Redis", clock).await;
    dispatcher_names_the_registry(world).await;
    world.costs("without Redis, known users", once).await;

    // u0 leaves its gateway for another; the dispatcher learns it from the first one's answer.
    let before = world.fleet.records(Topic::Broadcast).await;
    world.clients[0] = device(&world.fleet, 0, 1);
    holds_u0(&world.fleet, 0, false).await;
    holds_u0(&world.fleet, 1, true).await;
    let moved = post_to_all(&world.fleet, 1).await;
    world.pushed("who has moved", &moved).await;
    assert_eq!(world.fleet.records(Topic::Broadcast).await, before + 1);
    for (mark, process) in marks.iter().zip(processes(&world.fleet)) {
        mark.was_said_once(process, "check the server and redis.url");
    }

    // A dispatcher that knows nobody.
    let log = Mark::of(&world.fleet.dispatchers[0].process);
    let dispatcher = &mut world.fleet.dispatchers[0].process;
    dispatcher.signal(libc::SIGTERM);
    dispatcher.wait();
    dispatcher.start();
    world
        .pushed(
            "by a new dispatcher",
            &post_when_it_answers(&world.fleet).await,
        )
        .await;
    world.costs("without Redis, unknown users", by_all).await;
    let metrics = world
        .fleet
        .api
        .metrics(world.fleet.dispatchers[0].admin_port)
        .await;
    assert!(
        !metrics.contains("fate=\"not_here\""),
        "absent gateways spoke"
    );
    log.was_said_once(
        &world.fleet.dispatchers[0].process,
        "check the server and redis.url",
    );

    world.fleet.redis.thaw();
    world.gateways_name("registry", false).await;
    world.whole_again().await;
    of_u0(&world.fleet, 1, "the entry", |found| {
        found["registered"] == true
    })
    .await;
    let after = post_to_all(&world.fleet, 1).await;
    world.pushed("with Redis again", &after).await;
    world.all_arrived(&[moved, after].concat()).await;
}

/// A memory that is full, a disk that is: it answers look-ups, and whoever came since can't be entered.
pub async fn newcomers_get_theirs_live_though_redis_refuses_writes(world: &mut World) {
    let marks: Vec<Mark> = processes(&world.fleet).map(Mark::of).collect();
    world.fleet.redis.raw(&["CONFIG", "SET", "maxmemory", "1"]);
    let clock = world.clock("registry");
    world.gateways_name("registry", true).await;
    print_clock("Redis for writes", clock).await;
    dispatcher_names_the_registry(world).await;
    let newcomer = world.clients.len();
    world.clients.push(device(&world.fleet, newcomer, 2));
    world
        .fleet
        .eventually("the newcomer connects", WAIT, async || {
            usize::from(!world.clients[newcomer].is_open())
        })
        .await;
    let mut posted = post_to_all(&world.fleet, 1).await;
    let (http, url) = (
        reqwest::Client::new(),
        world.fleet.api.url("/v1/notifications"),
    );
    let to_newcomer = post(&http, &url, newcomer, "normal", 10).await;
    posted.push(to_newcomer.expect("accepted"));
    world
        .pushed("with a Redis that refuses writes", &posted)
        .await;
    for (mark, process) in marks.iter().zip(processes(&world.fleet)) {
        mark.was_said_once(process, "raise maxmemory");
    }
    world.fleet.redis.raw(&["CONFIG", "SET", "maxmemory", "0"]);
    world.gateways_name("registry", false).await;
    world.whole_again().await;
    world.clients.pop();
}

impl World {
    /// Each of the notifications posted here is read by so many gateways; prints what that took.
    async fn costs(&self, when: &str, readers: usize) {
        let (before, cpu) = (self.read().await, self.cpu_ms());
        let posted = post_to_all(&self.fleet, TIMES).await;
        let wanted = before + posted.len() * readers;
        self.pushed(when, &posted).await;
        self.fleet
            .eventually("all gateways read", WAIT, async || {
                wanted.saturating_sub(self.read().await)
            })
            .await;
        let cpu = self.cpu_ms() - cpu;
        assert_eq!(self.read().await, wanted, "{when}");
        println!(
            "{when}: {} notifications, each read by {readers} gateways, took them {cpu} ms of CPU",
            posted.len()
        );
    }

    /// Records of shards and of `broadcast` ever read by the gateways.
    async fn read(&self) -> usize {
        let mut read = 0;
        for gateway in &self.fleet.gateways {
            let metrics = self.fleet.api.metrics(gateway.admin_port).await;
            read += sum_of(&metrics, "herald_records_total{kind=\"notification\"");
        }
        read
    }

    /// User and system time of all gateways.
    fn cpu_ms(&self) -> u64 {
        let gateways = self.fleet.gateways.iter();
        gateways.map(|gateway| gateway.process.cpu_ms()).sum()
    }
}

fn processes(fleet: &Fleet) -> impl Iterator<Item = &Herald> {
    let gateways = fleet.gateways.iter().map(|one| &one.process);
    gateways.chain([&fleet.dispatchers[0].process])
}

async fn dispatcher_names_the_registry(world: &World) {
    world
        .fleet
        .eventually("the dispatcher says so", WAIT, async || {
            let (status, body) = world.readiness().await;
            let port = world.fleet.dispatchers[0].admin_port;
            let metrics = world.fleet.api.metrics(port).await;
            let named = body["degraded"]["registry"].is_string();
            usize::from(status != 200 || !named || !metrics.contains("herald_registry_up 0"))
        })
        .await;
}

/// The devices that were here before have left the registry too.
async fn everyone_is_where_they_are(world: &World) {
    world
        .fleet
        .eventually("one entry of u0", WAIT, async || {
            let key = format!("{}:conn:u0", world.fleet.namespace);
            usize::from(world.fleet.redis.raw(&["HLEN", &key]) != ":1\r\n")
        })
        .await;
}

async fn holds_u0(fleet: &Fleet, gateway: usize, holds: bool) {
    of_u0(fleet, gateway, "a connection", |found| {
        found["connections"].as_array().expect("a list").is_empty() != holds
    })
    .await;
}

/// Waits until what a gateway knows of u0 is so.
async fn of_u0(fleet: &Fleet, gateway: usize, what: &str, holds: impl Fn(&Value) -> bool) {
    let port = fleet.gateways[gateway].admin_port;
    fleet
        .eventually(&format!("{what} of u0"), WAIT, async || {
            let (_, text) = fleet
                .api
                .admin(port, "connections/u0")
                .await
                .expect("it answers");
            usize::from(!holds(&serde_json::from_str(&text).expect("JSON")))
        })
        .await;
}

/// To each user, once the dispatcher that was just started takes posts.
async fn post_when_it_answers(fleet: &Fleet) -> Vec<Accepted> {
    fleet
        .eventually("an answer", WAIT, async || {
            let answer = fleet.api.notify_once("u0", "first").await;
            usize::from(answer.is_err())
        })
        .await;
    post_to_all(fleet, 1).await
}
