//! Claims on sends: one key each, which ends by itself. Its value is the owner, or [`DONE`].

use super::{
    super::{RegistryError, SendClaim, SendKey},
    RedisRegistry, scripts,
};
use crate::limits;
use std::time::Duration;

/// No owner has this name: theirs are random and longer.
const DONE: &str = "done";

impl RedisRegistry {
    pub(super) async fn claim(
        &self,
        send: &SendKey,
        owner: &str,
        lease: Duration,
    ) -> Result<SendClaim, RegistryError> {
        let mut pipeline = redis::pipe();
        scripts::eval(&mut pipeline, scripts::CLAIM_SEND, &self.keys.send(send))
            .arg(owner)
            .arg(ms(lease))
            .arg(DONE);
        let (reply,): (scripts::Reply,) = self.link.query("claim_send", &pipeline).await?;
        let (code, .., wait_ms) = reply;
        Ok(match code.as_str() {
            "granted" => SendClaim::Ours,
            "done" => SendClaim::Done,
            _ => SendClaim::Pending { wait_ms },
        })
    }

    pub(super) async fn finish(&self, send: &SendKey) -> Result<(), RegistryError> {
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("SET")
            .arg(self.keys.send(send))
            .arg(DONE)
            .arg("PX")
            .arg(ms(limits::SEND_DONE))
            .ignore();
        self.link.query("finish_send", &pipeline).await
    }

    pub(super) async fn give_back(&self, send: &SendKey, owner: &str) -> Result<(), RegistryError> {
        let mut pipeline = redis::pipe();
        scripts::eval(&mut pipeline, scripts::RELEASE_SEND, &self.keys.send(send)).arg(owner);
        self.decide("release_send", &pipeline).await.map(drop)
    }
}

fn ms(time: Duration) -> u64 {
    time.as_millis() as u64
}
