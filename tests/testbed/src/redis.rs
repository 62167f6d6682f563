//! A real `redis-server` for a test binary, on a port of its own, without persistence.
//!
//! It dies with the value (`Drop`) or with the test process.

use crate::{
    child::{Guarded, Running, is_a_process},
    clock, free_port,
};
use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long a server may take to answer; a loaded machine needs a part of a second.
const START_MAX: Duration = Duration::from_secs(20);

pub struct RedisServer {
    port: u16,
    arguments: Vec<String>,
    directory: TempDir,
    clock: Option<PathBuf>,
    running: Running,
}

is_a_process!(RedisServer);

impl RedisServer {
    pub fn start() -> RedisServer {
        RedisServer::start_with(&[])
    }

    /// Adds to the server's command line, e.g. `&["--requirepass", "secret"]`.
    pub fn start_with(arguments: &[&str]) -> RedisServer {
        let mut server = RedisServer {
            port: 0,
            arguments: arguments.iter().map(|text| text.to_string()).collect(),
            directory: tempfile::tempdir().expect("a temporary directory"),
            clock: None,
            running: Running::default(),
        };
        // Another process may take the port between the look and the start: try another one.
        for _ in 0..20 {
            server.port = free_port();
            if server.try_launch() {
                return server;
            }
        }
        panic!("redis-server does not start; is it installed? `apt-get install redis-server`");
    }

    /// One server for all tests of this binary; tests keep apart by [`fresh_namespace`].
    pub fn shared() -> &'static RedisServer {
        static SHARED: OnceLock<RedisServer> = OnceLock::new();
        SHARED.get_or_init(RedisServer::start)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends in good order and leaves its data to [`RedisServer::start_again`].
    pub fn save_and_end(&mut self) {
        // It ends without an answer.
        let _ = raw(self.port, &["SHUTDOWN", "SAVE"]);
        self.kill();
    }

    /// Starts it again on the same port, empty.
    pub fn restart(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.dump());
        self.start_again();
    }

    /// Starts it on the same port with what it saved.
    pub fn start_again(&mut self) {
        let deadline = Instant::now() + START_MAX;
        while !self.try_launch() {
            assert!(
                Instant::now() < deadline,
                "port {} stays taken, can't restart redis-server there",
                self.port
            );
        }
    }

    /// From its next start on; see [`clock::that_follows`].
    pub fn follow_clock(&mut self, file: &Path) {
        self.clock = Some(file.to_owned());
    }

    /// From now on nothing can be saved, and writes are refused for it (MISCONF).
    pub fn can_not_save(&self) {
        // Where the file goes is a directory.
        std::fs::create_dir_all(self.dump()).expect("a directory");
        self.raw(&["CONFIG", "SET", "save", "3600 1"]);
        self.raw(&["SET", "unsaved", "1"]);
        self.save_until("rdb_last_bgsave_status:err");
    }

    pub fn can_save_again(&self) {
        std::fs::remove_dir(self.dump()).expect("it is empty");
        self.save_until("rdb_last_bgsave_status:ok");
        self.raw(&["CONFIG", "SET", "save", ""]);
    }

    fn save_until(&self, outcome: &str) {
        let deadline = Instant::now() + START_MAX;
        while !self.raw(&["INFO", "persistence"]).contains(outcome) {
            assert!(Instant::now() < deadline, "never {outcome}");
            // Refused while one is under way.
            self.raw(&["BGSAVE"]);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn dump(&self) -> PathBuf {
        self.directory.path().join("dump.rdb")
    }

    /// Sends one command and returns the raw reply (RESP2), as far as one read brings it.
    pub fn raw(&self, command: &[&str]) -> String {
        raw(self.port, command).expect("the server answers")
    }

    /// False when it ended at once (the port was taken).
    fn try_launch(&mut self) -> bool {
        let running = self.launch();
        let deadline = Instant::now() + START_MAX;
        // Only the process we started counts: another server may have won the port.
        let expected = format!("process_id:{}\r", running.pid());
        loop {
            if running.ended().is_some() {
                return false;
            }
            let answer = raw(self.port, &["INFO", "server"]).unwrap_or_default();
            // A password keeps INFO from us, but only a Redis says so.
            if answer.contains(&expected) || answer.starts_with("-NOAUTH") {
                self.running.began(running);
                return true;
            }
            assert!(Instant::now() < deadline, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn launch(&self) -> Guarded {
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.port.to_string()])
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--daemonize", "no", "--dir"])
            .arg(self.directory.path())
            .args(&self.arguments)
            .envs(self.clock.iter().flat_map(|file| clock::that_follows(file)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Guarded::spawn(command).expect("redis-server is installed")
    }
}

/// A namespace that no other test of this process uses.
pub fn fresh_namespace() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn raw(port: u16, command: &[&str]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = format!("*{}\r\n", command.len());
    for argument in command {
        request += &format!("${}\r\n{argument}\r\n", argument.len());
    }
    stream.write_all(request.as_bytes())?;
    let mut reply = vec![0; 1 << 20];
    let length = stream.read(&mut reply)?;
    Ok(String::from_utf8_lossy(&reply[..length]).into_owned())
}
