//! A real HAProxy before the gateways of a fleet, by the configuration that is shipped.

use crate::{Fleet, PATIENCE, child::Guarded, free_port, wait::until};
use std::{
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
};

/// What one process of a small machine may hold (two sockets for each).
const CONNECTIONS: usize = 8_000;

pub struct HaProxy {
    port: u16,
    _running: Guarded,
}

impl HaProxy {
    /// The gateways have to trust 127.0.0.1 for PROXY headers.
    pub fn start(fleet: &Fleet) -> HaProxy {
        let port = free_port();
        let path = fleet.dir.path().join(format!("haproxy-{port}.cfg"));
        std::fs::write(&path, configuration(fleet, port)).expect("a file");
        let mut command = Command::new("/usr/sbin/haproxy");
        command
            .args(["-W", "-db", "-f"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let running =
            Guarded::spawn(command).expect("haproxy is installed (apt-get install haproxy)");
        let answers = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        until("HAProxy listens", answers, || {
            format!("{PATIENCE:?} of {}", path.display())
        });
        HaProxy {
            port,
            _running: running,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn ws_url(&self) -> String {
        format!("ws://127.0.0.1:{}/ws/notifications", self.port)
    }
}

/// The shipped file with this fleet's addresses.
fn configuration(fleet: &Fleet, port: u16) -> String {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/haproxy.cfg");
    let shipped = std::fs::read_to_string(shipped).expect("it is shipped");
    let mut text = String::new();
    for line in shipped.lines() {
        let word = line.split_whitespace().next();
        match word {
            Some("server") => continue,
            Some("bind") => text += &format!("    bind 127.0.0.1:{port}\n"),
            Some("maxconn") => text += &format!("    maxconn {CONNECTIONS}\n"),
            _ => text += &format!("{line}\n"),
        }
    }
    // The servers stand at the end of the last section.
    for (n, gateway) in (1..).zip(&fleet.gateways) {
        let (clients, admin) = (gateway.client_port, gateway.admin_port);
        text += &format!("    server gw-{n} 127.0.0.1:{clients} port {admin}\n");
    }
    text
}
