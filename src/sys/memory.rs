//! How this process's memory is backed, and given back.

use super::check;
use std::{
    cell::Cell,
    io,
    time::{Duration, Instant},
};

/// Between two collections of one thread: each looks at every page of the thread's heap.
const COLLECT_EVERY: Duration = Duration::from_secs(5);

/// From now on memory is taken by small pages only, also where the kernel gives huge ones unasked
/// (`transparent_hugepage/enabled` is `always`).
///
/// A heap of many small things, touched here and there, would hold 2 MB where a few KB are used.
pub fn without_huge_pages() -> io::Result<()> {
    // SAFETY: no pointers; what is already backed stays as it is.
    check(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) })?;
    Ok(())
}

/// Bytes of a page, in which the kernel counts.
pub fn page_bytes() -> u64 {
    // SAFETY: takes no pointers; the size of a page is always known.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as u64 }
}

/// Gives back what this thread allocated and other threads freed, if that was not done lately. For a thread
/// that is about to wait.
///
/// The allocator learns of such blocks only when the thread allocates more of their size. Control makes the
/// frames that cores free, so after a rush of connects their pages would be kept for ever.
pub fn collect_freed() {
    thread_local! {
        static LAST: Cell<Option<Instant>> = const { Cell::new(None) };
    }
    let now = Instant::now();
    let is_due = LAST.get().is_none_or(|last| now - last >= COLLECT_EVERY);
    if is_due {
        LAST.set(Some(now));
        // SAFETY: takes no pointers; it concerns the heap of the calling thread only.
        unsafe { libmimalloc_sys::mi_collect(true) };
    }
}
