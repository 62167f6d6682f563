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
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

pub struct SmtpServer {
    port: u16,
    arguments: Vec<String>,
    told: Arc<Mutex<Vec<Value>>>,
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
            told: Arc::default(),
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
        // It tells of every client that breaks off.
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = Guarded::spawn(command).expect("python3 is installed");
        let output = child.take_stdout().expect("piped");
        self.running.began(child);
        let (told, began) = (self.told.clone(), self.count("ready"));
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).expect("a line of JSON");
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                told.push(event);
            }
        });
        let explain = || "is aiosmtpd installed (scripts/install.sh test)?".to_owned();
        let is_ready = || self.count("ready") > began;
        until("the SMTP server is ready", is_ready, explain);
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn mails(&self) -> Vec<Mail> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
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
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.iter().filter(|one| one["event"] == event).count()
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
