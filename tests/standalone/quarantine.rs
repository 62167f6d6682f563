//! `herald ctl quarantine`, as an operator uses it.

use super::ctl::{ctl, json, refused};
use serde_json::json;
use testbed::{FcmServer, Standalone};

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_were_called_gone_are_listed_restored_and_removed_from_a_shell() {
    let google = FcmServer::start().await;
    let (account, url, authority) = (
        google.service_account_file(),
        google.url(),
        google.ca_file(),
    );
    let herald = Standalone::start(&[
        ("fcm.service_account_file", account.to_str().unwrap()),
        ("fcm.url", &url),
        ("fcm.ca_file", authority.to_str().unwrap()),
        ("fcm.gone_window", "10"),
    ])
    .await;
    for n in 0..8 {
        let device = json!({ "kind": "fcm", "token": format!("token{n}") });
        let id = format!("phone{n}");
        herald.api.enter_device("42", &id, &device).await;
    }
    google.call_all_gone(true);
    let send = ["send", "--user", "42", "--channels", "push", "--title", "x"];
    ctl(&herald, &send);
    let all = || json(&herald, &["quarantine", "list"]);
    herald
        .eventually("all are there", async || {
            all().as_array().unwrap().len() == 8
        })
        .await;
    let log = herald.process.log();
    for part in [
        "\"provider\":\"fcm\"",
        "fcm.project_id",
        "quarantine restore --kind fcm",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    let listed = ctl(&herald, &["quarantine", "list", "--kind", "fcm"]);
    assert!(
        listed.contains("fcm      user 42 device phone0 since "),
        "{listed}"
    );
    assert_eq!(ctl(&herald, &["quarantine", "list", "--kind", "apns"]), "");

    google.call_all_gone(false);
    let restored = ctl(&herald, &["quarantine", "restore", "42", "phone0"]);
    assert_eq!(restored, "1 restored\n");
    ctl(&herald, &send);
    herald
        .eventually("it is sent to again", async || google.taken().len() == 1)
        .await;
    assert_eq!(google.asked("token1"), 1);
    let removed = ctl(&herald, &["quarantine", "confirm", "42", "phone1"]);
    assert_eq!(removed, "1 removed\n");
    let removed = json(&herald, &["quarantine", "confirm", "--kind", "fcm"]);
    assert_eq!(removed, json!({ "removed": 6 }));
    assert_eq!(ctl(&herald, &["quarantine", "list"]), "");

    for (arguments, status, told) in [
        (
            vec!["quarantine", "restore", "42", "phone1"],
            1,
            "no such device in quarantine",
        ),
        (
            vec!["quarantine", "list", "--kind", "email"],
            64,
            "apns, fcm or web_push",
        ),
        (vec!["quarantine", "confirm"], 2, "required"),
        (vec!["quarantine", "confirm", "42"], 2, "required"),
    ] {
        refused(&herald, &arguments, status, told);
    }
}
