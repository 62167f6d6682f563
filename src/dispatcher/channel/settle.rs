//! What follows from one attempt at all of a user's devices: a pure function of their answers.

use super::parcel::Tried;
use crate::{
    bus::Topic,
    dispatcher::{
        quota::LIMITED,
        retry::{self, Next},
        spending::OVER_BUDGET,
        store::{SendState, Sending},
        templates::RenderError,
    },
    envelope::Head,
    ids::DeviceId,
};
use std::time::Duration;

/// How one device fared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    Sent {
        provider_id: String,
    },
    /// By an attempt whose end was not recorded.
    SentBefore,
    Later {
        class: &'static str,
        reason: String,
        after: Option<Duration>,
    },
    /// Another has it now, for so long; or its providers are left alone for so long; or nobody could begin with it in
    /// time, or before this process leaves.
    Elsewhere {
        /// Why, if somebody should know; else empty.
        class: &'static str,
        wait: Duration,
    },
    Never {
        class: &'static str,
        reason: String,
    },
    /// The device is no more: there is nothing to try again, or to set aside.
    Gone,
    /// Nobody writes to this address any more: as above.
    Suppressed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    pub state: SendState,
    /// What was tried by now; its open devices are those that go on.
    pub tried: Tried,
    pub sending: Sending,
    /// The delay topic that the open devices go to.
    pub again: Option<Topic>,
    pub dead: Option<Dead>,
}

/// For `dlq`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// `permanent`, `exhausted`, `expired` or `template`.
    pub cause: &'static str,
    /// Classes by device: what a log may show.
    pub reason: String,
    /// In the providers' words, which may name an address.
    pub said: String,
    pub devices: Vec<DeviceId>,
}

/// `at_ms` is when the attempt began.
pub fn settle(
    head: &Head,
    before: &Tried,
    reached: Vec<(DeviceId, Reached)>,
    at_ms: u64,
    now_ms: u64,
) -> Settled {
    let mut sorted = Sorted::default();
    for (device, reached) in reached {
        sorted.add(device, reached);
    }
    let attempts = before.attempts + u32::from(sorted.is_attempt);
    let (mut again, mut open, mut cause) = (None, Vec::new(), None);
    if !sorted.elsewhere.is_empty() {
        again = Some(retry::aside(sorted.wait));
        open.append(&mut sorted.elsewhere);
    }
    if !sorted.later.is_empty() {
        let after = sorted.after.max(again.is_some().then_some(sorted.wait));
        match retry::next(head.priority, attempts, after, head.expires_ms, now_ms) {
            Next::Wait(topic) => {
                again = Some(topic);
                open.append(&mut sorted.later);
            }
            Next::Exhausted => {
                cause = Some("exhausted");
                sorted.never.append(&mut sorted.later);
            }
        }
    }
    let sent = before.sent + sorted.sent;
    let state = match (sent, again) {
        (0, Some(_)) => SendState::Pending,
        (0, None) => SendState::Failed,
        _ => SendState::Sent,
    };
    let began_ms = match before.began_ms {
        0 if sorted.is_attempt => at_ms,
        began_ms => began_ms,
    };
    Settled {
        state,
        sending: Sending {
            attempts,
            began_ms,
            error: sorted.error.to_owned(),
            reference: sorted.reference,
        },
        tried: Tried {
            attempts,
            began_ms,
            sent,
            open: Some(open),
            over_budget: before.over_budget || sorted.over_budget,
        },
        again,
        dead: (!sorted.never.is_empty()).then(|| Dead {
            cause: cause.unwrap_or("permanent"),
            reason: sorted.reasons.join("; "),
            said: sorted.said.join("; "),
            devices: sorted.never,
        }),
    }
}

/// Ends a notification that nobody is to be sent any more. What was tried before is set aside.
pub fn end(before: &Tried, class: &'static str, cause: Option<&'static str>) -> Settled {
    Settled {
        state: match before.sent {
            0 => SendState::Failed,
            _ => SendState::Sent,
        },
        sending: Sending {
            attempts: before.attempts,
            began_ms: before.began_ms,
            error: class.to_owned(),
            reference: String::new(),
        },
        tried: before.clone(),
        again: None,
        dead: cause.map(|cause| Dead {
            cause,
            reason: class.to_owned(),
            said: String::new(),
            devices: before.open.clone().unwrap_or_default(),
        }),
    }
}

/// Ends one of a user who had enough of this channel for now.
pub fn limited(before: &Tried) -> Settled {
    Settled {
        state: SendState::Skipped,
        ..end(before, LIMITED, None)
    }
}

/// Ends one whose template fails: it would again, until somebody mends it and replays the record.
pub fn unshown(before: &Tried, error: &RenderError) -> Settled {
    let mut settled = end(before, "template", Some("template"));
    if let Some(dead) = &mut settled.dead {
        dead.reason = error.to_string();
        dead.said.clone_from(&error.reason);
    }
    settled
}

#[derive(Default)]
struct Sorted {
    sent: u32,
    reference: String,
    later: Vec<DeviceId>,
    after: Option<Duration>,
    elsewhere: Vec<DeviceId>,
    wait: Duration,
    never: Vec<DeviceId>,
    reasons: Vec<String>,
    said: Vec<String>,
    /// Class of the last error.
    error: &'static str,
    /// A provider was asked.
    is_attempt: bool,
    over_budget: bool,
}

impl Sorted {
    fn add(&mut self, device: DeviceId, reached: Reached) {
        self.is_attempt |= !matches!(
            reached,
            Reached::SentBefore | Reached::Elsewhere { .. } | Reached::Suppressed
        );
        match reached {
            Reached::Sent { provider_id } => {
                self.sent += 1;
                self.reference = provider_id;
            }
            Reached::SentBefore => self.sent += 1,
            Reached::Elsewhere { class, wait } => {
                if !class.is_empty() {
                    self.error = class;
                }
                self.over_budget |= class == OVER_BUDGET;
                self.elsewhere.push(device);
                self.wait = self.wait.max(wait);
            }
            Reached::Later {
                class,
                reason,
                after,
            } => {
                self.went_wrong(&device, class, &reason);
                self.later.push(device);
                self.after = self.after.max(after);
            }
            Reached::Never { class, reason } => {
                self.went_wrong(&device, class, &reason);
                self.never.push(device);
            }
            Reached::Gone => self.error = "gone",
            // What befell another address says more.
            Reached::Suppressed if self.error.is_empty() => self.error = "suppressed",
            Reached::Suppressed => {}
        }
    }

    fn went_wrong(&mut self, device: &DeviceId, class: &'static str, reason: &str) {
        self.error = class;
        self.reasons.push(format!("{device}: {class}"));
        self.said.push(format!("{device}: {reason}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        envelope::{Kind, Priority},
        ids::NotificationId,
    };

    fn head(priority: Priority) -> Head {
        Head {
            kind: Kind::Notification,
            id: NotificationId::generate(),
            created_ms: 5,
            expires_ms: None,
            priority,
            region: "local".into(),
            again: false,
        }
    }

    fn devices(reached: &[Reached]) -> Vec<(DeviceId, Reached)> {
        let device = |at: usize| -> DeviceId { format!("d{at}").parse().unwrap() };
        let reached = reached.iter().cloned().enumerate();
        reached.map(|(at, reached)| (device(at), reached)).collect()
    }

    fn ids(names: &[&str]) -> Vec<DeviceId> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn settled(priority: Priority, before: &Tried, reached: &[Reached]) -> Settled {
        settle(&head(priority), before, devices(reached), 100, 200)
    }

    fn sent() -> Reached {
        Reached::Sent {
            provider_id: "q1".into(),
        }
    }

    fn later() -> Reached {
        Reached::Later {
            class: "deferred",
            reason: "451 busy".into(),
            after: None,
        }
    }

    fn never() -> Reached {
        Reached::Never {
            class: "rejected",
            reason: "550 unknown".into(),
        }
    }

    fn elsewhere(seconds: u64) -> Reached {
        Reached::Elsewhere {
            class: "",
            wait: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn what_every_device_got_is_sent_and_ends() {
        let end = settled(
            Priority::Normal,
            &Tried::default(),
            &[sent(), Reached::SentBefore],
        );
        assert_eq!(end.state, SendState::Sent);
        assert_eq!((end.tried.sent, end.tried.attempts), (2, 1));
        assert_eq!((end.again, end.dead), (None, None));
        assert_eq!(end.sending.reference, "q1");
        assert_eq!(end.sending.began_ms, 100);
    }

    #[test]
    fn only_the_devices_that_failed_are_tried_again() {
        let end = settled(
            Priority::Normal,
            &Tried::default(),
            &[sent(), later(), later()],
        );
        assert_eq!(end.state, SendState::Sent);
        assert_eq!(end.again, Some(Topic::Retry(60)));
        assert_eq!(end.tried.open, Some(ids(&["d1", "d2"])));
        assert_eq!(end.sending.error, "deferred");
        let second = settled(Priority::Normal, &end.tried, &[later()]);
        assert_eq!(second.state, SendState::Sent);
        assert_eq!(second.tried.attempts, 2);
        assert_eq!(second.again, Some(Topic::Retry(900)));
        assert_eq!(second.sending.began_ms, 100, "that of the first");
    }

    #[test]
    fn what_no_device_got_is_pending_while_it_is_tried_and_failed_then() {
        let mut tried = Tried::default();
        for delay_s in [10, 30, 120, 600, 1800] {
            let end = settled(Priority::High, &tried, &[later()]);
            assert_eq!(end.state, SendState::Pending);
            assert_eq!(end.again, Some(Topic::Retry(delay_s)));
            tried = end.tried;
        }
        let end = settled(Priority::High, &tried, &[later()]);
        assert_eq!(end.state, SendState::Failed);
        assert_eq!(end.again, None);
        let dead = end.dead.unwrap();
        assert_eq!(dead.cause, "exhausted");
        assert_eq!(dead.devices, ids(&["d0"]));
        assert_eq!(dead.reason, "d0: deferred");
        assert_eq!(dead.said, "d0: 451 busy");
        assert_eq!(end.sending.attempts, 6);
    }

    #[test]
    fn low_is_not_tried_again() {
        let end = settled(Priority::Low, &Tried::default(), &[later()]);
        assert_eq!(end.state, SendState::Failed);
        assert_eq!(end.dead.unwrap().cause, "exhausted");
    }

    #[test]
    fn what_never_works_is_dead_at_once_and_the_others_go_on() {
        let end = settled(Priority::Normal, &Tried::default(), &[never(), later()]);
        assert_eq!(end.state, SendState::Pending);
        assert_eq!(end.tried.open, Some(ids(&["d1"])));
        let dead = end.dead.unwrap();
        assert_eq!((dead.cause, dead.devices), ("permanent", ids(&["d0"])));
    }

    #[test]
    fn what_another_has_waits_for_it_and_counts_as_no_attempt() {
        let end = settled(Priority::Low, &Tried::default(), &[elsewhere(12)]);
        assert_eq!(end.state, SendState::Pending);
        assert_eq!(end.again, Some(Topic::Retry(15)));
        assert_eq!((end.tried.attempts, end.tried.began_ms), (0, 0));
        assert_eq!(end.tried.open, Some(ids(&["d0"])));
    }

    #[test]
    fn what_another_has_is_not_given_up_with_what_is_exhausted() {
        let end = settled(Priority::Low, &Tried::default(), &[later(), elsewhere(2)]);
        assert_eq!(end.state, SendState::Pending);
        assert_eq!(end.again, Some(Topic::Retry(5)));
        assert_eq!(end.tried.open, Some(ids(&["d1"])));
        assert_eq!(end.dead.unwrap().devices, ids(&["d0"]));
    }

    #[test]
    fn a_device_that_is_gone_leaves_nothing_to_do() {
        let end = settled(Priority::Normal, &Tried::default(), &[Reached::Gone]);
        assert_eq!(
            (end.state, end.again, end.dead),
            (SendState::Failed, None, None)
        );
        assert_eq!(
            (end.sending.error.as_str(), end.sending.attempts),
            ("gone", 1)
        );
        let end = settled(
            Priority::Normal,
            &Tried::default(),
            &[sent(), Reached::Gone],
        );
        assert_eq!(end.state, SendState::Sent);
    }

    #[test]
    fn an_address_that_is_suppressed_is_no_attempt_and_hides_no_other_fate() {
        let settled = |reached: &[Reached]| settled(Priority::Normal, &Tried::default(), reached);
        let end = settled(&[Reached::Suppressed]);
        assert_eq!(
            (end.state, end.again, end.dead),
            (SendState::Failed, None, None)
        );
        let sending = end.sending;
        assert_eq!(
            (sending.error.as_str(), sending.attempts),
            ("suppressed", 0)
        );
        let end = settled(&[never(), Reached::Suppressed]);
        assert_eq!(end.sending.error, "rejected");
        let end = settled(&[Reached::Suppressed, sent()]);
        assert_eq!((end.state, end.tried.sent), (SendState::Sent, 1));
        let end = settled(&[Reached::Suppressed, later()]);
        assert_eq!(
            (end.state, end.tried.open),
            (SendState::Pending, Some(ids(&["d1"])))
        );
    }

    #[test]
    fn the_longest_wait_that_anybody_asks_for_counts() {
        let asked = Reached::Later {
            class: "deferred",
            reason: String::new(),
            after: Some(Duration::from_secs(200)),
        };
        let end = settled(
            Priority::Critical,
            &Tried::default(),
            &[later(), asked, elsewhere(2)],
        );
        assert_eq!(end.again, Some(Topic::Retry(300)));
        assert_eq!(end.tried.open.unwrap().len(), 3);
    }
}
