//! How the run goes, while it goes: a line that changes on a terminal, a line now and then elsewhere.

use crate::{outputs, sys, tally::Counters};
use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

/// Of a terminal that does not say.
const COLUMNS: usize = 80;

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
            true => format!("\r\x1b[K{}", fitting(&line, sys::terminal_columns())),
            false => format!("swarm: {line}\n"),
        });
    }

    pub fn end(&self) {
        if self.is_terminal {
            outputs::say("\n");
        }
    }
}

/// A line that is longer than the terminal is wide would be wrapped, and could not be written over. The last column is
/// left to the cursor.
fn fitting(line: &str, columns: Option<usize>) -> &str {
    let most = columns.unwrap_or(COLUMNS).saturating_sub(1);
    let end = line.char_indices().nth(most);
    end.map_or(line, |(end, _)| &line[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_to_the_terminal_and_not_within_a_letter() {
        assert_eq!(fitting("ten · letters", Some(6)), "ten ·");
        assert_eq!(fitting("ten · letters", Some(80)), "ten · letters");
        assert_eq!(fitting(&"x".repeat(90), None).len(), 79);
    }
}
