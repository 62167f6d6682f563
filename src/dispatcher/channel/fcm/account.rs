//! Who we are to Google: a service account, whose signed word is exchanged for a token (RFC 7523).
//!
//! Invariants:
//! * one exchange is under way at most, and nobody waits for it while the token before it still counts;
//! * one that failed is not repeated for a moment, however many ask;
//! * the file is read at every exchange: its key may be replaced at any time.

use crate::{
    config::{ConfigError, Secret},
    dispatcher::{
        channel::{Answer, REFUSED, http},
        patience::Seldom,
        unix_ms,
    },
    limits,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use reqwest::{Client, header::CONTENT_TYPE};
use serde::Deserialize;
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

const KEY: &str = "fcm.service_account_file";
/// Class of errors of those who give out tokens: they are others than those who take messages, which fail apart.
const AWAY: &str = "token_away";
/// What the token is for.
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

pub struct Account {
    client: Client,
    file: PathBuf,
    /// Of an exchange.
    timeout: Duration,
    held: Mutex<Held>,
    exchanging: tokio::sync::Mutex<()>,
    refused: Seldom,
}

#[derive(Default)]
struct Held {
    token: Option<Token>,
    /// What the last exchange ended in, and until when none is begun.
    failed: Option<(Answer, Instant)>,
}

#[derive(Clone)]
struct Token {
    text: Arc<str>,
    renew_at: Instant,
    ends_at: Instant,
}

enum Standing {
    Good(Arc<str>),
    /// It still counts, and somebody should fetch the next one.
    Ending(Arc<str>),
    None,
    Failed(Answer),
}

impl Held {
    fn standing(&self, now: Instant) -> Standing {
        let failed = self.failed.as_ref().filter(|(_, until)| now < *until);
        let token = self.token.as_ref().filter(|token| now < token.ends_at);
        match (token, failed) {
            (Some(token), None) if now >= token.renew_at => Standing::Ending(token.text.clone()),
            (Some(token), _) => Standing::Good(token.text.clone()),
            (None, Some((answer, _))) => Standing::Failed(answer.clone()),
            (None, None) => Standing::None,
        }
    }
}

impl Account {
    /// And the project that it is of.
    pub fn from_file(
        client: Client,
        file: &Path,
        timeout: Duration,
    ) -> Result<(Account, String), ConfigError> {
        let read = KeyFile::read(file)?;
        let account = Account {
            client,
            file: file.to_owned(),
            timeout,
            held: Mutex::default(),
            exchanging: tokio::sync::Mutex::default(),
            refused: Seldom::default(),
        };
        Ok((account, read.project_id))
    }

    pub async fn token(&self) -> Result<Arc<str>, Answer> {
        let standing = self.held.lock().standing(Instant::now());
        let (still, _turn) = match standing {
            Standing::Good(text) => return Ok(text),
            Standing::Failed(answer) => return Err(answer),
            Standing::Ending(text) => match self.exchanging.try_lock() {
                Ok(turn) => (Some(text), turn),
                Err(_) => return Ok(text),
            },
            Standing::None => (None, self.exchanging.lock().await),
        };
        // Somebody may have been quicker.
        match self.held.lock().standing(Instant::now()) {
            Standing::Good(text) => return Ok(text),
            Standing::Failed(answer) => return Err(answer),
            Standing::Ending(_) | Standing::None => {}
        }
        let exchanged = self.exchange().await;
        let mut held = self.held.lock();
        match exchanged {
            Ok(token) => {
                let text = token.text.clone();
                *held = Held {
                    token: Some(token),
                    failed: None,
                };
                Ok(text)
            }
            Err(answer) => {
                held.failed = Some((answer.clone(), Instant::now() + limits::FCM_TOKEN_PAUSE));
                still.ok_or(answer)
            }
        }
    }

    /// It was refused: the next send fetches another.
    pub fn forget(&self, text: &str) {
        let mut held = self.held.lock();
        held.token.take_if(|token| &*token.text == text);
    }

    async fn exchange(&self) -> Result<Token, Answer> {
        let read = KeyFile::read(&self.file);
        let assertion = read.and_then(|file| Ok((file.assertion()?, file.token_uri)));
        let (assertion, url) =
            assertion.map_err(|error| self.refused(REFUSED, error.to_string()))?;
        let asked = Instant::now();
        // Neither part has anything that would have to be escaped but the colons.
        let grant = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
        let request = self
            .client
            .post(url)
            .timeout(self.timeout)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(format!("grant_type={grant}&assertion={assertion}"));
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return Err(self.refused(AWAY, http::cause(&error))),
        };
        let status = response.status();
        let body = http::body(response, limits::PROVIDER_ANSWER_BYTES).await;
        if !status.is_success() {
            let class = match status.is_server_error() {
                true => AWAY,
                false => REFUSED,
            };
            return Err(self.refused(class, http::reason(status, &body)));
        }
        // Whatever it is, it may hold a token: it is shown to nobody.
        let granted: Granted = serde_json::from_slice(&body)
            .map_err(|_| self.refused(REFUSED, "no token in the answer".to_owned()))?;
        let life = Duration::from_secs(granted.expires_in);
        Ok(Token {
            text: granted.access_token.into(),
            renew_at: asked + life * 3 / 4,
            ends_at: asked + life,
        })
    }

    fn refused(&self, class: &'static str, reason: String) -> Answer {
        if self.refused.is_due() {
            tracing::warn!(reason, "no token for FCM: see [fcm]");
        }
        Answer::Transient {
            class,
            reason,
            retry_after: None,
        }
    }
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

/// What the console gives out.
#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type")]
    kind: String,
    project_id: String,
    private_key_id: String,
    private_key: String,
    client_email: String,
    token_uri: String,
}

impl KeyFile {
    fn read(path: &Path) -> Result<KeyFile, ConfigError> {
        let text = Secret::from_file(KEY, path)?;
        let refused = |problem: String| {
            let problem = format!(
                "{} is no key of a service account, as Firebase's console gives it out: {problem}",
                path.display()
            );
            ConfigError::new(KEY, problem)
        };
        // The error of the parser might quote what it found.
        let file: KeyFile = serde_json::from_str(text.expose()).map_err(|error| {
            let what = match error.is_data() {
                true => "a field is missing or of another kind",
                false => "it is no JSON",
            };
            refused(format!("{what} (line {})", error.line()))
        })?;
        if file.kind != "service_account" {
            return Err(refused("its `type` is not \"service_account\"".into()));
        }
        if !file.token_uri.starts_with("https://") {
            return Err(refused("its `token_uri` is not https".into()));
        }
        file.key().map_err(refused)?;
        Ok(file)
    }

    fn key(&self) -> Result<EncodingKey, String> {
        EncodingKey::from_rsa_pem(self.private_key.as_bytes())
            .map_err(|error| format!("its `private_key`: {error}"))
    }

    fn assertion(&self) -> Result<String, ConfigError> {
        let refused = |problem: String| ConfigError::new(KEY, problem);
        let now_s = unix_ms() / 1000;
        let claims = json!({
            "iss": self.client_email,
            "scope": SCOPE,
            "aud": self.token_uri,
            "iat": now_s,
            "exp": now_s + limits::FCM_ASSERTION_S,
        });
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(self.private_key_id.clone());
        let key = self.key().map_err(refused)?;
        jsonwebtoken::encode(&header, &claims, &key).map_err(|error| refused(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn describe(standing: Standing) -> String {
        match standing {
            Standing::Good(text) => format!("good {text}"),
            Standing::Ending(text) => format!("ending {text}"),
            Standing::None => "none".into(),
            Standing::Failed(_) => "failed".into(),
        }
    }

    #[test]
    fn a_token_is_renewed_before_it_ends_and_a_failure_is_not_repeated_at_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut held = Held::default();
        let seen = |held: &Held, seconds| describe(held.standing(at(seconds)));
        assert_eq!(seen(&held, 0), "none");
        held.token = Some(Token {
            text: "t".into(),
            renew_at: at(45),
            ends_at: at(60),
        });
        assert_eq!(seen(&held, 44), "good t");
        assert_eq!(seen(&held, 45), "ending t");
        assert_eq!(seen(&held, 60), "none");
        let answer = Answer::Permanent {
            class: "x",
            reason: String::new(),
        };
        held.failed = Some((answer, at(51)));
        assert_eq!(seen(&held, 50), "good t", "it still counts");
        assert_eq!(seen(&held, 51), "ending t");
        held.token = None;
        assert_eq!(seen(&held, 50), "failed");
        assert_eq!(seen(&held, 51), "none");
    }
}
