//! The budget of request bytes: what all requests together may hold in memory.
//!
//! ```text
//!   body ── frame by frame ──> Metered ── over the budget ──> RESOURCE_EXHAUSTED, this request alone
//!                                 └─ held until the request is answered; of a stream, at most one message's bytes
//! ```
//!
//! A message's bound alone does not help: connections times streams times 4 MiB is more than any machine has.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use hyper::body::{Frame, SizeHint};

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
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// A body whose bytes count.
pub struct Metered {
    body: Body,
    held: Arc<Held>,
    /// More than this is never held at once: a stream's messages are taken out one by one.
    at_once_max: usize,
}

impl Metered {
    /// Meters a request's body. What is held is given back when both the body and the second value are dropped.
    #[must_use]
    pub fn new(body: Body, budget: &Arc<Budget>, at_once_max: usize) -> (Body, Arc<Held>) {
        let held = Arc::new(Held { budget: Arc::clone(budget), bytes: AtomicUsize::new(0) });
        let metered = Self { body, held: Arc::clone(&held), at_once_max };
        (Body::new(metered), held)
    }
}

impl hyper::body::Body for Metered {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            let room = self.at_once_max.saturating_sub(self.held.bytes.load(Ordering::Relaxed));
            if !self.held.grow(data.len().min(room)) {
                return Poll::Ready(Some(Err(self.held.budget.refusal().into())));
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
    use super::*;

    async fn read(body: Body) -> Result<usize, axum::Error> {
        axum::body::to_bytes(body, usize::MAX).await.map(|bytes| bytes.len())
    }

    #[tokio::test]
    async fn what_is_held_counts_until_it_is_dropped_and_never_above_the_bound() {
        let budget = Budget::new(100);
        let (first, held) = Metered::new(Body::from(vec![0; 80]), &budget, usize::MAX);
        assert_eq!(read(first).await.unwrap(), 80);
        assert_eq!(budget.held(), 80);
        let (second, other) = Metered::new(Body::from(vec![0; 30]), &budget, usize::MAX);
        assert!(read(second).await.unwrap_err().to_string().contains("at their bound of 100"));
        drop(other);
        assert!(budget.hold(21).is_none() && budget.hold(20).is_some());
        drop(held);
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn a_stream_holds_no_more_than_one_message() {
        let budget = Budget::new(100);
        let chunks = (0..50).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![0; 10])));
        let (body, held) = Metered::new(Body::from_stream(tokio_stream::iter(chunks)), &budget, 40);
        assert_eq!(read(body).await.unwrap(), 500);
        assert_eq!(budget.held(), 40);
        drop(held);
        assert_eq!(budget.held(), 0);
    }
}
