//! Where users are connected.
//!
//! Invariants:
//! * the reverse index knows an entry for as long as the entry is there: it is written before it and
//!   removed after it, both only while they carry the stamp that was seen;
//! * what a life enters is found by the sweep of that life: after writing we look whether the record is
//!   still at our epoch. If it is, whoever raises it later reads the index after our writes; if it is not,
//!   we take back what we wrote.

use super::{
    super::{Registration, RegistryError, Route, claim},
    RedisRegistry,
    keys::bucket,
    scripts,
};
use crate::{
    ids::{GatewayEpoch, UserId},
    limits,
};

impl RedisRegistry {
    pub(super) async fn enter(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<(), RegistryError> {
        let field = owner.to_string();
        for users in users.chunks(limits::REGISTRY_BATCH) {
            let mut pipeline = redis::pipe();
            for entry in users {
                let index = self.keys.entered(owner, bucket(&entry.user));
                let key = self.keys.user(&entry.user);
                pipeline
                    .hset(index, entry.user.as_str(), entry.stamp)
                    .ignore()
                    .hset(key, &field, entry.stamp)
                    .ignore();
            }
            pipeline.hget(self.keys.gateway(&owner.gateway), "epoch");
            let (epoch,): (Option<u64>,) = self.link.query("register", &pipeline).await?;
            if let Some(epoch) = epoch.filter(|epoch| *epoch > owner.epoch) {
                self.remove(owner, users).await?;
                return Err(RegistryError::Lost { epoch });
            }
        }
        Ok(())
    }

    pub(super) async fn remove(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<(), RegistryError> {
        let field = owner.to_string();
        for users in users.chunks(limits::REGISTRY_BATCH) {
            let mut pipeline = scripts::removals();
            for entry in users {
                let (user, stamp) = (entry.user.as_str(), entry.stamp);
                let key = self.keys.user(&entry.user);
                let index = self.keys.entered(owner, bucket(&entry.user));
                scripts::remove_entry(&mut pipeline, &key, &field, stamp);
                scripts::remove_entry(&mut pipeline, &index, user, stamp);
            }
            let () = self.link.query("unregister", &pipeline).await?;
        }
        Ok(())
    }

    pub(super) async fn find(&self, users: &[UserId]) -> Result<Vec<Vec<Route>>, RegistryError> {
        let mut entries: Vec<Vec<GatewayEpoch>> = Vec::with_capacity(users.len());
        for users in users.chunks(limits::REGISTRY_BATCH) {
            let mut pipeline = redis::pipe();
            for user in users {
                pipeline.hkeys(self.keys.user(user));
            }
            let answers: Vec<Vec<String>> = self.link.query("lookup", &pipeline).await?;
            // A field of a form we don't know is a newer version's, and no route to us.
            let parse =
                |fields: Vec<String>| fields.iter().filter_map(|f| f.parse().ok()).collect();
            entries.extend(answers.into_iter().map(parse));
        }
        let needed = entries.iter().flatten().map(|entry| &entry.gateway);
        if needed.clone().next().is_none() {
            return Ok(vec![Vec::new(); users.len()]);
        }
        let leases = self.cached_gateways(needed).await?;
        let routes = entries
            .into_iter()
            .map(|entries| claim::routes(entries, |gateway| leases.lease(gateway)));
        Ok(routes.collect())
    }

    pub(super) async fn absent(
        &self,
        owner: &GatewayEpoch,
        users: &[Registration],
    ) -> Result<Vec<Registration>, RegistryError> {
        let field = owner.to_string();
        let mut missing = Vec::new();
        for users in users.chunks(limits::REGISTRY_BATCH) {
            let mut pipeline = redis::pipe();
            for entry in users {
                pipeline.hget(self.keys.user(&entry.user), &field);
            }
            let stamps: Vec<Option<u64>> = self.link.query("missing", &pipeline).await?;
            let absent = users
                .iter()
                .zip(stamps)
                .filter(|(entry, stamp)| *stamp != Some(entry.stamp));
            missing.extend(absent.map(|(entry, _)| entry.clone()));
        }
        Ok(missing)
    }
}
