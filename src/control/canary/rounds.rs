//! Sends probes, asks the shared parts where a leg takes long, and tells `/readyz` what is stuck.

use super::{PROBED, State, client, legs::Stuck};
use crate::{
    bus::{BusError, Record, Target, Topic, TopicPartition},
    clock::unix_ms,
    control::{
        health::Cause,
        host::{Host, Ownership},
    },
    envelope::{Head, Kind, Priority},
    ids::NotificationId,
    limits,
};
use bytes::Bytes;
use std::sync::Arc;
use tokio::time::{Instant, MissedTickBehavior};

/// Runs until dropped.
pub async fn run(host: Arc<Host>) {
    tokio::join!(
        send_probes(&host),
        client::keep_connections(host.clone()),
        judge(&host),
        ask_the_broker(&host),
        ask_dispatchers(&host),
    );
}

async fn send_probes(host: &Host) {
    let every = host.pace.probe;
    let mut tick = tokio::time::interval_at(Instant::now() + every, every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(owned) = serving(host) else {
            continue;
        };
        match send(host, &owned).await {
            Ok(()) => host.health.works(Cause::Produce),
            Err(error) => host.fails(
                Cause::Produce,
                format!(
                    "a probe can't be put into this gateway's shard: {error}; check kafka.brokers and the brokers"
                ),
            ),
        }
    }
}

/// One probe into each partition that holds none unread.
async fn send(host: &Host, owned: &Ownership) -> Result<(), BusError> {
    let mut records = Vec::new();
    let mut topics = Vec::new();
    {
        let mut state = host.canary.state.lock();
        for (index, topic) in PROBED.into_iter().enumerate() {
            if state.is_current(owned) && !state.legs.is_unread(index) {
                let id = NotificationId::generate();
                state.number_new(id);
                let partition = owned.shard.shard;
                let at = TopicPartition { topic, partition };
                records.push((Target::Exact(at), probe(host, id)));
                topics.push(index);
            }
        }
    }
    if records.is_empty() {
        return Ok(());
    }
    let places = host.bus.produce(records).await?;
    let mut state = host.canary.state.lock();
    if state.is_current(owned) {
        for (index, (_, offset)) in topics.into_iter().zip(places) {
            state.legs.appended(index, offset);
        }
    }
    Ok(())
}

fn probe(host: &Host, id: NotificationId) -> Record {
    let head = Head {
        kind: Kind::Probe,
        id,
        created_ms: unix_ms(),
        expires_ms: None,
        priority: Priority::Critical,
        region: host.region.to_string(),
        again: false,
    };
    head.into_record(Bytes::new(), Bytes::new())
}

/// The shard that clients count on: none while this host leaves.
fn serving(host: &Host) -> Option<Ownership> {
    let owned = host.ownership.borrow().clone();
    owned.filter(|_| !host.is_draining())
}

impl State {
    fn is_current(&self, owned: &Ownership) -> bool {
        self.serving.as_ref() == Some(owned)
    }
}

async fn judge(host: &Host) {
    let mut tick = tokio::time::interval(limits::CANARY_TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        tick.tick().await;
        let stuck = {
            let mut state = host.canary.state.lock();
            state.legs.pass(last.elapsed());
            let serving = serving(host);
            if state.serving != serving {
                state.serving = serving;
                state.legs.start_afresh();
            }
            match state.serving {
                Some(_) => state.legs.stuck(),
                None => Stuck::default(),
            }
        };
        last = Instant::now();
        tell(host, &stuck);
        if serving(host).is_none() {
            host.health.works(Cause::Produce);
        }
    }
}

fn tell(host: &Host, stuck: &Stuck) {
    let causes = [
        (Cause::Core, core_text(stuck)),
        (Cause::Consumer, consumer_text(&stuck.unread)),
        (
            Cause::OutcomeStream,
            stuck.unaccepted.then(|| format!(
                "for {}no outcome was accepted over the stream to the dispatchers, though one accepts what comes over another connection: restart this gateway",
                long()
            )),
        ),
        (
            Cause::Outcomes,
            stuck.nobody_accepts.then(|| {
                "no dispatcher accepts outcomes over any connection: they go to `delivery`; check the dispatchers and their store".to_owned()
            }),
        ),
    ];
    for (cause, text) in causes {
        match text {
            Some(text) => host.fails(cause, text),
            None => host.health.works(cause),
        }
    }
}

fn core_text(stuck: &Stuck) -> Option<String> {
    let mut texts = Vec::new();
    if !stuck.silent.is_empty() {
        let cores: Vec<String> = stuck.silent.iter().map(u16::to_string).collect();
        texts.push(format!(
            "for {}no probe was acknowledged that was given to core {}",
            long(),
            cores.join(", ")
        ));
    }
    if !stuck.closed.is_empty() {
        let cores: Vec<String> = stuck.closed.iter().map(u16::to_string).collect();
        texts.push(format!(
            "for {}no connection of our own to the client port could be opened on core {}",
            long(),
            cores.join(", ")
        ));
    }
    let fix =
        "its clients get nothing: restart this gateway; `top -H` shows what the thread core-N does";
    (!texts.is_empty()).then(|| format!("{}; {fix}", texts.join("; ")))
}

fn consumer_text(unread: &[usize]) -> Option<String> {
    let names: Vec<String> = unread.iter().map(|index| PROBED[*index].suffix()).collect();
    (!names.is_empty()).then(|| format!(
        "for {}nothing was read from this gateway's partition of {}, where records wait and the broker answers: restart this gateway",
        long(),
        names.join(" and ")
    ))
}

/// How long something stood still before it is said.
fn long() -> String {
    format!("{} s ", limits::CANARY_STUCK.as_secs())
}

/// The word of the partition's own leader, while a probe there waits to be read.
async fn ask_the_broker(host: &Host) {
    loop {
        tokio::time::sleep(limits::CANARY_ASK_EVERY).await;
        for (index, topic) in PROBED.into_iter().enumerate() {
            let Some(at) = doubted(host, index, topic) else {
                continue;
            };
            let asked = tokio::time::timeout(limits::KAFKA_CALL, host.bus.end(at)).await;
            let answers = matches!(asked, Ok(Ok(_)));
            let mut state = host.canary.state.lock();
            if state.is_about(at) {
                state.legs.broker_answered(index, answers);
            }
        }
    }
}

fn doubted(host: &Host, index: usize, topic: Topic) -> Option<TopicPartition> {
    let state = host.canary.state.lock();
    let partition = state.serving.as_ref()?.shard.shard;
    let doubts = state.legs.doubts_reading(index);
    doubts.then_some(TopicPartition { topic, partition })
}

/// The word of a dispatcher over a connection of its own, while an outcome waits to be accepted.
async fn ask_dispatchers(host: &Host) {
    loop {
        tokio::time::sleep(limits::CANARY_ASK_EVERY).await;
        if !host.canary.state.lock().legs.doubts_acceptance() {
            continue;
        }
        let gateway = host.identity.borrow().0.clone();
        let asked = tokio::time::timeout(limits::SYNC_WAIT, host.upstream.accepts(&gateway)).await;
        let answers = asked.unwrap_or(false);
        host.canary.state.lock().legs.dispatcher_answered(answers);
    }
}
