//! The gRPC services: one file per service of `proto/featureops/v1`.
//!
//! ```text
//!   request ── fields checked here ──> log::Entry ── Host::write ──> reply ── applied and published ──> State, read
//!                                          └─ validate_only: the same entry, applied to a copy of State
//! ```
//!
//! A service checks form and bounds, names the principal, and asks. It decides nothing: what a command may do is the
//! fold's to say, and its refusals come back as they are.

pub mod administration;
pub mod backup;
pub mod cluster;
pub mod compiled;
pub mod decision;
pub mod environment;
pub mod evaluation;
pub mod experiment;
pub mod facts;
pub mod flag;
pub mod health;
pub mod layer;
pub mod ledger;
pub mod metric;
mod promotion;
pub mod schedule;
pub mod segment;
pub mod token;
pub mod upgrade;

use std::task::{Context, Poll};

use featureops_proto::v1::{Principal, principal};
use featureops_proto::{Collection, ErrorCode, Name, environment_of};
use tokio_stream::Stream;
use tonic::{Request, Status};

use crate::access::grant::granted;
use crate::host::Host;
use crate::refusal;

/// Longest request id, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// Longest reason, note or source of a command, in bytes.
const TEXT_BYTES_MAX: usize = 2_048;

/// A response that streams.
pub type Streamed<T> = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

/// The stream until the node drains: then `last`, if any, and UNAVAILABLE. A stream that nobody ends would hold up a drain
/// for as long as it may take.
pub fn until_drain<T: Send + Unpin + 'static>(
    host: &Host,
    stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    last: Option<T>,
) -> Streamed<T> {
    until(Box::pin(host.drained()), stream, last)
}

/// As [`until_drain`], until the node itself ends: a person's drain leaves it be. For a stream that ends by itself, and is worth
/// nothing unless it is whole.
pub fn until_end<T: Send + Unpin + 'static>(
    host: &Host,
    stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Streamed<T> {
    until(Box::pin(host.ended()), stream, None)
}

fn until<T: Send + Unpin + 'static>(
    drained: Drained,
    stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
    last: Option<T>,
) -> Streamed<T> {
    Box::pin(UntilDrain { stream: Box::pin(stream), drained: Some(drained), last, ended: false })
}

type Drained = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

struct UntilDrain<T> {
    stream: Streamed<T>,
    /// Absent once it came.
    drained: Option<Drained>,
    last: Option<T>,
    ended: bool,
}

impl<T: Unpin> Stream for UntilDrain<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        if this.drained.as_mut().is_none_or(|drained| drained.as_mut().poll(cx).is_ready()) {
            this.drained = None;
            if let Some(last) = this.last.take() {
                return Poll::Ready(Some(Ok(last)));
            }
            this.ended = true;
            return Poll::Ready(Some(Err(refusal::draining())));
        }
        this.stream.as_mut().poll_next(cx)
    }
}

/// In whose name the cluster itself is changed, or copied: no agent's.
///
/// # Errors
/// It is an agent's, or as for [`Host::principal_of`].
pub fn person<T>(host: &Host, from: &Request<T>) -> Result<Principal, Status> {
    let principal = host.principal_of(granted(from.extensions()), from.metadata())?;
    if principal.kind() == principal::Kind::Agent {
        let message = "an agent does not change the cluster, nor copy it; act as human:<id>";
        return Err(refusal::coded(ErrorCode::NotPermitted, message));
    }
    Ok(principal)
}

/// An environment named by its id or as `environments/{id}`.
///
/// # Errors
/// It is neither.
pub fn environment<'a>(text: &'a str, field: &str) -> Result<&'a str, Status> {
    if text.starts_with("environments/") {
        return environment_of(text).map_err(refusal::bad_name(field));
    }
    // The id's own rule is the name's; it is asked through a whole name, so that there is one rule.
    match environment_of(&format!("environments/{text}")) {
        Ok(_) => Ok(text),
        Err(error) => Err(refusal::invalid(field, "", error)),
    }
}

/// A resource's name.
///
/// # Errors
/// It has another form.
pub fn name<'a>(text: &'a str, collection: Collection, field: &str) -> Result<Name<'a>, Status> {
    Name::parse(text, collection).map_err(refusal::bad_name(field))
}

/// Opaque place in the log.
#[must_use]
pub fn position(position: u64) -> String {
    if position == 0 { String::new() } else { format!("p{position:x}") }
}

/// A request id, empty or of printable ASCII.
///
/// # Errors
/// It is too long or holds other characters.
pub fn request_id(text: &str) -> Result<String, Status> {
    if text.len() > REQUEST_ID_BYTES_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(refusal::invalid(
            "request_id",
            text,
            format!("must have at most {REQUEST_ID_BYTES_MAX} printable ASCII characters"),
        ));
    }
    Ok(text.to_owned())
}

/// A person's words, bounded.
///
/// # Errors
/// They are too long.
pub fn text(words: &str, field: &str) -> Result<String, Status> {
    if words.len() > TEXT_BYTES_MAX {
        return Err(refusal::invalid(
            field,
            words,
            format!("has {} bytes; say it in at most {TEXT_BYTES_MAX}", words.len()),
        ));
    }
    Ok(words.to_owned())
}

/// A message that a request must hold.
///
/// # Errors
/// It is absent.
pub fn required<T>(message: Option<T>, field: &str) -> Result<T, Status> {
    message.ok_or_else(|| refusal::invalid(field, "", "is required"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;
    use crate::parting::Parting;
    use tokio::sync::{mpsc, watch};
    use tokio_stream::StreamExt as _;
    use tokio_stream::wrappers::ReceiverStream;

    #[tokio::test]
    async fn a_persons_drain_ends_what_watches_and_leaves_a_backup_be_and_the_process_ends_both() {
        let (drain, drains) = watch::channel(false);
        let parting = Parting::default();
        let (sender, watching) = mpsc::channel(4);
        let (to_backup, backing_up) = mpsc::channel(4);
        let drained = Box::pin(host::drained(drains.clone(), &parting));
        let mut watch = until(drained, ReceiverStream::new(watching), None);
        let mut backup = until(Box::pin(host::ended(drains)), ReceiverStream::new(backing_up), None);
        sender.send(Ok(1)).await.unwrap();
        to_backup.send(Ok(1)).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap(), 1);
        parting.begin();
        sender.send(Ok(2)).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
        assert!(watch.next().await.is_none());
        to_backup.send(Ok(2)).await.unwrap();
        assert_eq!(backup.next().await.unwrap().unwrap(), 1);
        assert_eq!(backup.next().await.unwrap().unwrap(), 2);
        to_backup.send(Ok(3)).await.unwrap();
        drain.send(true).unwrap();
        assert_eq!(backup.next().await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
    }

    #[test]
    fn an_environment_is_named_either_way() {
        assert_eq!(environment("production", "environment").unwrap(), "production");
        assert_eq!(environment("environments/production", "environment").unwrap(), "production");
        for text in ["", "environments/", "a/b", "environments/a/b", "é", &"x".repeat(100_000)] {
            let status = environment(text, "parent").unwrap_err();
            assert!(status.message().starts_with("parent: "), "{}", status.message());
            assert!(status.message().len() < 300);
        }
    }

    #[test]
    fn request_ids_and_words_are_bounded() {
        assert!(request_id("").is_ok() && request_id("8a-1").is_ok());
        assert!(request_id("a b").is_err() && request_id(&"x".repeat(129)).is_err());
        assert!(text(&"x".repeat(2_049), "note").is_err());
        assert_eq!((position(0), position(255)), (String::new(), "pff".to_owned()));
    }
}
