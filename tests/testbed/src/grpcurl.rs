//! grpcurl, a client of gRPC that knows of a server only what its reflection says.

use crate::container::cache;
use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

/// Runs it to its end with this as its input. `None` where it is not installed, which is said.
pub fn grpcurl(arguments: &[&str], input: &str) -> Option<Output> {
    let program = cache().join("go/bin/grpcurl");
    if !program.exists() {
        // Past the test harness, which keeps what a passing test prints.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED, gRPC by grpcurl: {} is not there (scripts/install.sh test, with Go)",
            program.display()
        );
        return None;
    }
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    // It may have seen enough before all of it is read.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    Some(child.wait_with_output().expect("it ends"))
}
