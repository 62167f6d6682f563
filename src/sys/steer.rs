//! Which of the listeners that share a port gets a newcomer.

use super::check;
use libc::{
    BPF_A, BPF_ABS, BPF_ADD, BPF_ALU, BPF_B, BPF_JA, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_MISC,
    BPF_MOD, BPF_MUL, BPF_RET, BPF_RSH, BPF_TAX, BPF_W, BPF_X, SKF_AD_CPU, SKF_AD_OFF,
    SKF_AD_RANDOM, SKF_NET_OFF,
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// No listener has this number: the kernel then chooses by the hash of the addresses, as without a program.
const BY_HASH: u32 = u32::MAX;

/// Has the kernel give newcomers to the listener of the core on the CPU that takes their packets in: listener N of
/// the group, in the order they began to listen, is that of the core on `cpus[N % cpus.len()]`. Where several
/// cores share a CPU chance decides among them; a CPU without a core leaves it to the hash.
///
/// So does a host that talks to itself from the same address, as our canary does: it has to reach every core,
/// wherever it runs.
pub fn steer_by_cpu(listener: &impl AsFd, cores: usize, cpus: &[usize]) -> io::Result<()> {
    let mut program = program(cores, cpus);
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the kernel reads `filter`, whose size is given, and behind its pointer `len` instructions of the
    // live `program`; it keeps a copy.
    check(unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

fn program(cores: usize, cpus: &[usize]) -> Vec<libc::sock_filter> {
    let network = |offset: i32| (SKF_NET_OFF + offset) as u32;
    let mut program = vec![
        // The version of IP, then the source and the destination, or the last quarter of them.
        step(BPF_LD | BPF_B | BPF_ABS, network(0)),
        step(BPF_ALU | BPF_RSH | BPF_K, 4),
        jump_if(BPF_K, 4, 0, 4),
        step(BPF_LD | BPF_W | BPF_ABS, network(12)),
        step(BPF_MISC | BPF_TAX, 0),
        step(BPF_LD | BPF_W | BPF_ABS, network(16)),
        step(BPF_JMP | BPF_JA, 3),
        step(BPF_LD | BPF_W | BPF_ABS, network(20)),
        step(BPF_MISC | BPF_TAX, 0),
        step(BPF_LD | BPF_W | BPF_ABS, network(36)),
        jump_if(BPF_X, 0, 0, 1),
        step(BPF_RET | BPF_K, BY_HASH),
        step(BPF_LD | BPF_W | BPF_ABS, (SKF_AD_OFF + SKF_AD_CPU) as u32),
    ];
    for (place, &cpu) in cpus.iter().enumerate().take(cores) {
        let sharing = (cores - place).div_ceil(cpus.len()) as u32;
        let answer = match sharing {
            1 => vec![step(BPF_RET | BPF_K, place as u32)],
            _ => vec![
                step(
                    BPF_LD | BPF_W | BPF_ABS,
                    (SKF_AD_OFF + SKF_AD_RANDOM) as u32,
                ),
                step(BPF_ALU | BPF_MOD | BPF_K, sharing),
                step(BPF_ALU | BPF_MUL | BPF_K, cpus.len() as u32),
                step(BPF_ALU | BPF_ADD | BPF_K, place as u32),
                step(BPF_RET | BPF_A, 0),
            ],
        };
        program.push(jump_if(BPF_K, cpu as u32, 0, answer.len() as u8));
        program.extend(answer);
    }
    program.push(step(BPF_RET | BPF_K, BY_HASH));
    program
}

fn step(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Compares the accumulator with `k` (or with X), and passes over so many instructions.
fn jump_if(operand: u32, k: u32, equal: u8, unequal: u8) -> libc::sock_filter {
    libc::sock_filter {
        jt: equal,
        jf: unequal,
        ..step(BPF_JMP | BPF_JEQ | operand, k)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Protocol, Socket, Type};

    #[test]
    fn the_kernel_takes_the_program_for_any_number_of_cores_and_cpus() {
        for (cores, cpus) in [
            (1, 1),
            (2, 2),
            (8, 2),
            (3, 2),
            (2, 8),
            (256, 64),
            (256, 256),
        ] {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.set_reuse_port(true).unwrap();
            let cpus: Vec<usize> = (0..cpus).collect();
            steer_by_cpu(&socket, cores, &cpus).unwrap();
        }
    }

    #[test]
    fn cores_that_share_a_cpu_are_all_numbered() {
        let answers = program(3, &[4, 9]);
        let mods = answers
            .iter()
            .filter(|step| step.code == (BPF_ALU | BPF_MOD | BPF_K) as u16);
        assert_eq!(mods.map(|step| step.k).collect::<Vec<_>>(), [2]);
        let last = &answers[answers.len() - 2];
        assert_eq!((last.code, last.k), ((BPF_RET | BPF_K) as u16, 1));
    }
}
