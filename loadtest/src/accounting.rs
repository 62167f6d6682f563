//! What each device got, how and when, as JSON lines in a directory: `receipts` (one per notification and
//! device), `devices` (their connections and where their cursors ended) and `posts` (what the tool posted).
//! Whoever knows what happened to the servers meanwhile can judge it by these.

use crate::{flock::Last, producer::Ledger, roster::Roster};
use serde::Serialize;
use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    path::Path,
};
use uuid::Uuid;

/// What one thread's clients got.
#[derive(Debug, Default)]
pub struct Accounts {
    /// By (id, client).
    pub receipts: HashMap<(Uuid, u32), Receipt>,
    /// By client, in their order.
    pub connections: HashMap<u32, Vec<Connection>>,
}

/// How one device got one notification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// Copies by each way.
    pub live: u32,
    pub by_sync: u32,
    pub first: Way,
    pub first_unix_ms: u64,
}

/// How a notification came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    #[default]
    Live,
    /// By a sync the server had asked for, or gave unasked.
    Gap,
    /// By a sync the client asked for, having seen a hole.
    Hole,
    /// By the sync after a connect.
    Connect,
}

/// From welcome to end; `None`: it stood at the end of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Connection {
    pub from_unix_ms: u64,
    pub to_unix_ms: Option<u64>,
}

/// One post that was accepted, or given up without knowing.
#[derive(Clone, Debug, Serialize)]
pub struct Posted {
    pub id: Option<Uuid>,
    /// `None`: to all.
    pub user: Option<String>,
    pub n: u32,
    pub priority: String,
    pub sent_unix_ms: u64,
    pub answered_unix_ms: u64,
    /// As the server called it.
    pub durability: String,
}

const RECEIPTS: &str = "receipts";
const DEVICES: &str = "devices";
const POSTS: &str = "posts";

/// Whether they can be written.
pub fn check(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for name in [RECEIPTS, DEVICES, POSTS] {
        let file = directory.join(name);
        OpenOptions::new().append(true).create(true).open(file)?;
    }
    Ok(())
}

impl Accounts {
    pub fn add(&mut self, other: Accounts) {
        self.receipts.extend(other.receipts);
        self.connections.extend(other.connections);
    }

    pub fn received(&mut self, id: Uuid, client: u32, way: Way, unix_ms: u64) {
        let receipt = self.receipts.entry((id, client)).or_default();
        if receipt.live + receipt.by_sync == 0 {
            (receipt.first, receipt.first_unix_ms) = (way, unix_ms);
        }
        match way {
            Way::Live => receipt.live += 1,
            Way::Gap | Way::Hole | Way::Connect => receipt.by_sync += 1,
        }
    }

    pub fn welcomed(&mut self, client: u32, unix_ms: u64) {
        self.connections
            .entry(client)
            .or_default()
            .push(Connection {
                from_unix_ms: unix_ms,
                to_unix_ms: None,
            });
    }

    pub fn ended(&mut self, client: u32, unix_ms: u64) {
        let of_client = self.connections.get_mut(&client);
        if let Some(last) = of_client.and_then(|all| all.last_mut()) {
            last.to_unix_ms.get_or_insert(unix_ms);
        }
    }

    pub fn write(
        &self,
        directory: &Path,
        roster: &Roster,
        lasts: &[Last],
        ledger: Option<&Ledger>,
    ) -> io::Result<()> {
        std::fs::create_dir_all(directory)?;
        let device = |client: u32| Device {
            user: roster.user(client / roster.devices()),
            device: client % roster.devices(),
        };
        let receipts = self
            .receipts
            .iter()
            .map(|((id, client), receipt)| Received {
                id: *id,
                device: device(*client),
                receipt: *receipt,
            });
        write_lines(&directory.join(RECEIPTS), receipts)?;
        let devices = lasts.iter().map(|last| Ended {
            device: device(last.number),
            connections: self.connections.get(&last.number).map_or(&[][..], |c| c),
            cursors: &last.cursors,
            has_hole: last.has_hole,
        });
        write_lines(&directory.join(DEVICES), devices)?;
        let posts = ledger.and_then(|ledger| ledger.posts.as_deref());
        write_lines(&directory.join(POSTS), posts.unwrap_or_default())
    }
}

#[derive(Serialize)]
struct Device {
    user: String,
    device: u32,
}

#[derive(Serialize)]
struct Received {
    id: Uuid,
    #[serde(flatten)]
    device: Device,
    #[serde(flatten)]
    receipt: Receipt,
}

#[derive(Serialize)]
struct Ended<'a> {
    #[serde(flatten)]
    device: Device,
    connections: &'a [Connection],
    /// `name=position,…`, as they would be presented.
    cursors: &'a str,
    has_hole: bool,
}

fn write_lines(file: &Path, lines: impl IntoIterator<Item: Serialize>) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(file)?);
    for line in lines {
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_copy_says_how_it_came_and_all_are_counted() {
        let mut accounts = Accounts::default();
        let id = Uuid::now_v7();
        accounts.received(id, 7, Way::Gap, 5);
        accounts.received(id, 7, Way::Live, 9);
        let receipt = accounts.receipts[&(id, 7)];
        let expected = Receipt {
            live: 1,
            by_sync: 1,
            first: Way::Gap,
            first_unix_ms: 5,
        };
        assert_eq!(receipt, expected);
    }

    #[test]
    fn a_connection_ends_once() {
        let mut accounts = Accounts::default();
        accounts.welcomed(1, 10);
        accounts.ended(1, 20);
        accounts.ended(1, 30);
        accounts.welcomed(1, 40);
        let ends: Vec<_> = accounts.connections[&1]
            .iter()
            .map(|c| c.to_unix_ms)
            .collect();
        assert_eq!(ends, [Some(20), None]);
    }
}
