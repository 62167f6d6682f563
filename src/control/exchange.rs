//! Numbered questions over one gRPC stream, and their answers, in any order.
//!
//! Invariant: each is answered once, by its number on the stream it went out on or by the stream's end.

use super::upstream::UpstreamError;
use crate::{
    api::{OutcomeBatch, OutcomeReply, SyncReply, SyncRequest},
    limits,
};
use std::collections::HashMap;
use tokio::sync::{mpsc, oneshot};
use tonic::{Code, Status, Streaming};

/// A message that carries the number of its question.
pub(super) trait Numbered {
    fn sequence(&mut self) -> &mut u64;
}

macro_rules! numbered {
    ($($message:ty)*) => {
        $(impl Numbered for $message {
            fn sequence(&mut self) -> &mut u64 {
                &mut self.sequence
            }
        })*
    };
}

numbered!(OutcomeBatch OutcomeReply SyncRequest SyncReply);

/// Who waits for an answer.
pub(super) type Answer<R> = oneshot::Sender<Result<R, UpstreamError>>;

/// A question that waits for a stream.
pub(super) struct Asked<Q, R> {
    pub question: Q,
    pub answer: Answer<R>,
}

/// One stream's questions without an answer yet.
pub(super) struct Exchange<R> {
    sequence: u64,
    waiting: HashMap<u64, Answer<R>>,
}

impl<R> Default for Exchange<R> {
    fn default() -> Exchange<R> {
        Exchange {
            sequence: 0,
            waiting: HashMap::new(),
        }
    }
}

impl<R: Numbered> Exchange<R> {
    /// Until the stream ends, and why; `None`: nobody is left who could ask.
    pub async fn run<Q: Numbered>(
        &mut self,
        queue: &mut mpsc::Receiver<Asked<Q, R>>,
        outgoing: &mpsc::Sender<Q>,
        replies: &mut Streaming<R>,
    ) -> Option<UpstreamError> {
        let mut room = None;
        loop {
            tokio::select! {
                reply = replies.message() => match reply {
                    Ok(Some(mut reply)) => {
                        if let Some(answer) = self.waiting.remove(reply.sequence()) {
                            let _ = answer.send(Ok(reply));
                        }
                    }
                    Ok(None) => {
                        let text = "the dispatcher ended the stream".to_owned();
                        return Some(UpstreamError::Unavailable(text));
                    }
                    Err(status) => return Some(refusal(&status)),
                },
                // Replies are read meanwhile: a dispatcher that can't get rid of them takes no more questions.
                reserved = outgoing.reserve(), if room.is_none() => match reserved {
                    Ok(permit) => room = Some(permit),
                    Err(_) => {
                        let text = "the stream is closed".to_owned();
                        return Some(UpstreamError::Unavailable(text));
                    }
                },
                asked = queue.recv(), if room.is_some() => {
                    let Asked { mut question, answer } = asked?;
                    // Nobody waits for it any more.
                    if answer.is_closed() {
                        continue;
                    }
                    if let Some(room) = room.take() {
                        *question.sequence() = self.number(answer);
                        room.send(question);
                    }
                }
            }
        }
    }

    fn number(&mut self, answer: Answer<R>) -> u64 {
        if self.waiting.len() >= limits::ASKED_FORGET_ABOVE {
            // Whoever asked has given up; an answer may never come.
            self.waiting.retain(|_, answer| !answer.is_closed());
        }
        self.sequence += 1;
        self.waiting.insert(self.sequence, answer);
        self.sequence
    }

    /// Tells everyone who waits.
    pub fn fail(self, error: &UpstreamError) {
        for answer in self.waiting.into_values() {
            let _ = answer.send(Err(error.clone()));
        }
    }
}

pub(super) fn refusal(status: &Status) -> UpstreamError {
    let text = format!("{}: {}", status.code(), status.message());
    match status.code() {
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::InvalidArgument
        | Code::Unimplemented => UpstreamError::Refused(text),
        _ => UpstreamError::Unavailable(text),
    }
}
