//! A child process that never outlives its test.

use std::{
    io::Read,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Output},
    sync::{Mutex, MutexGuard, mpsc},
    time::{Duration, Instant},
};

/// A child that dies with this value, and with the test process: the kernel's parent-death signal follows
/// the thread that started it, so that thread stays as long as the child does.
pub struct Guarded {
    /// Locked, so that who only looks can ask for its end.
    child: Mutex<Child>,
    _keeper: mpsc::Sender<()>,
}

impl Guarded {
    pub fn spawn(mut command: Command) -> std::io::Result<Guarded> {
        // SAFETY: between fork and exec only prctl is called, which is async-signal-safe. The setting lives
        // through an exec by the child, so a script may start the server it is for.
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
            // The receiver waits for it; nobody is there only after a panic.
            let _ = started.send(command.spawn());
            let _ = kept.recv();
        });
        let child = child.recv().expect("the keeper reports")?;
        Ok(Guarded {
            child: Mutex::new(child),
            _keeper: keeper,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// Its status once it has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child().try_wait().expect("our own child")
    }

    /// What it writes to standard error, if that was piped and not taken yet.
    pub fn take_stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.child().stderr.take()
    }

    /// The same of its standard output.
    pub fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child().stdout.take()
    }

    /// Waits for its end and takes what it wrote.
    pub fn output(self) -> Output {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let errors = self.child().stderr.take();
        let reading = std::thread::spawn(move || {
            if let Some(mut errors) = errors {
                let _ = errors.read_to_end(&mut stderr);
            }
            stderr
        });
        let output = self.child().stdout.take();
        if let Some(mut output) = output {
            let _ = output.read_to_end(&mut stdout);
        }
        let status = self.child().wait().expect("our own child");
        let stderr = reading.join().expect("it only reads");
        Output {
            status,
            stdout,
            stderr,
        }
    }

    pub fn signal(&self, signal: i32) {
        let mut child = self.child();
        // Once it is reaped its number may be another's.
        if child.try_wait().expect("our own child").is_none() {
            // SAFETY: a plain system call on our own child, which nobody reaps while it is locked.
            unsafe { libc::kill(child.id() as i32, signal) };
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().expect("nobody panics with it")
    }
}

/// What a test does to a process of any kind: a server of ours or of others.
#[derive(Default)]
pub struct Running(Option<Guarded>);

impl Running {
    pub fn is_started(&self) -> bool {
        self.0.is_some()
    }

    /// `kill -9`: what is connected to it sees the connection close, later ones are refused.
    pub fn kill(&mut self) {
        self.0 = None;
    }

    pub fn pid(&self) -> u32 {
        self.guarded().pid()
    }

    /// User and system time so far.
    pub fn cpu_ms(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()));
        let stat = stat.expect("it runs");
        // The name before may hold anything but this; ticks are 10 ms on every Linux we run on.
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        let ticks = fields.split(' ').skip(11).take(2);
        ticks
            .map(|ticks| ticks.parse::<u64>().expect("a number") * 10)
            .sum()
    }

    pub fn signal(&self, signal: i32) {
        self.guarded().signal(signal);
    }

    /// Stops answering without closing anything, as a host that hangs; until [`Running::thaw`].
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Waits until a server that is starting says so in its log: true then, false when it ended instead.
    pub(crate) fn serves_once_it_says(
        &mut self,
        child: Guarded,
        text: &str,
        log: &Path,
        patience: Duration,
    ) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            if child.ended().is_some() {
                return false;
            }
            let said = std::fs::read_to_string(log).unwrap_or_default();
            if said.contains(text) {
                self.began(child);
                return true;
            }
            assert!(Instant::now() < deadline, "no start: {said}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn began(&mut self, child: Guarded) {
        self.0 = Some(child);
    }

    /// Its status once it has ended.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        self.guarded().ended()
    }

    /// For the output of a failure: nothing while it runs, and after [`Running::kill`].
    pub(crate) fn end_to_explain(&self) -> Option<String> {
        let guarded = self.0.as_ref()?;
        let status = guarded.ended()?;
        Some(format!("process {} is no more: {status}", guarded.pid()))
    }

    fn guarded(&self) -> &Guarded {
        self.0.as_ref().expect("it runs")
    }
}

/// For a server that is its process and little more: it is killed, frozen and thawed as that.
macro_rules! is_a_process {
    ($server:ty) => {
        impl std::ops::Deref for $server {
            type Target = $crate::child::Running;

            fn deref(&self) -> &Self::Target {
                &self.running
            }
        }

        impl std::ops::DerefMut for $server {
            fn deref_mut(&mut self) -> &mut Self::Target {
                &mut self.running
            }
        }
    };
}

pub(crate) use is_a_process;

impl Drop for Guarded {
    /// `kill -9`.
    fn drop(&mut self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }
}
