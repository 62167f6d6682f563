//! A child process that never outlives its test.

use std::{
    io::Read,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Output},
    sync::mpsc,
};

/// A child that dies with this value, and with the test process: the kernel's parent-death signal follows
/// the thread that started it, so that thread stays as long as the child does.
pub struct Guarded {
    child: Child,
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
            child,
            _keeper: keeper,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its status once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child")
    }

    /// What it writes to standard error, if that was piped and not taken yet.
    pub fn take_stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.child.stderr.take()
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
        // SAFETY: a plain system call on our own child, which is not reaped before this value goes.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Stops answering without closing anything, as a host that hangs; until [`Guarded::thaw`].
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
    }

    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }
}

impl Drop for Guarded {
    /// `kill -9`.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
