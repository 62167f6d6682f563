//! The channels beside in-app. One loop serves all of them ([`ChannelReader`]); what differs is behind [`Provider`].
//!
//! The path of a record: room for it ([`Out`]) → its user's devices → a claim for each → it is paid → the provider →
//! the claim is done → the delivery log → a delay topic for what may work later, `dlq` for what will not → the commit.
//!
//! Invariants:
//! * a process may die anywhere on the path: nothing is suppressed, and a device gets a notification twice only if it
//!   died between the provider's answer and the claim's end;
//! * a provider that fails is left alone ([`Breakers`]): what would go by it goes by the next of its kind, or waits without
//!   that it counts as an attempt;
//! * a provider that is slow has its own notifications wait, and no other's: those make way that would;
//! * of several devices each is sent to, claimed and tried again apart from the others;
//! * what a provider reports of what it took is noted where its signature says that it is the provider's word;
//! * with the registry away there are no claims, and sends go on: what is sent twice then was read twice.

mod apns;
mod breaker;
pub mod email;
mod fcm;
mod gone;
mod http;
mod metrics;
mod out;
mod parcel;
mod push;
mod reader;
mod sealed;
mod sender;
mod settle;
mod sms;
pub mod web_push;
mod worker;

use super::{
    devices::{Device, DeviceKind},
    fallback::Chains,
    intake::request::Refusal,
    spending::Spending,
};
use crate::{
    config::{self, ConfigError},
    envelope::{Channel, Content, Head},
    limits,
    metrics::Metrics,
    registry::SharedRegistry,
};
use async_trait::async_trait;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

use apns::Apns;
use email::{Smtp, events::Events, unsubscribe::Unsubscribe};
use fcm::Fcm;
use gone::Usual;
use sms::Sms;
use web_push::WebPush;

pub use breaker::Breakers;
pub use metrics::ChannelMetrics;
pub use out::Out;
pub use parcel::{Parcel, topic_of};
pub use reader::ChannelReader;
pub use sender::{Places, Sender};
pub use sms::report;
pub use worker::ChannelWorker;

/// Class of errors of a provider that refuses us, by our key, account or sender: no message is to blame.
const REFUSED: &str = "provider_refused";

/// Hands notifications over to whoever reaches one kind of device.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// Label of metrics.
    fn name(&self) -> &str;

    fn kind(&self) -> DeviceKind;

    /// Who is asked for a device: one of few that the configuration names. Each fails apart.
    fn host(&self, device: &Device) -> &str;

    /// Whether a class of errors says that the provider fails, and not the message: then it is left alone, and another of
    /// its kind is asked.
    fn is_ill(&self, class: &str) -> bool {
        ["provider_away", "relay_away", "relay_refused", "timeout"].contains(&class)
    }

    fn pace(&self) -> Pace;

    /// What it is paid by: parts of a text message, else 1.
    fn units(&self, _: &Content) -> u32 {
        1
    }

    /// How often it calls devices gone, usually; `None`: it does not.
    fn usual(&self) -> Option<Usual> {
        None
    }

    async fn send(&self, message: &Message<'_>) -> Answer;
}

/// How much is sent by a provider.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Sends at the same time, at most.
    pub at_once: usize,
    /// Sends a second of the whole fleet, at most; 0: as many as go.
    pub per_s: u32,
    /// When a send without an answer has failed. It is dropped then.
    pub timeout: Duration,
}

/// One notification for one device.
pub struct Message<'a> {
    pub head: &'a Head,
    /// As the channel shows it.
    pub content: &'a Content,
    /// Beside the text, for who can show it.
    pub html: Option<&'a str>,
    /// Its user may switch the likes of it off.
    pub is_optional: bool,
    pub device: &'a Device,
}

/// What a provider made of a message. Classes are words from a closed list, reasons are for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With the provider's own name for it.
    Sent { provider_id: String },
    /// It may work later: after `retry_after`, if the provider said so.
    Transient {
        class: &'static str,
        reason: String,
        retry_after: Option<Duration>,
    },
    /// It never will.
    Permanent { class: &'static str, reason: String },
    /// The device is no more: it is forgotten, if the provider is believed.
    Gone,
}

impl Answer {
    /// By this name, of which a bounded part is kept.
    fn sent(name: &str) -> Answer {
        Answer::Sent {
            provider_id: name.chars().take(limits::PROVIDER_ID_CHARS).collect(),
        }
    }

    /// No device could take such a message from us.
    fn unfit(reason: String) -> Answer {
        Answer::Permanent {
            class: "unfit",
            reason,
        }
    }
}

/// An answer of a provider that lets us in by a token.
enum Judged {
    Answer(Answer),
    /// Our token is not taken, or not any more: with another it may be.
    TokenRefused(Answer),
}

/// The providers that are configured.
#[derive(Clone, Default)]
pub struct Channels {
    providers: Vec<Arc<dyn Provider>>,
    smtp: Option<Arc<Smtp>>,
    email_events: Option<Arc<Events>>,
    web_push: Option<Arc<WebPush>>,
    sms: Vec<Arc<Sms>>,
    breaker: config::Breaker,
    budgets: config::Budgets,
}

impl Channels {
    pub fn from_config(config: &config::Channels) -> Result<Channels, ConfigError> {
        config.breaker.check()?;
        config.budgets.check()?;
        let mut channels = Channels {
            breaker: config.breaker.clone(),
            budgets: config.budgets.clone(),
            smtp: Smtp::from_config(&config.email)?.map(Arc::new),
            email_events: Events::from_config(&config.email)?.map(Arc::new),
            web_push: WebPush::from_config(&config.web_push)?.map(Arc::new),
            ..Channels::default()
        };
        channels.add(channels.smtp.clone());
        channels.add(channels.web_push.clone());
        channels.add(Fcm::from_config(&config.fcm)?.map(Arc::new));
        channels.add(Apns::from_config(&config.apns)?.map(Arc::new));
        for sms in Sms::from_config(&config.sms)? {
            let sms = Arc::new(sms);
            channels.sms.push(sms.clone());
            channels.add(Some(sms));
        }
        Ok(channels)
    }

    /// Reads the keys again that may be replaced while we run.
    pub fn reload(&self, config: &config::Channels) -> Result<(), ConfigError> {
        if let Some(events) = &self.email_events {
            events.reload(&config.email)?;
        }
        match &self.smtp {
            Some(smtp) => smtp.reload(&config.email),
            None => Ok(()),
        }
    }

    fn add(&mut self, provider: Option<Arc<impl Provider>>) {
        let provider = provider.map(|provider| provider as Arc<dyn Provider>);
        self.providers.extend(provider);
    }

    /// Who tells of mails that came back, where anybody does.
    pub fn email_events(&self) -> Option<&Events> {
        self.email_events.as_deref()
    }

    /// What links in mails say, where they have any.
    pub fn unsubscribe(&self) -> Option<&Unsubscribe> {
        self.smtp.as_ref()?.unsubscribe()
    }

    /// What pages subscribe with, where they can.
    pub fn web_push_key(&self) -> Option<&str> {
        self.web_push.as_ref().map(|push| push.public_key())
    }

    /// The provider of text messages that has this name.
    pub fn sms(&self, name: &str) -> Option<&Arc<Sms>> {
        self.sms.iter().find(|provider| provider.name() == name)
    }

    /// Whether a device can be one of ours.
    pub fn accept(&self, device: &Device) -> Result<(), Refusal> {
        let kind = device.kind;
        // An address may be entered before there is a relay; of a token nobody would ever say that it is gone.
        let is_served = self
            .providers
            .iter()
            .any(|provider| provider.kind() == kind);
        if kind.channel() == Channel::Push && !is_served {
            let problem = format!("{0} is not configured here: see [{0}]", kind.as_str());
            return Err(Refusal::field("kind", problem));
        }
        match (kind, &self.web_push) {
            (DeviceKind::WebPush, Some(push)) => push
                .accept(&device.address)
                .map_err(|problem| Refusal::field("subscription.endpoint", problem)),
            _ => Ok(()),
        }
    }

    /// For all of them.
    pub fn breakers(&self, metrics: &Metrics) -> Breakers {
        Breakers::new((&self.breaker).into(), metrics)
    }

    /// Everything that is counted by provider is there before its first.
    pub fn begin(&self, metrics: &ChannelMetrics) {
        for provider in &self.providers {
            metrics.begin(provider.as_ref());
        }
    }

    /// What they cost, and may cost.
    pub fn spending(
        &self,
        chains: Chains,
        registry: SharedRegistry,
        metrics: &Metrics,
    ) -> Spending {
        Spending::new(&self.budgets, chains, registry, metrics)
    }

    /// Those that reach anybody.
    pub fn configured(&self) -> BTreeSet<Channel> {
        let channels = self
            .providers
            .iter()
            .map(|provider| provider.kind().channel());
        channels.collect()
    }

    fn of(&self, channel: Channel) -> impl Iterator<Item = &Arc<dyn Provider>> {
        let providers = self.providers.iter();
        providers.filter(move |provider| provider.kind().channel() == channel)
    }
}
