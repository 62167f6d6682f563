//! What both registries decide alike: the order in which an automatic claim tries shards, and what a user's
//! entries mean as routes.

use super::{GatewayLease, RegistryError, Route, ShardLease};
use crate::ids::{GatewayEpoch, GatewayId};
use std::collections::BTreeMap;

/// A shard's record as an automatic claim sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// No record, or one that only waits to become claimable.
    Absent,
    /// Nobody's, or its owner's lease has ended.
    Free {
        owner: Option<GatewayEpoch>,
        epoch: u64,
    },
    Held {
        owner: GatewayEpoch,
        epoch: u64,
    },
    /// A dispatcher holds it until a gateway wants it.
    Finishing {
        owner: Option<GatewayEpoch>,
        epoch: u64,
    },
}

/// Shards worth a try, best first. The one our own earlier life owned comes first: nobody else answers
/// what waits in it. Then the free ones from the lowest, those being finished, and the absent ones, since they make us
/// wait longest.
pub(super) fn order(owner: &GatewayEpoch, shards: &[Seen]) -> Vec<u32> {
    let own = |seen: &Seen| match seen {
        Seen::Absent | Seen::Free { owner: None, .. } | Seen::Finishing { owner: None, .. } => None,
        Seen::Free {
            owner: Some(last),
            epoch,
        }
        | Seen::Finishing {
            owner: Some(last),
            epoch,
        }
        | Seen::Held { owner: last, epoch } => (last.gateway == owner.gateway).then_some(*epoch),
    };
    let numbered = || (0..).zip(shards);
    let former = numbered()
        .filter_map(|(shard, seen)| own(seen).map(|epoch| (epoch, shard)))
        .max()
        .map(|(_, shard)| shard);
    let free = numbered().filter(|(_, seen)| matches!(seen, Seen::Free { .. }));
    let absent = numbered().filter(|(_, seen)| matches!(seen, Seen::Absent));
    let finishing = numbered().filter(|(_, seen)| matches!(seen, Seen::Finishing { .. }));
    let others = free.chain(finishing).chain(absent).map(|(shard, _)| shard);
    former
        .into_iter()
        .chain(others.filter(|shard| Some(*shard) != former))
        .collect()
}

/// Folds the answers of the tries into the answer of the claim.
#[derive(Default)]
pub(super) struct Tries {
    claimable_in_ms: Option<u64>,
}

impl Tries {
    /// `Some` ends the claim; `None` asks for the next try.
    pub(super) fn add(
        &mut self,
        answer: Result<ShardLease, RegistryError>,
    ) -> Option<Result<ShardLease, RegistryError>> {
        match answer {
            // Somebody was faster: there may be others.
            Err(RegistryError::Held { .. }) => None,
            Err(RegistryError::Claimable { in_ms }) => {
                let sooner = self.claimable_in_ms.map_or(in_ms, |known| known.min(in_ms));
                self.claimable_in_ms = Some(sooner);
                None
            }
            done => Some(done),
        }
    }

    pub(super) fn nothing_free(self) -> RegistryError {
        match self.claimable_in_ms {
            Some(in_ms) => RegistryError::Claimable { in_ms },
            None => RegistryError::NoShard,
        }
    }
}

/// Routes of one user. Of one gateway only the newest life counts: an older one has no connections, and
/// both would lead to the same shard. An entry is a route whether its lease lives or has lapsed.
pub(super) fn routes<'a>(
    entries: impl IntoIterator<Item = GatewayEpoch>,
    lease: impl Fn(&GatewayId) -> Option<&'a GatewayLease>,
) -> Vec<Route> {
    let mut newest: BTreeMap<GatewayId, u64> = BTreeMap::new();
    for entry in entries {
        let epoch = newest.entry(entry.gateway).or_default();
        *epoch = (*epoch).max(entry.epoch);
    }
    newest
        .into_iter()
        .map(|(gateway, epoch)| {
            let lease = lease(&gateway);
            Route {
                shard: lease.and_then(|lease| lease.info.shard),
                grpc: lease.map(|lease| lease.info.grpc.clone()),
                live: lease.is_some_and(|lease| lease.live && lease.owner.epoch == epoch),
                gateway: GatewayEpoch { gateway, epoch },
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(text: &str) -> GatewayEpoch {
        text.parse().unwrap()
    }

    #[test]
    fn an_own_former_shard_comes_first_then_the_free_the_finished_and_the_absent() {
        let free = |owner: Option<&str>, epoch| Seen::Free {
            owner: owner.map(life),
            epoch,
        };
        let held = |owner: &str, epoch| Seen::Held {
            owner: life(owner),
            epoch,
        };
        let shards = [
            Seen::Absent,
            held("gw-2.5", 9),
            free(Some("gw-2.4"), 3),
            held("gw-1.5", 7),
            Seen::Finishing {
                owner: Some(life("gw-4.1")),
                epoch: 5,
            },
            free(Some("gw-1.4"), 6),
            free(None, 0),
        ];
        assert_eq!(order(&life("gw-1.6"), &shards), [3, 2, 5, 6, 4, 0]);
        assert_eq!(order(&life("gw-3.1"), &shards), [2, 5, 6, 4, 0]);
        // It yields soon, and nobody else should take it meanwhile.
        assert_eq!(order(&life("gw-4.2"), &shards), [4, 2, 5, 6, 0]);
    }

    #[test]
    fn only_the_newest_life_of_a_gateway_is_a_route() {
        let entries = [life("gw-1.5"), life("gw-2.1"), life("gw-1.7")];
        let routes = routes(entries, |_| None);
        let lives: Vec<String> = routes.iter().map(|r| r.gateway.to_string()).collect();
        assert_eq!(lives, ["gw-1.7", "gw-2.1"]);
        assert!(routes.iter().all(|r| !r.live && r.shard.is_none()));
    }
}
