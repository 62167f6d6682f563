//! Connections by TLS beside plain ones of the same run: memory of an idle one, CPU of a connect with a full
//! handshake (ECDSA P-256, X25519) and with a resumed one. A connect is accept, handshake, token, upgrade, welcome.

use crate::{
    Options,
    parts::Folder,
    process::Meter,
    standalone::Standalone,
    table::{self, Figure},
};
use anyhow::{Context, Result, ensure};
use herald::{auth, config::Secret};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
};
use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};
use testbed::{certificates, free_port};

/// How a client comes.
enum Way {
    Plain,
    Tls(Arc<ClientConfig>, HandshakeKind),
}

pub async fn run(options: &Options) -> Result<()> {
    let mut figures = Vec::new();
    for name in [
        "plain",
        "TLS 1.3, full",
        "TLS 1.3, resumed",
        "TLS 1.2, resumed",
    ] {
        figures.push(Figure::new(format!("connect, {name}"), "us"));
        figures.push(Figure::new(format!("idle, {name}"), "B"));
    }
    for _ in 0..options.runs {
        let folder = Folder::new()?;
        certificates::make(&folder.join(""), &["gateway"]);
        for (way, pair) in ways(&folder).into_iter().zip(figures.chunks_mut(2)) {
            let (connect_us, idle_bytes) = measure(options.clients, &folder, &way).await?;
            pair[0].runs.push(connect_us);
            pair[1].runs.push(idle_bytes);
        }
    }
    table::print("TLS on the host, one core thread", "floor", &figures);
    Ok(())
}

fn ways(folder: &Folder) -> [Way; 4] {
    let config = |resumption, version| {
        let x25519 = CryptoProvider {
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let mut config = certificates::client_by(x25519, &folder.join(""), &[version]);
        config.resumption = resumption;
        Arc::new(config)
    };
    let resumes = || Resumption::in_memory_sessions(8);
    let (tls12, tls13) = (&rustls::version::TLS12, &rustls::version::TLS13);
    [
        Way::Plain,
        Way::Tls(config(Resumption::disabled(), tls13), HandshakeKind::Full),
        Way::Tls(config(resumes(), tls13), HandshakeKind::Resumed),
        // It exchanges no key anew.
        Way::Tls(config(resumes(), tls12), HandshakeKind::Resumed),
    ]
}

/// CPU of the core thread for each connect, and memory of the process for each connection held.
async fn measure(clients: u32, folder: &Folder, way: &Way) -> Result<(f64, f64)> {
    let tls_port = free_port();
    let text = |name: &str| folder.text(name);
    let mut herald = Standalone::start_with(
        folder,
        &[
            (
                "HERALD_GATEWAY__TLS_LISTEN",
                format!("127.0.0.1:{tls_port}"),
            ),
            ("HERALD_TLS__CERTIFICATE_FILE", text("gateway.pem")),
            ("HERALD_TLS__KEY_FILE", text("gateway.key")),
            ("HERALD_GATEWAY__ACCEPTS_PER_S", "100000".into()),
        ],
    )
    .await?;
    let secret = Secret::from_file("token", &folder.join("data/token.key"))?;
    let port = match way {
        Way::Plain => herald.doors.clients,
        Way::Tls(..) => tls_port,
    };
    // What is made once is there, and the ticket of the first one for all that resume.
    let mut held = vec![connect(port, way, &secret, 0, false)?];
    let at_rest = herald.process.at_rest().await?;
    let before = herald.process.resident_bytes()?;
    let meter = Meter::start(&herald.process, at_rest)?;
    for user in 1..=clients {
        held.push(connect(port, way, &secret, user, true)?);
    }
    herald.doors.connected(clients + 1).await?;
    let cpu = meter.stop(&mut herald.process, f64::from(clients)).await?;
    let grown = herald.process.resident_bytes()? - before;
    Ok((cpu.cores_us, grown / f64::from(clients)))
}

/// An open connection, of which the client keeps nothing but the socket.
fn connect(port: u16, way: &Way, secret: &Secret, user: u32, judge: bool) -> Result<TcpStream> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_nodelay(true)?;
    let token = auth::mint_hs256(
        secret,
        &user.to_string().parse().expect("a user id"),
        Duration::from_secs(3_600),
    );
    let request = format!(
        "GET /ws/notifications HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    );
    match way {
        Way::Plain => open(&mut tcp, &request)?,
        Way::Tls(config, kind) => {
            let name = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let mut tls = ClientConnection::new(config.clone(), name.into())?;
            open(&mut rustls::Stream::new(&mut tls, &mut tcp), &request)?;
            let met = tls.handshake_kind();
            ensure!(!judge || met == Some(*kind), "{met:?}, not {kind:?}");
        }
    }
    Ok(tcp)
}

fn open(stream: &mut (impl Read + Write), request: &str) -> Result<()> {
    stream.write_all(request.as_bytes())?;
    let (mut heard, mut buffer) = (Vec::new(), [0; 4096]);
    while !heard.windows(7).any(|window| window == b"welcome") {
        let count = stream.read(&mut buffer).context("no welcome")?;
        ensure!(count > 0, "closed: {}", String::from_utf8_lossy(&heard));
        heard.extend_from_slice(&buffer[..count]);
    }
    Ok(())
}
