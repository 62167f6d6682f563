use super::{Damage, answers_once, fuzz};
use herald::proto::proxy_header::{Step, parse};
use proptest::prelude::*;
use proxy_header::{ProxiedAddress, ProxyHeader, Tlv};
use std::net::SocketAddr;

fn headers() -> impl Strategy<Value = Vec<u8>> {
    let addresses = prop_oneof![
        any::<([u8; 4], [u8; 4], u16, u16)>().prop_map(|(a, b, x, y)| {
            Some((SocketAddr::from((a, x)), SocketAddr::from((b, y))))
        }),
        any::<([u8; 16], [u8; 16], u16, u16)>().prop_map(|(a, b, x, y)| {
            Some((SocketAddr::from((a, x)), SocketAddr::from((b, y))))
        }),
        Just(None),
    ];
    let tlv = prop::collection::vec(any::<u8>(), 0..600);
    (
        addresses,
        any::<bool>(),
        any::<bool>(),
        prop::option::of(tlv),
    )
        .prop_map(|(addresses, is_v1, is_stream, tlv)| {
            let mut header = match addresses {
                None => ProxyHeader::with_local(),
                Some((source, destination)) => ProxyHeader::with_address(match is_stream {
                    true => ProxiedAddress::stream(source, destination),
                    false => ProxiedAddress::datagram(source, destination),
                }),
            };
            let mut bytes = Vec::new();
            if is_v1 && header.encode_v1(&mut bytes).is_ok() {
                return bytes;
            }
            if let Some(tlv) = tlv {
                header.append_tlv(Tlv::Custom(0xe0, tlv.into()));
            }
            bytes.clear();
            header.encode_v2(&mut bytes).expect("v2 takes all of it");
            bytes
        })
}

#[test]
fn a_header_is_read_the_same_however_it_is_cut() {
    let inputs = prop_oneof![
        4 => (headers(), Damage::any()).prop_map(|(bytes, damage)| damage.apply(bytes)),
        1 => prop::collection::vec(any::<u8>(), 0..700),
    ];
    let tails = prop::collection::vec(any::<u8>(), 0..120);
    fuzz((inputs, tails), |(mut bytes, tail)| {
        bytes.extend(tail);
        if let Ok(Step::Done { consumed, .. }) = parse(&bytes) {
            prop_assert!(consumed <= bytes.len());
        }
        answers_once(&bytes, |prefix| match parse(prefix) {
            Ok(Step::NeedMore) => None,
            answer => Some(answer),
        })
    });
}
