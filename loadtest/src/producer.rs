//! Posts numbered notifications on a schedule that waits for nobody: each is due at its own moment, and
//! its latency counts from there.
//!
//! A post whose answer is unknown is repeated under the same `Idempotency-Key` until it is accepted or
//! refused, so that "accepted" and "expected" are the same set.

use crate::{
    accounting::Posted,
    cursor::Numbers,
    frame::{Mark, Target},
    options::Options,
    roster::{self, Roster},
    rules::unix_us,
    schedule::Schedule,
    tally::count,
};
use anyhow::{Context, Result};
use reqwest::{StatusCode, header::RETRY_AFTER};
use serde::Deserialize;
use serde_json::json;
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, sleep_until},
};
use uuid::Uuid;

/// Posts on their way at once. Beyond, posts leave late, and their latency says so.
const IN_FLIGHT: usize = 1_024;
const ANSWER: Duration = Duration::from_secs(10);
/// Pause before an attempt is repeated.
const PAUSE: Duration = Duration::from_millis(250);

/// What is known of the posts so far.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Accepted numbers by user, and those to all.
    pub to_user: HashMap<u32, Numbers>,
    pub to_all: Numbers,
    pub due: u64,
    pub accepted: u64,
    pub repeated: u64,
    /// Not accepted for good, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Each of them, if asked for.
    pub posts: Option<Vec<Posted>>,
    /// Nothing more is to be posted.
    pub enough: bool,
    pub ended: bool,
}

impl Ledger {
    /// Deliveries (number, device) that must happen.
    pub fn expected(&self, devices: u32, clients: u32) -> u64 {
        let to_users: u64 = self.to_user.values().map(Numbers::len).sum();
        to_users * u64::from(devices) + self.to_all.len() * u64::from(clients)
    }

    fn note(&mut self, post: &Post, answer: Option<Accepted>) {
        let Some(posts) = &mut self.posts else {
            return;
        };
        let (id, durability) = match answer {
            Some(answer) => (Some(answer.id), answer.durability),
            None => (None, String::new()),
        };
        posts.push(Posted {
            id,
            user: post.user.map(|_| post.name.clone()),
            n: post.n,
            priority: post.priority.clone(),
            sent_unix_ms: post.at_us / 1000,
            answered_unix_ms: unix_us() / 1000,
            durability,
        });
    }
}

/// The schedule, and what keeps to it.
pub struct Producer {
    schedule: Schedule,
    poster: Arc<Poster>,
}

struct Poster {
    http: reqwest::Client,
    urls: Vec<String>,
    key: String,
    run: String,
    /// The text of the longest body; shorter ones are cut from it.
    text: String,
    give_up: Duration,
    ledger: Arc<Mutex<Ledger>>,
}

/// One notification to post.
struct Post {
    /// `None`: to all.
    user: Option<u32>,
    name: String,
    n: u32,
    at_us: u64,
    priority: String,
    size: usize,
}

/// What the server says of a post it took.
#[derive(Deserialize)]
struct Accepted {
    id: Uuid,
    #[serde(default)]
    durability: String,
}

impl Producer {
    /// `None` without `--post-url`.
    pub fn new(options: &Options, roster: &Roster, run: &str) -> Result<Option<Producer>> {
        let (Some(key), false) = (&options.api_key_file, options.post_urls.is_empty()) else {
            return Ok(None);
        };
        let load = &options.load;
        let duration_s = load.duration_s.map_or(f64::INFINITY, |s| s as f64);
        let longest = load.sendings.iter().map(|one| one.size).max();
        let ledger = Ledger {
            posts: options.accounting.is_some().then(Vec::new),
            ..Ledger::default()
        };
        let schedule = Schedule::new(&load.sendings, duration_s, roster.users(), options.seed);
        let poster = Poster {
            http: reqwest::Client::builder()
                .timeout(ANSWER)
                .build()
                .context("no HTTP client")?,
            urls: options.post_urls.iter().map(|url| whole(url)).collect(),
            key: roster::read(key)?.trim().to_owned(),
            run: run.to_owned(),
            text: "x".repeat(longest.unwrap_or(0) as usize),
            give_up: Duration::from_secs(options.give_up_s),
            ledger: Arc::new(Mutex::new(ledger)),
        };
        Ok(Some(Producer {
            schedule,
            poster: Arc::new(poster),
        }))
    }

    pub fn ledger(&self) -> Arc<Mutex<Ledger>> {
        Arc::clone(&self.poster.ledger)
    }

    /// Posts them all; ends when the last is accepted, refused or given up.
    pub async fn run(self, roster: Arc<Roster>) {
        let Producer { schedule, poster } = self;
        let permits = Arc::new(Semaphore::new(IN_FLIGHT));
        let mut next: HashMap<Option<u32>, u32> = HashMap::new();
        let (start, start_us) = (Instant::now(), unix_us());
        for due in schedule {
            sleep_until(start + due.at).await;
            if poster.ledger.lock().expect("no panics").enough {
                break;
            }
            let n = next.entry(due.user).or_default();
            *n += 1;
            let post = Post {
                user: due.user,
                name: due.user.map_or_else(String::new, |user| roster.user(user)),
                n: *n,
                at_us: start_us + due.at.as_micros() as u64,
                priority: due.priority,
                size: due.size as usize,
            };
            let permit = Arc::clone(&permits).acquire_owned().await;
            let poster = Arc::clone(&poster);
            poster.ledger.lock().expect("no panics").due += 1;
            tokio::spawn(async move {
                poster.post(&post).await;
                drop(permit);
            });
        }
        // All permits back: nothing is on its way.
        let all = permits.acquire_many(IN_FLIGHT as u32).await;
        poster.ledger.lock().expect("no panics").ended = true;
        drop(all);
    }
}

impl Poster {
    async fn post(&self, post: &Post) {
        let body = self.body(post);
        let target = post.user.map_or("all".into(), |user| user.to_string());
        let key = format!("swarm-{}-{target}-{}", self.run, post.n);
        let give_up_at = Instant::now() + self.give_up;
        for turn in post.n as usize.. {
            let sent = self
                .http
                .post(&self.urls[turn % self.urls.len()])
                .bearer_auth(&self.key)
                .header("Idempotency-Key", &key)
                .header("Content-Type", "application/json")
                .body(body.clone())
                .send()
                .await;
            let (why, pause) = match sent {
                Ok(answer) if answer.status().is_success() => {
                    return self.accepted(post, answer.json().await.ok());
                }
                Ok(answer) => {
                    let status = answer.status();
                    let passes = status.is_server_error()
                        || matches!(status, StatusCode::TOO_MANY_REQUESTS)
                        || matches!(status, StatusCode::REQUEST_TIMEOUT);
                    if !passes {
                        return self.refused(post, &format!("HTTP {}", status.as_u16()));
                    }
                    let seconds = answer.headers().get(RETRY_AFTER);
                    let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
                    let pause = seconds.map_or(PAUSE, Duration::from_secs);
                    (format!("HTTP {}, given up", status.as_u16()), pause)
                }
                Err(_) => ("no answer, given up".into(), PAUSE),
            };
            if Instant::now() + pause > give_up_at {
                return self.refused(post, &why);
            }
            self.ledger.lock().expect("no panics").repeated += 1;
            sleep(pause).await;
        }
    }

    fn body(&self, post: &Post) -> String {
        let (target, to) = match post.user {
            Some(_) => (json!({ "user": post.name }), Target::User),
            None => (json!({ "all": true }), Target::All),
        };
        let mark = Mark {
            swarm: Cow::Borrowed(&self.run),
            to,
            n: post.n,
            at_us: post.at_us,
        };
        json!({
            "target": target,
            "type": "swarm",
            "priority": post.priority,
            "channels": ["in_app"],
            "title": format!("Number {}", post.n),
            "body": self.text[..post.size],
            "data": mark,
        })
        .to_string()
    }

    fn accepted(&self, post: &Post, answer: Option<Accepted>) {
        let mut ledger = self.ledger.lock().expect("no panics");
        ledger.accepted += 1;
        ledger.note(post, answer);
        match post.user {
            Some(user) => ledger.to_user.entry(user).or_default().insert(post.n),
            None => ledger.to_all.insert(post.n),
        };
    }

    fn refused(&self, post: &Post, why: &str) {
        let mut ledger = self.ledger.lock().expect("no panics");
        ledger.note(post, None);
        count(&mut ledger.refused, why);
    }
}

fn whole(url: &str) -> String {
    let url = url.trim_end_matches('/');
    match url.contains("/v1/") {
        true => url.to_owned(),
        false => format!("{url}/v1/notifications"),
    }
}
