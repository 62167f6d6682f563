//! A real standalone: the process, its data directory, and its doors.

#![allow(dead_code)]

use super::process::{Herald, free_port, until};
use herald::{auth, config::Secret};
use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};
use tempfile::TempDir;

pub struct Standalone {
    pub process: Herald,
    pub data: TempDir,
    pub http_port: u16,
    pub client_port: u16,
    pub admin_port: u16,
    http: reqwest::Client,
}

impl Standalone {
    pub async fn start(settings: &[(&str, &str)]) -> Standalone {
        let mut standalone = Standalone::prepare(settings);
        standalone.run().await;
        standalone
    }

    /// Everything but the process itself.
    pub fn prepare(settings: &[(&str, &str)]) -> Standalone {
        let data = tempfile::tempdir().expect("a temporary directory");
        let (http_port, client_port, admin_port) = (free_port(), free_port(), free_port());
        let listen = |port: u16| format!("127.0.0.1:{port}");
        let (http, clients, admin) = (listen(http_port), listen(client_port), listen(admin_port));
        let mut all = vec![
            ("http.listen", http.as_str()),
            ("gateway.listen", &clients),
            ("admin.listen", &admin),
            ("gateway.cores", "2"),
            ("gateway.pin", "false"),
            ("log.level", "info"),
        ];
        all.extend_from_slice(settings);
        let path = data.path().to_str().expect("a plain path").to_owned();
        let process = Herald::new(&["standalone", "--data", &path], &all);
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(20))
            .build()
            .unwrap();
        Standalone {
            process,
            data,
            http_port,
            client_port,
            admin_port,
            http,
        }
    }

    /// Starts the process (again) and waits until it is ready.
    pub async fn run(&mut self) {
        self.process.start();
        let ready = format!("http://127.0.0.1:{}/readyz", self.admin_port);
        let deadline = tokio::time::Instant::now() + super::process::PATIENCE;
        loop {
            if let Ok(answer) = self.http.get(&ready).send().await
                && answer.status() == 200
            {
                return;
            }
            assert!(
                self.process.is_running(),
                "it ended; log:\n{}",
                self.process.log()
            );
            assert!(
                tokio::time::Instant::now() < deadline,
                "not ready; log:\n{}",
                self.process.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn ws_url(&self) -> String {
        format!("ws://127.0.0.1:{}/ws/notifications", self.client_port)
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http_port)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.data.path().join(name)
    }

    pub fn api_key(&self) -> String {
        std::fs::read_to_string(self.file("admin.key")).expect("made at the first start")
    }

    pub fn token(&self, user: &str) -> String {
        let secret =
            Secret::from_file("token", &self.file("token.key")).expect("made at the first start");
        auth::mint_hs256(&secret, &user.parse().unwrap(), Duration::from_secs(3600))
    }

    /// Posts; answers the id only when it was accepted.
    pub async fn post(&self, body: Value) -> Result<String, String> {
        let request = self
            .http
            .post(self.url("/v1/notifications"))
            .bearer_auth(self.api_key());
        let answer = request
            .json(&body)
            .send()
            .await
            .map_err(|error| error.to_string())?;
        let status = answer.status();
        let body: Value = answer.json().await.map_err(|error| error.to_string())?;
        match status.as_u16() {
            202 => Ok(body["id"].as_str().expect("an id").to_owned()),
            _ => Err(format!("{status}: {body}")),
        }
    }

    pub async fn notify(&self, user: &str, title: &str) -> Result<String, String> {
        self.post(json!({ "target": { "user": user }, "type": "test", "title": title }))
            .await
    }

    pub async fn fetch(&self, path: &str) -> Value {
        let request = self.http.get(self.url(path)).bearer_auth(self.api_key());
        let answer = request.send().await.expect("it answers");
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.expect("JSON")
    }

    /// State of the in-app channel of one notification for one user; `none` until it is routed.
    pub async fn state(&self, id: &str, user: &str) -> String {
        let url = self.url(&format!("/v1/notifications/{id}/delivery?user={user}"));
        let request = self.http.get(url).bearer_auth(self.api_key());
        let answer = request.send().await.expect("it answers");
        if answer.status() == 404 {
            return "none".into();
        }
        assert_eq!(answer.status(), 200);
        let answer: Value = answer.json().await.expect("JSON");
        let states = answer["states"].as_array().expect("a list");
        let in_app = states.iter().find(|state| state["channel"] == "in_app");
        in_app.map_or("none".into(), |state| {
            state["state"].as_str().unwrap().to_owned()
        })
    }

    pub async fn metrics(&self) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.admin_port);
        self.http
            .get(url)
            .send()
            .await
            .expect("it answers")
            .text()
            .await
            .expect("text")
    }

    pub fn until(&self, what: &str, holds: impl FnMut() -> bool) {
        until(what, holds, || self.process.log());
    }
}
