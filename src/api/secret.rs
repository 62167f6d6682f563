//! The shared secret between our processes: sent as `authorization: Bearer …`, compared in constant time.
//!
//! A file may hold several, one a line: the first is sent, each is taken. So a secret is replaced while some
//! processes still have the old file: add the new one below everywhere, then put it first, then drop the old.

use crate::config::{ConfigError, Grpc, Secret};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::Interceptor,
};

/// Reads `grpc.secret_file`. Off loopback there must be one.
pub fn from_config(grpc: &Grpc) -> Result<Option<Secret>, ConfigError> {
    match &grpc.secret_file {
        Some(path) => {
            let secret = Secret::from_file("grpc.secret_file", path)?;
            alternatives(&secret).try_for_each(|line| bearer(line).map(drop))?;
            Ok(Some(secret))
        }
        None if grpc.listen.ip().is_loopback() => Ok(None),
        None => Err(ConfigError::new(
            "grpc.secret_file",
            format!(
                "grpc.listen = {} is not on loopback: name a file with a secret that all gateways and dispatchers share",
                grpc.listen
            ),
        )),
    }
}

fn alternatives(secret: &Secret) -> impl Iterator<Item = &str> {
    let lines = secret.expose().lines().map(str::trim);
    lines.filter(|line| !line.is_empty())
}

fn bearer(secret: &str) -> Result<MetadataValue<Ascii>, ConfigError> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {secret}")
        .parse()
        .map_err(|_| ConfigError::new("grpc.secret_file", "the secret is not printable ASCII"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Adds the secret to what a client sends.
#[derive(Clone, Default)]
pub struct Present(Option<MetadataValue<Ascii>>);

impl Present {
    pub fn new(secret: Option<&Secret>) -> Result<Present, ConfigError> {
        let first = secret.and_then(|secret| alternatives(secret).next());
        first.map(bearer).transpose().map(Present)
    }
}

impl Interceptor for Present {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Refuses calls that don't present the secret. Without one configured (loopback only) all may call.
#[derive(Clone)]
pub struct Demand(Option<Secret>);

impl Demand {
    pub fn new(secret: Option<Secret>) -> Demand {
        Demand(secret)
    }
}

impl Interceptor for Demand {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(secret) = &self.0 else {
            return Ok(request);
        };
        let presented = request
            .metadata()
            .get("authorization")
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        let is_ours = |presented: &[u8]| {
            alternatives(secret).fold(false, |found, ours| {
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

    #[test]
    fn off_loopback_a_secret_is_demanded_by_name() {
        assert_eq!(from_config(&grpc("127.0.0.1:0")), Ok(None));
        let error = from_config(&grpc("0.0.0.0:9250")).unwrap_err();
        assert_eq!(error.key, "grpc.secret_file");
    }

    #[test]
    fn only_the_same_secret_is_let_in() {
        let mut demand = Demand::new(Some(Secret::new("one")));
        let mut present = |secret: Option<&str>| {
            let secret = secret.map(Secret::new);
            let mut present = Present::new(secret.as_ref()).unwrap();
            demand.call(present.call(Request::new(())).unwrap()).is_ok()
        };
        assert!(present(Some("one")));
        assert!(!present(Some("two")));
        assert!(!present(None));
    }

    #[test]
    fn while_a_secret_is_replaced_both_are_taken_and_the_first_is_sent() {
        let lets_in = |file: &str, secret: &str| {
            let mut present = Present::new(Some(&Secret::new(secret))).unwrap();
            let mut demand = Demand::new(Some(Secret::new(file)));
            demand.call(present.call(Request::new(())).unwrap()).is_ok()
        };
        // The order of a replacement: whoever has the next file meets whoever has the former one.
        let files = ["old", "old\nnew", "new\nold", "new"];
        for pair in files.windows(2) {
            assert!(lets_in(pair[0], pair[1]), "{pair:?}");
            assert!(lets_in(pair[1], pair[0]), "{pair:?}");
        }
        assert!(!lets_in("new", "old"));
        assert!(!lets_in("old\nnew", "other"));
        assert!(!lets_in("old\nnew", "ld"));
    }
}
