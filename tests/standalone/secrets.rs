//! At the finest level everything is logged but secrets.

use serde_json::json;
use testbed::{Client, Standalone, keep_secret};

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_level_no_token_key_or_secret_is_logged() {
    let herald = Standalone::start(&[("log.level", "trace")]).await;
    let token = herald.token("42");
    let devices = [
        Client::start(vec![herald.ws_url()], token.clone()),
        Client::start_by_address(vec![herald.ws_url()], token.clone()),
    ];
    let sse = format!("http://127.0.0.1:{}/sse", herald.client_port);
    let http = reqwest::Client::new();
    let stream = http.get(format!("{sse}/notifications?token={token}"));
    let stream = stream.send().await.expect("it answers");
    assert_eq!(stream.status(), 200);
    let id = herald.api.notify("42", "Hello").await.unwrap();
    herald
        .eventually("both sockets have it", async || {
            devices.iter().all(|device| device.times(&id) == 1)
        })
        .await;
    let read = http.post(format!("{sse}/read?token={token}"));
    let read = read.json(&json!({ "ids": [id] })).send().await.unwrap();
    assert!(read.status().is_success(), "{}", read.status());
    devices[0].send(json!({ "type": "auth", "token": token }));

    let made = http.post(herald.api.url("/v1/api-keys"));
    let made = made
        .bearer_auth(herald.api_key())
        .json(&json!({ "producer": "shop" }))
        .send()
        .await
        .unwrap();
    let made: serde_json::Value = made.json().await.unwrap();
    let key = made["key"].as_str().expect("a key").to_owned();
    keep_secret(&key);
    // What nobody may use: a token of another's making, and a key with a slip of the pen.
    let (stranger, slip) = (format!("{token}x"), format!("{key}x"));
    let refused = http.get(format!("{sse}/notifications?token={stranger}"));
    assert_eq!(refused.send().await.unwrap().status(), 401);
    let inbox = herald.api.url("/v1/users/42/notifications");
    let refused = http.get(inbox).bearer_auth(&slip).send().await.unwrap();
    assert_eq!(refused.status(), 401);
    herald
        .eventually("the read is known", async || {
            herald.api.state(&id, "42").await == "read"
        })
        .await;

    let log = herald.process.log();
    assert!(log.contains("\"level\":\"TRACE\""), "everything is logged");
    for secret in [&token, &key, &herald.api_key(), &herald.token_secret()] {
        let told = log.lines().find(|line| line.contains(secret.as_str()));
        assert_eq!(told, None, "{secret}");
    }
}
