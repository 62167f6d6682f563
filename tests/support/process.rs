//! Herald's own binary as a child: started with settings, killed, started again. Its log is kept.

#![allow(dead_code)]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

/// What a loaded two-core machine may need for anything that normally takes well under a second.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A child that dies with the test process: the kernel's parent-death signal follows the thread that
/// started it, so that thread stays as long as the child does.
pub struct Guarded {
    pub child: Child,
    _keeper: mpsc::Sender<()>,
}

impl Guarded {
    pub fn spawn(mut command: Command) -> std::io::Result<Guarded> {
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
        std::thread::spawn(move || {
            let _ = started.send(command.spawn());
            let _ = kept.recv();
        });
        let child = child.recv().expect("the keeper reports")?;
        Ok(Guarded {
            child,
            _keeper: keeper,
        })
    }

    /// Waits for its end and takes what it wrote.
    pub fn output(mut self) -> Output {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let errors = self.child.stderr.take();
        let reading = std::thread::spawn(move || {
            if let Some(mut errors) = errors {
                let _ = errors.read_to_end(&mut stderr);
            }
            stderr
        });
        if let Some(mut output) = self.child.stdout.take() {
            let _ = output.read_to_end(&mut stdout);
        }
        let status = self.child.wait().expect("our own child");
        let stderr = reading.join().expect("it only reads");
        Output {
            status,
            stdout,
            stderr,
        }
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a plain system call on our own child.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One Herald process.
pub struct Herald {
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    running: Option<Guarded>,
    log: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Herald {
    /// `settings` are `("gateway.cores", "2")` and become `HERALD_GATEWAY__CORES=2`.
    pub fn new(arguments: &[&str], settings: &[(&str, &str)]) -> Herald {
        let environment = settings
            .iter()
            .map(|(key, value)| (variable(key), value.to_string()));
        Herald {
            arguments: arguments.iter().map(|text| text.to_string()).collect(),
            environment: environment.collect(),
            running: None,
            log: Arc::default(),
            reader: None,
        }
    }

    pub fn start(&mut self) {
        assert!(self.running.is_none(), "it runs already");
        let mut command = Command::new(env!("CARGO_BIN_EXE_herald"));
        command
            .args(&self.arguments)
            .envs(&self.environment)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut running = Guarded::spawn(command).expect("the binary starts");
        let lines = BufReader::new(running.child.stderr.take().expect("piped")).lines();
        let log = self.log.clone();
        // The last stage of `make test` looks through every log of the run for secrets.
        let mut kept = std::env::var_os("HERALD_TEST_LOGS").map(|dir| {
            let path = PathBuf::from(dir).join(format!("{}.log", running.child.id()));
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
        self.running = Some(running);
    }

    /// Everything it ever wrote to standard error.
    pub fn log(&self) -> String {
        self.log.lock().expect("nobody panics with it").clone()
    }

    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("it runs").child.id()
    }

    pub fn is_running(&mut self) -> bool {
        let running = self.running.as_mut();
        running.is_some_and(|running| running.child.try_wait().expect("our own child").is_none())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.running = None;
    }

    pub fn signal(&self, signal: i32) {
        self.running.as_ref().expect("it runs").signal(signal);
    }

    /// Waits for it to end by itself; its log is whole then.
    pub fn wait(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("it runs");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = running.child.try_wait().expect("our own child") {
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

fn variable(key: &str) -> String {
    format!("HERALD_{}", key.replacen('.', "__", 1).to_uppercase())
}

/// Another binary of the workspace, built beside this one.
pub fn sibling_binary(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_herald")).with_file_name(name);
    assert!(
        path.exists(),
        "{} is missing: cargo build --workspace --bins",
        path.display()
    );
    path
}

/// A free port below the range the kernel takes ports of outgoing connections from, so that nobody gets
/// it between this look and the bind.
pub fn free_port() -> u16 {
    loop {
        let port = rand::random_range(20_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Polls until it holds; says what never came, and why if known.
pub fn until(what: &str, mut holds: impl FnMut() -> bool, explain: impl Fn() -> String) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "not within {PATIENCE:?}: {what}\n{}",
            explain()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
