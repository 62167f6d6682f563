//! Servers that only carry: what is posted to them by their own protocol is expected at the clients, and found there.

use crate::server::read_request;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};
use tungstenite::{
    Message, WebSocket,
    handshake::server::{Request, Response},
    protocol::Role,
};

/// Where clients are written to, by user.
type Clients = Arc<Mutex<BTreeMap<String, WebSocket<TcpStream>>>>;

fn start() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let clients = Clients::default();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let clients = Arc::clone(&clients);
            // A broken connection ends its thread; the client's side is what is tested.
            thread::spawn(move || drop(serve(stream, &clients)));
        }
    });
    address
}

fn serve(mut stream: TcpStream, clients: &Clients) -> io::Result<()> {
    let mut start = [0; 4];
    while stream.peek(&mut start)? < start.len() {
        thread::sleep(Duration::from_millis(1));
    }
    match &start {
        b"GET " => serve_client(stream, clients),
        b"POST" => loop {
            let (head, body) = read_request(&mut stream)?;
            let path = head.split(' ').nth(1).unwrap_or_default();
            if path == "/api/publish" {
                publish(clients, &body);
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"result\":{}}")?;
                continue;
            }
            send(clients, &path[1..], &[Message::text(body)]);
            stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")?;
        },
        _ => take_publications(stream, clients),
    }
}

#[expect(
    clippy::result_large_err,
    reason = "the callback's type is tungstenite's"
)]
fn serve_client(stream: TcpStream, clients: &Clients) -> io::Result<()> {
    let writer = stream.try_clone()?;
    let add = |user: &str| -> io::Result<()> {
        let writer = WebSocket::from_raw_socket(writer.try_clone()?, Role::Server, None);
        let mut clients = clients.lock().expect("no panics");
        clients.insert(user.to_owned(), writer);
        Ok(())
    };
    let read_path = |request: &Request, response: Response| {
        // Before the client can know that it is in, and posts begin.
        let user = &request.uri().path()[1..];
        if !user.is_empty() && user != "connection/websocket" {
            add(user).expect("a socket");
        }
        Ok(response)
    };
    let Ok(mut socket) = tungstenite::accept_hdr(stream, read_path) else {
        return Ok(());
    };
    while let Ok(message) = socket.read() {
        if let Message::Text(commands) = &message
            && let Some((_, rest)) = commands.split_once("\"channel\":\"")
        {
            add(rest.split('"').next().unwrap_or_default())?;
            let _ = socket.send(Message::text(
                "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{}}",
            ));
            let _ = socket.send(Message::text("{\"id\":3,\"subscribe\":{}}\n{}\n"));
        }
        let Message::Binary(bytes) = message else {
            continue;
        };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((_, rest)) = text.split_once("SUB user.") {
            add(rest.split(' ').next().unwrap_or_default())?;
            let _ = socket.send(Message::binary(&b"INFO {}\r\nPO"[..]));
            let _ = socket.send(Message::binary(&b"NG\r\nPING\r\n"[..]));
        }
    }
    Ok(())
}

/// As Centrifugo is asked to; two may share a frame, so each is told with a line that says nothing.
fn publish(clients: &Clients, body: &str) {
    let body: Value = serde_json::from_str(body).expect("JSON");
    let channel = body["channel"].as_str().expect("a channel");
    let push =
        serde_json::json!({ "push": { "channel": channel, "pub": { "data": body["data"] } } });
    let frame = Message::text(format!(
        "{push}\n{{\"push\":{{\"channel\":\"{channel}\"}}}}"
    ));
    send(clients, channel, &[frame]);
}

fn take_publications(stream: TcpStream, clients: &Clients) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["PUB", subject, length] = words[..] {
            let mut payload = vec![0; length.parse::<usize>().expect("a length") + 2];
            reader.read_exact(&mut payload)?;
            let mut message = format!("MSG {subject} 1 {length}\r\n").into_bytes();
            message.extend(payload);
            // Frames need not end where messages do.
            let (one, other) = message.split_at(message.len() / 2);
            let frames = [one, other].map(|part| Message::binary(part.to_vec()));
            send(clients, subject.trim_start_matches("user."), &frames);
        } else if let [user, length] = words[..]
            && let Ok(length) = length.parse()
        {
            let mut text = vec![0; length];
            reader.read_exact(&mut text)?;
            let text = String::from_utf8(text).expect("a text");
            send(clients, user, &[Message::text(text)]);
        }
        line.clear();
    }
    Ok(())
}

fn send(clients: &Clients, target: &str, frames: &[Message]) {
    let mut clients = clients.lock().expect("no panics");
    for (user, client) in clients.iter_mut() {
        if target == "all" || target == user {
            for frame in frames {
                let _ = client.send(frame.clone());
            }
        }
    }
}

/// Users 1 to 3, of 40 posts each tenth to all: the result.
fn run(dialect: &str, scheme: &str) -> Value {
    let address = start();
    let dir = tempfile::tempdir().expect("a directory");
    let result = dir.path().join("result");
    let post_url = format!("{scheme}://{address}");
    let status = Command::new(env!("CARGO_BIN_EXE_swarm"))
        .args(["--dialect", dialect, "--no-ack", "--users", "1..3"])
        .args(["--url", &format!("ws://{address}"), "--post-url", &post_url])
        .args(["--count", "40", "--rate", "400", "--to", "mixed"])
        .arg("--json")
        .arg(&result)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("the tool starts");
    let text = std::fs::read_to_string(result).expect("written");
    let result: Value = serde_json::from_str(&text).expect("JSON");
    assert!(status.success(), "{result:#}");
    result
}

#[test]
fn what_is_posted_is_expected_and_timed_where_a_text_is_a_notification() {
    for scheme in ["http", "tcp"] {
        let result = run("plain", scheme);
        assert_eq!(result["counters"]["unique_own"], 36 + 4 * 3, "{scheme}");
        assert_eq!(result["latency_ms"]["count"], 36 + 4 * 3, "{scheme}");
    }
}

#[test]
fn what_is_published_is_expected_and_timed_over_nats_however_its_frames_are_cut() {
    let result = run("nats", "nats");
    assert_eq!(result["counters"]["unique_own"], 36 + 4 * 3);
    assert_eq!(result["latency_ms"]["count"], 36 + 4 * 3);
    assert_eq!(result["counters"]["pings_answered"], 3);
}

#[test]
fn what_is_published_is_expected_and_timed_through_the_lines_of_centrifugo() {
    let result = run("centrifugo", "http");
    assert_eq!(result["counters"]["unique_own"], 36 + 4 * 3);
    assert_eq!(result["latency_ms"]["count"], 36 + 4 * 3);
    assert_eq!(result["counters"]["pings_answered"], 3);
}

#[test]
fn acknowledgements_to_a_server_that_takes_none_are_refused_by_name() {
    let output = Command::new(env!("CARGO_BIN_EXE_swarm"))
        .args(["--url", "ws://127.0.0.1:1", "--dialect", "plain"])
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--no-ack"), "{said}");
}
