//! Sums of what was spent: one key a channel and day, which ends by itself.

use super::{
    super::{RegistryError, Spend, Spent},
    RedisRegistry, scripts,
};
use crate::limits;

impl RedisRegistry {
    pub(super) async fn pay(&self, spend: &Spend) -> Result<Spent, RegistryError> {
        let mut pipeline = redis::pipe();
        let key = self.keys.spent(spend.channel, spend.day);
        let limit = spend
            .limit
            .map_or("none".to_owned(), |limit| limit.to_string());
        scripts::eval(&mut pipeline, scripts::SPEND, &key)
            .arg(spend.cost)
            .arg(limit)
            .arg(limits::SPENT_KEPT.as_millis() as u64);
        let (reply,): (scripts::Reply,) = self.link.query("spend", &pipeline).await?;
        let (code, _, total, _) = reply;
        Ok(Spent {
            granted: code == "granted",
            total,
        })
    }
}
