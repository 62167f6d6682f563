//! The one way our processes serve HTTP and gRPC: the intake, the admin ports, and what goes between
//! gateways and dispatchers. (Clients' connections are the gateway's, on threads of their own.)
//!
//! * Every port has a bound on its connections of its own, so that a flood of one leaves the others free.
//! * A connection without a request at work is in use for a bounded time only: to send its first whole
//!   request head (or HTTP/2 preface and head), and from one request to the next.
//! * What is turned away is counted by cause; when the system has no descriptor left, accepting pauses.

mod readiness;
mod refusal;

pub use readiness::Readiness;
pub use refusal::{in_words, refusal};

use crate::{limits, metrics::Metrics, sys};
use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::Request,
};
use http_body::{Frame, SizeHint};
use hyper::service::{Service, service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use prometheus::IntCounterVec;
use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// What a port is for. A process has one of each at most: their metrics are named for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Intake and inboxes. HTTP/1.1.
    Http,
    /// Health and metrics. HTTP/1.1.
    Admin,
    /// Between our processes, and producers by gRPC. HTTP/2.
    Grpc,
}

impl Port {
    /// For logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Port::Http => "http",
            Port::Admin => "admin",
            Port::Grpc => "grpc",
        }
    }
}

#[derive(Clone, Copy)]
struct Bounds {
    connections: usize,
    /// From accept to the first whole head.
    head: Duration,
    /// From one request's end to the next one's head.
    idle: Duration,
}

impl Bounds {
    fn of(port: Port) -> Bounds {
        let wanted = match port {
            Port::Admin => limits::ADMIN_CONNECTIONS,
            Port::Http | Port::Grpc => limits::SERVER_CONNECTIONS,
        };
        // Under a low limit of descriptors HTTP and gRPC together still leave half to everything else.
        let descriptors = sys::raise_descriptor_limit().map_or(usize::MAX, |limit| limit as usize);
        Bounds {
            connections: wanted.min(descriptors / 4).max(1),
            head: limits::SERVER_HEAD,
            idle: limits::SERVER_IDLE,
        }
    }
}

/// One port, not serving yet.
pub struct Server {
    port: Port,
    bounds: Bounds,
    refused: IntCounterVec,
}

impl Server {
    pub fn new(port: Port, metrics: &Metrics) -> Server {
        Server {
            port,
            bounds: Bounds::of(port),
            refused: metrics.counters(
                &format!("{}_connections_refused_total", port.name()),
                "Connections of this port closed by us, by cause (full: over the bound, head: no whole \
                 request in time, accept: the system gave no descriptor or memory).",
                &["cause"],
            ),
        }
    }

    /// Serves until `shutdown`; open calls get [`limits::SERVER_GRACE`] to end. Dropped, it ends all at once.
    pub async fn serve(self, listener: TcpListener, router: Router, shutdown: CancellationToken) {
        let mut open = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = open.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(_) if open.len() >= self.bounds.connections => self.count("full"),
                Ok((stream, _)) => {
                    let connection = Connection {
                        port: self.port,
                        bounds: self.bounds,
                        refused: self.refused.clone(),
                    };
                    open.spawn(connection.hold(stream, router.clone(), shutdown.clone()));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.count("accept");
                    tracing::warn!(%error, port = self.port.name(), "can't accept");
                    tokio::time::sleep(limits::ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        let all = async { while open.join_next().await.is_some() {} };
        if timeout(limits::SERVER_GRACE, all).await.is_err() {
            tracing::warn!(port = self.port.name(), "open calls were cut off");
        }
    }

    fn count(&self, cause: &str) {
        self.refused.with_label_values(&[cause]).inc();
    }
}

/// The client went away before it was accepted; the next one is not concerned.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Why a connection without a request at work is ended.
enum Unused {
    /// No whole head came.
    Head,
    Idle,
}

struct Connection {
    port: Port,
    bounds: Bounds,
    refused: IntCounterVec,
}

impl Connection {
    async fn hold(self, stream: TcpStream, router: Router, shutdown: CancellationToken) {
        // An answer is small and waited for. A socket that refuses the option is about to fail anyway.
        let _ = stream.set_nodelay(true);
        let usage = Arc::new(Usage::new());
        let router = TowerToHyperService::new(router);
        let service = service_fn(|request: Request<hyper::body::Incoming>| {
            let place = AtWork::enter(&usage);
            let answer = router.call(request);
            async move {
                let answer = answer.await?;
                Ok::<_, std::convert::Infallible>(answer.map(|body| {
                    Body::new(Answer {
                        body,
                        _place: place,
                    })
                }))
            }
        });
        let protocol = protocol(self.port);
        let mut connection = pin!(protocol.serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            // However it ended, it was the client's to end.
            _ = connection.as_mut() => {}
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
            unused = unused(&usage, self.bounds) => match unused {
                Unused::Head => self.refused.with_label_values(&["head"]).inc(),
                Unused::Idle => {
                    // A request that is on its way is told not to have been taken (HTTP/2).
                    connection.as_mut().graceful_shutdown();
                    let _ = timeout(limits::SERVER_GRACE, connection).await;
                }
            },
        }
    }
}

fn protocol(port: Port) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .max_buf_size(limits::SERVER_HEAD_BYTES)
        // Ours counts from the accept, and for both protocols.
        .header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits::GRPC_KEEPALIVE)
        .keep_alive_timeout(limits::GRPC_KEEPALIVE)
        .max_header_list_size(limits::SERVER_HEAD_BYTES as u32)
        .max_concurrent_streams(limits::GRPC_STREAMS);
    match port {
        Port::Http | Port::Admin => builder.http1_only(),
        Port::Grpc => builder.http2_only(),
    }
}

/// Ends when the connection has been without a request for as long as it may.
async fn unused(usage: &Usage, bounds: Bounds) -> Unused {
    loop {
        let now = Instant::now();
        if !usage.began.load(Ordering::Relaxed) {
            let until = usage.accepted + bounds.head;
            if until <= now {
                return Unused::Head;
            }
            // A request that comes meanwhile may have been idle for long by then.
            tokio::time::sleep_until(until.min(now + bounds.idle)).await;
            continue;
        }
        let until = usage.idle_since().unwrap_or(now) + bounds.idle;
        if until <= now {
            return Unused::Idle;
        }
        tokio::time::sleep_until(until).await;
    }
}

/// What requests leave for the one timer that looks after their connection, so that none of them has to wake it.
struct Usage {
    accepted: Instant,
    began: AtomicBool,
    at_work: AtomicUsize,
    /// When the last one ended, in µs from the accept.
    ended_us: AtomicU64,
}

impl Usage {
    fn new() -> Usage {
        Usage {
            accepted: Instant::now(),
            began: AtomicBool::new(false),
            at_work: AtomicUsize::new(0),
            ended_us: AtomicU64::new(0),
        }
    }

    /// `None` while a request is at work.
    fn idle_since(&self) -> Option<Instant> {
        let is_idle = self.at_work.load(Ordering::Acquire) == 0;
        let ended = Duration::from_micros(self.ended_us.load(Ordering::Relaxed));
        is_idle.then(|| self.accepted + ended)
    }
}

/// A request at work, from its head to the end of its answer.
struct AtWork(Arc<Usage>);

impl AtWork {
    fn enter(usage: &Arc<Usage>) -> AtWork {
        usage.at_work.fetch_add(1, Ordering::Relaxed);
        usage.began.store(true, Ordering::Relaxed);
        AtWork(usage.clone())
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let ended_us = self.0.accepted.elapsed().as_micros() as u64;
        self.0.ended_us.store(ended_us, Ordering::Relaxed);
        self.0.at_work.fetch_sub(1, Ordering::Release);
    }
}

/// An answer's body, at work until its end is taken.
struct Answer {
    body: Body,
    _place: AtWork,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
