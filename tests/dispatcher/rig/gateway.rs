//! What a gateway does to a dispatcher, done by a test.

use super::Rig;
use herald::{
    api,
    envelope::{Fate, Outcome},
    ids::{GatewayEpoch, NotificationId},
    position::Position,
    registry::{GatewayInfo, Registration, ShardClaim},
};

impl Rig {
    /// A gateway that owns a shard and holds these users.
    pub async fn gateway(&self, id: &str, shard: u32, users: &[&str]) -> GatewayEpoch {
        let info = GatewayInfo {
            grpc: "127.0.0.1:1".into(),
            shard: Some(shard),
            connections: users.len() as u64,
            accepts_limit_per_s: 5_000,
            spare_accepts_per_s: 10,
            room: Some(10),
            region: "local".parse().unwrap(),
            draining: false,
        };
        let id = id.parse().unwrap();
        let owner = self
            .registry
            .acquire_gateway(&id, "test", &info)
            .await
            .unwrap();
        // Another one may live there still: only a lease that nobody has is finished.
        let claim = ShardClaim::Exact {
            shard,
            former_epoch: None,
        };
        let _ = self.registry.claim_shard(&owner, claim).await;
        self.register(&owner, users).await;
        owner
    }

    pub async fn register(&self, owner: &GatewayEpoch, users: &[&str]) {
        let users = registrations(users);
        self.registry.register(owner, &users).await.unwrap();
    }

    pub async fn unregister(&self, owner: &GatewayEpoch, users: &[&str]) {
        let users = registrations(users);
        self.registry.unregister(owner, &users).await.unwrap();
    }

    pub async fn dispatcher(
        &self,
    ) -> api::dispatcher_client::DispatcherClient<tonic::transport::Channel> {
        api::dispatcher_client::DispatcherClient::connect(self.grpc_url())
            .await
            .unwrap()
    }

    pub fn grpc_url(&self) -> String {
        format!("http://{}", self.addresses.grpc.unwrap())
    }

    /// A sync by gRPC, with cursors by stream.
    pub async fn sync(&self, user: &str, cursors: &[(&str, u64)]) -> api::SyncReply {
        let request = api::SyncRequest {
            v: 1,
            user: user.into(),
            cursors: cursors
                .iter()
                .map(|(stream, at)| ((*stream).to_owned(), *at))
                .collect(),
            limit: 50,
            sequence: 0,
        };
        let mut client = self.dispatcher().await;
        client.sync(request).await.unwrap().into_inner()
    }

    /// Outcomes of one gateway, reported on a stream of its own and answered.
    pub async fn report(
        &self,
        gateway: &GatewayEpoch,
        shard: Option<u32>,
        outcomes: Vec<Outcome>,
    ) -> api::OutcomeReply {
        let batch = api::OutcomeBatch {
            v: 1,
            sequence: 7,
            gateway: gateway.to_string(),
            shard,
            outcomes: outcomes.iter().map(api::convert::outcome_to_wire).collect(),
        };
        let mut client = self.dispatcher().await;
        let batches = tokio_stream::iter([batch]);
        let mut replies = client.outcomes(batches).await.unwrap().into_inner();
        replies.message().await.unwrap().unwrap()
    }
}

fn registrations(users: &[&str]) -> Vec<Registration> {
    let registration = |user: &&str| Registration {
        user: user.parse().unwrap(),
        stamp: 1,
    };
    users.iter().map(registration).collect()
}

pub fn outcome(id: NotificationId, user: &str, pos: Position, fate: Fate) -> Outcome {
    Outcome {
        id,
        user: Some(user.parse().unwrap()),
        pos,
        fate,
        devices: 1,
        gateway: String::new(),
        at_ms: 1_760_000_000_000,
        answered: Vec::new(),
    }
}
