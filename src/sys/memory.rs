//! How the kernel backs this process's memory.

use super::check;
use std::io;

/// From now on memory is taken by small pages only, also where the kernel gives huge ones unasked
/// (`transparent_hugepage/enabled` is `always`).
///
/// A heap of many small things, touched here and there, would hold 2 MB where a few KB are used.
pub fn without_huge_pages() -> io::Result<()> {
    // SAFETY: no pointers; what is already backed stays as it is.
    check(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) })?;
    Ok(())
}
