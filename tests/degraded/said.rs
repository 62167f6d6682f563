//! What a process wrote to its log: an outage is warned of once, with what to do, and not by everyone who
//! waits for its end.

use serde_json::Value;
use std::collections::BTreeMap;
use testbed::Herald;

/// A place in a log.
pub struct Mark(usize);

impl Mark {
    pub fn of(process: &Herald) -> Mark {
        Mark(process.log().len())
    }

    /// Exactly one warning since then says the words, and no other is repeated.
    pub fn was_said_once(&self, process: &Herald, words: &str) {
        let log = process.log();
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        for line in log[self.0..].lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            if matches!(line["level"].as_str(), Some("WARN" | "ERROR")) {
                let message = line["message"].as_str().expect("a message");
                *times.entry(message.to_owned()).or_default() += 1;
            }
        }
        let said: Vec<_> = times
            .iter()
            .filter(|(text, _)| text.contains(words))
            .collect();
        assert_eq!(said.len(), 1, "{words:?} in {times:#?}");
        assert!(times.values().all(|times| *times == 1), "{times:#?}");
    }
}
