//! What a connection's bytes go through: its socket, and TLS where the client has come by it. The steps above
//! read and write plain bytes and see no difference.

use super::tls::channel::{Arrived, Broken, ChannelId, Channels, Handshake};
use rustls::ServerConfig;
use std::{
    io::{self, IoSlice, Write},
    net::{Shutdown, TcpStream},
    sync::Arc,
};

pub(super) struct Wire {
    pub socket: TcpStream,
    tls: ChannelId,
}

impl Wire {
    pub fn new(socket: TcpStream) -> Wire {
        Wire {
            socket,
            tls: ChannelId::NONE,
        }
    }

    /// From here on what arrives and what leaves is sealed.
    pub fn begin_tls(
        &mut self,
        config: Arc<ServerConfig>,
        channels: &mut Channels,
    ) -> Result<(), Broken> {
        self.tls = channels.open(config)?;
        Ok(())
    }

    pub fn is_tls(&self) -> bool {
        self.tls != ChannelId::NONE
    }

    /// How the handshake went, once it is over.
    pub fn handshake(&self, channels: &mut Channels) -> Option<Handshake> {
        let (channel, _) = channels.of(self.tls)?;
        channel.handshake()
    }

    /// Opens what arrived; the plain bytes lie in the scratch.
    pub fn receive(
        &mut self,
        bytes: &mut [u8],
        channels: &mut Channels,
    ) -> Result<Arrived, Broken> {
        match channels.of(self.tls) {
            None => Ok(Arrived::default()),
            Some((channel, scratch)) => channel.receive(bytes, &self.socket, scratch),
        }
    }

    /// Sends the slices as far as the kernel takes them. Fewer bytes than were offered: it takes no more now.
    pub fn send(&mut self, slices: &[IoSlice], channels: &mut Channels) -> io::Result<usize> {
        match channels.of(self.tls) {
            None => taken(match slices {
                // `send` costs less than `writev`.
                [one] => (&self.socket).write(one),
                _ => (&self.socket).write_vectored(slices),
            }),
            Some((channel, scratch)) => channel.send(slices, &self.socket, scratch),
        }
    }

    /// True when nothing waits that was sealed before and not taken.
    pub fn push_unsent(&mut self, channels: &mut Channels) -> io::Result<bool> {
        match channels.of(self.tls) {
            None => Ok(true),
            Some((channel, scratch)) => channel.push_unsent(&self.socket, scratch),
        }
    }

    /// Something sealed waits for the kernel.
    pub fn is_blocked(&self, channels: &mut Channels) -> bool {
        let channel = channels.of(self.tls);
        channel.is_some_and(|(channel, _)| channel.is_blocked())
    }

    /// Bytes of memory that wait in TLS, for the rest of a record or for the kernel.
    pub fn held_bytes(&self, channels: &mut Channels) -> usize {
        let channel = channels.of(self.tls);
        channel.map_or(0, |(channel, _)| channel.held_bytes())
    }

    /// Says that nothing follows, and shuts our side. False: the kernel takes no more yet.
    pub fn shut(&mut self, channels: &mut Channels) -> io::Result<bool> {
        if let Some((channel, scratch)) = channels.of(self.tls)
            && !channel.say_goodbye(&self.socket, scratch)?
        {
            return Ok(false);
        }
        self.socket.shutdown(Shutdown::Write)?;
        Ok(true)
    }

    /// The socket is about to be closed: a last word, if it is taken at once.
    pub fn leave(&mut self, channels: &mut Channels) {
        if let Some((channel, scratch)) = channels.of(self.tls) {
            let _ = channel.say_goodbye(&self.socket, scratch);
        }
        self.end_tls(channels);
    }

    /// TLS has failed: nothing can be said by it any more.
    pub fn end_tls(&mut self, channels: &mut Channels) {
        channels.close(std::mem::replace(&mut self.tls, ChannelId::NONE));
    }
}

/// What the kernel took: nothing, if it would have blocked.
pub(super) fn taken(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            Ok(0)
        }
        result => result,
    }
}
