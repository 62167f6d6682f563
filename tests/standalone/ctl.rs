//! `herald ctl` as an operator types it: a token that connects, a key that sends, what is shown after that.

use reqwest::Method;
use serde_json::{Value, json};
use std::process::{Command, Output, Stdio};
use testbed::{Client, Standalone, herald::binary, keep_secret};

/// Runs it on the standalone's data directory.
pub fn run(herald: &Standalone, arguments: &[&str]) -> Output {
    Command::new(binary("herald"))
        .arg("ctl")
        .args(arguments)
        .arg("--data-dir")
        .arg(herald.data.path())
        .stdin(Stdio::null())
        .output()
        .expect("it runs")
}

/// The same; answers what it printed.
pub fn ctl(herald: &Standalone, arguments: &[&str]) -> String {
    let output = run(herald, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// The same, in vain: its exit status, and what its error says among other things.
pub fn refused(herald: &Standalone, arguments: &[&str], status: i32, told: &str) {
    let output = run(herald, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(status),
        "{arguments:?}: {errors}"
    );
    assert!(errors.contains(told), "{arguments:?}: {errors}");
}

pub fn json(herald: &Standalone, arguments: &[&str]) -> Value {
    let printed = ctl(herald, &[arguments, &["--json"]].concat());
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn by_its_data_directory_ctl_makes_a_token_and_a_key_sends_and_shows_what_came_of_it() {
    let herald = Standalone::start(&[]).await;
    let token = ctl(&herald, &["token", "--user", "42"]);
    let client = Client::start(vec![herald.ws_url()], token.trim().to_owned());
    herald
        .eventually("the token connects", async || client.is_open())
        .await;

    let key = ctl(&herald, &["api-key", "--producer", "shop"]);
    let key = key.trim();
    assert!(key.starts_with("herald_"), "{key}");
    keep_secret(key);
    let key_file = herald.file("shop.key");
    std::fs::write(&key_file, key).unwrap();
    let key_file = key_file.to_str().expect("a plain path");
    let send = [
        "send",
        "--user",
        "42",
        "--title",
        "Shipped",
        "--data",
        "{\"order\":7}",
    ];
    let id = ctl(
        &herald,
        &[&send[..], &["--api-key-file", key_file]].concat(),
    );
    let id = id.trim();
    herald
        .eventually("it is delivered", async || {
            client.times(id) == 1 && herald.api.state(id, "42").await == "delivered"
        })
        .await;
    assert_eq!(client.seen.lock().unwrap().titles[id], "Shipped");
    // That key is a producer's: it makes no others.
    let made = Command::new(binary("herald"))
        .args([
            "ctl",
            "api-key",
            "--producer",
            "other",
            "--api-key-file",
            key_file,
        ])
        .arg("--data-dir")
        .arg(herald.data.path())
        .output();
    assert_eq!(made.expect("it runs").status.code(), Some(1));

    let user = ctl(&herald, &["user", "42"]);
    for line in [
        "user      42",
        "unread    1",
        "connected gw-1 (shard 0, live)",
        &format!("outcome   {id} in_app delivered (1 devices, gw-1"),
    ] {
        // The gateway's life follows its name.
        let is_it = |l: &str| l == line || (line.ends_with("gw-1") && l.starts_with(line));
        assert!(user.lines().any(is_it), "{line}\n{user}");
    }
    assert_eq!(json(&herald, &["user", "42"])["unread"], 1);

    herald
        .eventually("the gateway has told of its connection", async || {
            json(&herald, &["status"])["gateways"][0]["connections"] == 1
        })
        .await;
    let status = ctl(&herald, &["status"]);
    for line in [
        "bus       ok",
        "registry  ok",
        "store     ok",
        "gateway   gw-1  shard 0  1 connections  live",
    ] {
        assert!(status.lines().any(|l| l == line), "{line}\n{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctl_sends_to_tags_to_a_segment_and_later_as_the_api_does() {
    let herald = Standalone::start(&[]).await;
    let wanted = json!({ "tags": ["pro"] });
    herald
        .api
        .call(Method::PUT, "/v1/users/42/preferences", &wanted)
        .await;
    let some = ["send", "--all", "--tags", "pro,at", "--title", "To some"];
    let some = ctl(&herald, &some).trim().to_owned();
    let shown = async |user: &str| {
        let path = format!("/v1/users/{user}/notifications");
        let inbox = herald.api.fetch(&path).await;
        let items = inbox["items"].as_array().expect("a list").iter();
        items
            .map(|item| item["id"].as_str().expect("an id").to_owned())
            .collect::<Vec<_>>()
    };
    herald
        .eventually("who has the tag is shown it", async || {
            shown("42").await == [some.clone()]
        })
        .await;
    assert!(shown("43").await.is_empty());

    let segment = herald
        .api
        .call(Method::POST, "/v1/segments", &json!({}))
        .await;
    let segment = segment["id"].as_str().expect("an id").to_owned();
    let path = format!("/v1/segments/{segment}/users");
    let users = json!({ "users": ["43"] });
    herald.api.call(Method::POST, &path, &users).await;
    let id = ctl(&herald, &["send", "--segment", &segment]);
    herald
        .eventually("its users have it", async || {
            shown("43").await == [id.trim()]
        })
        .await;

    let later = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1)).as_millisecond();
    for at in [
        jiff::Timestamp::from_millisecond(later)
            .unwrap()
            .to_string(),
        later.to_string(),
    ] {
        let kept = json(&herald, &["send", "--user", "42", "--schedule-at", &at]);
        assert_eq!(kept["durability"], "stored", "{at}");
        let id = kept["id"].as_str().expect("an id");
        let path = format!("/v1/notifications/{id}/delivery");
        assert_eq!(herald.api.fetch(&path).await["scheduled_at"], later);
        assert_eq!(ctl(&herald, &["cancel", id]), format!("{id} cancelled\n"));
        refused(
            &herald,
            &["cancel", id],
            1,
            "no such notification is scheduled",
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ctl_can_not_send_is_named() {
    let herald = Standalone::start(&[]).await;
    let strange = uuid::Uuid::now_v7().to_string();
    for (arguments, status, told) in [
        // By the command line itself.
        (
            &["--user", "42", "--tags", "pro"][..],
            2,
            "'--user <USER>' cannot be used with '--tags <TAGS>'",
        ),
        (&["--tags", "pro"], 2, "--all"),
        (&["--segment", &strange, "--all"], 2, "--all"),
        // By the dispatcher.
        (&["--all", "--tags", ""], 1, "target.tags[0]"),
        (&["--segment", "x"], 1, "target.segment"),
        (&["--segment", &strange], 1, "no segment of yours"),
        (
            &["--user", "42", "--schedule-at", "tomorrow"],
            1,
            "schedule_at: is not a time",
        ),
        (
            &["--user", "42", "--schedule-at", "5"],
            1,
            "schedule_at: is over",
        ),
    ] {
        refused(&herald, &[&["send"], arguments].concat(), status, told);
    }
}
