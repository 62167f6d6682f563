//! Producers that send a stream of notifications, and clients that ask what there is to call.

use crate::{
    rig::{Rig, rows},
    switched::Switched,
};
use futures::{Stream, StreamExt, stream};
use herald::{
    api::{self, notifications_client::NotificationsClient, notify_answer::Answer},
    bus::Topic,
    config,
    dispatcher::store::sqlite::SqliteStore,
    limits,
    metrics::Metrics,
    registry::embedded::EmbeddedRegistry,
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use testbed::grpcurl::grpcurl;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming, transport::Channel};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

fn to(user: &str, title: &str) -> api::NotifyRequest {
    api::NotifyRequest {
        target: Some(api::notify_request::Target::User(user.into())),
        r#type: "order".into(),
        title: title.into(),
        ..Default::default()
    }
}

async fn channel(rig: &Rig) -> Channel {
    let endpoint = tonic::transport::Endpoint::new(rig.grpc_url()).unwrap();
    endpoint.connect().await.unwrap()
}

async fn open(
    rig: &Rig,
    key: &str,
    requests: impl Stream<Item = api::NotifyRequest> + Send + 'static,
) -> Result<Streaming<api::NotifyAnswer>, Status> {
    let mut client = NotificationsClient::new(channel(rig).await);
    let mut request = Request::new(requests);
    let bearer = format!("Bearer {key}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    Ok(client.notify_stream(request).await?.into_inner())
}

fn accepted(answer: api::NotifyAnswer) -> api::NotifyReply {
    match answer.answer {
        Some(Answer::Accepted(reply)) => reply,
        other => panic!("not accepted: {other:?}"),
    }
}

fn refused(answer: api::NotifyAnswer) -> api::NotifyRefusal {
    match answer.answer {
        Some(Answer::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_a_stream_is_answered_in_its_order_and_one_that_is_refused_ends_nothing() {
    let rig = Rig::start().await;
    let requests: Vec<api::NotifyRequest> = (0..200)
        .map(|n| match n {
            50 => api::NotifyRequest {
                priority: "urgent".into(),
                ..to("42", "x")
            },
            100 => api::NotifyRequest {
                idempotency_key: "k".into(),
                ..to("42", "one")
            },
            101 => api::NotifyRequest {
                idempotency_key: "k".into(),
                ..to("43", "two")
            },
            n => to(&format!("u{n}"), &n.to_string()),
        })
        .collect();
    let mut answers = open(&rig, &rig.key, stream::iter(requests)).await.unwrap();
    let mut ids = Vec::new();
    for n in 0..200 {
        let answer = answers.message().await.unwrap().expect("an answer to each");
        if n == 50 {
            let refusal = refused(answer);
            assert_eq!(
                (refusal.code.as_str(), refusal.field.as_str()),
                ("bad_field", "priority")
            );
            assert_eq!(refusal.retry_after_s, 0);
            ids.push(String::new());
        } else if [100, 101].contains(&n) && matches!(answer.answer, Some(Answer::Refused(_))) {
            // They are at work at once: either may be the one that comes second.
            assert_eq!(refused(answer).code, "idempotency_conflict");
            ids.push(String::new());
        } else {
            let reply = accepted(answer);
            assert_eq!(reply.durability, "bus");
            ids.push(reply.id);
        }
    }
    assert!(answers.message().await.unwrap().is_none(), "and it ends");
    assert_eq!(ids.iter().filter(|id| id.is_empty()).count(), 2);
    rig.routed().await;
    for n in [0, 49, 51, 99, 102, 199] {
        let stored = rows(&*rig.store, &format!("u{n}")).await;
        assert_eq!(stored.len(), 1);
        assert_eq!(stored[0].id.to_string(), ids[n], "the answer at place {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_read_no_further_than_it_is_worked_on() {
    let (dir, metrics) = (tempfile::tempdir().unwrap(), Metrics::default());
    let bus = Switched::off(dir.path(), &metrics);
    let store = SqliteStore::open(dir.path(), &config::Node::default()).unwrap();
    let registry = Arc::new(EmbeddedRegistry::default());
    let rig = Rig::over(dir, metrics, bus.clone(), registry, Arc::new(store)).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    // Large enough that what the connection itself holds is a few of them.
    let requests = stream::iter(0..1_000).map(move |n| {
        counted.fetch_add(1, Ordering::Relaxed);
        api::NotifyRequest {
            body: "b".repeat(16_000),
            ..to("42", &n.to_string())
        }
    });
    let mut answers = open(&rig, &rig.key, requests).await.unwrap();
    // The bus is away: each is refused after a while, and as many are waited for at once as may be.
    let first = refused(answers.message().await.unwrap().expect("an answer"));
    assert_eq!(first.code, "unavailable");
    assert!(limits::RETRY_AFTER_S.contains(&first.retry_after_s));
    let far = taken.load(Ordering::Relaxed);
    assert!(far < 300, "{far} of 1000 were taken from the client");
    bus.turn(true);
    let mut count = 1;
    while let Some(answer) = answers.message().await.unwrap() {
        count += 1;
        if count == 1_000 {
            accepted(answer);
        }
    }
    assert_eq!(count, 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_there_is_no_stream_and_what_is_too_large_ends_one() {
    let rig = Rig::start().await;
    let refused = open(&rig, "herald_wrong", stream::iter([to("42", "x")])).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let large = api::NotifyRequest {
        body: "b".repeat(limits::GRPC_MESSAGE_BYTES + 1),
        ..to("42", "x")
    };
    // More than are worked on at once.
    let before = (0..limits::NOTIFY_STREAM_AT_ONCE + 8).map(|n| to("42", &n.to_string()));
    let before: Vec<api::NotifyRequest> = before.collect();
    let count = before.len();
    let behind = [large, to("42", "behind")];
    let requests = stream::iter(before.into_iter().chain(behind));
    let mut answers = open(&rig, &rig.key, requests).await.unwrap();
    for _ in 0..count {
        let answer = answers.message().await.unwrap();
        accepted(answer.expect("what came before is answered"));
    }
    assert_eq!(
        answers.message().await.unwrap_err().code(),
        Code::OutOfRange
    );
    rig.routed().await;
    assert_eq!(rows(&*rig.store, "42").await.len(), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_leaves_answers_what_it_took_and_ends_the_stream() {
    let mut rig = Rig::start().await;
    let (sender, receiver) = mpsc::channel(1);
    let key = rig.key.clone();
    let mut answers = open(&rig, &key, ReceiverStream::new(receiver))
        .await
        .unwrap();
    sender.send(to("42", "one")).await.unwrap();
    accepted(answers.message().await.unwrap().expect("an answer"));
    rig.stop().await;
    assert!(!matches!(answers.message().await, Ok(Some(_))));
    rig.restart().await;
    assert_eq!(rig.count(Topic::Raw(1)).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_tells_producers_what_they_may_call_and_nothing_of_other_doors() {
    let rig = Rig::start().await;
    let mut client = ServerReflectionClient::new(channel(&rig).await);
    let ask = |message| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    };
    let questions = stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(
            "herald.v1.Notifications".into(),
        )),
    ]);
    let mut told = client
        .server_reflection_info(questions)
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(services)) =
        told.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services");
    };
    let names: Vec<String> = services.service.into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["herald.v1.Notifications"]);
    let Some(MessageResponse::FileDescriptorResponse(files)) =
        told.message().await.unwrap().unwrap().message_response
    else {
        panic!("no file");
    };
    let file = String::from_utf8_lossy(&files.file_descriptor_proto[0]).into_owned();
    assert!(file.contains("NotifyStream"), "{file}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_knows_nothing_of_us_describes_the_service_and_sends_a_stream() {
    let rig = Rig::start().await;
    let address = rig.addresses.grpc.unwrap().to_string();
    let bearer = format!("authorization: Bearer {}", rig.key);
    let asked = tokio::task::spawn_blocking(move || {
        let described = grpcurl(
            &[
                "-plaintext",
                &address,
                "describe",
                "herald.v1.Notifications",
            ],
            "",
        )?;
        let sent = grpcurl(
            &[
                "-plaintext",
                "-H",
                &bearer,
                "-d",
                "@",
                &address,
                "herald.v1.Notifications/NotifyStream",
            ],
            r#"{"user":"42","type":"order","title":"one"} {"user":"42"} {"user":"42","type":"order","title":"three"}"#,
        )?;
        Some((described, sent))
    });
    let Some((described, sent)) = asked.await.unwrap() else {
        return;
    };
    let text = String::from_utf8_lossy(&described.stdout).into_owned();
    let signature = "rpc NotifyStream ( stream .herald.v1.NotifyRequest ) returns ( stream .herald.v1.NotifyAnswer );";
    assert!(text.contains(signature), "{text}");
    let errors = String::from_utf8_lossy(&sent.stderr);
    assert!(sent.status.success(), "{errors}");
    let answers = serde_json::Deserializer::from_slice(&sent.stdout);
    let answers: Vec<serde_json::Value> = answers.into_iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(answers.len(), 3);
    assert!(answers[0]["accepted"]["id"].is_string(), "{answers:?}");
    assert_eq!(answers[1]["refused"]["field"], "type", "{answers:?}");
    assert!(answers[2]["accepted"]["id"].is_string(), "{answers:?}");
    rig.routed().await;
    assert_eq!(rows(&*rig.store, "42").await.len(), 2);
}
