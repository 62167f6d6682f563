//! What a host or a container holds back from a process: system calls, descriptors.

use std::{io, os::unix::process::CommandExt, process::Command};

#[derive(Clone, Default)]
pub struct Confinement {
    forbidden: Vec<libc::c_long>,
    descriptors_max: Option<u64>,
}

impl Confinement {
    /// The kernel refuses these system calls with EPERM, as a container's filter does.
    pub fn forbid(&mut self, calls: &[libc::c_long]) {
        self.forbidden.extend_from_slice(calls);
    }

    /// Bounds each descriptor table, and can't be raised from within.
    pub fn descriptors_max(&mut self, limit: u64) {
        self.descriptors_max = Some(limit);
    }

    pub(crate) fn apply(&self, command: &mut Command) {
        let mut filter = filter(&self.forbidden);
        let limit = self.descriptors_max;
        let is_filtered = !self.forbidden.is_empty();
        // SAFETY: between fork and exec only prctl and setrlimit are called, which are async-signal-safe; the
        // filter was made before and lives in the closure.
        unsafe {
            command.pre_exec(move || {
                if let Some(limit) = limit {
                    bound_descriptors(limit)?;
                }
                match is_filtered {
                    true => install(&mut filter),
                    false => Ok(()),
                }
            });
        }
    }
}

/// For this very architecture: nobody confined here calls by the numbers of another.
fn filter(forbidden: &[libc::c_long]) -> Vec<libc::sock_filter> {
    const NUMBER: u32 = std::mem::offset_of!(libc::seccomp_data, nr) as u32;
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let step = |code: u32, k: u32, jf: u8| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    let mut program = vec![step(LOAD, NUMBER, 0)];
    for call in forbidden {
        let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        program.push(step(IF_EQUAL, *call as u32, 1));
        program.push(step(RETURN, refuse, 0));
    }
    program.push(step(RETURN, libc::SECCOMP_RET_ALLOW, 0));
    program
}

fn install(filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: plain flags; without it only root may install a filter.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: the kernel copies the program, which lives through the call.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) })
}

fn bound_descriptors(limit: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: limit,
        rlim_max: limit,
    };
    // SAFETY: the pointer is to a live `rlimit`, which the kernel reads.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
