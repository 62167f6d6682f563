//! What goes wrong, and when it is over.

use crate::scene::{Scene, unix_ms};
use rand::{RngExt, rngs::StdRng};
use std::time::Duration;
use testbed::{Fleet, Herald, proxy::Line};

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
    /// One process, and only that, can't reach Redis.
    RedisCutOff(Process, Line, Duration),
    /// The broker is killed and comes back.
    BrokerDies(Duration),
    /// The broker is killed while the disk under the first dispatcher's spool is full.
    DiskFull(Duration),
    /// Some clients stand still: they neither read nor answer.
    ClientsStop(Duration),
    /// What these clients and their gateways send each other is dropped on the way.
    ClientsUnreachable(Duration),
    /// The wall clock of one process is wrong by so many seconds.
    ClockSteps(Process, i32, Duration),
    /// The same of Redis, which judges every lease by it: forwards, all have lapsed, and may be swept.
    RedisClockSteps(i32, Duration),
}

/// Whose clocks can be set; the host's is left alone.
pub const WRONG_CLOCKS: [Process; 2] = [Process::Gateway(1), Process::Dispatcher(1)];
/// Whose clock is wrong, where it is that of Redis.
pub const REDIS: &str = "Redis";
/// Who can be cut off from Redis.
pub const CUT_OFF: [Process; 2] = [Process::Gateway(0), Process::Dispatcher(0)];

/// A fault while it lasted, by this host's clock.
#[derive(Clone, Debug)]
pub struct Window {
    pub name: String,
    pub from_unix_ms: u64,
    /// Its cause is gone, and noticed to be.
    pub until_unix_ms: u64,
}

/// What the last fault left is delivered before the next one begins: the 5 s promised, the pace of syncs that
/// the server asks for, and some.
const SETTLE: Duration = Duration::from_secs(8);
/// How long a broker takes a member of a group to live that was killed, or that gave the broker up while that
/// was away: `limits::KAFKA_SESSION`. What waits in its partitions waits as long; the fault counts as ended after.
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
            Fault::RedisForgets(wait(random, 0..2_000)),
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
            Fault::RedisCutOff(CUT_OFF[0], Line::Cut, wait(random, 1_000..20_000)),
            Fault::RedisCutOff(CUT_OFF[0], Line::Silent, wait(random, 1_000..20_000)),
            Fault::BrokerDies(wait(random, 0..10_000)),
            Fault::DiskFull(wait(random, 3_000..10_000)),
            Fault::ClientsStop(wait(random, 1_000..25_000)),
            Fault::ClientsUnreachable(wait(random, 1_000..40_000)),
            Fault::ClockSteps(WRONG_CLOCKS[0], 90, wait(random, 5_000..10_000)),
            Fault::ClockSteps(WRONG_CLOCKS[1], -90, wait(random, 5_000..10_000)),
            Fault::RedisCutOff(CUT_OFF[1], Line::Cut, wait(random, 1_000..20_000)),
            Fault::RedisCutOff(CUT_OFF[1], Line::Silent, wait(random, 1_000..20_000)),
            Fault::RedisClockSteps(90, wait(random, 5_000..10_000)),
        ]
    }

    /// How long after its end the broker still waits for members that are gone.
    fn noticed_after(self) -> Duration {
        match self {
            Fault::Kill(Process::Dispatcher(_), away) => GROUP_SESSION.saturating_sub(away),
            Fault::BrokerDies(_) | Fault::DiskFull(_) => GROUP_SESSION,
            _ => Duration::ZERO,
        }
    }

    /// Lets it happen and waits until it is over.
    pub async fn happen(self, scene: &mut Scene) -> Window {
        let from_unix_ms = unix_ms();
        match self {
            Fault::Kill(process, away) => {
                process.of(&mut scene.fleet).kill();
                tokio::time::sleep(away).await;
                process.of(&mut scene.fleet).start();
                scene.fleet.ready().await;
            }
            Fault::Freeze(process, away) => {
                process.of(&mut scene.fleet).signal(libc::SIGSTOP);
                tokio::time::sleep(away).await;
                process.of(&mut scene.fleet).signal(libc::SIGCONT);
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
            Fault::RedisCutOff(process, line, away) => {
                scene.to_redis(process).set(line);
                tokio::time::sleep(away).await;
                scene.to_redis(process).set(Line::Works);
            }
            Fault::BrokerDies(away) => scene.without_broker(away).await,
            Fault::DiskFull(away) => {
                let Some(disk) = scene.small_disk.clone() else {
                    println!("SKIPPED, a full disk: `make chaos` gives the run mounts of its own");
                    return Window::calm(Duration::ZERO).await;
                };
                disk.fill();
                scene.without_broker(away).await;
                disk.make_room();
            }
            Fault::ClientsStop(away) => {
                scene.patient_clients().signal(libc::SIGSTOP);
                tokio::time::sleep(away).await;
                scene.patient_clients().signal(libc::SIGCONT);
            }
            Fault::ClientsUnreachable(away) => {
                scene.to_gateways.set(Line::Silent);
                tokio::time::sleep(away).await;
                scene.to_gateways.set(Line::Works);
            }
            Fault::ClockSteps(process, seconds, away) => {
                scene.set_clock(process, seconds);
                tokio::time::sleep(away).await;
                scene.set_clock(process, 0);
            }
            Fault::RedisClockSteps(seconds, away) => {
                scene.set_clock(REDIS, seconds);
                tokio::time::sleep(away).await;
                scene.set_clock(REDIS, 0);
            }
        }
        let noticed = self.noticed_after();
        let until_unix_ms = unix_ms() + noticed.as_millis() as u64;
        scene.recovered().await;
        tokio::time::sleep(noticed + SETTLE).await;
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
    pub fn of(self, fleet: &mut Fleet) -> &mut Herald {
        match self {
            Process::Gateway(n) => &mut fleet.gateways[n].process,
            Process::Dispatcher(n) => &mut fleet.dispatchers[n].process,
        }
    }
}

fn wait(random: &mut StdRng, ms: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.random_range(ms))
}
