//! A real Prometheus and a real Alertmanager over a fleet, by the configuration that is shipped, and whoever is told of
//! alerts. Only its intervals and addresses are the test's own.

use crate::{Fleet, PATIENCE, child::Guarded, eventually, free_port, locked};
use axum::{Json, Router, extract::State, routing::post};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};
use tempfile::TempDir;

pub struct Monitoring {
    told: Arc<Mutex<Vec<Value>>>,
    port: u16,
    http: reqwest::Client,
    directory: TempDir,
    _running: [Guarded; 2],
}

impl Monitoring {
    /// Returns once every process of the fleet has been scraped.
    pub async fn start(fleet: &Fleet) -> Monitoring {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let told = Arc::default();
        let webhook = receive(Arc::clone(&told)).await;
        let (port, alertmanager) = (free_port(), free_port());
        configure(directory.path(), fleet, &webhook, alertmanager);
        let mut alerting = server(directory.path(), "prometheus-alertmanager", alertmanager);
        alerting
            .args(["--config.file=alertmanager.yml", "--storage.path=kept"])
            // It needs nobody beside it.
            .arg("--cluster.listen-address=");
        let mut scraping = server(directory.path(), "prometheus", port);
        scraping.args(["--config.file=prometheus.yml", "--storage.tsdb.path=series"]);
        let running = [alerting, scraping]
            .map(|command| Guarded::spawn(command).expect("scripts/install.sh test installs it"));
        let monitoring = Monitoring {
            told,
            port,
            http: reqwest::Client::new(),
            directory,
            _running: running,
        };
        let processes = fleet.gateways.len() + fleet.dispatchers.len();
        let unseen = async || processes - monitoring.count("up == 1").await;
        eventually("all are scraped", PATIENCE, unseen, || monitoring.log()).await;
        monitoring
    }

    /// How many series a query gives; 0 while Prometheus does not answer.
    pub async fn count(&self, query: &str) -> usize {
        let query = [("query", query)];
        match self.api("query", &query).await {
            Some(answer) => answer["result"].as_array().map_or(0, Vec::len),
            None => 0,
        }
    }

    /// What `/api/v1/{path}` says; `None` while it does not.
    pub async fn api(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}/api/v1/{path}", self.port);
        let url = reqwest::Url::parse_with_params(&url, query).expect("an address");
        let answer = self.http.get(url).send().await.ok()?;
        let mut answer: Value = answer.json().await.ok()?;
        Some(answer["data"].take())
    }

    /// Labels of the alerts that somebody was told of.
    pub fn told(&self) -> Vec<Value> {
        locked(&self.told).clone()
    }

    pub fn log(&self) -> String {
        let logs = ["prometheus.log", "prometheus-alertmanager.log"];
        let logs = logs.map(|name| std::fs::read_to_string(self.directory.path().join(name)));
        logs.map(Result::unwrap_or_default).join("\n")
    }
}

/// The directory that is shipped.
pub fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/prometheus")
}

/// The shipped files, each second instead of every five, and with this fleet's addresses.
fn configure(directory: &Path, fleet: &Fleet, webhook: &str, alertmanager: u16) {
    let read = |name: &str| std::fs::read_to_string(shipped().join(name)).expect("it is shipped");
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    };
    for rules in ["rules/recording.yml", "rules/alerts.yml"] {
        write(rules, &read(rules));
    }
    let prometheus = read("prometheus.yml");
    let prometheus = replaced(&prometheus, "scrape_interval: 5s", "scrape_interval: 1s");
    let prometheus = replaced(&prometheus, "scrape_timeout: 4s", "scrape_timeout: 1s");
    let prometheus = replaced(
        &prometheus,
        "evaluation_interval: 5s",
        "evaluation_interval: 1s",
    );
    let address = format!("127.0.0.1:{alertmanager}");
    write(
        "prometheus.yml",
        &replaced(&prometheus, "127.0.0.1:9093", &address),
    );
    let told = replaced(
        &read("alertmanager.yml"),
        "http://127.0.0.1:9099/alerts",
        webhook,
    );
    let told = replaced(&told, "group_wait: 5s", "group_wait: 100ms");
    let told = replaced(&told, "group_interval: 1m", "group_interval: 1s");
    write("alertmanager.yml", &told);
    let gateways = fleet.gateways.iter().map(|one| one.admin_port);
    write("targets/gateways.yml", &targets(gateways));
    let dispatchers = fleet.dispatchers.iter().map(|one| one.admin_port);
    write("targets/dispatchers.yml", &targets(dispatchers));
}

fn replaced(text: &str, shipped: &str, own: &str) -> String {
    assert!(text.contains(shipped), "nothing says {shipped:?}");
    text.replace(shipped, own)
}

/// JSON is YAML.
fn targets(ports: impl Iterator<Item = u16>) -> String {
    let addresses: Vec<String> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
    json!([{ "targets": addresses }]).to_string()
}

fn server(directory: &Path, name: &str, port: u16) -> Command {
    let log = std::fs::File::create(directory.join(format!("{name}.log"))).expect("a file");
    let mut command = Command::new(name);
    command
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command
}

/// Address of one who notes what Alertmanager says.
async fn receive(told: Arc<Mutex<Vec<Value>>>) -> String {
    let note = async |State(told): State<Arc<Mutex<Vec<Value>>>>, Json(said): Json<Value>| {
        let alerts = said["alerts"].as_array().cloned().unwrap_or_default();
        let firing = alerts
            .into_iter()
            .filter(|alert| alert["status"] == "firing");
        locked(&told).extend(firing.map(|mut alert| alert["labels"].take()));
    };
    let router = Router::new().route("/alerts", post(note)).with_state(told);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/alerts")
}
