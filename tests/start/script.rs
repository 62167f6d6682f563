//! `make fleet`, by its script: what it says once it is up works, and it leaves nothing behind.

use std::{
    io::{BufRead, BufReader},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};
use testbed::{herald::binary, until};

/// First of the ports it would take without an offset.
const HTTP: u16 = 8090;
const CLIENTS: [u16; 2] = [8080, 8081];

struct Script(Child);

impl Script {
    fn signal(&self, signal: i32) {
        // SAFETY: a plain system call on our own child, which is not reaped yet.
        unsafe { libc::kill(self.0.id() as i32, signal) };
    }
}

impl Drop for Script {
    /// Killed, it would leave what it started.
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.signal(libc::SIGTERM);
            let _ = self.0.wait();
        }
    }
}

fn start(directory: &Path, offset: u16) -> Child {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/fleet.sh"))
        .env("HERALD_BIN", binary("herald"))
        .env("FLEET_DIR", directory)
        .env("FLEET_OFFSET", offset.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bash is installed")
}

fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[test]
fn the_fleet_script_comes_up_takes_a_notification_names_taken_ports_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // All of its ports end up in 20,000..32,000, below those of outgoing connections.
    let offset = rand::random_range(11_920..12_900);
    let mut script = Script(start(directory.path(), offset));
    let mut lines = BufReader::new(script.0.stdout.take().expect("piped")).lines();
    let is_up = lines.any(|line| line.is_ok_and(|line| line.contains("Ctrl-C stops it")));
    assert!(is_up, "it ended before it was up");

    let sent = Command::new(binary("herald"))
        .args([
            "ctl",
            "--url",
            &format!("http://127.0.0.1:{}", HTTP + offset),
        ])
        .arg("--api-key-file")
        .arg(directory.path().join("admin.key"))
        .args(["send", "--user", "42", "--title", "Hello"])
        .output()
        .expect("it runs");
    assert!(sent.status.success(), "{sent:?}");

    let second = start(directory.path(), offset).wait_with_output();
    let second = second.expect("it ends");
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(
        !second.status.success() && said.contains("is taken"),
        "{said}"
    );
    assert!(CLIENTS.iter().all(|port| listens(port + offset)));

    script.signal(libc::SIGTERM);
    let ended = script.0.wait().expect("our own child");
    assert!(ended.success(), "{ended}");
    until(
        "nothing listens any more",
        || {
            !CLIENTS
                .iter()
                .chain(&[HTTP, 16_379, 19_092])
                .any(|port| listens(port + offset))
        },
        String::new,
    );
}
