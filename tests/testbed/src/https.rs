//! Pages by TLS, for providers that speak nothing else.

use axum::{Router, serve::Listener};
use std::{net::SocketAddr, path::Path, sync::Arc};
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
    server::TlsStream,
};

pub struct Https {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

/// Until it is dropped.
pub struct Serving(AbortHandle);

impl Https {
    /// With `server.pem` and `server.key` of the directory, and these protocols (none: HTTP/1.1).
    pub async fn bind(directory: &Path, protocols: &[&str]) -> Https {
        let acceptor = acceptor(directory, protocols);
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Https { tcp, acceptor }
    }

    pub fn address(&self) -> SocketAddr {
        self.tcp.local_addr().expect("it listens")
    }

    pub fn serve(self, pages: Router) -> Serving {
        let serving = tokio::spawn(async move { axum::serve(self, pages).await });
        Serving(serving.abort_handle())
    }
}

pub fn acceptor(directory: &Path, protocols: &[&str]) -> TlsAcceptor {
    let file = |name: &str| directory.join(name);
    let chain = CertificateDer::from_pem_file(file("server.pem")).expect("made before");
    let key = PrivateKeyDer::from_pem_file(file("server.key")).expect("made before");
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .expect("a certificate and its key");
    let protocols = protocols.iter().map(|name| name.as_bytes().to_vec());
    config.alpn_protocols = protocols.collect();
    TlsAcceptor::from(Arc::new(config))
}

impl Listener for Https {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            if let Ok((stream, address)) = self.tcp.accept().await
                && let Ok(stream) = self.acceptor.accept(stream).await
            {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}
