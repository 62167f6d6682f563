//! One look over the whole configuration before anything of it is used: what a key may be stands in
//! `config::check`, what only a part understands is asked of the part. Nothing is opened, connected or made.

use super::log;
use crate::{
    api::secret::SharedSecret,
    auth::{Refresher, Verifier},
    bus::{Topic, kafka},
    config::{
        self, Auth, ConfigError, Conformance, DispatcherConfig, Gateway, GatewayConfig, Node,
        Shard, Shipped, StandaloneConfig, StoreKind, Tls, check::apart,
    },
    dispatcher::{Rules, channel::Channels, store::cassandra},
    gateway,
    registry::redis,
    sys,
};
use std::{net::SocketAddr, path::Path};

/// A configuration that can be judged as a whole.
pub trait Checked: Shipped {
    fn check(&self) -> Result<(), ConfigError>;
}

/// Reads, lets the command line have its say, and checks. What is wrong is named by its key and, where the
/// environment set it, by the variable.
pub fn load<T: Checked>(
    path: Option<&Path>,
    adjust: impl FnOnce(&mut T),
) -> Result<T, ConfigError> {
    let read = config::load(path, std::env::vars_os()).and_then(|mut config: T| {
        adjust(&mut config);
        config.check().map(|()| config)
    });
    read.map_err(|error| error.naming_variable(std::env::vars_os()))
}

impl Checked for GatewayConfig {
    fn check(&self) -> Result<(), ConfigError> {
        log::check(&self.log)?;
        clients(&self.gateway, &self.tls, self.conformance, &self.node)?;
        self.drain.check()?;
        self.dispatchers.check()?;
        SharedSecret::from_config(&self.grpc)?;
        self.grpc.check_advertised()?;
        let others = [
            ("admin.listen", self.admin.listen),
            ("grpc.listen", self.grpc.listen),
        ];
        apart(&[&doors(&self.gateway)[..], &others].concat())?;
        redis::check(&self.redis)?;
        kafka::check(&self.kafka)?;
        tokens(&self.auth)?;
        let nobody = self.auth.keys.is_empty() && self.auth.jwks_url.is_none();
        match nobody && !self.conformance.echo {
            true => Err(ConfigError::new(
                "auth.keys",
                "nobody could connect: name a key to verify tokens with, or set auth.jwks_url",
            )),
            false => Ok(()),
        }
    }
}

impl Checked for DispatcherConfig {
    fn check(&self) -> Result<(), ConfigError> {
        log::check(&self.log)?;
        self.http.check()?;
        SharedSecret::from_config(&self.grpc)?;
        if let Some(address) = &self.grpc.advertise {
            config::check::host_and_port("grpc.advertise", address)?;
        }
        apart(&[
            ("http.listen", self.http.listen),
            ("admin.listen", self.admin.listen),
            ("grpc.listen", self.grpc.listen),
        ])?;
        redis::check(&self.redis)?;
        kafka::check(&self.kafka)?;
        if self.store.kind == StoreKind::Sqlite {
            directory("store.path", &self.store.path)?;
        }
        cassandra::check(&self.store)?;
        directory("spool.path", &self.spool.path)?;
        self.spool.check()?;
        self.limits.check()?;
        Rules::from_config(&self.fallback, &self.preferences, &self.templates)?;
        Channels::from_config(&self.channels()).map(drop)
    }
}

impl Checked for StandaloneConfig {
    fn check(&self) -> Result<(), ConfigError> {
        log::check(&self.log)?;
        clients(&self.gateway, &self.tls, self.conformance, &self.node)?;
        shard(self.gateway.shard)?;
        self.drain.check()?;
        self.http.check()?;
        let others = [
            ("http.listen", self.http.listen),
            ("admin.listen", self.admin.listen),
        ];
        apart(&[&doors(&self.gateway)[..], &others].concat())?;
        tokens(&self.auth)?;
        directory("store.path", &self.store.path)?;
        self.limits.check()?;
        Rules::from_config(&self.fallback, &self.preferences, &self.templates)?;
        Channels::from_config(&self.channels()).map(drop)
    }
}

fn clients(
    gateway: &Gateway,
    tls: &Tls,
    conformance: Conformance,
    node: &Node,
) -> Result<(), ConfigError> {
    gateway.check()?;
    gateway::tls::check(gateway, tls)?;
    gateway::check(gateway, conformance, &node.region)
}

/// Where clients connect.
fn doors(gateway: &Gateway) -> Vec<(&'static str, SocketAddr)> {
    let plain = ("gateway.listen", gateway.listen);
    let tls = gateway.tls_listen.map(|tls| ("gateway.tls_listen", tls));
    [Some(plain), tls].into_iter().flatten().collect()
}

fn tokens(auth: &Auth) -> Result<(), ConfigError> {
    auth.check()?;
    Verifier::from_config(auth)?;
    Refresher::check(auth)
}

/// The partitions of the embedded bus are known beforehand; a broker has to be asked for its own.
fn shard(shard: Shard) -> Result<(), ConfigError> {
    let shards = Topic::InApp.spec().partitions;
    match shard {
        Shard::Fixed(shard) if shard >= shards => Err(ConfigError::new(
            "gateway.shard",
            format!("{shard} is not allowed: \"auto\", or 0 to {}", shards - 1),
        )),
        _ => Ok(()),
    }
}

/// The directory of the databases: it is there and takes files, or can be made in one that does.
fn directory(key: &str, path: &Path) -> Result<(), ConfigError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let place = if path.exists() { path } else { parent };
    let refused = |problem: String| Err(ConfigError::new(key, problem));
    if !place.exists() {
        return refused(format!(
            "{} does not exist: make it, or name another directory",
            place.display()
        ));
    }
    if !place.is_dir() {
        return refused(format!("{} is not a directory", place.display()));
    }
    match sys::may_write_in(place) {
        Ok(()) => Ok(()),
        Err(error) => refused(format!(
            "can't write in {}: {error}; give it to the user that runs this, or name another directory",
            place.display()
        )),
    }
}
