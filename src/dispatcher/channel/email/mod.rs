//! E-mail, handed over to a relay by SMTP.
//!
//! Invariants:
//! * a connection is used again only after a mail that went through it as it should: one whose send failed, or was
//!   dropped half-way, is closed with it, so that no answer is taken for that of another mail;
//! * a mail has the same `Message-ID` however often it is sent: mail servers and readers may drop what is repeated;
//! * a mail that its receiver may do without says how to end the likes of it;
//! * what concerns the relay and not the mail (it is away, does not let us in) never ends a mail.

mod dkim;
pub mod events;
pub mod sns;
pub mod unsubscribe;

use super::{Answer, Message, Pace, Provider, http};
use crate::{
    config::{self, ConfigError, EmailTls, Secret},
    dispatcher::{
        devices::{Device, DeviceKind},
        patience::Seldom,
        unix_ms,
    },
    limits,
};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use aws_lc_rs::{digest, hmac};
use dkim::Dkim;
use lettre::{
    Address,
    message::{Mailbox, MultiPart, SinglePart, header::HeaderName, header::HeaderValue},
    transport::smtp::{
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters},
        extension::ClientId,
    },
};
use parking_lot::Mutex;
use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};
use unsubscribe::{Unsubscribe, Wish};

type SmtpError = lettre::transport::smtp::Error;

pub struct Smtp {
    /// `host:port`.
    relay: String,
    host: String,
    port: u16,
    security: Security,
    login: Option<Login>,
    hello: ClientId,
    from: Mailbox,
    dkim: ArcSwap<Dkim>,
    unsubscribe: Option<Unsubscribe>,
    pace: Pace,
    /// Open and unused, the last one used at the end.
    idle: Mutex<Vec<Link>>,
    refused: Seldom,
}

enum Security {
    Starttls(TlsParameters),
    Implicit(TlsParameters),
    None,
}

struct Login {
    username: String,
    /// Read at every connection: it may be replaced at any time.
    password_file: PathBuf,
}

/// A connection that is let in.
struct Link {
    connection: AsyncSmtpConnection,
    mails: u32,
}

impl Smtp {
    /// `None` without a relay. Files that keys name are read.
    pub fn from_config(config: &config::Email) -> Result<Option<Smtp>, ConfigError> {
        config.check()?;
        let (Some(relay), Some(from)) = (&config.relay, &config.from) else {
            return Ok(None);
        };
        let (host, port) = relay.rsplit_once(':').expect("checked");
        let from: Mailbox = from
            .parse()
            .map_err(|error| ConfigError::new("email.from", format!("{from:?}: {error}")))?;
        let hello = config.hello.as_deref().unwrap_or(from.email.domain());
        Ok(Some(Smtp {
            security: Security::new(config, host)?,
            login: Login::new(config)?,
            relay: relay.clone(),
            host: host.trim_matches(['[', ']']).to_owned(),
            port: port.parse().expect("checked"),
            hello: ClientId::Domain(hello.to_owned()),
            dkim: ArcSwap::from_pointee(Dkim::from_config(&config.dkim, from.email.domain())?),
            unsubscribe: Unsubscribe::from_config(config)?,
            from,
            pace: Pace {
                at_once: config.connections,
                per_s: config.per_s,
                timeout: Duration::from_millis(config.timeout_ms),
            },
            idle: Mutex::default(),
            refused: Seldom::default(),
        }))
    }

    /// Reads the keys again that sign; what can't be read changes nothing.
    pub fn reload(&self, config: &config::Email) -> Result<(), ConfigError> {
        let dkim = Dkim::from_config(&config.dkim, self.from.email.domain())?;
        if let Some(unsubscribe) = &self.unsubscribe {
            unsubscribe.reload(config)?;
        }
        self.dkim.store(Arc::new(dkim));
        Ok(())
    }

    /// Where mails say how to end the likes of them.
    pub fn unsubscribe(&self) -> Option<&Unsubscribe> {
        self.unsubscribe.as_ref()
    }

    /// One that was used before and still answers, or a new one.
    async fn link(&self) -> Result<Link, SmtpError> {
        loop {
            let idle = self.idle.lock().pop();
            let Some(mut link) = idle else {
                return self.connect().await;
            };
            if link.connection.test_connected().await {
                return Ok(link);
            }
        }
    }

    async fn connect(&self) -> Result<Link, SmtpError> {
        let implicit = match &self.security {
            Security::Implicit(tls) => Some(tls.clone()),
            Security::Starttls(_) | Security::None => None,
        };
        let server = (self.host.as_str(), self.port);
        let timeout = Some(self.pace.timeout);
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(server, timeout, &self.hello, implicit, None)
                .await?;
        if let Security::Starttls(tls) = &self.security {
            connection.starttls(tls.clone(), &self.hello).await?;
        }
        if let Some(login) = &self.login {
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            connection.auth(&mechanisms, &login.credentials()).await?;
        }
        Ok(Link {
            connection,
            mails: 0,
        })
    }

    fn put_back(&self, mut link: Link) {
        link.mails += 1;
        let mut idle = self.idle.lock();
        if link.mails < limits::EMAIL_CONNECTION_MAILS && idle.len() < self.pace.at_once {
            idle.push(link);
        }
    }

    fn compose(&self, message: &Message<'_>) -> Result<lettre::Message, String> {
        let Message {
            head,
            content,
            html,
            device,
            is_optional,
        } = message;
        let address: Address = device
            .address
            .parse()
            .map_err(|error| format!("its address: {error}"))?;
        let title = content.title.as_ref().unwrap_or(&content.notification_type);
        let text = content.body.as_ref().unwrap_or(title);
        let mut mail = lettre::Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, address))
            .subject(subject_of(title))
            .date(UNIX_EPOCH + Duration::from_millis(head.created_ms))
            .message_id(Some(self.message_id(message)))
            .raw_header(header("Auto-Submitted", "auto-generated"));
        if let Some(unsubscribe) = self.unsubscribe.as_ref().filter(|_| *is_optional) {
            let link = unsubscribe.link(&Wish {
                user: device.user.clone(),
                mail: Some(head.id),
                notification_type: content.notification_type.clone(),
            });
            mail = mail
                .raw_header(header("List-Unsubscribe", &format!("<{link}>")))
                .raw_header(header(
                    "List-Unsubscribe-Post",
                    "List-Unsubscribe=One-Click",
                ));
        }
        let mail = match html {
            None => mail.singlepart(SinglePart::plain(text.clone())),
            Some(html) => mail.multipart(MultiPart::alternative_plain_html(
                text.clone(),
                (*html).to_owned(),
            )),
        };
        mail.map_err(|error| error.to_string())
    }

    fn message_id(&self, message: &Message<'_>) -> String {
        let device = message.device;
        let receiver = format!("{}\n{}", device.user, device.id);
        let digest = digest::digest(&digest::SHA256, receiver.as_bytes());
        let digest = &digest.as_ref()[..8];
        let receiver: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let (id, domain) = (message.head.id, self.from.email.domain());
        format!("<{id}.{receiver}@{domain}>")
    }

    /// Of the relay: whatever it says, the mail is not to blame.
    fn unreachable(&self, error: &SmtpError) -> Answer {
        let refused = error.status().is_some() || error.is_client() || is_of_tls(error);
        let class = match refused {
            true => "relay_refused",
            false => "relay_away",
        };
        if self.refused.is_due() {
            tracing::warn!(relay = self.relay, %error, "no e-mail can be handed over: see [email]");
        }
        Answer::Transient {
            class,
            reason: error.to_string(),
            retry_after: None,
        }
    }
}

#[async_trait]
impl Provider for Smtp {
    fn name(&self) -> &str {
        "smtp"
    }

    fn kind(&self) -> DeviceKind {
        DeviceKind::Email
    }

    fn host(&self, _: &Device) -> &str {
        &self.relay
    }

    fn pace(&self) -> Pace {
        self.pace
    }

    async fn send(&self, message: &Message<'_>) -> Answer {
        let mail = match self.compose(message) {
            Ok(mail) => mail,
            Err(reason) => return Answer::unfit(reason),
        };
        let mut link = match self.link().await {
            Ok(link) => link,
            Err(error) => return self.unreachable(&error),
        };
        let text = self.dkim.load().sign(mail.formatted(), unix_ms() / 1000);
        let sent = link.connection.send(mail.envelope(), &text).await;
        match sent {
            Ok(response) => {
                self.put_back(link);
                let said = response.message().collect::<Vec<_>>().join(" ");
                Answer::sent(&said)
            }
            Err(error) => judge(&error),
        }
    }
}

/// Of a file that holds several secrets, one a line: the first signs, each is good. `bytes` reads a line.
fn signing_keys(
    key: &str,
    file: Option<&Path>,
    bytes: impl Fn(&str) -> Result<Vec<u8>, ConfigError>,
) -> Result<Option<Vec<hmac::Key>>, ConfigError> {
    let Some(file) = file else {
        return Ok(None);
    };
    let secret = Secret::from_file(key, file)?;
    let keys = secret.alternatives().map(|line| {
        Secret::check_length(key, line)?;
        Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes(line)?))
    });
    keys.collect::<Result<_, _>>().map(Some)
}

/// A header is one line, and not an endless one.
fn subject_of(title: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let mut subject: String = title.chars().map(printable).collect();
    if let Some((end, _)) = subject.char_indices().nth(limits::EMAIL_SUBJECT_CHARS) {
        subject.truncate(end);
        subject.push_str("...");
    }
    subject
}

fn header(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}

/// A certificate of nobody we know, or something else than TLS.
fn is_of_tls(error: &SmtpError) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::InvalidData;
        }
        source = cause.source();
    }
    false
}

/// Of a mail.
fn judge(error: &SmtpError) -> Answer {
    let reason = error.to_string();
    let transient = |class| Answer::Transient {
        class,
        reason: reason.clone(),
        retry_after: None,
    };
    match error {
        error if error.is_permanent() => Answer::Permanent {
            class: "rejected",
            reason,
        },
        error if error.is_transient() => transient("deferred"),
        // What the relay can't take: an address that is not ASCII.
        error if error.is_client() => Answer::Permanent {
            class: "unfit",
            reason,
        },
        _ => transient("relay_away"),
    }
}

impl Security {
    fn new(config: &config::Email, host: &str) -> Result<Security, ConfigError> {
        if config.tls == EmailTls::None {
            return Ok(Security::None);
        }
        let mut tls = TlsParameters::builder(host.trim_matches(['[', ']']).to_owned());
        if let Some(path) = &config.ca_file {
            tls = tls
                .certificate_store(CertificateStore::None)
                .add_root_certificate(certificate(path)?);
        }
        let tls = tls
            .build()
            .map_err(|error| ConfigError::new("email.tls", error.to_string()))?;
        Ok(match config.tls {
            EmailTls::Implicit => Security::Implicit(tls),
            _ => Security::Starttls(tls),
        })
    }
}

fn certificate(path: &Path) -> Result<Certificate, ConfigError> {
    let key = "email.ca_file";
    let (pem, _) = http::authorities(key, path)?;
    Certificate::from_pem(&pem)
        .map_err(|error| ConfigError::new(key, format!("{}: {error}", path.display())))
}

impl Login {
    fn new(config: &config::Email) -> Result<Option<Login>, ConfigError> {
        let (Some(username), Some(password_file)) = (&config.username, &config.password_file)
        else {
            return Ok(None);
        };
        let login = Login {
            username: username.clone(),
            password_file: password_file.clone(),
        };
        login.password().map(|_| Some(login))
    }

    fn password(&self) -> Result<Secret, ConfigError> {
        Secret::from_file("email.password_file", &self.password_file)
    }

    /// A file that can't be read now is as good as a wrong password: the relay says so, and it is tried again.
    fn credentials(&self) -> Credentials {
        let password = self.password().unwrap_or_else(|error| {
            tracing::warn!(%error, "no password for the relay");
            Secret::default()
        });
        Credentials::new(self.username.clone(), password.expose().to_owned())
    }
}
