//! Apple Push Notification service: apps on Apple's devices.
//!
//! Invariants:
//! * a token is deleted only for a reason that says that it is no more, and not if it was entered anew since;
//! * what concerns us and not the message (our key, our topic, how much we send) never ends a message.

mod answer;
mod message;
mod pool;
mod token;

use super::{Answer, Judged, Message, Pace, Provider, REFUSED, gone::Usual};
use crate::{
    config::{self, ConfigError},
    dispatcher::devices::{Device, DeviceKind},
};
use async_trait::async_trait;
use http::header::AUTHORIZATION;
use pool::{Away, Pool};
use std::time::Duration;
use token::Signer;

pub struct Apns {
    pool: Pool,
    signer: Signer,
    /// Without the port, where it is the usual one.
    host: String,
    topic: String,
    pace: Pace,
    usual: Usual,
}

impl Apns {
    /// `None` without a key. Files that keys name are read.
    pub fn from_config(config: &config::Apns) -> Result<Option<Apns>, ConfigError> {
        config.check()?;
        let (Some(key_file), Some(key_id), Some(team_id), Some(topic)) = (
            &config.key_file,
            &config.key_id,
            &config.team_id,
            &config.topic,
        ) else {
            return Ok(None);
        };
        let address = config.address.as_str();
        Ok(Some(Apns {
            pool: Pool::new(address, config.ca_file.as_deref(), config.connections)?,
            signer: Signer::from_file(key_file, key_id, team_id)?,
            host: address.strip_suffix(":443").unwrap_or(address).to_owned(),
            topic: topic.clone(),
            pace: Pace {
                at_once: config.at_once,
                per_s: config.per_s,
                timeout: Duration::from_millis(config.timeout_ms),
            },
            usual: Usual {
                percent_max: config.gone_percent_max,
                window: config.gone_window,
                suspects: "Are apns.address (production or sandbox) and apns.topic those of the app?",
            },
        }))
    }

    /// By this token, and by another if it is refused.
    async fn ask(
        &self,
        request: http::Request<http_body_util::Full<bytes::Bytes>>,
        entered_ms: u64,
    ) -> Result<Answer, Answer> {
        let mut token = self.signer.token().map_err(unsigned)?;
        let mut is_first = true;
        loop {
            let mut signed = request.clone();
            let header = token.header.clone();
            signed.headers_mut().insert(AUTHORIZATION, header);
            let response = self.pool.send(signed).await.map_err(away)?;
            let refused = match answer::judge(&response, entered_ms) {
                Judged::Answer(answer) => return Ok(answer),
                Judged::TokenRefused(answer) => answer,
            };
            let other = self.signer.replace(&token);
            match other.map_err(unsigned)? {
                Some(other) if is_first => token = other,
                _ => return Ok(refused),
            }
            is_first = false;
        }
    }
}

fn unsigned(error: ConfigError) -> Answer {
    Answer::Transient {
        class: REFUSED,
        reason: error.to_string(),
        retry_after: None,
    }
}

fn away(Away(reason): Away) -> Answer {
    Answer::Transient {
        class: "provider_away",
        reason,
        retry_after: None,
    }
}

#[async_trait]
impl Provider for Apns {
    fn name(&self) -> &str {
        "apns"
    }

    fn kind(&self) -> DeviceKind {
        DeviceKind::Apns
    }

    fn host(&self, _: &Device) -> &str {
        &self.host
    }

    fn pace(&self) -> Pace {
        self.pace
    }

    fn usual(&self) -> Option<Usual> {
        Some(self.usual)
    }

    async fn send(&self, message: &Message<'_>) -> Answer {
        let request = match message::write(message, &self.host, &self.topic) {
            Ok(request) => request,
            Err(reason) => return Answer::unfit(reason),
        };
        let asked = self.ask(request, message.device.updated_ms).await;
        asked.unwrap_or_else(|answer| answer)
    }
}
