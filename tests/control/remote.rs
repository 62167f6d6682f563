//! Both gRPC directions: the dispatcher a gateway reports to, and `Deliver`.

use crate::rig::{Rig, Setup, routed, until};
use futures::{Stream, StreamExt};
use herald::{
    api::{
        DeliverRequest, OutcomeBatch, OutcomeReply, SyncReply, SyncRequest, convert,
        dispatcher_server,
        gateway_client::GatewayClient,
        secret::{Demand, Present, SharedSecret},
    },
    config::{Dispatchers, Grpc, Secret},
    control::{
        grpc_upstream::GrpcUpstream,
        upstream::{Accepted, Upstream, UpstreamError},
    },
    envelope::{Fate, Outcome},
    ids::NotificationId,
    position::Position,
};
use std::{
    io::Write,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

/// Number of one that never answers a batch.
const SILENT: u64 = 0;

/// Accepts everything, naming its number as the shard's epoch.
struct Dispatcher {
    number: u64,
    /// It dies then, as far as a client can tell.
    end: CancellationToken,
    asked: Asked,
}

/// Syncs that came by calls, and over streams.
#[derive(Clone, Default)]
struct Asked(Arc<[AtomicUsize; 2]>);

impl Asked {
    fn add(&self, by_stream: bool) {
        self.0[usize::from(by_stream)].fetch_add(1, Ordering::Relaxed);
    }

    fn counts(&self) -> [usize; 2] {
        [0, 1].map(|way| self.0[way].load(Ordering::Relaxed))
    }
}

/// What each sync is answered; the store of whoever is called `away` is.
fn synced(request: SyncRequest) -> Result<SyncReply, Status> {
    match request.user.as_str() {
        "away" => Err(Status::unavailable("the store is away")),
        "wrong" => Err(Status::invalid_argument("wrong")),
        _ => Ok(SyncReply {
            cursors: request.cursors,
            recovered: true,
            ..SyncReply::default()
        }),
    }
}

#[tonic::async_trait]
impl dispatcher_server::Dispatcher for Dispatcher {
    type OutcomesStream = Pin<Box<dyn Stream<Item = Result<OutcomeReply, Status>> + Send>>;

    async fn outcomes(
        &self,
        request: Request<Streaming<OutcomeBatch>>,
    ) -> Result<Response<Self::OutcomesStream>, Status> {
        if self.end.is_cancelled() {
            return Err(Status::unavailable("ended"));
        }
        let number = self.number;
        let replies = request.into_inner().map(move |batch| {
            Ok(OutcomeReply {
                sequence: batch?.sequence,
                shard_epoch: number,
                has_registry: true,
                v: 1,
            })
        });
        let answers = move |_: &Result<OutcomeReply, Status>| std::future::ready(number != SILENT);
        let replies = replies
            .filter(answers)
            .take_until(self.end.clone().cancelled_owned());
        Ok(Response::new(Box::pin(replies)))
    }

    async fn sync(&self, request: Request<SyncRequest>) -> Result<Response<SyncReply>, Status> {
        if self.end.is_cancelled() {
            return Err(Status::unavailable("ended"));
        }
        self.asked.add(false);
        synced(request.into_inner()).map(Response::new)
    }

    type SyncsStream = Pin<Box<dyn Stream<Item = Result<SyncReply, Status>> + Send>>;

    /// Two at a time, the second first.
    async fn syncs(
        &self,
        request: Request<Streaming<SyncRequest>>,
    ) -> Result<Response<Self::SyncsStream>, Status> {
        if self.end.is_cancelled() {
            return Err(Status::unavailable("ended"));
        }
        let asked = self.asked.clone();
        let answer = move |request: Result<SyncRequest, Status>| {
            asked.add(true);
            let request = request?;
            let sequence = request.sequence;
            let reply = synced(request).unwrap_or_else(|status| SyncReply {
                code: status.code() as i32,
                problem: status.message().to_owned(),
                ..SyncReply::default()
            });
            Ok(SyncReply { sequence, ..reply })
        };
        let replies = request
            .into_inner()
            .map(answer)
            .ready_chunks(2)
            .flat_map(|two| futures::stream::iter(two.into_iter().rev()))
            .take_until(self.end.clone().cancelled_owned());
        Ok(Response::new(Box::pin(replies)))
    }
}

fn shared(secret: Option<&str>) -> SharedSecret {
    let shared = secret.map(|secret| SharedSecret::of(Secret::new(secret)).unwrap());
    shared.unwrap_or_default()
}

async fn dispatcher(number: u64, secret: Option<&str>) -> (SocketAddr, CancellationToken) {
    let (address, end, _) = counting_dispatcher(number, secret).await;
    (address, end)
}

async fn counting_dispatcher(
    number: u64,
    secret: Option<&str>,
) -> (SocketAddr, CancellationToken, Asked) {
    let asked = Asked::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let end = CancellationToken::new();
    let demand = Demand::new(shared(secret));
    let played = Dispatcher {
        number,
        end: end.clone(),
        asked: asked.clone(),
    };
    let service = dispatcher_server::DispatcherServer::with_interceptor(played, demand);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, end, asked)
}

fn upstream(addresses: &[SocketAddr], secret: Option<&str>) -> GrpcUpstream {
    let dispatchers = Dispatchers {
        addresses: addresses.iter().map(SocketAddr::to_string).collect(),
    };
    GrpcUpstream::new(&dispatchers, shared(secret)).unwrap()
}

fn acked() -> Vec<Outcome> {
    vec![Outcome {
        id: NotificationId::generate(),
        user: Some("ann".parse().unwrap()),
        pos: Position::START,
        fate: Fate::Acked,
        devices: 1,
        gateway: "gw-1.7".into(),
        at_ms: 5,
        answered: Vec::new(),
    }]
}

async fn report(upstream: &GrpcUpstream) -> Result<Accepted, UpstreamError> {
    upstream
        .report(&"gw-1.7".parse().unwrap(), Some(0), acked())
        .await
}

#[tokio::test]
async fn outcomes_are_reported_over_one_stream_and_move_to_the_next_dispatcher_when_it_ends() {
    let (first, end_first) = dispatcher(1, None).await;
    let (second, _end) = dispatcher(2, None).await;
    let upstream = upstream(&[first, second], None);
    until("a stream", async || upstream.healthy().then_some(())).await;
    let reports = futures::future::join_all((0..50).map(|_| report(&upstream))).await;
    let accepted = Ok(Accepted {
        shard_epoch: Some(1),
        has_registry: true,
    });
    assert!(
        reports.iter().all(|answer| *answer == accepted),
        "{reports:?}"
    );
    end_first.cancel();
    until("the next dispatcher", async || {
        (report(&upstream).await
            == Ok(Accepted {
                shard_epoch: Some(2),
                has_registry: true,
            }))
        .then_some(())
    })
    .await;
    let user = "ann".parse().unwrap();
    let reply = upstream
        .sync(&user, crate::rig::cursors(4), 5)
        .await
        .unwrap();
    assert!(reply.recovered);
    assert_eq!(reply.cursors, crate::rig::cursors(4));
}

#[tokio::test]
async fn syncs_go_over_one_stream_each_with_its_own_answer_and_by_calls_where_it_ended() {
    let (first, end_first, by_first) = counting_dispatcher(1, None).await;
    let (second, _end, by_second) = counting_dispatcher(2, None).await;
    let upstream = upstream(&[first, second], None);
    let sync = async |user: &str, at: u64| {
        let user = user.parse().unwrap();
        let asked = upstream.sync(&user, crate::rig::cursors(at), 5).await;
        asked.map(|reply| reply.cursors)
    };
    until("a stream for syncs", async || {
        sync("ann", 1).await.unwrap();
        (by_first.counts()[1] > 0).then_some(())
    })
    .await;
    let (calls, before) = by_first.counts().into();
    let asked = (1..=40).map(|at| sync("ann", at));
    let answers = futures::future::join_all(asked).await;
    let cursors = (1..=40).map(|at| Ok(crate::rig::cursors(at)));
    assert_eq!(answers, cursors.collect::<Vec<_>>());
    assert_eq!(by_first.counts(), [calls, before + 40]);

    let refused = sync("wrong", 1).await.unwrap_err();
    assert!(matches!(refused, UpstreamError::Refused(_)), "{refused}");
    assert_eq!(by_second.counts(), [0, 0]);
    // Whoever can't read its store is not asked twice, but the next is.
    let away = sync("away", 1).await.unwrap_err();
    assert!(matches!(away, UpstreamError::Unavailable(_)), "{away}");
    assert_eq!(by_first.counts(), [calls, before + 42]);
    assert_eq!(by_second.counts(), [1, 0]);

    end_first.cancel();
    until("syncs over the next one's stream", async || {
        assert_eq!(sync("ann", 7).await, Ok(crate::rig::cursors(7)));
        (by_second.counts()[1] > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_dispatcher_that_takes_outcomes_and_never_answers_is_left_for_the_next() {
    let (silent, _end) = dispatcher(SILENT, None).await;
    let (second, _end) = dispatcher(2, None).await;
    let upstream = upstream(&[silent, second], None);
    until("a stream", async || upstream.healthy().then_some(())).await;
    assert!(matches!(
        report(&upstream).await,
        Err(UpstreamError::Unavailable(_))
    ));
    until("the next dispatcher", async || {
        let accepted = Ok(Accepted {
            shard_epoch: Some(2),
            has_registry: true,
        });
        (report(&upstream).await == accepted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_a_dispatcher_a_report_fails_and_recovers_when_one_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let upstream = upstream(&[nobody], None);
    assert!(matches!(
        report(&upstream).await,
        Err(UpstreamError::Unavailable(_))
    ));
    until("it is said", async || {
        let said = upstream.health().unwrap_err().to_string();
        said.contains(&nobody.to_string()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn another_secret_is_refused() {
    let (address, _end) = dispatcher(1, Some("right")).await;
    let wrong = upstream(&[address], Some("wrong"));
    let user = "ann".parse().unwrap();
    let error = wrong.sync(&user, Default::default(), 5).await.unwrap_err();
    assert!(matches!(error, UpstreamError::Refused(_)), "{error}");
    until("it is said", async || {
        matches!(wrong.health(), Err(UpstreamError::Refused(_))).then_some(())
    })
    .await;
    let right = upstream(&[address], Some("right"));
    until("a stream", async || right.healthy().then_some(())).await;
    assert!(report(&right).await.is_ok());
}

#[tokio::test]
async fn deliver_hands_records_to_the_sockets_and_answers_with_their_outcomes() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let secret = "shared-and-nobody-guesses-in-a-hurry";
    writeln!(file, "{secret}").unwrap();
    let rig = Rig::ready_with(Setup {
        grpc: Some(Grpc {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            secret_file: Some(file.path().to_owned()),
        }),
        ..Setup::default()
    })
    .await;
    let address = rig.grpc.unwrap();
    assert_eq!(rig.lease().await.info.grpc, address.to_string());
    rig.core().open(1, "ann", None);
    until("ann", async || (rig.metric("users") == 1.0).then_some(())).await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let (here, absent) = (routed("ann", 1), routed("nobody", 2));
    let ids = [here.head.id, absent.head.id];
    let request = DeliverRequest {
        v: 1,
        records: [here, absent]
            .map(|r| convert::record_to_wire(r.into_record()))
            .into(),
    };
    let stranger = GatewayClient::new(channel.clone())
        .deliver(request.clone())
        .await;
    assert_eq!(stranger.unwrap_err().code(), tonic::Code::Unauthenticated);

    let present = Present::new(shared(Some(secret)));
    let mut client = GatewayClient::with_interceptor(channel, present);
    let (reply, ()) = tokio::join!(client.deliver(request), async {
        let (ticket, id, _) = rig.core().delivered(1).await.remove(0);
        assert_eq!(id, ids[0]);
        rig.core().fate(ticket, Fate::Written, 1);
    });
    let fates: Vec<_> = reply
        .unwrap()
        .into_inner()
        .outcomes
        .into_iter()
        .map(|outcome| (outcome.id, outcome.fate))
        .collect();
    let expected = [
        (ids[0].to_string(), "written".to_owned()),
        (ids[1].to_string(), "not_here".to_owned()),
    ];
    assert_eq!(fates, expected);
    assert_eq!(rig.fates(ids[0]), []);
    rig.leave().await;
}
