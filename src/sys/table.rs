//! Descriptor tables: one of its own per core thread, and how many descriptors they hold.

use super::check;
use std::{
    fs, io,
    os::{fd::AsRawFd, linux::fs::MetadataExt},
    path::Path,
};

/// Proof that the calling thread has a descriptor table of its own: what it closes, nobody else loses.
/// It can't leave the thread.
#[derive(Debug)]
pub struct OwnTable {
    _stays: std::marker::PhantomData<*const ()>,
}

impl OwnTable {
    /// Gives the calling thread a copy of the process's table. The copies of what is open now stay
    /// open until [`OwnTable::keep_only`].
    pub fn unshare() -> io::Result<OwnTable> {
        // SAFETY: no pointers; descriptors of this thread refer to the same files as before.
        check(unsafe { libc::unshare(libc::CLONE_FILES) })?;
        Ok(OwnTable {
            _stays: std::marker::PhantomData,
        })
    }

    /// Closes every descriptor of this table but 0–2 and `kept`.
    ///
    /// The thread must not use, or drop the last owner of, anything else it inherited: its numbers
    /// will soon mean client sockets. That is why a core thread never wakes a tokio task (the waker
    /// writes to an eventfd of the table left behind) but rings a doorbell it kept.
    pub fn keep_only(&self, kept: &[&dyn AsRawFd]) -> io::Result<()> {
        let mut kept: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd() as u32).collect();
        kept.extend([0, 1, 2]);
        kept.sort_unstable();
        kept.dedup();
        let mut first = 0;
        for &fd in &kept {
            if first < fd {
                close_range(first, fd - 1)?;
            }
            first = fd + 1;
        }
        close_range(first, u32::MAX)
    }
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: only reached through an `OwnTable`, so no other thread loses a descriptor; the caller of
    // `keep_only` promised that this thread uses none of them any more. By `syscall`: the C library's
    // wrapper is younger than the kernels we run on.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    check(result as libc::c_int)?;
    Ok(())
}

/// Raises the soft limit of descriptors to the hard one; returns it. It bounds each table, not their sum.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a live `rlimit`, which the kernel fills.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a live `rlimit`, which the kernel reads.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })?;
    Ok(limit.rlim_cur)
}

/// Open descriptors of the process: the shared table once, and the table of each thread whose name
/// starts with `own_table_prefix` (`/proc/PID/fd` shows the first only).
pub fn count_descriptors(own_table_prefix: Option<&str>) -> io::Result<u64> {
    let mut count = descriptors_in(Path::new("/proc/self/fd"))?;
    let Some(own_table_prefix) = own_table_prefix else {
        return Ok(count);
    };
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        // A thread may end while we look: it then holds nothing.
        let Ok(name) = fs::read_to_string(task.join("comm")) else {
            continue;
        };
        if name.starts_with(own_table_prefix) {
            count += descriptors_in(&task.join("fd")).unwrap_or(0);
        }
    }
    Ok(count)
}

/// Kernels since 6.2 give the count as the directory's size; before, the size is 0 and we count.
fn descriptors_in(directory: &Path) -> io::Result<u64> {
    match fs::metadata(directory)?.st_size() {
        0 => Ok(fs::read_dir(directory)?.count() as u64),
        size => Ok(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, io::Read};

    #[test]
    fn a_table_of_its_own_is_emptied_without_loss_to_others() {
        let mut outside = File::open("/proc/self/status").unwrap();
        let kept = File::open("/proc/self/stat").unwrap();
        std::thread::scope(|scope| {
            let (outside, mut kept) = (&outside, &kept);
            scope.spawn(move || {
                let Ok(table) = OwnTable::unshare() else {
                    return; // Not permitted here: nothing to see.
                };
                table.keep_only(&[kept]).unwrap();
                assert!(kept.read(&mut [0; 1]).is_ok());
                assert!(outside.metadata().is_err());
            });
        });
        assert!(outside.read(&mut [0; 1]).is_ok());
    }

    #[test]
    fn descriptors_are_counted() {
        let before = count_descriptors(None).unwrap();
        let files: Vec<File> = (0..50).map(|_| File::open("/dev/null").unwrap()).collect();
        // Other tests open and close files meanwhile.
        assert!(count_descriptors(None).unwrap() + 25 > before + files.len() as u64);
    }
}
