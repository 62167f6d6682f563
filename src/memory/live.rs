//! What the kernel says that is held now.

use crate::sys;
use std::{fs, path::Path};

/// Memory of this process that is resident; 0 where the kernel does not say.
pub fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1);
    pages.and_then(|pages| pages.parse().ok()).unwrap_or(0) * sys::page_bytes()
}

/// What TCP sockets of the host hold in their queues, by the kernel's own account: of each that holds anything
/// whole pages. 0 where the kernel does not say.
pub fn socket_buffer_bytes(root: &Path) -> u64 {
    let text = fs::read_to_string(root.join("proc/self/net/sockstat")).unwrap_or_default();
    tcp_pages(&text).unwrap_or(0) * sys::page_bytes()
}

/// `TCP: inuse 1 orphan 0 tw 0 alloc 1 mem 493`
fn tcp_pages(sockstat: &str) -> Option<u64> {
    let tcp = sockstat
        .lines()
        .find_map(|line| line.strip_prefix("TCP:"))?;
    let (_, pages) = tcp.split_once(" mem ")?;
    pages.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_pages_of_tcp() {
        let text =
            "sockets: used 23\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 493\nUDP: inuse 0 mem 7\n";
        assert_eq!(tcp_pages(text), Some(493));
        assert_eq!(tcp_pages("UDP: inuse 0 mem 7\n"), None);
    }

    #[test]
    fn this_process_holds_something() {
        assert!(resident_bytes() > 1 << 20);
    }
}
