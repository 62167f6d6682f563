//! How the run goes, while it goes: a line that changes on a terminal, a line now and then elsewhere.

use crate::{outputs, tally::Counters};
use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

/// All of it on stderr.
pub struct Progress {
    is_terminal: bool,
    last: Instant,
    last_unique: u64,
}

impl Progress {
    pub fn new() -> Progress {
        Progress {
            is_terminal: io::stderr().is_terminal(),
            last: Instant::now(),
            last_unique: 0,
        }
    }

    /// Something worth a line of its own.
    pub fn say(&self, text: &str) {
        let clear = if self.is_terminal { "\r\x1b[K" } else { "" };
        outputs::say(&format!("{clear}swarm: {text}\n"));
    }

    pub fn show(&mut self, clients: u32, counters: &Counters, ledger: Option<(u64, u64)>) {
        let every = Duration::from_millis(if self.is_terminal { 250 } else { 5_000 });
        let since = self.last.elapsed();
        if since < every {
            return;
        }
        let per_s = (counters.unique - self.last_unique) as f64 / since.as_secs_f64();
        (self.last, self.last_unique) = (Instant::now(), counters.unique);
        let posted = ledger.map_or(String::new(), |(accepted, expected)| {
            let waiting = expected.saturating_sub(counters.unique_own);
            format!(" · {accepted} posted, {waiting} on the way")
        });
        let holes = counters.holes_seen - counters.holes_healed;
        let syncing = match counters.syncing {
            0 => String::new(),
            count => format!(", {count} syncing"),
        };
        let line = format!(
            "{}/{clients} connected{syncing}{posted} · {} received, {per_s:.0}/s · {} repeated · {holes} holes · \
             {} reconnects",
            counters.connected,
            counters.unique,
            counters.repeated(),
            counters.reconnects
        );
        outputs::say(&match self.is_terminal {
            true => format!("\r\x1b[K{line}"),
            false => format!("swarm: {line}\n"),
        });
    }

    pub fn end(&self) {
        if self.is_terminal {
            outputs::say("\n");
        }
    }
}
