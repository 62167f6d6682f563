//! How much room a disk has.

use super::check;
use std::{ffi::CString, io, mem::MaybeUninit, os::unix::ffi::OsStrExt, path::Path};

/// Bytes that this process may still write to the disk of a directory.
pub fn free_bytes(directory: &Path) -> io::Result<u64> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    let mut figures = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path is a live, zero-terminated string that is only read, and the figures are of the size the call
    // writes.
    check(unsafe { libc::statvfs(path.as_ptr(), figures.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so it wrote all of them.
    let figures = unsafe { figures.assume_init() };
    Ok(figures.f_bavail * figures.f_frsize)
}
