//! Dispatchers over gRPC: one stream of outcomes to the first that answers, and one of syncs beside it.
//!
//! Invariant: a stream of outcomes that ends, or a dispatcher that does not answer in time, means the next address.

use super::{
    exchange::{Asked, Exchange, refusal},
    sync_stream::SyncStream,
    upstream::{Accepted, SyncReply, Upstream, UpstreamError},
};
use crate::{
    api::{
        self, OutcomeBatch, OutcomeReply, SyncRequest,
        convert::{cursors_to_wire, outcome_to_wire, sync_reply_from_wire},
        dispatcher_client::DispatcherClient,
        secret::{Present, SharedSecret},
    },
    config::{ConfigError, Dispatchers},
    envelope::{Outcome, VERSION},
    ids::{GatewayEpoch, UserId},
    limits,
    position::Cursors,
};
use async_trait::async_trait;
use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use std::{
    cmp::Ordering::{Equal, Greater, Less},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

type Client = DispatcherClient<InterceptedService<Channel, Present>>;
type Batch = Asked<OutcomeBatch, OutcomeReply>;

/// Between tries to open a stream.
const RECONNECT: Duration = Duration::from_millis(250);

/// The way to the dispatchers. Its stream ends when the last of it is dropped.
pub struct GrpcUpstream {
    shared: Arc<Shared>,
    batches: mpsc::Sender<Batch>,
}

struct Shared {
    clients: Vec<Client>,
    addresses: Vec<String>,
    present: Present,
    /// Index of the dispatcher that answered last.
    current: AtomicUsize,
    connected: AtomicBool,
    /// Why each took no stream the last time.
    in_vain: Mutex<Vec<UpstreamError>>,
    /// The open stream's dispatcher did not answer in time.
    stuck: Notify,
    syncs: SyncStream,
}

impl GrpcUpstream {
    /// Checks addresses; connects in the background. Needs a runtime.
    pub fn new(
        dispatchers: &Dispatchers,
        secret: SharedSecret,
    ) -> Result<GrpcUpstream, ConfigError> {
        dispatchers.check()?;
        let present = Present::new(secret);
        let clients: Result<Vec<_>, _> = dispatchers
            .addresses
            .iter()
            .map(|address| client(address, &present))
            .collect();
        let clients = clients?;
        let shared = Arc::new(Shared {
            in_vain: Mutex::new(vec![UpstreamError::Untried; clients.len()]),
            clients,
            addresses: dispatchers.addresses.clone(),
            present,
            current: AtomicUsize::new(0),
            connected: AtomicBool::new(false),
            stuck: Notify::new(),
            syncs: SyncStream::default(),
        });
        let (batches, queue) = mpsc::channel(limits::OUTCOME_BATCHES);
        tokio::spawn(report_for_ever(shared.clone(), queue));
        Ok(GrpcUpstream { shared, batches })
    }
}

fn client(address: &str, present: &Present) -> Result<Client, ConfigError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
        let problem = format!("{address:?} is not host:port: {error}");
        ConfigError::new("dispatchers.addresses", problem)
    })?;
    let channel = endpoint
        .connect_timeout(limits::SYNC_WAIT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .connect_lazy();
    let client = DispatcherClient::with_interceptor(channel, present.clone());
    Ok(client.max_decoding_message_size(limits::SYNC_BYTES * 4))
}

#[async_trait]
impl Upstream for GrpcUpstream {
    async fn report(
        &self,
        gateway: &GatewayEpoch,
        shard: Option<u32>,
        outcomes: Vec<Outcome>,
    ) -> Result<Accepted, UpstreamError> {
        if !self.healthy() {
            return Err(no_dispatcher());
        }
        let (answer, accepted) = oneshot::channel();
        let question = OutcomeBatch {
            v: u32::from(VERSION),
            sequence: 0,
            gateway: gateway.to_string(),
            shard,
            outcomes: outcomes.iter().map(outcome_to_wire).collect(),
        };
        let sent = self.batches.send(Batch { question, answer }).await;
        sent.map_err(|_| no_dispatcher())?;
        match tokio::time::timeout(limits::REPORT_WAIT, accepted).await {
            Ok(Ok(reply)) => reply.map(|reply| Accepted {
                shard_epoch: (reply.shard_epoch > 0).then_some(reply.shard_epoch),
                has_registry: reply.has_registry,
            }),
            Ok(Err(_)) => Err(no_dispatcher()),
            Err(_) => {
                self.shared.stuck.notify_waiters();
                Err(late())
            }
        }
    }

    async fn sync(
        &self,
        user: &UserId,
        cursors: Cursors,
        limit: usize,
    ) -> Result<SyncReply, UpstreamError> {
        let request = SyncRequest {
            v: u32::from(VERSION),
            user: user.as_str().to_owned(),
            cursors: cursors_to_wire(&cursors),
            limit: limit as u32,
            sequence: 0,
        };
        let count = self.shared.clients.len();
        let first = self.shared.current.load(Ordering::Relaxed);
        let asked = self.shared.syncs.ask(&request);
        let (mut last, tried) = match tokio::time::timeout(limits::SYNC_WAIT, asked).await {
            Ok(Some(Ok(reply))) => return readable(reply),
            Ok(Some(Err(refused @ UpstreamError::Refused(_)))) => return Err(refused),
            Ok(Some(Err(away))) => (away, 1),
            Ok(None) => (no_dispatcher(), 0),
            Err(_) => (no_answer(), 1),
        };
        for turn in tried..count {
            let mut client = self.shared.clients[(first + turn) % count].clone();
            let call = client.sync(request.clone());
            match tokio::time::timeout(limits::SYNC_WAIT, call).await {
                Ok(Ok(reply)) => return readable(reply.into_inner()),
                Ok(Err(status)) => match refusal(&status) {
                    refused @ UpstreamError::Refused(_) => return Err(refused),
                    away => last = away,
                },
                Err(_) => last = no_answer(),
            }
        }
        Err(last)
    }

    async fn accepts(&self, gateway: &GatewayEpoch) -> bool {
        let Shared {
            addresses, present, ..
        } = &*self.shared;
        let mut asked: FuturesUnordered<_> = addresses
            .iter()
            .map(|address| accepts(address, present, gateway))
            .collect();
        while let Some(answers) = asked.next().await {
            if answers {
                return true;
            }
        }
        false
    }

    fn health(&self) -> Result<(), UpstreamError> {
        if self.shared.connected.load(Ordering::Relaxed) {
            return Ok(());
        }
        let in_vain = self.shared.in_vain.lock();
        let weight = |error: &&UpstreamError| match error {
            UpstreamError::Unavailable(_) => 0,
            UpstreamError::Untried => 1,
            UpstreamError::Refused(_) => 2,
        };
        let worst = in_vain.iter().max_by_key(weight);
        Err(worst.cloned().unwrap_or_else(no_dispatcher))
    }
}

/// One empty batch over a stream on a connection of its own.
async fn accepts(address: &str, present: &Present, gateway: &GatewayEpoch) -> bool {
    let Ok(mut client) = client(address, present) else {
        return false;
    };
    let batch = OutcomeBatch {
        v: u32::from(VERSION),
        sequence: 1,
        gateway: gateway.to_string(),
        shard: None,
        outcomes: Vec::new(),
    };
    let exchange = async {
        let opened = client.outcomes(tokio_stream::once(batch)).await.ok()?;
        opened.into_inner().message().await.ok()?
    };
    let reply = tokio::time::timeout(limits::SYNC_WAIT, exchange).await;
    matches!(reply, Ok(Some(_)))
}

fn of(address: &str, error: &UpstreamError) -> UpstreamError {
    let named = |text: &String| format!("{address}: {text}");
    match error {
        UpstreamError::Unavailable(text) => UpstreamError::Unavailable(named(text)),
        UpstreamError::Refused(text) => UpstreamError::Refused(named(text)),
        UpstreamError::Untried => UpstreamError::Untried,
    }
}

fn late() -> UpstreamError {
    UpstreamError::Unavailable("a batch of outcomes was not answered in time".to_owned())
}

fn no_answer() -> UpstreamError {
    UpstreamError::Unavailable("no answer in time".to_owned())
}

fn no_dispatcher() -> UpstreamError {
    UpstreamError::Unavailable("no stream to a dispatcher is open".to_owned())
}

fn readable(reply: api::SyncReply) -> Result<SyncReply, UpstreamError> {
    sync_reply_from_wire(reply).map_err(|error| UpstreamError::Refused(error.to_string()))
}

/// Keeps a stream open to one dispatcher or the next, until the last handle is dropped.
async fn report_for_ever(shared: Arc<Shared>, mut queue: mpsc::Receiver<Batch>) {
    // Dispatchers tried in vain since one answered.
    let mut in_vain = 0;
    loop {
        let current = shared.current.load(Ordering::Relaxed);
        let address = &shared.addresses[current];
        let ended = stream(&shared, current, &mut queue).await;
        if shared.connected.swap(false, Ordering::Relaxed) {
            in_vain = 0;
        }
        let Some(error) = ended else {
            return;
        };
        shared.in_vain.lock()[current] = of(address, &error);
        in_vain += 1;
        say(address, &error, in_vain, shared.clients.len());
        shared
            .current
            .store((current + 1) % shared.clients.len(), Ordering::Relaxed);
        // What waits is told at once: it may go to `delivery`.
        while let Ok(batch) = queue.try_recv() {
            let _ = batch.answer.send(Err(error.clone()));
        }
        tokio::select! {
            () = tokio::time::sleep(RECONNECT) => {}
            () = closed(&mut queue) => return,
        }
    }
}

/// Of an outage once per dispatcher that does not answer, and a warning once none is left.
fn say(address: &str, error: &UpstreamError, in_vain: usize, dispatchers: usize) {
    match in_vain.cmp(&dispatchers) {
        Less => {
            tracing::info!(address, %error, "no outcome stream to this dispatcher: the next is tried")
        }
        Equal => tracing::warn!(
            address,
            %error,
            "no dispatcher takes outcomes: they go to `delivery`, clients get no catch-up; check the dispatchers and dispatchers.addresses, this ends by itself"
        ),
        Greater => {}
    }
}

/// Returns when every handle is gone; refuses what comes meanwhile.
async fn closed(queue: &mut mpsc::Receiver<Batch>) {
    while let Some(batch) = queue.recv().await {
        let _ = batch.answer.send(Err(no_dispatcher()));
    }
}

/// One stream's life. `None`: every handle is gone.
async fn stream(
    shared: &Shared,
    current: usize,
    queue: &mut mpsc::Receiver<Batch>,
) -> Option<UpstreamError> {
    let (messages, outgoing) = mpsc::channel(limits::OUTCOME_BATCHES);
    let mut client = shared.clients[current].clone();
    let opening = client.outcomes(ReceiverStream::new(outgoing));
    let mut replies = match tokio::time::timeout(limits::SYNC_WAIT, opening).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return Some(refusal(&status)),
        Err(_) => return Some(no_answer()),
    };
    shared.connected.store(true, Ordering::Relaxed);
    tracing::info!(address = shared.addresses[current], "outcome stream open");
    let mut exchange = Exchange::default();
    let ended = tokio::select! {
        ended = exchange.run(queue, &messages, &mut replies) => ended,
        () = shared.stuck.notified() => Some(late()),
        never = shared.syncs.keep_open(shared.clients[current].clone()) => match never {},
    };
    if let Some(error) = &ended {
        exchange.fail(error);
    }
    ended
}
