//! `herald ctl erase` and `herald ctl export`, as an operator uses them.

use crate::ctl::{ctl, json};
use testbed::Standalone;

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_exported_and_forgotten_from_a_shell() {
    let herald = Standalone::start(&[]).await;
    ctl(&herald, &["send", "--user", "42", "--title", "Shipped"]);
    herald
        .eventually("it is stored", async || {
            let export = json(&herald, &["export", "42"]);
            export["inbox"][0]["content"]["title"] == "Shipped"
        })
        .await;
    let done = json(&herald, &["erase", "42", "--wait"]);
    assert_eq!(done["state"], "done");
    assert_eq!(done["proof"]["removed"]["inbox"], 1);
    let export = json(&herald, &["export", "42"]);
    assert_eq!(export["inbox"], serde_json::json!([]));
    assert_eq!(export["deliveries"], serde_json::json!([]));
}
