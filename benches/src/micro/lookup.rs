//! Where users are, as the router asks: many at once. Beside the embedded registry a hash map, beside Redis
//! a pipeline of PINGs over a bare socket.

use crate::{
    parts::{Folder, Server},
    table::Figure,
};
use anyhow::{Result, bail};
use herald::{
    config,
    ids::{Region, UserId},
    metrics::Metrics,
    registry::{
        GatewayInfo, Registration, Registry, ShardClaim, Timings, embedded::EmbeddedRegistry,
        redis::RedisRegistry,
    },
};
use std::{
    collections::HashMap,
    hint::black_box,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

const USERS: usize = 100_000;
/// Users of one look-up.
const BATCH: usize = 500;
const ROUNDS: usize = 100;
/// What Redis answers to a PING.
const PONG: &[u8] = b"+PONG\r\n";

pub async fn figures(runs: usize) -> Result<Vec<Figure>> {
    let users: Vec<UserId> = (0..USERS).map(user).collect::<Result<_>>()?;
    let name = |what: &str| format!("{what}, {BATCH} of {USERS} users at once");

    let embedded = EmbeddedRegistry::new(Timings::default());
    enter(&embedded, &users).await?;
    let map: HashMap<UserId, u32> = users.iter().cloned().zip(0..).collect();
    let mut in_process = Figure::new(name("embedded, beside a hash map"), "ns");
    for _ in 0..runs {
        in_process.runs.push(lookup_ns(&embedded, &users).await?);
        in_process.floor.push(map_ns(&map, &users));
    }

    let folder = Folder::new()?;
    let server = Server::start("scripts/redis.sh", &folder.join("redis"))?;
    let config = config::Redis {
        url: format!("redis://127.0.0.1:{}", server.port),
        ..config::Redis::default()
    };
    let redis = RedisRegistry::connect(&config, &"bench".parse()?, &Metrics::default())?;
    healthy(&redis).await?;
    enter(&redis, &users).await?;
    let mut in_redis = Figure::new(name("Redis, beside as many PINGs in one write"), "ns");
    for _ in 0..runs {
        in_redis.runs.push(lookup_ns(&redis, &users).await?);
        in_redis.floor.push(ping_ns(server.port)?);
    }
    Ok(vec![in_process, in_redis])
}

fn user(number: usize) -> Result<UserId> {
    Ok(format!("user-{number:08}").parse()?)
}

async fn healthy(registry: &impl Registry) -> Result<()> {
    let began = Instant::now();
    while !registry.healthy() {
        if began.elapsed() > Duration::from_secs(10) {
            bail!("Redis does not answer");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// All of them on one gateway that lives.
async fn enter(registry: &impl Registry, users: &[UserId]) -> Result<()> {
    let mut info = GatewayInfo {
        grpc: "127.0.0.1:9250".into(),
        shard: None,
        connections: 0,
        accepts_limit_per_s: 5_000,
        spare_accepts_per_s: 0,
        room: None,
        region: "local".parse::<Region>()?,
        draining: false,
    };
    let owner = registry
        .acquire_gateway(&"gw-1".parse()?, "bench", &info)
        .await?;
    let claim = ShardClaim::Exact {
        shard: 0,
        former_epoch: Some(1),
    };
    info.shard = Some(registry.claim_shard(&owner, claim).await?.shard);
    registry.renew_gateway(&owner, "bench", &info).await?;
    let entries: Vec<Registration> = users
        .iter()
        .zip(1..)
        .map(|(user, stamp)| Registration {
            user: user.clone(),
            stamp,
        })
        .collect();
    for some in entries.chunks(1_000) {
        registry.register(&owner, some).await?;
    }
    Ok(())
}

async fn lookup_ns(registry: &impl Registry, users: &[UserId]) -> Result<f64> {
    let began = Instant::now();
    for some in users.chunks(BATCH).take(ROUNDS) {
        let routes = registry.lookup(some).await?;
        if routes.iter().any(|routes| routes.len() != 1) {
            bail!("a user is not where they were entered");
        }
    }
    Ok(per_user_ns(began))
}

fn map_ns(map: &HashMap<UserId, u32>, users: &[UserId]) -> f64 {
    let began = Instant::now();
    for some in users.chunks(BATCH).take(ROUNDS) {
        let found: Vec<Option<u32>> = some.iter().map(|user| map.get(user).copied()).collect();
        black_box(found);
    }
    per_user_ns(began)
}

fn ping_ns(port: u16) -> Result<f64> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_nodelay(true)?;
    let asked = b"*1\r\n$4\r\nPING\r\n".repeat(BATCH);
    let mut answer = vec![0; PONG.len() * BATCH];
    let began = Instant::now();
    for _ in 0..ROUNDS {
        socket.write_all(&asked)?;
        socket.read_exact(&mut answer)?;
    }
    Ok(per_user_ns(began))
}

fn per_user_ns(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e9 / (BATCH * ROUNDS) as f64
}
