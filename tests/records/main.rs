//! Records as an earlier release wrote them, kept as files: this release reads each, and writes the same.

use herald::{
    bus::{Record, header_name},
    envelope::{Head, Kind, Routed},
};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

/// Key, headers and value of `tests/records/v1/<name>.json`.
fn kept(name: &str) -> Record {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/records/v1/{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let kept: Value = serde_json::from_str(&text).expect("JSON");
    let text = |field: &str| kept[field].as_str().expect(field).to_owned();
    let mut record = Record::new(text("key"), text("value"));
    for (header, value) in kept["headers"].as_object().expect("headers") {
        let value = value.as_str().expect("text").to_owned();
        record.headers.push((header_name(header), value.into()));
    }
    record
}

fn parts(record: &Record) -> (Vec<u8>, Vec<u8>, BTreeMap<String, Vec<u8>>) {
    let headers = record.headers.iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_vec()));
    (
        record.key.to_vec(),
        record.value.to_vec(),
        headers.collect(),
    )
}

#[test]
fn what_intake_and_canaries_wrote_is_read_and_written_the_same() {
    let kinds = [
        ("raw-notification", Kind::Notification),
        ("raw-read", Kind::Read),
        ("fan-out-all", Kind::Broadcast),
        ("probe", Kind::Probe),
    ];
    for (name, kind) in kinds {
        let record = kept(name);
        let head = Head::read(&record).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(head.kind, kind, "{name}");
        let again = head.into_record(record.key.clone(), record.value.clone());
        assert_eq!(parts(&again), parts(&record), "{name}");
    }
}

#[test]
fn what_a_router_wrote_is_read_and_written_the_same() {
    for name in ["in-app-notification", "in-app-read", "broadcast"] {
        let record = kept(name);
        let routed = Routed::read(&record).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(parts(&routed.into_record()), parts(&record), "{name}");
    }
}
