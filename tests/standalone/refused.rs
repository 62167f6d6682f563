//! A provider that does not take us for who we are.

use super::ctl::ctl;
use serde_json::json;
use testbed::{ApnsServer, Standalone, apns::device_token, certificates};

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_is_told_in_the_log_that_a_provider_refuses_us_and_why() {
    let apple = ApnsServer::start().await;
    // Another one than that which Apple knows.
    certificates::make_key(&apple.key_file(), certificates::P256);
    let (key, authority, address) = (apple.key_file(), apple.ca_file(), apple.address());
    let [key_id, team_id, topic] = apple.account();
    let herald = Standalone::start(&[
        ("apns.key_file", key.to_str().unwrap()),
        ("apns.ca_file", authority.to_str().unwrap()),
        ("apns.key_id", key_id),
        ("apns.team_id", team_id),
        ("apns.topic", topic),
        ("apns.address", &address),
    ])
    .await;
    let device = json!({ "kind": "apns", "token": device_token("phone") });
    herald.api.enter_device("42", "phone", &device).await;
    let send = ["send", "--user", "42", "--channels", "push", "--title", "x"];
    ctl(&herald, &send);
    herald
        .eventually("it is said", async || {
            let log = herald.process.log();
            let line = log.lines().find(|line| line.contains("refuses us"));
            line.is_some_and(|line| {
                line.contains("\"provider\":\"apns\"") && line.contains("InvalidProviderToken")
            })
        })
        .await;
}
