//! A real SMTP server for a test, on a port of its own. What it does with a mail, the mail's receiver decides: see
//! `smtp.py` beside this file.

use crate::{
    PATIENCE,
    child::{Guarded, Running, is_a_process},
    container::python,
    free_port, until,
};
use serde_json::Value;
use std::{
    fs::File,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};
use tempfile::NamedTempFile;

pub struct SmtpServer {
    port: u16,
    arguments: Vec<String>,
    /// A line of JSON for each event.
    told: NamedTempFile,
    running: Running,
}

is_a_process!(SmtpServer);

/// A mail as the server got it.
#[derive(Clone, Debug)]
pub struct Mail {
    pub sender: String,
    pub to: String,
    /// Headers and body.
    pub text: String,
    pub tls: bool,
    pub login: bool,
}

impl SmtpServer {
    /// For anybody, without TLS.
    pub fn start() -> SmtpServer {
        SmtpServer::start_with("none", Path::new("/nonexistent"), None)
    }

    /// `security` is none, starttls or implicit, with `server.pem` and `server.key` of the directory; `login` is a name
    /// and a password.
    pub fn start_with(
        security: &str,
        certificates: &Path,
        login: Option<(&str, &str)>,
    ) -> SmtpServer {
        let file = |name: &str| certificates.join(name).display().to_string();
        let (username, password) = login.unwrap_or_default();
        let (certificate, key) = (file("server.pem"), file("server.key"));
        let arguments = [security, &certificate, &key, username, password];
        let mut server = SmtpServer {
            port: free_port(),
            arguments: arguments.map(str::to_owned).to_vec(),
            told: NamedTempFile::new().expect("a temporary file"),
            running: Running::default(),
        };
        server.start_again();
        server
    }

    /// On the same port; what it was given before stays known.
    pub fn start_again(&mut self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/smtp.py");
        let mut command = Command::new(python());
        command.arg(script).arg(self.port.to_string());
        command.args(&self.arguments).stdin(Stdio::null());
        // In a file, what it told before it answered is there when the answer is. It also tells of every client that
        // breaks off.
        let told = File::options().append(true).open(self.told.path());
        command.stdout(told.expect("a file of ours"));
        command.stderr(Stdio::null());
        let began = self.count("ready");
        let child = Guarded::spawn(command).expect("python3 is installed");
        self.running.began(child);
        let explain = || "is aiosmtpd installed (scripts/install.sh test)?".to_owned();
        let is_ready = || self.count("ready") > began;
        until("the SMTP server is ready", is_ready, explain);
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn mails(&self) -> Vec<Mail> {
        let told = self.told();
        let mails = told.iter().filter(|event| event["event"] == "mail");
        let text = |event: &Value, name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let mails = mails.map(|event| Mail {
            sender: text(event, "sender"),
            to: text(event, "to"),
            text: text(event, "text"),
            tls: event["tls"] == true,
            login: event["login"] == true,
        });
        mails.collect()
    }

    /// How often it told of such an event: `connection`, `put_off`, `mail`.
    pub fn count(&self, event: &str) -> usize {
        let told = self.told();
        told.iter().filter(|one| one["event"] == event).count()
    }

    fn told(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.told.path()).expect("a file of ours");
        // The last line may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect()
    }

    /// As soon as there are so many mails.
    pub async fn received(&self, count: usize) -> Vec<Mail> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mails = self.mails();
            if mails.len() >= count {
                return mails;
            }
            let seen = mails.len();
            assert!(Instant::now() < deadline, "{seen} of {count} mails came");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}
