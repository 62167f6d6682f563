//! What clients ask for and wait for: catch-ups, and the posts of SSE clients. Many at once, bounded.

use super::{behind::Missed, host::Host, outcomes::Reporter, upstream::SyncReply};
use crate::{
    clock::unix_ms,
    envelope::{Fate, Outcome},
    gateway::mailbox::{ConnId, Post, ToCore},
    ids::{NotificationId, UserId},
    limits,
    position::{Cursors, Position},
    proto::client::frames,
};
use bytes::Bytes;
use futures::StreamExt;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

#[derive(Debug)]
pub enum Job {
    /// A catch-up, asked for or due because cursors were presented.
    Sync {
        conn: ConnId,
        user: UserId,
        cursors: Cursors,
        limit: usize,
    },
    Post {
        conn: ConnId,
        user: UserId,
        post: Post,
    },
}

/// Serves jobs until every sender is gone.
pub async fn run(host: Arc<Host>, reporter: Reporter, jobs: mpsc::Receiver<Job>) {
    ReceiverStream::new(jobs)
        .for_each_concurrent(limits::SYNCS, |job| serve(&host, &reporter, job))
        .await;
}

/// Queues a job; with too many waiting it is answered at once, as what it is: not done.
pub fn enqueue(host: &Host, jobs: &mpsc::Sender<Job>, job: Job) {
    let waiting = &host.metrics.jobs_waiting;
    waiting.inc();
    if let Err(error) = jobs.try_send(job) {
        waiting.dec();
        refuse(host, error.into_inner());
    }
}

fn refuse(host: &Host, job: Job) {
    match job {
        Job::Sync { conn, cursors, .. } => {
            host.behind.mark(Missed::Dispatcher, [conn]);
            host.unanswered_sync(conn, cursors);
        }
        Job::Post { conn, .. } => answer(host, conn, 503, unavailable()),
    }
}

async fn serve(host: &Host, reporter: &Reporter, job: Job) {
    host.metrics.jobs_waiting.dec();
    match job {
        Job::Sync {
            conn,
            user,
            cursors,
            limit,
        } => catch_up(host, conn, &user, cursors, limit).await,
        Job::Post { conn, user, post } => {
            let (status, body) = match post {
                Post::Ack(ids) => accept(reporter, host, &user, ids, Fate::Acked).await,
                Post::Read(ids) => accept(reporter, host, &user, ids, Fate::Read).await,
                Post::Sync { cursors, limit } => post_sync(host, &user, cursors, limit).await,
            };
            answer(host, conn, status, body);
        }
    }
}

async fn catch_up(host: &Host, conn: ConnId, user: &UserId, cursors: Cursors, limit: usize) {
    // In a storm many leave before their turn comes: the store is not asked for them.
    if !host.table.connections_of(user).contains(&conn) {
        host.metrics.syncs.with_label_values(&["gone"]).inc();
        return;
    }
    // Before the store is read: what is stored later must be able to reach this host.
    let reaches = host.reaches(user);
    let Some(mut reply) = read(host, user, cursors.clone(), limit).await else {
        host.behind.mark(Missed::Dispatcher, [conn]);
        return host.unanswered_sync(conn, cursors);
    };
    // Otherwise the end of the cause tells this connection, with everyone else it concerns.
    reply.recovered &= reaches.is_ok();
    let complete = reply.recovered && !reply.has_more;
    let message = ToCore::Synced {
        conn,
        frame: frame(&reply),
        cursors: reply.cursors,
        complete,
    };
    host.outboxes.send(conn.core, message);
    if reply.unsettled {
        // Nothing here tells when the dispatcher's cause has ended: the client asks again every heartbeat.
        let message = ToCore::Behind {
            conn,
            sync_after_ms: host.gateway().heartbeat_ms.min(u64::from(u32::MAX)) as u32,
        };
        host.outboxes.send(conn.core, message);
        let behind = &host.metrics.behind;
        behind
            .with_label_values(&[Missed::Dispatcher.as_str()])
            .inc();
    }
    let result = match complete {
        true => "complete",
        false => "incomplete",
    };
    host.metrics.syncs.with_label_values(&[result]).inc();
}

/// Any gateway may get the post, whether or not the user's stream is open here.
async fn post_sync(host: &Host, user: &UserId, cursors: Cursors, limit: usize) -> (u16, Bytes) {
    let here = !host.table.connections_of(user).is_empty();
    let reaches = !here || host.reaches(user).is_ok();
    match read(host, user, cursors, limit).await {
        Some(mut reply) => {
            reply.recovered &= reaches;
            (200, frame(&reply))
        }
        None => (503, unavailable()),
    }
}

async fn read(host: &Host, user: &UserId, cursors: Cursors, limit: usize) -> Option<SyncReply> {
    let limit = limit.clamp(1, limits::SYNC_ITEMS);
    let reply = host.upstream.sync(user, cursors, limit);
    match tokio::time::timeout(limits::SYNC_WAIT, reply).await {
        Ok(Ok(reply)) => Some(reply),
        Ok(Err(error)) => {
            tracing::debug!(%error, "sync failed");
            None
        }
        Err(_) => None,
    }
}

async fn accept(
    reporter: &Reporter,
    host: &Host,
    user: &UserId,
    ids: Vec<NotificationId>,
    fate: Fate,
) -> (u16, Bytes) {
    let outcomes = said_by_client(host, user, ids, fate);
    match outcomes.is_empty() || reporter.accept_now(&outcomes).await {
        true => (204, Bytes::new()),
        false => (503, unavailable()),
    }
}

/// What a device says of items it received.
pub fn said_by_client(
    host: &Host,
    user: &UserId,
    ids: Vec<NotificationId>,
    fate: Fate,
) -> Vec<Outcome> {
    let gateway = host.identity.borrow().0.to_string();
    let at_ms = unix_ms();
    ids.into_iter()
        .map(|id| Outcome {
            id,
            user: Some(user.clone()),
            // The dispatcher knows the row by (id, user).
            pos: Position::START,
            fate,
            devices: 1,
            gateway: gateway.clone(),
            at_ms,
            answered: Vec::new(),
        })
        .collect()
}

fn frame(reply: &SyncReply) -> Bytes {
    frames::sync(
        &reply.items,
        &reply.ranges,
        &reply.cursors,
        reply.recovered,
        reply.has_more,
    )
}

fn unavailable() -> Bytes {
    Bytes::from_static(br#"{"error":"no dispatcher answers: try again"}"#)
}

pub fn answer(host: &Host, conn: ConnId, status: u16, body: Bytes) {
    let label = status.to_string();
    host.metrics.posts.with_label_values(&[&label]).inc();
    let message = ToCore::Answer { conn, status, body };
    host.outboxes.send(conn.core, message);
}
