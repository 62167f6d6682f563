//! By HTTP to a server that only carries: the body is what clients get.

use super::{ANSWER, Attempt, Content, PAUSE};
use crate::dialect::plain::{ALL, path};
use anyhow::{Context, Result};

pub struct Plain {
    client: reqwest::Client,
    urls: Vec<String>,
}

impl Plain {
    pub fn new(urls: &[String]) -> Result<Plain> {
        let client = reqwest::Client::builder().timeout(ANSWER).build();
        Ok(Plain {
            client: client.context("no HTTP client")?,
            urls: urls.to_vec(),
        })
    }

    pub async fn attempt(&self, content: &Content<'_>, turn: usize) -> Attempt {
        let target = match content.post.user {
            Some(_) => &content.post.name,
            None => ALL,
        };
        let url = path(&self.urls[turn % self.urls.len()], target);
        let sent = self.client.post(url).body(content.carried()).send().await;
        match sent.map(|answer| answer.status()) {
            Ok(status) if status.is_success() => Attempt::Accepted(None),
            Ok(status) if status.is_server_error() => {
                Attempt::Passing(format!("HTTP {}", status.as_u16()), PAUSE)
            }
            Ok(status) => Attempt::Refused(format!("HTTP {}", status.as_u16())),
            Err(_) => Attempt::Passing("no answer".into(), PAUSE),
        }
    }
}
