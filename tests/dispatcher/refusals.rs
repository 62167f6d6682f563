//! What is wrong with a request is said in one shape, and seen by the client that sent it.

use crate::rig::Rig;
use herald::{api, limits};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Sends a request as it stands and reads the answer: its status and its JSON.
async fn exchange(rig: &Rig, head: &str, body: &[u8]) -> (u16, Value) {
    let mut stream = TcpStream::connect(rig.addresses.http).await.unwrap();
    let key = &rig.key;
    let head = format!(
        "{head} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_has_the_one_shape_and_is_counted_by_its_code() {
    let rig = Rig::start().await;
    let long = vec![b' '; limits::HTTP_BODY_BYTES + 1];
    let none: &[u8] = b"";
    let cases = [
        ("GET /v1/users/%ff", none, 400, "bad_target", Value::Null),
        (
            "GET /v1/users/%ff/notifications",
            none,
            400,
            "bad_target",
            Value::Null,
        ),
        (
            "GET /v1/users/1/notifications?limit=1&limit=2",
            none,
            400,
            "bad_target",
            Value::Null,
        ),
        ("GET /v1/nothing", none, 404, "not_found", Value::Null),
        ("GET /nothing", none, 404, "not_found", Value::Null),
        ("DELETE /v1/status", none, 405, "method", Value::Null),
        (
            "POST /v1/users/1/read",
            b"{}",
            422,
            "bad_field",
            json!("ids"),
        ),
        (
            "POST /v1/users/1/read",
            br#"{"ids":7}"#,
            422,
            "bad_field",
            json!("ids"),
        ),
        ("POST /v1/users/1/read", b"{", 400, "bad_json", Value::Null),
        (
            "POST /v1/users/1/read",
            &long,
            413,
            "too_large",
            json!("body"),
        ),
        (
            "POST /v1/notifications",
            b"[]",
            400,
            "bad_json",
            Value::Null,
        ),
        (
            "POST /v1/notifications",
            b"{}",
            422,
            "bad_field",
            json!("target"),
        ),
    ];
    for (head, body, status, code, field) in cases {
        let (answered, body) = exchange(&rig, head, body).await;
        let error = &body["error"];
        assert_eq!(
            (answered, &error["code"], &error["field"]),
            (status, &json!(code), &field),
            "{head}: {body}"
        );
        assert!(error["message"].is_string(), "{head}: {body}");
    }
    let counted = rig.metrics.render();
    for line in [
        "herald_http_refused_total{cause=\"bad_target\"} 3",
        "herald_http_refused_total{cause=\"method\"} 1",
        "herald_http_refused_total{cause=\"too_large\"} 1",
    ] {
        assert!(counted.contains(line), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_far_over_the_limit_is_answered_413_and_the_client_sees_it() {
    let rig = Rig::start().await;
    let body = vec![b'x'; 20 << 20];
    for head in ["POST /v1/notifications", "POST /v1/users/1/read"] {
        let (status, body) = exchange(&rig, head, &body).await;
        assert_eq!((status, &body["error"]["code"]), (413, &json!("too_large")));
    }
    // Where the body is not even looked at.
    let (status, body) = exchange(&rig, "POST /v1/nothing", &body).await;
    assert_eq!((status, &body["error"]["code"]), (404, &json!("not_found")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_400_and_not_too_large() {
    let rig = Rig::start().await;
    for path in ["/v1/notifications", "/v1/users/1/read"] {
        for (framing, body) in [
            ("content-length: 100", "{\"target\""),
            ("transfer-encoding: chunked", "5\r\n{\"tar\r\n"),
            ("transfer-encoding: chunked", "no size\r\n"),
        ] {
            let mut stream = TcpStream::connect(rig.addresses.http).await.unwrap();
            let request = format!(
                "POST {path} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {}\r\n{framing}\r\n\r\n{body}",
                rig.key
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
            assert!(answer.contains("\"bad_body\""), "{path}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_to_be_asked_for_its_body_is_answered_at_once() {
    let rig = Rig::start().await;
    let mut stream = TcpStream::connect(rig.addresses.http).await.unwrap();
    let head = "POST /v1/notifications HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\n\
                content-length: 20000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn data_nested_too_deep_is_refused_by_both_doors_and_the_deepest_taken_comes_out_whole() {
    let rig = Rig::start().await;
    let nested = |levels: usize| {
        let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
        format!(r#"{{"a \"[{{":{open}"[[[["{close}}}"#)
    };
    for levels in [limits::DATA_DEPTH + 1, 5_000] {
        let data = nested(levels);
        let body = format!(r#"{{"target":{{"user":"42"}},"type":"x","data":{data}}}"#);
        let (status, answer) = exchange(&rig, "POST /v1/notifications", body.as_bytes()).await;
        assert_eq!((status, &answer["error"]["field"]), (422, &json!("data")));

        let channel = tonic::transport::Endpoint::new(rig.grpc_url()).unwrap();
        let channel = channel.connect().await.unwrap();
        let mut client = api::notifications_client::NotificationsClient::new(channel);
        let mut request = tonic::Request::new(api::NotifyRequest {
            target: Some(api::notify_request::Target::User("42".into())),
            r#type: "x".into(),
            data_json: data,
            ..api::NotifyRequest::default()
        });
        let bearer = format!("Bearer {}", rig.key).parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        let refused = client.notify(request).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().starts_with("data: "), "{refused}");
    }
    let data: Value = serde_json::from_str(&nested(limits::DATA_DEPTH)).unwrap();
    rig.post(json!({ "target": { "user": "42" }, "type": "x", "data": data }))
        .await;
    rig.routed().await;
    let page = rig.get("/v1/users/42/notifications").await;
    assert_eq!(page["items"][0]["data"], data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_of_null_is_as_if_not_given() {
    let rig = Rig::start().await;
    rig.post(json!({ "target": { "user": "42" }, "type": "x", "schedule_at": null }))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_delivery_of_what_is_not_there_is_404() {
    let rig = Rig::start().await;
    let own = rig.post_to("42", "one").await;
    let all = rig
        .post(json!({ "target": { "all": true }, "type": "x" }))
        .await;
    rig.routed().await;
    rig.drained("broadcast", herald::bus::Topic::FanOutAll)
        .await;
    let unknown = herald::ids::NotificationId::generate();
    for (id, query, status) in [
        (own, "?user=42", 200),
        (own, "?user=43", 404),
        (own, "", 200),
        (all, "?user=42", 200),
        (all, "", 200),
        (unknown, "?user=42", 404),
        (unknown, "", 404),
    ] {
        let path = format!("/v1/notifications/{id}/delivery{query}");
        let answer = rig.call(Method::GET, &path, None).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
    }
}
