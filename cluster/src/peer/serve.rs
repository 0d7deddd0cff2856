//! The peer port: streams are taken one by one, bounded in number, and served until they or the node end.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::rpc::peer_service_server::PeerServiceServer;
use super::service::{Passed, Service};
use super::{MESSAGE_BYTES_MAX, PeerListener, UNPROVEN_BYTES_MAX};
use crate::environment::{BoxFuture, BoxStream};
use crate::fold::Fold;

/// Streams taken at once: four of each of 64 members.
const CONNECTIONS_MAX: usize = 256;
/// Calls in flight on one of them.
const CALLS_MAX: u32 = 4_096;
/// A connection without traffic is pinged so often, and closed when the answer takes as long, in milliseconds.
const PING_MS: u64 = 2_000;
/// Pause after a stream could not be taken, in milliseconds.
const PAUSE_MS: u64 = 50;
/// Bytes in flight on one stream and on one connection.
const WINDOW_BYTES: (u32, u32) = (4 << 20, 16 << 20);

/// Serves until the node closes; then every stream is let go of.
pub(crate) async fn serve<F: Fold>(
    listener: PeerListener,
    service: Service<F>,
    mut closing: watch::Receiver<bool>,
) {
    let secured = service.is_secured();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => break,
            accepted = listener.0.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    let service = service.over(from.ip().is_loopback() || secured);
                    let inner = PeerServiceServer::new(service.clone())
                        .max_decoding_message_size(MESSAGE_BYTES_MAX)
                        .max_encoding_message_size(MESSAGE_BYTES_MAX);
                    let open = inner.clone().max_decoding_message_size(UNPROVEN_BYTES_MAX);
                    let service = Door { service, inner, open };
                    connections.spawn(async move {
                        connection(stream, service).await;
                        drop(place);
                    });
                }
                Err(_) => tracing::warn!(%from, bound = CONNECTIONS_MAX, "too many streams of peers"),
            },
            Err(error) => {
                tracing::warn!(error = %error, "a peer's stream was not taken");
                tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    connections.shutdown().await;
}

/// Asks who calls before anything of the call is decoded: a list of millions costs its reader memory, and whoever proves
/// nothing shall cost none.
#[derive(Clone)]
struct Door<F: Fold> {
    service: Service<F>,
    inner: PeerServiceServer<Service<F>>,
    /// The same for calls that anybody may make.
    open: PeerServiceServer<Service<F>>,
}

impl<F: Fold> tower::Service<Request<Incoming>> for Door<F> {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        match self.service.let_pass(request.uri().path(), request.headers()) {
            Ok(Passed::Proven) => Box::pin(self.inner.call(request)),
            Ok(Passed::Anybody) => Box::pin(self.open.call(request)),
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}

async fn connection<F: Fold>(stream: BoxStream, service: Door<F>) {
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_millis(PING_MS))
        .keep_alive_timeout(Duration::from_millis(PING_MS))
        .max_concurrent_streams(CALLS_MAX)
        .initial_stream_window_size(WINDOW_BYTES.0)
        .initial_connection_window_size(WINDOW_BYTES.1)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .await;
    if let Err(error) = served {
        tracing::debug!(error = %error, "a peer's connection ended");
    }
}
