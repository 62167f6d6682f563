//! What is to happen by each channel that a notification was asked for, its user's preferences known.

use super::parse::{Parsed, What};
use crate::{
    bus::{Record, Target, Topic},
    dispatcher::{
        Rules,
        channel::topic_of,
        erasure,
        fallback::Link,
        preferences::Preferences,
        retry,
        store::{Attempted, SendState, Sending},
        templates::{RenderError, Subject, Templates},
    },
    envelope::{Channel, Content, Priority},
};
use bytes::Bytes;
use std::{collections::BTreeSet, time::Duration};

#[derive(Debug, Default)]
pub struct Plan {
    /// Channels that begin, each in its time.
    pub links: Vec<Link>,
    /// Those that never will, and why.
    ended: Vec<(Channel, SendState, &'static str)>,
    /// The user is not to be disturbed for so long.
    quiet: Option<Duration>,
    /// Of the user.
    locale: Option<String>,
}

impl Plan {
    /// `reached` are the channels beside in-app that anything sends by.
    pub fn make(
        parsed: &Parsed,
        rules: &Rules,
        reached: &BTreeSet<Channel>,
        wishes: &Preferences,
        now_ms: u64,
    ) -> Plan {
        let What::Notification(content) = &parsed.what else {
            return Plan::default();
        };
        let (priority, of_type) = (parsed.head.priority, &content.notification_type);
        let mandatory = rules.mandatory.is(priority, of_type);
        let reaches = |channel: Channel| channel == Channel::InApp || reached.contains(&channel);
        let allowed = |channel: Channel| mandatory || wishes.allow(of_type, channel);
        // Intake refuses it; what is a code may have been another thing when it was taken.
        let may_cost = priority == Priority::Critical || rules.chains.is_code(of_type);
        let barred = |channel: Channel| channel == Channel::Sms && !may_cost;
        let begins = |channel: Channel| reaches(channel) && !barred(channel) && allowed(channel);
        let ended = content.channels.iter().filter(|channel| !begins(**channel));
        let ended = ended.map(|channel| match reaches(*channel) {
            false => (*channel, SendState::Failed, "not_configured"),
            true if barred(*channel) => (*channel, SendState::Failed, "not_allowed"),
            true => (*channel, SendState::Skipped, "switched_off"),
        });
        let quiet = (!mandatory).then(|| wishes.quiet_for(now_ms));
        Plan {
            links: rules
                .chains
                .links(priority, of_type, &content.channels, begins),
            ended: ended.collect(),
            quiet: quiet.flatten(),
            locale: wishes.locale.clone(),
        }
    }

    /// What in-app shows and the inbox keeps, with its JSON; `None`: what was sent.
    pub fn shown(
        &self,
        parsed: &Parsed,
        templates: &Templates,
    ) -> Result<Option<(Content, Bytes)>, RenderError> {
        let content = match &parsed.what {
            What::Notification(content) if content.channels.contains(&Channel::InApp) => content,
            What::Notification(_) | What::Read(_) => return Ok(None),
        };
        let subject = Subject {
            head: &parsed.head,
            user: Some(&parsed.user),
            content,
        };
        let locale = self.locale.as_deref();
        let shown = templates.show(&subject, Channel::InApp, locale)?;
        shown.in_row()
    }

    pub fn goes_in_app(&self) -> bool {
        self.links.iter().any(|link| link.channel == Channel::InApp)
    }

    /// Whether it would begin now, and the user is not to be disturbed.
    fn holds(&self, link: &Link) -> Option<Duration> {
        let begins_now = matches!(link.after_s, None | Some(0));
        self.quiet
            .filter(|_| begins_now && link.channel != Channel::InApp)
    }

    /// Records of channels beside in-app, for their topics or, until their time, for a delay topic.
    pub fn records(&self, parsed: &Parsed, source: &Record) -> Vec<(Target, Record)> {
        let records = self.links.iter().filter_map(|link| {
            let topic = topic_of(link.channel)?;
            let head = parsed.head.clone();
            let mut record = head.into_record(source.key.clone(), source.value.clone());
            // Also what begins at once may come by a delay topic, which is of all channels.
            record.set("channel", link.channel.as_str());
            erasure::write_pos(&mut record, parsed.pos);
            link.write(&mut record);
            if let Some(locale) = &self.locale {
                record.set("locale", locale.clone());
            }
            let topic = match (self.holds(link), link.after_s) {
                (Some(quiet), _) => retry::towards(quiet),
                (None, None | Some(0)) => topic,
                (None, Some(after_s)) => Topic::Retry(after_s),
            };
            Some((Target::Keyed(topic), record))
        });
        records.collect()
    }

    /// What the delivery log is to say beside `pending`.
    pub fn attempts(&self, parsed: &Parsed, at_ms: u64) -> Vec<Attempted> {
        let held = self.links.iter().filter(|link| self.holds(link).is_some());
        let held = held.map(|link| (link.channel, SendState::Pending, "quiet_hours"));
        let said = self.ended.iter().copied().chain(held);
        said.map(|(channel, state, why)| Attempted {
            id: parsed.head.id,
            user: parsed.user.clone(),
            channel,
            state,
            devices: 0,
            sending: Sending {
                error: why.into(),
                ..Sending::default()
            },
            at_ms,
        })
        .collect()
    }
}
