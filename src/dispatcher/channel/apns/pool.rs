//! Connections to APNs: HTTP/2 over TLS, each for many messages at once.
//!
//! Invariants:
//! * of streams there are never more than the server allows on a connection; what is over waits for one;
//! * a request that the server has not looked at (its GOAWAY or its refusal of the stream says so, or it was never written)
//!   is sent again at once, on another connection; any other is not;
//! * a connection on which a request got no answer in time is not used for new ones.

use crate::{
    config::ConfigError, dispatcher::channel::http::authorities as authorities_in, limits,
};
use bytes::Bytes;
use futures::future::poll_fn;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    client::conn::http2::{Builder, SendRequest},
    rt::Executor,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use std::{
    error::Error,
    future::Future,
    path::Path,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};
use tokio::{net::TcpStream, sync::Notify, time::Instant};
use tokio_rustls::TlsConnector;

pub struct Pool {
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: TlsConnector,
    lines: Mutex<Vec<Arc<Line>>>,
    lines_max: usize,
    is_opening: AtomicBool,
    /// A stream came free, or a connection was made or not, or ended, or said how many streams it allows.
    changed: Arc<Notify>,
    /// Why the last connection was not made, and until when none is tried.
    failed: Mutex<Option<(String, Instant)>>,
}

struct Line {
    requests: SendRequest<Full<Bytes>>,
    /// Requests that have no answer yet.
    open: AtomicUsize,
    /// Streams that the server allows, as far as it has said.
    streams: Arc<AtomicUsize>,
    is_retired: AtomicBool,
}

/// A request under way.
struct Turn {
    line: Arc<Line>,
    is_answered: bool,
    changed: Arc<Notify>,
}

/// The one who makes a connection. Whoever waited for it looks again when that is over, also when it was given up.
struct Opening<'a>(&'a AtomicBool, &'a Notify);

/// Runs what hyper makes of a connection. After each step of it the server may have said how many streams it allows, which
/// the connection's own future is not told of.
#[derive(Clone, Default)]
struct Steps(Arc<Notify>);

/// No answer, for people.
pub struct Away(pub String);

impl Pool {
    /// `address` is `host:port`.
    pub fn new(
        address: &str,
        ca_file: Option<&Path>,
        lines_max: usize,
    ) -> Result<Pool, ConfigError> {
        let refused = |problem: String| ConfigError::new("apns.address", problem);
        let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
        let host = host.trim_matches(['[', ']']);
        let port = port
            .parse()
            .map_err(|_| refused(format!("{address:?} has no port")))?;
        let name = ServerName::try_from(host.to_owned());
        let mut config = ClientConfig::builder()
            .with_root_certificates(authorities(ca_file)?)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Pool {
            host: host.to_owned(),
            port,
            name: name.map_err(|error| refused(error.to_string()))?,
            tls: TlsConnector::from(Arc::new(config)),
            lines: Mutex::default(),
            lines_max,
            is_opening: AtomicBool::new(false),
            changed: Arc::default(),
            failed: Mutex::default(),
        })
    }

    /// The answer, and what its body begins with.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Away> {
        let mut refusals = 0;
        loop {
            let mut turn = self.turn().await?;
            let mut requests = turn.line.requests.clone();
            let sent = requests.try_send_request(request.clone()).await;
            turn.is_answered = true;
            let error = match sent {
                Ok(response) => return whole(response).await,
                Err(error) => error,
            };
            let was_ignored = error.message().is_some() || is_ignored(error.error());
            refusals += 1;
            if !was_ignored || refusals > limits::APNS_REFUSALS {
                return Err(Away(deepest(error.error())));
            }
            turn.line.retire_unless_refused(error.error());
        }
    }

    /// On the connection that has most room; if none has any, on a new one, if there may be one. Nobody queues behind a
    /// busy one: what is handed to a connection stays with it, while another may be on its way.
    async fn turn(&self) -> Result<Turn, Away> {
        loop {
            let opening = {
                let mut changed = pin!(self.changed.notified());
                changed.as_mut().enable();
                if let Some(turn) = self.take() {
                    return Ok(turn);
                }
                let Some(opening) = self.begin_opening() else {
                    changed.await;
                    continue;
                };
                opening
            };
            // A stream that comes free meanwhile is for one of those that wait.
            let opened = self.open().await;
            drop(opening);
            match opened {
                Err(away) if self.lines.lock().is_empty() => return Err(away),
                Err(_) => tokio::time::sleep(limits::APNS_CONNECT_PAUSE).await,
                Ok(()) => {}
            }
        }
    }

    fn begin_opening(&self) -> Option<Opening<'_>> {
        let may_open = self.lines.lock().len() < self.lines_max;
        let is_first = may_open && !self.is_opening.swap(true, Relaxed);
        is_first.then(|| Opening(&self.is_opening, &self.changed))
    }

    fn take(&self) -> Option<Turn> {
        let mut lines = self.lines.lock();
        lines.retain(|line| line.is_usable());
        let free = lines.iter().filter(|line| line.has_room());
        let line = free.min_by_key(|line| line.open.load(Relaxed))?.clone();
        line.open.fetch_add(1, Relaxed);
        Some(Turn {
            line,
            is_answered: false,
            changed: self.changed.clone(),
        })
    }

    /// What failed a moment ago is not tried again yet, however many ask.
    async fn open(&self) -> Result<(), Away> {
        if let Some((why, until)) = self.failed.lock().as_ref()
            && Instant::now() < *until
        {
            return Err(Away(why.clone()));
        }
        let opened = self.connect().await;
        *self.failed.lock() = match &opened {
            Ok(_) => None,
            Err(Away(why)) => Some((why.clone(), Instant::now() + limits::APNS_CONNECT_PAUSE)),
        };
        self.lines.lock().push(Arc::new(opened?));
        Ok(())
    }

    async fn connect(&self) -> Result<Line, Away> {
        let away = |error: &dyn Error| Away(deepest(error));
        let address = (self.host.as_str(), self.port);
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| away(&error))?;
        stream.set_nodelay(true).map_err(|error| away(&error))?;
        let stream = self.tls.connect(self.name.clone(), stream).await;
        let stream = stream.map_err(|error| away(&error))?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(Away("it does not speak HTTP/2".into()));
        }
        let steps = Steps::default();
        let (requests, connection) = Builder::new(steps.clone())
            .timer(TokioTimer::new())
            // Until the server says more: it lets in one request, and judges our token by it.
            .initial_max_send_streams(1)
            .keep_alive_interval(limits::PUSH_PING)
            .keep_alive_timeout(limits::PUSH_PING_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| away(&error))?;
        let streams = Arc::new(AtomicUsize::new(1));
        let (told, changed) = (streams.clone(), self.changed.clone());
        tokio::spawn(async move {
            let mut connection = Box::pin(connection);
            let ended = loop {
                let ended = tokio::select! {
                    ended = connection.as_mut() => Some(ended),
                    () = steps.0.notified() => None,
                };
                let allowed = connection.current_max_send_streams();
                if told.swap(allowed, Relaxed) != allowed {
                    changed.notify_waiters();
                }
                if let Some(ended) = ended {
                    break ended;
                }
            };
            if let Err(error) = ended {
                tracing::debug!(error = deepest(&error), "a connection to APNs broke");
            }
            // Its place is free once it is closed for those who ask.
            drop(connection);
            changed.notify_waiters();
        });
        Ok(Line {
            requests,
            open: AtomicUsize::new(0),
            streams,
            is_retired: AtomicBool::new(false),
        })
    }
}

impl<F> Executor<F> for Steps
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, work: F) {
        let stepped = self.0.clone();
        tokio::spawn(async move {
            let mut work = pin!(work);
            poll_fn(|context| {
                let polled = work.as_mut().poll(context);
                stepped.notify_one();
                polled
            })
            .await
        });
    }
}

impl Line {
    fn is_usable(&self) -> bool {
        !self.is_retired.load(Relaxed) && !self.requests.is_closed()
    }

    fn has_room(&self) -> bool {
        self.open.load(Relaxed) < self.streams.load(Relaxed)
    }

    /// A stream that was refused says nothing of the connection; all else ends it.
    fn retire_unless_refused(&self, error: &hyper::Error) {
        let is_stream = of_h2(error).is_some_and(h2::Error::is_reset);
        self.is_retired.fetch_or(!is_stream, Relaxed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.line.open.fetch_sub(1, Relaxed);
        // Dropped half-way: nobody answered in time.
        self.line.is_retired.fetch_or(!self.is_answered, Relaxed);
        self.changed.notify_one();
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
        self.1.notify_waiters();
    }
}

async fn whole(response: Response<hyper::body::Incoming>) -> Result<Response<Bytes>, Away> {
    let (head, body) = response.into_parts();
    // Its status counts, whatever becomes of the rest.
    let body = Limited::new(body, limits::PROVIDER_ANSWER_BYTES)
        .collect()
        .await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    Ok(Response::from_parts(head, body))
}

fn of_h2(error: &hyper::Error) -> Option<&h2::Error> {
    error.source()?.downcast_ref()
}

/// The server says that it did nothing with the request, or the request never left.
fn is_ignored(error: &hyper::Error) -> bool {
    let by_server = of_h2(error).is_some_and(|error| {
        let reason = error.reason();
        let is_goodbye = error.is_go_away() && reason == Some(h2::Reason::NO_ERROR);
        let is_refusal = error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM);
        error.is_remote() && (is_goodbye || is_refusal)
    });
    by_server || error.is_user()
}

fn deepest(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Who may sign the server's certificate.
fn authorities(ca_file: Option<&Path>) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        let known = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(known.certs);
        return match added {
            0 => Err(ConfigError::new(
                "apns.ca_file",
                "this system lists no authorities: install ca-certificates, or name a file",
            )),
            _ => Ok(roots),
        };
    };
    Ok(authorities_in("apns.ca_file", path)?.1)
}
