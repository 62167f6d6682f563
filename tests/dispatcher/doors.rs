//! Ports: readiness, metrics, who may come in, and what happens while parts are away.

use crate::rig::Rig;
use herald::{
    api,
    api::secret::{Present, SharedSecret},
    config::{self, Secret},
    dispatcher::{Dispatcher, Parts, StartError},
    metrics::Metrics,
};
use reqwest::Method;
use serde_json::json;
use std::io::Write;

fn parts(rig: &Rig, grpc: config::Grpc) -> Parts {
    Parts {
        node: config::Node::default(),
        http: config::Http {
            listen: "127.0.0.1:0".parse().unwrap(),
            ..config::Http::default()
        },
        grpc: Some(grpc),
        admin_key: Default::default(),
        admin: None,
        bus: rig.bus.clone(),
        registry: rig.registry.clone(),
        store: rig.store.clone(),
        spool: None,
        channels: Default::default(),
        rules: Default::default(),
        limits: Default::default(),
        metrics: Metrics::default(),
        origins: Vec::new(),
        pages: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_tells_readiness_and_metrics() {
    let rig = Rig::start().await;
    let admin = rig.addresses.admin.unwrap();
    let get = async |path: &str| {
        let response = reqwest::get(format!("http://{admin}{path}")).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_eq!(get("/healthz").await.0, 200);
    let (status, body) = get("/readyz").await;
    assert_eq!(status, 200, "{body}");
    rig.post_to("42", "one").await;
    let (_, metrics) = get("/metrics").await;
    assert!(metrics.contains("# HELP herald_intake_total"));
    assert!(metrics.contains("herald_intake_total{priority=\"normal\",result=\"accepted\"} 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn off_loopback_without_a_secret_it_does_not_start_and_opens_nothing() {
    let rig = Rig::start().await;
    let grpc = config::Grpc {
        listen: "0.0.0.0:0".parse().unwrap(),
        advertise: None,
        secret_file: None,
    };
    match Dispatcher::bind(parts(&rig, grpc)).await {
        Err(StartError::Config(error)) => assert_eq!(error.key, "grpc.secret_file"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it started"),
    }
}

fn shared(secret: Option<&str>) -> SharedSecret {
    let shared = secret.map(|secret| SharedSecret::of(Secret::new(secret)).unwrap());
    shared.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_come_in_by_the_shared_secret_only() {
    let rig = Rig::start().await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let ours = "one-that-nobody-guesses-in-a-hurry";
    writeln!(file, "{ours}").unwrap();
    let grpc = config::Grpc {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: None,
        secret_file: Some(file.path().to_owned()),
    };
    let dispatcher = Dispatcher::bind(parts(&rig, grpc)).await.unwrap();
    let url = format!("http://{}", dispatcher.addresses().grpc.unwrap());
    let shutdown = tokio_util::sync::CancellationToken::new();
    let running = tokio::spawn(dispatcher.run(shutdown.clone()));
    let channel = tonic::transport::Endpoint::new(url)
        .unwrap()
        .connect()
        .await
        .unwrap();
    for (secret, let_in) in [(Some(ours), true), (Some("two"), false), (None, false)] {
        let present = Present::new(shared(secret));
        let mut client =
            api::dispatcher_client::DispatcherClient::with_interceptor(channel.clone(), present);
        let request = api::SyncRequest {
            v: 1,
            user: "42".into(),
            ..Default::default()
        };
        let result = client.sync(request).await.map(|_| ());
        match let_in {
            true => result.unwrap(),
            false => assert_eq!(result.unwrap_err().code(), tonic::Code::Unauthenticated),
        }
    }
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_listed_origin_may_call_and_another_may_not() {
    let rig = Rig::start().await;
    let url = format!("http://{}/v1/notifications", rig.addresses.http);
    let preflight = async |origin: &str| {
        let response = reqwest::Client::new()
            .request(Method::OPTIONS, &url)
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .send()
            .await
            .unwrap();
        let allowed = response.headers().get("access-control-allow-origin");
        allowed.map(|value| value.to_str().unwrap().to_owned())
    };
    let listed = "https://console.example";
    assert_eq!(preflight(listed).await.as_deref(), Some(listed));
    assert_eq!(preflight("https://other.example").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_leaves_in_good_order_while_gateways_hold_their_streams_open() {
    let mut rig = Rig::start().await;
    let mut client = rig.dispatcher().await;
    let (_sender, receiver) = tokio::sync::mpsc::channel::<api::OutcomeBatch>(1);
    let batches = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut replies = client.outcomes(batches).await.unwrap().into_inner();
    rig.stop().await;
    assert!(!matches!(replies.message().await, Ok(Some(_))));
    rig.restart().await;
    rig.post(json!({ "target": { "user": "42" }, "type": "x" }))
        .await;
}
