//! Text messages, by providers that speak Twilio's API.
//!
//! Invariants:
//! * a number is written to only in the form of E.164, whoever entered it;
//! * a number stays with its user whatever a provider says of it: it is the application's to change;
//! * what concerns the account and not the message (its token, its sender, its rate) never ends a message.

mod answer;
pub mod report;
mod segments;
mod token;

use super::{Answer, Message, Pace, Provider, REFUSED, http, push};
use crate::{
    config::{self, ConfigError},
    dispatcher::devices::{Device, DeviceKind},
    envelope::Content,
    ids::{NotificationId, UserId, is_e164},
    limits,
};
use async_trait::async_trait;
use form_urlencoded::Serializer;
use reqwest::{Client, header::CONTENT_TYPE};
use std::time::Duration;
use token::Tokens;

pub struct Sms {
    name: String,
    client: Client,
    host: String,
    /// Of `Messages.json`.
    url: String,
    account_sid: String,
    tokens: Tokens,
    /// Parameter and value: a number or name of ours, or a service that has several.
    sender: (&'static str, String),
    /// Where this API is reached from outside.
    callback_url: Option<String>,
    segments_max: u32,
    pace: Pace,
}

impl Sms {
    /// In their order; none without `sms.providers`. Files that keys name are read.
    pub fn from_config(config: &config::Sms) -> Result<Vec<Sms>, ConfigError> {
        config.check()?;
        let providers = config.providers.iter().enumerate();
        let providers = providers.map(|(at, provider)| {
            let key = |name: &str| format!("sms.providers[{at}].{name}");
            let section = format!("sms.providers[{at}]");
            let sender = match (&provider.from, &provider.messaging_service_sid) {
                (Some(from), _) => ("From", from.clone()),
                (None, sid) => ("MessagingServiceSid", sid.clone().unwrap_or_default()),
            };
            let (base, account) = (&provider.url, &provider.account_sid);
            let callback_url = config.callback_url.as_ref();
            Ok(Sms {
                name: provider.name.clone(),
                host: http::host(base).to_owned(),
                client: http::client(&section, provider.ca_file.as_deref(), config.at_once)?,
                url: format!("{base}/2010-04-01/Accounts/{account}/Messages.json"),
                account_sid: account.clone(),
                tokens: Tokens::from_file(key("auth_token_file"), &provider.auth_token_file)?,
                sender,
                callback_url: callback_url.map(|url| url.trim_end_matches('/').to_owned()),
                segments_max: config.segments_max,
                pace: Pace {
                    at_once: config.at_once,
                    per_s: config.per_s,
                    timeout: Duration::from_millis(config.timeout_ms),
                },
            })
        });
        providers.collect()
    }

    /// Whether the provider signed it for this notification and user.
    pub fn is_signed(
        &self,
        id: NotificationId,
        user: &UserId,
        pairs: &report::Pairs,
        signature: &str,
    ) -> bool {
        let Some(base) = &self.callback_url else {
            return false;
        };
        let url = report::url(base, &self.name, id, user);
        report::is_signed(&self.tokens.current(), &url, pairs, signature)
    }

    /// Parameters of the request.
    fn form(&self, message: &Message<'_>) -> Result<String, String> {
        let number = &message.device.address;
        if !is_e164(number) {
            return Err("its number is not in the form of E.164".into());
        }
        let text = text(message.content).ok_or("it has neither body nor title")?;
        let segments = segments::segments(text);
        if segments > self.segments_max {
            let most = self.segments_max;
            return Err(format!(
                "it takes {segments} text messages, and sms.segments_max is {most}"
            ));
        }
        let mut form = Serializer::new(String::new());
        form.append_pair("To", number);
        form.append_pair(self.sender.0, &self.sender.1);
        form.append_pair("Body", text);
        if let Some(ttl_s) = push::ttl_s(message.head) {
            let queued_s = ttl_s.clamp(1, limits::SMS_QUEUED_S);
            form.append_pair("ValidityPeriod", &queued_s.to_string());
        }
        if let Some(base) = &self.callback_url {
            let url = report::url(base, &self.name, message.head.id, &message.device.user);
            form.append_pair("StatusCallback", &url);
        }
        Ok(form.finish())
    }
}

/// What is shown: a text message has no title of its own.
fn text(content: &Content) -> Option<&str> {
    let text = content.body.as_deref().or(content.title.as_deref());
    text.filter(|text| !text.is_empty())
}

#[async_trait]
impl Provider for Sms {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> DeviceKind {
        DeviceKind::Sms
    }

    fn host(&self, _: &Device) -> &str {
        &self.host
    }

    /// An account that is refused may be replaced by another provider's.
    fn is_ill(&self, class: &str) -> bool {
        ["provider_away", REFUSED, "timeout"].contains(&class)
    }

    fn pace(&self) -> Pace {
        self.pace
    }

    fn units(&self, content: &Content) -> u32 {
        text(content).map_or(1, segments::segments)
    }

    async fn send(&self, message: &Message<'_>) -> Answer {
        let form = match self.form(message) {
            Ok(form) => form,
            Err(reason) => return Answer::unfit(reason),
        };
        let secret = self.tokens.current();
        let request = self
            .client
            .post(&self.url)
            .basic_auth(&self.account_sid, secret.alternatives().next())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form);
        match http::exchange(request).await {
            Ok((status, retry_after, body)) => answer::judge(status, retry_after, &body),
            Err(away) => away,
        }
    }
}
