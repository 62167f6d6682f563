//! `herald ctl send`: a notification as `POST /v1/notifications` takes it.

use super::{CtlError, Endpoint};
use crate::{
    config::ConfigError,
    envelope::{Channel, Priority},
};
use clap::{ArgGroup, Args};
use serde_json::{Value, json};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("target").required(true).args(["user", "users", "segment", "all"])))]
pub struct Send {
    /// To one user.
    #[arg(long)]
    user: Option<String>,
    /// To several, separated by commas.
    #[arg(long, value_delimiter = ',')]
    users: Option<Vec<String>>,
    /// To the users of a segment that was uploaded before, by its id.
    #[arg(long)]
    segment: Option<String>,
    /// To everyone.
    #[arg(long)]
    all: bool,
    /// With --all: to those only who have one of these among the `tags` of their preferences; separated by commas.
    #[arg(long, value_delimiter = ',', requires = "all", conflicts_with_all = ["user", "users", "segment"])]
    tags: Option<Vec<String>>,
    #[arg(long = "type", default_value = "message")]
    notification_type: String,
    #[arg(long)]
    title: Option<String>,
    #[arg(long)]
    body: Option<String>,
    /// A JSON object, passed through.
    #[arg(long)]
    data: Option<String>,
    /// critical, high, normal or low.
    #[arg(long, default_value = "normal")]
    priority: String,
    /// in_app, push, email, sms; separated by commas.
    #[arg(long, value_delimiter = ',')]
    channels: Option<Vec<String>>,
    #[arg(long)]
    ttl_s: Option<u32>,
    /// Not before this, at most 30 days ahead: 2026-12-24T18:00:00+01:00, or Unix ms.
    #[arg(long)]
    schedule_at: Option<String>,
    #[arg(long)]
    collapse_key: Option<String>,
    #[arg(long)]
    idempotency_key: Option<String>,
}

impl Send {
    pub async fn run(self, endpoint: &Endpoint) -> Result<Value, CtlError> {
        let key = self.idempotency_key.clone();
        endpoint.post("/v1/notifications", &self.body()?, key).await
    }

    /// The request body; what the server would refuse anyway is left to it to name.
    fn body(self) -> Result<Value, CtlError> {
        let target = match (self.user, self.users, self.segment, self.tags) {
            (Some(user), ..) => json!({ "user": user }),
            (_, Some(users), ..) => json!({ "users": users }),
            (_, _, Some(segment), _) => json!({ "segment": segment }),
            (_, _, _, Some(tags)) => json!({ "all": true, "tags": tags }),
            _ => json!({ "all": true }),
        };
        let priority: Priority = self.priority.parse().map_err(|()| {
            ConfigError::new("--priority", "must be critical, high, normal or low")
        })?;
        let mut body = json!({
            "target": target,
            "type": self.notification_type,
            "priority": priority,
        });
        if let Some(channels) = self.channels {
            let channels: Result<Vec<Channel>, ()> = channels.iter().map(|c| c.parse()).collect();
            body["channels"] = json!(channels.map_err(|()| {
                ConfigError::new("--channels", "must be of in_app, push, email and sms")
            })?);
        }
        if let Some(data) = self.data {
            body["data"] = serde_json::from_str(&data)
                .map_err(|error| ConfigError::new("--data", format!("is not JSON: {error}")))?;
        }
        let optional = [
            ("title", self.title.map(Value::from)),
            ("body", self.body.map(Value::from)),
            ("ttl_s", self.ttl_s.map(Value::from)),
            ("collapse_key", self.collapse_key.map(Value::from)),
            ("schedule_at", self.schedule_at.as_deref().map(time)),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                body[key] = value;
            }
        }
        Ok(body)
    }
}

/// Unix ms are a number in JSON; what is neither form is left to the server to name.
fn time(text: &str) -> Value {
    text.parse::<u64>()
        .map_or_else(|_| text.into(), Value::from)
}
