//! `herald ctl spend`, as an operator uses it, and a budget that is raised while it runs.

use super::ctl::{ctl, json, refused};
use std::fs;
use testbed::{SmtpServer, Standalone};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_spent_is_shown_and_a_raised_budget_counts_at_once() {
    let relay = SmtpServer::start();
    let address = relay.address();
    let mut herald = Standalone::prepare(&[
        ("email.relay", address.as_str()),
        ("email.tls", "none"),
        ("email.from", "no-reply@shop.example"),
        ("budgets.currency", "EUR"),
        ("budgets.email_price", "0.5"),
    ]);
    let file = herald.file("herald.toml");
    let set_budget = |a_day: &str| {
        fs::write(&file, format!("[budgets]\nemail_a_day = {a_day}\n")).unwrap();
    };
    set_budget("1.0");
    herald
        .process
        .add_arguments(&["--config", file.to_str().unwrap()]);
    herald.run().await;
    herald.api.enter_address("42", "ada@example.com").await;
    let send = [
        "send",
        "--user",
        "42",
        "--channels",
        "email",
        "--title",
        "t",
    ];
    let id = ctl(&herald, &send).trim().to_owned();
    herald
        .eventually("it is sent", async || {
            herald.api.state_by("email", &id, "42").await == "sent"
        })
        .await;
    let shown = ctl(&herald, &["spend"]);
    let line = "email     0.5 EUR spent, 0.5 left of 1.0, 0.2 of it for critical and codes";
    assert!(shown.lines().any(|shown| shown == line), "{shown}");
    assert!(
        shown.contains("sms       0.0 EUR spent, no budget"),
        "{shown}"
    );
    assert_eq!(json(&herald, &["spend"])["channels"][1]["left"], 0.5);
    refused(&herald, &send, 1, "429");
    set_budget("2.0");
    herald.process.signal(libc::SIGHUP);
    herald
        .eventually("the budget is raised", async || {
            json(&herald, &["spend"])["channels"][1]["budget"] == 2.0
        })
        .await;
    ctl(&herald, &send);
}
