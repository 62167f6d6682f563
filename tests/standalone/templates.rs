//! Templates of a running process: read again by SIGHUP.

use serde_json::json;
use std::fs;
use testbed::{Client, Standalone};

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_was_changed_shows_from_a_sighup_on_and_one_with_a_fault_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("order/in_app.en.title");
    fs::create_dir(file.parent().unwrap()).unwrap();
    fs::write(&file, "Order {{ data.number }}").unwrap();
    let path = directory.path().to_str().unwrap();
    let herald = Standalone::start(&[("templates.path", path)]).await;
    let client = Client::start(vec![herald.ws_url()], herald.token("42"));
    let title = async || {
        let body = json!({ "target": { "user": "42" }, "type": "order", "data": { "number": 7 } });
        let id = herald.api.post(&body).await.unwrap();
        herald
            .eventually("it came", async || client.times(&id) > 0)
            .await;
        client.seen.lock().unwrap().titles[&id].clone()
    };
    assert_eq!(title().await, "Order 7");
    fs::write(&file, "Your order {{ data.number }}").unwrap();
    herald.process.signal(libc::SIGHUP);
    herald
        .eventually("it shows", async || title().await == "Your order 7")
        .await;
    fs::write(&file, "{{ data.number").unwrap();
    herald.process.signal(libc::SIGHUP);
    herald
        .eventually("the fault is told", async || {
            herald.process.log().contains("order/in_app.en.title:1")
        })
        .await;
    assert_eq!(title().await, "Your order 7");
}
