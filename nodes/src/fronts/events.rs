//! `EventStream`, of both versions: what clients wait for before they are ready, and by which they drop what they cached.
//!
//! ```text
//!   provider_ready             at once
//!   configuration_change       what changed in the last day, then every change (see `changes`)
//!   keep_alive                 after 20 s of silence
//!   provider_shutdown          when the node drains
//!   DEADLINE_EXCEEDED          when the stream has lasted as long as it may
//! ```
//!
//! A client that comes back cannot say what it last heard, and some keep STATIC answers over a lost connection: so every
//! stream begins with what changed lately. To a new client that is a hint to look again, no more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Extensions, HeaderMap};
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use tokio::sync::mpsc::{self, Sender};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::fronts::changes::{Change, Follower};
use crate::fronts::outcome::bad_selector;
use crate::host::Host;
use crate::services::{Streamed, until_drain};

/// Silence after which a sign of life is sent.
pub const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Keys of one message: clients take 4 MiB of it by default, and a key has 128 bytes at most.
const KEYS_MAX: usize = 10_000;

/// One message of the stream, before a version writes it.
pub struct Event {
    /// flagd's word for it.
    pub name: &'static str,
    /// Only of `configuration_change`.
    pub data: Option<Struct>,
}

impl Event {
    const fn bare(name: &'static str) -> Self {
        Self { name, data: None }
    }

    /// `{"flags": {key: {"type": "write" | "update" | "delete"}}}`, in as many messages as clients can take.
    fn changes(changes: &BTreeMap<String, Change>) -> Vec<Self> {
        let object =
            |fields: BTreeMap<String, Value>| Value { kind: Some(Kind::StructValue(Struct { fields })) };
        let entry = |(key, change): &(&String, &Change)| {
            ((*key).clone(), object([("type".to_owned(), Value::from(change.as_str()))].into()))
        };
        let changes: Vec<_> = changes.iter().collect();
        let message = |keys: &[(&String, &Change)]| {
            let flags = object(keys.iter().map(entry).collect());
            let data = Some(Struct { fields: [("flags".to_owned(), flags)].into() });
            Self { name: "configuration_change", data }
        };
        changes.chunks(KEYS_MAX).map(message).collect()
    }
}

/// The stream of one client.
///
/// # Errors
/// Its selector cannot be read.
pub fn stream<T: From<Event> + Send + Unpin + 'static>(
    host: &Arc<Host>,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Result<Streamed<T>, Status> {
    let scope = host.fronts.scope(headers, extensions, "").map_err(|fault| bad_selector(&fault))?;
    let follower = Follower::new(Arc::clone(host), scope);
    // Of one: what is not taken waits in the follower, as a difference.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(run(follower, sender, host.fronts.settings.stream_deadline));
    let last = T::from(Event::bare("provider_shutdown"));
    Ok(until_drain(host, ReceiverStream::new(receiver), Some(last)))
}

async fn run<T: From<Event>>(
    mut follower: Follower,
    sender: Sender<Result<T, Status>>,
    deadline: Option<Duration>,
) {
    let deadline = deadline.map(|deadline| Instant::now() + deadline);
    let recent = follower.recent();
    let mut events = vec![Event::bare("provider_ready")];
    events.extend(Event::changes(&recent));
    loop {
        for event in events {
            if sender.send(Ok(event.into())).await.is_err() {
                return;
            }
        }
        events = tokio::select! {
            () = sender.closed() => return,
            () = expiry(deadline) => {
                let _ = sender.send(Err(expired())).await;
                return;
            }
            changes = follower.next() => Event::changes(&changes),
            () = tokio::time::sleep(KEEP_ALIVE) => vec![Event::bare("keep_alive")],
        };
    }
}

/// Comes when the stream has lasted as long as it may; never without a deadline.
pub async fn expiry(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What the client is told then.
#[must_use]
pub fn expired() -> Status {
    Status::deadline_exceeded("stream closed due to server-side timeout")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_keys_come_in_several_messages_and_none_is_lost() {
        let changes: BTreeMap<_, _> =
            (0..KEYS_MAX * 2 + 1).map(|n| (format!("flag-{n}"), Change::Update)).collect();
        let events = Event::changes(&changes);
        assert_eq!(events.len(), 3);
        let keys = events.iter().flat_map(|event| {
            let Some(Kind::StructValue(flags)) = &event.data.as_ref().unwrap().fields["flags"].kind else {
                panic!("no flags")
            };
            flags.fields.keys().cloned().collect::<Vec<_>>()
        });
        assert!(keys.eq(changes.keys().cloned()));
        assert!(Event::changes(&BTreeMap::new()).is_empty());
    }
}
