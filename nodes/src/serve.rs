//! Connections: taken one by one, bounded in number, each served until it ends, the node drains, or its place is wanted.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use featureops_cluster::environment::{BoxStream, Listener};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::budget::Connection;
use crate::config::Limits;
use crate::front::Front;
use crate::observation::Observation;
use crate::outgoing::Tasks;
use crate::parting::Parting;
use crate::tls::Tls;

/// A connection is pinged after this time without traffic, and closed when the answer takes as long.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// A peer that has not said by then which protocol it speaks is hung up on: it would hold a place for nothing.
const PROTOCOL_TIMEOUT: Duration = Duration::from_secs(10);
/// What HTTP/2 begins with. As long as nothing else came, no protocol is chosen and no other timeout runs.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Time for the headers of one HTTP/1.1 request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a peer may send before they are read, on one stream and on one connection.
///
/// Both together decide who is cut off for small frames. h2 (0.4, `DataFrameBudget`) counts each unread DATA frame of
/// fewer than 256 bytes as 256 less its bytes, and closes the connection at half of its window. A stream of facts that waits for
/// the log is not read; one event a message is a frame of 21 bytes at the very least (a head of 5, and every name one
/// letter), and of 50 and more with names as people give them. So a whole stream window counts 32 KiB / 21 * 235 = 358 KiB, or
/// 132 KiB at 50 bytes: two streams or seven may stand still at once, and as many as there are if they are read.
const STREAM_WINDOW: u32 = 32 << 10;
const CONNECTION_WINDOW: u32 = 2 << 20;
/// Time for a connection that makes room to say goodbye.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// While no connection is idle long enough, this often one is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Pause after the operating system could not hand over a connection (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why connections are to end.
#[derive(Clone)]
pub struct Leaving {
    /// True once the process ends: nothing is taken any more.
    pub drain: watch::Receiver<bool>,
    /// Asks those who are connected to go elsewhere.
    pub parting: Arc<Parting>,
}

/// Serves until `drain` turns true, then lets what is in flight finish, at most `patience` long.
pub async fn serve(
    listener: Box<dyn Listener>,
    front: Front,
    limits: Limits,
    observation: Arc<Observation>,
    leaving: Leaving,
    patience: Duration,
) {
    let mut drain = leaving.drain.clone();
    let limits = Arc::new(limits);
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let mut seated = Vec::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = drained(&mut drain) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Beyond the bound one waits here, for whom an idle one may have to leave; all others in the kernel's backlog.
                let place = tokio::select! {
                    biased;
                    () = drained(&mut drain) => break,
                    place = place(&places, &seated, limits.connection_idle) => place,
                };
                let front = front.connected(peer.ip());
                seated.retain(|connection: &Weak<Connection>| connection.strong_count() > 0);
                seated.push(Arc::downgrade(front.connection()));
                observation.connections_taken.fetch_add(1, Ordering::Relaxed);
                let served =
                    connection(Arc::clone(&limits), stream, front, leaving.clone(), Arc::clone(&observation));
                connections.spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "a connection was not taken");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(patience, finished).await.is_err() {
        tracing::warn!("requests in flight were cut off: they outlasted the drain");
    }
}

/// A place for one more connection: a free one, or that of the connection that has been idle longest.
async fn place(
    places: &Arc<Semaphore>,
    seated: &[Weak<Connection>],
    idle: Duration,
) -> Option<OwnedSemaphorePermit> {
    loop {
        if let Ok(place) = Arc::clone(places).try_acquire_owned() {
            return Some(place);
        }
        let idlest = seated
            .iter()
            .filter_map(Weak::upgrade)
            .filter_map(|connection| Some((connection.idle_since()?, connection)))
            .min_by_key(|(since, _)| *since)
            .filter(|(since, _)| since.elapsed() >= idle);
        let patience = match idlest {
            Some((_, connection)) => {
                connection.ask_to_leave();
                LEAVE_TIMEOUT
            }
            None => LOOK_AGAIN,
        };
        if let Ok(place) = tokio::time::timeout(patience, Arc::clone(places).acquire_owned()).await {
            return place.ok();
        }
    }
}

fn builder(limits: &Limits, tasks: Tasks) -> Builder<Tasks> {
    let mut builder = Builder::new(tasks);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size((limits.header_bytes as usize).max(8_192));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(limits.streams_per_connection)
        .max_header_list_size(limits.header_bytes)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    builder
}

async fn connection(
    limits: Arc<Limits>,
    stream: BoxStream,
    front: Front,
    mut leaving: Leaving,
    observation: Arc<Observation>,
) {
    observation.connections.fetch_add(1, Ordering::Relaxed);
    let greeted = greeted(stream, &front, &mut leaving.drain).await;
    match greeted {
        Some((stream, names)) => spoken(limits, stream, front.certified(&names), leaving).await,
        None => tracing::debug!("a connection was not greeted: no TLS, or no certificate that is asked for"),
    }
    observation.connections.fetch_sub(1, Ordering::Relaxed);
}

/// The stream as it is to be read, behind TLS where there is, and whose certificate was shown. `None`: they did not come to terms in
/// time.
async fn greeted(
    stream: BoxStream,
    front: &Front,
    drain: &mut watch::Receiver<bool>,
) -> Option<(BoxStream, Vec<String>)> {
    let Some(tls) = front.tls() else { return Some((stream, Vec::new())) };
    tokio::select! {
        greeted = tokio::time::timeout(PROTOCOL_TIMEOUT, tls.accept(stream)) => match greeted {
            Ok(Ok(stream)) => {
                let names = Tls::names_of(&stream);
                Some((Box::new(stream), names))
            }
            Ok(Err(_)) | Err(_) => None,
        },
        () = drained(drain) => None,
    }
}

async fn spoken(limits: Arc<Limits>, stream: BoxStream, front: Front, leaving: Leaving) {
    let Leaving { mut drain, parting } = leaving;
    let parting = parting.asked();
    let spoke = Arc::new(AtomicBool::new(false));
    let io = TokioIo::new(Opening { stream, matched: 0, spoke: Arc::clone(&spoke) });
    let (held, patience) = (Arc::clone(front.connection()), limits.request_timeout);
    let builder = builder(&limits, Tasks { connection: Arc::clone(&held), patience });
    let mut served = std::pin::pin!(builder.serve_connection(io, front));
    // An answer's last piece has no task any more that could be ended alone.
    let stuck = async {
        while !held.tick() {
            tokio::time::sleep(patience).await;
        }
    };
    let silence = async {
        tokio::time::sleep(PROTOCOL_TIMEOUT).await;
        if spoke.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        outcome = served.as_mut() => note(outcome),
        () = stuck => tracing::debug!("a connection left an answer lying and was closed"),
        () = held.asked_to_leave() => {
            tracing::debug!("an idle connection made room for another");
            served.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(LEAVE_TIMEOUT, served).await;
        }
        () = parting => {
            // As below, and not for longer than any request may take: streams end by themselves. A backup goes on, as long as
            // somebody takes it.
            served.as_mut().graceful_shutdown();
            let patience = limits.request_timeout.saturating_add(LEAVE_TIMEOUT);
            while tokio::time::timeout(patience, served.as_mut()).await.is_err()
                && held.keeps()
                && !held.tick()
            {}
        }
        () = silence => tracing::debug!("a connection said too little and was closed"),
        () = drained(&mut drain) => {
            if spoke.load(Ordering::Relaxed) {
                // HTTP/2 hears GOAWAY, HTTP/1.1 a close after its answer; what is in flight finishes.
                served.as_mut().graceful_shutdown();
                note(served.await);
            }
        }
    }
}

/// The drain has begun, or nobody is left to begin it.
async fn drained(drain: &mut watch::Receiver<bool>) {
    let _ = drain.wait_for(|drains| *drains).await;
}

fn note(outcome: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = outcome {
        tracing::debug!(error = %error, "a connection ended early");
    }
}

/// A stream that watches its first bytes: whether they are more, or other, than a part of HTTP/2's preface.
struct Opening {
    stream: BoxStream,
    /// Bytes of the preface that came so far.
    matched: usize,
    /// A protocol is known; from here on its own timeouts hold.
    spoke: Arc<AtomicBool>,
}

impl Opening {
    fn hear(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if PREFACE.get(self.matched) != Some(byte) {
                return self.spoke.store(true, Ordering::Relaxed);
            }
            self.matched += 1;
        }
        if self.matched == PREFACE.len() {
            self.spoke.store(true, Ordering::Relaxed);
        }
    }
}

impl AsyncRead for Opening {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if !self.spoke.load(Ordering::Relaxed) {
            self.hear(buffer.filled().get(before..).unwrap_or_default());
        }
        polled
    }
}

impl AsyncWrite for Opening {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_preface_is_no_protocol_yet() {
        let heard = |parts: &[&[u8]]| {
            let (stream, _peer) = tokio::io::duplex(1);
            let spoke = Arc::new(AtomicBool::new(false));
            let mut opening = Opening { stream: Box::new(stream), matched: 0, spoke: Arc::clone(&spoke) };
            parts.iter().for_each(|part| opening.hear(part));
            spoke.load(Ordering::Relaxed)
        };
        assert!(!heard(&[]) && !heard(&[b"P"]) && !heard(&[b"P", b"RI * HTT"]) && !heard(&[&PREFACE[..23]]));
        assert!(heard(&[b"G"]) && heard(&[b"P", b"O"]) && heard(&[&PREFACE[..9], &PREFACE[9..]]));
    }
}
