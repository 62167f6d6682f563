//! `Notify`: the same intake as `POST /v1/notifications`.

use crate::{
    api::{self, notify_request::Target},
    dispatcher::{
        api_keys::{ApiKeys, KeyError},
        intake::{
            Intake,
            request::{Draft, Refusal},
        },
    },
};
use serde_json::value::RawValue;
use std::sync::Arc;
use tonic::{Code, Request, Response, Status, metadata::MetadataMap};

pub struct Producers {
    pub intake: Arc<Intake>,
    pub keys: Arc<ApiKeys>,
}

#[tonic::async_trait]
impl api::notifications_server::Notifications for Producers {
    async fn notify(
        &self,
        request: Request<api::NotifyRequest>,
    ) -> Result<Response<api::NotifyReply>, Status> {
        let clear = metadata(request.metadata(), "authorization")
            .and_then(|value| value.strip_prefix("Bearer "))
            .unwrap_or_default();
        let key = self.keys.verify(clear).await.map_err(|error| match error {
            KeyError::Unknown => Status::unauthenticated(error.to_string()),
            KeyError::Unavailable(_) => Status::unavailable(error.to_string()),
        })?;
        let by_metadata = metadata(request.metadata(), "idempotency-key").map(str::to_owned);
        let mut request = request.into_inner();
        let in_message = given(std::mem::take(&mut request.idempotency_key));
        let idempotency_key = in_message.or(by_metadata);
        let accepted = self
            .intake
            .accept(&key.producer, draft(request), idempotency_key.as_deref())
            .await;
        let receipt = accepted.map_err(status)?;
        Ok(Response::new(api::NotifyReply {
            id: receipt.id.to_string(),
            durability: receipt.durability.as_str().to_owned(),
        }))
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
        Refusal::TooMany { retry_after_s, .. } => {
            let mut metadata = MetadataMap::new();
            metadata.insert("retry-after", retry_after_s.into());
            Status::with_metadata(Code::ResourceExhausted, message, metadata)
        }
    }
}
