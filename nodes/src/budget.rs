//! The budget of request bytes: what all requests together may hold in memory.
//!
//! ```text
//!   body ── frame by frame ──> Metered ── over the budget ──> RESOURCE_EXHAUSTED, this request alone
//!                                 └─ held until the request is answered; of a stream, the message that is half here
//! ```
//!
//! A message's bound alone does not help: connections times streams times 4 MiB is more than any machine has.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::refusal::Failure;

/// Bytes that may be held, and are.
pub struct Budget {
    max: usize,
    held: AtomicUsize,
}

impl Budget {
    /// A budget of `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, held: AtomicUsize::new(0) })
    }

    /// Bytes that are held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Holds these bytes until the answer is dropped; `None` when there is no room for them.
    #[must_use]
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let held = Held { budget: Arc::clone(self), bytes: AtomicUsize::new(0) };
        held.grow(bytes).then_some(held)
    }

    /// What a request gets that found no room.
    #[must_use]
    pub fn refusal(&self) -> tonic::Status {
        Failure::Overloaded(format!("bytes of requests in flight are at their bound of {}", self.max)).into()
    }
}

/// A share of the budget, given back when it is dropped.
pub struct Held {
    budget: Arc<Budget>,
    /// Written by one reader of one body.
    bytes: AtomicUsize,
}

impl Held {
    fn grow(&self, bytes: usize) -> bool {
        let taken = self.budget.held.fetch_add(bytes, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        taken.saturating_add(bytes) <= self.budget.max
    }

    fn set_to(&self, bytes: usize) -> bool {
        let before = self.bytes.load(Ordering::Relaxed);
        if bytes >= before {
            return self.grow(bytes - before);
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        self.budget.held.fetch_sub(before - bytes, Ordering::Relaxed);
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// A body whose bytes count.
pub struct Metered<B> {
    body: B,
    held: Arc<Held>,
    /// Where one message of a stream ends and the next begins; absent: the body is one whole.
    messages: Option<Messages>,
}

/// Follows gRPC's framing: a byte, four bytes of length, and the message.
#[derive(Default)]
struct Messages {
    head: [u8; 5],
    /// Bytes of the head that came.
    headed: usize,
    /// Bytes of the message that are still to come.
    left: usize,
    /// Bytes of the message that came, its head included.
    came: usize,
}

impl Messages {
    /// Bytes of the message that is not complete after these bytes; what is complete is taken out at once.
    fn pass(&mut self, mut bytes: &[u8]) -> usize {
        while let Some(first) = bytes.first() {
            let passed = if self.left > 0 {
                let passed = self.left.min(bytes.len());
                self.left -= passed;
                passed
            } else {
                if let Some(place) = self.head.get_mut(self.headed) {
                    *place = *first;
                }
                self.headed += 1;
                if self.headed == self.head.len() {
                    let [_, length @ ..] = self.head;
                    (self.headed, self.left) = (0, u32::from_be_bytes(length) as usize);
                }
                1
            };
            bytes = bytes.get(passed..).unwrap_or_default();
            self.came = if self.left == 0 && self.headed == 0 { 0 } else { self.came.saturating_add(passed) };
        }
        self.came
    }
}

/// Meters a request's body. What is held is given back when both the body and the second value are dropped.
pub fn meter<B>(body: B, budget: &Arc<Budget>, streams: bool) -> (Metered<B>, Arc<Held>) {
    let held = Arc::new(Held { budget: Arc::clone(budget), bytes: AtomicUsize::new(0) });
    let metered = Metered { body, held: Arc::clone(&held), messages: streams.then(Messages::default) };
    (metered, held)
}

impl<B: Body<Data = Bytes, Error: Into<axum::BoxError>> + Unpin> Body for Metered<B> {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            let room = match &mut this.messages {
                Some(messages) => this.held.set_to(messages.pass(data)),
                None => this.held.grow(data.len()),
            };
            if !room {
                return Poll::Ready(Some(Err(this.held.budget.refusal().into())));
            }
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    async fn read(body: Metered<Body>) -> Result<usize, axum::Error> {
        axum::body::to_bytes(Body::new(body), usize::MAX).await.map(|bytes| bytes.len())
    }

    #[tokio::test]
    async fn what_is_held_counts_until_it_is_dropped_and_never_above_the_bound() {
        let budget = Budget::new(100);
        let (first, held) = meter(Body::from(vec![0; 80]), &budget, false);
        assert_eq!(read(first).await.unwrap(), 80);
        assert_eq!(budget.held(), 80);
        let (second, other) = meter(Body::from(vec![0; 30]), &budget, false);
        assert!(read(second).await.unwrap_err().to_string().contains("at their bound of 100"));
        drop(other);
        assert!(budget.hold(21).is_none() && budget.hold(20).is_some());
        drop(held);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn a_stream_holds_the_message_that_is_half_here_however_it_is_cut() {
        let message = |length: u32| [&[0][..], &length.to_be_bytes(), &vec![7; length as usize]].concat();
        let bytes = [message(20), message(0), message(60), message(1), message(70)[..40].to_vec()].concat();
        for cut in [1, 3, 5, 7, 64, 1_000] {
            let budget = Budget::new(100);
            let chunks: Vec<_> =
                bytes.chunks(cut).map(|part| Ok::<_, std::io::Error>(Bytes::copy_from_slice(part))).collect();
            let (body, held) = meter(Body::from_stream(tokio_stream::iter(chunks)), &budget, true);
            assert_eq!(read(body).await.unwrap(), bytes.len());
            assert_eq!(budget.held(), 40, "{cut}");
            drop(held);
            assert_eq!(budget.held(), 0);
        }
    }
}
