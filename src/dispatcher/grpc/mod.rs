//! The gRPC doors: gateways by the shared secret (`Dispatcher`), producers by their API key
//! (`Notifications`). What producers may call is told by reflection to whoever asks.

mod gateways;
mod producers;

use super::Shared;
use crate::{
    api::{
        self, dispatcher_server::DispatcherServer, notifications_server::NotificationsServer,
        secret::Demand,
    },
    limits,
};
use gateways::Gateways;
use producers::Producers;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, interceptor::InterceptedService};

/// `shutdown` ends the open streams.
pub fn router(shared: Shared, shutdown: CancellationToken) -> axum::Router {
    let gateways = Gateways {
        tracker: shared.tracker.clone(),
        sync: shared.sync.clone(),
        metrics: shared.metrics.clone(),
        shutdown: shutdown.clone(),
    };
    let gateways = DispatcherServer::new(gateways)
        .max_decoding_message_size(limits::GRPC_MESSAGE_BYTES)
        .max_encoding_message_size(limits::GRPC_MESSAGE_BYTES);
    let producers = NotificationsServer::new(Producers {
        intake: shared.intake,
        keys: shared.keys,
        shutdown,
    })
    .max_decoding_message_size(limits::GRPC_MESSAGE_BYTES);
    Routes::new(InterceptedService::new(
        gateways,
        Demand::new(shared.secret),
    ))
    .add_service(producers)
    .add_service(described().build_v1().expect("we wrote it"))
    // Of clients that know the older one only.
    .add_service(described().build_v1alpha().expect("we wrote it"))
    .into_axum_router()
}

fn described() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(api::DESCRIPTORS)
        .with_service_name("herald.v1.Notifications")
}
