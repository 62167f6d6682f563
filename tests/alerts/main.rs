//! The rules of `config/prometheus`: what they say of made-up hosts, and that a fleet that runs is really heard of.

use serde_json::{Value, json};
use std::{collections::BTreeSet, path::Path, process::Command};
use testbed::{
    Client, Fleet, Monitoring, PATIENCE, certificates, free_port, kafka::KafkaBroker,
    monitoring::shipped,
};

/// By Prometheus's own tool; it says what differs.
fn promtool(arguments: &[&str], file: &Path) {
    let output = Command::new("promtool").args(arguments).arg(file).output();
    let output = output.expect("promtool is installed (scripts/install.sh test)");
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(output.status.success(), "{}", said.concat());
}

#[test]
fn every_rule_says_what_it_should_of_hosts_just_within_and_just_beyond_their_limits() {
    promtool(&["check", "config"], &shipped().join("prometheus.yml"));
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/alerts/rules.yml");
    promtool(&["test", "rules"], &tests);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_loses_its_broker_is_heard_of_by_whoever_is_on_call() {
    let mut broker = KafkaBroker::start();
    let certificate = tempfile::tempdir().expect("a temporary directory");
    let fleet = prepared(broker.brokers(), certificate.path()).await;
    let client = Client::start(fleet.ws_urls(0), fleet.token("ada"));
    fleet
        .eventually("the client connects", PATIENCE, async || {
            usize::from(!client.is_open())
        })
        .await;

    // Nobody listens at the relay; what is told of a provider is there with its first message.
    fleet.api.enter_address("ada", "ada@example.com").await;
    let mail = json!({ "target": { "user": "ada" }, "type": "test", "channels": ["email"] });
    fleet.api.post(&mail).await.expect("accepted");

    let monitoring = Monitoring::start(&fleet).await;
    let unseen = async || usize::from(monitoring.count("herald_breaker_open").await == 0);
    fleet
        .eventually("the mail is tried", PATIENCE, unseen)
        .await;
    let rules = rules(&monitoring).await;
    are_explained(&rules);
    look_at_what_there_is(&rules, &monitoring).await;

    // It is good for two days.
    let served_by_tls = instance(fleet.gateways[0].admin_port);
    let expiring = [
        ("HeraldCertificateExpires", &served_by_tls),
        ("HeraldCertificateExpiresNow", &served_by_tls),
    ];
    is_told(&monitoring, &expiring).await;
    let others = "ALERTS{alertstate=\"firing\",alertname!=\"HeraldProviderFailing\"}";
    assert_eq!(monitoring.count(others).await, 2, "nothing else");

    broker.kill();
    fleet.api.notify("ada", "spooled").await.expect("accepted");
    let [gateway, other] = [0, 1].map(|n| instance(fleet.gateways[n].admin_port));
    let dispatcher = instance(fleet.dispatchers[0].admin_port);
    let faults = [
        ("HeraldSpoolInUse", &dispatcher),
        ("HeraldCanarySilent", &gateway),
        ("HeraldCanarySilent", &other),
    ];
    is_told(&monitoring, &faults).await;
}

/// A dispatcher that sends e-mail and push, and two gateways, the first of which speaks TLS: all that rules look at is there.
async fn prepared(brokers: String, certificate: &Path) -> Fleet {
    certificates::make(certificate, &["server"]);
    let file = |name: &str| certificate.join(name).display().to_string();
    let mut fleet = Fleet::prepare_on(brokers, 1, 2, &[]);
    let gateway = &mut fleet.gateways[0].process;
    gateway.set("gateway.tls_listen", &instance(free_port()));
    gateway.set("tls.certificate_file", &file("server.pem"));
    gateway.set("tls.key_file", &file("server.key"));
    let dispatcher = &mut fleet.dispatchers[0].process;
    dispatcher.set("email.relay", &instance(free_port()));
    dispatcher.set("email.tls", "none");
    dispatcher.set("email.from", "shop@example.com");
    certificates::make_key(&certificate.join("vapid.pem"), certificates::P256);
    dispatcher.set("web_push.vapid_key_file", &file("vapid.pem"));
    dispatcher.set("web_push.contact", "mailto:ops@shop.example");
    fleet.apply_topics();
    fleet.nobody_owned_a_shard();
    fleet.run().await;
    fleet
}

/// As Prometheus names a process.
fn instance(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

async fn rules(monitoring: &Monitoring) -> Vec<Value> {
    let answer = monitoring.api("rules", &[]).await.expect("it answers");
    let groups = answer["groups"].as_array().expect("a list");
    let rules = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().expect("a list"));
    rules.cloned().collect()
}

fn are_explained(rules: &[Value]) {
    for alert in rules.iter().filter(|rule| rule["type"] == "alerting") {
        for word in ["summary", "description", "action"] {
            assert!(alert["annotations"][word].is_string(), "{word} of {alert}");
        }
        let severity = &alert["labels"]["severity"];
        assert!(severity == "critical" || severity == "warning", "{alert}");
    }
}

/// Whatever a rule asks for is exported by a process of the fleet, or made by another rule.
async fn look_at_what_there_is(rules: &[Value], monitoring: &Monitoring) {
    let names = monitoring
        .api("label/__name__/values", &[])
        .await
        .expect("it answers");
    let exported: BTreeSet<&str> = names
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let recorded: BTreeSet<&str> = rules
        .iter()
        .filter(|rule| rule["type"] == "recording")
        .filter_map(|rule| rule["name"].as_str())
        .collect();
    assert!(
        recorded.len() > 10 && rules.len() > recorded.len() + 20,
        "all are read"
    );
    for rule in rules {
        let query = rule["query"].as_str().expect("a query");
        for name in names_in(query) {
            let is_there = match name.contains(':') {
                true => recorded.contains(name),
                false => exported.contains(name),
            };
            assert!(is_there, "{name} of {} is nowhere", rule["name"]);
        }
    }
}

/// Names of ours in a query.
fn names_in(query: &str) -> impl Iterator<Item = &str> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    words.filter(|word| word.contains("herald_"))
}

/// Alertmanager has told of each of these alerts, of this process.
async fn is_told(monitoring: &Monitoring, alerts: &[(&str, &String)]) {
    let untold = async || {
        let told = monitoring.told();
        let is_told = |(name, instance): &&(&str, &String)| {
            let mut told = told.iter();
            told.any(|labels| labels["alertname"] == *name && labels["instance"] == **instance)
        };
        alerts.iter().filter(|alert| !is_told(alert)).count()
    };
    let explain = || format!("told of {:?}\n{}", monitoring.told(), monitoring.log());
    testbed::eventually("the receiver is told", PATIENCE * 2, untold, explain).await;
}
