//! The style of `README.md` that a machine can keep: layers, sizes, words.

mod layers;
mod shape;
mod source;
mod words;

/// Fails with all findings at once, one a line.
fn none(what: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{what}:\n{}", findings.join("\n"));
}
