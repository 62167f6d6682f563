//! Notifications to one user each, open loop, by either door of the dispatcher.

use crate::{
    fleet::Fleet,
    standalone::{Doors, content},
};
use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use herald::api::{
    NotifyRequest, notifications_client::NotificationsClient, notify_answer::Answer,
    notify_request::Target,
};
use serde_json::json;
use std::time::{Duration, Instant};
use tonic::Request;

/// Requests by HTTP that may wait for their answer.
const AT_ONCE: usize = 256;
/// Streams by gRPC, on one connection: a producer's threads have one each.
const STREAMS: u32 = 16;

#[derive(Clone, Copy)]
pub struct Posts {
    pub rate: u32,
    pub door: Door,
}

#[derive(Clone, Copy)]
pub enum Door {
    Http,
    /// With an `Idempotency-Key` each, as most producers do: two more writes of the store.
    HttpKeyed,
    /// By `NotifyStream`.
    Streams,
}

impl Door {
    pub const ALL: [Door; 3] = [Door::Http, Door::HttpKeyed, Door::Streams];
}

/// Each when it is due; how long its answer took from then.
pub async fn send(fleet: &Fleet, posts: Posts, for_s: u32, users: u32) -> Result<Vec<Duration>> {
    let key = std::fs::read_to_string(&fleet.doors.api_key).context("no API key")?;
    let schedule = Schedule {
        began: Instant::now(),
        rate: posts.rate,
        count: posts.rate * for_s,
        users,
    };
    match posts.door {
        Door::Http => by_http(&fleet.doors, key.trim(), schedule, false).await,
        Door::HttpKeyed => by_http(&fleet.doors, key.trim(), schedule, true).await,
        Door::Streams => by_streams(fleet.dispatcher_grpc, key.trim(), schedule).await,
    }
}

#[derive(Clone, Copy)]
struct Schedule {
    began: Instant,
    rate: u32,
    count: u32,
    users: u32,
}

impl Schedule {
    fn due(&self, n: u32) -> Instant {
        self.began + Duration::from_secs_f64(f64::from(n) / f64::from(self.rate))
    }

    fn user(&self, n: u32) -> String {
        (1 + n % self.users).to_string()
    }
}

async fn by_http(
    doors: &Doors,
    key: &str,
    schedule: Schedule,
    keyed: bool,
) -> Result<Vec<Duration>> {
    let url = format!("http://127.0.0.1:{}/v1/notifications", doors.producers);
    let each = stream::iter(0..schedule.count).map(|n| {
        let url = &url;
        async move {
            let due = schedule.due(n);
            tokio::time::sleep_until(due.into()).await;
            let target = json!({ "user": schedule.user(n) });
            let mut request = doors.http.post(url).bearer_auth(key).json(&content(target));
            if keyed {
                let key = format!("{:032x}", rand::random::<u128>());
                request = request.header("Idempotency-Key", key);
            }
            let answer = request.send().await?;
            if answer.status() != 202 {
                bail!("refused: {} {}", answer.status(), answer.text().await?);
            }
            answer.bytes().await?;
            Ok(due.elapsed())
        }
    });
    each.buffer_unordered(AT_ONCE).try_collect().await
}

async fn by_streams(port: u16, key: &str, schedule: Schedule) -> Result<Vec<Duration>> {
    let client = NotificationsClient::connect(format!("http://127.0.0.1:{port}")).await?;
    let streams = (0..STREAMS).map(|first| one_stream(client.clone(), key, schedule, first));
    let took = futures::future::try_join_all(streams).await?;
    Ok(took.into_iter().flatten().collect())
}

/// Every sixteenth notification. Answers come in the order of what was sent.
async fn one_stream(
    mut client: NotificationsClient<tonic::transport::Channel>,
    key: &str,
    schedule: Schedule,
    first: u32,
) -> Result<Vec<Duration>> {
    let numbers: Vec<u32> = (first..schedule.count).step_by(STREAMS as usize).collect();
    let sent = numbers.clone();
    let requests = stream::iter(sent).then(move |n| async move {
        tokio::time::sleep_until(schedule.due(n).into()).await;
        request(schedule.user(n))
    });
    let mut request = Request::new(requests);
    let bearer = format!("Bearer {key}").parse()?;
    request.metadata_mut().insert("authorization", bearer);
    let mut answers = client.notify_stream(request).await?.into_inner();
    let mut took = Vec::with_capacity(numbers.len());
    for n in numbers {
        let answer = answers.message().await?.context("the stream ended early")?;
        let accepted = matches!(answer.answer, Some(Answer::Accepted(_)));
        ensure!(accepted, "refused: {answer:?}");
        took.push(schedule.due(n).elapsed());
    }
    Ok(took)
}

/// The same as by HTTP.
fn request(user: String) -> NotifyRequest {
    NotifyRequest {
        target: Some(Target::User(user)),
        r#type: "bench".into(),
        priority: "normal".into(),
        title: "A title".into(),
        body: "x".repeat(200),
        ..NotifyRequest::default()
    }
}

impl std::fmt::Display for Door {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Door::Http => "by HTTP",
            Door::HttpKeyed => "by HTTP, with a key",
            Door::Streams => "by streams",
        })
    }
}
