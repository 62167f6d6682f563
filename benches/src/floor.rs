//! The floor as a running process.

use crate::{
    parts::Folder,
    process::{Process, sibling},
};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::{
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout},
    time::Duration,
};
use testbed::free_port;

pub struct Floor {
    pub process: Process,
    pub port: u16,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Floor {
    pub fn start(folder: &Folder) -> Result<Floor> {
        Floor::start_on(Some(0), folder)
    }

    /// Bound to a CPU if one is named.
    pub fn start_on(cpu: Option<usize>, folder: &Folder) -> Result<Floor> {
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let log = folder.join("floor.log");
        let mut process = Process::start(&sibling("floor")?, &[address], cpu, &log)?;
        let (input, output) = process.pipes().context("no pipes")?;
        let mut floor = Floor {
            process,
            port,
            input,
            output: BufReader::new(output),
        };
        match floor.line()?.as_str() {
            "ready" => Ok(floor),
            other => bail!("the floor says {other:?}"),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    fn ask(&mut self, command: &str) -> Result<String> {
        writeln!(self.input, "{command}")?;
        self.line()
    }

    /// Until so many clients are there.
    pub async fn reached(&mut self, clients: u32) -> Result<()> {
        let wanted = format!("clients {clients}");
        while self.ask("count")? != wanted {
            self.process.check()?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// From now on a ping to everybody in this time.
    pub fn ping_all_in(&mut self, round: Duration) -> Result<()> {
        match self.ask(&format!("ping {}", round.as_millis()))?.as_str() {
            "pinging" => Ok(()),
            other => bail!("the floor says {other:?}"),
        }
    }

    /// One frame to everybody.
    pub fn send_all(&mut self, number: u32) -> Result<u64> {
        let command = format!("all {}", frame("all:local", &format!("{number:012}")));
        let answer = self.ask(&command)?;
        sent(&answer)
    }

    /// Frames to one client after the other.
    pub fn send_each(&mut self, rate: u32, count: u32) -> Result<u64> {
        let zeroes = "0".repeat(12);
        let answer = self.ask(&format!(
            "each {rate} {count} {}",
            frame("user:local", &zeroes)
        ))?;
        sent(&answer)
    }
}

fn sent(answer: &str) -> Result<u64> {
    let words: Vec<&str> = answer.split(' ').collect();
    match words[..] {
        ["sent", sent, "blocked", "0"] => Ok(sent.parse()?),
        _ => bail!("the floor lost frames: {answer}"),
    }
}

/// What Herald makes of [`crate::standalone::content`], byte for byte as long.
fn frame(stream: &str, number: &str) -> String {
    let json = json!({
        "type": "notification",
        "id": format!("01900000-0000-7000-8000-{number}"),
        "stream": stream,
        "pos": 1_099_511_627_777_u64,
        "prev": 1_099_511_627_776_u64,
        "priority": "normal",
        "created_at": 1_760_000_000_000_u64,
        "notification_type": "bench",
        "title": "A title",
        "body": "x".repeat(200),
        "data": {},
    });
    json.to_string()
}
