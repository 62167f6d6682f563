//! What one user has had enough of.

use super::Quotas;
use crate::{
    config,
    dispatcher::{
        store::{Attempted, SendState, Sending},
        unix_ms,
    },
    envelope::{Channel, Priority},
    ids::{NotificationId, UserId},
    registry::quota::Admission,
};
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The word for it in the delivery log.
pub const LIMITED: &str = "limited";

/// A notification that is to leave by a channel.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    pub channel: Channel,
    pub user: &'a UserId,
    pub id: NotificationId,
    pub priority: Priority,
    pub notification_type: &'a str,
}

impl Wanted<'_> {
    /// What the delivery log says of one that was not admitted.
    pub fn limited(&self) -> Attempted {
        Attempted {
            id: self.id,
            user: self.user.clone(),
            channel: self.channel,
            state: SendState::Skipped,
            devices: 0,
            sending: Sending {
                error: LIMITED.into(),
                ..Sending::default()
            },
            at_ms: unix_ms(),
        }
    }
}

impl Quotas {
    /// Which of these their users are to get, in the order asked. Asked again, the same is answered, as long as its hour
    /// lasts. `None`: what no limit is for.
    pub async fn admit(&self, wanted: &[Option<Wanted<'_>>]) -> Vec<bool> {
        let config = self.0.config.load_full();
        let mut admitted = vec![true; wanted.len()];
        // The day's first: what it refuses is to take nothing of the hour.
        let of_day = |one: &Wanted<'_>| marketing(&config, one);
        self.pass(wanted, &mut admitted, of_day).await;
        let is_code = |one: &Wanted<'_>| self.0.chains.is_code(one.notification_type);
        let of_hour = |one: &Wanted<'_>| hourly(&config, one, is_code(one));
        self.pass(wanted, &mut admitted, of_hour).await;
        admitted
    }

    /// Asks about those that are admitted so far and have such a limit.
    async fn pass(
        &self,
        wanted: &[Option<Wanted<'_>>],
        admitted: &mut [bool],
        limit: impl Fn(&Wanted<'_>) -> Option<Limit>,
    ) {
        let mut places = Vec::new();
        let mut asked = Vec::new();
        for (at, one) in wanted.iter().enumerate() {
            let open = one
                .as_ref()
                .filter(|one| one.priority != Priority::Critical);
            let Some(one) = open.filter(|_| admitted[at]) else {
                continue;
            };
            let Some(limit) = limit(one) else { continue };
            places.push((at, one.channel));
            asked.push(Admission {
                user: one.user.clone(),
                id: one.id,
                limit: limit.name,
                most: limit.most,
                window: limit.window,
            });
        }
        if asked.is_empty() {
            return;
        }
        let answers = self.0.admit(&asked).await;
        for (((at, channel), asked), is_admitted) in places.into_iter().zip(asked).zip(answers) {
            admitted[at] = is_admitted;
            if !is_admitted {
                let labels = [channel.as_str(), asked.limit];
                self.0.metrics.limited.with_label_values(&labels).inc();
            }
        }
    }
}

struct Limit {
    name: &'static str,
    most: u32,
    window: Duration,
}

fn hourly(config: &config::Limits, one: &Wanted<'_>, is_code: bool) -> Option<Limit> {
    let (name, most) = match one.channel {
        Channel::InApp => ("in_app", config.in_app_per_hour),
        Channel::Push => ("push", config.push_per_hour),
        Channel::Email => ("email", config.email_per_hour),
        Channel::Sms if is_code => ("sms_codes", config.sms_codes_per_hour),
        Channel::Sms => ("sms", config.sms_per_hour),
    };
    (most > 0).then_some(Limit {
        name,
        most,
        window: HOUR,
    })
}

fn marketing(config: &config::Limits, one: &Wanted<'_>) -> Option<Limit> {
    let mut types = config.marketing_types.iter();
    let is_of_them = one.channel == Channel::Email && types.any(|of| of == one.notification_type);
    (is_of_them && config.marketing_per_day > 0).then_some(Limit {
        name: "marketing",
        most: config.marketing_per_day,
        window: DAY,
    })
}
