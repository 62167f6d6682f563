//! What is known of the posts so far.

use super::{Accepted, Post};
use crate::{
    accounting::Posted, cursor::Numbers, hdr, roster::Roster, rules::unix_us, tally::count,
    unrest::is_among,
};
use hdrhistogram::Histogram;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};
use tokio::sync::Notify;

/// A post that leaves later after its moment makes figures of its own.
const LATE_US: u64 = 5_000;
const NEVER_LEFT: &str = "never left: too many were without an answer until the end";

#[derive(Debug)]
pub struct Ledger {
    reach: Reach,

    /// Accepted numbers by user, and those to all.
    pub to_user: HashMap<u32, Numbers>,
    pub to_all: Numbers,
    /// Deliveries (number, device) that must happen.
    pub expected: u64,
    /// µs by which posts left after their moment.
    pub lag_us: Histogram<u64>,
    /// Of those that were later than [`LATE_US`]: they had to wait until one before them was answered, or were behind
    /// one that had to; or never left for that.
    pub held_back: u64,
    /// The others.
    pub late: u64,
    pub due: u64,
    pub accepted: u64,
    pub repeated: u64,
    /// Not accepted for good, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Each of them, if asked for.
    pub posts: Option<Vec<Posted>>,
    /// Told that nothing more is to be posted.
    pub enough: Arc<Notify>,
    pub ended: bool,
}

impl Ledger {
    pub fn new(reach: Reach, with_posts: bool) -> Ledger {
        Ledger {
            reach,
            to_user: HashMap::new(),
            to_all: Numbers::default(),
            expected: 0,
            lag_us: hdr::exact(),
            held_back: 0,
            late: 0,
            due: 0,
            accepted: 0,
            repeated: 0,
            refused: BTreeMap::new(),
            posts: with_posts.then(Vec::new),
            enough: Arc::default(),
            ended: false,
        }
    }

    /// It leaves now, at its moment or after it; `is_held_back` for want of answers.
    pub fn leaves(&mut self, post: &Post, is_held_back: bool) {
        self.due += 1;
        let lag_us = unix_us().saturating_sub(post.at_us);
        self.lag_us.saturating_record(lag_us.max(1));
        match (lag_us > LATE_US, is_held_back) {
            (true, true) => self.held_back += 1,
            (true, false) => self.late += 1,
            (false, _) => {}
        }
    }

    pub fn accepted(&mut self, post: &Post, answer: Option<Accepted>) {
        self.accepted += 1;
        self.note(post, answer);
        match post.user {
            Some(user) => {
                self.to_user.entry(user).or_default().insert(post.n);
                self.expected += self.reach.of_user(user);
            }
            None => {
                self.to_all.insert(post.n);
                self.expected += self.reach.all;
            }
        }
    }

    pub fn refused(&mut self, post: &Post, why: &str) {
        self.note(post, None);
        count(&mut self.refused, why);
    }

    /// It was due, and there was no room for it until the producer's end.
    pub fn never_left(&mut self) {
        self.due += 1;
        self.held_back += 1;
        count(&mut self.refused, NEVER_LEFT);
    }

    fn note(&mut self, post: &Post, answer: Option<Accepted>) {
        let Some(posts) = &mut self.posts else {
            return;
        };
        let (id, durability) = match answer {
            Some(answer) => (Some(answer.id), answer.durability),
            None => (None, String::new()),
        };
        posts.push(Posted {
            id,
            user: post.user.map(|_| post.name.clone()),
            n: post.n,
            priority: post.priority.clone(),
            sent_unix_ms: post.at_us / 1000,
            answered_unix_ms: unix_us() / 1000,
            durability,
        });
    }
}

/// How many devices of whom have to get something: not those that stop reading for good.
#[derive(Debug)]
pub struct Reach {
    devices: u32,
    exempt_share: f64,
    all: u64,
}

impl Reach {
    pub fn new(roster: &Roster, exempt_share: f64) -> Reach {
        let reached = |client: &u32| !is_among(*client, exempt_share);
        Reach {
            devices: roster.devices(),
            exempt_share,
            all: (0..roster.clients()).filter(reached).count() as u64,
        }
    }

    fn of_user(&self, user: u32) -> u64 {
        let clients = user * self.devices..(user + 1) * self.devices;
        let reached = |client: &u32| !is_among(*client, self.exempt_share);
        clients.filter(reached).count() as u64
    }
}
