//! Into NATS by its own protocol, over one connection. It answers no publication: what was written counts as accepted.

use super::{Attempt, Content, PAUSE};
use crate::dialect::nats::{self, ALL};
use anyhow::{Result, bail};
use std::{io, sync::Arc};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Mutex,
};

type Writer = Arc<Mutex<OwnedWriteHalf>>;

pub struct Nats {
    address: String,
    /// Until it breaks.
    writer: Mutex<Option<Writer>>,
}

impl Nats {
    pub fn new(urls: &[String]) -> Result<Nats> {
        let [url] = urls else {
            bail!("--post-url nats://: one");
        };
        let Some(address) = url.strip_prefix("nats://") else {
            bail!("--post-url {url}: expected nats://host:port, NATS's own port");
        };
        Ok(Nats {
            address: address.trim_end_matches('/').to_owned(),
            writer: Mutex::new(None),
        })
    }

    pub async fn attempt(&self, content: &Content<'_>) -> Attempt {
        let subject = match content.post.user {
            Some(_) => nats::subject(&content.post.name),
            None => ALL.to_owned(),
        };
        let text = nats::publication(&subject, &content.carried());
        match self.publish(&text).await {
            Ok(()) => Attempt::Accepted(None),
            Err(error) => Attempt::Passing(format!("NATS: {}", error.kind()), PAUSE),
        }
    }

    async fn publish(&self, text: &str) -> io::Result<()> {
        let writer = self.writer().await?;
        let written = writer.lock().await.write_all(text.as_bytes()).await;
        if written.is_err() {
            *self.writer.lock().await = None;
        }
        written
    }

    async fn writer(&self) -> io::Result<Writer> {
        let mut kept = self.writer.lock().await;
        if let Some(writer) = &*kept {
            return Ok(Arc::clone(writer));
        }
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let (reader, mut writer) = stream.into_split();
        writer.write_all(nats::connect().as_bytes()).await?;
        let writer = Arc::new(Mutex::new(writer));
        *kept = Some(Arc::clone(&writer));
        tokio::spawn(answer_pings(reader, Arc::clone(&writer)));
        Ok(writer)
    }
}

/// Until the server closes. Nothing is subscribed, so lines are all it says.
async fn answer_pings(reader: OwnedReadHalf, writer: Writer) {
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line == "PING" && writer.lock().await.write_all(b"PONG\r\n").await.is_err() {
            return;
        }
    }
}
