//! The whole path in one process: posted, received, acknowledged, stored; and all of it again after a kill.

#[path = "standalone/ctl.rs"]
mod ctl;
#[path = "standalone/dlq.rs"]
mod dlq;
#[path = "standalone/fsync.rs"]
mod fsync;
#[path = "standalone/greeting.rs"]
mod greeting;
#[path = "standalone/memory.rs"]
mod memory;
#[path = "standalone/presence.rs"]
mod presence;
#[path = "standalone/privacy.rs"]
mod privacy;
#[path = "standalone/quarantine.rs"]
mod quarantine;
#[path = "standalone/refused.rs"]
mod refused;
#[path = "standalone/secrets.rs"]
mod secrets;
#[path = "standalone/spend.rs"]
mod spend;
#[path = "standalone/suppressions.rs"]
mod suppressions;
#[path = "standalone/templates.rs"]
mod templates;
#[path = "standalone/threads.rs"]
mod threads;

use reqwest::Method;
use serde_json::json;
use std::{
    collections::BTreeSet,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};
use testbed::{Api, Client, PATIENCE, Standalone, keep_secret};

async fn a_notification_arrives_and_its_acknowledgement_is_stored(engine: &str) {
    let herald = Standalone::start(&[("gateway.engine", engine)]).await;
    let metrics = herald.metrics().await;
    assert!(
        metrics.contains(&format!("herald_engine{{engine=\"{engine}\"}} 1")),
        "{metrics}"
    );
    let phone = Client::start(vec![herald.ws_url()], herald.token("42"));
    let laptop = Client::start(vec![herald.ws_url()], herald.token("42"));
    herald
        .eventually("both devices are connected", async || {
            phone.is_open() && laptop.is_open()
        })
        .await;

    let id = herald.api.notify("42", "Hello").await.unwrap();
    herald
        .eventually("both devices have it", async || {
            phone.times(&id) == 1 && laptop.times(&id) == 1
        })
        .await;
    herald
        .eventually("it counts as delivered", async || {
            herald.api.state(&id, "42").await == "delivered"
        })
        .await;

    phone.send(json!({ "type": "read", "ids": [id] }));
    herald
        .eventually("the other device learns that it was read", async || {
            laptop.seen.lock().unwrap().read.contains(&id)
        })
        .await;
    assert_eq!(herald.api.state(&id, "42").await, "read");
    assert_eq!(
        herald.api.fetch("/v1/users/42/notifications").await["unread"],
        0
    );
    assert_eq!(phone.times(&id), 1, "once on each device");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_arrives_and_its_acknowledgement_is_stored_on_io_uring() {
    a_notification_arrives_and_its_acknowledgement_is_stored("uring").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_arrives_and_its_acknowledgement_is_stored_on_epoll() {
    a_notification_arrives_and_its_acknowledgement_is_stored("epoll").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_to_all_or_to_a_list_reaches_each_and_waits_for_the_absent() {
    let herald = Standalone::start(&[]).await;
    let present = Client::start(vec![herald.ws_url()], herald.token("present"));
    herald
        .eventually("it is connected", async || present.is_open())
        .await;
    let all = json!({ "target": { "all": true }, "type": "news", "title": "to all" });
    let to_all = herald.api.post(&all).await.unwrap();
    let list = json!({ "target": { "users": ["present", "absent"] }, "type": "news", "title": "to a list" });
    let to_list = herald.api.post(&list).await.unwrap();
    herald
        .eventually("the present one has both", async || {
            present.times(&to_all) >= 1 && present.times(&to_list) >= 1
        })
        .await;
    let absent = Client::start(vec![herald.ws_url()], herald.token("absent"));
    herald
        .eventually("the absent one gets both when it comes", async || {
            absent.times(&to_all) >= 1 && absent.times(&to_list) >= 1
        })
        .await;
}

/// A plain EventSource has nothing but the `id:` lines: they must be there from the start.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_resumes_over_both_streams_by_the_id_it_was_given() {
    let herald = Standalone::start(&[]).await;
    herald.api.notify("42", "before").await.unwrap();
    let (first, id) = events_until(&herald, None, &["\"before\"", "\nid:"]).await;
    let id = id.unwrap_or_else(|| panic!("no id in {first}"));
    herald.api.notify("42", "missed").await.unwrap();
    let all = json!({ "target": { "all": true }, "type": "news", "title": "missed by all" });
    herald.api.post(&all).await.unwrap();
    // The one to all may still be on its way and come live, before the sync.
    let all = ["\"missed\"", "\"missed by all\"", "\"recovered\":true"];
    let (resumed, _) = events_until(&herald, Some(&id), &all).await;
    assert!(!resumed.contains("\"before\""), "{resumed}");
}

/// Reads the stream until all of these came; answers what came and the last id.
async fn events_until(
    herald: &Standalone,
    last_event_id: Option<&str>,
    wanted: &[&str],
) -> (String, Option<String>) {
    let url = format!("http://127.0.0.1:{}/sse/notifications", herald.client_port);
    let mut request = reqwest::Client::new()
        .get(url)
        .bearer_auth(herald.token("42"));
    if let Some(id) = last_event_id {
        request = request.header("last-event-id", id);
    }
    let mut response = request.send().await.expect("it answers");
    let mut text = String::new();
    let reading = async {
        while let Some(chunk) = response.chunk().await.expect("the stream goes on") {
            text.push_str(&String::from_utf8_lossy(&chunk));
            if wanted.iter().all(|one| text.contains(one)) && text.ends_with("\n\n") {
                return;
            }
        }
    };
    let came = tokio::time::timeout(PATIENCE, reading).await;
    assert!(
        came.is_ok(),
        "{wanted:?} never came: {text}\n{}",
        herald.process.log()
    );
    let id = text.lines().rev().find_map(|line| line.strip_prefix("id:"));
    let id = id.map(|id| id.trim().to_owned());
    (text, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_load_it_still_has_everything_it_answered_202() {
    let mut herald = Standalone::start(&[]).await;
    let clients: Vec<Client> = (0..4)
        .map(|user| Client::start(vec![herald.ws_url()], herald.token(&format!("u{user}"))))
        .collect();
    let accepted: Arc<Mutex<BTreeSet<(usize, String)>>> = Arc::default();
    for round in 0..3 {
        let posting: Vec<_> = (0..4)
            .map(|user| {
                let accepted = accepted.clone();
                let herald = &herald;
                async move {
                    let name = format!("u{user}");
                    while let Ok(id) = herald.api.notify_once(&name, &format!("r{round}")).await {
                        accepted.lock().unwrap().insert((user, id));
                    }
                }
            })
            .collect();
        let before = accepted.lock().unwrap().len();
        let pid = herald.process.pid();
        let kill = async {
            // At least 100 more, so that the kill hits a busy process.
            while accepted.lock().unwrap().len() < before + 100 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
            assert!(killed.expect("kill runs").success());
        };
        tokio::join!(futures::future::join_all(posting), kill);
        herald.process.kill();
        herald.run().await;
    }
    let accepted = accepted.lock().unwrap().clone();
    herald
        .eventually("every accepted one is on its device", async || {
            accepted
                .iter()
                .all(|(user, id)| clients[*user].times(id) >= 1)
        })
        .await;
    herald
        .eventually("no device sees a hole", async || {
            clients.iter().all(|c| !c.has_hole())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_were_replaced_count_from_a_sighup_on() {
    let mut herald = Standalone::start(&[]).await;
    let (old_token, old_key) = (herald.token("42"), herald.api_key());
    let connected = Client::start(vec![herald.ws_url()], old_token.clone());
    herald
        .eventually("a client is in", async || connected.is_open())
        .await;

    for name in ["token.key", "admin.key"] {
        let key = format!("{name} of another day, long enough");
        keep_secret(&key);
        std::fs::write(herald.file(name), key).unwrap();
    }
    herald.process.signal(libc::SIGHUP);
    herald.api = Api::new(herald.http_port, herald.api_key());
    herald
        .eventually("the new admin key is taken", async || {
            herald.api.notify_once("42", "new").await.is_ok()
        })
        .await;
    let old_api = Api::new(herald.http_port, old_key);
    let refused = old_api.notify_once("42", "old").await.unwrap_err();
    assert!(refused.contains("401"), "{refused}");

    let newcomer = Client::start(vec![herald.ws_url()], herald.token("42"));
    let late = Client::start(vec![herald.ws_url()], old_token);
    herald
        .eventually("the new token is taken", async || newcomer.is_open())
        .await;
    herald
        .eventually("the old one is refused", async || {
            let metrics = herald.metrics().await;
            metrics.contains("herald_refused_total{cause=\"bad_signature\"}")
        })
        .await;
    assert!(!late.is_open() && connected.is_open());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_port_of_an_operator_answers_an_error_in_words() {
    let herald = Standalone::start(&[]).await;
    let (http, admin) = (herald.http_port, herald.admin_port);
    let client = reqwest::Client::new();
    for (method, port, path, status, code) in [
        (Method::GET, http, "console/session", 400, "bad_target"),
        (
            Method::GET,
            http,
            "console/session?user=",
            400,
            "bad_target",
        ),
        (Method::GET, admin, "nothing", 404, "not_found"),
        (Method::POST, admin, "readyz", 405, "method"),
        (Method::GET, admin, "connections/..%0A", 400, "bad_target"),
    ] {
        let url = format!("http://127.0.0.1:{port}/{path}");
        let answer = client.request(method, &url).send().await.unwrap();
        let answered = answer.status().as_u16();
        let body: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(
            (answered, &body["error"]["code"]),
            (status, &json!(code)),
            "{path}"
        );
        assert!(body["error"]["message"].is_string(), "{path}: {body}");
    }
}
