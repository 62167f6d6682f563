//! Bounds of the HTTP port: how many requests at once, how long each may take to arrive and be answered,
//! and how much of a body is taken only so that the client gets to see its answer.

use super::{
    Shared,
    error::{ApiError, Code},
};
use crate::limits;
use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use http_body::{Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

pub async fn keep(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let response = match shared.http_places.try_acquire() {
        Ok(_place) => answer(request, next).await,
        Err(_) => ApiError::busy().into_response(),
    };
    if let Some(Code(code)) = response.extensions().get() {
        shared.metrics.http_refused.with_label_values(&[code]).inc();
    }
    response
}

async fn answer(request: Request, next: Next) -> Response {
    let until = Instant::now() + limits::HTTP_REQUEST;
    // Such a client sends its body only after the body is asked for.
    let waits = request.headers().contains_key(header::EXPECT);
    let (request, mut unread) = lend_body(request);
    match timeout_at(until, next.run(request)).await {
        Ok(response) => {
            if let Ok(unread) = unread.try_recv()
                && (unread.asked || !waits)
            {
                // Not in time is as good as over the bound.
                let _ = timeout_at(until, drain(unread.body)).await;
            }
            response
        }
        Err(_) => ApiError::timeout().into_response(),
    }
}

/// What is left of a body when everyone is done with it.
struct Unread {
    body: Body,
    /// Somebody began to read it.
    asked: bool,
}

/// A body that comes back.
struct Lent {
    unread: Unread,
    back: Option<oneshot::Sender<Unread>>,
}

fn lend_body(request: Request) -> (Request, oneshot::Receiver<Unread>) {
    let (back, unread) = oneshot::channel();
    let lend = |body| {
        Body::new(Lent {
            unread: Unread { body, asked: false },
            back: Some(back),
        })
    };
    (request.map(lend), unread)
}

async fn drain(body: Body) {
    let mut left = limits::HTTP_DRAIN_BYTES;
    if body.size_hint().lower() > left as u64 {
        return;
    }
    let mut pieces = body.into_data_stream();
    while let Some(Ok(piece)) = pieces.next().await {
        match left.checked_sub(piece.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.unread.asked = true;
        Pin::new(&mut self.unread.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.unread.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.unread.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(back) = self.back.take() {
            let unread = Unread {
                body: std::mem::take(&mut self.unread.body),
                asked: self.unread.asked,
            };
            // After the request's time nobody waits for it.
            let _ = back.send(unread);
        }
    }
}
