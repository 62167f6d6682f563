//! From control to a core: through the queue alone, and with the bell to a thread that sleeps.

use super::compare;
use crate::table::Figure;
use anyhow::{Context, Result};
use crossbeam::queue::ArrayQueue;
use herald::gateway::{
    canary::CanaryPass,
    mailbox::{ConnectionNames, FromCore, ToCore},
    queues::{self, Mail},
};
use std::{
    hint::black_box,
    io::{Read, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    sync::Arc,
    thread,
    time::Instant,
};

const BATCH: usize = 256;
const TURNS: u32 = 20_000;
const HOPS: u32 = 20_000;

pub async fn figures(runs: usize) -> Result<Vec<Figure>> {
    let mut woken = Figure::new(
        "there and back with two wakes, beside a byte over a socket pair",
        "ns",
    );
    for _ in 0..runs {
        woken.runs.push(hop_ns().await?);
        woken.floor.push(bare_hop_ns()?);
    }
    Ok(vec![batch(runs)?, woken])
}

fn names() -> Result<ConnectionNames> {
    Ok(ConnectionNames::new("gw-1".parse()?, 0))
}

fn canary() -> Arc<CanaryPass> {
    Arc::new(CanaryPass::generate(SocketAddr::from(([127, 0, 0, 1], 0))))
}

/// A message through the queue, in batches, the bell rung once each; nobody sleeps.
fn batch(runs: usize) -> Result<Figure> {
    let wirings = queues::wire(1)?;
    let (mut mail, bell) = wirings[0].enter()?;
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let (cores, _inbox) = queues::control_ends(
        wirings,
        nowhere,
        Vec::new(),
        names()?,
        canary(),
        Default::default(),
    );
    let turn = || {
        for _ in 0..BATCH {
            let sent = cores.send(0, ToCore::StopAccepting);
            assert!(sent.is_ok(), "there is room for a batch");
        }
        cores.ring(0);
        assert!(bell.silence());
        mail.answered();
        while let Some(letter) = mail.receive() {
            black_box(letter);
        }
    };
    let queue = ArrayQueue::new(BATCH);
    let bare = || {
        for number in 0..BATCH {
            let _ = queue.push(number);
        }
        while let Some(number) = queue.pop() {
            black_box(number);
        }
    };
    let name = format!("mailbox, in batches of {BATCH}, beside a bare queue of numbers");
    let mut figure = compare(&name, (runs, TURNS), turn, bare);
    let runs = figure.runs.iter_mut().chain(&mut figure.floor);
    runs.for_each(|ns| *ns /= BATCH as f64);
    Ok(figure)
}

/// A core that answers every letter, asleep in between.
async fn hop_ns() -> Result<f64> {
    let wirings = queues::wire(1)?;
    let (mail, bell) = wirings[0].enter()?;
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let (cores, mut inbox) = queues::control_ends(
        wirings,
        nowhere,
        Vec::new(),
        names()?,
        canary(),
        Default::default(),
    );
    let core = thread::spawn(move || answer(mail, bell));
    let mut told = Vec::new();
    let began = Instant::now();
    for _ in 0..HOPS {
        let sent = cores.send(0, ToCore::StopAccepting);
        assert!(sent.is_ok(), "it is empty");
        cores.ring(0);
        told.clear();
        inbox.recv_many(&mut told).await?;
    }
    let ns = began.elapsed().as_secs_f64() * 1e9 / f64::from(HOPS);
    let sent = cores.send(0, ToCore::Shutdown);
    assert!(sent.is_ok(), "it is empty");
    cores.ring(0);
    let ended = core.join().ok().context("the core panicked")?;
    ended.map(|()| ns)
}

fn answer(mut mail: Mail, bell: herald::sys::Doorbell) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let bell = herald::sys::AwaitedDoorbell::new(bell)?;
        loop {
            bell.rung().await?;
            mail.answered();
            while let Some(letter) = mail.receive() {
                if matches!(letter, ToCore::Shutdown) {
                    return Ok(());
                }
                mail.tell(FromCore::Drained { core: 0 });
            }
            mail.hand_over();
        }
    })
}

fn bare_hop_ns() -> Result<f64> {
    let (mut here, mut there) = UnixStream::pair()?;
    let echo = thread::spawn(move || -> std::io::Result<()> {
        let mut byte = [0];
        for _ in 0..HOPS {
            there.read_exact(&mut byte)?;
            there.write_all(&byte)?;
        }
        Ok(())
    });
    let mut byte = [0];
    let began = Instant::now();
    for _ in 0..HOPS {
        here.write_all(&byte)?;
        here.read_exact(&mut byte)?;
    }
    let ns = began.elapsed().as_secs_f64() * 1e9 / f64::from(HOPS);
    echo.join().ok().context("the echo panicked")??;
    Ok(ns)
}
