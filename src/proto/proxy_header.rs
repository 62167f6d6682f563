//! The PROXY header (v1 and v2) that a load balancer puts before a client's bytes, and whom it is taken
//! from. From anyone else the same bytes are a malformed request.
//!
//! Invariant: asking again with more bytes never takes back an answer, so how the header was cut into
//! chunks changes nothing.

use crate::{config::ConfigError, limits};
use ipnet::IpNet;
use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader};
use std::net::{IpAddr, SocketAddr};
use thiserror::Error;

/// A v1 line has at most so many bytes, end included.
const V1_BYTES_MAX: usize = 107;

/// The connection does not live on: a trusted source that speaks wrongly is misconfigured.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq, Hash)]
pub enum ProxyError {
    #[error("no PROXY header; does the load balancer send one (send-proxy-v2)?")]
    Malformed,
    #[error("a PROXY header of more than {} bytes", limits::PROXY_HEADER_BYTES)]
    TooBig,
}

impl ProxyError {
    /// Bounded label for metrics.
    pub fn cause(self) -> &'static str {
        match self {
            ProxyError::Malformed => "proxy_header_malformed",
            ProxyError::TooBig => "proxy_header_too_big",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    NeedMore,
    /// The client's own bytes start at `consumed`. Without a `source` the load balancer speaks for
    /// itself (a health check): the peer is the client.
    Done {
        consumed: usize,
        source: Option<SocketAddr>,
    },
}

/// Reads the header from all the bytes of it so far. Never asks for more than
/// [`limits::PROXY_HEADER_BYTES`].
pub fn parse(bytes: &[u8]) -> Result<Step, ProxyError> {
    let bytes_max = match bytes.first() {
        Some(b'P') => V1_BYTES_MAX,
        _ => limits::PROXY_HEADER_BYTES,
    };
    let bounded = &bytes[..bytes.len().min(bytes_max)];
    let config = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    match ProxyHeader::parse(bounded, config) {
        Ok((header, consumed)) => match header.proxied_address() {
            Some(address) if address.protocol != Protocol::Stream => Err(ProxyError::Malformed),
            address => Ok(Step::Done {
                consumed,
                source: address.map(|address| address.source),
            }),
        },
        // The crate's word for "need more".
        Err(Error::BufferTooShort) if bounded.len() < bytes_max => Ok(Step::NeedMore),
        Err(Error::BufferTooShort) => Err(ProxyError::TooBig),
        Err(_) => Err(ProxyError::Malformed),
    }
}

/// Networks that a PROXY header is taken from, and demanded of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trusted(Box<[IpNet]>);

impl Trusted {
    /// From `gateway.proxy_trusted`: `10.0.0.0/8`, or one address.
    pub fn new(networks: &[String]) -> Result<Trusted, ConfigError> {
        let parse = |text: &String| {
            let network = text.parse().or_else(|_| text.parse().map(IpAddr::into));
            network.map_err(|_| {
                let problem = format!("{text:?} is neither a network (10.0.0.0/8) nor an address");
                ConfigError::new("gateway.proxy_trusted", problem)
            })
        };
        Ok(Trusted(
            networks.iter().map(parse).collect::<Result<_, _>>()?,
        ))
    }

    /// A dual-stack listener shows IPv4 peers as IPv6: both forms mean the same.
    pub fn contains(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.contains(&peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_header::ProxiedAddress;

    const V1: &[u8] = b"PROXY TCP4 203.0.113.7 10.0.0.1 52953 443\r\n";

    fn v2(header: &ProxyHeader<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        header.encode_v2(&mut bytes).unwrap();
        bytes
    }

    /// Every cut of the header but the whole one asks for more.
    fn done(header: &[u8]) -> (usize, Option<SocketAddr>) {
        for cut in 0..header.len() {
            assert_eq!(parse(&header[..cut]), Ok(Step::NeedMore), "at {cut}");
        }
        match parse(&[header, b"GET / HTTP/1.1\r\n"].concat()) {
            Ok(Step::Done { consumed, source }) => (consumed, source),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_header_of_either_version_names_the_client() {
        let source: SocketAddr = "203.0.113.7:52953".parse().unwrap();
        assert_eq!(done(V1), (V1.len(), Some(source)));
        let address = ProxiedAddress::stream(source, "10.0.0.1:443".parse().unwrap());
        let header = v2(&ProxyHeader::with_address(address));
        assert_eq!(done(&header), (header.len(), Some(source)));
    }

    #[test]
    fn a_health_check_of_the_load_balancer_names_nobody() {
        assert_eq!(done(b"PROXY UNKNOWN\r\n"), (15, None));
        let header = v2(&ProxyHeader::with_local());
        assert_eq!(done(&header), (16, None));
    }

    #[test]
    fn a_header_without_an_end_is_refused_at_its_bound() {
        let line = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
        assert_eq!(parse(&line[..106]), Ok(Step::NeedMore));
        assert_eq!(parse(&line[..107]), Err(ProxyError::Malformed));
        assert_eq!(
            parse(&[&line, b"\r\n".as_slice()].concat()),
            Err(ProxyError::Malformed)
        );
        let mut long = v2(&ProxyHeader::with_local());
        long[14..16].copy_from_slice(&0xffff_u16.to_be_bytes());
        long.resize(limits::PROXY_HEADER_BYTES, 0);
        assert_eq!(parse(&long), Err(ProxyError::TooBig));
    }

    #[test]
    fn a_source_that_sends_something_else_is_refused() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\n"), Err(ProxyError::Malformed));
        assert_eq!(parse(b"PROXY TCP4 nobody\r\n "), Err(ProxyError::Malformed));
        assert_eq!(parse(b"PROXY TCP5 1.1.1.1\r\n"), Err(ProxyError::Malformed));
        let udp = ProxiedAddress::datagram(
            "203.0.113.7:1".parse().unwrap(),
            "10.0.0.1:1".parse().unwrap(),
        );
        let header = v2(&ProxyHeader::with_address(udp));
        assert_eq!(parse(&header), Err(ProxyError::Malformed));
    }

    #[test]
    fn networks_are_trusted_by_prefix() {
        let trusted = Trusted::new(&["10.0.0.0/8".into(), "::1".into()]).unwrap();
        for (peer, is) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("::1", true),
            ("::2", false),
        ] {
            assert_eq!(trusted.contains(peer.parse().unwrap()), is, "{peer}");
        }
        let error = Trusted::new(&["10.0.0.0/33".into()]).unwrap_err();
        assert_eq!(error.key, "gateway.proxy_trusted");
    }
}
