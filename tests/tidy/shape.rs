//! Sizes of files and functions, documentation of modules, limits that bind.

use crate::{
    none,
    source::{Source, rust, tracked},
};

const FILE_LINES_MAX: usize = 600;
/// About 70; a list of metrics may be a little longer.
const FUNCTION_LINES_MAX: usize = 80;

fn ours() -> Vec<Source> {
    let mut sources = rust("src");
    sources.extend(rust("tests"));
    sources.extend(rust("loadtest/src"));
    sources
}

#[test]
fn a_file_can_be_read_at_a_sitting() {
    let mut findings = Vec::new();
    for source in ours() {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            findings.push(format!("{}: {lines} lines", source.path));
        }
    }
    none("files to be split", findings);
}

/// Source lies in a directory that says what it is for.
#[test]
fn no_source_lies_at_the_top() {
    let at_top = tracked()
        .into_iter()
        .map(|source| source.path)
        .filter(|path| path.ends_with(".rs") && !path.contains('/') && path != "build.rs");
    none("files at the top", at_top.collect());
}

#[test]
fn a_function_fits_a_screen() {
    let mut findings = Vec::new();
    for source in rust("src") {
        for (line, name, length) in functions(&source.code()) {
            if length > FUNCTION_LINES_MAX {
                findings.push(format!("{}:{line}: {name}, {length} lines", source.path));
            }
        }
    }
    none("functions to be split", findings);
}

/// Line, name and length of each function: it ends with a brace at the indentation it began with.
fn functions(code: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let brace = format!("{:indent$}}}", "");
        // One without a body, or with one of a line, ends otherwise: with nothing deeper in between.
        let ends = |line: &&str| **line == brace || at(line, indent) && line.ends_with([';', '}']);
        let length = lines[index..].iter().position(ends);
        found.push((index + 1, name, length.map_or(0, |last| last + 1)));
    }
    found
}

fn at(line: &str, indent: usize) -> bool {
    line.len() - line.trim_start().len() == indent
}

#[test]
fn the_length_of_a_function_is_counted() {
    let code =
        "fn a() {}\n    async fn b(\n        x: u8,\n    ) -> u8;\npub fn c<T>() {\n    x;\n}";
    let found = functions(code);
    let expected = [(1, "a", 1), (2, "b", 3), (5, "c", 3)];
    assert_eq!(
        found,
        expected.map(|(line, name, length)| (line, name.to_owned(), length))
    );
}

fn function_name(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let known = [
        "pub",
        "async",
        "const",
        "unsafe",
        "extern",
        "\"C\"",
        "pub(crate)",
        "pub(super)",
    ];
    let keyword = words.find(|word| !known.contains(word))?;
    let name = (keyword == "fn").then(|| words.next()).flatten()?;
    let end = name.find(['(', '<']).unwrap_or(name.len());
    Some(name[..end].to_owned())
}

#[test]
fn every_module_says_what_it_is() {
    let findings = rust("src")
        .into_iter()
        .filter(|source| !source.path.ends_with("/tests.rs"))
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| source.path)
        .collect();
    none("files without a module comment", findings);
}

#[test]
fn every_limit_binds_something() {
    let sources = rust("src");
    let is_limits = |path: &str| path == "src/limits.rs" || path.starts_with("src/limits/");
    let limits = sources.iter().filter(|source| is_limits(&source.path));
    let mut findings = Vec::new();
    for line in limits.flat_map(|source| source.text.lines()) {
        let Some((name, _)) = line
            .strip_prefix("pub const ")
            .and_then(|rest| rest.split_once(':'))
        else {
            continue;
        };
        let uses = |source: &Source| {
            source
                .code()
                .split(|c: char| !(c.is_alphanumeric() || c == '_'))
                .filter(|word| *word == name)
                .count()
        };
        // Its own definition is one.
        if sources.iter().map(uses).sum::<usize>() < 2 {
            findings.push(name.to_owned());
        }
    }
    none("limits that nothing keeps", findings);
}
