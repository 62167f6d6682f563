//! How a thread becomes a core.

use super::{
    StartError, Tls,
    accept::Door,
    context::{Context, Settings},
    core::Core,
    engine::Engine,
    park::{Park, Token},
    queues::{Addresses, Mail, Wiring},
    stats::{Families, Stats},
    wheel::TICK_MS,
};
use crate::{
    auth::Verifier,
    memory::Memory,
    sys::{self, Doorbell, Interest, OwnTable, Ticker},
};
use arc_swap::ArcSwap;
use std::{
    cell::Cell,
    io,
    sync::{Arc, atomic::AtomicUsize, mpsc::SyncSender},
    time::Duration,
};

/// What a thread needs to become a core.
pub(super) struct Boot {
    pub core: u16,
    /// How many there are: they share the accept rate.
    pub cores: usize,
    pub cpu: Option<usize>,
    /// CPUs of the cores, for the one that tells the kernel where newcomers go.
    pub steer: Option<Vec<usize>>,
    pub engine: Engine,
    pub listen: Addresses,
    pub wiring: Arc<Wiring>,
    pub settings: Arc<Settings>,
    pub verifier: Arc<ArcSwap<Verifier>>,
    pub tls: Option<Arc<Tls>>,
    pub families: Families,
    /// Client sockets of all cores.
    pub population: Arc<AtomicUsize>,
    pub memory: Arc<Memory>,
}

/// Without this core its clients and its share of newcomers would hang in silence: end loudly instead.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

impl Boot {
    /// The thread's main. Reports the addresses once it accepts, or why it can't.
    pub fn run(self, report: SyncSender<Result<Addresses, StartError>>) {
        let _abort = AbortOnPanic;
        let (core, engine) = (self.core, self.engine);
        let reported = Cell::new(false);
        let result = self.claim().and_then(|(listen, claimed)| {
            let run = engine.run(|| async {
                let core = claimed.enter()?;
                reported.set(report.send(Ok(listen)).is_ok());
                core.run().await
            });
            run.and_then(|ended| ended)
                .map_err(|source| failed(core, source))
        });
        match result {
            Ok(()) => {}
            Err(error) if reported.get() => {
                tracing::error!(core, %error, "a core can't go on");
                std::process::abort();
            }
            Err(error) => {
                // Nobody listens only if the start was given up.
                let _ = report.send(Err(error));
            }
        }
    }

    /// Takes CPU, descriptor table, bells and the listener, in this order: the table is emptied of what
    /// the process had open before anything of the core's own is opened.
    fn claim(self) -> Result<(Addresses, Claimed), StartError> {
        if let Some(cpu) = self.cpu
            && let Err(error) = sys::pin_to_cpu(cpu)
        {
            tracing::warn!(core = self.core, cpu, %error, "the core is not pinned");
        }
        let own_table = self.own_table();
        let (mail, bell) = own_table.map_err(|source| failed(self.core, source))?;
        let door = Door::open(self.listen, self.cores, &self.settings)?;
        let listen = door.addresses();
        if let Some(cpus) = &self.steer
            && let Err(error) = door.steer(self.cores, cpus)
        {
            tracing::warn!(%error, "newcomers are spread by hash: the kernel does not take gateway.steer");
        }
        let claimed = Claimed {
            core: self.core,
            door,
            mail,
            bell,
            settings: self.settings,
            verifier: self.verifier,
            tls: self.tls,
            families: self.families,
            population: self.population,
            memory: self.memory,
        };
        Ok((listen, claimed))
    }

    fn own_table(&self) -> io::Result<(Mail, Doorbell)> {
        if !self.settings.gateway.own_fd_table {
            return self.wiring.enter();
        }
        match OwnTable::unshare() {
            Ok(table) => {
                let (mail, bell) = self.wiring.enter()?;
                table.keep_only(&[mail.kept(), &bell])?;
                Ok((mail, bell))
            }
            Err(error) => {
                tracing::warn!(
                    core = self.core, %error,
                    "no descriptor table of its own: cores share one, and RLIMIT_NOFILE bounds their sum \
                     (does a seccomp filter forbid unshare?)"
                );
                self.families.table_shared();
                self.wiring.enter()
            }
        }
    }
}

fn failed(core: u16, source: io::Error) -> StartError {
    StartError::Core { core, source }
}

/// What a core holds before its runtime runs.
struct Claimed {
    core: u16,
    door: Door,
    mail: Mail,
    bell: Doorbell,
    settings: Arc<Settings>,
    verifier: Arc<ArcSwap<Verifier>>,
    tls: Option<Arc<Tls>>,
    families: Families,
    population: Arc<AtomicUsize>,
    memory: Arc<Memory>,
}

impl Claimed {
    /// Inside the runtime: the set, and in it what is not a connection.
    fn enter(self) -> io::Result<Core> {
        let park = Park::new()?;
        let ticker = Ticker::new(Duration::from_millis(TICK_MS))?;
        self.door.watch(&park)?;
        // An edge per ring: the count in it never has to be read.
        park.add(&self.bell, Token::Doorbell, Interest::Edge)?;
        park.add(&ticker, Token::Ticker, Interest::Level)?;
        let stats = Stats::new(self.families, self.core);
        let context = Context::new(
            self.core,
            self.settings,
            self.verifier,
            self.tls,
            self.mail,
            stats,
            self.memory,
        );
        Ok(Core::new(
            park,
            ticker,
            self.bell,
            self.door,
            self.population,
            context,
        ))
    }
}
