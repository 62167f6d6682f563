//! Who may know whom.

use crate::{
    none,
    source::{Source, crate_paths, root, rust},
};

/// Lines of the code that contain one of the words.
fn naming(sources: &[Source], directory: &str, words: &[&str]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.within(directory)) {
        for (number, line) in (1..).zip(source.code().lines()) {
            if let Some(word) = words.iter().find(|word| contains_word(line, word)) {
                findings.push(format!("{}:{number}: {word}", source.path));
            }
        }
    }
    findings
}

fn contains_word(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(inside) && !after.is_some_and(inside)
    })
}

/// Paths of our own crate that the directory names and may not.
fn strangers(sources: &[Source], directory: &str, friends: &[&str]) -> Vec<String> {
    let allowed = |path: &str| {
        friends
            .iter()
            .any(|friend| path == *friend || path.starts_with(&format!("{friend}::")))
    };
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.within(directory)) {
        for path in crate_paths(&source.code()) {
            if !allowed(&path) {
                findings.push(format!("{}: crate::{path}", source.path));
            }
        }
    }
    findings
}

#[test]
fn the_protocol_has_no_sockets_clock_or_threads() {
    let forbidden = [
        "tokio",
        "monoio",
        "libc",
        "socket2",
        "std::os",
        "std::fs",
        "std::thread",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "ToSocketAddrs",
        "Instant::now",
        "SystemTime",
        "Utc::now",
    ];
    let sources = rust("src");
    let mut findings = naming(&sources, "src/proto", &forbidden);
    // Of the configuration only its error: settings are parsed where they are understood.
    let pure = ["config", "envelope", "ids", "limits", "position", "proto"];
    findings.extend(strangers(&sources, "src/proto", &pure));
    none("proto/ is pure", findings);
}

#[test]
fn the_control_side_never_touches_a_client_socket() {
    let sources = rust("src");
    let mut findings = naming(&sources, "src/control", &["libc", "monoio", "crate::sys"]);
    for source in sources.iter().filter(|source| source.within("src/control")) {
        for path in crate_paths(&source.code()) {
            // The queues, what goes through them, and the handle of the cores.
            let handed_over = [
                "gateway::mailbox",
                "gateway::Cores",
                "gateway::Full",
                "gateway::Inbox",
                "gateway::self",
            ];
            let inside = path == "gateway" || path.starts_with("gateway::");
            if inside && !handed_over.contains(&path.as_str()) {
                findings.push(format!("{}: crate::{path}", source.path));
            }
        }
    }
    none("control/ knows only the cores' queues", findings);
}

/// What the two processes may both know.
const SHARED: [&str; 15] = [
    "api",
    "bus",
    "clock",
    "config",
    "envelope",
    "errors",
    "held",
    "ids",
    "limits",
    "metrics",
    "position",
    "proto::client",
    "registry",
    "serve",
    "auth",
];

#[test]
fn the_dispatcher_shares_only_the_common_parts_with_the_gateway() {
    // The trait by which a gateway reaches a dispatcher: the standalone's is a call.
    let own = ["dispatcher", "control::upstream", "console", "sys"];
    let friends = [&SHARED[..], &own].concat();
    let findings = strangers(&rust("src"), "src/dispatcher", &friends);
    none("dispatcher/ knows nothing of a gateway's inside", findings);
}

#[test]
fn the_gateway_knows_nothing_of_the_dispatcher() {
    let friends = [&SHARED[..], &["gateway", "memory", "proto", "sys"]].concat();
    let sources = rust("src");
    let mut findings = strangers(&sources, "src/gateway", &friends);
    let own = ["gateway", "control", "memory", "proto", "sys"];
    let friends = [&SHARED[..], &own].concat();
    findings.extend(strangers(&sources, "src/control", &friends));
    none(
        "gateway/ and control/ know nothing of dispatcher/",
        findings,
    );
}

#[test]
fn bus_and_registry_know_neither_process() {
    let common = [
        "clock", "config", "envelope", "held", "ids", "limits", "metrics", "position", "api",
    ];
    let sources = rust("src");
    let own = [&common[..], &["bus", "sys"]].concat();
    let mut findings = strangers(&sources, "src/bus", &own);
    findings.extend(strangers(
        &sources,
        "src/registry",
        &[&common[..], &["registry"]].concat(),
    ));
    none("bus/ and registry/ are below both processes", findings);
}

#[test]
fn unsafe_stays_in_one_module() {
    let mut findings = naming(&rust("src"), "src", &["unsafe", "allow(unsafe_code)"]);
    findings.retain(|finding| !finding.starts_with("src/sys"));
    none("unsafe outside src/sys", findings);
}

#[test]
fn the_runtime_of_the_core_threads_is_named_in_few_files() {
    let files: Vec<String> = rust("src")
        .into_iter()
        .filter(|source| {
            source
                .code()
                .lines()
                .any(|line| contains_word(line, "monoio"))
        })
        .map(|source| source.path)
        .collect();
    assert!(files.len() <= 3, "{files:?}");
}

#[test]
fn all_rust_code_has_one_library_for_cryptography() {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--workspace", "--prefix", "none"])
        .args(["--edges", "normal,build", "--format", "{p}"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{output:?}");
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(tree.contains("aws-lc-rs v"), "{tree}");
    let others = tree.lines().filter(|line| {
        let name = line.split(' ').next().unwrap_or_default();
        ["ring", "openssl", "native-tls"].contains(&name)
    });
    none("beside aws-lc-rs", others.map(str::to_owned).collect());
}
