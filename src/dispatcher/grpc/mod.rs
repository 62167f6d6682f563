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
    config::Secret,
    limits,
};
use gateways::Gateways;
use producers::Producers;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{service::interceptor::InterceptedService, transport::Server};

/// Serves until `shutdown`. Answers its name.
pub async fn serve(
    listener: TcpListener,
    shared: Shared,
    secret: Option<Secret>,
    shutdown: CancellationToken,
) -> &'static str {
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
    })
    .max_decoding_message_size(limits::GRPC_MESSAGE_BYTES);
    let leaving = shutdown.clone();
    let server = Server::builder()
        .http2_keepalive_interval(Some(limits::GRPC_KEEPALIVE))
        .http2_keepalive_timeout(Some(limits::GRPC_KEEPALIVE))
        .add_service(InterceptedService::new(gateways, Demand::new(secret)))
        .add_service(producers)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async move {
            leaving.cancelled().await;
        });
    let grace = async {
        shutdown.cancelled().await;
        tokio::time::sleep(limits::SERVER_GRACE).await;
    };
    tokio::select! {
        result = server => {
            if let Err(error) = result {
                tracing::error!(%error, "the gRPC server ended");
            }
        }
        () = grace => tracing::warn!("open gRPC calls were cut off"),
    }
    "grpc server"
}
