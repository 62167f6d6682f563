//! Every parser of what strangers send, on generated and on damaged input: never a panic, never another
//! result because the bytes were cut elsewhere; frames also against an independent implementation.
//!
//! Runs one second per target; `HERALD_FUZZ_SECONDS=600 cargo test --test fuzz` digs. A failure prints
//! the smallest input that shows it.

#[path = "fuzz/client_message.rs"]
mod client_message;
#[path = "fuzz/frames.rs"]
mod frames;
#[path = "fuzz/proxy_header.rs"]
mod proxy_header;
#[path = "fuzz/request.rs"]
mod request;

use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseResult, TestRunner},
};
use std::time::{Duration, Instant};

/// Runs `check` on generated inputs until the time is over.
fn fuzz<S: Strategy>(inputs: S, check: impl Fn(S::Value) -> TestCaseResult) {
    let seconds = std::env::var("HERALD_FUZZ_SECONDS").map_or(1, |text| {
        text.parse().expect("HERALD_FUZZ_SECONDS is a number")
    });
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let config = Config {
            cases: 256,
            failure_persistence: None,
            ..Config::default()
        };
        if let Err(failure) = TestRunner::new(config).run(&inputs, &check) {
            panic!("{failure}");
        }
    }
}

/// What happens to bytes on their way: some change, the rest is cut off.
#[derive(Clone, Debug)]
struct Damage {
    changes: Vec<(prop::sample::Index, u8)>,
    cut: Option<prop::sample::Index>,
}

impl Damage {
    /// Most inputs stay whole, so that what is valid is reached too.
    fn any() -> impl Strategy<Value = Damage> {
        let changes = prop_oneof![
            3 => Just(Vec::new()),
            2 => prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4),
        ];
        let cut = prop::option::weighted(0.2, any::<prop::sample::Index>());
        (changes, cut).prop_map(|(changes, cut)| Damage { changes, cut })
    }

    fn apply(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        if bytes.is_empty() {
            return bytes;
        }
        for (at, byte) in &self.changes {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        if let Some(cut) = &self.cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        bytes
    }
}

/// Asks a parser about ever longer prefixes: once it has answered, more bytes must not change the answer.
fn answers_once<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Option<T>,
) -> TestCaseResult {
    let mut answered = None;
    for length in 0..=bytes.len() {
        let answer = parse(&bytes[..length]);
        if answered.is_some() {
            prop_assert_eq!(&answer, &answered, "at {} bytes", length);
        }
        answered = answer;
    }
    Ok(())
}
