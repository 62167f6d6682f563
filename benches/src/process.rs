//! A server as a child process, and what the kernel says of it.

use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

/// Names of the gateway's core threads start with it.
const THREAD_PREFIX: &str = "core-";

/// Names of threads that only call SQLite.
const STORE_PREFIX: &str = "store-";
/// And of those that librdkafka makes, and of the one that takes its reports.
const KAFKA_PREFIXES: [&str; 2] = ["rdk:", "producer pollin"];

/// CPU time of a process: its core threads, those of its store and of its Kafka client, and all of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    pub cores_us: f64,
    pub store_us: f64,
    pub kafka_us: f64,
    pub whole_us: f64,
}

impl Cpu {
    pub fn since(self, before: Cpu) -> Cpu {
        self.with(before, |now, before| now - before)
    }

    /// For each of `count` things done in `seconds`, what is used at rest left out.
    pub fn each(self, count: f64, at_rest_per_s: Cpu, seconds: f64) -> Cpu {
        self.with(at_rest_per_s, |used, at_rest| {
            (used - at_rest * seconds) / count
        })
    }

    fn plus(self, other: Cpu) -> Cpu {
        self.with(other, |one, other| one + other)
    }

    fn with(self, other: Cpu, each: impl Fn(f64, f64) -> f64) -> Cpu {
        Cpu {
            cores_us: each(self.cores_us, other.cores_us),
            store_us: each(self.store_us, other.store_us),
            kafka_us: each(self.kafka_us, other.kafka_us),
            whole_us: each(self.whole_us, other.whole_us),
        }
    }

    fn of_thread(name: &str, us: f64) -> Cpu {
        let among = |prefixes: &[&str]| match prefixes.iter().any(|one| name.starts_with(one)) {
            true => us,
            false => 0.0,
        };
        Cpu {
            cores_us: among(&[THREAD_PREFIX]),
            store_us: among(&[STORE_PREFIX]),
            kafka_us: among(&KAFKA_PREFIXES),
            whole_us: us,
        }
    }
}

/// Counts what a process uses above what it uses at rest.
pub struct Meter {
    at_rest_per_s: Cpu,
    before: Cpu,
    began: Instant,
}

impl Meter {
    pub fn start(process: &Process, at_rest_per_s: Cpu) -> Result<Meter> {
        Ok(Meter {
            at_rest_per_s,
            before: process.cpu()?,
            began: Instant::now(),
        })
    }

    /// CPU time of each of `count` things done, once the process has come to rest.
    pub async fn stop(self, process: &mut Process, count: f64) -> Result<Cpu> {
        process.settle().await?;
        let used = process.cpu()?.since(self.before);
        let seconds = self.began.elapsed().as_secs_f64();
        Ok(used.each(count, self.at_rest_per_s, seconds))
    }
}

/// Ends with the value.
pub struct Process {
    child: Child,
    /// That do its work.
    children: Vec<u32>,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Bound to a CPU if one is named. Standard input and output are pipes; errors go to `log`.
    pub fn start(
        command: &Path,
        arguments: &[String],
        cpu: Option<usize>,
        log: &Path,
    ) -> Result<Process> {
        Process::start_with(command, arguments, &[], cpu, log)
    }

    pub fn start_with(
        command: &Path,
        arguments: &[String],
        environment: &[(&str, String)],
        cpu: Option<usize>,
        log: &Path,
    ) -> Result<Process> {
        let mut full = match cpu {
            Some(cpu) if cpus() > 1 => {
                let mut bound = Command::new("taskset");
                bound.args(["-c", &cpu.to_string()]).arg(command);
                bound
            }
            _ => Command::new(command),
        };
        let child = full
            .args(arguments)
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(log)?)
            .spawn()
            .with_context(|| format!("can't start {}", command.display()))?;
        Ok(Process {
            child,
            children: Vec::new(),
            name: command.display().to_string(),
            log: log.to_owned(),
        })
    }

    /// Counts what its children of now do and hold, too.
    pub fn adopt(&mut self) -> Result<()> {
        let parent = self.child.id().to_string();
        for entry in fs::read_dir("/proc")?.flatten() {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let (number, rest) = stat.split_once(' ').unwrap_or_default();
            // The name may hold blanks and brackets; behind it are state and parent.
            let fields = rest.rsplit_once(')').unwrap_or_default().1;
            if fields.split_whitespace().nth(1) == Some(&parent) {
                self.children.push(number.parse()?);
            }
        }
        Ok(())
    }

    fn family(&self) -> impl Iterator<Item = u32> {
        std::iter::once(self.child.id()).chain(self.children.iter().copied())
    }

    pub fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        Some((self.child.stdin.take()?, self.child.stdout.take()?))
    }

    /// What it prints is wanted by nobody, and may be more than a pipe holds.
    pub fn drop_output(&mut self) {
        if let Some((_, mut output)) = self.pipes() {
            std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        }
    }

    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            bail!("{} ended: {status}\n{log}", self.name);
        }
        Ok(())
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, by the name of a signal.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &id]).status()?;
        if !sent.success() {
            bail!("kill: {sent}");
        }
        Ok(())
    }

    /// Until it has ended by itself.
    pub async fn ended(&mut self, within: Duration) -> Result<()> {
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            if began.elapsed() > within {
                bail!("{} does not end", self.name);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// By the scheduler's own count, in ns, which misses only threads that have ended.
    pub fn cpu(&self) -> Result<Cpu> {
        let mut sum = Cpu::default();
        for process in self.family() {
            sum = sum.plus(cpu_of(process)?);
        }
        Ok(sum)
    }

    pub fn resident_bytes(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.context("no VmRSS")?.parse::<f64>()? * 1024.0)
    }

    /// The same, where what processes share is shared out among them.
    pub fn proportional_bytes(&self) -> Result<f64> {
        let mut bytes = 0.0;
        for process in self.family() {
            let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
            let kib = line.and_then(|line| line.split_whitespace().next());
            bytes += kib.context("no Pss")?.parse::<f64>()? * 1024.0;
        }
        Ok(bytes)
    }

    /// What it uses in a second while nothing is asked of it.
    pub async fn at_rest(&mut self) -> Result<Cpu> {
        const SECONDS: u32 = 3;
        self.settle().await?;
        let before = self.cpu()?;
        tokio::time::sleep(Duration::from_secs(SECONDS.into())).await;
        let used = self.cpu()?.since(before);
        Ok(used.each(SECONDS.into(), Cpu::default(), 0.0))
    }

    /// Until it has used less than 3 % of a CPU for a second, or for ten seconds at most.
    pub async fn settle(&mut self) -> Result<()> {
        let began = Instant::now();
        let mut quiet = 0;
        while quiet < 2 && began.elapsed() < Duration::from_secs(10) {
            self.check()?;
            let before = self.cpu()?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let calm = self.cpu()?.since(before).whole_us < 15_000.0;
            quiet = if calm { quiet + 1 } else { 0 };
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Without their parent they would stay.
        for child in &self.children {
            let _ = Command::new("kill").arg(child.to_string()).status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of any process of this machine: see [`Process::cpu`].
pub fn cpu_of(process: u32) -> Result<Cpu> {
    let mut cpu = Cpu::default();
    let folder = fs::read_dir(format!("/proc/{process}/task")).context("it ended")?;
    for task in folder.flatten().map(|task| task.path()) {
        let read = |file: &str| fs::read_to_string(task.join(file));
        let (Ok(name), Ok(text)) = (read("comm"), read("schedstat")) else {
            continue;
        };
        let ns: f64 = text.split(' ').next().unwrap_or("0").parse()?;
        cpu = cpu.plus(Cpu::of_thread(&name, ns / 1_000.0));
    }
    Ok(cpu)
}

pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// Another binary of the workspace, built beside this one.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.exists() {
        bail!(
            "{} is missing: cargo build --release --workspace",
            path.display()
        );
    }
    Ok(path)
}
