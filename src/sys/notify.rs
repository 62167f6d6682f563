//! Descriptors that other threads and the clock make readable.

use super::check;
use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    time::Duration,
};
use tokio::io::{Interest, unix::AsyncFd};

/// An eventfd: wakes whoever waits for it, any number of rings at once.
#[derive(Debug)]
pub struct Doorbell {
    file: File,
}

impl Doorbell {
    pub fn new() -> io::Result<Doorbell> {
        // SAFETY: no pointers; a descriptor that comes back is ours alone from here on.
        let fd = unsafe {
            OwnedFd::from_raw_fd(check(libc::eventfd(
                0,
                libc::EFD_CLOEXEC | libc::EFD_NONBLOCK,
            ))?)
        };
        Ok(Doorbell { file: fd.into() })
    }

    /// A second descriptor of the same bell, entered in the table of the calling thread.
    pub fn try_clone(&self) -> io::Result<Doorbell> {
        Ok(Doorbell {
            file: self.file.try_clone()?,
        })
    }

    pub fn ring(&self) {
        // Fails only when 2⁶⁴−2 rings wait unread: then it rings already.
        let _ = (&self.file).write(&1u64.to_ne_bytes());
    }

    /// Takes the rings so far; false when there were none.
    pub fn silence(&self) -> bool {
        (&self.file).read(&mut [0; 8]).is_ok()
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// A doorbell that a tokio task waits for.
#[derive(Debug)]
pub struct AwaitedDoorbell {
    bell: AsyncFd<Doorbell>,
}

impl AwaitedDoorbell {
    /// Inside a tokio runtime only.
    pub fn new(bell: Doorbell) -> io::Result<AwaitedDoorbell> {
        // SAFETY: the doorbell is moved in, never replaced, and closes its descriptor when it is dropped
        // and no sooner: for as long as it is registered it names the same eventfd.
        let bell = unsafe { AsyncFd::register_with_interest(bell, Interest::READABLE) }?;
        Ok(AwaitedDoorbell { bell })
    }

    /// Returns once it was rung, and takes the rings. Cancel-safe.
    pub async fn rung(&self) -> io::Result<()> {
        let mut readable = self.bell.readable().await?;
        readable.get_inner().silence();
        readable.clear_ready();
        Ok(())
    }
}

/// A timerfd on the monotonic clock, readable once per period.
#[derive(Debug)]
pub struct Ticker {
    file: File,
}

impl Ticker {
    pub fn new(period: Duration) -> io::Result<Ticker> {
        // SAFETY: no pointers; a descriptor that comes back is ours alone from here on.
        let fd = unsafe {
            OwnedFd::from_raw_fd(check(libc::timerfd_create(
                libc::CLOCK_MONOTONIC,
                libc::TFD_CLOEXEC | libc::TFD_NONBLOCK,
            ))?)
        };
        let period = libc::timespec {
            tv_sec: period.as_secs() as libc::time_t,
            tv_nsec: period.subsec_nanos().into(),
        };
        let setting = libc::itimerspec {
            it_interval: period,
            it_value: period,
        };
        // SAFETY: `setting` lives over the call and is only read; the old setting is not asked for.
        check(unsafe { libc::timerfd_settime(fd.as_raw_fd(), 0, &setting, std::ptr::null_mut()) })?;
        Ok(Ticker { file: fd.into() })
    }

    /// Takes the periods that have passed; the next one is told anew.
    pub fn silence(&self) {
        let _ = (&self.file).read(&mut [0; 8]);
    }
}

impl AsFd for Ticker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doorbell_tells_any_number_of_rings_once() {
        let bell = Doorbell::new().unwrap();
        assert!(!bell.silence());
        bell.ring();
        bell.try_clone().unwrap().ring();
        assert!(bell.silence());
        assert!(!bell.silence());
    }
}
