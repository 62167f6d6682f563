//! Which core a newcomer meets.

use crate::{
    on_both_engines,
    stream::{by_tls, is_by_tls},
    support::*,
};
use herald::{
    config::{Engine, Steer},
    sys,
};
use socket2::{Domain, Socket, Type};
use std::{collections::BTreeSet, net::SocketAddr, net::TcpStream};

on_both_engines!(
    also_by_tls: steered_by_cpu_a_newcomer_meets_the_core_on_the_cpu_that_took_it_in;
    cores_that_share_a_cpu_share_its_newcomers,
    from_the_hosts_own_address_every_core_is_reached,
);

const NEWCOMERS: usize = 32;

/// Connects from a thread that stays on one CPU, which then takes its packets in: loopback has no other.
/// Returns the cores that were met.
fn cores_met(gateway: &mut Gateway, cpu: usize, source: [u8; 4]) -> BTreeSet<u16> {
    let (address, is_by_tls) = (gateway.address(), is_by_tls());
    let connecting = std::thread::spawn(move || {
        sys::pin_to_cpu(cpu).unwrap();
        if is_by_tls {
            by_tls(|| ());
        }
        let connect = |_| {
            let stream = Stream::over(tcp_from(source, address));
            Client::over(stream, "/ws/notifications", &[bearer("42")]).unwrap()
        };
        (0..NEWCOMERS).map(connect).collect::<Vec<_>>()
    });
    let _clients = connecting.join().unwrap();
    let conns: Vec<_> = (0..NEWCOMERS).map(|_| gateway.opened().0).collect();
    conns.into_iter().map(|conn| conn.core).collect()
}

fn tcp_from(source: [u8; 4], address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn steered(engine: Engine, cores: usize) -> Gateway {
    Gateway::with(engine, |cfg| {
        cfg.cores = cores;
        cfg.pin = true;
        cfg.steer = Steer::Cpu;
    })
}

fn steered_by_cpu_a_newcomer_meets_the_core_on_the_cpu_that_took_it_in(engine: Engine) {
    let cpus = sys::cpus().unwrap();
    let mut gateway = steered(engine, cpus.len());
    for (core, &cpu) in (0..).zip(&cpus) {
        let met = cores_met(&mut gateway, cpu, [127, 0, 0, 2]);
        assert_eq!(met, BTreeSet::from([core]), "from CPU {cpu}");
    }
}

fn cores_that_share_a_cpu_share_its_newcomers(engine: Engine) {
    let cpus = sys::cpus().unwrap();
    let cores = cpus.len() * 2;
    let mut gateway = steered(engine, cores);
    for (place, &cpu) in cpus.iter().enumerate() {
        let met = cores_met(&mut gateway, cpu, [127, 0, 0, 2]);
        let sharing = [place as u16, (place + cpus.len()) as u16];
        assert_eq!(met, BTreeSet::from(sharing), "from CPU {cpu}");
    }
}

/// As the canary, which has to reach them all from wherever it runs.
fn from_the_hosts_own_address_every_core_is_reached(engine: Engine) {
    let mut gateway = steered(engine, 2);
    let cpu = sys::cpus().unwrap()[0];
    let met = cores_met(&mut gateway, cpu, [127, 0, 0, 1]);
    assert_eq!(met, BTreeSet::from([0, 1]));
}
