//! By gRPC.

use super::{ANSWER, Accepted, Attempt, Content, PAUSE};
use anyhow::{Context, Result};
use tonic::{
    Code, Request,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

mod api {
    #![allow(clippy::all, dead_code, missing_docs)]
    tonic::include_proto!("herald.v1");
}

use api::{NotifyRequest, notifications_client::NotificationsClient, notify_request::Target};

pub struct Grpc {
    endpoints: Vec<Endpoint>,
    channels: tokio::sync::OnceCell<Vec<Channel>>,
    key: MetadataValue<Ascii>,
}

impl Grpc {
    pub fn new(urls: &[String], key: &str) -> Result<Grpc> {
        let endpoint = |url: &String| {
            let url = url.replacen("grpc", "http", 1);
            let endpoint =
                Endpoint::from_shared(url.clone()).with_context(|| format!("--post-url {url}"))?;
            Ok(endpoint.timeout(ANSWER))
        };
        Ok(Grpc {
            endpoints: urls.iter().map(endpoint).collect::<Result<_>>()?,
            channels: tokio::sync::OnceCell::new(),
            key: format!("Bearer {key}")
                .parse()
                .context("the API key can't be sent")?,
        })
    }

    pub async fn attempt(&self, content: &Content<'_>, turn: usize) -> Attempt {
        // A channel belongs to the runtime it is made in.
        let connect = || async { self.endpoints.iter().map(Endpoint::connect_lazy).collect() };
        let channels: &Vec<Channel> = self.channels.get_or_init(connect).await;
        let mut client = NotificationsClient::new(channels[turn % channels.len()].clone());
        let mut request = Request::new(message(content));
        request
            .metadata_mut()
            .insert("authorization", self.key.clone());
        match client.notify(request).await {
            Ok(reply) => {
                let reply = reply.into_inner();
                Attempt::Accepted(reply.id.parse().ok().map(|id| Accepted {
                    id,
                    durability: reply.durability,
                }))
            }
            Err(status) => {
                let why = format!("gRPC {:?}", status.code());
                match status.code() {
                    Code::Unavailable
                    | Code::ResourceExhausted
                    | Code::DeadlineExceeded
                    | Code::Cancelled
                    | Code::Unknown
                    | Code::Internal
                    | Code::Aborted => Attempt::Passing(why, PAUSE),
                    _ => Attempt::Refused(why),
                }
            }
        }
    }
}

fn message(content: &Content<'_>) -> NotifyRequest {
    NotifyRequest {
        target: Some(match content.post.user {
            Some(_) => Target::User(content.post.name.clone()),
            None => Target::All(true),
        }),
        r#type: "swarm".into(),
        priority: content.post.priority.clone(),
        channels: vec!["in_app".into()],
        title: content.title.clone(),
        body: content.body.to_owned(),
        data_json: serde_json::to_string(&content.mark).expect("a mark is JSON"),
        idempotency_key: content.idempotency_key.to_owned(),
        ..NotifyRequest::default()
    }
}
