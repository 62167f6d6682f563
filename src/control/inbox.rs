//! What the core threads say, taken in batches and handed to whom it concerns. Nothing here waits.

use super::{
    allowance::Allowances,
    canary,
    connect::Arrival,
    flights::Settled,
    host::Host,
    outcomes::Reported,
    posts::{self, Job, said_by_client},
};
use crate::{
    envelope::Fate,
    gateway::{
        Inbox,
        mailbox::{ConnId, FromCore},
    },
    ids::{NotificationId, UserId},
    limits,
    position::Cursors,
};
use bytes::Bytes;
use smallvec::SmallVec;
use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};
use tokio::sync::mpsc;

pub struct Receiver {
    pub host: Arc<Host>,
    pub inbox: Inbox,
    pub arrivals: mpsc::Sender<Arrival>,
    pub jobs: mpsc::Sender<Job>,
    pub allowances: Allowances,
}

/// What one batch of messages adds up to.
#[derive(Default)]
struct Heard {
    settled: Vec<Settled>,
    reported: Vec<Reported>,
}

impl Receiver {
    /// Runs until dropped; ends only when the bell is broken.
    pub async fn run(mut self) -> io::Result<()> {
        let mut messages = Vec::new();
        loop {
            self.inbox.recv_many(&mut messages).await?;
            let speaker = self.host.speaker();
            let mut heard = Heard::default();
            for message in messages.drain(..) {
                match message {
                    FromCore::Fate {
                        ticket,
                        fate,
                        devices,
                    } => {
                        let flights = &self.host.flights;
                        let settled = flights.fate(ticket, fate, devices, &speaker);
                        heard.settled.extend(settled);
                    }
                    other => self.hear(other, &mut heard),
                }
            }
            self.host.settle(heard.settled);
            self.host.outcomes.submit(heard.reported);
        }
    }

    fn hear(&mut self, message: FromCore, heard: &mut Heard) {
        match message {
            FromCore::Opened {
                conn,
                user,
                cursors,
            } => self.opened(conn, user, cursors),
            FromCore::Closed { conn, user } => {
                self.host.table.close(&user, conn);
                self.host.behind.forget(conn);
            }
            FromCore::Acked { user, ids, .. } => self.say(heard, &user, ids, Fate::Acked),
            FromCore::Read { user, ids, .. } => self.say(heard, &user, ids, Fate::Read),
            FromCore::Sync {
                conn,
                user,
                cursors,
                limit,
            } => self.catch_up(conn, user, cursors, limit),
            FromCore::Post { conn, user, post } => {
                let gateway = self.host.gateway();
                match self.allowances.take(&gateway, &user, Instant::now()) {
                    true => {
                        let job = Job::Post { conn, user, post };
                        posts::enqueue(&self.host, &self.jobs, job);
                    }
                    false => posts::answer(&self.host, conn, 429, Bytes::new()),
                }
            }
            FromCore::Canary { conn, said } => {
                heard.reported.extend(canary::hear(&self.host, conn, said));
            }
            FromCore::Drained { core } => self.host.leaving.core_drained(core),
            // Taken by the caller: they share one speaker.
            FromCore::Fate { .. } => {}
        }
    }

    fn opened(&self, conn: ConnId, user: UserId, cursors: Option<Cursors>) {
        self.host.opened.fetch_add(1, Ordering::Relaxed);
        // From here on live frames flow.
        let opened = self.host.table.open(&user, conn);
        let catch_up = cursors.map(|cursors| (cursors, limits::SYNC_ITEMS));
        if !opened.registered {
            return self.arrive(Arrival {
                conn,
                registration: opened.registration,
                catch_up,
            });
        }
        if let Some((cursors, limit)) = catch_up {
            let job = Job::Sync {
                conn,
                user,
                cursors,
                limit,
            };
            posts::enqueue(&self.host, &self.jobs, job);
        }
    }

    /// A catch-up of a user whose registry write is on the way waits for it.
    fn catch_up(&self, conn: ConnId, user: UserId, cursors: Cursors, limit: usize) {
        match self.host.table.unregistered(&user) {
            Some(registration) => self.arrive(Arrival {
                conn,
                registration,
                catch_up: Some((cursors, limit)),
            }),
            None => {
                let job = Job::Sync {
                    conn,
                    user,
                    cursors,
                    limit,
                };
                posts::enqueue(&self.host, &self.jobs, job);
            }
        }
    }

    fn arrive(&self, arrival: Arrival) {
        if let Err(error) = self.arrivals.try_send(arrival) {
            let arrival = error.into_inner();
            self.host.table.owe(&[arrival.registration]);
            if let Some((cursors, _)) = arrival.catch_up {
                self.host.unanswered_sync(arrival.conn, cursors);
            }
        }
    }

    fn say(&self, heard: &mut Heard, user: &UserId, ids: Vec<NotificationId>, fate: Fate) {
        let outcomes = said_by_client(&self.host, user, ids, fate);
        if !outcomes.is_empty() {
            heard.reported.push(Reported {
                outcomes: SmallVec::from_vec(outcomes),
                awaits: None,
            });
        }
    }
}
