//! To the floor over one connection: `PUBLISH\n`, then for each notification a line `USER BYTES\n` and as many bytes.
//! It is answered by nothing: what is given to the connection counts as accepted, and what it loses is missing.
//!
//! What is due at the same moment leaves in one write, as a Kafka producer that lingers would send it: so the server's
//! cost of taking notifications in is as small as it can be.

use super::{Attempt, Content};
use crate::dialect::plain::ALL;
use anyhow::{Result, bail};
use std::sync::{Arc, Mutex, Once};
use tokio::{io::AsyncWriteExt, net::TcpStream, sync::Notify};

pub struct Stream {
    address: String,
    started: Once,
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    added: Notify,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Why the connection is no more.
    broken: Option<String>,
}

impl Stream {
    pub fn new(urls: &[String]) -> Result<Stream> {
        let [url] = urls else {
            bail!("--post-url tcp://: one");
        };
        let address = url.strip_prefix("tcp://").unwrap_or(url);
        Ok(Stream {
            address: address.trim_end_matches('/').to_owned(),
            started: Once::new(),
            queue: Arc::default(),
        })
    }

    pub fn attempt(&self, content: &Content<'_>) -> Attempt {
        // In the runtime that posts.
        self.started.call_once(|| {
            let (address, queue) = (self.address.clone(), Arc::clone(&self.queue));
            tokio::spawn(async move { queue.write_to(&address).await });
        });
        let user = match content.post.user {
            Some(_) => &content.post.name,
            None => ALL,
        };
        let text = content.carried();
        let mut waiting = self.queue.waiting.lock().expect("no panics");
        if let Some(why) = &waiting.broken {
            return Attempt::Refused(why.clone());
        }
        let head = format!("{user} {}\n", text.len());
        waiting.bytes.extend_from_slice(head.as_bytes());
        waiting.bytes.extend_from_slice(text.as_bytes());
        self.queue.added.notify_one();
        Attempt::Accepted(None)
    }
}

impl Queue {
    async fn write_to(&self, address: &str) {
        let Err(error) = self.write(address).await;
        self.waiting.lock().expect("no panics").broken = Some(format!("TCP: {}", error.kind()));
    }

    async fn write(&self, address: &str) -> std::io::Result<std::convert::Infallible> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(b"PUBLISH\n").await?;
        loop {
            self.added.notified().await;
            let bytes = std::mem::take(&mut self.waiting.lock().expect("no panics").bytes);
            stream.write_all(&bytes).await?;
        }
    }
}
