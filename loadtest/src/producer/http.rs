//! By HTTP, as most producers do.

use super::{ANSWER, Attempt, Content, PAUSE};
use anyhow::{Context, Result};
use reqwest::{StatusCode, header::RETRY_AFTER};
use serde_json::json;
use std::time::Duration;

pub struct Http {
    client: reqwest::Client,
    urls: Vec<String>,
    key: String,
}

impl Http {
    pub fn new(urls: &[String], key: &str) -> Result<Http> {
        let client = reqwest::Client::builder().timeout(ANSWER).build();
        Ok(Http {
            client: client.context("no HTTP client")?,
            urls: urls.iter().map(|url| whole(url)).collect(),
            key: key.to_owned(),
        })
    }

    pub async fn attempt(&self, content: &Content<'_>, turn: usize) -> Attempt {
        let sent = self
            .client
            .post(&self.urls[turn % self.urls.len()])
            .bearer_auth(&self.key)
            .header("Idempotency-Key", content.idempotency_key)
            .header("Content-Type", "application/json")
            .body(body(content))
            .send()
            .await;
        let Ok(answer) = sent else {
            return Attempt::Passing("no answer".into(), PAUSE);
        };
        let status = answer.status();
        if status.is_success() {
            return Attempt::Accepted(answer.json().await.ok());
        }
        let why = format!("HTTP {}", status.as_u16());
        let passes = status.is_server_error()
            || matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
            );
        if !passes {
            return Attempt::Refused(why);
        }
        let seconds = answer.headers().get(RETRY_AFTER);
        let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
        Attempt::Passing(why, seconds.map_or(PAUSE, Duration::from_secs))
    }
}

fn body(content: &Content<'_>) -> String {
    let target = match content.post.user {
        Some(_) => json!({ "user": content.post.name }),
        None => json!({ "all": true }),
    };
    json!({
        "target": target,
        "type": "swarm",
        "priority": content.post.priority,
        "channels": ["in_app"],
        "title": content.title,
        "body": content.body,
        "data": content.mark,
    })
    .to_string()
}

fn whole(url: &str) -> String {
    let url = url.trim_end_matches('/');
    match url.contains("/v1/") {
        true => url.to_owned(),
        false => format!("{url}/v1/notifications"),
    }
}
