//! What becomes of a process whose output nobody reads any more.

use super::check;
use std::io;

/// It ends by SIGPIPE as other commands of a shell do; Rust's own start ignores the signal, and printing panics.
pub fn end_with_reader() -> io::Result<()> {
    // SAFETY: no handler of ours is installed or run: the disposition becomes the default one.
    let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    check(if before == libc::SIG_ERR { -1 } else { 0 })?;
    Ok(())
}
