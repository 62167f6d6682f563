//! What the operating system (and in two cases librdkafka) offers and no library of ours wraps safely: the only `unsafe` of the crate.
//!
//! Invariants, for every file here:
//! * what comes out is an owned descriptor or a plain value, never a pointer;
//! * an error is the caller's to judge: nothing here logs, retries or panics on one;
//! * closing descriptors in bulk demands proof that the table is the thread's own ([`OwnTable`]).

#![allow(unsafe_code)]

mod access;
mod disk;
mod epoll;
mod kafka;
mod memory;
mod notify;
mod pipe;
mod socket;
mod steer;
mod table;
mod thread;

pub use access::may_write_in;
pub use disk::free_bytes;
pub use epoll::{EVENTS_MAX, Epoll, Interest, Readiness, Ready};
pub use kafka::{add_brokers, set_credentials};
pub use memory::{collect_freed, page_bytes, without_huge_pages};
pub use notify::{AwaitedDoorbell, Doorbell, Ticker};
pub use pipe::end_with_reader;
pub use socket::unsent_bytes;
pub use steer::steer_by_cpu;
pub use table::{OwnTable, count_descriptors, raise_descriptor_limit};
pub use thread::{cpus, pin_to_cpu};

use std::io;

/// Turns the C convention into Rust's.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
