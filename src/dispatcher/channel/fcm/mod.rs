//! Firebase Cloud Messaging, HTTP v1: apps on Android, and whatever else a project's tokens stand for.
//!
//! Invariants:
//! * a token is deleted only when FCM's own error code says that it is no more, never for a status or a sentence;
//! * what concerns the project and not the message (its account, its quota, its keys to others) never ends a message.

mod account;
mod answer;
mod message;

use super::{Answer, Judged, Message, Pace, Provider, gone::Usual, http};
use crate::{
    config::{self, ConfigError},
    dispatcher::devices::{Device, DeviceKind},
};
use account::Account;
use async_trait::async_trait;
use reqwest::{Client, header::CONTENT_TYPE};
use std::time::Duration;

pub struct Fcm {
    client: Client,
    account: Account,
    host: String,
    /// Of `messages:send`.
    url: String,
    is_dry_run: bool,
    pace: Pace,
    usual: Usual,
}

impl Fcm {
    /// `None` without an account. Files that keys name are read.
    pub fn from_config(config: &config::Fcm) -> Result<Option<Fcm>, ConfigError> {
        config.check()?;
        let Some(file) = &config.service_account_file else {
            return Ok(None);
        };
        let client = http::client("fcm", config.ca_file.as_deref(), config.at_once)?;
        let timeout = Duration::from_millis(config.timeout_ms);
        let (account, projects) = Account::from_file(client.clone(), file, timeout / 2)?;
        let project = config.project_id.as_ref().unwrap_or(&projects);
        Ok(Some(Fcm {
            url: format!("{}/v1/projects/{project}/messages:send", config.url),
            host: http::host(&config.url).to_owned(),
            client,
            account,
            is_dry_run: config.dry_run,
            pace: Pace {
                at_once: config.at_once,
                per_s: config.per_s,
                timeout,
            },
            usual: Usual {
                percent_max: config.gone_percent_max,
                window: config.gone_window,
                suspects: "Are fcm.service_account_file and fcm.project_id those of the app, and fcm.url Google's?",
            },
        }))
    }

    async fn ask(&self, body: Vec<u8>, token: &str) -> Judged {
        let request = self
            .client
            .post(&self.url)
            .bearer_auth(token)
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        match http::exchange(request).await {
            Ok((status, retry_after, body)) => answer::judge(status, retry_after, &body),
            Err(away) => Judged::Answer(away),
        }
    }
}

#[async_trait]
impl Provider for Fcm {
    fn name(&self) -> &str {
        "fcm"
    }

    fn kind(&self) -> DeviceKind {
        DeviceKind::Fcm
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
        let body = match message::write(message, self.is_dry_run) {
            Ok(body) => body,
            Err(reason) => return Answer::unfit(reason),
        };
        let mut is_first = true;
        loop {
            let token = match self.account.token().await {
                Ok(token) => token,
                Err(answer) => return answer,
            };
            match self.ask(body.clone(), &token).await {
                Judged::TokenRefused(_) if is_first => self.account.forget(&token),
                Judged::Answer(answer) | Judged::TokenRefused(answer) => return answer,
            }
            is_first = false;
        }
    }
}
