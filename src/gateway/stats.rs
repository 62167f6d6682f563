//! What the cores count. Hot counts are plain numbers of the core, added to the process's once per tick;
//! what happens rarely goes straight to its family. Every label is bounded: engines, cores, codes, causes.

use super::{THREAD_PREFIX, engine::Engine};
use crate::{metrics::Metrics, proto::close::CloseCode, sys};
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

/// Families of the process, shared by its cores.
#[derive(Clone)]
pub(super) struct Families {
    connections: IntGaugeVec,
    accepted: IntCounter,
    opened: IntCounterVec,
    reconnect_s: Histogram,
    heartbeats: IntCounter,
    refused: IntCounterVec,
    closed: IntCounterVec,
    violations: IntCounterVec,
    received: IntCounter,
    received_bytes: IntCounter,
    sent: IntCounter,
    sent_bytes: IntCounter,
    writes: IntCounter,
    blocked: IntCounter,
    stalled: IntCounter,
    accepts_paused: IntCounter,
    tables_shared: IntCounter,
    shed: IntCounter,
    client_errors: IntCounterVec,
    close_unanswered: IntCounter,
    crowded_out: IntCounter,
    tls: TlsFamilies,
}

/// Of connections by TLS.
#[derive(Clone)]
struct TlsFamilies {
    handshakes: IntCounterVec,
    broken: IntCounterVec,
    received_bytes: IntCounter,
    sent_bytes: IntCounter,
}

impl TlsFamilies {
    fn new(metrics: &Metrics) -> TlsFamilies {
        TlsFamilies {
            handshakes: metrics.counters(
                "tls_handshakes_total",
                "TLS handshakes completed; those that failed are in refused_total.",
                &["kind", "version"],
            ),
            broken: metrics.counters(
                "tls_broken_total",
                "TLS connections that ended by a breach of TLS after the handshake, by cause.",
                &["cause"],
            ),
            received_bytes: metrics.counter(
                "tls_received_bytes_total",
                "Bytes from clients by TLS, sealed.",
            ),
            sent_bytes: metrics.counter(
                "tls_sent_bytes_total",
                "Bytes the kernel took for clients by TLS, sealed.",
            ),
        }
    }
}

impl Families {
    pub fn new(metrics: &Metrics, engine: Engine) -> Families {
        let engines = metrics.gauges("engine", "Engine the cores run on.", &["engine"]);
        engines.with_label_values(&[engine.as_str()]).set(1);
        Families {
            connections: metrics.gauges("connections", "Client sockets held.", &["core"]),
            accepted: metrics.counter("accepted_total", "Client sockets accepted."),
            opened: metrics.counters(
                "opened_total",
                "Connections authenticated, by framing.",
                &["framing"],
            ),
            reconnect_s: reconnects(metrics),
            heartbeats: heartbeats(metrics),
            refused: metrics.counters(
                "refused_total",
                "Clients turned away before they were open, by cause.",
                &["cause"],
            ),
            closed: closed(metrics),
            violations: metrics.counters(
                "violations_total",
                "Breaches of the WebSocket protocol by clients, by cause.",
                &["cause"],
            ),
            received: metrics.counter("received_total", "Messages from clients."),
            received_bytes: metrics
                .counter("received_bytes_total", "Bytes from clients, as they came."),
            sent: metrics.counter("sent_total", "Items written whole to a client."),
            sent_bytes: metrics.counter(
                "sent_bytes_total",
                "Bytes the kernel took for clients, before TLS.",
            ),
            writes: metrics.counter(
                "writes_total",
                "Writes to clients: what waits for one leaves together.",
            ),
            blocked: metrics.counter(
                "write_blocked_total",
                "Writes the kernel did not take whole.",
            ),
            stalled: metrics.counter(
                "core_stalled_total",
                "Times a core stopped reading clients because control's queue was full.",
            ),
            accepts_paused: metrics.counter(
                "accepts_paused_total",
                "Times a core let newcomers wait for the next tick to keep the accept rate.",
            ),
            tables_shared: metrics.counter(
                "descriptor_tables_shared_total",
                "Cores that could not have a descriptor table of their own.",
            ),
            shed: metrics.counter(
                "shed_total",
                "Items dropped for want of room in a connection's lanes.",
            ),
            client_errors: metrics.counters(
                "client_errors_total",
                "Client frames answered with `error`, by code.",
                &["code"],
            ),
            close_unanswered: metrics.counter(
                "close_unanswered_total",
                "Close frames of ours that the client did not answer in time.",
            ),
            crowded_out: metrics.counter(
                "crowded_out_total",
                "Connections ended because they went on growing when the share for what waits was used up.",
            ),
            tls: TlsFamilies::new(metrics),
        }
    }

    pub fn table_shared(&self) {
        self.tables_shared.inc();
    }

    /// Descriptors of the process over all its tables, for the alert on them.
    pub fn count_descriptors(&self, metrics: &Metrics, own_tables: bool) {
        let shared = self.tables_shared.clone();
        let help =
            "Open descriptors, summed over the tables of the core threads and the shared one.";
        metrics.computed("descriptors", help, move || {
            let own_tables = own_tables && shared.get() == 0;
            let counted = sys::count_descriptors(own_tables.then_some(THREAD_PREFIX));
            counted.map_or(-1, |count| count as i64)
        });
    }
}

fn reconnects(metrics: &Metrics) -> Histogram {
    metrics.latency(
        "reconnect_seconds",
        "How long clients that came back were without a connection, as they say.",
    )
}

fn heartbeats(metrics: &Metrics) -> IntCounter {
    metrics.counter(
        "heartbeats_total",
        "Pings that were due to WebSocket clients; who does not answer is in closed_total as 4404.",
    )
}

/// Of those that vanish there is one before the first: a rate sees only what grows.
fn closed(metrics: &Metrics) -> IntCounterVec {
    let closed = metrics.counters(
        "closed_total",
        "Open connections that ended, by close code (ours or the client's) or how else.",
        &["code"],
    );
    closed.with_label_values(&[&CloseCode::Dead.code().to_string()]);
    closed
}

/// One core's counts.
pub(super) struct Stats {
    families: Families,
    connections: IntGauge,
    pub accepted: u64,
    pub heartbeats: u64,
    pub received: u64,
    pub received_bytes: u64,
    pub sent: u64,
    pub sent_bytes: u64,
    pub writes: u64,
    pub blocked: u64,
    pub stalled: u64,
    pub accepts_paused: u64,
    pub shed: u64,
    pub tls_received_bytes: u64,
    pub tls_sent_bytes: u64,
}

impl Stats {
    pub fn new(families: Families, core: u16) -> Stats {
        let connections = families
            .connections
            .with_label_values(&[core.to_string().as_str()]);
        Stats {
            families,
            connections,
            accepted: 0,
            heartbeats: 0,
            received: 0,
            received_bytes: 0,
            sent: 0,
            sent_bytes: 0,
            writes: 0,
            blocked: 0,
            stalled: 0,
            accepts_paused: 0,
            shed: 0,
            tls_received_bytes: 0,
            tls_sent_bytes: 0,
        }
    }

    /// A client was turned away before it was open.
    pub fn refused(&self, cause: &'static str) {
        self.families.refused.with_label_values(&[cause]).inc();
    }

    pub fn opened(&self, framing: &'static str) {
        self.families.opened.with_label_values(&[framing]).inc();
    }

    /// A client is back that lost its connection so long ago.
    pub fn reconnected(&self, away_ms: u32) {
        self.families
            .reconnect_s
            .observe(f64::from(away_ms) / 1_000.0);
    }

    /// `code` is a close code of the table or a word for how else it ended.
    pub fn closed(&self, code: &str) {
        self.families.closed.with_label_values(&[code]).inc();
    }

    pub fn violation(&self, cause: &'static str) {
        self.families.violations.with_label_values(&[cause]).inc();
    }

    /// A client frame was answered with `error`.
    pub fn client_error(&self, code: &'static str) {
        self.families.client_errors.with_label_values(&[code]).inc();
    }

    pub fn handshake(&self, kind: &'static str, version: &'static str) {
        let handshakes = &self.families.tls.handshakes;
        handshakes.with_label_values(&[kind, version]).inc();
    }

    pub fn tls_broken(&self, cause: &'static str) {
        self.families.tls.broken.with_label_values(&[cause]).inc();
    }

    pub fn close_unanswered(&self) {
        self.families.close_unanswered.inc();
    }

    pub fn crowded_out(&self) {
        self.families.crowded_out.inc();
    }

    /// Adds what was counted since the last time.
    pub fn publish(&mut self, connections: usize) {
        self.connections.set(connections as i64);
        let families = &self.families;
        for (count, family) in [
            (&mut self.accepted, &families.accepted),
            (&mut self.heartbeats, &families.heartbeats),
            (&mut self.received, &families.received),
            (&mut self.received_bytes, &families.received_bytes),
            (&mut self.sent, &families.sent),
            (&mut self.sent_bytes, &families.sent_bytes),
            (&mut self.writes, &families.writes),
            (&mut self.blocked, &families.blocked),
            (&mut self.stalled, &families.stalled),
            (&mut self.accepts_paused, &families.accepts_paused),
            (&mut self.shed, &families.shed),
            (&mut self.tls_received_bytes, &families.tls.received_bytes),
            (&mut self.tls_sent_bytes, &families.tls.sent_bytes),
        ] {
            if *count > 0 {
                family.inc_by(std::mem::take(count));
            }
        }
    }
}
