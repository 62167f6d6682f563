//! A dead letter as the record it was: a pure function of its headers.

use crate::{
    bus::{Record, Target, Topic, TopicPartition},
    dispatcher::channel::Parcel,
};

/// Headers that the way to `dlq` added, and those that a new beginning makes untrue.
const REMOVED: [&str; 12] = [
    "dlq_reason",
    "dlq_cause",
    "dlq_topic",
    "dlq_partition",
    "dlq_offset",
    "class",
    "said",
    "ended_ms",
    "attempts",
    "began_ms",
    "due_ms",
    "over_budget",
];

/// Where it goes, marked as one that may have been there before. Or why it can't.
pub fn again(letter: &Record) -> Result<(Target, Record), String> {
    let from = letter
        .header_text("dlq_topic")
        .ok_or("it does not say which topic it comes from")?;
    let topic = Topic::named(from);
    let topic = topic.ok_or_else(|| format!("there is no topic {from} in this release"))?;
    if letter.value.is_empty() {
        return Err("what it held was too large to be kept".into());
    }
    let target = match topic {
        // Each gateway reads its own partition.
        Topic::InApp | Topic::Critical | Topic::Broadcast => {
            let partition = letter
                .header_text("dlq_partition")
                .and_then(|text| text.parse().ok());
            let partition = partition.ok_or("it does not say which partition it comes from")?;
            Target::Exact(TopicPartition { topic, partition })
        }
        Topic::Retry(_) => {
            let topic = Parcel::topic(letter).ok_or("it does not say which channel it is of")?;
            Target::Keyed(topic)
        }
        topic => Target::Keyed(topic),
    };
    let mut record = letter.clone();
    record
        .headers
        .retain(|(name, _)| !REMOVED.contains(&name.as_ref()));
    record.set("again", "1");
    Ok((target, record))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(topic: &str) -> Record {
        let mut record = Record::new("42", "{}");
        for (name, value) in [
            ("id", "x"),
            ("dlq_topic", topic),
            ("dlq_partition", "3"),
            ("dlq_reason", "work: rejected"),
            ("channel", "email"),
            ("attempts", "6"),
            ("devices", "work"),
        ] {
            record.set(name, value.to_owned());
        }
        record
    }

    #[test]
    fn it_goes_where_it_came_from_as_it_was_for_the_devices_that_lack_it() {
        let at = TopicPartition {
            topic: Topic::Critical,
            partition: 3,
        };
        for (from, to) in [
            ("raw.g1", Target::Keyed(Topic::Raw(1))),
            ("email", Target::Keyed(Topic::Email)),
            ("retry.5s", Target::Keyed(Topic::Email)),
            ("critical", Target::Exact(at)),
        ] {
            let (target, record) = again(&letter(from)).unwrap();
            assert_eq!(target, to, "{from}");
            let names = record.headers.iter().map(|(name, _)| name.as_ref());
            let names: Vec<&str> = names.collect();
            assert_eq!(names, ["id", "channel", "devices", "again"], "{from}");
            assert_eq!((&*record.key, &*record.value), (&b"42"[..], &b"{}"[..]));
        }
    }

    #[test]
    fn what_nobody_could_place_is_refused() {
        assert!(again(&letter("elsewhere")).is_err());
        assert!(again(&Record::new("42", "{}")).is_err());
        let mut emptied = letter("email");
        emptied.value = Default::default();
        assert!(again(&emptied).unwrap_err().contains("too large"));
    }
}
