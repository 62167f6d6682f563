//! The shared secret between our processes: sent as `authorization: Bearer …`, compared in constant time.
//!
//! A file may hold several, one a line: the first is sent, each is taken. So a secret is replaced while some
//! processes still have the old file: add the new one below everywhere, then put it first, then drop the old.

use crate::config::{ConfigError, Grpc, Secret};
use arc_swap::ArcSwapOption;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use std::sync::Arc;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

const KEY: &str = "grpc.secret_file";

/// The secret as its file holds it now: whoever sends or demands it looks here with every call.
#[derive(Clone, Default)]
pub struct SharedSecret(Arc<ArcSwapOption<Held>>);

struct Held {
    secret: Secret,
    /// Of its first line.
    bearer: MetadataValue<Ascii>,
}

impl SharedSecret {
    /// Reads `grpc.secret_file`. Off loopback there must be one.
    pub fn from_config(grpc: &Grpc) -> Result<SharedSecret, ConfigError> {
        let shared = SharedSecret::default();
        shared.reload(grpc).map(|()| shared)
    }

    /// Without a file.
    pub fn of(secret: Secret) -> Result<SharedSecret, ConfigError> {
        Ok(SharedSecret(Arc::new(ArcSwapOption::from_pointee(
            Held::new(secret)?,
        ))))
    }

    /// Reads it again; what can't be read changes nothing. Calls under way go on.
    pub fn reload(&self, grpc: &Grpc) -> Result<(), ConfigError> {
        self.0.store(read(grpc)?.map(Arc::new));
        Ok(())
    }
}

fn read(grpc: &Grpc) -> Result<Option<Held>, ConfigError> {
    match &grpc.secret_file {
        Some(path) => {
            let secret = Secret::from_file(KEY, path)?;
            secret
                .alternatives()
                .try_for_each(|line| Secret::check_length(KEY, line))?;
            Held::new(secret).map(Some)
        }
        None if grpc.listen.ip().is_loopback() => Ok(None),
        None => Err(ConfigError::new(
            KEY,
            format!(
                "grpc.listen = {} is not on loopback: name a file with a secret that all gateways and dispatchers share",
                grpc.listen
            ),
        )),
    }
}

impl Held {
    fn new(secret: Secret) -> Result<Held, ConfigError> {
        secret
            .alternatives()
            .try_for_each(|line| bearer(line).map(drop))?;
        let first = secret.alternatives().next().unwrap_or_default();
        Ok(Held {
            bearer: bearer(first)?,
            secret,
        })
    }
}

fn bearer(secret: &str) -> Result<MetadataValue<Ascii>, ConfigError> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {secret}")
        .parse()
        .map_err(|_| ConfigError::new(KEY, "the secret is not printable ASCII"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Adds the secret to what a client sends.
#[derive(Clone, Default)]
pub struct Present(SharedSecret);

impl Present {
    pub fn new(secret: SharedSecret) -> Present {
        Present(secret)
    }
}

impl Interceptor for Present {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(held) = &*self.0.0.load() {
            request
                .metadata_mut()
                .insert("authorization", held.bearer.clone());
        }
        Ok(request)
    }
}

/// Refuses calls that don't present the secret. Without one configured (loopback only) all may call.
#[derive(Clone)]
pub struct Demand(SharedSecret);

impl Demand {
    pub fn new(secret: SharedSecret) -> Demand {
        Demand(secret)
    }
}

impl Interceptor for Demand {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let held = self.0.0.load();
        let Some(held) = &*held else {
            return Ok(request);
        };
        let presented = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        let is_ours = |presented: &[u8]| {
            held.secret.alternatives().fold(false, |found, ours| {
                found | verify_slices_are_equal(presented, ours.as_bytes()).is_ok()
            })
        };
        match presented {
            Some(presented) if is_ours(presented) => Ok(request),
            _ => Err(Status::unauthenticated(
                "the shared secret is missing or another one: compare grpc.secret_file on both sides",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grpc(listen: &str) -> Grpc {
        Grpc {
            listen: listen.parse().unwrap(),
            advertise: None,
            secret_file: None,
        }
    }

    fn shared(file: &str) -> SharedSecret {
        SharedSecret::of(Secret::new(file)).unwrap()
    }

    fn lets_in(demanded: &SharedSecret, presented: &SharedSecret) -> bool {
        let request = Present::new(presented.clone()).call(Request::new(()));
        let mut demand = Demand::new(demanded.clone());
        demand.call(request.unwrap()).is_ok()
    }

    #[test]
    fn off_loopback_a_secret_is_demanded_by_name() {
        assert!(SharedSecret::from_config(&grpc("127.0.0.1:0")).is_ok());
        let refused = SharedSecret::from_config(&grpc("0.0.0.0:9250"));
        assert_eq!(refused.err().unwrap().key, "grpc.secret_file");
    }

    #[test]
    fn only_the_same_secret_is_let_in() {
        assert!(lets_in(&shared("one"), &shared("one")));
        assert!(!lets_in(&shared("one"), &shared("two")));
        assert!(!lets_in(&shared("one"), &SharedSecret::default()));
    }

    #[test]
    fn while_a_secret_is_replaced_both_are_taken_and_the_first_is_sent() {
        // The order of a replacement: whoever has the next file meets whoever has the former one.
        let files = ["old", "old\nnew", "new\nold", "new"].map(shared);
        for pair in files.windows(2) {
            assert!(lets_in(&pair[0], &pair[1]) && lets_in(&pair[1], &pair[0]));
        }
        assert!(!lets_in(&shared("new"), &shared("old")));
        assert!(!lets_in(&shared("old\nnew"), &shared("other")));
        assert!(!lets_in(&shared("old\nnew"), &shared("ld")));
    }

    #[test]
    fn a_file_read_again_counts_for_those_who_hold_the_former_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("grpc.key");
        let (old, new) = ("old".repeat(11), "new".repeat(11));
        std::fs::write(&file, &old).unwrap();
        let config = Grpc {
            secret_file: Some(file.clone()),
            ..grpc("0.0.0.0:9250")
        };
        let ours = SharedSecret::from_config(&config).unwrap();
        let held = ours.clone();
        std::fs::write(&file, &new).unwrap();
        assert!(lets_in(&held, &shared(&old)));
        ours.reload(&config).unwrap();
        assert!(lets_in(&held, &shared(&new)) && !lets_in(&held, &shared(&old)));
        // As short as this one could be guessed, and the other line's length is no excuse.
        std::fs::write(&file, format!("{new}\nshort")).unwrap();
        let refused = ours.reload(&config).unwrap_err();
        assert!(refused.problem.contains("openssl rand"), "{refused}");
        std::fs::remove_file(&file).unwrap();
        assert!(ours.reload(&config).is_err());
        assert!(
            lets_in(&held, &shared(&new)),
            "what can't be read changes nothing"
        );
    }
}
