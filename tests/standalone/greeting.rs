//! What `make run` prints to a terminal works as it stands there.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::fd::{FromRawFd, OwnedFd},
    process::{Command, Stdio},
    ptr::null_mut,
};
use testbed::{
    Client, PATIENCE, child::Guarded, eventually, free_port, herald::binary, keep_secret,
};

/// Both ends of a terminal: ours, and the process's.
fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut ours, mut theirs) = (0, 0);
    // SAFETY: the pointers are to live integers, which the call fills; the others may be null.
    let opened =
        unsafe { libc::openpty(&mut ours, &mut theirs, null_mut(), null_mut(), null_mut()) };
    assert_eq!(opened, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: just opened, and nobody else's.
    unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
}

/// The greeting, up to its last line.
fn read(terminal: OwnedFd) -> Vec<String> {
    let mut greeting = Vec::new();
    for line in BufReader::new(File::from(terminal)).lines() {
        greeting.push(line.expect("it says more"));
        if greeting
            .last()
            .is_some_and(|line| line.starts_with("Ctrl-C stops it."))
        {
            break;
        }
    }
    greeting
}

/// What stands behind a word at the start of a line, and that line's number.
fn behind<'a>(greeting: &'a [String], word: &str) -> (usize, &'a str) {
    let mut lines = greeting.iter().enumerate();
    let found = lines.find_map(|(n, line)| Some((n, line.strip_prefix(word)?.trim())));
    found.unwrap_or_else(|| panic!("no {word:?}: {greeting:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_greeting_has_a_console_a_command_that_sends_and_a_token_that_connects() {
    let data = tempfile::tempdir().unwrap();
    let (ours, theirs) = terminal();
    let mut command = Command::new(binary("herald"));
    command.args(["standalone", "--data"]).arg(data.path());
    for listener in ["HTTP", "GATEWAY", "ADMIN"] {
        let address = format!("127.0.0.1:{}", free_port());
        command.env(format!("HERALD_{listener}__LISTEN"), address);
    }
    command
        .stdin(Stdio::null())
        .stdout(theirs)
        .stderr(Stdio::null());
    let _herald = Guarded::spawn(command).expect("it starts");
    let greeting = tokio::task::spawn_blocking(|| read(ours)).await.unwrap();
    for name in ["admin.key", "token.key"] {
        keep_secret(&std::fs::read_to_string(data.path().join(name)).unwrap());
    }

    let (_, console) = behind(&greeting, "console ");
    let page = reqwest::get(console).await.unwrap();
    assert_eq!(page.status(), 200, "{console}");
    assert!(page.text().await.unwrap().contains("console.js"));

    let (clients_line, clients) = behind(&greeting, "clients ");
    let (url, _) = clients.split_once(", as user 42").expect("an address");
    let token = greeting[clients_line + 1].trim();
    let client = Client::start(vec![url.to_owned()], token.to_owned());
    let (send_line, _) = behind(&greeting, "send ");
    let curl = greeting[send_line..clients_line].join("\n");
    let curl = curl
        .strip_prefix("send")
        .expect("its first word")
        .replace('\r', "");
    let sent = Command::new("sh").args(["-c", &curl]).output().unwrap();
    let sent: serde_json::Value = serde_json::from_slice(&sent.stdout)
        .unwrap_or_else(|error| panic!("{error}: {curl}: {sent:?}"));
    let id = sent["id"].as_str().expect("an id").to_owned();
    let missing = async || usize::from(client.times(&id) == 0);
    eventually("it arrives", PATIENCE, missing, || greeting.join("\n")).await;
    assert_eq!(client.seen.lock().unwrap().titles[&id], "Hello");
}
