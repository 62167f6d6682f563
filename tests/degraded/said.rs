//! What a process wrote to its log: an outage is warned of once, with what to do, and not by everyone who
//! waits for its end.

use serde_json::Value;
use std::collections::BTreeSet;
use testbed::Herald;

/// What is said when a part is back. On a slow machine it may go once more.
const ENDS: [&str; 4] = [
    "Kafka answers",
    "Redis answers",
    "outcome stream open",
    "the bus takes records again",
];

/// A place in a log.
pub struct Mark(usize);

impl Mark {
    pub fn of(process: &Herald) -> Mark {
        Mark(process.log().len())
    }

    /// A warning since then says the words, and none is repeated before a part was back.
    pub fn was_said_once(&self, process: &Herald, words: &str) {
        let log = process.log();
        let log = &log[self.0..];
        let (mut was_said, mut lasting) = (false, BTreeSet::new());
        for line in log.lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let message = line["message"].as_str().expect("a message").to_owned();
            if ENDS.iter().any(|end| message.starts_with(end)) {
                lasting.clear();
            }
            if matches!(line["level"].as_str(), Some("WARN" | "ERROR")) {
                was_said |= message.contains(words);
                assert!(lasting.insert(message), "repeated: {line}\n{log}");
            }
        }
        assert!(was_said, "{words:?} in\n{log}");
    }
}
