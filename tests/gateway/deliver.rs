//! Items on their way to clients, and what clients say back.

use crate::{on_both_engines, support::*};
use herald::{
    config::Engine,
    envelope::Fate,
    gateway::mailbox::{ConnId, FromCore, ToCore},
    ids::NotificationId,
};

on_both_engines!(also_by_tls:
    a_pushed_item_arrives_and_its_acknowledgement_comes_back,
    an_item_for_a_connection_that_is_gone_is_not_here,
    several_items_of_one_batch_arrive_in_order,
);

fn a_pushed_item_arrives_and_its_acknowledgement_comes_back(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut client = gateway.connect("42");
    let (conn, ..) = gateway.opened();
    let ticket = gateway.push(&item(7, r#"{"type":"notification","n":7}"#), &[conn]);
    assert_eq!(gateway.fates(ticket, 1), [(Fate::Written, 1)]);
    assert_eq!(client.hear_type("notification")["n"], 7);

    let id = NotificationId::generate();
    client.say(format!(r#"{{"type":"ack","ids":["{id}"]}}"#));
    let acked = gateway.expect("Acked", |message| match message {
        FromCore::Acked { conn, user, ids } => Some((*conn, user.clone(), ids.clone())),
        _ => None,
    });
    assert_eq!(acked, (conn, "42".parse().unwrap(), vec![id]));
}

fn an_item_for_a_connection_that_is_gone_is_not_here(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let client = gateway.connect("42");
    let (conn, ..) = gateway.opened();
    drop(client);
    gateway.closed(conn);
    let other = ConnId {
        slot: 9_999,
        ..conn
    };
    let ticket = gateway.push(&item(1, "{}"), &[conn, other]);
    assert_eq!(gateway.fates(ticket, 2), [(Fate::NotHere, 2)]);

    // The slot's next tenant is not reached by the old address either.
    let mut client = gateway.connect("43");
    assert_eq!(gateway.opened().0.slot, conn.slot);
    let ticket = gateway.push(&item(1, "{}"), &[conn]);
    assert_eq!(gateway.fates(ticket, 1), [(Fate::NotHere, 1)]);
    assert_eq!(client.hear()["type"], "welcome");
}

fn several_items_of_one_batch_arrive_in_order(engine: Engine) {
    let mut gateway = Gateway::start(engine);
    let mut client = gateway.connect("42");
    let (conn, ..) = gateway.opened();
    let deliveries = (1..=500).map(|n| herald::gateway::mailbox::Delivery {
        ticket: n,
        item: item(n, &format!(r#"{{"type":"notification","n":{n}}}"#)),
        conns: [conn].into_iter().collect(),
    });
    gateway.send(0, ToCore::Deliver(deliveries.collect()));
    for n in 1..=500 {
        assert_eq!(client.hear_type("notification")["n"], n);
        assert_eq!(gateway.fates(n, 1), [(Fate::Written, 1)]);
    }
}
