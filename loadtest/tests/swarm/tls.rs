//! TLS in front of a server that speaks none.

use std::{path::Path, process::Command, sync::Arc, thread};
use tempfile::TempDir;
use tokio::{io::copy_bidirectional, net::TcpListener, net::TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

pub struct Front {
    pub address: String,
    dir: TempDir,
}

impl Front {
    pub fn start(behind: &str) -> Front {
        let dir = tempfile::tempdir().expect("a directory");
        certify(dir.path());
        let config = config(dir.path());
        let behind = behind.to_owned();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("possible");
        let address = listener.local_addr().expect("bound").to_string();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime
                .expect("a runtime")
                .block_on(serve(listener, config, behind));
        });
        Front { address, dir }
    }

    /// The file of who signed its certificate.
    pub fn authority(&self) -> String {
        self.dir.path().join("ca.pem").display().to_string()
    }
}

async fn serve(listener: std::net::TcpListener, config: Arc<ServerConfig>, behind: String) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    let acceptor = TlsAcceptor::from(config);
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, behind) = (acceptor.clone(), behind.clone());
        // A broken connection ends its task; the client's side is what is tested.
        tokio::spawn(async move {
            let mut stream = acceptor.accept(stream).await?;
            let mut plain = TcpStream::connect(behind).await?;
            copy_bidirectional(&mut stream, &mut plain).await
        });
    }
}

fn config(dir: &Path) -> Arc<ServerConfig> {
    let read = |name: &str| std::fs::read(dir.join(name)).expect("made");
    let certificate = CertificateDer::from_pem_slice(&read("server.pem")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(&read("server.key")).expect("a key");
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key);
    Arc::new(config.expect("they fit"))
}

/// An authority, and a certificate for 127.0.0.1 by it.
fn certify(dir: &Path) {
    std::fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\n").expect("written");
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    for arguments in [
        format!("req -x509 {KEY} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"),
        format!("req {KEY} -keyout server.key -out server.csr -subj /CN=server"),
        "x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -in server.csr -out server.pem -days 2 -extfile names"
            .to_owned(),
    ] {
        let made = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output();
        let made = made.expect("openssl is installed (apt-get install openssl)");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
}
