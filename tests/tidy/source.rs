//! The project's files, and as much of Rust's grammar as the rules need. All code is formatted, so a line's
//! indentation can be trusted.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

pub struct Source {
    /// Relative to the project: `src/proto/frame.rs`.
    pub path: String,
    pub text: String,
}

impl Source {
    /// Without comments and without the tests at the end.
    pub fn code(&self) -> String {
        let end = self
            .text
            .find("#[cfg(test)]\nmod tests")
            .unwrap_or(self.text.len());
        self.text[..end]
            .lines()
            .map(without_comment)
            .collect::<Vec<_>>()
            .join("\n")
    }

    pub fn within(&self, directory: &str) -> bool {
        self.path.starts_with(&format!("{directory}/")) || self.path == format!("{directory}.rs")
    }
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under the directory.
pub fn rust(directory: &str) -> Vec<Source> {
    let mut found = Vec::new();
    walk(&root().join(directory), &mut found);
    assert!(!found.is_empty(), "no Rust files in {directory}");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Every file under version control that is text.
pub fn tracked() -> Vec<Source> {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "not a git checkout");
    let names = String::from_utf8(output.stdout).expect("names are UTF-8");
    let read = |path: &str| {
        let text = std::fs::read_to_string(root().join(path)).ok()?;
        let path = path.to_owned();
        Some(Source { path, text })
    };
    names.split_terminator('\0').filter_map(read).collect()
}

fn walk(directory: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.map(|entry| entry.expect("a readable directory")) {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(root()).expect("below the root");
            found.push(Source {
                path: relative.display().to_string(),
                text: std::fs::read_to_string(&path).expect("a readable file"),
            });
        }
    }
}

/// `//` in a string is a comment here only if a blank stands before it, which addresses don't have.
fn without_comment(line: &str) -> &str {
    let trimmed = line.trim_start();
    if trimmed.starts_with("//") {
        return "";
    }
    line.find(" // ").map_or(line, |at| &line[..at])
}

/// Paths below `crate::` that the code names, by `use` trees or in place, cut to two segments.
pub fn crate_paths(code: &str) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let tree = &code[at + "crate::".len()..];
        for path in expand(tree) {
            let path: Vec<&str> = path.split("::").take(2).collect();
            paths.insert(path.join("::"));
        }
    }
    paths
}

/// The paths of a use tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim_start();
    let end = tree
        .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        .unwrap_or(tree.len());
    let (prefix, rest) = tree.split_at(end);
    if !(prefix.ends_with("::") || prefix.is_empty()) || !rest.starts_with('{') {
        return vec![prefix.trim_end_matches(':').to_owned()];
    }
    branches(&rest[1..])
        .iter()
        .flat_map(|branch| expand(branch))
        .map(|path| format!("{prefix}{path}"))
        .collect()
}

/// Splits at the commas of this level, up to the brace that closes it.
fn branches(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.push(&text[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.retain(|branch| !branch.trim().is_empty());
    found
}

#[test]
fn a_use_tree_is_taken_apart() {
    let code = "use crate::{a, b::{self, c::D}, e::F};\nlet x = crate::g::h::i();";
    let paths: Vec<String> = crate_paths(code).into_iter().collect();
    assert_eq!(paths, ["a", "b::c", "b::self", "e::F", "g::h"]);
}
