//! What this process may do with a file, asked without touching it.

use super::check;
use std::{ffi::CString, io, os::unix::ffi::OsStrExt, path::Path};

/// Whether files can be made in the directory, by permissions and by how it is mounted.
pub fn may_write_in(directory: &Path) -> io::Result<()> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    let (mode, flags) = (libc::W_OK | libc::X_OK, libc::AT_EACCESS);
    // SAFETY: the pointer is to a live, zero-terminated string, which the call only reads.
    check(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), mode, flags) })?;
    Ok(())
}
