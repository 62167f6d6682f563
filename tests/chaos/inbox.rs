//! What storage holds at the end, by the interface an application uses.

use futures::StreamExt;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use testbed::Api;

/// Requests at once.
const AT_ONCE: usize = 16;
/// Acknowledgements are on their way as long as one look finds fewer missing than the one before.
const LOOKS: usize = 5;
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub struct Inboxes {
    by_user: BTreeMap<String, Inbox>,
}

#[derive(Default)]
pub struct Inbox {
    /// How often each id is there.
    pub times: BTreeMap<String, usize>,
    /// Newest position by stream.
    pub heads: BTreeMap<String, u64>,
}

impl Inboxes {
    pub async fn read(api: &Api, users: BTreeSet<String>) -> Inboxes {
        let read = futures::stream::iter(users).map(async |user| {
            let inbox = Inbox::read(api, &user).await;
            (user, inbox)
        });
        Inboxes {
            by_user: read.buffer_unordered(AT_ONCE).collect().await,
        }
    }

    pub fn of(&self, user: &str) -> &Inbox {
        &self.by_user[user]
    }

    pub fn all(&self) -> impl Iterator<Item = (&String, &Inbox)> {
        self.by_user.iter()
    }
}

impl Inbox {
    async fn read(api: &Api, user: &str) -> Inbox {
        let mut inbox = Inbox::default();
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/users/{user}/notifications?limit=100{cursor}");
            let page = api.fetch(&path).await;
            for item in page["items"].as_array().expect("a list") {
                inbox.take(item);
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return inbox,
            }
        }
    }

    fn take(&mut self, item: &Value) {
        let text = |name: &str| item[name].as_str().expect("a text").to_owned();
        *self.times.entry(text("id")).or_default() += 1;
        let pos = item["pos"].as_u64().expect("a position");
        let head = self.heads.entry(text("stream")).or_default();
        *head = pos.max(*head);
    }
}

/// Those that storage does not know to be acknowledged, once their number stands still. One that left with the
/// process it was sent to is not repeated.
pub async fn unacknowledged(
    api: &Api,
    mut waiting: Vec<(String, String)>,
) -> BTreeSet<(String, String)> {
    let mut still = 0;
    while still < LOOKS && !waiting.is_empty() {
        let before = waiting.len();
        let states = futures::stream::iter(waiting).map(async |(id, user)| {
            let state = api.state(&id, &user).await;
            (state != "delivered").then_some((id, user))
        });
        let left = states.buffer_unordered(AT_ONCE);
        waiting = left.filter_map(async |one| one).collect().await;
        still = if waiting.len() < before { 0 } else { still + 1 };
        tokio::time::sleep(LOOK_EVERY).await;
    }
    waiting.into_iter().collect()
}
