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

    /// Distinct shards of each user, in the order asked. Never fails: with the registry away it answers
    /// from memory, and `None` for a user unknown there.
    pub async fn shards(&self, users: &[UserId]) -> Vec<Option<Shards>> {
        match self.lookup(users).await {
            Ok(routes) => {
                self.count("registry", users.len());
                let shards: Vec<Shards> = routes.iter().map(|routes| distinct(routes)).collect();
                let mut last_known = self.last_known.lock();
                for (user, shards) in users.iter().zip(&shards) {
                    last_known.put(user, shards);
                }
                shards.into_iter().map(Some).collect()
            }
            Err(error) => {
                tracing::debug!(%error, "routing by the last known routes");
                let mut last_known = self.last_known.lock();
                let shards: Vec<Option<Shards>> =
                    users.iter().map(|user| last_known.find(user)).collect();
                let known = shards.iter().flatten().count();
                self.count("last_known", known);
                self.count("unknown", users.len() - known);
                shards
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
fn distinct(routes: &[Route]) -> Shards {
    let mut shards: Shards = routes.iter().filter_map(|route| route.shard).collect();
    shards.sort_unstable();
    shards.dedup();
    shards
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

    #[test]
    fn a_user_who_left_is_forgotten() {
        let mut last_known = LastKnown::default();
        last_known.put(&user(1), &Shards::from_slice(&[1]));
        last_known.put(&user(1), &Shards::new());
        assert_eq!(last_known.find(&user(1)), None);
    }
}
