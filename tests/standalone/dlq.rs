//! `herald ctl dlq`, as an operator uses it.

use super::ctl::{ctl, json, refused};
use std::fs;
use testbed::Standalone;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_listed_shown_replayed_and_dropped_from_a_shell() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("order/in_app.en.title");
    fs::create_dir(file.parent().unwrap()).unwrap();
    fs::write(&file, "Dear\n{{ data.nobody }}").unwrap();
    let path = directory.path().to_str().unwrap();
    let herald = Standalone::start(&[("templates.path", path)]).await;
    assert_eq!(ctl(&herald, &["dlq", "list"]), "");
    let id = ctl(&herald, &["send", "--user", "42", "--type", "order"]);
    let id = id.trim();
    let first = listed(&herald).await;
    let line = ctl(&herald, &["dlq", "list", "--topic", "raw.g1"]);
    for part in [
        &first,
        "template",
        id,
        "order/in_app.en.title:2: undefined value",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert_eq!(ctl(&herald, &["dlq", "list", "--topic", "email"]), "");
    let shown = ctl(&herald, &["dlq", "show", &first]);
    assert!(shown.contains("\"dlq_cause\": \"template\""), "{shown}");

    // It fails once more, which is another one.
    let replayed = ctl(&herald, &["dlq", "replay", "--cause", "template"]);
    assert_eq!(replayed, "1 replayed\n");
    let second = listed(&herald).await;
    assert_ne!(first, second);
    let dropped = json(&herald, &["dlq", "drop", &second]);
    assert_eq!(dropped["dropped"][0], second.as_str());
    assert_eq!(ctl(&herald, &["dlq", "list"]), "");
    let all = ctl(&herald, &["dlq", "list", "--all"]);
    assert!(
        all.contains("(replayed)") && all.contains("(dropped)"),
        "{all}"
    );

    for (arguments, status, told) in [
        (vec!["dlq", "drop", &first, "3/999"], 1, "replayed already"),
        (vec!["dlq", "show", "first"], 64, "PARTITION/OFFSET"),
        (vec!["dlq", "replay"], 2, "required"),
    ] {
        refused(&herald, &arguments, status, told);
    }
}

/// Where the one that is there stands.
async fn listed(herald: &Standalone) -> String {
    let list = || json(herald, &["dlq", "list"]);
    herald
        .eventually("it stands there", async || list()[0]["at"].is_string())
        .await;
    list()[0]["at"].as_str().unwrap().to_owned()
}
