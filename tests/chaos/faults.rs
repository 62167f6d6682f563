//! What goes wrong, and when it is over.

use crate::scene::{Scene, unix_ms};
use rand::{RngExt, rngs::StdRng};
use std::time::Duration;
use testbed::Herald;

/// A process of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    Gateway(usize),
    Dispatcher(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`, and started again after a while.
    Kill(Process, Duration),
    /// SIGSTOP, SIGCONT.
    Freeze(Process, Duration),
    /// Redis ends in good order and comes back with all it knew.
    RedisRestarts(Duration),
    /// Redis is killed and comes back empty.
    RedisForgets(Duration),
    /// The broker is killed and comes back.
    BrokerDies(Duration),
}

/// A fault while it lasted, by this host's clock.
#[derive(Clone, Debug)]
pub struct Window {
    pub name: String,
    pub from_unix_ms: u64,
    /// Its cause is gone.
    pub until_unix_ms: u64,
}

/// What the last fault left is delivered before the next one begins: the 5 s promised, the pace of syncs that
/// the server asks for, and some.
const SETTLE: Duration = Duration::from_secs(8);
/// How long the broker takes a killed member of a group to live: `limits::KAFKA_SESSION`. What waits in its
/// partitions waits as long, so the fault lasts no shorter.
const GROUP_SESSION: Duration = Duration::from_secs(10);

impl Fault {
    /// Few, for every run of the tests.
    pub fn short(random: &mut StdRng) -> Vec<Fault> {
        let gateway = random.random_range(0..3);
        vec![
            Fault::Kill(Process::Gateway(gateway), wait(random, 0..3_000)),
            Fault::Freeze(
                Process::Gateway((gateway + 1) % 3),
                wait(random, 11_000..14_000),
            ),
            Fault::Kill(
                Process::Dispatcher(random.random_range(0..2)),
                wait(random, 0..3_000),
            ),
        ]
    }

    /// One of each kind.
    pub fn all(random: &mut StdRng) -> Vec<Fault> {
        let gateway = random.random_range(0..3);
        let dispatcher = random.random_range(0..2);
        vec![
            Fault::Kill(Process::Gateway(gateway), wait(random, 0..15_000)),
            Fault::Freeze(
                Process::Gateway((gateway + 1) % 3),
                wait(random, 1_000..20_000),
            ),
            Fault::Kill(Process::Dispatcher(dispatcher), wait(random, 0..15_000)),
            Fault::Freeze(
                Process::Dispatcher(1 - dispatcher),
                wait(random, 1_000..20_000),
            ),
            Fault::RedisRestarts(wait(random, 0..15_000)),
            Fault::RedisForgets(wait(random, 0..15_000)),
            Fault::BrokerDies(wait(random, 0..10_000)),
        ]
    }

    /// Lets it happen and waits until it is over.
    pub async fn happen(self, scene: &mut Scene) -> Window {
        let from_unix_ms = unix_ms();
        match self {
            Fault::Kill(process, away) => {
                process.of(scene).kill();
                tokio::time::sleep(away).await;
                process.of(scene).start();
                if matches!(process, Process::Dispatcher(_)) {
                    tokio::time::sleep(GROUP_SESSION.saturating_sub(away)).await;
                }
                scene.fleet.ready().await;
            }
            Fault::Freeze(process, away) => {
                process.of(scene).signal(libc::SIGSTOP);
                tokio::time::sleep(away).await;
                process.of(scene).signal(libc::SIGCONT);
            }
            Fault::RedisRestarts(away) => {
                scene.fleet.redis.save_and_end();
                tokio::time::sleep(away).await;
                scene.fleet.redis.start_again();
            }
            Fault::RedisForgets(away) => {
                scene.fleet.redis.kill();
                tokio::time::sleep(away).await;
                scene.fleet.redis.restart();
            }
            Fault::BrokerDies(away) => {
                scene.broker.kill();
                tokio::time::sleep(away).await;
                tokio::task::block_in_place(|| scene.broker.restart());
            }
        }
        let until_unix_ms = unix_ms();
        scene.recovered().await;
        tokio::time::sleep(SETTLE).await;
        Window {
            name: format!("{self:?}"),
            from_unix_ms,
            until_unix_ms,
        }
    }
}

impl Window {
    /// Nothing goes wrong.
    pub async fn calm(time: Duration) -> Window {
        let from_unix_ms = unix_ms();
        tokio::time::sleep(time).await;
        Window {
            name: "none".to_owned(),
            from_unix_ms,
            until_unix_ms: from_unix_ms,
        }
    }
}

impl Process {
    fn of(self, scene: &mut Scene) -> &mut Herald {
        match self {
            Process::Gateway(n) => &mut scene.fleet.gateways[n].process,
            Process::Dispatcher(n) => &mut scene.fleet.dispatchers[n].process,
        }
    }
}

fn wait(random: &mut StdRng, ms: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.random_range(ms))
}
