//! The dispatcher's HTTP interface, as a producer and an operator use it.

use crate::wait::PATIENCE;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// What one request may take before it counts as failed; longer than any answer is waited for inside.
const REQUEST_MAX: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub struct Api {
    port: u16,
    key: String,
    http: reqwest::Client,
}

impl Api {
    pub fn new(port: u16, key: String) -> Api {
        let http = reqwest::Client::builder().timeout(REQUEST_MAX).build();
        Api {
            port,
            key,
            http: http.expect("a client"),
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Posts once; the id only when it was accepted.
    pub async fn post(&self, body: &Value) -> Result<String, String> {
        let request = self.http.post(self.url("/v1/notifications"));
        let answer = request.bearer_auth(&self.key).json(body).send().await;
        let answer = answer.map_err(|error| error.to_string())?;
        accepted(answer).await
    }

    /// Posts once, to one user.
    pub async fn notify_once(&self, user: &str, title: &str) -> Result<String, String> {
        self.post(&notification(user, title)).await
    }

    /// As a producer does it: a refusal that passes by itself is tried again under the same key.
    pub async fn notify(&self, user: &str, title: &str) -> Result<String, String> {
        let deadline = Instant::now() + PATIENCE;
        let key = uuid::Uuid::now_v7().to_string();
        loop {
            let request = self.http.post(self.url("/v1/notifications"));
            let request = request
                .bearer_auth(&self.key)
                .json(&notification(user, title));
            let request = request.header("idempotency-key", &key);
            match request.send().await {
                Ok(answer) if answer.status() == 503 && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok(answer) => return accepted(answer).await,
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Enters an e-mail address of a user.
    pub async fn enter_address(&self, user: &str, address: &str) {
        let device = json!({ "kind": "email", "address": address });
        self.enter_device(user, "mail", &device).await;
    }

    pub async fn enter_device(&self, user: &str, id: &str, device: &Value) {
        let path = format!("/v1/users/{user}/devices/{id}");
        let request = self.http.put(self.url(&path)).bearer_auth(&self.key);
        let answer = request.json(device).send().await.expect("it answers");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
    }

    /// Marks one read, as an inbox does.
    pub async fn read(&self, user: &str, id: &str) {
        let path = format!("/v1/users/{user}/read");
        let request = self.http.post(self.url(&path)).bearer_auth(&self.key);
        let request = request.json(&json!({ "ids": [id] }));
        let answer = request.send().await.expect("it answers");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
    }

    /// One that must succeed; what it answers.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> Value {
        let request = self.http.request(method, self.url(path)).json(body);
        let answer = request.bearer_auth(&self.key).send().await;
        let answer = answer.expect("it answers");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.unwrap_or_default()
    }

    pub async fn fetch(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}");
        body
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let request = self.http.get(self.url(path)).bearer_auth(&self.key);
        let answer = request.send().await.expect("it answers");
        let status = answer.status().as_u16();
        (status, answer.json().await.expect("JSON"))
    }

    /// State of the in-app channel of one notification for one user; `none` until it is routed.
    pub async fn state(&self, id: &str, user: &str) -> String {
        self.state_by("in_app", id, user).await
    }

    /// The same of another channel.
    pub async fn state_by(&self, channel: &str, id: &str, user: &str) -> String {
        let path = format!("/v1/notifications/{id}/delivery?user={user}");
        let answer = match self.get(&path).await {
            (404, _) => return "none".to_owned(),
            (200, answer) => answer,
            (status, _) => panic!("{path}: {status}"),
        };
        let states = answer["states"].as_array().expect("a list");
        let found = states.iter().find(|state| state["channel"] == channel);
        found.map_or("none".into(), |state| {
            state["state"].as_str().expect("a state").to_owned()
        })
    }

    /// Status and text of a page of an admin port; `None` where nobody answers.
    pub async fn admin(&self, port: u16, page: &str) -> Option<(u16, String)> {
        let url = format!("http://127.0.0.1:{port}/{page}");
        let answer = self.http.get(url).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    pub async fn metrics(&self, port: u16) -> String {
        self.admin(port, "metrics").await.expect("it answers").1
    }
}

/// Sum of a metric family in Prometheus text; a family that is not there fails the test.
pub fn sum_of(metrics: &str, family: &str) -> usize {
    let lines = metrics.lines().filter(|line| line.starts_with(family));
    let values: Vec<f64> = lines
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    assert!(!values.is_empty(), "{family} is not there:\n{metrics}");
    values.iter().sum::<f64>() as usize
}

fn notification(user: &str, title: &str) -> Value {
    json!({ "target": { "user": user }, "type": "test", "title": title })
}

async fn accepted(answer: reqwest::Response) -> Result<String, String> {
    let status = answer.status();
    let body: Value = answer.json().await.map_err(|error| error.to_string())?;
    match status.as_u16() {
        202 => Ok(body["id"].as_str().expect("an id").to_owned()),
        _ => Err(format!("{status}: {body}")),
    }
}
