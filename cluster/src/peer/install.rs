//! A snapshot on its way to a follower, in pieces.
//!
//! ```text
//!   leader                                follower
//!   begin {vote, place, length, sum} ──>
//!                                    <──  received 0, or where the last attempt at the same snapshot broke off
//!   piece, piece, piece              ──>
//!                                    <──  received n, after each
//!                                    <──  vote: installed
//! ```
//!
//! A few pieces are on their way at once. What was received of a snapshot is kept in memory when the stream breaks, one
//! snapshot at most; each piece has a checksum, and so has the whole before it is handed to raft.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use featureops_proto::peer::{InstallBegin, InstallRequest, InstallResponse};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Peers, Target, Use, wire};
use crate::fold::Fold;
use crate::proposer::Proposer;
use crate::raft::record;
use crate::raft::snapshots::SNAPSHOT_BYTES_MAX;
use crate::raft::types::{RaftVote, Snapshot, SnapshotMeta};

/// Length of a piece, in bytes.
pub(crate) const PIECE_BYTES: usize = 512 << 10;
/// Pieces on their way.
const PIECES_MAX: u64 = 8;
/// Longest wait for an answer, in milliseconds. While a snapshot is installed, the follower answers every
/// [`ALIVE_MS`].
const ANSWER_MS_MAX: u64 = 10_000;
const ALIVE_MS: u64 = 1_000;

/// Sends a snapshot; answers with the follower's vote once it is installed there.
///
/// # Errors
/// The stream broke: the next attempt goes on from there.
pub(super) async fn send(
    peers: &Peers,
    target: &Target,
    vote: &RaftVote,
    snapshot: Snapshot,
) -> Result<RaftVote, Status> {
    let Snapshot { meta, snapshot } = snapshot;
    let length = snapshot.len() as u64;
    let state = snapshot.clone();
    // A checksum over gigabytes takes its time.
    let sum = peers.0.environment.run(move || crc32fast::hash(&state)).await;
    let begin = InstallBegin {
        vote: Some(wire::ballot(vote)),
        last: meta.last_log_id.as_ref().map(wire::position),
        membership: record::encode_membership(&meta.last_membership),
        length,
        crc32: sum.ok_or_else(|| Status::internal("the snapshot's checksum was not made"))?,
    };
    let (queue, requests) = mpsc::channel(2);
    let broken = |_| Status::aborted("the stream of the snapshot broke");
    queue.send(InstallRequest { begin: Some(begin), ..InstallRequest::default() }).await.map_err(broken)?;
    let within = Duration::from_millis(ANSWER_MS_MAX);
    let mut client = peers.client(&target.address, Use::Bulk);
    let request = peers.request(target, ReceiverStream::new(requests));
    let mut answers = peers.call(target, within, client.install(request)).await?;
    let mut next = answer(&mut answers).await?;
    if let Some(vote) = next.vote {
        return wire::vote(Some(vote)).map_err(|error| Status::data_loss(error.to_string()));
    }
    let mut sent = next.received.min(length);
    loop {
        let window = next.received.saturating_add(PIECES_MAX.saturating_mul(PIECE_BYTES as u64));
        while sent < length && sent < window {
            let start = usize::try_from(sent).unwrap_or(usize::MAX);
            let piece = snapshot.slice(start..start.saturating_add(PIECE_BYTES).min(snapshot.len()));
            let end = sent.saturating_add(piece.len() as u64);
            let crc32 = crc32fast::hash(&piece);
            let request = InstallRequest { begin: None, offset: sent, piece, crc32 };
            queue.send(request).await.map_err(broken)?;
            sent = end;
        }
        next = answer(&mut answers).await?;
        if let Some(vote) = next.vote {
            return wire::vote(Some(vote)).map_err(|error| Status::data_loss(error.to_string()));
        }
    }
}

async fn answer(answers: &mut Streaming<InstallResponse>) -> Result<InstallResponse, Status> {
    let answer = tokio::time::timeout(Duration::from_millis(ANSWER_MS_MAX), answers.message()).await;
    let answer = answer.map_err(|_| Status::deadline_exceeded("no answer to a piece of the snapshot"))??;
    answer.ok_or_else(|| Status::aborted("the follower ended the stream of the snapshot"))
}

/// What was received of one snapshot.
struct Partial {
    begin: InstallBegin,
    bytes: BytesMut,
}

impl Partial {
    /// Whether it is of the same snapshot, whoever sends it now.
    fn is_of(&self, begin: &InstallBegin) -> bool {
        let of = |begin: &InstallBegin| (begin.last, begin.length, begin.crc32);
        of(&self.begin) == of(begin)
    }
}

/// The follower's side: one snapshot at a time.
#[derive(Clone)]
pub(crate) struct Receiver {
    one: Arc<Semaphore>,
    /// Bytes of snapshots received so far.
    bytes: Arc<AtomicU64>,
    partial: Arc<Mutex<Option<Partial>>>,
}

impl Default for Receiver {
    fn default() -> Self {
        Self { one: Arc::new(Semaphore::new(1)), bytes: Arc::default(), partial: Arc::default() }
    }
}

type Answers = mpsc::Sender<Result<InstallResponse, Status>>;

impl Receiver {
    /// Bytes of snapshots received so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Starts to receive.
    ///
    /// # Errors
    /// Another snapshot is being received, or the stream begins with none.
    pub(super) async fn receive<F: Fold>(
        &self,
        proposer: Proposer<F>,
        mut stream: Streaming<InstallRequest>,
    ) -> Result<ReceiverStream<Result<InstallResponse, Status>>, Status> {
        let Ok(one) = Arc::clone(&self.one).try_acquire_owned() else {
            return Err(Status::unavailable("another snapshot is being received; try again"));
        };
        let (answers, receiver) = mpsc::channel(4);
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(status) = this.run(proposer, &mut stream, &answers, one).await {
                tracing::info!(why = status.message(), "a snapshot was not received whole");
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(ReceiverStream::new(receiver))
    }

    async fn run<F: Fold>(
        &self,
        proposer: Proposer<F>,
        stream: &mut Streaming<InstallRequest>,
        answers: &Answers,
        _one: OwnedSemaphorePermit,
    ) -> Result<(), Status> {
        let first = message(stream).await?.and_then(|request| request.begin);
        let begin =
            first.ok_or_else(|| Status::invalid_argument("the stream does not begin with a snapshot"))?;
        if begin.length > SNAPSHOT_BYTES_MAX {
            let why =
                format!("a snapshot of {} bytes is over the bound of {SNAPSHOT_BYTES_MAX}", begin.length);
            return Err(Status::out_of_range(why));
        }
        let vote = wire::vote(begin.vote).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let damaged = |error: std::io::Error| Status::data_loss(error.to_string());
        let meta = SnapshotMeta {
            last_log_id: begin.last.map(wire::log_id),
            last_membership: record::decode_membership(&begin.membership).map_err(damaged)?,
        };
        let held = self.partial.lock().take().filter(|partial| partial.is_of(&begin));
        let bytes = held.map(|partial| partial.bytes).unwrap_or_default();
        if !bytes.is_empty() {
            tracing::info!(received = bytes.len(), length = begin.length, "receiving a snapshot goes on");
        }
        let mut keeper = Keeper { receiver: self, partial: Some(Partial { begin, bytes }) };
        keeper.fill(stream, answers).await?;
        let Some(Partial { begin, bytes }) = keeper.partial.take() else { return Ok(()) };
        let state = bytes.freeze();
        let whole = state.clone();
        let sum = proposer.peers().0.environment.run(move || crc32fast::hash(&whole)).await;
        if sum != Some(begin.crc32) {
            return Err(Status::data_loss("the snapshot as received does not match its checksum"));
        }
        let vote =
            install(&proposer, vote, Snapshot { meta, snapshot: state }, answers, begin.length).await?;
        let last = InstallResponse { received: begin.length, vote: Some(wire::ballot(&vote)) };
        let _ = answers.send(Ok(last)).await;
        Ok(())
    }
}

/// Hands the snapshot to raft, and says meanwhile that it does.
async fn install<F: Fold>(
    proposer: &Proposer<F>,
    vote: RaftVote,
    snapshot: Snapshot,
    answers: &Answers,
    received: u64,
) -> Result<RaftVote, Status> {
    let installed = proposer.scoped(proposer.raft().install_full_snapshot(vote, snapshot));
    tokio::pin!(installed);
    loop {
        let wait = tokio::time::sleep(Duration::from_millis(ALIVE_MS));
        tokio::select! {
            biased;
            installed = &mut installed => {
                let response = installed.map_err(|fatal| Status::unavailable(fatal.to_string()))?;
                return Ok(response.vote);
            }
            () = wait => {
                // Whoever sent it may be gone; it is installed all the same.
                let _ = answers.try_send(Ok(InstallResponse { received, vote: None }));
            }
        }
    }
}

/// Puts back what was received, however the stream ends.
struct Keeper<'a> {
    receiver: &'a Receiver,
    partial: Option<Partial>,
}

impl Keeper<'_> {
    async fn fill(
        &mut self,
        stream: &mut Streaming<InstallRequest>,
        answers: &Answers,
    ) -> Result<(), Status> {
        let Some(Partial { begin, bytes }) = &mut self.partial else { return Ok(()) };
        let gone = |_| Status::cancelled("the sender of the snapshot is gone");
        let say = |received: usize| Ok(InstallResponse { received: received as u64, vote: None });
        answers.send(say(bytes.len())).await.map_err(gone)?;
        while (bytes.len() as u64) < begin.length {
            let request = message(stream).await?;
            let request = request.ok_or_else(|| Status::aborted("the stream of the snapshot ended early"))?;
            let piece: Bytes = request.piece;
            let room = begin.length.saturating_sub(bytes.len() as u64);
            if request.offset != bytes.len() as u64 || piece.is_empty() || piece.len() as u64 > room {
                return Err(Status::invalid_argument("a piece of the snapshot is out of its place"));
            }
            if crc32fast::hash(&piece) != request.crc32 {
                return Err(Status::data_loss("a piece of the snapshot does not match its checksum"));
            }
            bytes.extend_from_slice(&piece);
            self.receiver.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            answers.send(say(bytes.len())).await.map_err(gone)?;
        }
        Ok(())
    }
}

impl Drop for Keeper<'_> {
    fn drop(&mut self) {
        if let Some(partial) = self.partial.take() {
            *self.receiver.partial.lock() = Some(partial);
        }
    }
}

async fn message(stream: &mut Streaming<InstallRequest>) -> Result<Option<InstallRequest>, Status> {
    let message = tokio::time::timeout(Duration::from_millis(ANSWER_MS_MAX), stream.message()).await;
    message.map_err(|_| Status::deadline_exceeded("no piece of the snapshot came"))?
}
