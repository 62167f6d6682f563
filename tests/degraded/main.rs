//! A real fleet that loses a part under load: what goes on meanwhile, that it is said once with its cause and
//! cure, that it ends by itself, and that nothing is lost.
//!
//! One fleet for all of it: a start on an empty registry waits 15 s for its shards.

mod dispatcher_away;
mod kafka_away;
mod load;
mod redis_away;
mod said;

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use testbed::{Client, Fleet, kafka::KafkaBroker};
use tokio::task::JoinHandle;

const USERS: usize = 20;
const GATEWAYS: usize = 3;
const WAIT: Duration = Duration::from_secs(120);
/// The least there is, so that a test can fill it.
const SPOOL_BYTES: &str = "16777216";

/// The fleet, and one client of each user.
struct World {
    broker: KafkaBroker,
    fleet: Fleet,
    clients: Vec<Client>,
}

impl World {
    async fn start() -> World {
        let broker = tokio::task::spawn_blocking(KafkaBroker::start);
        let broker = broker.await.expect("it starts");
        let mut fleet = Fleet::prepare_on(broker.brokers(), 1, GATEWAYS, &[]);
        let dispatcher = &mut fleet.dispatchers[0].process;
        *dispatcher = dispatcher.twin(&[("spool.bytes_max", SPOOL_BYTES)]);
        fleet.apply_topics();
        fleet.run().await;
        let clients: Vec<Client> = (0..USERS).map(|user| device(&fleet, user, user)).collect();
        fleet
            .eventually("clients connect", WAIT, async || {
                clients.iter().filter(|client| !client.is_open()).count()
            })
            .await;
        World {
            broker,
            fleet,
            clients,
        }
    }

    /// Waits until each gateway names the part it does without, or no longer does; it stays ready.
    async fn gateways_name(&self, part: &str, is_away: bool) {
        let gauge = format!("herald_degraded{{cause=\"{part}\"}} {}", u8::from(is_away));
        for gateway in &self.fleet.gateways {
            self.fleet
                .eventually(&format!("{gauge}, and ready"), WAIT, async || {
                    let answer = self.fleet.readyz(gateway.admin_port).await;
                    let Some((status, text)) = answer else {
                        return 1;
                    };
                    let metrics = self.fleet.api.metrics(gateway.admin_port).await;
                    let named = text.contains(&format!("\"{part}\""));
                    usize::from(status != 200 || named != is_away || !metrics.contains(&gauge))
                })
                .await;
        }
    }

    /// How long from now until the metrics of every gateway name the part that goes away.
    fn clock(&self, part: &str) -> JoinHandle<Duration> {
        let began = Instant::now();
        let gauge = format!("herald_degraded{{cause=\"{part}\"}} 1");
        let api = self.fleet.api.clone();
        let gateways = self.fleet.gateways.iter();
        let ports: Vec<u16> = gateways.map(|one| one.admin_port).collect();
        tokio::spawn(async move {
            for port in ports {
                let named = async || {
                    let page = api.admin(port, "metrics").await;
                    page.is_some_and(|(_, metrics)| metrics.contains(&gauge))
                };
                while !named().await {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            began.elapsed()
        })
    }

    /// Status and body of the dispatcher's readiness.
    async fn readiness(&self) -> (u16, Value) {
        match self
            .fleet
            .readyz(self.fleet.dispatchers[0].admin_port)
            .await
        {
            Some((status, body)) => (status, serde_json::from_str(&body).expect("JSON")),
            None => (0, Value::Null),
        }
    }

    /// The dispatcher does without nothing any more.
    async fn whole_again(&self) {
        self.fleet
            .eventually("the mode ends", WAIT, async || {
                let (status, body) = self.readiness().await;
                usize::from(status != 200 || body["degraded"] != json!({}))
            })
            .await;
    }
}

async fn print_clock(part: &str, clock: JoinHandle<Duration>) {
    let named = clock.await.expect("it only looks");
    println!(
        "{part} away: in the metrics of all gateways after {:.1} s, of the 10 s promised",
        named.as_secs_f64()
    );
}

/// A device of user `u<user>` that prefers the `gateway`th.
fn device(fleet: &Fleet, user: usize, gateway: usize) -> Client {
    Client::start(fleet.ws_urls(gateway), fleet.token(&format!("u{user}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_loses_a_part_it_shares_goes_on_says_so_once_and_loses_nothing() {
    let mut world = World::start().await;
    dispatcher_away::what_is_routed_is_delivered_and_outcomes_go_to_the_topic(&mut world).await;
    redis_away::users_are_found_where_they_were_or_by_asking_everyone_once(&mut world).await;
    redis_away::newcomers_get_theirs_live_though_redis_refuses_writes(&mut world).await;
    kafka_away::a_broker_that_stands_still_is_away_and_back_once(&mut world).await;
    kafka_away::what_is_answered_202_arrives_once_whatever_else_dies(&mut world).await;
}
