//! Herald's own binary as a child: started with settings, killed, started again. Its log is kept.

use crate::{
    PATIENCE,
    child::{Guarded, Running, is_a_process},
    clock,
    confine::Confinement,
};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// One Herald process.
pub struct Herald {
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    /// From its next start on.
    pub confinement: Confinement,
    running: Running,
    log: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

is_a_process!(Herald);

/// Settings of a dispatcher whose users and producers are many at once.
pub const UNLIMITED: [(&str, &str); 3] = [
    ("limits.in_app_per_hour", "0"),
    ("limits.producer_per_minute", "0"),
    ("limits.design_per_s", "0"),
];

impl Herald {
    /// `settings` are `("gateway.cores", "2")` and become `HERALD_GATEWAY__CORES=2`.
    pub fn new(arguments: &[&str], settings: &[(&str, &str)]) -> Herald {
        let environment = settings
            .iter()
            .map(|(key, value)| (variable(key), value.to_string()));
        Herald {
            arguments: arguments.iter().map(|text| text.to_string()).collect(),
            environment: environment.collect(),
            confinement: Confinement::default(),
            running: Running::default(),
            log: Arc::default(),
            reader: None,
        }
    }

    /// Another process with the same settings but for these.
    pub fn twin(&self, settings: &[(&str, &str)]) -> Herald {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let mut twin = Herald::new(&arguments, settings);
        for (key, value) in &self.environment {
            let own = twin.environment.entry(key.clone());
            own.or_insert_with(|| value.clone());
        }
        twin
    }

    /// From its next start on.
    pub fn add_arguments(&mut self, arguments: &[&str]) {
        let arguments = arguments.iter().map(|text| text.to_string());
        self.arguments.extend(arguments);
    }

    /// From its next start on; a setting as in [`Herald::new`].
    pub fn set(&mut self, key: &str, value: &str) {
        self.environment.insert(variable(key), value.to_owned());
    }

    /// From its next start on; see [`clock::that_follows`].
    pub fn follow_clock(&mut self, file: &Path) {
        let variables = clock::that_follows(file).map(|(name, value)| (name.to_owned(), value));
        self.environment.extend(variables);
    }

    pub fn start(&mut self) {
        assert!(!self.running.is_started(), "it runs already");
        let mut command = Command::new(binary("herald"));
        command
            .args(&self.arguments)
            .envs(&self.environment)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        self.confinement.apply(&mut command);
        let mut running = Guarded::spawn(command).expect("the binary starts");
        let lines = BufReader::new(running.take_stderr().expect("piped")).lines();
        let log = self.log.clone();
        // The last stage of `make test` looks through every log of the run for secrets.
        let mut kept = kept_logs().map(|directory| {
            let path = directory.join(format!("{}.log", running.pid()));
            std::fs::File::create(path).expect("the directory of logs")
        });
        self.reader = Some(std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(kept) = &mut kept {
                    let _ = writeln!(kept, "{line}");
                }
                let mut log = log.lock().expect("nobody panics with it");
                log.push_str(&line);
                log.push('\n');
            }
        }));
        self.running.began(running);
    }

    /// Everything it ever wrote to standard error; and its status, should it have ended without being killed.
    pub fn log(&self) -> String {
        let mut log = self.log.lock().expect("nobody panics with it").clone();
        if let Some(end) = self.running.end_to_explain() {
            log.push_str(&format!("{end}\n"));
        }
        log
    }

    pub fn is_running(&self) -> bool {
        self.running.is_started() && self.running.ended().is_none()
    }

    /// Waits for it to end by itself; its log is whole then.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.running.ended() {
                self.running.kill();
                let reader = self.reader.take().expect("it was started");
                reader.join().expect("it only reads");
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "it does not end; log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Herald {
    /// A test that fails may not know that a process ended: that is said whatever the failure prints.
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(end) = self.running.end_to_explain()
        {
            eprintln!("herald {}: {end}", self.arguments.join(" "));
        }
    }
}

fn kept_logs() -> Option<PathBuf> {
    std::env::var_os("HERALD_TEST_LOGS").map(PathBuf::from)
}

/// Adds to what no log of the run may hold: `scripts/check-logs.sh` looks for it.
pub fn keep_secret(secret: &str) {
    assert!(secret.len() >= 8 && !secret.contains('\n'), "one long line");
    let Some(directory) = kept_logs() else {
        return;
    };
    let secrets = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("secrets"));
    let written = secrets.and_then(|mut file| file.write_all(format!("{secret}\n").as_bytes()));
    written.expect("the directory of logs");
}

fn variable(key: &str) -> String {
    format!("HERALD_{}", key.replacen('.', "__", 1).to_uppercase())
}

/// A binary of the workspace, of the build that the running program belongs to.
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a path");
    // target/<profile>/<program>, or target/<profile>/deps/<test>
    let mut folder = own.parent().expect("a target folder");
    if folder.ends_with("deps") {
        folder = folder.parent().expect("a target folder");
    }
    let path = folder.join(name);
    let hint = "cargo build --workspace --bins";
    assert!(path.exists(), "{} is missing: {hint}", path.display());
    path
}
