//! A TCP proxy between two parts, which a test may cut or silence.

use crate::free_port;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    Works,
    /// Connections are closed and new ones are closed at once: the host is there, the way is barred.
    Cut,
    /// Nothing passes and nothing is closed, as where packets are dropped.
    Silent,
}

/// Ends with its value, and every connection with it.
pub struct TcpProxy {
    port: u16,
    line: watch::Sender<Line>,
    task: JoinHandle<()>,
}

impl TcpProxy {
    pub async fn start(target: SocketAddr) -> TcpProxy {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).await;
        let listener = listener.expect("the port is ours");
        let line = watch::Sender::new(Line::Works);
        let task = tokio::spawn(accept(listener, target, line.subscribe()));
        TcpProxy { port, line, task }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, line: watch::Receiver<Line>) {
    loop {
        // Out of descriptors: whoever waits is taken with the next.
        let Ok((near, _)) = listener.accept().await else {
            continue;
        };
        tokio::spawn(carry(near, target, line.clone()));
    }
}

/// One connection until either side ends it, or the line is cut.
async fn carry(near: TcpStream, target: SocketAddr, line: watch::Receiver<Line>) {
    let mut cut = line.clone();
    let both_ways = async {
        let far = TcpStream::connect(target).await?;
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        tokio::try_join!(
            pass(near_read, far_write, line.clone()),
            pass(far_read, near_write, line)
        )?;
        Ok::<(), std::io::Error>(())
    };
    tokio::select! {
        _ = both_ways => {}
        // Its sender may be gone: then the test is over.
        _ = cut.wait_for(|line| *line == Line::Cut) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if line.wait_for(|line| *line == Line::Works).await.is_err() || length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}
