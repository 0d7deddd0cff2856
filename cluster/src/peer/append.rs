//! The leader's side of one follower's stream: requests are sent ahead, answers come in their order.
//!
//! raft hands over a stream that may wait for the next entry for hours, and holds a lock meanwhile. So a task of this room's
//! pumps it into a bounded queue, and ends with the answers' stream: what HTTP/2 does with a body nobody wants any
//! more is too late for the stream that comes after it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use featureops_proto::peer::AppendResponse;
use futures_util::stream::{BoxStream, unfold};
use futures_util::{Stream, StreamExt};
use openraft::async_runtime::AsyncRuntime;
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::network::unreachable;
use super::{Peers, Target, Use, wire};
use crate::raft::types::{Runtime, Types};

/// Requests taken from raft and not sent yet.
const AHEAD_MAX: usize = 8;
/// Longest wait for the answer to what was sent, in milliseconds: a follower's sync is in it.
const ANSWER_MS_MAX: u64 = 5_000;
/// Longest wait for the stream itself, in milliseconds.
const OPEN_MS_MAX: u64 = 1_500;
/// Pause after a stream that was not opened, in milliseconds. Raft's own pause lies in the requests that it hands over, which nobody
/// waits for when there is no connection: without this one it would try again at once, and do nothing else.
const FAILED_MS: u64 = 50;

type Answered = Result<StreamAppendResult<Types>, RPCError<Types>>;

struct Pump(AbortHandle);

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Answers {
    stream: Streaming<AppendResponse>,
    peers: Peers,
    target: Target,
    sent: Arc<AtomicU64>,
    answered: u64,
    _pump: Pump,
}

impl Answers {
    async fn next(&mut self) -> Option<Answered> {
        let status = loop {
            let sent = self.sent.load(Ordering::Acquire);
            let wait = tokio::time::timeout(Duration::from_millis(ANSWER_MS_MAX), self.stream.message());
            match wait.await {
                Ok(Ok(Some(response))) => {
                    self.answered = self.answered.saturating_add(1);
                    self.peers.heard(self.target.node, response.clock_ms, response.boot);
                    self.peers.well(self.target.node);
                    let read = wire::raft_append_response(response);
                    return Some(read.map_err(|error| unreachable(&error).into()));
                }
                Ok(Ok(None)) => return None,
                Ok(Err(status)) => break status,
                // Nothing was waited for, or it was sent only meanwhile.
                Err(_) if sent <= self.answered => {}
                Err(_) => break Status::deadline_exceeded(format!("no answer within {ANSWER_MS_MAX} ms")),
            }
        };
        self.peers.fault(&self.target, &status);
        Some(Err(unreachable(&status).into()))
    }
}

/// Opens the stream to `target`. `what` says on which link: heartbeats do not wait behind entries.
///
/// # Errors
/// It was not opened in time.
pub(super) async fn open<'s, S>(
    peers: Peers,
    target: Target,
    what: Use,
    mut input: S,
) -> Result<BoxStream<'s, Answered>, RPCError<Types>>
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
{
    let (queue, requests) = mpsc::channel(AHEAD_MAX);
    let sent = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&sent);
    let pump = <Runtime as AsyncRuntime>::spawn(async move {
        while let Some(request) = input.next().await {
            counted.fetch_add(1, Ordering::AcqRel);
            if queue.send(wire::append_request(request)).await.is_err() {
                return;
            }
        }
    });
    let pump = Pump(pump.abort_handle());
    let mut client = peers.client(&target.address, what);
    let request = peers.request(&target, ReceiverStream::new(requests));
    let opened = peers.call(&target, Duration::from_millis(OPEN_MS_MAX), client.append(request)).await;
    let stream = match opened {
        Ok(stream) => stream,
        Err(status) => {
            tokio::time::sleep(Duration::from_millis(FAILED_MS)).await;
            return Err(unreachable(&status).into());
        }
    };
    let answers = Answers { stream, peers, target, sent, answered: 0, _pump: pump };
    let stream = unfold(Some(answers), |answers| async move {
        let mut answers = answers?;
        let answered = answers.next().await?;
        // After an error, or a refusal, nothing of this stream counts any more.
        let on = matches!(answered, Ok(Ok(_)));
        Some((answered, on.then_some(answers)))
    });
    Ok(Box::pin(stream))
}

/// The follower's side: requests as raft takes them, until the stream ends or one is damaged.
pub(super) fn requests(
    stream: Streaming<featureops_proto::peer::AppendRequest>,
) -> impl Stream<Item = AppendEntriesRequest<Types>> + Send {
    let read = unfold(stream, |mut stream| async move {
        let request = stream.message().await.map_err(io::Error::other);
        let request = request.transpose()?.and_then(wire::raft_append_request);
        match request {
            Ok(request) => Some((request, stream)),
            Err(error) => {
                tracing::debug!(error = %error, "a leader's stream ended");
                None
            }
        }
    });
    read.boxed()
}
