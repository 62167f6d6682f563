//! By HTTP to a server that only carries.

use super::{ANSWER, Attempt, Content, PAUSE};
use crate::dialect::{Dialect, centrifugo, plain};
use anyhow::{Context, Result};
use reqwest::Response;

pub struct Carrier {
    client: reqwest::Client,
    urls: Vec<String>,
    dialect: Dialect,
}

impl Carrier {
    pub fn new(urls: &[String], dialect: Dialect) -> Result<Carrier> {
        let client = reqwest::Client::builder().timeout(ANSWER).build();
        Ok(Carrier {
            client: client.context("no HTTP client")?,
            urls: urls.to_vec(),
            dialect,
        })
    }

    pub async fn attempt(&self, content: &Content<'_>, turn: usize) -> Attempt {
        let user = content.post.user.map(|_| &*content.post.name);
        let base = &self.urls[turn % self.urls.len()];
        let (url, body) = match self.dialect {
            Dialect::Centrifugo => {
                let channel = user.unwrap_or(centrifugo::ALL);
                let body = centrifugo::publication(channel, &content.carried());
                (plain::path(base, centrifugo::PUBLISH), body)
            }
            _ => {
                let target = user.unwrap_or(plain::ALL);
                (plain::path(base, target), content.carried())
            }
        };
        match self.client.post(url).body(body).send().await {
            Ok(answer) => self.judge(answer).await,
            Err(_) => Attempt::Passing("no answer".into(), PAUSE),
        }
    }

    async fn judge(&self, answer: Response) -> Attempt {
        let status = answer.status();
        if status.is_server_error() {
            return Attempt::Passing(format!("HTTP {}", status.as_u16()), PAUSE);
        }
        if !status.is_success() {
            return Attempt::Refused(format!("HTTP {}", status.as_u16()));
        }
        // Centrifugo says what was wrong with 200.
        match self.dialect {
            Dialect::Centrifugo => match answer.text().await {
                Ok(text) if centrifugo::is_published(&text) => Attempt::Accepted(None),
                Ok(text) => Attempt::Refused(text),
                Err(_) => Attempt::Passing("no answer".into(), PAUSE),
            },
            _ => Attempt::Accepted(None),
        }
    }
}
