//! A real standalone: the process, its data directory, and its doors.

use crate::{Api, Herald, PATIENCE, UNLIMITED, eventually, free_port, keep_secret};
use herald::{auth, config::Secret};
use std::{path::PathBuf, time::Duration};
use tempfile::TempDir;
use tokio::time::Instant;

pub struct Standalone {
    pub process: Herald,
    pub data: TempDir,
    pub http_port: u16,
    pub client_port: u16,
    pub admin_port: u16,
    pub api: Api,
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
        all.extend_from_slice(&UNLIMITED);
        all.extend_from_slice(settings);
        let path = data.path().to_str().expect("a plain path").to_owned();
        let process = Herald::new(&["standalone", "--data", &path], &all);
        Standalone {
            process,
            data,
            http_port,
            client_port,
            admin_port,
            api: Api::new(http_port, String::new()),
        }
    }

    /// Starts the process (again) and waits until it is ready.
    pub async fn run(&mut self) {
        self.process.start();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.api.admin(self.admin_port, "readyz").await;
            if answer.is_some_and(|(status, _)| status == 200) {
                break;
            }
            let log = self.process.log();
            assert!(self.process.is_running(), "it ended; log:\n{log}");
            assert!(Instant::now() < deadline, "not ready; log:\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The first start has made the keys.
        self.api = Api::new(self.http_port, self.api_key());
        keep_secret(&self.api_key());
        keep_secret(&self.token_secret());
    }

    pub fn ws_url(&self) -> String {
        format!("ws://127.0.0.1:{}/ws/notifications", self.client_port)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.data.path().join(name)
    }

    pub fn api_key(&self) -> String {
        std::fs::read_to_string(self.file("admin.key")).expect("made at the first start")
    }

    /// What its tokens are signed with.
    pub fn token_secret(&self) -> String {
        std::fs::read_to_string(self.file("token.key")).expect("made at the first start")
    }

    pub fn token(&self, user: &str) -> String {
        let secret =
            Secret::from_file("token", &self.file("token.key")).expect("made at the first start");
        auth::mint_hs256(&secret, &user.parse().unwrap(), Duration::from_secs(3600))
    }

    pub async fn metrics(&self) -> String {
        self.api.metrics(self.admin_port).await
    }

    /// Polls until it holds; the log says why it does not.
    pub async fn eventually(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let missing = async || (!holds().await).into();
        eventually(what, PATIENCE, missing, || self.process.log()).await;
    }
}
