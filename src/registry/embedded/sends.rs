//! Claims on sends, as [`super::super::sends`] has them. They end with the process: what it was about to send is then
//! read again and sent, and what it had sent without saying so is sent twice.

use super::super::{SendClaim, SendKey};
use crate::limits;
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

#[derive(Default)]
pub(super) struct Sends {
    pending: HashMap<SendKey, Pending>,
    /// Until when it is remembered.
    done: HashMap<SendKey, u64>,
    /// The same in the order in which they end.
    ending: VecDeque<(u64, SendKey)>,
}

struct Pending {
    owner: String,
    until_ms: u64,
}

impl Sends {
    pub(super) fn claim(
        &mut self,
        send: &SendKey,
        owner: &str,
        lease: Duration,
        now_ms: u64,
    ) -> SendClaim {
        self.forget(now_ms);
        if self.done.contains_key(send) {
            return SendClaim::Done;
        }
        if let Some(held) = self.pending.get(send)
            && held.until_ms > now_ms
        {
            let wait_ms = held.until_ms - now_ms;
            return SendClaim::Pending { wait_ms };
        }
        let claimed = Pending {
            owner: owner.to_owned(),
            until_ms: now_ms + lease.as_millis() as u64,
        };
        self.pending.insert(send.clone(), claimed);
        SendClaim::Ours
    }

    pub(super) fn finish(&mut self, send: &SendKey, now_ms: u64) {
        self.pending.remove(send);
        let until_ms = now_ms + limits::SEND_DONE.as_millis() as u64;
        self.done.insert(send.clone(), until_ms);
        self.ending.push_back((until_ms, send.clone()));
        self.forget(now_ms);
    }

    pub(super) fn release(&mut self, send: &SendKey, owner: &str) {
        if self
            .pending
            .get(send)
            .is_some_and(|held| held.owner == owner)
        {
            self.pending.remove(send);
        }
    }

    fn forget(&mut self, now_ms: u64) {
        let is_over = |ending: &VecDeque<(u64, SendKey)>| {
            let ends = ending.front().is_some_and(|(at, _)| *at <= now_ms);
            ends || ending.len() > limits::SENDS_REMEMBERED
        };
        while is_over(&self.ending) {
            let Some((until_ms, send)) = self.ending.pop_front() else {
                break;
            };
            // It may have been finished once more since.
            if self.done.get(&send) == Some(&until_ms) {
                self.done.remove(&send);
            }
        }
        if self.pending.len() >= limits::SENDS_REMEMBERED {
            self.pending.retain(|_, held| held.until_ms > now_ms);
        }
    }
}
