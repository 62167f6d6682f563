//! A gateway answered `not_here`: the user moved between the look-up and the delivery. Asked again where
//! the user is now, a few times; whatever is not found that way is found by sync.
//!
//! With the registry away nobody knows where that is, so every gateway is asked, once: who has not the user says
//! nothing to that, so no further hop follows.

use super::{TrackError, Tracker, read_marks::is_mark};
use crate::{
    bus::{Record, Target},
    dispatcher::{
        frame,
        router::{to_everyone, to_shard},
        store::{DeliveryState, Row, RowKind, rank, state},
        unix_ms,
    },
    envelope::{Channel, Fate, Head, Kind, Outcome, Routed, is_expired},
    ids::{GatewayEpoch, NotificationId, UserId},
    limits,
    registry::Route,
};
use std::collections::{BTreeSet, HashSet};

impl Tracker {
    /// Records that follow from the `not_here` among the outcomes; users are looked up all at once. The shard
    /// that is being `finished` gets none of them back.
    pub(super) async fn reroute(
        &self,
        outcomes: &[Outcome],
        finished: Option<u32>,
    ) -> Result<Vec<(Target, Record)>, TrackError> {
        let mut asked = Vec::new();
        let mut users = Vec::new();
        for outcome in outcomes {
            if outcome.fate != Fate::NotHere {
                continue;
            }
            match &outcome.user {
                // Nobody is looked for to hand a broadcast to.
                None => self.count("broadcast"),
                Some(_) if outcome.answered.len() >= limits::HOPS => self.count("hops"),
                Some(user) => {
                    asked.push((outcome, user));
                    users.push(user.clone());
                }
            }
        }
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let mut records = Vec::new();
        let Ok(routes) = self.registry.lookup(&users).await else {
            // A user with several devices that left has several answers in here.
            let mut seen = HashSet::new();
            asked.retain(|(outcome, user)| seen.insert((outcome.id, *user)));
            for (outcome, user) in asked {
                let (result, record) = self.ask_everyone(outcome, user).await?;
                self.count(result);
                records.extend(record);
            }
            return Ok(records);
        };
        for ((outcome, user), mut routes) in asked.into_iter().zip(routes) {
            routes.retain(|route| route.shard.is_none() || route.shard != finished);
            let answered = answered(outcome);
            let (result, more) = self.next_hop(outcome.id, user, answered, &routes).await?;
            self.count(result);
            records.extend(more);
        }
        Ok(records)
    }

    fn count(&self, result: &str) {
        self.metrics.reroutes.with_label_values(&[result]).inc();
    }

    async fn next_hop(
        &self,
        id: NotificationId,
        user: &UserId,
        answered: Vec<GatewayEpoch>,
        routes: &[Route],
    ) -> Result<(&'static str, Vec<(Target, Record)>), TrackError> {
        let nothing = |result| Ok((result, Vec::new()));
        let anywhere = routes
            .iter()
            .any(|route| route.leads_nowhere_yet() && !has_answered(&answered, &route.gateway));
        // The log is read only for those that are somewhere.
        if !anywhere && shards_to_ask(routes, &answered, &[]).is_empty() {
            return nothing("absent");
        }
        let states = match is_mark(id) {
            true => Vec::new(),
            false => self.store.delivery(id, Some(user), 8).await?,
        };
        let shards = shards_to_ask(routes, &answered, &states);
        if !anywhere && shards.is_empty() {
            return nothing("reached");
        }
        self.hop(id, user, answered, anywhere, shards).await
    }

    /// To these shards, or to all where nobody can say which.
    pub(super) async fn hop(
        &self,
        id: NotificationId,
        user: &UserId,
        answered: Vec<GatewayEpoch>,
        anywhere: bool,
        shards: BTreeSet<u32>,
    ) -> Result<(&'static str, Vec<(Target, Record)>), TrackError> {
        let routed = match self.again(id, user, answered).await? {
            Ok(routed) => routed,
            Err(result) => return Ok((result, Vec::new())),
        };
        if anywhere {
            return Ok(("asked_everyone", vec![to_everyone(routed)]));
        }
        let records = shards
            .into_iter()
            .map(|shard| to_shard(routed.clone(), shard));
        Ok(("rerouted", records.collect()))
    }

    async fn ask_everyone(
        &self,
        outcome: &Outcome,
        user: &UserId,
    ) -> Result<(&'static str, Option<(Target, Record)>), TrackError> {
        match self.again(outcome.id, user, answered(outcome)).await? {
            Ok(routed) => Ok(("asked_everyone", Some(to_everyone(routed)))),
            Err(result) => Ok((result, None)),
        }
    }

    /// What is delivered, made from its row; or why it is not any more.
    async fn again(
        &self,
        id: NotificationId,
        user: &UserId,
        answered: Vec<GatewayEpoch>,
    ) -> Result<Result<Routed, &'static str>, TrackError> {
        let Some(row) = self.store.row(user, id).await? else {
            return Ok(Err("no_row"));
        };
        if is_expired(row.expires_ms, unix_ms()) {
            return Ok(Err("expired"));
        }
        let routed = self.routed(user, &row, answered);
        Ok(routed.ok_or("damaged_row"))
    }

    fn routed(&self, user: &UserId, row: &Row, answered: Vec<GatewayEpoch>) -> Option<Routed> {
        let stream = self.region.user_stream();
        let frame = frame::of_row(row, &stream)
            .inspect_err(
                |error| tracing::error!(%error, id = %row.id, "a stored row can't be read"),
            )
            .ok()?;
        let kind = match row.kind {
            RowKind::Notification => Kind::Notification,
            RowKind::Read => Kind::Read,
        };
        Some(Routed {
            head: Head {
                kind,
                id: row.id,
                created_ms: row.created_ms,
                expires_ms: row.expires_ms,
                priority: row.priority,
                region: self.region.to_string(),
                again: false,
            },
            user: Some(user.clone()),
            stream,
            pos: row.pos,
            prev: row.prev,
            collapse_key: row.collapse_key.clone(),
            answered,
            frame,
        })
    }
}

/// All that said `not_here` of this record so far, in order and with repetitions: the length of the list
/// is the number of hops, whoever answered. A name that can't be read is no gateway of this fleet; the
/// answer counts as a hop all the same.
fn answered(outcome: &Outcome) -> Vec<GatewayEpoch> {
    let unknown = GatewayEpoch {
        gateway: "unknown".parse().expect("a label"),
        epoch: 0,
    };
    let names = outcome.answered.iter().chain([&outcome.gateway]);
    names
        .map(|name| name.parse().unwrap_or_else(|_| unknown.clone()))
        .collect()
}

/// A later life speaks for the earlier ones of its gateway: their connections ended with them. Asking for
/// those again would ask the same process for ever.
fn has_answered(answered: &[GatewayEpoch], life: &GatewayEpoch) -> bool {
    answered
        .iter()
        .any(|answer| answer.gateway == life.gateway && answer.epoch >= life.epoch)
}

/// Shards of the gateways that hold the user and have not answered: neither `not_here`, nor that they
/// wrote it to a device.
fn shards_to_ask(
    routes: &[Route],
    answered: &[GatewayEpoch],
    states: &[DeliveryState],
) -> BTreeSet<u32> {
    let reached = |route: &Route| {
        let name = route.gateway.to_string();
        states.iter().any(|known| {
            known.channel == Channel::InApp && known.gateway == name && is_reached(&known.state)
        })
    };
    routes
        .iter()
        .filter(|route| !has_answered(answered, &route.gateway) && !reached(route))
        .filter_map(|route| route.shard)
        .collect()
}

fn is_reached(name: &str) -> bool {
    let fates = [Fate::Written, Fate::Acked, Fate::Read];
    fates
        .into_iter()
        .any(|fate| rank(fate) >= rank(Fate::Written) && state(fate) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(gateway: &str, shard: u32) -> Route {
        Route {
            gateway: gateway.parse().unwrap(),
            shard: Some(shard),
            grpc: None,
            live: true,
        }
    }

    #[test]
    fn only_gateways_that_have_not_answered_are_asked() {
        let routes = [route("gw-1.5", 1), route("gw-2.6", 2), route("gw-3.7", 3)];
        let written = DeliveryState {
            user: None,
            channel: Channel::InApp,
            state: "written".into(),
            devices: 1,
            gateway: "gw-3.7".into(),
            updated_ms: 1,
            sending: Default::default(),
        };
        let shards = shards_to_ask(&routes, &["gw-1.5".parse().unwrap()], &[written]);
        assert_eq!(shards, [2].into());
    }

    #[test]
    fn an_earlier_life_of_a_gateway_that_answered_is_not_asked() {
        let shards = shards_to_ask(&[route("gw-1.4", 1)], &["gw-1.5".parse().unwrap()], &[]);
        assert!(shards.is_empty());
    }

    #[test]
    fn hops_are_counted_even_when_the_same_gateway_answers_for_another_shard() {
        let outcome = Outcome {
            id: crate::ids::NotificationId::generate(),
            user: Some("42".parse().unwrap()),
            pos: crate::position::Position::START,
            fate: Fate::NotHere,
            devices: 0,
            gateway: "gw-1.5".into(),
            at_ms: 1,
            answered: vec!["gw-1.5".into(), "gw-1.5".into()],
        };
        assert_eq!(answered(&outcome).len(), limits::HOPS);
    }

    #[test]
    fn a_later_life_of_a_gateway_that_answered_may_be_asked() {
        let shards = shards_to_ask(&[route("gw-1.9", 1)], &["gw-1.5".parse().unwrap()], &[]);
        assert_eq!(shards, [1].into());
    }
}
