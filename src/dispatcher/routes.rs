//! Where users are: the registry's answer, or, while it is away, the last one it gave.

use super::metrics::DispatcherMetrics;
use crate::{
    ids::UserId,
    limits,
    registry::{RegistryError, Route, SharedRegistry},
};
use hashbrown::HashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;
use std::sync::Arc;

/// Shards that hold a user: one on most days.
pub type Shards = SmallVec<[u32; 2]>;

/// Where users are.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Distinct shards of each user, in the order asked. `None` for a user who may be anywhere: unknown to the
    /// memory, or entered before a lease that the registry lost.
    pub shards: Vec<Option<Shards>>,
    /// The registry did not answer: this is where users were last, and they may be elsewhere too.
    pub remembered: bool,
}

#[derive(Clone)]
pub struct Routes {
    registry: SharedRegistry,
    last_known: Arc<Mutex<LastKnown>>,
    metrics: DispatcherMetrics,
}

impl Routes {
    pub fn new(registry: SharedRegistry, metrics: DispatcherMetrics) -> Routes {
        Routes {
            registry,
            last_known: Arc::default(),
            metrics,
        }
    }

    /// Never fails: with the registry away it answers from memory.
    pub async fn find(&self, users: &[UserId]) -> Found {
        match self.lookup(users).await {
            Ok(routes) => {
                let shards: Vec<Option<Shards>> =
                    routes.iter().map(|routes| distinct(routes)).collect();
                let mut last_known = self.last_known.lock();
                for (user, shards) in users.iter().zip(&shards) {
                    if let Some(shards) = shards {
                        last_known.put(user, shards);
                    }
                }
                let known = shards.iter().flatten().count();
                self.count("registry", known);
                self.count("unknown", users.len() - known);
                Found {
                    shards,
                    remembered: false,
                }
            }
            Err(error) => {
                tracing::debug!(%error, "routing by the last known routes");
                let mut last_known = self.last_known.lock();
                let shards: Vec<Option<Shards>> =
                    users.iter().map(|user| last_known.find(user)).collect();
                let known = shards.iter().flatten().count();
                self.count("last_known", known);
                self.count("unknown", users.len() - known);
                Found {
                    shards,
                    remembered: true,
                }
            }
        }
    }

    /// A registry that hiccups is asked again; one that has been away is asked once per batch.
    async fn lookup(&self, users: &[UserId]) -> Result<Vec<Vec<Route>>, RegistryError> {
        let attempts = match self.registry.healthy() {
            true => limits::LOOKUP_ATTEMPTS,
            false => 1,
        };
        let mut attempt = 1;
        loop {
            match self.registry.lookup(users).await {
                Err(_) if attempt < attempts => {
                    attempt += 1;
                    tokio::time::sleep(limits::LOOKUP_PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    fn count(&self, source: &str, users: usize) {
        let counter = self.metrics.lookups.with_label_values(&[source]);
        counter.inc_by(users as u64);
    }
}

/// A lapsed lease still counts: the bus keeps the record and whoever owns the shard answers.
fn distinct(routes: &[Route]) -> Option<Shards> {
    if routes.iter().any(Route::leads_nowhere_yet) {
        return None;
    }
    let mut shards: Shards = routes.iter().filter_map(|route| route.shard).collect();
    shards.sort_unstable();
    shards.dedup();
    Some(shards)
}

/// Two halves: a full young one becomes the old one, and what the old one held and nobody asked for
/// since is forgotten.
#[derive(Default)]
struct LastKnown {
    young: HashMap<UserId, Shards>,
    old: HashMap<UserId, Shards>,
}

impl LastKnown {
    fn put(&mut self, user: &UserId, shards: &Shards) {
        if self.young.len() >= limits::LAST_KNOWN_USERS / 2 && !self.young.contains_key(user) {
            self.old = std::mem::take(&mut self.young);
        }
        if shards.is_empty() {
            self.young.remove(user);
            self.old.remove(user);
        } else {
            self.young.insert(user.clone(), shards.clone());
        }
    }

    fn find(&mut self, user: &UserId) -> Option<Shards> {
        if let Some(shards) = self.young.get(user) {
            return Some(shards.clone());
        }
        let shards = self.old.remove(user)?;
        self.put(user, &shards);
        Some(shards)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        metrics::Metrics,
        registry::{GatewayInfo, Registration, Registry, embedded::EmbeddedRegistry},
    };

    fn user(number: usize) -> UserId {
        number.to_string().parse().unwrap()
    }

    #[test]
    fn last_known_routes_are_bounded_and_what_is_used_stays() {
        let mut last_known = LastKnown::default();
        for number in 0..limits::LAST_KNOWN_USERS * 2 {
            last_known.put(&user(number), &Shards::from_slice(&[1]));
            assert!(last_known.find(&user(0)).is_some());
        }
        assert!(last_known.young.len() + last_known.old.len() <= limits::LAST_KNOWN_USERS);
        assert!(last_known.find(&user(1)).is_none());
    }

    #[tokio::test]
    async fn a_user_entered_before_the_lease_that_the_registry_lost_may_be_anywhere() {
        let registry = Arc::new(EmbeddedRegistry::default());
        let routes = Routes::new(
            registry.clone(),
            DispatcherMetrics::new(&Metrics::default()),
        );
        let owner: crate::ids::GatewayEpoch = "gw-1.7".parse().unwrap();
        let entry = Registration {
            user: user(1),
            stamp: 1,
        };
        registry.register(&owner, &[entry]).await.unwrap();
        assert_eq!(routes.find(&[user(1)]).await.shards, [None]);
        let info = GatewayInfo {
            grpc: String::new(),
            shard: Some(3),
            connections: 1,
            accepts_limit_per_s: 0,
            spare_accepts_per_s: 0,
            room: None,
            region: "local".parse().unwrap(),
            draining: false,
        };
        registry.renew_gateway(&owner, "p1", &info).await.unwrap();
        assert_eq!(
            routes.find(&[user(1)]).await.shards,
            [Some(Shards::from_slice(&[3]))]
        );
    }

    #[test]
    fn a_user_who_left_is_forgotten() {
        let mut last_known = LastKnown::default();
        last_known.put(&user(1), &Shards::from_slice(&[1]));
        last_known.put(&user(1), &Shards::new());
        assert_eq!(last_known.find(&user(1)), None);
    }
}
