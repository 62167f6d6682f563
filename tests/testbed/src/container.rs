//! A small Debian with a real systemd as its process 1, by systemd-nspawn on the folder that
//! `scripts/install.sh test` makes. It shares this host's network. What is changed in it is gone afterwards.

use crate::{child::Guarded, until};
use std::{
    fmt::Display,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// Everything of it lives in a process namespace whose first process is nspawn: the kernel ends all of it
/// with that one, however the test ends. (By itself, the container's process 1 would outlive nspawn.)
pub struct Container {
    unshare: Guarded,
}

impl Container {
    /// Boots with `files`: (what of this host, where it is there). `None`, said with its cause, where such
    /// a container can't be had.
    pub fn boot(files: &[(&Path, &str)]) -> Option<Container> {
        let root = cache().join("systemd/root");
        if !root.join("usr/lib/systemd/systemd").exists() {
            let cause = format!("{} is not there: scripts/install.sh test", root.display());
            return skipped(cause);
        }
        // SAFETY: a plain system call.
        if unsafe { libc::geteuid() } != 0 {
            return skipped("systemd-nspawn needs root");
        }
        let refused = nspawn(&root).arg("/usr/bin/true").output();
        let refused = refused.expect("systemd-nspawn is installed (scripts/install.sh test)");
        if !refused.status.success() {
            return skipped(String::from_utf8_lossy(&refused.stderr));
        }
        let mut command = nspawn(&root);
        for (here, there) in files {
            command.arg(format!("--bind-ro={}:{there}", here.display()));
        }
        command.arg("--boot").stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let unshare = Guarded::spawn(command).expect("systemd-nspawn starts");
        let container = Container { unshare };
        until(
            "the container boots",
            || {
                let state = container.run(&["systemctl", "is-system-running"]);
                ["running", "degraded"].contains(&text(&state.stdout))
            },
            || format!("{:?}", container.run(&["systemctl", "list-jobs"])),
        );
        Some(container)
    }

    /// Runs a command inside.
    pub fn run(&self, command: &[&str]) -> Output {
        // unshare's only child is nspawn, whose only child is the container's process 1, once there is one.
        let nspawn = only_child(&self.unshare.pid().to_string());
        let leader = nspawn.and_then(|nspawn| only_child(&nspawn));
        let target = leader.unwrap_or("none".to_owned());
        let spaces = ["--mount", "--uts", "--ipc", "--pid", "--cgroup"];
        let output = Command::new("nsenter")
            .args(["--target", &target])
            .args(spaces)
            .arg("--")
            .args(command)
            .output();
        output.expect("nsenter is installed")
    }

    /// One property of a unit, as systemd has it.
    pub fn property(&self, unit: &str, name: &str) -> String {
        let shown = self.run(&["systemctl", "show", "--value", "-p", name, unit]);
        text(&shown.stdout).to_owned()
    }

    pub fn journal(&self, unit: &str) -> String {
        let shown = self.run(&["journalctl", "--no-pager", "-o", "cat", "-u", unit]);
        text(&shown.stdout).to_owned()
    }
}

fn only_child(pid: &str) -> Option<String> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next().map(str::to_owned)
}

fn nspawn(root: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--fork", "--pid", "--mount-proc", "--kill-child=KILL"])
        .arg("systemd-nspawn")
        .args([
            "--quiet",
            "--volatile=overlay",
            "--register=no",
            "--keep-unit",
        ])
        .arg(format!("--machine=herald-{}", std::process::id()))
        .arg(format!("--directory={}", root.display()))
        // Containers are denied them by default; services on a host are not.
        .arg("--system-call-filter=io_uring_setup io_uring_enter io_uring_register");
    command
}

/// Where `scripts/install.sh` puts what is no package of the system.
pub(crate) fn cache() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache");
    std::env::var_os("HERALD_CACHE").map_or_else(default, PathBuf::from)
}

/// The one that `scripts/install.sh test` makes.
pub(crate) fn python() -> PathBuf {
    cache().join("python/bin/python")
}

/// Past the test harness, which keeps what a passing test prints.
fn skipped<T>(cause: impl Display) -> Option<T> {
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED, units under a real systemd: {cause}"
    );
    None
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default().trim()
}
