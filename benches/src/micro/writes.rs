//! One frame to each of many connections, as a walk over a core's clients sends it: by a system call each, which is
//! what the gateway does, and in batches through a ring of io_uring, at its best (one issuer, deferred work, registered
//! descriptors). Both ends on the loopback; nobody waits to read, so nothing but the sends is in it.
#![allow(unsafe_code, reason = "entries of the ring point to the frame")]

use crate::table::Figure;
use anyhow::{Result, ensure};
use io_uring::{IoUring, opcode, types};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

const CONNECTIONS: usize = 4_000;
const ROUNDS: u32 = 20;
/// A notification with 200 bytes of text, and its header.
static FRAME: [u8; 460] = [b'x'; 460];
/// Of the ring: sends that enter the kernel together.
const BATCHES: [usize; 2] = [64, 512];

pub fn figures(runs: usize) -> Result<Vec<Figure>> {
    let mut pairs = Pairs::new()?;
    let mut figures = Vec::new();
    for batch in BATCHES {
        let name = format!(
            "a send of {} B, {batch} at once through the ring",
            FRAME.len()
        );
        let mut figure = Figure::new(name, "ns");
        let mut ring = pairs.ring(batch)?;
        for _ in 0..runs {
            figure
                .runs
                .push(pairs.each_ns(|pairs| pairs.by_ring(&mut ring, batch))?);
            figure.floor.push(pairs.each_ns(Pairs::directly)?);
        }
        figures.push(figure);
    }
    Ok(figures)
}

struct Pairs {
    ours: Vec<TcpStream>,
    theirs: Vec<TcpStream>,
}

impl Pairs {
    fn new() -> Result<Pairs> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let mut pairs = Pairs {
            ours: Vec::new(),
            theirs: Vec::new(),
        };
        for _ in 0..CONNECTIONS {
            pairs.theirs.push(TcpStream::connect(address)?);
            let (ours, _) = listener.accept()?;
            ours.set_nonblocking(true)?;
            ours.set_nodelay(true)?;
            pairs.ours.push(ours);
        }
        Ok(pairs)
    }

    /// ns of one send. What was sent is read in between, outside of the time.
    fn each_ns(&mut self, mut round: impl FnMut(&Pairs) -> Result<()>) -> Result<f64> {
        let mut took = Duration::ZERO;
        for turn in 0..=ROUNDS {
            let began = Instant::now();
            round(self)?;
            // The first round pays for cold caches.
            if turn > 0 {
                took += began.elapsed();
            }
            let mut read = FRAME;
            for stream in &mut self.theirs {
                stream.read_exact(&mut read)?;
            }
        }
        Ok(took.as_secs_f64() * 1e9 / f64::from(ROUNDS) / CONNECTIONS as f64)
    }

    fn directly(&self) -> Result<()> {
        for mut stream in &self.ours {
            ensure!(stream.write(&FRAME)? == FRAME.len(), "a send in part");
        }
        Ok(())
    }

    fn ring(&self, batch: usize) -> Result<IoUring> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun();
        let ring = builder.build(batch as u32)?;
        let descriptors: Vec<_> = self.ours.iter().map(AsRawFd::as_raw_fd).collect();
        ring.submitter().register_files(&descriptors)?;
        Ok(ring)
    }

    fn by_ring(&self, ring: &mut IoUring, batch: usize) -> Result<()> {
        for first in (0..self.ours.len()).step_by(batch) {
            let last = (first + batch).min(self.ours.len());
            for index in first..last {
                let send = opcode::Send::new(
                    types::Fixed(index as u32),
                    FRAME.as_ptr(),
                    FRAME.len() as u32,
                );
                let entry = send.flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).build();
                // SAFETY: the frame is static, and lives longer than the send.
                unsafe { ring.submission().push(&entry)? };
            }
            ring.submit_and_wait(last - first)?;
            for completion in ring.completion() {
                ensure!(completion.result() == FRAME.len() as i32, "a send in part");
            }
        }
        Ok(())
    }
}
