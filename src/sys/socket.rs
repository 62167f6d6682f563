//! What the kernel holds for a socket.

use super::check;
use std::{io, net::TcpStream, os::fd::AsRawFd};

/// Bytes the kernel took to send and could not send yet: the peer's window is full, or the network is.
pub fn unsent_bytes(socket: &TcpStream) -> io::Result<u64> {
    /// linux/sockios.h; libc has no name for it.
    const SIOCOUTQNSD: libc::c_ulong = 0x894B;
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one int through the pointer, which is to a live local.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCOUTQNSD as _, &raw mut bytes) })?;
    Ok(bytes.max(0) as u64)
}
