//! Which channels a notification goes by, and when. `critical` goes by all at once; `high` and codes go by a chain: the
//! first link at once, each further one after its time, if no device acknowledged the notification by then.
//!
//! A later link is a record of its channel on the delay topic of its time, made together with the first: nothing has
//! to be kept between them. [`Check`] decides when its time is over.

mod check;
mod lags;

use crate::{
    bus::{RETRY_DELAYS_S, Record},
    config::{self, ConfigError},
    envelope::{Channel, Priority},
};
use std::{collections::BTreeSet, sync::Arc};

pub use check::{Check, Due};
pub use lags::Lags;

/// Header of what stands in a chain: after how many seconds it begins.
const AFTER_S: &str = "fallback_s";

/// A channel, and when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub channel: Channel,
    /// Seconds, 0 or one of [`RETRY_DELAYS_S`]. `None`: of no chain, so at once and whatever is acknowledged.
    pub after_s: Option<u32>,
}

/// The configured chains. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Chains {
    push_after_s: u32,
    email_after_s: u32,
    codes: Arc<BTreeSet<String>>,
}

impl Default for Chains {
    fn default() -> Chains {
        Chains::from_config(&config::Fallback::default()).expect("the defaults are in order")
    }
}

impl Chains {
    pub fn from_config(config: &config::Fallback) -> Result<Chains, ConfigError> {
        config.check()?;
        let times = [
            ("fallback.push_after_s", config.push_after_s),
            ("fallback.email_after_s", config.email_after_s),
        ];
        for (key, after_s) in times {
            if !RETRY_DELAYS_S.contains(&after_s) {
                let delays = RETRY_DELAYS_S.map(|delay| delay.to_string()).join(", ");
                let problem = format!("{after_s} is not allowed: one of {delays}");
                return Err(ConfigError::new(key, problem));
            }
        }
        Ok(Chains {
            push_after_s: config.push_after_s,
            email_after_s: config.email_after_s,
            codes: Arc::new(config.code_types.iter().cloned().collect()),
        })
    }

    /// Whether notifications of this type carry a code that its user waits for.
    pub fn is_code(&self, notification_type: &str) -> bool {
        self.codes.contains(notification_type)
    }

    /// What of the channels `asked` for begins when, of those that reach anybody. A link that does not is left out at
    /// once: the chain begins with the first that does.
    pub fn links(
        &self,
        priority: Priority,
        notification_type: &str,
        asked: &[Channel],
        reaches: impl Fn(Channel) -> bool,
    ) -> Vec<Link> {
        use Channel::{Email, InApp, Push, Sms};
        let order: &[Channel] = match priority {
            _ if self.is_code(notification_type) => &[Sms, Push, Email],
            Priority::High => &[InApp, Push, Email],
            Priority::Critical | Priority::Normal | Priority::Low => &[],
        };
        let is_open = |channel: &Channel| asked.contains(channel) && reaches(*channel);
        let chain = order.iter().copied().filter(is_open).enumerate();
        let chain = chain.map(|(at, channel)| Link {
            channel,
            after_s: Some(if at == 0 { 0 } else { self.after_s(channel) }),
        });
        let at_once = |channel: &Channel| !order.contains(channel) && reaches(*channel);
        let beside = asked.iter().copied().filter(at_once).map(|channel| Link {
            channel,
            after_s: None,
        });
        beside.chain(chain).collect()
    }

    fn after_s(&self, channel: Channel) -> u32 {
        match channel {
            // The first, wherever they stand in a chain.
            Channel::InApp | Channel::Sms => 0,
            Channel::Push => self.push_after_s,
            Channel::Email => self.email_after_s,
        }
    }
}

impl Link {
    /// Says in the record what it is a link of.
    pub fn write(&self, record: &mut Record) {
        if let Some(after_s) = self.after_s {
            record.set(AFTER_S, after_s.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Channel::{Email, InApp, Push, Sms};

    const ALL: [Channel; 4] = [InApp, Push, Email, Sms];

    fn links(
        priority: Priority,
        of_type: &str,
        reached: &[Channel],
    ) -> Vec<(Channel, Option<u32>)> {
        let chains = Chains::default();
        let links = chains.links(priority, of_type, &ALL, |channel| {
            reached.contains(&channel)
        });
        links
            .into_iter()
            .map(|link| (link.channel, link.after_s))
            .collect()
    }

    #[test]
    fn high_goes_in_app_then_by_push_after_30_s_and_by_e_mail_after_120_s() {
        let chain = links(Priority::High, "x", &[InApp, Push, Email]);
        assert_eq!(
            chain,
            [(InApp, Some(0)), (Push, Some(30)), (Email, Some(120))]
        );
    }

    #[test]
    fn critical_and_normal_go_by_all_their_channels_at_once() {
        for priority in [Priority::Critical, Priority::Normal, Priority::Low] {
            let all = links(priority, "x", &ALL);
            assert_eq!(all, ALL.map(|channel| (channel, None)), "{priority}");
        }
    }

    #[test]
    fn a_code_goes_by_sms_then_push_then_e_mail_whatever_its_priority() {
        for priority in [Priority::Critical, Priority::High, Priority::Normal] {
            let chain = links(priority, "two_factor", &ALL);
            let expected = [
                (InApp, None),
                (Sms, Some(0)),
                (Push, Some(30)),
                (Email, Some(120)),
            ];
            assert_eq!(chain, expected, "{priority}");
        }
    }

    #[test]
    fn a_link_that_reaches_nobody_is_passed_over_at_once() {
        let chain = links(Priority::Normal, "two_factor", &[Push, Email]);
        assert_eq!(chain, [(Push, Some(0)), (Email, Some(120))]);
        let chain = links(Priority::High, "x", &[Email]);
        assert_eq!(chain, [(Email, Some(0))]);
    }

    #[test]
    fn a_time_without_a_delay_topic_is_refused_by_name() {
        for (push_after_s, email_after_s, key) in [
            (31, 120, "fallback.push_after_s"),
            (30, 0, "fallback.email_after_s"),
            (120, 30, "fallback.email_after_s"),
        ] {
            let config = config::Fallback {
                push_after_s,
                email_after_s,
                ..config::Fallback::default()
            };
            let error = Chains::from_config(&config).unwrap_err();
            assert_eq!(error.key, key, "{error}");
        }
    }
}
