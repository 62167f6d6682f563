//! The account: what was promised, held against what was seen.

use crate::{
    accounting::{Accounts, Device, Post, Way},
    faults::Window,
};
use serde_json::Value;
use std::fmt;

/// Live within this long of the fault's end.
const LIVE_WITHIN_MS: u64 = 5_000;
/// How much later a sync that the server asks for (`gap`) may be asked: 5,000 connections a second are told,
/// each to ask within a second, and the answer takes its time.
const PACING_MS: u64 = 2_000;
/// What was posted this long before a fault may have been on its way when it struck.
const ON_ITS_WAY_MS: u64 = 2_000;
/// Findings that are printed of each kind.
const EXAMPLES: usize = 10;

/// What became of the notifications of one fault, in (id, device).
#[derive(Default)]
struct Row {
    name: String,
    lasted_ms: u64,
    posts: u64,
    spooled: u64,
    pairs: u64,
    /// Of those that stayed connected: live, by a sync the server asked for, by one for a hole; of all: by
    /// one after a reconnect.
    live: u64,
    gap: u64,
    hole: u64,
    reconnected: u64,
    late: u64,
    slowest_ms: u64,
    /// Posts to a user of which storage has no acknowledgement: they are in the inbox.
    unacknowledged: u64,
}

pub struct Verdict {
    rows: Vec<Row>,
    repeats: u64,
    /// Users of whom a new device asked for all by `sync`.
    synced: usize,
    /// What the swarms counted.
    reports: Vec<String>,
    findings: Vec<String>,
}

/// Times are judged only in a long run, which has the machine to itself.
pub fn judge(windows: &[Window], accounts: &Accounts, with_times: bool) -> Verdict {
    let mut rows: Vec<Row> = windows.iter().map(Row::new).collect();
    let mut findings = Findings::default();
    for post in &accounts.posts {
        let at = windows.partition_point(|window| window.from_unix_ms <= last_touch(post));
        let at = at.saturating_sub(1);
        rows[at].take(post, &windows[at], accounts, &mut findings, with_times);
    }
    stored_once(accounts, &mut findings);
    if with_times && rows[0].late > 0 {
        let late = rows[0].late;
        let what = format!("{late} late while nothing failed: fewer clients (HERALD_CHAOS_USERS)");
        findings.add("the machine is too slow", what);
    }
    returned_by_sync(accounts, &mut findings);
    cursors_agree(accounts, &mut findings);
    for (counter, what) in [
        ("/counters/syncs_false", "recovered:true over a hole"),
        ("/counters/sse_ids_ahead", "event ids above the cursor"),
        ("/counters/unreadable", "frames that can't be read"),
        ("/holes_open", "holes open at the end"),
        ("/unsynced", "clients that wait for a sync at the end"),
        ("/never_connected", "clients that never connected"),
        ("/counters/gave_up", "clients that were told to stay away"),
    ] {
        let count = accounts.counted(counter);
        if count > 0 {
            findings.add("clients", format!("{count} {what}"));
        }
    }
    Verdict {
        rows,
        repeats: accounts.repeats(),
        synced: accounts.returned.len(),
        reports: accounts.reports.iter().map(summary).collect(),
        findings: findings.said,
    }
}

fn summary(report: &Value) -> String {
    let counters = &report["counters"];
    format!(
        "gaps {}, closes {}, failures {}, errors {}, holes {}, syncs asked {}, of all syncs {} recovered and {} not, posted {}",
        report["gaps"],
        report["closes"],
        report["failures"],
        report["errors"],
        counters["holes_seen"],
        counters["syncs_asked"],
        counters["syncs_recovered"],
        counters["syncs_unrecovered"],
        report["posted"],
    )
}

/// It belongs to the last fault that may have touched it.
fn last_touch(post: &Post) -> u64 {
    post.answered_unix_ms + ON_ITS_WAY_MS
}

/// A few examples of each kind, and how many there were.
#[derive(Default)]
struct Findings {
    said: Vec<String>,
    of_kind: std::collections::BTreeMap<String, usize>,
}

impl Findings {
    fn add(&mut self, kind: &str, finding: String) {
        let count = self.of_kind.entry(kind.to_owned()).or_default();
        *count += 1;
        if *count <= EXAMPLES {
            self.said.push(format!("{kind}: {finding}"));
        } else if *count == EXAMPLES + 1 {
            self.said.push(format!("{kind}: and more"));
        }
    }
}

impl Row {
    fn new(window: &Window) -> Row {
        Row {
            name: window.name.clone(),
            lasted_ms: window.until_unix_ms - window.from_unix_ms,
            ..Row::default()
        }
    }

    fn take(
        &mut self,
        post: &Post,
        window: &Window,
        accounts: &Accounts,
        findings: &mut Findings,
        with_times: bool,
    ) {
        let Some(id) = &post.id else {
            return;
        };
        self.posts += 1;
        self.spooled += u64::from(post.durability == "spooled");
        let key = post.user.clone().map(|user| (id.clone(), user));
        let is_open = key.is_some_and(|key| accounts.unacknowledged.contains(&key));
        self.unacknowledged += u64::from(is_open);
        let due_unix_ms = post.answered_unix_ms.max(window.until_unix_ms) + LIVE_WITHIN_MS;
        for device in accounts.targets(post) {
            self.pairs += 1;
            let Some(receipt) = accounts.receipt(id, device) else {
                findings.add("never arrived", describe(post, device));
                continue;
            };
            let paced_ms = match receipt.first {
                Way::Gap => PACING_MS,
                _ => 0,
            };
            if !device.was_connected(post.sent_unix_ms, due_unix_ms.max(receipt.first_unix_ms)) {
                self.reconnected += 1;
                continue;
            }
            let took_ms = receipt.first_unix_ms.saturating_sub(post.answered_unix_ms);
            self.slowest_ms = self.slowest_ms.max(took_ms);
            match receipt.first {
                Way::Live => self.live += 1,
                Way::Gap => self.gap += 1,
                Way::Hole | Way::Connect => {
                    self.hole += 1;
                    let what = format!("{} ({:?})", describe(post, device), receipt.first);
                    findings.add("connected, yet not live", what);
                }
            }
            if receipt.first_unix_ms > due_unix_ms + paced_ms {
                self.late += 1;
                if with_times {
                    let what = format!("{}: {took_ms} ms", describe(post, device));
                    findings.add("late", what);
                }
            }
        }
    }
}

fn describe(post: &Post, device: &Device) -> String {
    let Post { id, n, .. } = post;
    let id = id.as_deref().unwrap_or("unknown");
    let to = post.user.as_deref().unwrap_or("all");
    format!(
        "{id} (number {n} to {to}, answered {}) at device {} of {}",
        post.answered_unix_ms, device.device, device.user
    )
}

/// Every accepted notification is in its inbox once, and nothing else is in any.
fn stored_once(accounts: &Accounts, findings: &mut Findings) {
    let known: std::collections::BTreeSet<&str> = accounts
        .posts
        .iter()
        .filter_map(|post| post.id.as_deref())
        .collect();
    // Of these it is not known whether they were accepted.
    let unknown = accounts.posts.iter().any(|post| post.id.is_none());
    for post in &accounts.posts {
        let Some(id) = &post.id else { continue };
        for device in accounts.targets(post).filter(|one| one.device == 0) {
            if !accounts.inboxes.of(&device.user).times.contains_key(id) {
                findings.add("not in the inbox", describe(post, device));
            }
        }
    }
    for (user, inbox) in accounts.inboxes.all() {
        for (id, times) in &inbox.times {
            if *times > 1 {
                findings.add("stored twice", format!("{id} of {user}"));
            }
            if !unknown && !known.contains(id.as_str()) {
                findings.add("nobody posted", format!("{id} of {user}"));
            }
        }
    }
}

/// Whatever an inbox holds comes by `sync` to a device that has nothing of it, acknowledged elsewhere or not.
fn returned_by_sync(accounts: &Accounts, findings: &mut Findings) {
    for (user, returned) in &accounts.returned {
        let stored = accounts.inboxes.of(user).times.keys();
        match returned {
            Err(why) => findings.add("no sync", format!("{user}: {why}")),
            Ok(ids) => {
                for id in stored.filter(|id| !ids.contains(*id)) {
                    findings.add("not returned by sync", format!("{id} of {user}"));
                }
            }
        }
    }
}

/// Without a hole at the end, a cursor is the newest row of its stream.
fn cursors_agree(accounts: &Accounts, findings: &mut Findings) {
    for device in &accounts.devices {
        let cursors = device.cursors();
        for (stream, head) in &accounts.inboxes.of(&device.user).heads {
            let at = cursors.get(stream.as_str());
            if at != Some(head) {
                let what = format!(
                    "device {} of {}: {stream} at {at:?}, stored {head}, hole: {}",
                    device.device, device.user, device.has_hole
                );
                findings.add("cursor", what);
            }
        }
    }
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        self.findings.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<44} {:>7} {:>6} {:>7} {:>8} {:>9} {:>8} {:>7} {:>6} {:>6} {:>5} {:>8} {:>8}",
            "fault",
            "lasted",
            "posts",
            "spooled",
            "pairs",
            "reconn.",
            "live",
            "gap",
            "hole",
            "share",
            "late",
            "slowest",
            "no ack"
        )?;
        for row in &self.rows {
            let stayed = row.live + row.gap + row.hole;
            let share = 100.0 * (row.live + row.gap) as f64 / stayed.max(1) as f64;
            writeln!(
                f,
                "{:<44} {:>5} s {:>6} {:>7} {:>8} {:>9} {:>8} {:>7} {:>6} {:>5.1}% {:>5} {:>5} ms {:>8}",
                row.name,
                row.lasted_ms / 1000,
                row.posts,
                row.spooled,
                row.pairs,
                row.reconnected,
                row.live,
                row.gap,
                row.hole,
                share,
                row.late,
                row.slowest_ms,
                row.unacknowledged
            )?;
        }
        let Verdict {
            repeats, synced, ..
        } = self;
        writeln!(f, "repeats on the wire: {repeats}")?;
        writeln!(f, "users of whom all was asked for by sync: {synced}")?;
        for report in &self.reports {
            writeln!(f, "clients: {report}")?;
        }
        for finding in &self.findings {
            writeln!(f, "✗ {finding}")?;
        }
        Ok(())
    }
}
