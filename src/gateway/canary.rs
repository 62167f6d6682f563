//! What lets this process's own canary in: it comes from a port that control has named, and shows a secret
//! that was made at this start and never leaves the process's memory.
//!
//! Invariants:
//! * without both a connection is a client like any other;
//! * the port alone gives nothing but not to be counted, and only this process can bind it.

use crate::config::Secret;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
};

/// One for each process, shared by its cores and control.
pub struct CanaryPass {
    secret: Secret,
    /// Where the client port is reached from here, and where the canary comes from.
    ip: IpAddr,
    /// Port of the canary's connection that is being opened; 0 is none.
    expected: AtomicU16,
}

impl CanaryPass {
    pub fn generate(listen: SocketAddr) -> CanaryPass {
        let random: [u8; 32] = rand::random();
        let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let ip = match listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        CanaryPass {
            secret: Secret::new(secret),
            ip,
            expected: AtomicU16::new(0),
        }
    }

    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The next connection from this port is the canary's; 0: none is.
    pub fn expect(&self, port: u16) {
        self.expected.store(port, Ordering::Release);
    }

    /// Asked for every newcomer: one comparison for those from elsewhere.
    pub fn is_expected(&self, peer: SocketAddr) -> bool {
        let port = self.expected.load(Ordering::Acquire);
        port != 0 && peer.port() == port && peer.ip() == self.ip
    }

    pub fn admits(&self, presented: &str) -> bool {
        let (presented, ours) = (presented.as_bytes(), self.secret.expose().as_bytes());
        verify_slices_are_equal(presented, ours).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_port_that_was_named_is_expected_and_only_from_this_host() {
        let pass = CanaryPass::generate("0.0.0.0:8080".parse().unwrap());
        let own = "127.0.0.1:50000".parse().unwrap();
        assert!(!pass.is_expected(own));
        pass.expect(50_000);
        assert!(pass.is_expected(own));
        assert!(!pass.is_expected("10.0.0.9:50000".parse().unwrap()));
        assert!(!pass.is_expected("127.0.0.1:50001".parse().unwrap()));
    }

    #[test]
    fn every_start_has_a_secret_of_its_own() {
        let nowhere = "[::]:0".parse().unwrap();
        let passes = [0; 2].map(|_| CanaryPass::generate(nowhere));
        assert!(passes[0].admits(passes[0].secret().expose()));
        assert!(!passes[0].admits(passes[1].secret().expose()));
        assert_eq!(passes[0].ip(), IpAddr::from(Ipv6Addr::LOCALHOST));
    }
}
