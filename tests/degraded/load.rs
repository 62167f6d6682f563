//! Producers under way, and the account of what they were promised.

use crate::{USERS, WAIT, World};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use testbed::{Fleet, fleet::API_KEY};
use tokio::task::JoinHandle;

/// One notification that was answered 202.
#[derive(Clone)]
pub struct Accepted {
    pub user: usize,
    pub id: String,
    pub spooled: bool,
    pub critical: bool,
    pub posted: Instant,
    pub answered: Instant,
}

/// Producers that post without pause, of mixed priority, until stopped.
pub struct Load {
    accepted: Arc<Mutex<Vec<Accepted>>>,
    stop: Arc<AtomicBool>,
    producers: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(fleet: &Fleet, producers: usize) -> Load {
        let (accepted, stop) = (
            Arc::<Mutex<Vec<_>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let url = fleet.api.url("/v1/notifications");
        let producers = (0..producers).map(|producer| {
            let (url, accepted, stop) = (url.clone(), accepted.clone(), stop.clone());
            tokio::spawn(async move {
                let http = reqwest::Client::new();
                let mut n = producer;
                while !stop.load(Ordering::Relaxed) {
                    let priority = match n.is_multiple_of(5) {
                        true => "critical",
                        false => "normal",
                    };
                    match post(&http, &url, n % USERS, priority, 10).await {
                        Ok(one) => accepted.lock().unwrap().push(one),
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                    n += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        });
        let producers = producers.collect();
        Load {
            accepted,
            stop,
            producers,
        }
    }

    pub fn spooled(&self) -> Vec<Accepted> {
        let mut accepted = self.accepted.lock().unwrap().clone();
        accepted.retain(|one| one.spooled);
        accepted
    }

    /// Waits until this many more were answered 202.
    pub async fn goes_on(&self, fleet: &Fleet, more: usize) {
        let count = || self.accepted.lock().unwrap().len();
        let wanted = count() + more;
        fleet
            .eventually("answers", WAIT, async || wanted.saturating_sub(count()))
            .await;
    }

    /// Waits until this many more were answered 202 from the disk.
    pub async fn is_spooled(&self, fleet: &Fleet, more: usize) {
        let wanted = self.spooled().len() + more;
        fleet
            .eventually("spooled answers", WAIT, async || {
                wanted.saturating_sub(self.spooled().len())
            })
            .await;
    }

    pub async fn stop(self) -> Vec<Accepted> {
        self.stop.store(true, Ordering::Relaxed);
        for producer in self.producers {
            producer.await.expect("it only posts");
        }
        std::mem::take(&mut self.accepted.lock().unwrap())
    }
}

/// Posts once to one user, with a body of so many bytes; the code of the refusal when it is one.
pub async fn post(
    http: &reqwest::Client,
    url: &str,
    user: usize,
    priority: &str,
    bytes: usize,
) -> Result<Accepted, String> {
    let body = json!({
        "target": { "user": format!("u{user}") },
        "type": "test",
        "priority": priority,
        "channels": ["in_app"],
        "body": "b".repeat(bytes),
    });
    let posted = Instant::now();
    let request = http.post(url).bearer_auth(API_KEY).json(&body);
    let unanswered = |error: reqwest::Error| error.to_string();
    let answer = request.send().await.map_err(unanswered)?;
    let status = answer.status();
    let body: Value = answer.json().await.map_err(unanswered)?;
    if status != 202 {
        return Err(body["error"]["code"].as_str().expect("a code").to_owned());
    }
    Ok(Accepted {
        user,
        id: body["id"].as_str().expect("an id").to_owned(),
        spooled: body["durability"] == "spooled",
        critical: priority == "critical",
        posted,
        answered: Instant::now(),
    })
}

/// One to each user, `times` over.
pub async fn post_to_all(fleet: &Fleet, times: usize) -> Vec<Accepted> {
    let (http, url) = (reqwest::Client::new(), fleet.api.url("/v1/notifications"));
    let mut accepted = Vec::new();
    for n in 0..times * USERS {
        let answer = post(&http, &url, n % USERS, "normal", 10).await;
        accepted.push(answer.expect("accepted"));
    }
    accepted
}

impl World {
    /// Each was pushed to its client, not only found by a sync.
    pub async fn pushed(&self, what: &str, accepted: &[Accepted]) {
        self.fleet
            .eventually(what, WAIT, async || {
                let missing = |one: &&Accepted| self.clients[one.user].live(&one.id) == 0;
                accepted.iter().filter(missing).count()
            })
            .await;
    }

    /// Every accepted id is in its inbox once, and its client has seen it; positions have no hole.
    pub async fn all_arrived(&self, accepted: &[Accepted]) {
        let fleet = &self.fleet;
        fleet
            .eventually("deliveries", WAIT, async || {
                let missing = |one: &&Accepted| self.clients[one.user].times(&one.id) == 0;
                accepted.iter().filter(missing).count()
            })
            .await;
        fleet
            .eventually("inbox rows", WAIT, async || {
                let times = inbox(fleet).await;
                assert!(
                    times.values().all(|times| *times == 1),
                    "a row stands twice"
                );
                let missing = |one: &&Accepted| !times.contains_key(&one.id);
                accepted.iter().filter(missing).count()
            })
            .await;
        fleet
            .eventually("holes", WAIT, async || {
                let clients = self.clients.iter();
                clients.filter(|client| client.has_hole()).count()
            })
            .await;
    }
}

/// How often each id stands in the inboxes of all users.
async fn inbox(fleet: &Fleet) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for user in 0..USERS {
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/users/u{user}/notifications?limit=100{cursor}");
            let page = fleet.api.fetch(&path).await;
            for item in page["items"].as_array().expect("a list") {
                let id = item["id"].as_str().expect("an id").to_owned();
                *times.entry(id).or_default() += 1;
            }
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
    }
    times
}
