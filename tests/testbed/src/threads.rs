//! Single threads of a child that stand still while its others run, which no signal can do: they are
//! stopped as a debugger stops them.

use std::{fs, io, ptr, sync::mpsc, thread::JoinHandle};

/// The threads of a process whose name begins so, as (id, name).
pub fn named(pid: u32, prefix: &str) -> Vec<(i32, String)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let mut found: Vec<(i32, String)> = tasks
        .filter_map(|task| {
            let task = task.ok()?;
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            let id = task.file_name().to_str()?.parse().ok()?;
            Some((id, name.trim().to_owned()))
        })
        .filter(|(_, name)| name.starts_with(prefix))
        .collect();
    found.sort();
    found
}

/// Stand still until this is dropped.
pub struct Stopped {
    release: Option<mpsc::Sender<()>>,
    tracer: Option<JoinHandle<()>>,
}

impl Stopped {
    /// Threads of our own children only: nobody else's may be stopped.
    pub fn stop(threads: Vec<i32>) -> Stopped {
        assert!(!threads.is_empty(), "there is nothing to stop");
        let (release, released) = mpsc::channel::<()>();
        let (tell, stopped) = mpsc::channel();
        // All that concerns a stopped thread is asked for by the thread that stopped it.
        let tracer = std::thread::spawn(move || {
            let result = threads.iter().try_for_each(|thread| stop_one(*thread));
            tell.send(result).expect("somebody waits");
            let _ = released.recv();
            for thread in threads {
                request(libc::PTRACE_DETACH, thread).expect("it is ours");
            }
        });
        let result = stopped.recv().expect("it tells");
        result.expect("a thread of a child can be stopped; does the system forbid ptrace?");
        Stopped {
            release: Some(release),
            tracer: Some(tracer),
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.release = None;
        if let Some(tracer) = self.tracer.take() {
            let _ = tracer.join();
        }
    }
}

fn stop_one(thread: i32) -> io::Result<()> {
    request(libc::PTRACE_SEIZE, thread)?;
    request(libc::PTRACE_INTERRUPT, thread)?;
    let mut status = 0;
    // SAFETY: waits for a thread this one has just seized, and writes only the status.
    match unsafe { libc::waitpid(thread, &mut status, libc::__WALL) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn request(request: libc::c_uint, thread: i32) -> io::Result<()> {
    let nothing = ptr::null_mut::<libc::c_void>();
    // SAFETY: none of the requests used here reads or writes memory of this process.
    match unsafe { libc::ptrace(request, thread, nothing, nothing) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
