//! The budget of memory, changed while it runs.

use std::fs;
use testbed::{Client, Standalone};

const BEFORE: u64 = 1 << 30;
const AFTER: u64 = 1 << 29;

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_budget_is_taken_over_by_sighup_and_a_wrong_one_changes_nothing() {
    let mut herald = Standalone::prepare(&[]);
    let file = herald.file("herald.toml");
    let set_budget = |bytes: u64| {
        fs::write(&file, format!("[gateway]\nmemory_bytes_max = {bytes}\n")).unwrap();
    };
    set_budget(BEFORE);
    let path = file.to_str().unwrap();
    herald.process.add_arguments(&["--config", path]);
    herald.run().await;
    let has = async |bytes: u64| {
        let sample = format!("herald_memory_budget_bytes {bytes}\n");
        herald.metrics().await.contains(&sample)
    };
    assert!(has(BEFORE).await, "{}", herald.metrics().await);

    set_budget(1);
    herald.process.signal(libc::SIGHUP);
    let is_refused = async || {
        let log = herald.process.log();
        let said = log.lines().find(|line| line.contains("re-reading failed"));
        said.is_some_and(|line| line.contains("gateway.memory_bytes_max"))
    };
    herald.eventually("it says what is wrong", is_refused).await;
    assert!(has(BEFORE).await, "{}", herald.metrics().await);
    let client = Client::start(vec![herald.ws_url()], herald.token("42"));
    herald
        .eventually("a newcomer is let in", async || client.is_open())
        .await;

    set_budget(AFTER);
    herald.process.signal(libc::SIGHUP);
    herald
        .eventually("the new one counts", async || has(AFTER).await)
        .await;
    assert!(client.is_open());
}
