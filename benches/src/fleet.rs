//! One gateway and one dispatcher on a real Redis and a real Kafka.

use crate::{
    parts::{Folder, Server},
    process::{Process, sibling},
    standalone::{Doors, settings, unlimited},
};
use anyhow::{Result, ensure};
use std::process::Command;
use testbed::free_port;

/// Dropped in this order: Herald's processes first.
pub struct Fleet {
    pub gateway: Process,
    pub dispatcher: Process,
    pub doors: Doors,
    /// Admin port of the dispatcher; that of `doors` is the gateway's.
    pub dispatcher_admin: u16,
    pub dispatcher_grpc: u16,
    pub redis: Server,
    pub kafka: Server,
}

impl Fleet {
    pub async fn start(folder: &Folder) -> Result<Fleet> {
        Fleet::start_with(folder, &[]).await
    }

    /// With other settings of the gateway than those that are measured with.
    pub async fn start_with(folder: &Folder, gateway: &[(&'static str, &str)]) -> Result<Fleet> {
        Fleet::start_on(folder, gateway, &[]).await
    }

    /// And with other settings of the dispatcher.
    pub async fn start_on(
        folder: &Folder,
        gateway: &[(&'static str, &str)],
        of_dispatcher: &[(&'static str, String)],
    ) -> Result<Fleet> {
        let redis = Server::start("scripts/redis.sh", &folder.join("redis"))?;
        let kafka = Server::start("scripts/kafka.sh", &folder.join("kafka"))?;
        for name in ["token.key", "admin.key", "grpc.secret"] {
            let secret = format!(
                "{:032x}{:032x}",
                rand::random::<u128>(),
                rand::random::<u128>()
            );
            std::fs::write(folder.join(name), secret)?;
        }
        let doors = Doors {
            clients: free_port(),
            producers: free_port(),
            admin: free_port(),
            api_key: folder.join("admin.key"),
            http: reqwest::Client::new(),
        };
        let (grpc, dispatcher_admin) = (free_port(), free_port());
        let shared = [
            (
                "HERALD_REDIS__URL",
                format!("redis://127.0.0.1:{}", redis.port),
            ),
            ("HERALD_KAFKA__BROKERS", address(kafka.port)),
            ("HERALD_KAFKA__REPLICATION", "1".into()),
            ("HERALD_KAFKA__MIN_INSYNC_REPLICAS", "1".into()),
            ("HERALD_GRPC__SECRET_FILE", folder.text("grpc.secret")),
        ];
        let herald = sibling("herald")?;
        let applied = Command::new(&herald)
            .args(["ctl", "topics", "--apply"])
            .envs(shared[1..4].iter().map(|(key, value)| (key, value)))
            .stdout(std::io::stderr())
            .status()?;
        ensure!(applied.success(), "topics can't be made");

        let mut own = shared.to_vec();
        own.extend([
            ("HERALD_HTTP__LISTEN", address(doors.producers)),
            ("HERALD_HTTP__ADMIN_KEY_FILE", folder.text("admin.key")),
            ("HERALD_ADMIN__LISTEN", address(dispatcher_admin)),
            ("HERALD_GRPC__LISTEN", address(grpc)),
            ("HERALD_STORE__PATH", folder.text("store")),
            ("HERALD_SPOOL__PATH", folder.text("spool")),
            ("HERALD_LOG__LEVEL", "warn".into()),
        ]);
        own.extend(unlimited());
        own.extend_from_slice(of_dispatcher);
        let log = folder.join("dispatcher.log");
        let mut dispatcher =
            Process::start_with(&herald, &["dispatcher".into()], &own, None, &log)?;

        let keys = folder.text("token.key");
        let mut own = shared.to_vec();
        own.extend(settings());
        own.extend([
            ("HERALD_GATEWAY__LISTEN", address(doors.clients)),
            (
                "HERALD_AUTH__KEYS",
                format!("[{{ algorithm = \"HS256\", key_file = \"{keys}\" }}]"),
            ),
            (
                "HERALD_DISPATCHERS__ADDRESSES",
                format!("[\"{}\"]", address(grpc)),
            ),
            ("HERALD_GRPC__LISTEN", address(free_port())),
            ("HERALD_ADMIN__LISTEN", address(doors.admin)),
        ]);
        own.extend(
            gateway
                .iter()
                .map(|(key, value)| (*key, (*value).to_owned())),
        );
        let log = folder.join("gateway.log");
        let mut gateway = Process::start_with(&herald, &["gateway".into()], &own, None, &log)?;
        doors.ready(&mut dispatcher, dispatcher_admin).await?;
        doors.ready(&mut gateway, doors.admin).await?;
        Ok(Fleet {
            gateway,
            dispatcher,
            doors,
            dispatcher_admin,
            dispatcher_grpc: grpc,
            redis,
            kafka,
        })
    }
}

impl Fleet {
    /// Of the load tool: clients to the gateway, posts straight into its shard. What leaves within a millisecond
    /// leaves together.
    pub fn arguments(&self, folder: &Folder) -> Vec<String> {
        let mut arguments = self.clients(folder);
        arguments.push(posts_to_kafka(self.kafka.port));
        arguments
    }

    /// The same with posts through the dispatcher, which stores them.
    pub fn stored_arguments(&self, folder: &Folder) -> Vec<String> {
        let mut arguments = self.clients(folder);
        arguments.extend([
            format!("--post-url=http://127.0.0.1:{}", self.doors.producers),
            format!("--api-key-file={}", folder.text("admin.key")),
        ]);
        arguments
    }

    /// Of the load tool that posts nothing.
    pub fn clients(&self, folder: &Folder) -> Vec<String> {
        vec![
            format!(
                "--url=ws://127.0.0.1:{}/ws/notifications",
                self.doors.clients
            ),
            format!("--secret-file={}", folder.text("token.key")),
        ]
    }
}

/// Of the load tool: straight into the first shard.
pub fn posts_to_kafka(port: u16) -> String {
    format!("--post-url=kafka://127.0.0.1:{port}/notifications?shard=0&linger_ms=1")
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}
