//! Connections that never become a request, on real sockets under small bounds.

use super::*;
use axum::routing::get;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(100);
const HALF_A_HEAD: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-Never";

async fn start(port: Port, bounds: Bounds) -> (SocketAddr, IntCounterVec) {
    let mut server = Server::new(port, &Metrics::default());
    server.bounds = bounds;
    let refused = server.refused.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/healthz", get(async || "ok\n"));
    tokio::spawn(server.serve(listener, router, CancellationToken::new()));
    (address, refused)
}

/// Everything until the other side closes.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A reset is an end too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut text))
        .await
        .expect("it is closed");
    String::from_utf8_lossy(&text).into_owned()
}

fn counted(refused: &IntCounterVec, cause: &str) -> u64 {
    refused.with_label_values(&[cause]).get()
}

#[tokio::test]
async fn a_request_or_a_preface_that_never_gets_whole_ends_the_connection() {
    let bounds = Bounds {
        connections: 10,
        head: SHORT,
        idle: PATIENCE,
    };
    for (port, begun) in [
        (Port::Http, HALF_A_HEAD),
        (Port::Admin, b"".as_slice()),
        (Port::Grpc, b"PRI * HTTP/2.0\r\n\r\nS".as_slice()),
        (Port::Grpc, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice()),
    ] {
        let (address, refused) = start(port, bounds).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        until_closed(&mut stream).await;
        assert_eq!(counted(&refused, "head"), 1, "{port:?}");
    }
}

#[tokio::test]
async fn over_the_bound_a_connection_is_closed_and_a_place_that_gets_free_is_given_again() {
    let bounds = Bounds {
        connections: 1,
        head: PATIENCE,
        idle: PATIENCE,
    };
    let (address, refused) = start(Port::Http, bounds).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    first.write_all(HALF_A_HEAD).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    assert_eq!(until_closed(&mut second).await, "");
    assert_eq!(counted(&refused, "full"), 1);
    drop(first);
    let served = async {
        while reqwest::get(format!("http://{address}/healthz"))
            .await
            .is_err()
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, served).await.expect("the place is free");
}

#[tokio::test]
async fn a_connection_is_kept_between_requests_for_a_bounded_time() {
    let bounds = Bounds {
        connections: 10,
        head: PATIENCE,
        idle: SHORT,
    };
    let (address, refused) = start(Port::Http, bounds).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let answers = until_closed(&mut stream).await;
    assert!(answers.starts_with("HTTP/1.1 200"), "{answers}");
    assert_eq!(counted(&refused, "head"), 0);
}
