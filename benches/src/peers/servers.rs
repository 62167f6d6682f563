//! The servers: how each is started for many connections, and spoken to.

use crate::{
    fleet::Fleet,
    floor::Floor,
    parts::Folder,
    process::{Process, sibling},
    standalone::Standalone,
};
use anyhow::{Context, Result, bail};
use std::{
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use testbed::free_port;

const NCHAN: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

#[derive(Clone, Debug)]
pub enum Kind {
    Standalone,
    /// A gateway on Kafka and Redis, posted to through Kafka.
    Gateway,
    Floor,
    Tungstenite,
    Nchan,
    Nats,
    /// By the path of its program.
    Centrifugo(PathBuf),
    /// By the path of a program that is started and speaks as that on tokio-tungstenite.
    Other(String, PathBuf),
}

impl Kind {
    pub fn all(others: &[String]) -> Result<Vec<Kind>> {
        let mut kinds = vec![
            Kind::Standalone,
            Kind::Floor,
            Kind::Tungstenite,
            Kind::Nchan,
            Kind::Nats,
            Kind::Gateway,
        ];
        for other in others {
            let (name, path) = other.split_once('=').context("--peer: NAME=PATH")?;
            kinds.push(match name {
                "centrifugo" => Kind::Centrifugo(path.into()),
                _ => Kind::Other(name.to_owned(), path.into()),
            });
        }
        Ok(kinds)
    }

    pub fn name(&self) -> &str {
        match self {
            Kind::Standalone => "herald",
            Kind::Gateway => "herald-gateway",
            Kind::Floor => "floor",
            Kind::Tungstenite => "tungstenite",
            Kind::Nchan => "nchan",
            Kind::Nats => "nats",
            Kind::Centrifugo(_) => "centrifugo",
            Kind::Other(name, _) => name,
        }
    }

    /// What it is, with its version.
    pub fn version(&self) -> String {
        match self {
            Kind::Standalone => "standalone: bus and store in SQLite, posted to by HTTP".into(),
            Kind::Gateway => "gateway on Redis and Kafka, posted to through Kafka; only the gateway's process counts".into(),
            Kind::Floor => "benches/peers/floor".into(),
            Kind::Tungstenite => format!("tokio-tungstenite {}", locked("tokio-tungstenite")),
            Kind::Nchan => format!(
                "{}, nchan {}",
                said("nginx", &["-v"]).replace("nginx version: ", ""),
                said("dpkg-query", &["-W", "-f", "${Version}", "libnginx-mod-nchan"])
            ),
            Kind::Nats => said("nats-server", &["--version"]),
            Kind::Centrifugo(path) => said(&path.to_string_lossy(), &["version"]),
            Kind::Other(_, path) => path.display().to_string(),
        }
    }
}

/// Of a package, as the lock file has it.
fn locked(package: &str) -> String {
    let lock = std::fs::read_to_string("Cargo.lock").unwrap_or_default();
    let mut lines = lock.lines();
    lines.find(|line| *line == format!("name = \"{package}\""));
    let version = lines.next().and_then(|line| line.split('"').nth(1));
    version.unwrap_or("of an unknown version").to_owned()
}

fn said(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).output();
    output.map_or_else(
        |_| "not installed".into(),
        |output| {
            let text = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&text).trim().to_owned()
        },
    )
}

/// A running one.
pub struct Server {
    running: Running,
    /// Of the load tool, for clients and posts.
    pub arguments: Vec<String>,
}

enum Running {
    Standalone(Box<Standalone>),
    Gateway(Box<Fleet>),
    Floor(Box<Floor>),
    Process(Process),
}

impl Server {
    pub async fn start(kind: &Kind, folder: &Folder) -> Result<Server> {
        match kind {
            Kind::Standalone => standalone(folder).await,
            Kind::Gateway => gateway(folder).await,
            Kind::Floor => {
                let floor = Floor::start(folder)?;
                let arguments = plain(floor.port, floor.port);
                Ok(Server {
                    running: Running::Floor(Box::new(floor)),
                    arguments,
                })
            }
            Kind::Tungstenite => started_with_two(&sibling("push-tungstenite")?, folder).await,
            Kind::Other(_, path) => started_with_two(path, folder).await,
            Kind::Nchan => nchan(folder).await,
            Kind::Nats => nats(folder).await,
            Kind::Centrifugo(path) => centrifugo(path, folder).await,
        }
    }

    pub fn process(&mut self) -> &mut Process {
        match &mut self.running {
            Running::Standalone(standalone) => &mut standalone.process,
            Running::Gateway(fleet) => &mut fleet.gateway,
            Running::Floor(floor) => &mut floor.process,
            Running::Process(process) => process,
        }
    }
}

fn plain(clients: u16, posts: u16) -> Vec<String> {
    vec![
        "--dialect=plain".into(),
        format!("--url=ws://127.0.0.1:{clients}/"),
        format!("--post-url=http://127.0.0.1:{posts}"),
    ]
}

async fn standalone(folder: &Folder) -> Result<Server> {
    let herald = Standalone::start_on(Some(0), folder, &[]).await?;
    let doors = &herald.doors;
    let arguments = vec![
        format!("--url=ws://127.0.0.1:{}/ws/notifications", doors.clients),
        format!("--post-url=http://127.0.0.1:{}", doors.producers),
        format!("--api-key-file={}", doors.api_key.display()),
        format!("--secret-file={}", folder.text("data/token.key")),
    ];
    Ok(Server {
        running: Running::Standalone(Box::new(herald)),
        arguments,
    })
}

async fn gateway(folder: &Folder) -> Result<Server> {
    let fleet = Fleet::start(folder).await?;
    let arguments = fleet.arguments(folder);
    Ok(Server {
        running: Running::Gateway(Box::new(fleet)),
        arguments,
    })
}

async fn started_with_two(program: &Path, folder: &Folder) -> Result<Server> {
    let (clients, posts) = (free_port(), free_port());
    let addresses = [clients, posts].map(|port| format!("127.0.0.1:{port}"));
    let log = folder.join("peer.log");
    let mut process = Process::start(program, &addresses, Some(0), &log)?;
    listens(&mut process, clients).await?;
    listens(&mut process, posts).await?;
    Ok(Server {
        running: Running::Process(process),
        arguments: plain(clients, posts),
    })
}

async fn listens(process: &mut Process, port: u16) -> Result<()> {
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        process.check()?;
        if began.elapsed() > Duration::from_secs(20) {
            bail!("nothing listens");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// One worker, for it has one CPU. Each client subscribes to its own channel and to the one of all, as Herald's get
/// both; nothing is stored.
async fn nchan(folder: &Folder) -> Result<Server> {
    if !Path::new(NCHAN).exists() {
        bail!("nchan is not installed: scripts/install.sh peers");
    }
    let port = free_port();
    let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {};\n", folder.text(kind)))
        .concat();
    let configuration = format!(
        "load_module {NCHAN};\n\
         daemon off;\n\
         worker_processes 1;\n\
         pid {pid};\n\
         error_log stderr error;\n\
         events {{ worker_connections 20000; multi_accept on; }}\n\
         http {{\n\
         access_log off;\n\
         keepalive_requests 1000000;\n\
         client_body_buffer_size 64k;\n\
         {folders}\
         nchan_shared_memory_size 512m;\n\
         server {{\n\
         listen 127.0.0.1:{port} backlog=4096;\n\
         location ~ ^/sub/(\\d+)$ {{\n\
         nchan_subscriber websocket;\n\
         nchan_channel_id $1 all;\n\
         nchan_subscriber_first_message newest;\n\
         }}\n\
         location ~ ^/pub/(\\w+)$ {{\n\
         nchan_publisher http;\n\
         nchan_channel_id $1;\n\
         nchan_store_messages off;\n\
         }} }} }}\n",
        pid = folder.text("pid"),
    );
    let file = folder.join("nginx.conf");
    std::fs::write(&file, configuration)?;
    let arguments = [
        "-p".into(),
        folder.text(""),
        "-c".into(),
        folder.text("nginx.conf"),
    ];
    let log = folder.join("nginx.log");
    let mut process = Process::start(Path::new("nginx"), &arguments, Some(0), &log)?;
    listens(&mut process, port).await?;
    process.adopt()?;
    Ok(Server {
        running: Running::Process(process),
        arguments: vec![
            "--dialect=plain".into(),
            format!("--url=ws://127.0.0.1:{port}/sub"),
            format!("--post-url=http://127.0.0.1:{port}/pub"),
        ],
    })
}

async fn nats(folder: &Folder) -> Result<Server> {
    let (clients, posts) = (free_port(), free_port());
    let configuration = format!(
        "listen: \"127.0.0.1:{posts}\"\n\
         max_connections: 65536\n\
         websocket {{ listen: \"127.0.0.1:{clients}\", no_tls: true }}\n"
    );
    std::fs::write(folder.join("nats.conf"), configuration)?;
    let arguments = ["-c".into(), folder.text("nats.conf")];
    let log = folder.join("nats.log");
    let mut process = Process::start(Path::new("nats-server"), &arguments, Some(0), &log)
        .context("scripts/install.sh peers")?;
    listens(&mut process, clients).await?;
    listens(&mut process, posts).await?;
    Ok(Server {
        running: Running::Process(process),
        arguments: vec![
            "--dialect=nats".into(),
            format!("--url=ws://127.0.0.1:{clients}/"),
            format!("--post-url=nats://127.0.0.1:{posts}"),
        ],
    })
}

/// As its documentation says for load tests: no tokens, one process, nothing kept of what was published. With no
/// history there is nothing to resume.
async fn centrifugo(program: &Path, folder: &Folder) -> Result<Server> {
    let port = free_port();
    let configuration = serde_json::json!({
        "http_server": { "address": "127.0.0.1", "port": port.to_string() },
        "client": { "insecure": true },
        "http_api": { "insecure": true },
        "log": { "level": "error" },
        "usage_stats": { "disabled": true },
    });
    std::fs::write(folder.join("centrifugo.json"), configuration.to_string())?;
    let arguments = ["-c".into(), folder.text("centrifugo.json")];
    let log = folder.join("centrifugo.log");
    let mut process = Process::start(program, &arguments, Some(0), &log)?;
    listens(&mut process, port).await?;
    Ok(Server {
        running: Running::Process(process),
        arguments: vec![
            "--dialect=centrifugo".into(),
            format!("--url=ws://127.0.0.1:{port}/connection/websocket"),
            format!("--post-url=http://127.0.0.1:{port}"),
        ],
    })
}
