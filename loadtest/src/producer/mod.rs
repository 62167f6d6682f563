//! Posts numbered notifications on a schedule that waits for nobody: each is due at its own moment, and
//! its latency counts from there.
//!
//! A post whose answer is unknown is repeated under the same `Idempotency-Key` until it is accepted or
//! refused, so that "accepted" and "expected" are the same set. `--give-up-s` after the last moment of the schedule
//! all is over: what has no answer then is given up, and what had no room to leave is counted as that.

mod carrier;
mod grpc;
mod http;
mod kafka;
mod ledger;
mod nats;
mod stream;

pub use ledger::Ledger;

use crate::{
    capacity,
    dialect::Dialect,
    frame::Mark,
    options::Options,
    panics::locked,
    roster::{self, Roster},
    rules::unix_us,
    schedule::Schedule,
};
use anyhow::{Context, Result, bail};
use ledger::Reach;
use serde::Deserialize;
use serde_json::json;
use std::{
    borrow::Cow,
    collections::HashMap,
    future::pending,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, sleep_until},
};
use uuid::Uuid;

/// Posts on their way at once. Beyond, posts leave late, and their latency says so.
pub const IN_FLIGHT: usize = 1_024;
const ANSWER: Duration = Duration::from_secs(10);
/// Positions of ours: above what a topic holds, so that they only rise; of the first generation.
const FIRST_POSITION: u64 = (1 << 40) + (1 << 39);
const UNANSWERED: &str = "no answer until the end, given up";
/// Of the thread.
pub const THREAD: &str = "producer";
/// Pause before an attempt is repeated.
const PAUSE: Duration = Duration::from_millis(250);

/// The schedule, and what keeps to it.
pub struct Producer {
    schedule: Schedule,
    poster: Arc<Poster>,
}

struct Poster {
    door: Door,
    run: String,
    /// The text of the longest body; shorter ones are cut from it.
    text: String,
    give_up: Duration,
    ledger: Arc<Mutex<Ledger>>,
}

/// Where notifications go in.
enum Door {
    Http(http::Http),
    Grpc(grpc::Grpc),
    Kafka(Box<kafka::Kafka>),
    Carrier(carrier::Carrier),
    Nats(nats::Nats),
    Stream(stream::Stream),
}

/// One notification to post.
pub struct Post {
    /// `None`: to all.
    user: Option<u32>,
    name: String,
    n: u32,
    at_us: u64,
    priority: String,
    size: usize,
}

/// What a door takes of a post.
struct Content<'a> {
    post: &'a Post,
    idempotency_key: &'a str,
    title: String,
    body: &'a str,
    mark: Mark<'a>,
}

/// Where an item stands.
struct Place<'a> {
    id: Uuid,
    created_ms: u64,
    stream: &'a str,
    pos: u64,
    prev: u64,
}

impl Content<'_> {
    /// As clients get it.
    fn frame(&self, place: &Place<'_>) -> String {
        json!({
            "type": "notification",
            "id": place.id,
            "stream": place.stream,
            "pos": place.pos,
            "prev": place.prev,
            "priority": self.post.priority,
            "created_at": place.created_ms,
            "notification_type": "swarm",
            "title": self.title,
            "body": self.body,
            "data": self.mark,
        })
        .to_string()
    }

    /// The same by a server that only carries, as long as it is by Herald.
    fn carried(&self) -> String {
        let prev = FIRST_POSITION + u64::from(self.post.n);
        self.frame(&Place {
            id: Uuid::now_v7(),
            created_ms: unix_us() / 1_000,
            stream: match self.post.user {
                Some(_) => "user:local",
                None => "all:local",
            },
            pos: prev + 1,
            prev,
        })
    }
}

/// What the server says of a post it took.
#[derive(Deserialize)]
pub struct Accepted {
    id: Uuid,
    #[serde(default)]
    durability: String,
}

/// What came of an attempt.
enum Attempt {
    /// What it said is `None` when it can't be read.
    Accepted(Option<Accepted>),
    /// For good.
    Refused(String),
    /// May pass: why, and how long to wait.
    Passing(String, Duration),
}

impl Door {
    fn new(options: &Options) -> Result<Door> {
        let urls = &options.post_urls;
        let all_are = |scheme: &str| urls.iter().all(|url| url.starts_with(scheme));
        match options.dialect {
            Dialect::Herald => {}
            // Into Herald's topics, whoever holds the clients: what a broker does by itself.
            Dialect::Plain if all_are("kafka://") => {}
            Dialect::Plain if all_are("tcp://") => {
                return Ok(Door::Stream(stream::Stream::new(urls)?));
            }
            Dialect::Plain | Dialect::Centrifugo => {
                return Ok(Door::Carrier(carrier::Carrier::new(urls, options.dialect)?));
            }
            Dialect::Nats => return Ok(Door::Nats(nats::Nats::new(urls)?)),
        }
        let key = match &options.api_key_file {
            Some(file) => roster::read(file)?.trim().to_owned(),
            None => String::new(),
        };
        if all_are("kafka://") {
            return Ok(Door::Kafka(Box::new(kafka::Kafka::new(urls)?)));
        }
        if key.is_empty() {
            bail!("--post-url: give --api-key-file, too");
        }
        if all_are("grpc://") {
            return Ok(Door::Grpc(grpc::Grpc::new(urls, &key)?));
        }
        if all_are("http") {
            return Ok(Door::Http(http::Http::new(urls, &key)?));
        }
        bail!("--post-url: expected http://, https://, grpc:// or kafka://, the same for all");
    }

    /// `turn` chooses the server.
    async fn attempt(&self, content: &Content<'_>, turn: usize) -> Attempt {
        match self {
            Door::Http(http) => http.attempt(content, turn).await,
            Door::Grpc(grpc) => grpc.attempt(content, turn).await,
            Door::Kafka(kafka) => kafka.attempt(content).await,
            Door::Carrier(carrier) => carrier.attempt(content, turn).await,
            Door::Nats(nats) => nats.attempt(content).await,
            Door::Stream(stream) => stream.attempt(content),
        }
    }
}

impl Producer {
    /// `None` without `--post-url`.
    pub fn new(options: &Options, roster: &Roster, run: &str) -> Result<Option<Producer>> {
        if options.post_urls.is_empty() {
            return Ok(None);
        }
        let load = &options.load;
        let duration_s = load.duration_s.map_or(f64::INFINITY, |s| s as f64);
        let longest = load.sendings.iter().map(|one| one.size).max();
        let reach = Reach::new(roster, load.exempt_share());
        let ledger = Ledger::new(reach, options.accounting.is_some());
        let schedule = Schedule::new(&load.sendings, duration_s, roster.users(), options.seed);
        let poster = Poster {
            door: Door::new(options)?,
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

    /// From the first moment to the last at the latest; `None`: until told that it is enough.
    pub fn span(&self) -> Option<Duration> {
        self.schedule.span()
    }

    /// On a thread of its own, which nothing else makes late.
    pub fn start(self, roster: Arc<Roster>) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("no runtime")?;
        let thread = std::thread::Builder::new().name(THREAD.into());
        let ledger = self.ledger();
        let started = thread.spawn(move || {
            runtime.block_on(self.run(roster));
            // Posts that are still on their way are dropped with it, and so given up.
            runtime.shutdown_background();
            locked(&ledger).ended = true;
        });
        started
            .map(drop)
            .map_err(|error| capacity::no_thread(1, &error))
    }

    /// Posts them all; ends when the last is accepted, refused or given up, and in time in any case.
    async fn run(self, roster: Arc<Roster>) {
        let Producer {
            mut schedule,
            poster,
        } = self;
        let permits = Arc::new(Semaphore::new(IN_FLIGHT));
        let mut next: HashMap<Option<u32>, u32> = HashMap::new();
        let (start, start_us) = (Instant::now(), unix_us());
        let mut end = schedule
            .span()
            .and_then(|span| start.checked_add(span + poster.give_up));
        let told = Arc::clone(&poster.ledger().enough);
        let enough = told.notified();
        tokio::pin!(enough);
        let mut is_held_back = false;
        while let Some(due) = schedule.next() {
            let room = tokio::select! {
                biased;
                () = &mut enough => {
                    end = Some(Instant::now() + poster.give_up);
                    break;
                }
                room = room(start + due.at, &permits, end) => room,
            };
            let Some((permit, pace)) = room else {
                let mut ledger = poster.ledger();
                std::iter::once(due)
                    .chain(schedule)
                    .for_each(|_| ledger.never_left());
                return;
            };
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
            is_held_back = match pace {
                Pace::OnTime => false,
                Pace::Late => is_held_back,
                Pace::Waited => true,
            };
            poster.ledger().leaves(&post, is_held_back);
            let leaving = Leaving::new(&poster, post);
            tokio::spawn(async move {
                leaving.arrive().await;
                drop(permit);
            });
        }
        // All permits back: nothing is on its way.
        tokio::select! {
            _ = permits.acquire_many(IN_FLIGHT as u32) => {}
            () = until(end) => {}
        }
    }
}

/// How a post came to leave.
enum Pace {
    OnTime,
    /// Its moment had passed.
    Late,
    /// As many as may be were on their way, and one had to be answered first.
    Waited,
}

/// Its moment, and room to leave; `None`: there was none before the end.
async fn room(
    moment: Instant,
    permits: &Arc<Semaphore>,
    end: Option<Instant>,
) -> Option<(OwnedSemaphorePermit, Pace)> {
    let pace = wait_until(moment).await;
    if end.is_some_and(|end| Instant::now() >= end) {
        return None;
    }
    if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
        return Some((permit, pace));
    }
    tokio::select! {
        permit = Arc::clone(permits).acquire_owned() => Some((permit.ok()?, Pace::Waited)),
        () = until(end) => None,
    }
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => pending().await,
    }
}

/// What is due is not slept for: timers wake late, by up to a millisecond.
async fn wait_until(moment: Instant) -> Pace {
    if moment > Instant::now() {
        sleep_until(moment).await;
        return Pace::OnTime;
    }
    tokio::task::yield_now().await;
    Pace::Late
}

impl Poster {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        locked(&self.ledger)
    }

    async fn post(&self, post: &Post) -> Result<Option<Accepted>, String> {
        let target = if post.user.is_some() {
            &post.name
        } else {
            "all"
        };
        let idempotency_key = format!("swarm-{}-{target}-{}", self.run, post.n);
        let content = Content {
            post,
            idempotency_key: &idempotency_key,
            title: format!("Number {}", post.n),
            body: &self.text[..post.size],
            mark: Mark {
                swarm: Cow::Borrowed(&self.run),
                to: post.user.map(|_| Cow::Borrowed(&*post.name)),
                n: post.n,
                at_us: post.at_us,
            },
        };
        let give_up_at = Instant::now() + self.give_up;
        let mut turn = post.n as usize;
        loop {
            let (why, pause) = match self.door.attempt(&content, turn).await {
                Attempt::Accepted(answer) => return Ok(answer),
                Attempt::Refused(why) => return Err(why),
                Attempt::Passing(why, pause) => (why, pause),
            };
            if Instant::now() + pause > give_up_at {
                return Err(format!("{why}, given up"));
            }
            self.ledger().repeated += 1;
            sleep(pause).await;
            turn += 1;
        }
    }
}

/// A post on its way. One that is dropped before there was an answer counts as given up.
struct Leaving {
    poster: Arc<Poster>,
    post: Post,
    is_settled: bool,
}

impl Leaving {
    fn new(poster: &Arc<Poster>, post: Post) -> Leaving {
        Leaving {
            poster: Arc::clone(poster),
            post,
            is_settled: false,
        }
    }

    async fn arrive(mut self) {
        let answer = self.poster.post(&self.post).await;
        self.is_settled = true;
        let mut ledger = self.poster.ledger();
        match answer {
            Ok(answer) => ledger.accepted(&self.post, answer),
            Err(why) => ledger.refused(&self.post, &why),
        }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if !self.is_settled {
            self.poster.ledger().refused(&self.post, UNANSWERED);
        }
    }
}
