//! Core threads: they hold the sockets and nothing else touches one.
//!
//! The path of a connection, one file and one state per step: [`accept`] → [`proxy`] (header of a trusted
//! balancer) → [`tls::handshake`] (clients of the TLS listener) → [`request`] → [`upgrade`] (WebSocket, event stream, [`posting`] or
//! a plain answer; authentication by the request) → [`proving`] (authentication by the first message) →
//! [`open`] → [`closing`]; [`conn`] holds the states. What a core is besides: [`boot`] and [`core`] (the
//! thread and its turns), [`canary`] (what lets our own canary in), [`park`] (where sockets wait), [`wire`] and [`flush`] (how bytes leave), [`wheel`] (time),
//! [`letters`] and [`walk`] (what control asks of one connection, and of all), [`mailbox`] and [`queues`]
//! (the way between both).
//!
//! Invariants:
//! * a core's state never leaves its thread; there is no lock, and no allocation per idle connection
//!   beyond its slab entry and its user's name;
//! * everything a core does happens between two waits, in portions: events, letters and the steps of a
//!   walk over all connections are each bounded per turn, so none holds up the others for long;
//! * descriptors of a core live in its own table: see [`crate::sys::OwnTable::keep_only`] for what must
//!   therefore never be called from here.

mod accept;
mod boot;
pub mod canary;
mod closing;
mod conn;
mod context;
mod core;
mod engine;
mod flush;
mod letters;
pub mod mailbox;
mod open;
mod park;
mod posting;
mod proving;
mod proxy;
pub mod queues;
mod request;
mod slots;
mod stats;
pub mod tls;
mod upgrade;
mod walk;
mod wheel;
mod wire;

use queues::Addresses;
pub use queues::{Cores, Full, Inbox};
pub use tls::Tls;

use crate::{
    auth::Verifier,
    config::{self, ConfigError},
    ids::Region,
    memory::Memory,
    metrics::Metrics,
    sys,
};
use arc_swap::ArcSwap;
use context::Settings;
use engine::Engine;
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize, mpsc},
    thread,
};
use thiserror::Error;

/// Names of core threads start with it; their descriptor tables are found by it.
const THREAD_PREFIX: &str = "core-";

#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "gateway.engine = \"uring\", but the kernel does not grant io_uring: {source}. Allow it (sysctl \
         kernel.io_uring_disabled=0, the seccomp filter of the container, RLIMIT_MEMLOCK) or set \
         gateway.engine = \"auto\""
    )]
    Uring { source: io::Error },
    #[error(
        "can't listen on {address}: {source}. Free the port, or change {key} (below 1024 it takes \
         CAP_NET_BIND_SERVICE)"
    )]
    Listen {
        key: &'static str,
        address: SocketAddr,
        source: io::Error,
    },
    #[error("can't start core {core}: {source}. Check RLIMIT_NOFILE and RLIMIT_NPROC")]
    Core { core: u16, source: io::Error },
}

/// What [`start`] would refuse for its configuration, before anything is opened.
pub fn check(
    cfg: &config::Gateway,
    conformance: config::Conformance,
    region: &Region,
) -> Result<(), ConfigError> {
    Settings::new(cfg, conformance, region).map(drop)
}

/// Starts the core threads and returns when every one of them accepts. Call it before anything else of
/// the process opens descriptors, so that there is little for a core's own table to leave behind.
pub fn start(
    cfg: &config::Gateway,
    conformance: config::Conformance,
    verifier: Arc<ArcSwap<Verifier>>,
    tls: Option<Arc<Tls>>,
    region: &Region,
    metrics: &Metrics,
) -> Result<(Cores, Inbox), StartError> {
    let settings = Arc::new(Settings::new(cfg, conformance, region)?);
    let mut listen = Addresses {
        plain: cfg.listen,
        tls: tls.as_ref().and(cfg.tls_listen),
    };
    for (_, key, address) in listen.each() {
        accept::ensure_free(address).map_err(|source| StartError::Listen {
            key,
            address,
            source,
        })?;
    }
    let engine = Engine::choose(cfg.engine)?;
    let cpus = sys::cpus().unwrap_or_else(|_| vec![0]);
    let count = match cfg.cores {
        0 => cpus.len(),
        count => count,
    };
    if let Err(error) = sys::raise_descriptor_limit() {
        tracing::warn!(%error, "the soft limit of descriptors stays as it is");
    }
    let failed = |core| move |source| StartError::Core { core, source };
    let wirings = queues::wire(count).map_err(failed(0))?;
    let families = stats::Families::new(metrics, engine);
    families.count_descriptors(metrics, cfg.own_fd_table);
    let population = Arc::new(AtomicUsize::new(0));
    let memory = Arc::new(Memory::new(cfg, count, population.clone()));
    memory.measure(metrics);

    let mut threads = Vec::with_capacity(count);
    for (core, wiring) in (0..).zip(&wirings) {
        let (report, reported) = mpsc::sync_channel(1);
        let boot = boot::Boot {
            core,
            cores: count,
            cpu: cfg.pin.then(|| cpus[usize::from(core) % cpus.len()]),
            steer: (core == 0 && cfg.steer == config::Steer::Cpu).then(|| cpus.clone()),
            engine,
            listen,
            wiring: wiring.clone(),
            settings: settings.clone(),
            verifier: verifier.clone(),
            tls: tls.clone(),
            families: families.clone(),
            population: population.clone(),
            memory: memory.clone(),
        };
        let thread = thread::Builder::new()
            .name(format!("{THREAD_PREFIX}{core}"))
            .spawn(move || boot.run(report))
            .map_err(failed(core))?;
        threads.push(thread);
        // Port 0 becomes the one the first core was given. A core that ends without a word has aborted
        // the process.
        listen = reported.recv().expect("a core reports")?;
    }
    let Addresses { plain, tls } = listen;
    let by_tls = tls.map(tracing::field::display);
    tracing::info!(engine = engine.as_str(), cores = count, listen = %plain, tls = by_tls, "accepting clients");
    memory.warn(cfg);
    let (names, canary) = (settings.names.clone(), settings.canary.clone());
    Ok(queues::control_ends(
        wirings, listen, threads, names, canary, memory,
    ))
}
