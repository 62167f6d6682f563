//! What the steps of a connection share on one core: settings, the clock of this turn, the ways out.

use super::{
    Tls,
    accept::Entrance,
    canary::CanaryPass,
    mailbox::{ConnId, ConnectionNames},
    proxy::Newcomer,
    queues::Mail,
    stats::Stats,
    tls::{channel::Channels, handshake::InFlight},
};
use crate::{
    auth::{AuthError, Verified, Verifier},
    clock::unix_ms,
    config::{self, ConfigError},
    envelope::Fate,
    ids::Region,
    memory::Memory,
    proto::{
        Now,
        client::frames::Slot,
        proxy_header::Trusted,
        session::{Action, Framing, Item, Session, SessionConfig, Ticket},
        upgrade::Rules,
    },
};
use arc_swap::{ArcSwap, Cache};
use rustls::ServerConfig;
use std::{sync::Arc, time::Instant};

/// Told to clients until control gives another.
const FIRST_SLOT: Slot = Slot {
    after_ms_min: 0,
    after_ms_max: 5_000,
};

/// Of the whole process, until its configuration is read again.
pub(super) struct Settings {
    pub gateway: config::Gateway,
    pub session: SessionConfig,
    pub rules: Rules,
    /// Peers whose PROXY header is believed, and demanded.
    pub trusted: Trusted,
    conformance: config::Conformance,
    region: Region,
    started: Instant,
    pub names: ConnectionNames,
    pub canary: Arc<CanaryPass>,
}

impl Settings {
    pub fn new(
        gateway: &config::Gateway,
        conformance: config::Conformance,
        region: &Region,
    ) -> Result<Settings, ConfigError> {
        Ok(Settings {
            trusted: Trusted::new(&gateway.proxy_trusted)?,
            session: SessionConfig::new(gateway, region),
            rules: Rules::new(&gateway.origins, conformance.echo)?,
            gateway: gateway.clone(),
            conformance,
            region: region.clone(),
            started: Instant::now(),
            names: ConnectionNames::new(gateway.id.clone(), unix_ms()),
            canary: Arc::new(CanaryPass::generate(gateway.listen)),
        })
    }

    /// The same process with another `[gateway]`.
    pub fn reloaded(&self, gateway: &config::Gateway) -> Result<Settings, ConfigError> {
        Ok(Settings {
            started: self.started,
            names: self.names.clone(),
            canary: self.canary.clone(),
            ..Settings::new(gateway, self.conformance, &self.region)?
        })
    }

    fn now(&self) -> Now {
        Now {
            mono_ms: self.started.elapsed().as_millis() as u64,
            unix_ms: unix_ms(),
        }
    }
}

pub(super) struct Context {
    pub core: u16,
    pub settings: Arc<Settings>,
    verifier: Cache<Arc<ArcSwap<Verifier>>, Arc<Verifier>>,
    pub mail: Mail,
    pub stats: Stats,
    /// Read once per turn.
    pub now: Now,
    /// Counts the turns, so that a connection knows what it did in this one.
    pub turn: u16,
    /// What sessions ask for; empty between steps, kept for its capacity.
    pub actions: Vec<Action>,
    /// Window in which clients are told to come back.
    pub slot: Slot,
    pub memory: Arc<Memory>,
    /// What waits in connections of this core, since it was last added to the account.
    pub held_change: i64,
    /// Control's queue has room: clients may be read.
    pub has_room: bool,
    /// Newcomers are sent elsewhere.
    pub draining: bool,
    /// Certificate and tickets of the TLS listener, as they are now.
    tls: Option<Cache<Arc<ArcSwap<ServerConfig>>, Arc<ServerConfig>>>,
    pub handshakes: InFlight,
    pub channels: Channels,
    /// The broadcast whose slice is being written, and how many took it at once: they are told together.
    pub broadcast: Option<(Ticket, u32)>,
}

impl Context {
    /// An authenticated client is back, and says how long it was away.
    pub fn reconnected(&self, away_ms: Option<u32>) {
        if let Some(away_ms) = away_ms {
            self.stats.reconnected(away_ms);
        }
    }

    pub fn new(
        core: u16,
        settings: Arc<Settings>,
        verifier: Arc<ArcSwap<Verifier>>,
        tls: Option<Arc<Tls>>,
        mail: Mail,
        stats: Stats,
        memory: Arc<Memory>,
    ) -> Context {
        Context {
            core,
            now: settings.now(),
            settings,
            verifier: Cache::new(verifier),
            mail,
            stats,
            turn: 0,
            actions: Vec::new(),
            slot: FIRST_SLOT,
            memory,
            held_change: 0,
            has_room: true,
            draining: false,
            tls: tls.map(|tls| Cache::new(tls.current())),
            handshakes: InFlight::default(),
            channels: Channels::new(),
            broadcast: None,
        }
    }

    pub fn begin_turn(&mut self) {
        self.now = self.settings.now();
        // Never 0, which is the turn of nobody.
        self.turn = self.turn.wrapping_add(1).max(1);
    }

    pub fn newcomer(&self, refused: Option<&'static str>, entrance: Entrance) -> Newcomer {
        Newcomer {
            until_ms: self.now.mono_ms + self.settings.gateway.handshake_ms,
            refused,
            entrance,
        }
    }

    /// For the next handshake; the certificate may have been replaced since the last one.
    pub fn tls_config(&mut self) -> Option<Arc<ServerConfig>> {
        self.tls.as_mut().map(|tls| tls.load().clone())
    }

    /// Whether an item may wait for a client that does not read now.
    pub fn keeps(&self, item: &Item) -> bool {
        self.memory.keeps(item.lane, self.held_change)
    }

    /// Keys may have been replaced since the last time.
    pub fn verify(&mut self, token: &str) -> Result<Verified, AuthError> {
        self.verifier.load().verify(token, self.now.unix_ms / 1_000)
    }

    pub fn new_session(&self, framing: Framing, expires_unix_s: u64, id: ConnId) -> Session {
        let salt = id.slot ^ u32::from(id.core) << 24 ^ u32::from(id.reuse) << 8;
        let config = &self.settings.session;
        Session::new(framing, expires_unix_s, salt, self.now, config)
    }

    /// Passes a fate on to control, and counts; what else a session asks for is not for one that has ended.
    pub fn settle_fate(&mut self, action: Action) {
        match action {
            Action::Fate { ticket, fate } => {
                if fate == Fate::Written {
                    self.stats.sent += 1;
                }
                match &mut self.broadcast {
                    Some((current, written)) if *current == ticket && fate == Fate::Written => {
                        *written += 1;
                    }
                    _ => self.mail.fate(ticket, fate, 1),
                }
            }
            Action::Shed => self.stats.shed += 1,
            _ => {}
        }
    }

    /// The same for all that a session has asked for.
    pub fn settle_fates(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            self.settle_fate(action);
        }
        self.actions = actions;
    }
}
