//! A wall clock of a process's own, by libfaketime.

use std::path::Path;

/// The environment of a process that reads the wall clock as `file` says: `+90s`, or `+0` for the true one. Its
/// other clocks are left alone. A change of the file shows within a second.
pub fn that_follows(file: &Path) -> [(&'static str, String); 4] {
    let library = ["x86_64", "aarch64"]
        .map(|machine| format!("/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1"))
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("libfaketime is installed (apt-get install faketime)");
    let file = file.to_str().expect("a plain path");
    [
        // The C library's own malloc before jemalloc's, of Redis: that one asks for the time while it starts, and
        // libfaketime allocates to answer.
        ("LD_PRELOAD", format!("{library} libc.so.6")),
        ("FAKETIME_TIMESTAMP_FILE", file.to_owned()),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ]
}
