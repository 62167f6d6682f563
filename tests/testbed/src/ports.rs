//! Ports that stay a test's own, also while nothing listens on them.

use std::{
    fs::File,
    net::TcpListener,
    sync::{Mutex, PoisonError},
};

/// Below the range the kernel takes ports of outgoing connections from.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// Locked files, one for each port handed out: the kernel lets go of them with this process.
static RESERVED: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A free port that no other test process on this machine is given, as long as this one lives.
///
/// # Panics
/// When the files that reserve ports can't be made.
pub fn free_port() -> u16 {
    let folder = std::env::temp_dir().join("herald-test-ports");
    std::fs::create_dir_all(&folder).expect("a folder for reserved ports");
    loop {
        let port = rand::random_range(RANGE);
        let reserved = File::create(folder.join(port.to_string())).expect("a file");
        if reserved.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            let mut all = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(reserved);
            return port;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_port_is_given_twice() {
        let ports: HashSet<u16> = (0..500).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 500);
    }
}
