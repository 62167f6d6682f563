//! Syncs over one stream to the dispatcher that takes our outcomes: what a call costs beyond its messages is paid once,
//! not for each client that comes back in a storm.

use super::{
    exchange::{Asked, Exchange, refusal},
    upstream::UpstreamError,
};
use crate::{
    api::{SyncReply, SyncRequest, dispatcher_client::DispatcherClient, secret::Present},
    limits,
};
use parking_lot::RwLock;
use std::{convert::Infallible, time::Duration};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, service::interceptor::InterceptedService, transport::Channel};

type Queue = mpsc::Sender<Asked<SyncRequest, SyncReply>>;

/// Between tries to open the stream.
const REOPEN: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct SyncStream {
    /// `None`: no stream is open.
    queue: RwLock<Option<Queue>>,
}

impl SyncStream {
    /// What the dispatcher said. `None`: there is no stream, or it ended before.
    pub async fn ask(&self, question: &SyncRequest) -> Option<Result<SyncReply, UpstreamError>> {
        let queue = self.queue.read().clone()?;
        let (answer, answered) = oneshot::channel();
        let asked = Asked {
            question: question.clone(),
            answer,
        };
        queue.send(asked).await.ok()?;
        let reply = answered.await.ok()?.ok()?;
        Some(match Code::from_i32(reply.code) {
            Code::Ok => Ok(reply),
            code => Err(refusal(&Status::new(code, reply.problem))),
        })
    }

    /// Keeps a stream open for as long as it is polled.
    pub async fn keep_open(
        &self,
        mut client: DispatcherClient<InterceptedService<Channel, Present>>,
    ) -> Infallible {
        let _closes = Closes(self);
        loop {
            let (outgoing, questions) = mpsc::channel(limits::SYNCS);
            match client.syncs(ReceiverStream::new(questions)).await {
                Ok(opened) => {
                    let (queue, mut asked) = mpsc::channel(limits::SYNCS);
                    *self.queue.write() = Some(queue);
                    let mut exchange = Exchange::default();
                    let mut replies = opened.into_inner();
                    let ended = exchange.run(&mut asked, &outgoing, &mut replies).await;
                    *self.queue.write() = None;
                    if let Some(error) = ended {
                        exchange.fail(&error);
                    }
                }
                // Of an earlier release: it takes single calls.
                Err(status) if status.code() == Code::Unimplemented => {
                    return std::future::pending().await;
                }
                Err(status) => tracing::debug!(%status, "no stream for syncs"),
            }
            tokio::time::sleep(REOPEN).await;
        }
    }
}

/// The stream is closed also when whoever keeps it open is dropped halfway.
struct Closes<'a>(&'a SyncStream);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        *self.0.queue.write() = None;
    }
}
