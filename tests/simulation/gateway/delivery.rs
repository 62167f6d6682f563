//! From the shard's records to the sessions and back to a dispatcher, as `herald::control::{shard, place, host,
//! outcomes}` do it.

use super::{ConnEvent, GatewayDone, GatewayEvent};
use crate::{
    plan::Broken,
    world::{Done, Event, World, id_name},
};
use herald::{
    bus::{Consumed, Topic, TopicPartition},
    control::{
        flights::{Began, Flight, Settled, Waiter},
        outcomes::{Finished, Flow},
        upstream::{Accepted, Upstream},
    },
    envelope::{Fate, Outcome, Routed},
    ids::{GatewayEpoch, NotificationId, UserId},
    limits,
    position::Position,
    proto::session::Item,
};
use std::sync::Arc;

/// How long a gateway waits for a dispatcher's answer to a batch.
const REPORT_WAIT_MS: u64 = 5_000;

#[derive(Default)]
pub struct Reader {
    flow: Option<Arc<Flow>>,
    next: u64,
    committed: Option<u64>,
}

/// Outcomes to report, and the offset that waits for them.
#[derive(Clone)]
pub struct Waiting {
    pub outcomes: Vec<Outcome>,
    pub finished: Option<(Finished, TopicPartition)>,
}

pub fn shard_group(shard: u32) -> String {
    format!("shard.{shard}")
}

impl World {
    pub(super) fn assigned(&mut self, number: usize, turn: u64) {
        let bus = self.bus.clone();
        let gateway = &mut self.gateways[number];
        if gateway.reader_turn != turn {
            return;
        }
        let partitions: Vec<TopicPartition> = gateway.readers.keys().copied().collect();
        for (at, reader) in &mut gateway.readers {
            let flow = Arc::<Flow>::default();
            gateway.flows.push((flow.clone(), *at));
            reader.flow = Some(flow);
            reader.next = bus
                .committed_by(&shard_group(at.partition), *at)
                .unwrap_or(0);
        }
        for at in partitions {
            self.read_shard(number, at);
        }
    }

    pub(super) fn read_shard(&mut self, number: usize, at: TopicPartition) {
        if at.topic == Topic::Broadcast {
            return self.read_broadcast(number, at);
        }
        let gateway = &mut self.gateways[number];
        let Some(reader) = gateway.readers.get_mut(&at) else {
            return;
        };
        let Some(flow) = reader.flow.clone() else {
            return;
        };
        let records = self.bus.read(at, reader.next, limits::SHARD_POLL);
        reader.next += records.len() as u64;
        for consumed in &records {
            if !flow.start(consumed.offset) {
                continue;
            }
            let finished = Finished {
                flow: flow.clone(),
                offset: consumed.offset,
            };
            if self.plan.broken == Broken::CommitFirst {
                finished.clone().done();
            }
            self.place(number, consumed, Waiter::Offset(finished));
        }
    }

    /// A router that could not look its user up asks everyone; who has not the user says nothing.
    fn read_broadcast(&mut self, number: usize, at: TopicPartition) {
        let next = self.gateways[number].broadcast_next;
        let records = self.bus.read(at, next, limits::SHARD_POLL);
        self.gateways[number].broadcast_next += records.len() as u64;
        for consumed in &records {
            let routed = Routed::read(&consumed.record).expect("written by the router");
            let user = routed.user.expect("nothing is posted to all");
            let here = !self.gateways[number].table.connections_of(&user).is_empty();
            if here {
                self.place(number, consumed, Waiter::Nobody);
            }
        }
    }

    fn place(&mut self, number: usize, consumed: &Consumed, waiter: Waiter) {
        let (now, unix_ms) = (self.instant(), self.clock.unix_ms());
        let routed = Routed::read(&consumed.record).expect("written by the router");
        let (id, user) = (routed.head.id, routed.user.clone().expect("of one user"));
        let gateway = &mut self.gateways[number];
        let conns = gateway.table.connections_of(&user);
        self.tell(crate::world::number_of(&user), || {
            let (at, offset, devices) = (consumed.at, consumed.offset, conns.len());
            let (topic, partition, name) = (at.topic.suffix(), at.partition, id_name(id));
            format!(
                "gw-{number} reads {name} from {topic} {partition}/{offset}: {devices} devices here"
            )
        });
        let gateway = &mut self.gateways[number];
        if conns.is_empty() {
            let answered = routed.answered.iter().map(GatewayEpoch::to_string);
            let outcome = Outcome {
                id,
                user: Some(user),
                pos: routed.pos,
                fate: Fate::NotHere,
                devices: 0,
                gateway: gateway.identity.0.to_string(),
                at_ms: unix_ms,
                answered: answered.collect(),
            };
            let settled = Settled {
                outcomes: [outcome].into_iter().collect(),
                waiter,
                began: None,
            };
            return self.settle(number, [settled]);
        }
        let item = Arc::new(Item::routed(&routed, routed.stream.as_str().into()));
        let ticket = gateway.flights.ticket();
        let devices = conns.len() as u32;
        let flight = Flight::new(
            id,
            Some(user),
            routed.pos,
            &routed.answered,
            devices,
            waiter,
            Began::of(&routed.head, now),
        );
        gateway.flights.begin([(ticket, flight)]);
        let owner = self.gateway_owner(number);
        for conn in conns {
            let after_ms = self.random_ms(0..3);
            let item = item.clone();
            let deliver = ConnEvent::Deliver { conn, item, ticket };
            self.after(after_ms, owner, Event::Conn(deliver));
        }
    }

    /// What devices met.
    pub(super) fn fate(&mut self, number: usize, ticket: u64, fate: Fate) {
        let unix_ms = self.clock.unix_ms();
        let gateway = &mut self.gateways[number];
        let speaker = gateway.speaker(unix_ms);
        let settled = gateway.flights.fate(ticket, fate, 1, &speaker);
        self.settle(number, settled);
    }

    pub(super) fn settle(&mut self, number: usize, settled: impl IntoIterator<Item = Settled>) {
        let gateway = &mut self.gateways[number];
        for settled in settled {
            let finished = match settled.waiter {
                Waiter::Offset(finished) => {
                    let flow = |known: &&(Arc<Flow>, _)| Arc::ptr_eq(&known.0, &finished.flow);
                    let at = gateway.flows.iter().find(flow).expect("a flow of ours").1;
                    Some((finished, at))
                }
                Waiter::Nobody | Waiter::Call(_) => None,
            };
            gateway.outcomes.push_back(Waiting {
                outcomes: settled.outcomes.into_vec(),
                finished,
            });
        }
        self.report(number);
    }

    /// What a device says of items it received.
    pub(super) fn said(&mut self, number: usize, user: &UserId, ids: Vec<NotificationId>) {
        let at_ms = self.clock.unix_ms();
        let gateway = &mut self.gateways[number];
        let outcomes = ids.into_iter().map(|id| Outcome {
            id,
            user: Some(user.clone()),
            pos: Position::START,
            fate: Fate::Acked,
            devices: 1,
            gateway: gateway.identity.0.to_string(),
            at_ms,
            answered: Vec::new(),
        });
        gateway.outcomes.push_back(Waiting {
            outcomes: outcomes.collect(),
            finished: None,
        });
        self.report(number);
    }

    pub(super) fn report(&mut self, number: usize) {
        while self.gateways[number].reports < limits::OUTCOME_BATCHES
            && !self.gateways[number].outcomes.is_empty()
        {
            let owner = self.gateway_owner(number);
            let Some(dispatcher) = self.some_dispatcher() else {
                let report = Event::Gateway(GatewayEvent::Report);
                return self.after(200, owner, report);
            };
            let gateway = &mut self.gateways[number];
            let batch: Vec<Waiting> = gateway.outcomes.drain(..).collect();
            gateway.reports += 1;
            let (life, shard) = gateway.identity.clone();
            let upstream = self.upstream(dispatcher);
            let outcomes = batch.iter().flat_map(|one| one.outcomes.clone()).collect();
            let lost = GatewayDone::Reported {
                batch: batch.clone(),
                accepted: None,
            };
            let job = Box::pin(async move {
                let accepted = upstream.report(&life, shard, outcomes).await.ok();
                Done::Gateway(GatewayDone::Reported { batch, accepted })
            });
            let runs_on = self.dispatcher_owner(dispatcher);
            let call = self.call(runs_on, owner, Some(Done::Gateway(lost)), job);
            self.after(REPORT_WAIT_MS, owner, Event::Timeout(call));
        }
    }

    pub(super) fn reported(
        &mut self,
        number: usize,
        batch: Vec<Waiting>,
        accepted: Option<Accepted>,
    ) {
        let gateway = &mut self.gateways[number];
        gateway.reports -= 1;
        let Some(accepted) = accepted else {
            batch
                .into_iter()
                .rev()
                .for_each(|one| gateway.outcomes.push_front(one));
            let owner = self.gateway_owner(number);
            return self.after(200, owner, Event::Gateway(GatewayEvent::Report));
        };
        let shard = gateway.identity.1;
        for (finished, at) in batch.into_iter().filter_map(|one| one.finished) {
            self.ledger.outcome_accepted(at, finished.offset);
            finished.done();
        }
        if let (Some(shard), Some(epoch)) = (shard, accepted.shard_epoch) {
            self.name_epoch(number, shard, epoch);
        }
        self.report(number);
    }

    pub(super) fn commit(&mut self, number: usize) {
        let bus = self.bus.clone();
        for (at, reader) in &mut self.gateways[number].readers {
            let next = reader.flow.as_ref().and_then(|flow| flow.next());
            let Some(offset) = next.filter(|_| next != reader.committed) else {
                continue;
            };
            reader.committed = next;
            self.ledger.commits(*at, offset, &format!("gw-{number}"));
            bus.commit(&shard_group(at.partition), *at, offset);
        }
    }
}
