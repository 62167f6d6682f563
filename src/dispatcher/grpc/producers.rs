//! `Notify` and `NotifyStream`: the same intake as `POST /v1/notifications`.
//!
//! Of a stream:
//! * each notification has one answer, in the order in which they came;
//! * a key that is taken back ends it, and so does what is no message: what was answered before counts;
//! * what it holds is bounded: nothing is read from the client while so many are at work as may be.

use crate::{
    api::{self, notify_answer::Answer, notify_request::Target},
    dispatcher::{
        api_keys::{ApiKeys, KeyError},
        intake::{
            Intake, Receipt,
            request::{Draft, Refusal},
        },
        store::ApiKey,
    },
    limits,
};
use futures::{Stream, StreamExt};
use serde_json::value::RawValue;
use std::{pin::Pin, sync::Arc};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming, metadata::MetadataMap};

#[derive(Clone)]
pub struct Producers {
    pub intake: Arc<Intake>,
    pub keys: Arc<ApiKeys>,
    pub shutdown: CancellationToken,
}

#[tonic::async_trait]
impl api::notifications_server::Notifications for Producers {
    type NotifyStreamStream = Pin<Box<dyn Stream<Item = Result<api::NotifyAnswer, Status>> + Send>>;

    async fn notify_stream(
        &self,
        request: Request<Streaming<api::NotifyRequest>>,
    ) -> Result<Response<Self::NotifyStreamStream>, Status> {
        let clear: Arc<str> = bearer(request.metadata()).into();
        self.producer(&clear).await?;
        let (producers, shutdown) = (self.clone(), self.shutdown.clone());
        let answers = request
            .into_inner()
            // A stream has no end of its own: the process could not leave.
            .take_until(async move { shutdown.cancelled().await })
            .map(move |request| {
                let (producers, clear) = (producers.clone(), clear.clone());
                async move { producers.answer(&clear, request?).await }
            })
            .buffered(limits::NOTIFY_STREAM_AT_ONCE);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn notify(
        &self,
        request: Request<api::NotifyRequest>,
    ) -> Result<Response<api::NotifyReply>, Status> {
        let key = self.producer(bearer(request.metadata())).await?;
        let by_metadata = metadata(request.metadata(), "idempotency-key").map(str::to_owned);
        let mut request = request.into_inner();
        let in_message = given(std::mem::take(&mut request.idempotency_key));
        let idempotency_key = in_message.or(by_metadata);
        let accepted = self
            .intake
            .accept(&key.producer, draft(request), idempotency_key.as_deref())
            .await;
        accepted.map(reply).map(Response::new).map_err(status)
    }
}

impl Producers {
    async fn producer(&self, clear: &str) -> Result<Arc<ApiKey>, Status> {
        let key = self.keys.verify(clear).await;
        key.map_err(|error| match error {
            KeyError::Unknown => Status::unauthenticated(error.to_string()),
            KeyError::Unavailable(_) => Status::unavailable(error.to_string()),
        })
    }

    /// To one of a stream.
    async fn answer(
        &self,
        clear: &str,
        mut request: api::NotifyRequest,
    ) -> Result<api::NotifyAnswer, Status> {
        let key = self.producer(clear).await?;
        let idempotency_key = given(std::mem::take(&mut request.idempotency_key));
        let accepted = self
            .intake
            .accept(&key.producer, draft(request), idempotency_key.as_deref())
            .await;
        let answer = match accepted {
            Ok(receipt) => Answer::Accepted(reply(receipt)),
            Err(refusal) => Answer::Refused(refused(&refusal)),
        };
        Ok(api::NotifyAnswer {
            answer: Some(answer),
        })
    }
}

fn bearer(metadata: &MetadataMap) -> &str {
    let value = self::metadata(metadata, "authorization");
    let clear = value.and_then(|value| value.strip_prefix("Bearer "));
    clear.unwrap_or_default()
}

fn reply(receipt: Receipt) -> api::NotifyReply {
    api::NotifyReply {
        id: receipt.id.to_string(),
        durability: receipt.durability.as_str().to_owned(),
    }
}

fn refused(refusal: &Refusal) -> api::NotifyRefusal {
    api::NotifyRefusal {
        code: refusal.code().to_owned(),
        field: refusal.named_field().unwrap_or_default().to_owned(),
        message: refusal.to_string(),
        retry_after_s: match refusal {
            Refusal::TooMany { retry_after_s, .. } => *retry_after_s,
            // At random, as by HTTP.
            Refusal::Away { .. } | Refusal::NotSpooled(_) | Refusal::Overloaded { .. } => {
                rand::random_range(limits::RETRY_AFTER_S)
            }
            _ => 0,
        },
    }
}

fn metadata<'a>(metadata: &'a MetadataMap, name: &str) -> Option<&'a str> {
    metadata.get(name).and_then(|value| value.to_str().ok())
}

fn draft(request: api::NotifyRequest) -> Result<Draft, Refusal> {
    let mut draft = Draft {
        notification_type: given(request.r#type),
        priority: given(request.priority),
        channels: (!request.channels.is_empty()).then_some(request.channels),
        tags: (!request.tags.is_empty()).then_some(request.tags),
        title: given(request.title),
        body: given(request.body),
        data: given(request.data_json)
            .map(RawValue::from_string)
            .transpose()
            .map_err(|_| Refusal::field("data_json", "is no JSON"))?,
        push: given(request.push_json)
            .map(RawValue::from_string)
            .transpose()
            .map_err(|_| Refusal::field("push_json", "is no JSON"))?,
        collapse_key: given(request.collapse_key),
        ttl_s: (request.ttl_s > 0).then_some(request.ttl_s.into()),
        schedule_at: (request.schedule_at > 0).then_some(request.schedule_at),
        ..Draft::default()
    };
    match request.target {
        None => {}
        Some(Target::User(user)) => draft.user = Some(user),
        Some(Target::Users(users)) => draft.users = Some(users.ids),
        Some(Target::All(all)) => draft.all = all,
        Some(Target::Segment(segment)) => draft.segment = Some(segment),
    }
    Ok(draft)
}

/// Proto3 can't tell an empty string from none.
fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn status(refusal: Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::BadBody(_)
        | Refusal::BadJson(_)
        | Refusal::Field { .. }
        | Refusal::Unsupported { .. }
        | Refusal::TooLarge { .. } => Status::invalid_argument(message),
        Refusal::Conflict => Status::already_exists(message),
        Refusal::Away { .. } | Refusal::NotSpooled(_) | Refusal::Overloaded { .. } => {
            Status::unavailable(message)
        }
        Refusal::TooMany { retry_after_s, .. } | Refusal::OverBudget { retry_after_s, .. } => {
            let mut metadata = MetadataMap::new();
            metadata.insert("retry-after", retry_after_s.into());
            Status::with_metadata(Code::ResourceExhausted, message, metadata)
        }
    }
}
