//! Response bodies: what was produced and is not sent counts like a request, and what nobody takes is ended.
//!
//! ```text
//!   service ── frame ──> Outgoing ── pieces of 16 KiB ──> hyper ── as the peer's windows allow ──> socket
//!                           │  counted on the request's account, piece by piece given back when it was sent
//!                           └─ over a bound: RESOURCE_EXHAUSTED
//!   Tasks ── each stream's task, and a look at its account: nothing sent for so long ──> the stream is reset
//! ```
//!
//! HTTP/2 takes a whole frame as soon as the peer's window is open by one byte, so frames are cut: what waits, waits here,
//! where its task can still be dropped. What is left of an answer after its task (one piece at most) is seen by the
//! connection (`Connection::tick`).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, Response};
use bytes::Buf;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;

use crate::budget::{Account, Connection};
use crate::reply::is_native_grpc;

/// Bytes that are handed over at once: one frame of HTTP/2.
const PIECE_BYTES: usize = 16 << 10;

/// A response's body on the account of its request.
pub struct Outgoing {
    body: Body,
    /// Produced and counted, and not yet handed over.
    rest: Bytes,
    account: Arc<Account>,
    grpc: bool,
    ended: bool,
    /// When a stream's caller wants no more of it.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Until when a stream's caller may have more of it.
    lasts: Option<Lasting>,
}

/// Ends with the reason.
pub type Lasting = Pin<Box<dyn Future<Output = Status> + Send>>;

impl Outgoing {
    /// The response with its body on the account, and until when it may go on.
    pub fn of(
        response: Response<Body>,
        account: Arc<Account>,
        until: Option<Instant>,
        lasts: Option<Lasting>,
    ) -> Response<Self> {
        let grpc = is_native_grpc(response.headers());
        let deadline = until.map(|until| Box::pin(sleep_until(until)));
        response.map(|body| Self { body, rest: Bytes::new(), account, grpc, ended: false, deadline, lasts })
    }

    fn piece(&mut self) -> Frame<Piece> {
        let bytes = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        Frame::data(Piece::new(bytes, Arc::clone(&self.account)))
    }

    /// Ends in the middle: gRPC says why, whatever else is cut off.
    fn end(&mut self, status: Status) -> Result<Frame<Piece>, Status> {
        self.ended = true;
        self.body = Body::empty();
        let mut trailers = HeaderMap::new();
        if self.grpc && status.add_header(&mut trailers).is_ok() {
            Ok(Frame::trailers(trailers))
        } else {
            Err(status)
        }
    }
}

impl hyper::body::Body for Outgoing {
    type Data = Piece;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Status>>> {
        let this = &mut *self;
        if !this.rest.is_empty() {
            return Poll::Ready(Some(Ok(this.piece())));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        if this.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            let message =
                "the deadline of the call has passed: open the stream again, with a later one or none";
            return Poll::Ready(Some(this.end(Status::deadline_exceeded(message))));
        }
        if let Some(Poll::Ready(status)) = this.lasts.as_mut().map(|lasts| lasts.as_mut().poll(cx)) {
            return Poll::Ready(Some(this.end(status)));
        }
        let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(status)) => return Poll::Ready(Some(Err(status))),
            None => return Poll::Ready(None),
        };
        Poll::Ready(Some(match frame.into_data() {
            Ok(data) => match this.account.owe(data.len()) {
                Ok(()) => {
                    this.rest = data;
                    Ok(this.piece())
                }
                Err(full) => this.end(full.into()),
            },
            Err(frame) => Ok(Frame::trailers(frame.into_trailers().unwrap_or_default())),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && (self.ended || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.account.paid(self.rest.len());
    }
}

/// Bytes in the hands of HTTP, counted until they were sent.
pub struct Piece {
    bytes: Bytes,
    /// As they were counted.
    length: usize,
    /// When they last moved.
    epoch: usize,
    account: Arc<Account>,
}

impl Piece {
    fn new(bytes: Bytes, account: Arc<Account>) -> Self {
        let epoch = account.connection().piece_taken();
        Self { length: bytes.len(), bytes, epoch, account }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.account.moved();
        if !self.bytes.is_empty() {
            self.epoch = self.account.connection().piece_moved(self.epoch);
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.account.connection().piece_gone(self.epoch);
        self.account.paid(self.length);
    }
}

/// Runs the streams of one HTTP/2 connection, each watched for an answer that is not taken.
#[derive(Clone)]
pub struct Tasks {
    /// The connection.
    pub connection: Arc<Connection>,
    /// How long an answer may lie still.
    pub patience: Duration,
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // Hyper calls the service and hands over the stream in one breath.
        match self.connection.called() {
            Some(account) => {
                drop(tokio::spawn(Watched {
                    stream,
                    account,
                    patience: self.patience,
                    moves: 0,
                    timer: None,
                }));
            }
            None => drop(tokio::spawn(stream)),
        }
    }
}

pin_project_lite::pin_project! {
    /// A stream's task until its answer is handed over, or lies still for too long. No timer for an answer that is sent at once.
    struct Watched<F> {
        #[pin]
        stream: F,
        account: Arc<Account>,
        patience: Duration,
        // How often the answer had moved when the timer was set.
        moves: usize,
        timer: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            match this.timer {
                None if !this.account.owes() => return Poll::Pending,
                None => {
                    *this.moves = this.account.moves();
                    *this.timer = Some(Box::pin(sleep(*this.patience)));
                }
                Some(timer) => {
                    ready!(timer.as_mut().poll(cx));
                    if !this.account.owes() {
                        *this.timer = None;
                        continue;
                    }
                    if *this.moves == this.account.moves() {
                        tracing::debug!("an answer that nobody took was dropped");
                        // The stream ends with its task: the peer gets a reset.
                        return Poll::Ready(());
                    }
                    *this.moves = this.account.moves();
                    timer.as_mut().reset(Instant::now() + *this.patience);
                }
            }
        }
    }
}
