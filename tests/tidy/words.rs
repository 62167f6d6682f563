//! Words that say that something is unfinished, or say nothing.

use crate::{
    none,
    source::{rust, tracked},
};

/// Written in halves, so that this file does not find itself.
fn joined(halves: &[(&str, &str)]) -> Vec<String> {
    let join = |(a, b): &(&str, &str)| format!("{a}{b}");
    halves.iter().map(join).collect()
}

#[test]
fn nothing_is_left_for_later() {
    let marks = joined(&[
        ("TO", "DO"),
        ("FIX", "ME"),
        ("XX", "X"),
        ("to", "do!("),
        ("unimple", "mented!("),
        ("db", "g!("),
    ]);
    let mut findings = Vec::new();
    for file in tracked() {
        // Names of temporary files end in the third of them.
        let text = file.text.replace(&format!("{}X", marks[2]), "");
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(mark) = marks.iter().find(|mark| line.contains(mark.as_str())) {
                findings.push(format!("{}:{number}: {mark}", file.path));
            }
        }
    }
    none("unfinished", findings);
}

#[test]
fn no_file_names_the_host_of_a_package_registry() {
    let hosts = joined(&[
        ("crates", ".io"),
        ("pypi", ".org"),
        ("npmjs", ".org"),
        ("npmjs", ".com"),
        ("repo1.ma", "ven.org"),
        ("repo.ma", "ven.apache.org"),
        ("proxy.go", "lang.org"),
        ("deb.deb", "ian.org"),
    ]);
    let mut findings = Vec::new();
    // Cargo writes its own name for the registry into the lock file.
    for file in tracked().iter().filter(|file| file.path != "Cargo.lock") {
        for host in hosts.iter().filter(|host| file.text.contains(*host)) {
            findings.push(format!("{}: {host}", file.path));
        }
    }
    none(
        "where packages come from is the machine's business",
        findings,
    );
}

/// As its name stands where it is made; those of the ports begin with a port's.
#[test]
fn every_metric_that_the_readme_lists_is_made() {
    let readme = tracked().into_iter().find(|file| file.path == "README.md");
    let readme = readme.expect("it is there").text;
    let table = readme.split("| `herald_…` |").nth(1).expect("the table");
    let table = table.split("\n## ").next().expect("its end");
    let code: String = rust("src").iter().map(|source| source.code()).collect();
    let cells = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let names = cells.flat_map(|cell| cell.split("`, `"));
    let names = names.filter_map(|name| name.split(['{', '`']).next());
    let (mut findings, mut count) = (Vec::new(), 0);
    for name in names {
        let made = name.split_once("_connections").map_or(name, |(_, end)| end);
        count += 1;
        if !code.contains(&format!("{made}\"")) {
            findings.push(name.to_owned());
        }
    }
    assert!(count > 100, "{count} metrics");
    none("nobody makes", findings);
}

#[test]
fn names_say_what_a_thing_is() {
    let vague = [
        "Manager",
        "Helper",
        "Util",
        "fn get_",
        "mod util",
        "mod helper",
        "mod common;",
    ];
    let mut findings = Vec::new();
    for source in rust("src") {
        for (number, line) in (1..).zip(source.code().lines()) {
            let defines = ["fn ", "struct ", "enum ", "trait ", "mod "];
            let defines = defines.iter().any(|keyword| line.contains(keyword));
            if let Some(word) = vague.iter().find(|word| defines && line.contains(**word)) {
                findings.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    none("vague names", findings);
}

#[test]
fn nothing_unused_is_kept_by_force() {
    let mut findings = Vec::new();
    for source in rust("src") {
        for (number, line) in (1..).zip(source.code().lines()) {
            if line.contains("allow(dead_code") || line.contains("allow(unused") {
                findings.push(format!("{}:{number}", source.path));
            }
        }
    }
    none("dead code", findings);
}
