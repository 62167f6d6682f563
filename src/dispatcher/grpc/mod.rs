//! The gRPC doors: gateways by the shared secret (`Dispatcher`), producers by their API key
//! (`Notifications`).

mod gateways;
mod producers;

use super::Shared;
use crate::{
    api::{
        dispatcher_server::DispatcherServer, notifications_server::NotificationsServer,
        secret::Demand,
    },
    limits,
};
use gateways::Gateways;
use producers::Producers;
use tokio_util::sync::CancellationToken;
use tonic::service::{Routes, interceptor::InterceptedService};

/// `shutdown` ends the gateways' open streams.
pub fn router(shared: Shared, shutdown: CancellationToken) -> axum::Router {
    let gateways = Gateways {
        tracker: shared.tracker.clone(),
        sync: shared.sync.clone(),
        metrics: shared.metrics.clone(),
        shutdown,
    };
    let gateways = DispatcherServer::new(gateways)
        .max_decoding_message_size(limits::GRPC_MESSAGE_BYTES)
        .max_encoding_message_size(limits::GRPC_MESSAGE_BYTES);
    let producers = NotificationsServer::new(Producers {
        intake: shared.intake,
        keys: shared.keys,
    })
    .max_decoding_message_size(limits::GRPC_MESSAGE_BYTES);
    Routes::new(InterceptedService::new(
        gateways,
        Demand::new(shared.secret),
    ))
    .add_service(producers)
    .into_axum_router()
}
