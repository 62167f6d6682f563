//! The systemd units, judged by systemd's own tools.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

const UNITS: [&str; 2] = ["herald-gateway.service", "herald-dispatcher.service"];

fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("systemd")
        .join(name);
    std::fs::read_to_string(path).expect("the unit is there")
}

/// A copy that starts the binary of this build: the check demands that it exists.
fn installed(name: &str, directory: &Path) -> PathBuf {
    let text = unit(name).replace("/usr/bin/herald", env!("CARGO_BIN_EXE_herald"));
    let path = directory.join(name);
    std::fs::write(&path, text).expect("a temporary file");
    path
}

fn analyze(arguments: &[&str], unit: &Path) -> Output {
    Command::new("systemd-analyze")
        .args(arguments)
        .arg(unit)
        .output()
        .expect("systemd-analyze is installed (apt-get install systemd)")
}

#[test]
fn the_units_pass_systemds_check_without_a_word() {
    let directory = tempfile::tempdir().unwrap();
    for name in UNITS {
        let output = analyze(&["verify", "--man=no"], &installed(name, directory.path()));
        // A key that systemd does not know is only a warning, the exit status stays 0.
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && words.is_empty(),
            "{name}: {words}"
        );
    }
}

#[test]
fn the_units_expose_little_of_the_host() {
    let directory = tempfile::tempdir().unwrap();
    for name in UNITS {
        // systemd's exposure in tenths; an unhardened service has about 95.
        let judge = ["security", "--offline=true", "--no-pager", "--threshold=20"];
        let output = analyze(&judge, &installed(name, directory.path()));
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{name}: {report}");
    }
}

#[test]
fn the_gateway_may_use_io_uring_and_descriptor_tables_of_its_threads() {
    let text = unit("herald-gateway.service");
    let allowed: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("SystemCallFilter="))
        .inspect(|calls| {
            assert!(
                !calls.starts_with('~'),
                "a deny-list may take them away again"
            )
        })
        .flat_map(str::split_whitespace)
        .collect();
    for call in [
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "unshare",
        "close_range",
    ] {
        assert!(allowed.contains(&call), "{call}");
    }
}

#[test]
fn the_host_is_looked_at_before_a_gateway_starts_and_that_stops_nobody() {
    let text = unit("herald-gateway.service");
    let look = "ExecStartPre=-/usr/bin/herald check --config /etc/herald/gateway.toml";
    assert!(text.lines().any(|line| line == look));
}

#[test]
fn the_drop_in_for_a_host_is_understood() {
    let directory = tempfile::tempdir().unwrap();
    let unit = installed(UNITS[0], directory.path());
    let beside = directory.path().join(format!("{}.d", UNITS[0]));
    std::fs::create_dir(&beside).unwrap();
    let shipped = format!("tuning/systemd/{}.d/host.conf", UNITS[0]);
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join(shipped);
    std::fs::copy(shipped, beside.join("host.conf")).unwrap();
    let output = analyze(&["verify", "--man=no"], &unit);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && words.is_empty(), "{words}");
}

#[test]
fn a_wrong_configuration_is_not_tried_again_and_again() {
    for name in UNITS {
        let status = format!("RestartPreventExitStatus={}", herald::config::EXIT_CONFIG);
        assert!(unit(name).contains(&status), "{name}");
    }
}
