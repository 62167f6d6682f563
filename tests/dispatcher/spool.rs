//! The bus is away: notifications go to the disk, and from there to the bus when it is back.

use crate::{
    rig::{Answer, Rig, directory, eventually, id_of, readiness, rows},
    switched::Switched,
};
use herald::{
    bus::Topic, config, dispatcher::store::sqlite::SqliteStore, metrics::Metrics,
    registry::embedded::EmbeddedRegistry,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::Path, process::Command, sync::Arc};

/// A dispatcher whose bus is off and whose spool stands at `path`.
async fn away(path: &Path, bytes_max: u64) -> (Rig, Arc<Switched>) {
    let (dir, metrics) = (directory(), Metrics::default());
    let switched = Switched::off(dir.path(), &metrics);
    let store = Arc::new(SqliteStore::open(dir.path(), &config::Node::default()).unwrap());
    let spool = config::Spool {
        path: path.to_owned(),
        bytes_max,
    };
    let registry = Arc::new(EmbeddedRegistry::default());
    let bus = switched.clone();
    let rig = Rig::with_spool(dir, metrics, bus, registry, store, Some(spool)).await;
    rig.gateway("gw-1", 0, &["42"]).await;
    (rig, switched)
}

async fn post(rig: &Rig, body: Value, key: Option<&str>) -> Answer {
    let path = "/v1/notifications";
    rig.call_as(&rig.key, Method::POST, path, Some(body), key)
        .await
}

fn notification(priority: &str, bytes: usize) -> Value {
    json!({ "target": { "user": "42" }, "type": "x", "priority": priority, "body": "b".repeat(bytes) })
}

/// Everything is on the bus and routed, and the mode has ended.
async fn replayed(rig: &Rig) {
    eventually(|| async {
        let body = readiness(rig).await.1;
        (body["degraded"] == json!({})).then_some(())
    })
    .await;
    rig.drained("fan_out", Topic::FanOut).await;
    rig.routed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_spooled_is_stored_once_critical_first_and_a_repeated_key_keeps_its_id() {
    let place = tempfile::tempdir().unwrap();
    let (mut rig, switched) = away(place.path(), 16 << 20).await;
    let mut ids = Vec::new();
    for priority in ["low", "normal", "low", "critical"] {
        let answer = post(&rig, notification(priority, 10), None).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body["durability"]),
            (202, &json!("spooled"))
        );
        ids.push(id_of(&answer.body));
    }
    let list = json!({ "target": { "users": ["42", "43"] }, "type": "list" });
    let first = post(&rig, list.clone(), Some("k")).await;
    let second = post(&rig, list.clone(), Some("k")).await;
    assert_eq!(first.body, second.body);
    ids.push(id_of(&first.body));
    let (_, body) = readiness(&rig).await;
    let named = body["degraded"]["spool"].as_str().unwrap_or_default();
    assert!(named.contains("6 of them"), "{body}");
    assert!(rig.metrics.render().contains("herald_spool_active 1"));

    // The next process finds what the last one left.
    rig.restart().await;
    switched.turn(true);
    replayed(&rig).await;
    let stored: Vec<_> = rows(&*rig.store, "42").await;
    let stored: Vec<_> = stored.iter().map(|row| row.id).collect();
    assert_eq!(stored[..4], [ids[3], ids[0], ids[1], ids[2]]);
    assert_eq!(stored[4..], [ids[4]]);
    assert_eq!(rows(&*rig.store, "43").await.len(), 1);
    let records = rig.all_records(Topic::Raw(1)).await;
    assert!(
        records
            .iter()
            .all(|record| record.header("again").is_some())
    );
    let third = post(&rig, list, Some("k")).await;
    assert_eq!(third.body, json!({ "id": ids[4], "durability": "bus" }));
    assert!(rig.metrics.render().contains("herald_spool_active 0"));
}

/// Posts of one priority until it is refused; the ids that were taken.
async fn fill(rig: &Rig, priority: &str, refusal: &str, taken: &mut BTreeSet<String>) {
    loop {
        let answer = post(rig, notification(priority, 20_000), None).await;
        if answer.status == 202 {
            taken.insert(id_of(&answer.body).to_string());
            continue;
        }
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert_eq!(answer.body["error"]["code"], refusal);
        assert!(answer.retry_after.is_some());
        return;
    }
}

async fn all_are_stored(rig: &Rig, switched: &Switched, taken: BTreeSet<String>) {
    switched.turn(true);
    replayed(rig).await;
    let stored = rows(&*rig.store, "42").await;
    assert_eq!(stored.len(), taken.len());
    let stored: BTreeSet<_> = stored.iter().map(|row| row.id.to_string()).collect();
    assert_eq!(stored, taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_fills_refuses_low_first_and_keeps_all_it_took() {
    let place = tempfile::tempdir().unwrap();
    let (rig, switched) = away(place.path(), 4 << 20).await;
    let mut taken = BTreeSet::new();
    for priority in ["low", "normal", "high", "critical"] {
        let before = taken.len();
        fill(&rig, priority, "spool_full", &mut taken).await;
        assert!(taken.len() > before, "{priority} found no room");
    }
    let metrics = rig.metrics.render();
    let refused = "herald_spool_refused_total{cause=\"full\",priority=\"low\"} 1";
    assert!(metrics.contains(refused), "{metrics}");
    let (_, body) = readiness(&rig).await;
    let named = body["degraded"]["spool"].as_str().unwrap_or_default();
    assert!(named.contains("filled to 99 %"), "{body}");
    all_are_stored(&rig, &switched, taken).await;
}

/// Set in a child in which a test proper runs: where its spool stands.
const PLACE: &str = "HERALD_TEST_SPOOL";

/// Runs this test in a child, made by the command, which finds its spool's place by [`PLACE`].
fn in_a_child(test: &str, command: &[&str]) {
    let place = tempfile::tempdir().unwrap();
    let child = Command::new(command[0])
        .args(&command[1..])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(PLACE, place.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

/// With a disk of 16 MB, of a mount namespace of its own.
#[test]
fn a_full_disk_refuses_low_first_and_what_was_taken_before_is_replayed() {
    let Ok(disk) = std::env::var(PLACE) else {
        return in_a_child(
            "spool::a_full_disk_refuses_low_first_and_what_was_taken_before_is_replayed",
            &[
                "unshare",
                "--user",
                "--map-root-user",
                "--mount",
                "sh",
                "-c",
                "mount -t tmpfs -o size=16m none \"$HERALD_TEST_SPOOL\" && exec \"$@\"",
                "sh",
            ],
        );
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (rig, switched) = away(Path::new(&disk), 64 << 20).await;
        let mut taken = BTreeSet::new();
        fill(&rig, "low", "spool_full", &mut taken).await;
        let low = taken.len();
        fill(&rig, "critical", "spool_failed", &mut taken).await;
        assert!(taken.len() > 20, "only {} were taken", taken.len());
        assert!(taken.len() > low, "no room was left for critical");
        fill(&rig, "critical", "spool_failed", &mut taken).await;
        all_are_stored(&rig, &switched, taken).await;
        // Room again: the next outage is taken.
        switched.turn(false);
        let answer = post(&rig, notification("low", 10), None).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        assert_eq!(answer.body["durability"], "spooled");
    });
}

/// The kernel fails writes beyond the limit with an error that is not the one of a full disk.
fn limit_files_to(bytes: &str) {
    let limit = Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string()])
        .arg(format!("--fsize={bytes}:"))
        .status();
    assert!(limit.unwrap().success());
}

#[test]
fn a_disk_that_fails_is_a_refusal_and_what_was_taken_before_is_replayed() {
    let Ok(place) = std::env::var(PLACE) else {
        return in_a_child(
            "spool::a_disk_that_fails_is_a_refusal_and_what_was_taken_before_is_replayed",
            &["sh", "-c", "trap '' XFSZ; exec \"$@\"", "sh"],
        );
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (rig, switched) = away(Path::new(&place), 64 << 20).await;
        let mut taken = BTreeSet::new();
        limit_files_to("4194304");
        fill(&rig, "critical", "spool_failed", &mut taken).await;
        assert!(taken.len() > 20, "only {} were taken", taken.len());
        let metrics = rig.metrics.render();
        let refused = "herald_spool_refused_total{cause=\"disk\",priority=\"critical\"} 1";
        assert!(metrics.contains(refused), "{metrics}");
        limit_files_to("unlimited");
        let answer = post(&rig, notification("low", 10), None).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        taken.insert(id_of(&answer.body).to_string());
        all_are_stored(&rig, &switched, taken).await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_holds_its_own_records_only() {
    let place = tempfile::tempdir().unwrap();
    let (rig, switched) = away(place.path(), 16 << 20).await;
    switched.lose(Some(Topic::FanOut));
    let list =
        json!({ "target": { "users": ["42", "43"] }, "type": "list", "priority": "critical" });
    let listed = id_of(&post(&rig, list, None).await.body);
    let alone = id_of(&post(&rig, notification("low", 10), None).await.body);
    switched.turn(true);
    eventually(|| async {
        let stored = rows(&*rig.store, "42").await;
        stored.iter().any(|row| row.id == alone).then_some(())
    })
    .await;
    let (_, body) = readiness(&rig).await;
    let named = body["degraded"]["spool"].as_str().unwrap_or_default();
    assert!(named.contains("fan_out"), "{body}");
    let metrics = rig.metrics.render();
    assert!(metrics.contains("herald_spool_topic_missing{topic=\"fan_out\"} 1"));

    switched.lose(None);
    replayed(&rig).await;
    let stored = rows(&*rig.store, "43").await;
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0].id, listed);
}

/// All at once, so that nothing is put back while it goes on.
fn take_away(place: &Path) {
    let aside = place.with_extension("aside");
    std::fs::rename(place, &aside).unwrap();
    std::fs::remove_dir_all(&aside).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_somebody_removes_is_there_again_with_all_it_held() {
    let parent = tempfile::tempdir().unwrap();
    let place = parent.path().join("spool");
    let (mut rig, switched) = away(&place, 16 << 20).await;
    let mut taken = BTreeSet::new();
    for file in ["", "spool.db", "spool.db-wal"] {
        let answer = post(&rig, notification("normal", 10), None).await;
        taken.insert(id_of(&answer.body).to_string());
        match file {
            "" => take_away(&place),
            file => std::fs::remove_file(place.join(file)).unwrap(),
        }
        let answer = post(&rig, notification("normal", 10), None).await;
        assert_eq!(answer.status, 202, "{file:?}: {}", answer.body);
        taken.insert(id_of(&answer.body).to_string());
    }
    // One that nobody writes to is found out, too.
    take_away(&place);
    let put_back = || async {
        let metrics = rig.metrics.render();
        metrics
            .contains("herald_spool_put_back_total 4")
            .then_some(())
    };
    eventually(put_back).await;
    rig.restart().await;
    all_are_stored(&rig, &switched, taken).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_spool_that_can_not_be_put_back_takes_nothing_and_is_replayed_all_the_same() {
    let parent = tempfile::tempdir().unwrap();
    let [place, real, obstacle] =
        ["spool", "real", "obstacle"].map(|name| parent.path().join(name));
    std::os::unix::fs::symlink(&real, &place).unwrap();
    std::fs::create_dir(&real).unwrap();
    let (rig, switched) = away(&place, 16 << 20).await;
    let answer = post(&rig, notification("normal", 10), None).await;
    let mut taken = BTreeSet::from([id_of(&answer.body).to_string()]);
    std::fs::write(&obstacle, "in the way").unwrap();
    std::fs::rename(&obstacle, &place).unwrap();
    std::fs::remove_dir_all(&real).unwrap();
    fill(&rig, "critical", "spool_failed", &mut taken).await;
    assert_eq!(taken.len(), 1);
    let (_, body) = readiness(&rig).await;
    // Another dispatcher's disk may do.
    let fault = body["reasons"]["spool"].as_str().unwrap_or_default();
    assert!(fault.contains(place.to_str().unwrap()), "{body}");
    assert!(rig.metrics.render().contains("herald_spool_failing 1"));

    switched.turn(true);
    eventually(|| async { (rows(&*rig.store, "42").await.len() == 1).then_some(()) }).await;
    std::fs::remove_file(&place).unwrap();
    // It takes notifications again without a restart.
    replayed(&rig).await;
    switched.turn(false);
    let answer = post(&rig, notification("low", 10), None).await;
    assert_eq!(answer.body["durability"], "spooled", "{}", answer.body);
    taken.insert(id_of(&answer.body).to_string());
    all_are_stored(&rig, &switched, taken).await;
}
