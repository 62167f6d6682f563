//! Judges a document by openapi-spec-validator, which has the specification's own schema.

use crate::container::cache;
use std::process::Command;

pub fn judge(document: &str) -> Result<(), String> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), document).expect("it is written");
    let output = Command::new(cache().join("python/bin/openapi-spec-validator"))
        .args(["--schema", "3.1.0"])
        .arg(file.path())
        .output()
        .expect("openapi-spec-validator is installed (scripts/install.sh test)");
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stdout).into_owned()),
    }
}
