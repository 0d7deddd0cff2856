//! OFREP's event stream: tells a client to ask again, and nothing else.
//!
//! ```text
//!   id: 4f..                                       the configuration's version; sent back as Last-Event-ID
//!   event: message
//!   data: {"type":"refetchEvaluation","etag":"4f..","lastModified":1790000000}
//!
//!   : keep-alive                                   after 20 s of silence
//! ```
//!
//! The id is a digest of what the client sees, the same on every node. So nothing has to be kept for a replay: a client
//! that comes back with another version than this one is told to ask again at once, wherever it was before.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use featureops_evaluation::{CompiledFlag, Snapshot};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use tokio::sync::mpsc::{self, Sender};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use xxhash_rust::xxh3::Xxh3;

use crate::fronts::changes::Follower;
use crate::fronts::events::{KEEP_ALIVE, expiry};
use crate::fronts::ofrep::{Refusal, query};
use crate::fronts::selector::{HEADER, Scope};
use crate::host::Host;
use crate::publisher::Published;
use crate::services::until_drain;

/// Where the stream is.
pub const EVENTS: &str = "/ofrep/v1/events";
/// After so long a browser's page that nobody looks at may hang up.
pub const INACTIVITY_DELAY_S: u64 = 120;
/// What RFC 3986 leaves unreserved stays as it is.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The version of what a client sees, equal on all nodes that see the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    etag: String,
    /// Unix seconds; 0 where nothing was ever written. Never goes back: what leaves a selection, by its archive, its metadata or
    /// its environment's source, was written then.
    last_modified: i64,
}

impl Version {
    /// Of a publication, as this scope sees it.
    #[must_use]
    pub fn of(published: &Published, scope: &Scope) -> Self {
        let mut digest = Xxh3::new();
        let selection = scope.select(published);
        let nothing = Snapshot::empty();
        let selected = selection.environments().iter();
        let flags = selected.flat_map(|environment| published.snapshot.changed_since(&nothing, environment));
        let environments = published.registry.environments().map(|(id, _)| published.registry.shared(id));
        let times = flags.map(CompiledFlag::update_ms).chain(environments.map(|shared| shared.update_ms()));
        let update_ms = times.max().unwrap_or(0);
        for (key, flag) in selection.flags() {
            digest.update(&(key.len() as u64).to_le_bytes());
            digest.update(key.as_bytes());
            digest.update(&flag.face().to_le_bytes());
        }
        Self { etag: format!("{:016x}", digest.digest()), last_modified: update_ms / 1_000 }
    }

    /// Unix seconds of the last change.
    #[cfg(test)]
    pub(crate) const fn last_modified(&self) -> i64 {
        self.last_modified
    }

    /// Whether a client that was told of this configuration finds it here: what it names is this version, or older by time.
    #[must_use]
    pub fn satisfies(&self, query: &BTreeMap<String, String>) -> bool {
        let same = query.get("flagConfigEtag").is_none_or(|etag| etag.trim_matches('"') == self.etag);
        let modified = query.get("flagConfigLastModified");
        // A time in words is not compared: the answer is sent then, which is never wrong.
        let recent = |time: &String| time.parse::<i64>().is_ok_and(|time| time <= self.last_modified);
        same && modified.is_none_or(recent)
    }
}

/// The stream's address for what this client sees, to be resolved against the one it speaks to.
#[must_use]
pub fn uri(scope: &Scope) -> String {
    let selector = scope.selector();
    if selector.is_empty() {
        return EVENTS.to_owned();
    }
    format!("{EVENTS}?selector={}", utf8_percent_encode(&selector.text(), ESCAPED))
}

/// The endpoint. A browser's event source sends no headers, so the selector may stand in the query.
pub async fn events(State(host): State<Arc<Host>>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let asked = query(&parts).remove("selector");
    if let Some(selector) = asked.and_then(|selector| HeaderValue::try_from(selector).ok()) {
        parts.headers.entry(HEADER).or_insert(selector);
    }
    let scope = match host.fronts.scope(&parts.headers, &parts.extensions, "") {
        Ok(scope) => scope,
        Err(fault) => return Refusal::selector(&fault).response(None),
    };
    let last = parts.headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()).map(str::to_owned);
    let follower = Follower::new(Arc::clone(&host), scope);
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(run(Arc::clone(&host), follower, last, sender));
    // An event stream has no status to end with: it ends, and the client comes back.
    let stream = until_drain(&host, ReceiverStream::new(receiver).map(Ok), None);
    let frames = stream.take_while(Result::is_ok).filter_map(Result::ok).map(Ok::<Bytes, Infallible>);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (StatusCode::OK, headers, Body::from_stream(frames)).into_response()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Refetch<'a> {
    r#type: &'static str,
    etag: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_modified: Option<i64>,
}

fn frame(version: &Version) -> Bytes {
    let last_modified = Some(version.last_modified).filter(|time| *time > 0);
    let data = Refetch { r#type: "refetchEvaluation", etag: &version.etag, last_modified };
    let data = serde_json::to_string(&data).unwrap_or_default();
    format!("id: {}\nevent: message\ndata: {data}\n\n", version.etag).into()
}

async fn run(host: Arc<Host>, mut follower: Follower, last: Option<String>, sender: Sender<Bytes>) {
    let deadline = host.fronts.settings.stream_deadline.map(|deadline| Instant::now() + deadline);
    let version = Version::of(follower.told(), follower.scope());
    let mut next = match last {
        Some(last) if last != version.etag => frame(&version),
        // The id alone, without data, is no event; the client keeps it for when it comes back.
        _ => format!("id: {}\n\n", version.etag).into(),
    };
    loop {
        if sender.send(next).await.is_err() {
            return;
        }
        next = tokio::select! {
            () = sender.closed() => return,
            () = expiry(deadline) => return,
            _ = follower.next() => frame(&Version::of(follower.told(), follower.scope())),
            () = tokio::time::sleep(KEEP_ALIVE) => Bytes::from_static(b": keep-alive\n\n"),
        };
    }
}
