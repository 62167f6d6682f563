//! Where the result goes: a table on standard error for people; JSON on standard output for programs, and in files.
//! That it can be written is looked at before the run, and what can't be written at its end costs nothing else.

use crate::{page, report::Report, table};
use anyhow::{Context, Result};
use std::{
    fs::{self, OpenOptions},
    io::{self, IsTerminal, Write},
    path::Path,
};

#[derive(Clone, Copy, Debug)]
pub struct Outputs<'a> {
    pub json: Option<&'a Path>,
    pub html: Option<&'a Path>,
}

impl Outputs<'_> {
    /// Whether each file can be written. What is in one stays until there is a result.
    pub fn check(&self) -> Result<()> {
        let files = [("--json", self.json), ("--html", self.html)];
        for (flag, file) in files {
            let Some(file) = file else { continue };
            // Whoever reads a pipe would take this for its end.
            if fs::metadata(file).is_ok_and(|what| !what.is_file() && !what.is_dir()) {
                continue;
            }
            let opened = OpenOptions::new().append(true).create(true).open(file);
            opened.with_context(|| format!("{flag}: can't write {}", file.display()))?;
        }
        Ok(())
    }

    /// All of them, and what went wrong first.
    pub fn write(&self, report: &Report) -> Result<()> {
        say(&table::text(report));
        let text = serde_json::to_string_pretty(report).context("the result is no JSON")?;
        let json = self.json.map(|file| written(file, &text));
        let html = self.html.map(|file| written(file, &page::html(report)));
        let mut out = io::stdout();
        let piped = match out.is_terminal() {
            true => Ok(()),
            false => writeln!(out, "{text}").context("can't write the result to standard output"),
        };
        json.unwrap_or(Ok(()))
            .and(html.unwrap_or(Ok(())))
            .and(piped)
    }
}

/// On standard error, which nobody may read any more.
pub fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn written(file: &Path, content: &str) -> Result<()> {
    fs::write(file, content).with_context(|| format!("can't write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_is_named_beforehand_and_one_that_can_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, missing) = (dir.path().join("kept"), dir.path().join("no/where"));
        fs::write(&kept, "an older result").unwrap();
        let outputs = |json, html| Outputs { json, html };
        outputs(Some(&*kept), None).check().unwrap();
        assert_eq!(fs::read_to_string(&kept).unwrap(), "an older result");
        let error = outputs(Some(&*kept), Some(&*missing)).check().unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("--html") && error.contains("no/where"),
            "{error}"
        );
    }
}
