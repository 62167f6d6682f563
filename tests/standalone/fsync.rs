//! Seen from outside: what is answered 202 has reached the disk.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
};
use testbed::{Standalone, child::Guarded};

const NOTIFICATIONS: usize = 20;
/// A page of the log and its escapes: the whole record is seen.
const SHOWN_BYTES: &str = "4200";

/// `strace` shows the record written to the bus's log, the log synced after that, and only then the answer.
#[tokio::test(flavor = "multi_thread")]
async fn every_202_stands_behind_an_fsync() {
    let herald = Standalone::start(&[]).await;
    let trace = herald.file("strace.out");
    let strace = attach(herald.process.pid(), &trace);
    herald
        .eventually("strace is attached", async || {
            herald.api.notify("warm", "up").await.unwrap();
            read(&trace).contains(" 202 ")
        })
        .await;
    for n in 0..NOTIFICATIONS {
        herald.api.notify("42", &title(n)).await.unwrap();
    }
    herald
        .eventually("all answers are in the trace", async || {
            answered_behind_a_sync(&read(&trace)) == NOTIFICATIONS
        })
        .await;
    drop(strace);
}

fn title(n: usize) -> String {
    format!("notification-{n}-of-this-test")
}

fn attach(pid: u32, trace: &Path) -> Guarded {
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-y", "-s", SHOWN_BYTES])
        .args(["-e", "trace=fsync,fdatasync,pwrite64,write,writev,sendto"])
        .arg("-o")
        .arg(trace)
        .args(["-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    Guarded::spawn(strace).expect("strace is installed")
}

fn read(trace: &Path) -> String {
    std::fs::read_to_string(trace).unwrap_or_default()
}

/// How many of the notifications, posted one after the other, were answered.
///
/// # Panics
/// When one was answered without a sync after its record was written.
fn answered_behind_a_sync(trace: &str) -> usize {
    let mut answered = 0;
    let (mut is_written, mut is_synced) = (false, false);
    // Threads whose sync of the log has begun; the line of its end does not name the file.
    let mut syncing = BTreeSet::new();
    for line in trace.lines() {
        let (thread, call) = line.split_once(' ').unwrap_or_default();
        let on_log = call.contains("/bus.db-wal>");
        let is_sync = call.trim_start().starts_with("fsync(") || call.contains("fdatasync(");
        if is_sync && on_log && call.ends_with("<unfinished ...>") {
            syncing.insert(thread);
        } else if call.trim_end().ends_with("= 0")
            && ((is_sync && on_log) || (call.contains("sync resumed>") && syncing.remove(thread)))
        {
            is_synced = true;
        } else if on_log && !is_written && call.contains(&title(answered)) {
            (is_written, is_synced) = (true, false);
            // What began before may leave the record out.
            syncing.clear();
        } else if call.contains("HTTP/1.1 202 ") && is_written {
            assert!(is_synced, "answered without a sync of its record:\n{line}");
            answered += 1;
            is_written = false;
        }
    }
    answered
}
