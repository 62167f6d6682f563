//! What the clients and the producers wrote down, put together.

use crate::{inbox::Inboxes, returned::Returned};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

/// What one swarm wrote down.
pub struct Account {
    receipts: Vec<Receipt>,
    devices: Vec<Device>,
    posts: Vec<Post>,
    pub report: Value,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Receipt {
    id: String,
    user: String,
    device: u32,
    live: u32,
    by_sync: u32,
    pub first: Way,
    pub first_unix_ms: u64,
}

/// How the first copy came.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    Live,
    Gap,
    Hole,
    Connect,
}

#[derive(Debug, Deserialize)]
pub struct Device {
    pub user: String,
    pub device: u32,
    connections: Vec<Connection>,
    cursors: String,
    pub has_hole: bool,
}

#[derive(Debug, Deserialize)]
struct Connection {
    from_unix_ms: u64,
    to_unix_ms: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Post {
    /// `None`: whether it was accepted is not known.
    pub id: Option<String>,
    /// `None`: to all.
    pub user: Option<String>,
    pub n: u32,
    pub sent_unix_ms: u64,
    pub answered_unix_ms: u64,
    pub durability: String,
}

/// Everything that is known at the end.
pub struct Accounts {
    /// By (id, user, device).
    receipts: HashMap<(String, String, u32), Receipt>,
    pub devices: Vec<Device>,
    pub posts: Vec<Post>,
    pub inboxes: Inboxes,
    /// (id, user) without an acknowledgement in storage.
    pub unacknowledged: BTreeSet<(String, String)>,
    /// What a new device got by `sync`, of all users of those and some more.
    pub returned: Returned,
    pub reports: Vec<Value>,
}

impl Account {
    pub fn read(directory: &Path) -> Account {
        let report = std::fs::read_to_string(directory.join("report"));
        let said = || std::fs::read_to_string(directory.join("said")).unwrap_or_default();
        let report = report.unwrap_or_else(|_| panic!("a swarm wrote no report: {}", said()));
        Account {
            receipts: lines(&directory.join("receipts")),
            devices: lines(&directory.join("devices")),
            posts: lines(&directory.join("posts")),
            report: serde_json::from_str(&report).expect("JSON"),
        }
    }

    pub fn users(&self) -> BTreeSet<String> {
        self.devices.iter().map(|one| one.user.clone()).collect()
    }
}

impl Accounts {
    pub fn new(accounts: Vec<Account>, inboxes: Inboxes) -> Accounts {
        let mut all = Accounts {
            receipts: HashMap::new(),
            devices: Vec::new(),
            posts: Vec::new(),
            reports: Vec::new(),
            unacknowledged: BTreeSet::new(),
            returned: Returned::new(),
            inboxes,
        };
        for account in accounts {
            let receipts = account.receipts.into_iter();
            all.receipts.extend(receipts.map(|one| {
                let key = (one.id.clone(), one.user.clone(), one.device);
                (key, one)
            }));
            all.devices.extend(account.devices);
            all.posts.extend(account.posts);
            all.reports.push(account.report);
        }
        all
    }

    /// (id, user) of everything that was accepted for one user.
    pub fn accepted(&self) -> Vec<(String, String)> {
        let pairs = self.posts.iter();
        pairs
            .filter_map(|post| Some((post.id.clone()?, post.user.clone()?)))
            .collect()
    }

    /// Devices that a post is for.
    pub fn targets<'a>(&'a self, post: &'a Post) -> impl Iterator<Item = &'a Device> {
        let user = post.user.as_ref();
        let devices = self.devices.iter();
        devices.filter(move |device| user.is_none_or(|user| *user == device.user))
    }

    pub fn receipt(&self, id: &str, device: &Device) -> Option<&Receipt> {
        let key = (id.to_owned(), device.user.clone(), device.device);
        self.receipts.get(&key)
    }

    /// Copies beyond the first, over all devices.
    pub fn repeats(&self) -> u64 {
        let copies = |receipt: &Receipt| u64::from(receipt.live + receipt.by_sync) - 1;
        self.receipts.values().map(copies).sum()
    }

    /// Sum of a counter of the swarms' reports.
    pub fn counted(&self, pointer: &str) -> u64 {
        let numbers = self.reports.iter().map(|report| report.pointer(pointer));
        numbers
            .map(|number| number.and_then(Value::as_u64).expect("a counter"))
            .sum()
    }
}

impl Device {
    /// It did not reconnect in between.
    pub fn was_connected(&self, from_unix_ms: u64, to_unix_ms: u64) -> bool {
        self.connections.iter().any(|connection| {
            let ended = connection.to_unix_ms;
            connection.from_unix_ms <= from_unix_ms && ended.is_none_or(|at| at >= to_unix_ms)
        })
    }

    /// Its last cursor of each stream.
    pub fn cursors(&self) -> BTreeMap<&str, u64> {
        let pairs = self.cursors.split(',').filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| {
                let (stream, at) = pair.rsplit_once('=').expect("name=position");
                (stream, at.parse().expect("a number"))
            })
            .collect()
    }
}

fn lines<T: DeserializeOwned>(file: &Path) -> Vec<T> {
    let text = std::fs::read_to_string(file).expect("a swarm wrote it");
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}
