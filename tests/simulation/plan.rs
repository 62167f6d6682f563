//! What a run is made of: who is there, what is posted when, and what goes wrong. All of it follows from the
//! seed; a shrunk plan is a plan with parts left out.

use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use std::fmt;

/// A rule left out on purpose, to show that its absence is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Broken {
    #[default]
    Nothing,
    /// The router looks users up, then stores their rows.
    LookUpFirst,
    /// The client's cursor passes over holes.
    CursorOverHoles,
    /// An offset is committed before the record's outcome was accepted.
    CommitFirst,
    /// A registry that lost its data begins its epochs anew.
    EpochsBeginAnew,
    /// A sweep deletes entries of every life of a gateway.
    SweepBlindly,
    /// Nobody looks up again what went by memory.
    NoSecondLook,
    /// Clients are sent away without a look at what the siblings can take.
    EvictBlindly,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub broken: Broken,
    pub gateways: usize,
    pub dispatchers: usize,
    /// Devices; those of one user share its number.
    pub devices: Vec<usize>,
    pub posts: Vec<Post>,
    pub faults: Vec<Fault>,
    /// `shard = "auto"`; otherwise each gateway has its own.
    pub auto_shards: bool,
    pub accepts_per_s: u32,
    /// One call in so many takes long.
    pub slow_one_in: u32,
    /// After this nothing goes wrong any more.
    pub quiet_at_ms: u64,
    pub ends_at_ms: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Post {
    pub at_ms: u64,
    pub user: usize,
    pub critical: bool,
    pub collapses: bool,
}

impl Post {
    fn plain(at_ms: u64, user: usize) -> Post {
        Post {
            at_ms,
            user,
            critical: false,
            collapses: false,
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub at_ms: u64,
    pub what: What,
    pub for_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    CrashGateway(usize),
    /// SIGSTOP: it goes on with what it believed before.
    PauseGateway(usize),
    /// It can't reach the registry.
    CutGateway(usize),
    DrainGateway(usize),
    CrashDispatcher(usize),
    PauseDispatcher(usize),
    CutDispatcher(usize),
    /// Nobody reaches the registry.
    CutEveryone,
    /// The registry comes back empty.
    Forget,
    /// The registry loses every second entry, and says nothing.
    LosePart,
    /// A device takes nothing from its socket.
    Stall(usize),
    /// A device leaves and comes back, perhaps elsewhere.
    Move(usize),
}

/// Wait after the last fault: a lapsed lease is swept after 60 s.
const SETTLE_MS: u64 = 100_000;
const ACTIVE_MS: u64 = 60_000;
/// After a fault: live, or by the sync that a `gap` asks for, paced.
const LIVE_WITHIN_MS: u64 = 5_000 + 2_000;

impl Plan {
    pub fn from_seed(seed: u64, broken: Broken) -> Plan {
        let mut random = SmallRng::seed_from_u64(seed);
        let gateways = random.random_range(2..=3);
        let dispatchers = random.random_range(1..=2);
        let users = random.random_range(2..=6);
        let devices = (0..users + random.random_range(0..=6usize))
            .map(|device| device % users)
            .collect::<Vec<_>>();
        let mut posts: Vec<Post> = (0..random.random_range(10..=40))
            .map(|_| Post {
                at_ms: random.random_range(1_000..ACTIVE_MS + 10_000),
                user: random.random_range(0..users),
                critical: random.random_ratio(1, 5),
                collapses: random.random_ratio(1, 10),
            })
            .collect();
        let mut faults: Vec<Fault> = (0..random.random_range(1..=6))
            .map(|_| Fault {
                at_ms: random.random_range(2_000..ACTIVE_MS),
                what: What::any(&mut random, gateways, dispatchers, devices.len()),
                for_ms: match random.random_range(0..4) {
                    0 => random.random_range(100..2_000),
                    1 => random.random_range(2_000..12_000),
                    2 => random.random_range(12_000..30_000),
                    _ => random.random_range(30_000..90_000),
                },
            })
            .collect();
        let quiet_at_ms = quiet_after(&faults);
        // Devices come and go, and just then something is posted: while things go wrong, and when all is calm.
        for number in 0..random.random_range(4..=14) {
            let device = random.random_range(0..devices.len());
            let at_ms = match number % 2 {
                0 => random.random_range(2_000..ACTIVE_MS),
                _ => quiet_at_ms + random.random_range(35_000..85_000),
            };
            faults.push(Fault {
                at_ms,
                what: What::Move(device),
                for_ms: 0,
            });
            posts.extend((0..random.random_range(1..=3)).map(|_| Post {
                at_ms: at_ms + random.random_range(0..300),
                user: devices[device],
                critical: random.random_ratio(1, 5),
                collapses: false,
            }));
        }
        // What dies, dies with something on its way.
        let dying = faults.iter().filter(|fault| fault.is_trouble());
        let dying: Vec<u64> = dying.map(|fault| fault.at_ms).collect();
        for at_ms in dying {
            posts.extend((0..random.random_range(0..=4)).map(|_| Post {
                at_ms: at_ms - random.random_range(0..60),
                user: random.random_range(0..users),
                critical: random.random_ratio(1, 5),
                collapses: false,
            }));
        }
        faults.sort_by_key(|fault| fault.at_ms);
        posts.sort_by_key(|post| post.at_ms);
        let mut plan = Plan {
            gateways,
            dispatchers,
            devices,
            posts,
            faults,
            ..Plan::drawn(seed, broken, &mut random)
        };
        plan.set_end();
        plan
    }

    /// A fleet of thousands whose gateways are drained or die: nobody is posted anything.
    pub fn stampede(seed: u64, broken: Broken, fault: What) -> Plan {
        let gateways = 3;
        let mut plan = Plan {
            seed,
            broken,
            gateways,
            dispatchers: 1,
            devices: (0..3_600).collect(),
            posts: Vec::new(),
            faults: vec![Fault {
                at_ms: 30_000,
                what: fault,
                for_ms: 40_000,
            }],
            auto_shards: true,
            accepts_per_s: 100,
            slow_one_in: 1_000,
            quiet_at_ms: 0,
            ends_at_ms: 0,
        };
        plan.set_end();
        plan.ends_at_ms = plan.quiet_at_ms + 5_000;
        plan
    }

    /// The registry is away, for all or for one dispatcher; devices have moved just before. Nothing is posted after
    /// it that could show a hole, and all is over as soon as the fault suite wants it to be.
    pub fn without_registry(seed: u64, broken: Broken) -> Plan {
        let mut random = SmallRng::seed_from_u64(seed);
        let (gateways, dispatchers) = (random.random_range(2..=3), random.random_range(1..=2));
        let users = random.random_range(1..=4);
        let devices: Vec<usize> = (0..users * random.random_range(2..=3usize))
            .map(|device| device % users)
            .collect();
        let (mut posts, mut faults) = (Vec::new(), Vec::new());
        let mut at_ms = 8_000;
        for _ in 0..random.random_range(1..=3) {
            // Whoever routes learns where users are, then some are elsewhere.
            let for_ms = random.random_range(500..25_000);
            let known_ms = at_ms..at_ms + 2_000;
            let away_ms = at_ms + 6_000..at_ms + 6_000 + for_ms;
            for user in 0..users {
                posts.push(Post::plain(random.random_range(known_ms.clone()), user));
                for _ in 0..random.random_range(0..=3) {
                    posts.push(Post::plain(random.random_range(away_ms.clone()), user));
                }
            }
            for device in 0..devices.len() {
                if random.random_ratio(1, 3) {
                    faults.push(Fault {
                        at_ms: random.random_range(at_ms..at_ms + 7_000),
                        what: What::Move(device),
                        for_ms: 0,
                    });
                }
            }
            let what = match random.random_range(0..3) {
                0 => What::CutDispatcher(random.random_range(0..dispatchers)),
                _ => What::CutEveryone,
            };
            faults.push(Fault {
                at_ms: away_ms.start,
                what,
                for_ms,
            });
            at_ms = away_ms.end + random.random_range(100..10_000);
        }
        faults.sort_by_key(|fault| fault.at_ms);
        posts.sort_by_key(|post| post.at_ms);
        let mut plan = Plan {
            gateways,
            dispatchers,
            devices,
            posts,
            faults,
            ..Plan::drawn(seed, broken, &mut random)
        };
        plan.quiet_at_ms = quiet_after(&plan.faults);
        plan.ends_at_ms = plan.quiet_at_ms + LIVE_WITHIN_MS;
        plan
    }

    /// Of nobody and nothing yet, with what is drawn for every plan.
    fn drawn(seed: u64, broken: Broken, random: &mut SmallRng) -> Plan {
        Plan {
            seed,
            broken,
            gateways: 0,
            dispatchers: 0,
            devices: Vec::new(),
            posts: Vec::new(),
            faults: Vec::new(),
            auto_shards: random.random_ratio(2, 3),
            accepts_per_s: 1_000,
            slow_one_in: *[10, 40, 1_000].choose(random).expect("one of them"),
            quiet_at_ms: 0,
            ends_at_ms: 0,
        }
    }

    fn set_end(&mut self) {
        self.quiet_at_ms = quiet_after(&self.faults);
        let posted = self.posts.iter().map(|post| post.at_ms + 15_000);
        self.ends_at_ms = posted.max().unwrap_or(0).max(self.quiet_at_ms + SETTLE_MS);
    }

    /// Live copies of one notification that a device may get: each fault may cause a re-read, of `raw` or of a
    /// shard, and each of these hops.
    pub fn copies_bound(&self) -> u32 {
        1 + 3 * self.faults.len() as u32
    }

    /// Plans with something left out, the boldest first.
    pub fn smaller(&self) -> Vec<Plan> {
        let mut plans = Vec::new();
        for faults in less_of(&self.faults) {
            plans.push(Plan {
                faults,
                ..self.clone()
            });
        }
        for posts in less_of(&self.posts) {
            plans.push(Plan {
                posts,
                ..self.clone()
            });
        }
        for fewer in [self.devices.len() / 2, self.devices.len().saturating_sub(1)] {
            if fewer > 0 && fewer < self.devices.len() {
                plans.push(Plan {
                    devices: self.devices[..fewer].to_vec(),
                    ..self.clone()
                });
            }
        }
        plans.iter_mut().for_each(Plan::set_end);
        plans
    }
}

/// When the last trouble is over.
fn quiet_after(faults: &[Fault]) -> u64 {
    let troubles = faults.iter().filter(|fault| fault.is_trouble());
    let ends = troubles.map(|fault| fault.at_ms + fault.for_ms);
    ends.max().unwrap_or(0).max(20_000)
}

/// The list without its first half, its second half, and each of its members.
fn less_of<T: Clone>(all: &[T]) -> Vec<Vec<T>> {
    let mut lists = Vec::new();
    if all.len() > 2 {
        let (first, second) = all.split_at(all.len() / 2);
        lists.push(first.to_vec());
        lists.push(second.to_vec());
    }
    lists.extend((0..all.len()).map(|left_out| {
        let mut rest = all.to_vec();
        rest.remove(left_out);
        rest
    }));
    lists
}

impl Fault {
    /// A device that comes and goes is nothing out of the ordinary.
    pub fn is_trouble(&self) -> bool {
        !matches!(self.what, What::Move(_))
    }
}

impl What {
    fn any(random: &mut SmallRng, gateways: usize, dispatchers: usize, devices: usize) -> What {
        let gateway = random.random_range(0..gateways);
        let dispatcher = random.random_range(0..dispatchers);
        let device = random.random_range(0..devices);
        match random.random_range(0..15) {
            0 | 1 => What::CrashGateway(gateway),
            2 | 3 => What::PauseGateway(gateway),
            4 => What::CutGateway(gateway),
            5 => What::DrainGateway(gateway),
            6 | 7 => What::CrashDispatcher(dispatcher),
            8 => What::PauseDispatcher(dispatcher),
            9 => What::CutDispatcher(dispatcher),
            10 => What::Forget,
            11 => What::LosePart,
            12 => What::Stall(device),
            13 => What::CutEveryone,
            _ => What::Move(device),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::CrashGateway(gateway) => write!(f, "gw-{gateway} is killed"),
            What::PauseGateway(gateway) => write!(f, "gw-{gateway} is stopped (SIGSTOP)"),
            What::CutGateway(gateway) => write!(f, "gw-{gateway} is cut off from the registry"),
            What::DrainGateway(gateway) => write!(f, "gw-{gateway} is drained"),
            What::CrashDispatcher(one) => write!(f, "dispatcher {one} is killed"),
            What::PauseDispatcher(one) => write!(f, "dispatcher {one} is stopped (SIGSTOP)"),
            What::CutDispatcher(one) => write!(f, "dispatcher {one} is cut off from the registry"),
            What::CutEveryone => write!(f, "nobody reaches the registry"),
            What::Forget => write!(f, "the registry restarts empty"),
            What::LosePart => write!(f, "the registry loses every second entry"),
            What::Stall(device) => write!(f, "device {device} stops reading"),
            What::Move(device) => write!(f, "device {device} leaves and comes back"),
        }
    }
}
