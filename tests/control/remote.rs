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
use std::{io::Write, net::SocketAddr, pin::Pin};
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
        let request = request.into_inner();
        Ok(Response::new(SyncReply {
            cursors: request.cursors,
            recovered: true,
            ..SyncReply::default()
        }))
    }
}

fn shared(secret: Option<&str>) -> SharedSecret {
    let shared = secret.map(|secret| SharedSecret::of(Secret::new(secret)).unwrap());
    shared.unwrap_or_default()
}

async fn dispatcher(number: u64, secret: Option<&str>) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let end = CancellationToken::new();
    let demand = Demand::new(shared(secret));
    let played = Dispatcher {
        number,
        end: end.clone(),
    };
    let service = dispatcher_server::DispatcherServer::with_interceptor(played, demand);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, end)
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
