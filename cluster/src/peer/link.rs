//! Links: long-lived HTTP/2 channels over the environment's transport, made again when they break, with a backoff.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::Service;

use crate::environment::{BoxFuture, BoxStream, Clock, Transport};

/// Longest time to connect, in milliseconds.
const CONNECT_MS_MAX: u64 = 1_000;
/// After a failure to connect none is tried for so long, in milliseconds; doubles up to the second.
const BACKOFF_MS: (u64, u64) = (25, 400);
/// A link without traffic is pinged so often, and is broken when the answer takes as long, in milliseconds.
const PING_MS: u64 = 1_000;
/// Links held; more addresses than a cluster has nodes only come from wrong ones.
const LINKS_MAX: usize = 512;
/// Bytes in flight on one stream and on one link.
const WINDOW_BYTES: (u32, u32) = (4 << 20, 16 << 20);

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Votes, heartbeats, barriers: what must not wait behind anything long.
    Prompt,
    /// Entries, snapshots, proposals.
    Bulk,
}

/// The links of one node.
pub(super) struct Links {
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    channels: Mutex<BTreeMap<(String, Use), Channel>>,
}

/// When the next attempt to connect is made, at the earliest.
#[derive(Default)]
struct Backoff {
    wait_ms: u64,
    not_before_ms: u64,
    /// Why the last one failed.
    why: String,
}

impl Links {
    pub(super) fn new(transport: Arc<dyn Transport>, clock: Arc<dyn Clock>) -> Self {
        Self { transport, clock, channels: Mutex::default() }
    }

    pub(super) fn channel(&self, address: &str, what: Use) -> Channel {
        let mut channels = self.channels.lock();
        let name = (address.to_owned(), what);
        if let Some(channel) = channels.get(&name) {
            return channel.clone();
        }
        if channels.len() >= LINKS_MAX {
            channels.clear();
        }
        let channel = self.open(address);
        channels.insert(name, channel.clone());
        channel
    }

    pub(super) fn close(&self) {
        self.channels.lock().clear();
    }

    fn open(&self, address: &str) -> Channel {
        let connector = Connector {
            transport: Arc::clone(&self.transport),
            clock: Arc::clone(&self.clock),
            address: address.to_owned(),
            backoff: Arc::default(),
        };
        // The name only says that it is HTTP; where it goes the connector knows.
        Endpoint::from_static("http://peer")
            .http2_keep_alive_interval(Duration::from_millis(PING_MS))
            .keep_alive_timeout(Duration::from_millis(PING_MS))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES.0)
            .initial_connection_window_size(WINDOW_BYTES.1)
            .connect_with_connector_lazy(connector)
    }
}

/// There is no connection: nothing was sent.
#[derive(Debug)]
pub(super) struct NotConnected(String);

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for NotConnected {}

/// Whether a call failed before anything of it was sent.
pub(crate) fn was_not_sent(status: &tonic::Status) -> bool {
    let mut source = Error::source(status);
    while let Some(error) = source {
        if error.is::<NotConnected>() {
            return true;
        }
        source = error.source();
    }
    false
}

struct Connector {
    transport: Arc<dyn Transport>,
    clock: Arc<dyn Clock>,
    address: String,
    backoff: Arc<Mutex<Backoff>>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<BoxStream>;
    type Error = NotConnected;
    type Future = BoxFuture<'static, Result<Self::Response, NotConnected>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NotConnected>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (address, backoff) = (self.address.clone(), Arc::clone(&self.backoff));
        let (clock, transport) = (Arc::clone(&self.clock), Arc::clone(&self.transport));
        Box::pin(async move {
            {
                // The same reason again: two that alternate would be told apart by everybody who hears them.
                let backoff = backoff.lock();
                if clock.monotonic_ms() < backoff.not_before_ms {
                    return Err(NotConnected(backoff.why.clone()));
                }
            }
            let connect = transport.connect(address);
            let connected = tokio::time::timeout(Duration::from_millis(CONNECT_MS_MAX), connect).await;
            let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let mut backoff = backoff.lock();
            match connected {
                Ok(stream) => {
                    *backoff = Backoff::default();
                    Ok(TokioIo::new(stream))
                }
                Err(error) => {
                    let (first_ms, last_ms) = BACKOFF_MS;
                    backoff.wait_ms = backoff.wait_ms.saturating_mul(2).clamp(first_ms, last_ms);
                    backoff.not_before_ms = clock.monotonic_ms().saturating_add(backoff.wait_ms);
                    backoff.why = error.to_string();
                    Err(NotConnected(backoff.why.clone()))
                }
            }
        })
    }
}
