//! The channels of real processes, and what a `kill -9` does to them: nothing is suppressed, and what the relay had taken
//! unnoticed comes once more.

use herald::limits;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};
use testbed::{Api, Fleet, Mail, SmtpServer, Standalone, kafka};

const WAIT: Duration = Duration::from_secs(90);

fn by_mail(user: &str, priority: &str) -> Value {
    json!({
        "target": { "user": user }, "type": "order", "priority": priority, "channels": ["email"],
        "title": "On its way", "body": "Your order is on its way."
    })
}

fn message_id(mail: &Mail) -> String {
    let line = mail
        .text
        .lines()
        .find(|line| line.starts_with("Message-ID:"));
    line.expect("every mail has one").to_owned()
}

/// Without a gateway: a dispatcher that sends mails to this relay.
async fn dispatcher(relay: &SmtpServer, timeout_ms: u32) -> Fleet {
    dispatcher_with(relay, timeout_ms, &[]).await
}

async fn dispatcher_with(
    relay: &SmtpServer,
    timeout_ms: u32,
    further: &[(&'static str, &str)],
) -> Fleet {
    let mut fleet = Fleet::prepare_on(kafka::brokers(), 1, 0, &[]);
    fleet.apply_topics();
    for (key, value) in settings(relay, timeout_ms) {
        fleet.dispatchers[0].process.set(key, &value);
    }
    for (key, value) in further {
        fleet.dispatchers[0].process.set(key, value);
    }
    fleet.run().await;
    fleet
}

fn settings(relay: &SmtpServer, timeout_ms: u32) -> [(&'static str, String); 4] {
    [
        ("email.relay", relay.address()),
        ("email.tls", "none".into()),
        ("email.from", "no-reply@shop.example".into()),
        ("email.timeout_ms", timeout_ms.to_string()),
    ]
}

async fn unsent(api: &Api, posted: &[(String, String)]) -> usize {
    let mut unsent = 0;
    for (user, id) in posted {
        unsent += usize::from(api.state_by("email", id, user).await != "sent");
    }
    unsent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_killed_while_the_relay_has_a_mail_sends_it_once_more() {
    let relay = SmtpServer::start();
    let settings = settings(&relay, 60_000);
    let settings = settings
        .each_ref()
        .map(|(key, value)| (*key, value.as_str()));
    let mut herald = Standalone::start(&settings).await;
    herald.api.enter_address("42", "silent-1@example.com").await;
    let id = herald.api.post(&by_mail("42", "normal")).await.unwrap();
    relay.received(1).await;
    herald.process.kill();
    herald.run().await;
    herald
        .eventually("it is sent", async || {
            herald.api.state_by("email", &id, "42").await == "sent"
        })
        .await;
    let mails = relay.mails();
    assert_eq!(mails.len(), 2);
    assert_eq!(message_id(&mails[0]), message_id(&mails[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_killed_while_the_relay_has_a_mail_sends_it_once_more_when_its_claim_has_ended()
 {
    let relay = SmtpServer::start();
    let mut fleet = dispatcher(&relay, 4_000).await;
    fleet.api.enter_address("42", "silent-1@example.com").await;
    let id = fleet.api.post(&by_mail("42", "normal")).await.unwrap();
    relay.received(1).await;
    fleet.dispatchers[0].process.kill();
    fleet.dispatchers[0].process.start();
    fleet.ready().await;
    let posted = [("42".to_owned(), id)];
    fleet
        .eventually("the mail", WAIT, async || unsent(&fleet.api, &posted).await)
        .await;
    let mails = relay.mails();
    assert_eq!(mails.len(), 2);
    assert_eq!(message_id(&mails[0]), message_id(&mails[1]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_killed_while_one_mail_is_out_repeats_that_one_and_none_that_was_sent_meanwhile()
 {
    let relay = SmtpServer::start();
    let mut fleet = dispatcher(&relay, 6_000).await;
    let mut posted = Vec::new();
    for number in 0..20 {
        let user = format!("u{number}");
        let name = if number == 0 { "silent-1" } else { "u" };
        let address = format!("{name}@{user}.example.com");
        fleet.api.enter_address(&user, &address).await;
        let id = fleet.api.post(&by_mail(&user, "normal")).await.unwrap();
        posted.push((user, id));
        if number == 0 {
            relay.received(1).await;
        }
    }
    let others = &posted[1..];
    fleet
        .eventually("others", WAIT, async || unsent(&fleet.api, others).await)
        .await;
    fleet.dispatchers[0].process.kill();
    fleet.dispatchers[0].process.start();
    fleet.ready().await;
    fleet
        .eventually("mails", WAIT, async || unsent(&fleet.api, &posted).await)
        .await;
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for mail in relay.mails() {
        *times.entry(mail.to).or_default() += 1;
    }
    assert_eq!(times.remove("silent-1@u0.example.com"), Some(2));
    assert_eq!(times.len(), 19);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_comes_after_a_dispatcher_was_killed_is_taken_once_and_not_if_it_was_read_before()
 {
    let relay = SmtpServer::start();
    let turn = [
        ("fallback.push_after_s", "5"),
        ("fallback.email_after_s", "5"),
    ];
    let mut fleet = dispatcher_with(&relay, 2_000, &turn).await;
    let high = |user: &str| json!({ "target": { "user": user }, "type": "order", "priority": "high", "title": "t" });
    let (mut ids, users) = (Vec::new(), ["reader", "other"]);
    for user in users {
        let address = format!("{user}@example.com");
        fleet.api.enter_address(user, &address).await;
        ids.push(fleet.api.post(&high(user)).await.unwrap());
    }
    for (user, id) in users.into_iter().zip(&ids) {
        fleet
            .eventually("its turn is waited for", WAIT, async || {
                usize::from(fleet.api.state_by("email", id, user).await != "pending")
            })
            .await;
    }
    fleet.api.read("reader", &ids[0]).await;
    fleet.dispatchers[0].process.kill();
    fleet.dispatchers[0].process.start();
    fleet.ready().await;
    for (state, user, id) in [("skipped", users[0], &ids[0]), ("sent", users[1], &ids[1])] {
        fleet
            .eventually(state, WAIT, async || {
                usize::from(fleet.api.state_by("email", id, user).await != state)
            })
            .await;
    }
    let to: Vec<String> = relay.mails().into_iter().map(|mail| mail.to).collect();
    assert_eq!(to, ["other@example.com"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mails_that_flow_while_their_dispatcher_is_killed_are_all_sent_and_few_come_twice() {
    const MAILS: usize = 400;
    let relay = SmtpServer::start();
    let mut fleet = dispatcher(&relay, 2_000).await;
    let mut posted = Vec::new();
    for number in 0..MAILS {
        let user = format!("u{number}");
        // Some are put off once, so that delays on the bus are killed too.
        let name = if number % 10 == 0 { "later-1" } else { "u" };
        let address = format!("{name}@{user}.example.com");
        fleet.api.enter_address(&user, &address).await;
        let id = fleet.api.post(&by_mail(&user, "high")).await.unwrap();
        posted.push((user, id));
        if number == MAILS / 2 {
            fleet.dispatchers[0].process.kill();
            fleet.dispatchers[0].process.start();
            fleet.ready().await;
        }
    }
    relay.received(MAILS * 3 / 4).await;
    fleet.dispatchers[0].process.kill();
    fleet.dispatchers[0].process.start();
    fleet.ready().await;
    fleet
        .eventually("mails", WAIT, async || unsent(&fleet.api, &posted).await)
        .await;

    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for mail in relay.mails() {
        *times.entry(mail.to).or_default() += 1;
    }
    assert_eq!(times.len(), MAILS, "everybody has a mail");
    let repeats: usize = times.values().map(|times| times - 1).sum();
    println!("{repeats} of {MAILS} mails came twice, two kills");
    // What the relay had in hand at a kill.
    assert!(
        repeats <= 2 * limits::EMAIL_CONNECTIONS,
        "{repeats} repeats"
    );
    assert!(times.values().all(|times| *times <= 3), "{times:?}");
}
