//! Request bodies, metered: frame by frame on the request's account, and a stream's message must not stay half sent.
//!
//! ```text
//!   body ── frame ──> Metered ── over a bound ────────────> RESOURCE_EXHAUSTED, this request alone
//!                        │    └─ waits for the rest of a message longer than its patience ──> DEADLINE_EXCEEDED
//!                        └─ held until the request is answered; of a stream, the message that is half here
//! ```
//!
//! Only the time in which the peer is waited for counts: a node that reads slowly is not the peer's fault.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

use crate::budget::Account;

/// How a request's body is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One message; whoever answers bounds the time of it all.
    Whole,
    /// gRPC's messages one after the other, each with this much time to come.
    Messages(Duration),
    /// One message that nobody else bounds in time.
    Slow(Duration),
}

/// A body whose bytes count.
pub struct Metered<B> {
    body: B,
    account: Arc<Account>,
    /// Where one message of a stream ends and the next begins; absent: the body is one whole.
    messages: Option<Messages>,
    /// Bytes are here that wait for others.
    half: bool,
    wait: Option<Wait>,
}

/// Meters a request's body.
pub fn meter<B>(body: B, account: &Arc<Account>, form: Form) -> Metered<B> {
    let (messages, patience) = match form {
        Form::Whole => (None, None),
        Form::Messages(patience) => (Some(Messages::default()), Some(patience)),
        Form::Slow(patience) => (None, Some(patience)),
    };
    let wait = patience.map(|patience| Wait { patience, left: patience, since: None, timer: None });
    Metered { body, account: Arc::clone(account), messages, half: false, wait }
}

impl<B> Metered<B> {
    fn count(&mut self, data: &Bytes) -> Result<(), Status> {
        let Some(messages) = &mut self.messages else {
            self.half |= !data.is_empty();
            return Ok(self.account.grow(data.len())?);
        };
        let (came, ended) = messages.pass(data);
        if ended && let Some(wait) = &mut self.wait {
            wait.left = wait.patience;
        }
        self.half = came > 0;
        Ok(self.account.set_to(came)?)
    }
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
        if let Some(wait) = &mut this.wait {
            if !polled.is_pending() {
                wait.is_over();
            } else if this.half && wait.poll(cx).is_ready() {
                return Poll::Ready(Some(Err(late(wait.patience).into())));
            }
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
            && let Err(full) = this.count(data)
        {
            return Poll::Ready(Some(Err(full.into())));
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

impl<B> Drop for Metered<B> {
    fn drop(&mut self) {
        self.account.let_go();
    }
}

fn late(patience: Duration) -> Status {
    Status::deadline_exceeded(format!(
        "a message was half sent for {} ms: send it whole, and then the next",
        patience.as_millis()
    ))
}

/// How long the rest of a message is waited for. No timer before the first wait.
struct Wait {
    patience: Duration,
    /// Of the patience with this message.
    left: Duration,
    /// The peer is waited for.
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Wait {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = *self.since.get_or_insert_with(Instant::now) + self.left;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }

    fn is_over(&mut self) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
    }
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
    /// Bytes of the message that is not complete after these bytes, and whether one became complete: what is complete
    /// is taken out at once.
    fn pass(&mut self, mut bytes: &[u8]) -> (usize, bool) {
        let mut ended = false;
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
            let complete = self.left == 0 && self.headed == 0;
            ended |= complete;
            self.came = if complete { 0 } else { self.came.saturating_add(passed) };
        }
        (self.came, ended)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, HttpBody as _};
    use tokio_stream::StreamExt as _;

    use super::*;
    use crate::budget::{Budget, Connection};

    const PATIENCE: Duration = Duration::from_secs(30);

    async fn read(body: Metered<Body>) -> Result<usize, axum::Error> {
        axum::body::to_bytes(Body::new(body), usize::MAX).await.map(|bytes| bytes.len())
    }

    fn message(length: u32) -> Vec<u8> {
        [&[0][..], &length.to_be_bytes(), &vec![7; length as usize]].concat()
    }

    #[tokio::test]
    async fn a_whole_body_is_held_until_it_is_answered_and_never_above_the_bound() {
        let budget = Budget::new(200);
        let connection = Connection::new(&budget);
        let (first, second) = (Account::open(&connection, false), Account::open(&connection, false));
        assert_eq!(read(meter(Body::from(vec![0; 80]), &first, Form::Whole)).await.unwrap(), 80);
        let refused = read(meter(Body::from(vec![0; 30]), &second, Form::Whole)).await.unwrap_err();
        assert!(refused.to_string().contains("at their bound of 100"), "{refused}");
        assert_eq!(budget.held(), 80);
        first.let_go();
        assert_eq!(budget.held(), 0);
    }

    #[tokio::test]
    async fn a_stream_holds_the_message_that_is_half_here_however_it_is_cut() {
        let bytes = [message(20), message(0), message(60), message(1), message(70)[..40].to_vec()].concat();
        for cut in [1, 3, 5, 7, 64, 1_000] {
            let budget = Budget::new(200);
            let account = Account::open(&Connection::new(&budget), true);
            let chunks: Vec<_> =
                bytes.chunks(cut).map(|part| Ok::<_, std::io::Error>(Bytes::copy_from_slice(part))).collect();
            let body = Body::from_stream(tokio_stream::iter(chunks));
            let metered = meter(body, &account, Form::Messages(PATIENCE));
            assert_eq!(read(metered).await.unwrap(), bytes.len());
            assert_eq!(budget.held(), 40, "{cut}");
            account.let_go();
            assert_eq!(budget.held(), 0);
        }
    }

    /// Sends the parts with a pause before each, and then nothing more.
    fn paced(parts: Vec<Vec<u8>>, pause: Duration) -> Body {
        let parts = tokio_stream::iter(parts).then(move |part| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, std::io::Error>(Bytes::from(part))
        });
        Body::from_stream(parts.chain(tokio_stream::pending()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_stays_half_sent_ends_its_stream_however_it_drips() {
        let account = Account::open(&Connection::new(&Budget::new(1_000)), true);
        for (parts, pause, form) in [
            (vec![message(9)[..3].to_vec()], 1, Form::Messages(PATIENCE)),
            (message(90).chunks(1).map(<[u8]>::to_vec).collect(), 20, Form::Messages(PATIENCE)),
            (vec![message(9), message(9)[..6].to_vec()], 29, Form::Messages(PATIENCE)),
            (vec![b"AAAA".to_vec()], 1, Form::Slow(PATIENCE)),
        ] {
            let pauses = parts.len().min(3) as u64;
            let began = Instant::now();
            let metered = meter(paced(parts, Duration::from_secs(pause)), &account, form);
            let refused = read(metered).await.unwrap_err().to_string();
            assert!(refused.contains("half sent for 30000 ms"), "{refused}");
            assert!(began.elapsed() <= PATIENCE + Duration::from_secs(pause * pauses + 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_between_messages_and_a_node_that_reads_slowly_end_no_stream() {
        let account = Account::open(&Connection::new(&Budget::new(1_000)), true);
        let body = paced(vec![message(9), message(9)], PATIENCE * 9);
        let metered = meter(body, &account, Form::Messages(PATIENCE));
        let silent = tokio::time::timeout(PATIENCE * 100, read(metered)).await;
        assert!(silent.is_err(), "{silent:?}");
        let halves = vec![message(9)[..6].to_vec(), message(9)[6..].to_vec(), message(1)];
        let body = paced(halves, Duration::from_secs(1));
        let mut metered = std::pin::pin!(meter(body, &account, Form::Messages(PATIENCE)));
        for _ in 0..3 {
            let frame = std::future::poll_fn(|cx| metered.as_mut().poll_frame(cx)).await;
            assert!(frame.unwrap().is_ok());
            tokio::time::sleep(PATIENCE * 2).await;
        }
    }
}
