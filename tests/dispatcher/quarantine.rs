//! A provider that calls more devices gone than is usual: none is lost, and all can be reached again.

use crate::rig::{Rig, eventually, is};
use herald::config;
use reqwest::Method;
use serde_json::{Value, json};
use testbed::{ApnsServer, FcmServer, PushService, apns::device_token, certificates};

const KINDS: [&str; 3] = ["fcm", "apns", "web_push"];
/// Of each kind: what a user may have.
const DEVICES: usize = 20;

struct Providers {
    google: FcmServer,
    apple: ApnsServer,
    browsers: PushService,
    directory: tempfile::TempDir,
}

impl Providers {
    async fn start() -> Providers {
        let directory = tempfile::tempdir().unwrap();
        certificates::make_key(&directory.path().join("vapid.pem"), certificates::P256);
        Providers {
            google: FcmServer::start().await,
            apple: ApnsServer::start().await,
            browsers: PushService::start().await,
            directory,
        }
    }

    fn config(&self) -> config::Channels {
        let [key_id, team_id, topic] = self.apple.account().map(|text| Some(text.to_owned()));
        config::Channels {
            fcm: config::Fcm {
                service_account_file: Some(self.google.service_account_file()),
                url: self.google.url(),
                ca_file: Some(self.google.ca_file()),
                gone_window: 10,
                ..config::Fcm::default()
            },
            apns: config::Apns {
                key_file: Some(self.apple.key_file()),
                key_id,
                team_id,
                topic,
                address: self.apple.address(),
                ca_file: Some(self.apple.ca_file()),
                gone_window: 10,
                ..config::Apns::default()
            },
            web_push: config::WebPush {
                vapid_key_file: Some(self.directory.path().join("vapid.pem")),
                contact: Some("mailto:ops@shop.example".into()),
                hosts: vec![self.browsers.host()],
                ca_file: Some(self.browsers.ca_file()),
                gone_window: 10,
                ..config::WebPush::default()
            },
            ..config::Channels::default()
        }
    }

    fn call_all_gone(&self, is_so: bool) {
        self.google.call_all_gone(is_so);
        self.apple.call_all_bad(is_so);
        self.browsers.call_all_gone(is_so);
    }

    /// Its user has the name of the kind.
    async fn enter(&self, rig: &Rig, kind: &str, name: &str) {
        let mut device = json!({ "kind": kind });
        match kind {
            "fcm" => device["token"] = json!(name),
            "apns" => device["token"] = json!(device_token(name)),
            _ => device["subscription"] = self.browsers.subscribe(name),
        }
        let path = format!("/v1/users/{kind}/devices/{name}");
        let answer = rig.call(Method::PUT, &path, Some(device)).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
    }

    fn asked(&self, name: &str) -> usize {
        self.google.asked(name) + self.apple.asked(name) + self.browsers.asked(name)
    }
}

async fn devices(rig: &Rig, user: &str) -> Vec<Value> {
    let listed = rig.get(&format!("/v1/users/{user}/devices")).await;
    listed["devices"].as_array().unwrap().clone()
}

async fn as_admin(rig: &Rig, method: Method, path: &str) -> Value {
    let answer = rig.call_as(&rig.admin_key, method, path, None, None).await;
    assert!(answer.status.is_success(), "{path}: {}", answer.body);
    answer.body
}

async fn in_quarantine(rig: &Rig, kind: &str) -> usize {
    let page = as_admin(rig, Method::GET, &format!("/v1/quarantine/{kind}")).await;
    page["items"].as_array().unwrap().len()
}

fn metric(rig: &Rig, line: &str) -> bool {
    let shown = rig.metrics.render();
    shown.lines().any(|one| one.ends_with(line))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_calls_everyone_gone_costs_no_device_and_all_are_reached_again() {
    let providers = Providers::start().await;
    let rig = Rig::with_channels(&providers.config()).await;
    for kind in KINDS {
        for n in 0..DEVICES {
            providers.enter(&rig, kind, &format!("phone{n}")).await;
        }
    }
    providers.call_all_gone(true);
    for kind in KINDS {
        let id = rig.push_to(kind, json!({})).await;
        let shown = rig.state("push", &id, is("failed")).await;
        assert_eq!(shown["error"], "gone");
        let all = || async { (in_quarantine(&rig, kind).await == DEVICES).then_some(()) };
        eventually(all).await;
        let held = devices(&rig, kind).await;
        assert_eq!(held.len(), DEVICES);
        assert!(held.iter().all(|device| device["quarantined_at"].is_u64()));
        for line in [
            format!("devices_gone_total{{provider=\"{kind}\",result=\"forgotten\"}} 0"),
            format!("devices_gone_total{{provider=\"{kind}\",result=\"quarantined\"}} {DEVICES}"),
            format!("devices_gone_unusual{{provider=\"{kind}\"}} 1"),
        ] {
            assert!(metric(&rig, &line), "{line}: {}", rig.metrics.render());
        }
    }

    // They are left alone, and the delivery log says why.
    let before = providers.asked("phone0");
    assert_eq!(before, KINDS.len());
    for kind in KINDS {
        let id = rig.push_to(kind, json!({})).await;
        let shown = rig.state("push", &id, is("failed")).await;
        assert_eq!(shown["error"], "quarantined");
    }
    assert_eq!(providers.asked("phone0"), before);

    providers.call_all_gone(false);
    for kind in KINDS {
        let one = format!("/v1/users/{kind}/devices/phone3/restore");
        as_admin(&rig, Method::POST, &one).await;
        let all = format!("/v1/quarantine/{kind}/restore");
        let mut restored = 1;
        let mut next = String::new();
        loop {
            let answer = as_admin(&rig, Method::POST, &format!("{all}{next}")).await;
            restored += answer["restored"].as_u64().unwrap();
            match answer["next"].as_str() {
                Some(cursor) => next = format!("?cursor={cursor}"),
                None => break,
            }
        }
        assert_eq!(restored as usize, DEVICES);
        let id = rig.push_to(kind, json!({})).await;
        let shown = rig.state("push", &id, is("sent")).await;
        assert_eq!(shown["devices"], DEVICES);
        assert_eq!(shown["error"], Value::Null);
        let usual = format!("devices_gone_unusual{{provider=\"{kind}\"}} 0");
        assert!(metric(&rig, &usual));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trickle_of_devices_that_are_gone_is_deleted_once_others_were_reached_since() {
    let providers = Providers::start().await;
    let rig = Rig::with_channels(&providers.config()).await;
    for kind in KINDS {
        for n in 0..DEVICES - 1 {
            providers.enter(&rig, kind, &format!("phone{n}")).await;
        }
        providers.enter(&rig, kind, "gone").await;
        let id = rig.push_to(kind, json!({})).await;
        let shown = rig.state("push", &id, is("sent")).await;
        assert_eq!(shown["devices"], DEVICES - 1);
        // Ten were taken after it by now, or will be by the next.
        let id = rig.push_to(kind, json!({})).await;
        rig.state("push", &id, is("sent")).await;
        let rest = || async { (devices(&rig, kind).await.len() == DEVICES - 1).then_some(()) };
        eventually(rest).await;
        assert_eq!(in_quarantine(&rig, kind).await, 0);
        let line = format!("devices_gone_total{{provider=\"{kind}\",result=\"forgotten\"}} 1");
        assert!(metric(&rig, &line));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_question_about_quarantine_is_named() {
    let rig = Rig::start().await;
    let admin = &rig.admin_key;
    for (path, field) in [
        ("/v1/quarantine/pigeon", "kind"),
        ("/v1/quarantine/fcm?cursor=x", "cursor"),
    ] {
        let answer = rig.call_as(admin, Method::GET, path, None, None).await;
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert_eq!(answer.body["error"]["field"], field);
    }
    let answer = rig.call(Method::GET, "/v1/quarantine/fcm", None).await;
    assert_eq!(answer.status, 403, "{}", answer.body);
    let path = "/v1/users/42/devices/phone/restore";
    let answer = rig.call_as(admin, Method::POST, path, None, None).await;
    assert_eq!(answer.status, 404, "{}", answer.body);
}
