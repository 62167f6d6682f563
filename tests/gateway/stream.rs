//! The way from a test's client to the gateway: plain, or TLS by an independent stack where the test runs so.

use rustls::{ClientConfig, ClientConnection, SupportedProtocolVersion};
use std::{
    cell::Cell,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    path::PathBuf,
    sync::{Arc, LazyLock},
};
use tempfile::TempDir;

thread_local! {
    static BY_TLS: Cell<bool> = const { Cell::new(false) };
}

/// Runs a behaviour with all its clients coming by TLS.
pub fn by_tls(behaviour: impl FnOnce()) {
    BY_TLS.set(true);
    behaviour();
}

pub fn is_by_tls() -> bool {
    BY_TLS.get()
}

/// An authority and certificates of it, made once for all tests of this run.
pub struct Certificates(TempDir);

impl Certificates {
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Trusts the authority; resumes what it can.
    pub fn client(&self) -> ClientConfig {
        self.client_of(rustls::DEFAULT_VERSIONS)
    }

    pub fn client_of(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        testbed::certificates::client(self.0.path(), versions)
    }
}

pub static CERTIFICATES: LazyLock<Certificates> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    testbed::certificates::make(directory.path(), &["gateway", "other"]);
    Certificates(directory)
});

static CLIENT: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| Arc::new(CERTIFICATES.client()));

pub struct Stream {
    pub tcp: TcpStream,
    pub tls: Option<Box<ClientConnection>>,
}

impl Stream {
    /// As the test runs.
    pub fn connect(address: SocketAddr) -> Stream {
        Stream::over(super::support::plain_tcp(address))
    }

    /// As the test runs, on a connection that is there.
    pub fn over(tcp: TcpStream) -> Stream {
        match is_by_tls() {
            true => Stream::by_tls(tcp, CLIENT.clone()),
            false => Stream { tcp, tls: None },
        }
    }

    /// The handshake comes with the first bytes.
    pub fn by_tls(tcp: TcpStream, config: Arc<ClientConfig>) -> Stream {
        let name = IpAddr::V4(Ipv4Addr::LOCALHOST).into();
        let tls = ClientConnection::new(config, name).unwrap();
        Stream {
            tcp,
            tls: Some(Box::new(tls)),
        }
    }

    /// Nothing follows from this side; of TLS both ends of it are told.
    pub fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            rustls::Stream::new(&mut **tls, &mut self.tcp).flush()?;
        }
        self.tcp.shutdown(how)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.tcp).read(buffer),
            None => self.tcp.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.tcp).write(bytes),
            None => self.tcp.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => rustls::Stream::new(&mut **tls, &mut self.tcp).flush(),
            None => self.tcp.flush(),
        }
    }
}
