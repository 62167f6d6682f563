//! Amazon SNS, which hands reports of Amazon SES over and signs what it says.
//!
//! Invariants:
//! * only topics that the configuration names are listened to: anybody may have one, and SNS signs for all of them;
//! * nobody is asked but the topic's own host, by TLS, whatever a message says, and nobody that an answer sends us to;
//! * a subscription is confirmed only by a message that is signed, and the end of one is not undone;
//! * what is fetched at once and what is kept are bounded.

mod certificates;
mod message;

use crate::{
    config::{self, ConfigError},
    dispatcher::{channel::http, intake::request::Refusal},
    limits,
};
use certificates::Certificates;
use message::{Kind, Message, Topic};
use reqwest::Client;
use thiserror::Error;

const TOPICS: &str = "email.sns_topics";

pub struct Sns {
    topics: Vec<Topic>,
    client: Client,
    certificates: Certificates,
}

/// What a message that counts gives us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// Of Amazon SES.
    Report {
        /// The same each time that SNS tries to hand it over.
        id: String,
        topic: String,
        /// JSON.
        text: String,
    },
    /// It was about the subscription.
    Nothing,
}

#[derive(Debug, Error)]
pub enum SnsError {
    #[error("{0}")]
    Malformed(Refusal),
    /// It may be somebody else's word.
    #[error("{field} {problem}")]
    Unsigned {
        field: &'static str,
        problem: String,
    },
    /// SNS can't be asked now: it tries again by itself.
    #[error("Amazon SNS can't be asked for {what}: {problem}")]
    Away { what: &'static str, problem: String },
}

impl SnsError {
    fn unsigned(field: &'static str, problem: impl Into<String>) -> SnsError {
        SnsError::Unsigned {
            field,
            problem: problem.into(),
        }
    }
}

impl Sns {
    /// `None` where no topic is listened to.
    pub fn from_config(config: &config::Email) -> Result<Option<Sns>, ConfigError> {
        let topics = config.sns_topics.iter().map(|arn| {
            Topic::parse(arn).ok_or_else(|| {
                let problem = format!(
                    "{arn:?} is no topic of Amazon SNS: arn:aws:sns:REGION:ACCOUNT:NAME, also of aws-cn and aws-us-gov"
                );
                ConfigError::new(TOPICS, problem)
            })
        });
        let topics: Vec<Topic> = topics.collect::<Result<_, _>>()?;
        if topics.is_empty() {
            return Ok(None);
        }
        let mut client = http::builder("email.sns_ca_file", config.sns_ca_file.as_deref())?;
        for topic in &topics {
            if let Some(address) = config.sns_address {
                client = client.resolve(&topic.host, address);
            }
        }
        let client = client
            .build()
            .map_err(|error| ConfigError::new(TOPICS, error.to_string()))?;
        Ok(Some(Sns {
            certificates: Certificates::new(client.clone()),
            topics,
            client,
        }))
    }

    /// Reads what SNS posts, believes it or not, and answers for the subscription.
    pub async fn take(&self, body: &[u8], now_ms: u64) -> Result<Given, SnsError> {
        let message = Message::read(body).map_err(SnsError::Malformed)?;
        let mut topics = self.topics.iter();
        let topic = topics.find(|topic| topic.arn == message.topic_arn);
        let topic =
            topic.ok_or_else(|| SnsError::unsigned("TopicArn", "is none of email.sns_topics"))?;
        message.check(topic, now_ms)?;
        let url = &message.signing_cert_url;
        let key = self.certificates.key(url, topic, now_ms).await?;
        message.verify(&key)?;
        match message.kind {
            Kind::Notification => {
                return Ok(Given::Report {
                    id: message.message_id,
                    topic: message.topic_arn,
                    text: message.text,
                });
            }
            Kind::SubscriptionConfirmation => self.confirm(&message, topic).await?,
            // What it says to visit would subscribe us again.
            Kind::UnsubscribeConfirmation => {
                tracing::warn!(topic = topic.arn, "Amazon SNS tells us of mails no more");
            }
        }
        Ok(Given::Nothing)
    }

    async fn confirm(&self, message: &Message, topic: &Topic) -> Result<(), SnsError> {
        let url = message.subscribe_url.as_deref().unwrap_or_default();
        if !topic.is_own(url) {
            let problem = format!("is no https://{}/", topic.host);
            return Err(SnsError::unsigned("SubscribeURL", problem));
        }
        let away = |problem: String| SnsError::Away {
            what: "the subscription",
            problem,
        };
        let request = self.client.get(url).timeout(limits::SNS_TIMEOUT);
        let response = request.send().await;
        let response = response.map_err(|error| away(http::cause(&error)))?;
        let status = response.status();
        if !status.is_success() {
            let body = http::body(response, limits::PROVIDER_ANSWER_BYTES).await;
            return Err(away(http::reason(status, &body)));
        }
        tracing::info!(
            topic = topic.arn,
            "Amazon SNS tells us of mails from now on"
        );
        Ok(())
    }
}
