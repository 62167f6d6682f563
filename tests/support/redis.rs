//! A real `redis-server` for a test binary, on a port of its own, without persistence.
//!
//! Take it with `#[path = "support/redis.rs"] mod redis;`. The server dies with the value (`Drop`) and, when
//! the test process is killed, with the process: the thread that started it stays for as long as the server
//! does, because the kernel's parent-death signal follows that thread, not the process.

// Every test binary compiles this file and uses a part of it.
#![allow(dead_code)]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
        mpsc,
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
    running: Option<Running>,
}

struct Running {
    child: Child,
    /// Dropping it ends the thread that the parent-death signal follows.
    _keeper: mpsc::Sender<()>,
}

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
            running: None,
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

    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("a running server").child.id()
    }

    /// `kill -9`: clients see the connection close, later ones are refused.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.child.kill().expect("our own child");
            running.child.wait().expect("our own child");
        }
    }

    /// Starts it again on the same port, empty.
    pub fn restart(&mut self) {
        self.kill();
        let deadline = Instant::now() + START_MAX;
        while !self.try_launch() {
            assert!(
                Instant::now() < deadline,
                "port {} stays taken, can't restart redis-server there",
                self.port
            );
        }
    }

    /// Stops answering without closing anything, as a host that hangs; until [`RedisServer::thaw`].
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Sends one command and returns the raw reply (RESP2), as far as one read brings it.
    pub fn raw(&self, command: &[&str]) -> String {
        raw(self.port, command).expect("the server answers")
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.pid().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success());
    }

    /// False when it ended at once (the port was taken).
    fn try_launch(&mut self) -> bool {
        let mut running = self.launch();
        let deadline = Instant::now() + START_MAX;
        // Only the process we started counts: another server may have won the port.
        let expected = format!("process_id:{}\r", running.child.id());
        loop {
            if running.child.try_wait().expect("our own child").is_some() {
                return false;
            }
            let answer = raw(self.port, &["INFO", "server"]).unwrap_or_default();
            // A password keeps INFO from us, but only a Redis says so.
            if answer.contains(&expected) || answer.starts_with("-NOAUTH") {
                self.running = Some(running);
                return true;
            }
            assert!(Instant::now() < deadline, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn launch(&self) -> Running {
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &self.port.to_string()])
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--daemonize", "no", "--dir"])
            .arg(self.directory.path())
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let (started, child) = mpsc::channel();
        let (keeper, kept) = mpsc::channel::<()>();
        std::thread::Builder::new()
            .name("redis-keeper".into())
            .spawn(move || {
                // The receiver waits for it; nobody is there only after a panic.
                let _ = started.send(command.spawn());
                let _ = kept.recv();
            })
            .expect("a thread");
        let child = child
            .recv()
            .expect("the keeper reports")
            .expect("redis-server is installed");
        Running {
            child,
            _keeper: keeper,
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A namespace that no other test of this process uses.
pub fn fresh_namespace() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Free a moment ago; somebody else may take it before you do.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
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
