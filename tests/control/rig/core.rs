//! A core as a test plays it.

use super::until;
use herald::{
    envelope::Fate,
    gateway::{
        mailbox::{ConnId, Delivery, FromCore, ToCore},
        queues::Mail,
    },
    ids::NotificationId,
    position::Cursors,
};
use parking_lot::Mutex;

/// A core played by the test: takes messages when asked to, says what it is told to say.
pub struct Core {
    pub(super) number: u16,
    pub(super) mail: Mutex<Mail>,
    pub(super) seen: Mutex<Vec<ToCore>>,
}

impl Core {
    pub fn say(&self, message: FromCore) {
        let mut mail = self.mail.lock();
        mail.tell(message);
        assert!(mail.hand_over(), "control does not listen");
    }

    pub fn conn(&self, slot: u32) -> ConnId {
        ConnId {
            slot,
            core: self.number,
            reuse: 0,
        }
    }

    pub fn open(&self, slot: u32, user: &str, cursors: Option<Cursors>) -> ConnId {
        let conn = self.conn(slot);
        self.say(FromCore::Opened {
            conn,
            user: user.parse().unwrap(),
            cursors,
        });
        conn
    }

    pub fn fate(&self, ticket: u64, fate: Fate, devices: u32) {
        self.say(FromCore::Fate {
            ticket,
            fate,
            devices,
        });
    }

    /// The first message `pick` wants; those before it are dropped, those after it wait.
    pub async fn expect<T>(&self, what: &str, mut pick: impl FnMut(&ToCore) -> Option<T>) -> T {
        until(what, async || {
            let mut seen = self.seen.lock();
            seen.extend(std::iter::from_fn(|| self.mail.lock().receive()));
            while !seen.is_empty() {
                let message = seen.remove(0);
                if let Some(found) = pick(&message) {
                    return Some(found);
                }
            }
            None
        })
        .await
    }

    /// Everything that has come and was not looked at.
    pub fn take(&self) -> Vec<ToCore> {
        let mut seen = std::mem::take(&mut *self.seen.lock());
        seen.extend(std::iter::from_fn(|| self.mail.lock().receive()));
        seen
    }

    /// The next deliveries.
    pub async fn deliveries(&self) -> Vec<(u64, NotificationId, Vec<ConnId>)> {
        self.expect("deliveries", |message| match message {
            ToCore::Deliver(deliveries) => Some(deliveries.iter().map(summary).collect()),
            _ => None,
        })
        .await
    }

    /// Deliveries until `count` have come; each one's ticket and id.
    pub async fn delivered(&self, count: usize) -> Vec<(u64, NotificationId, Vec<ConnId>)> {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(self.deliveries().await);
        }
        all
    }

    /// The answer to a catch-up: whether it was complete, and the frame.
    pub async fn synced(&self, conn: ConnId) -> (bool, serde_json::Value) {
        self.expect("a sync answer", |message| match message {
            ToCore::Synced {
                conn: to,
                frame,
                complete,
                ..
            } if *to == conn => Some((*complete, serde_json::from_slice(frame).unwrap())),
            _ => None,
        })
        .await
    }

    pub async fn behind(&self, conn: ConnId) {
        self.expect("behind", |message| match message {
            ToCore::Behind { conn: to, .. } if *to == conn => Some(()),
            _ => None,
        })
        .await;
    }
}

fn summary(delivery: &Delivery) -> (u64, NotificationId, Vec<ConnId>) {
    (delivery.ticket, delivery.item.id, delivery.conns.to_vec())
}
