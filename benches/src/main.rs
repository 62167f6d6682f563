//! Measures a release build of Herald beside the floor, and prints tables for `RESULTS.md`.
//!
//! Servers and clients share this machine, so ratios count, not figures: the floor is measured in the same
//! run, by the same load tool, with the same instrument (`/proc`). A server's sending thread is bound to
//! CPU 0 and the clients to CPU 1, where there are two.

mod alone;
mod broadcast;
mod cores;
mod deploy;
mod fleet;
mod floor;
mod idle;
mod latency;
mod memory;
mod micro;
mod mixed;
mod parts;
mod path;
mod peers;
mod process;
mod scale;
mod slabs;
mod slow;
mod spool;
mod standalone;
mod store;
mod storm;
mod swarm;
mod table;
mod tls;
mod unicast;

use anyhow::Result;
use clap::{Parser, ValueEnum};

/// As the server: figures of allocating code are otherwise of another program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
pub struct Options {
    /// What to measure.
    #[arg(value_enum, default_value = "all")]
    part: Part,
    /// Connections held.
    #[arg(long, default_value_t = 18_000)]
    clients: u32,
    /// How often everything is done.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Notifications to all per run.
    #[arg(long, default_value_t = 20)]
    broadcasts: u32,
    /// Another server among the peers, by the path of its program. It is started as `PATH CLIENTS POSTS`, two
    /// addresses: WebSocket clients at the first, whose path ends with their number; `POST /NUMBER` and `POST /all` at
    /// the second, whose body they get as a text (`benches/peers/uwebsockets` is the source of one). One of the name
    /// `centrifugo` is started and spoken to as Centrifugo 6.
    #[arg(long, value_name = "NAME=PATH")]
    peer: Vec<String>,
    /// Measure only these: of `peers`, by name; of the stores of `path`, `sqlite` or `cassandra`.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Notifications to one user each, per run.
    #[arg(long, default_value_t = 10_000)]
    unicasts: u32,
    /// Seconds that everybody stays connected, for `scale`.
    #[arg(long, default_value_t = 600)]
    hold_s: u64,
    /// Notifications to one user each and second: for `scale` in the second half of its time, for `storm` and
    /// `mixed` throughout; two of them for `latency`, any number for `path`.
    #[arg(long, value_name = "N", value_delimiter = ',')]
    rate: Vec<u32>,
    /// Connections of `scale` by TLS.
    #[arg(long)]
    tls: bool,
    /// Connects a second, for `scale`: 4,000, by TLS 1,500.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    connects_per_s: Option<u32>,
    /// Keep the page with plots of `scale` and of `latency` there.
    #[arg(long)]
    html: Option<std::path::PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    All,
    /// Memory per connection and CPU per delivery to all: the standalone.
    Broadcast,
    /// CPU per message to one user: a gateway on a real Kafka and Redis.
    Unicast,
    /// Accept rates and times when a gateway is killed and when all are replaced: three behind HAProxy.
    Deploy,
    /// Answers of the dispatcher while Kafka is away.
    Spool,
    /// What a gateway predicts, measures and takes of memory; with --clients 100000.
    Memory,
    /// Connections by the hundred thousand held for minutes, with notifications from Kafka; --clients 500000.
    Scale,
    /// CPU of a ping and its answer, every 30 s on connections that are idle: the standalone.
    Idle,
    /// Memory and connects by TLS beside plain ones: the standalone.
    Tls,
    /// From a notification due to its client and CPU per message, open loop through Kafka, beside the floor.
    Latency,
    /// Half of the clients come back at once, and a tenth more than there is room for.
    Storm,
    /// One client in a hundred stops reading while 4 KB go to everybody, beside the same without them.
    Slow,
    /// Notifications to one user each while others go to everybody, beside the same without those.
    Mixed,
    /// CPU per delivery on one core thread and on two, on io_uring and on epoll.
    Cores,
    /// Other servers beside it, driven alike: see --peer.
    Peers,
    /// Rows a second and times of pages and syncs of both stores, SQLite and one node of Cassandra.
    Store,
    /// The dispatcher's CPU for a notification from its request to the record in the gateway's shard, on both stores.
    Path,
    /// Frames, mailbox, look-up.
    Micro,
}

impl Options {
    /// The one rate that is asked for, or this.
    fn rate_or(&self, otherwise: u32) -> u32 {
        self.rate.first().copied().unwrap_or(otherwise)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let wants = |part| options.part == Part::All || options.part == part;
    if wants(Part::Micro) {
        micro::run(options.runs.max(5)).await?;
    }
    if wants(Part::Broadcast) {
        broadcast::run(&options).await?;
    }
    if wants(Part::Tls) {
        tls::run(&options).await?;
    }
    if wants(Part::Unicast) {
        unicast::run(&options).await?;
    }
    if wants(Part::Spool) {
        spool::run(&options).await?;
    }
    match options.part {
        Part::Latency => latency::run(&options).await?,
        Part::Storm => storm::run(&options).await?,
        Part::Slow => slow::run(&options).await?,
        Part::Mixed => mixed::run(&options).await?,
        Part::Cores => cores::run(&options).await?,
        Part::Store => store::run(&options).await?,
        Part::Path => path::run(&options).await?,
        Part::Peers => peers::run(&options).await?,
        Part::Memory => memory::run(&options).await?,
        Part::Scale => scale::run(&options).await?,
        Part::Idle => idle::run(&options).await?,
        _ => {}
    }
    if wants(Part::Deploy) {
        deploy::run(&options).await?;
    }
    Ok(())
}
