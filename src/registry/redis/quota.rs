//! What the fleet counts together: a set of ids by time for each limit of a user, one number for each rate. All of them
//! end by themselves.

use super::{
    super::{
        RegistryError,
        quota::{Admission, Draw, Drawn},
    },
    RedisRegistry, scripts,
};
use crate::limits;
use std::collections::HashMap;

impl RedisRegistry {
    /// What is of one user and limit is asked together.
    pub(super) async fn grant(&self, asked: &[Admission]) -> Result<Vec<bool>, RegistryError> {
        let mut grouped: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, one) in asked.iter().enumerate() {
            let key = self.keys.quota(one.limit, &one.user);
            grouped.entry(key).or_default().push(at);
        }
        let groups: Vec<(String, Vec<usize>)> = grouped.into_iter().collect();
        let mut granted = vec![false; asked.len()];
        for groups in groups.chunks(limits::REGISTRY_BATCH) {
            let mut pipeline = scripts::loading(scripts::ADMIT);
            for (key, members) in groups {
                let first = &asked[members[0]];
                scripts::evalsha(&mut pipeline, &scripts::ADMIT_HASH, key)
                    .arg(first.most)
                    .arg(first.window.as_millis() as u64);
                for at in members {
                    pipeline.arg(asked[*at].id.0.as_bytes());
                }
            }
            let answers: Vec<Vec<u32>> = self.link.query("admit", &pipeline).await?;
            for ((_, members), answers) in groups.iter().zip(answers) {
                for (at, answer) in members.iter().zip(answers) {
                    granted[*at] = answer == 1;
                }
            }
        }
        Ok(granted)
    }

    pub(super) async fn take(&self, draws: &[Draw]) -> Result<Vec<Drawn>, RegistryError> {
        let mut taken = Vec::with_capacity(draws.len());
        for draws in draws.chunks(limits::REGISTRY_BATCH) {
            let mut pipeline = scripts::loading(scripts::DRAW);
            for one in draws {
                scripts::evalsha(
                    &mut pipeline,
                    &scripts::DRAW_HASH,
                    &self.keys.rate(&one.name),
                )
                .arg(one.rate.each_us)
                .arg(one.rate.burst_us)
                .arg(one.wanted)
                .arg(u8::from(one.forced));
            }
            let answers: Vec<(u32, f64)> = self.link.query("draw", &pipeline).await?;
            let drawn = answers
                .into_iter()
                .map(|(taken, ahead_us)| Drawn { taken, ahead_us });
            taken.extend(drawn);
        }
        Ok(taken)
    }
}
