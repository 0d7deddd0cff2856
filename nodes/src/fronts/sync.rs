//! `flagd.sync.v1`: the whole set of flags, for clients that evaluate by themselves; at once, then at every change.
//!
//! ```text
//!   State ── read, export ──> document, once per publication and scope ──> every stream that sees the same
//! ```
//!
//! A document is made of State as it is then, which is never older than the publication it answers for; what State is
//! ahead comes again with its own publication. A client that takes 4 MiB a message, as most do by default, has to be told
//! to take more, or to ask for a part by a selector: the node says so in its log when a document grows beyond.

use std::collections::BTreeMap;
use std::sync::Arc;

use featureops_evaluation::flagd::SyncForm;
use featureops_proto::v1::Flag;
use featureops_proto::{Collection, Name};
use featureops_state::MAX_SEGMENTS;
use prost_types::Struct;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{self, Sender};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::flagd::sync::v1::flag_sync_service_server::FlagSyncService;
use crate::flagd::sync::v1::{
    FetchAllFlagsRequest, FetchAllFlagsResponse, GetMetadataRequest, GetMetadataResponse, SyncFlagsRequest,
    SyncFlagsResponse,
};
use crate::fronts::changes::{Follower, between};
use crate::fronts::events::{expired, expiry};
use crate::fronts::outcome::bad_selector;
use crate::fronts::selector::Scope;
use crate::host::Host;
use crate::publisher::{Published, READ_MAX};
use crate::services::{Streamed, until_drain};

/// Scopes whose documents are kept.
const SCOPES_MAX: usize = 64;
/// What clients of gRPC take in one message by default.
const CLIENT_BYTES_DEFAULT: usize = 4 << 20;

/// The service.
#[derive(Clone)]
pub struct Sync(pub Arc<Host>);

/// The documents that were made, by who sees them.
#[derive(Default)]
pub struct Documents {
    /// A lock each, so that a hundred streams wait for one export and make none themselves.
    made: parking_lot::Mutex<BTreeMap<Scope, Arc<Mutex<Option<Made>>>>>,
}

struct Made {
    of: Arc<Published>,
    document: Arc<str>,
}

impl Documents {
    /// The document of this scope, of this publication or a later one.
    ///
    /// # Errors
    /// The export panicked.
    pub async fn get(
        &self,
        host: &Arc<Host>,
        scope: &Scope,
        of: &Arc<Published>,
    ) -> Result<Arc<str>, Status> {
        let place = {
            let mut made = self.made.lock();
            if made.len() >= SCOPES_MAX && !made.contains_key(scope) {
                // What streams still follow is made again at the next change: dear, and right.
                made.pop_first();
            }
            Arc::clone(made.entry(scope.clone()).or_default())
        };
        let mut made = place.lock().await;
        if let Some(made) = made.as_mut() {
            let newer = made.of.snapshot.position() >= of.snapshot.position();
            if newer || between(scope, &made.of, of).is_empty() {
                return Ok(Arc::clone(&made.document));
            }
        }
        // Of what is published by now, which is no older.
        let now = Arc::clone(&host.publisher.load());
        let (exporter, seen, wanted) = (Arc::clone(host), Arc::clone(&now), scope.clone());
        let document: Arc<str> = host.beside(move || export(&exporter, &wanted, &seen)).await?.into();
        if document.len() > CLIENT_BYTES_DEFAULT {
            tracing::warn!(
                bytes = document.len(),
                selector = scope.selector().text(),
                "a sync document is larger than clients take by default: raise their largest message, or use selectors"
            );
        }
        *made = Some(Made { of: now, document: Arc::clone(&document) });
        Ok(document)
    }
}

/// Writes the document of a scope, page by page.
fn export(host: &Host, scope: &Scope, published: &Published) -> String {
    let selection = scope.select(published);
    let mut document = String::from("{\"flags\":{");
    for environment in selection.environments() {
        let shared = host.replica.read(|state| state.environment(environment));
        let segments = host.replica.read(|state| state.segments(environment, "", MAX_SEGMENTS));
        let form = SyncForm::of(&shared).with_segments(&segments);
        let mut after = String::new();
        loop {
            let (page, below) = host.replica.read(|state| {
                let page = state.flags(environment, &after, READ_MAX, false);
                let below = state.rested_on(environment, &page);
                (page, below)
            });
            let others = |id: &str| below.get(id);
            for flag in &page {
                let Some(id) = id(flag) else { continue };
                // Another environment's flag may stand over it, or the selector leave it out. One that State has and the
                // publication not yet comes with the next.
                let seen = selection.find(id).is_some_and(|seen| seen.environment() == environment);
                if let Some(written) = seen.then(|| form.flag(flag, &others)).flatten() {
                    let comma = if document.ends_with('{') { "" } else { "," };
                    document.push_str(&format!("{comma}{}:{written}", serde_json::Value::from(id)));
                }
            }
            match page.last().and_then(id) {
                // The next page begins strictly later, so this ends.
                Some(last) if page.len() >= READ_MAX && last > after.as_str() => after = last.to_owned(),
                _ => break,
            }
        }
    }
    document.push_str("}}");
    document
}

fn id(flag: &Flag) -> Option<&str> {
    Name::parse(&flag.name, Collection::Flags).ok().map(|name| name.id)
}

impl Sync {
    fn scope<T>(&self, request: Request<T>, selector: impl Fn(T) -> String) -> Result<Scope, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let scope = self.0.fronts.scope(metadata.as_ref(), &extensions, &selector(message));
        scope.map_err(|fault| bad_selector(&fault))
    }

    fn static_context(&self) -> Option<Struct> {
        Some(self.0.fronts.overlay.values().clone())
    }
}

#[tonic::async_trait]
impl FlagSyncService for Sync {
    type SyncFlagsStream = Streamed<SyncFlagsResponse>;

    async fn sync_flags(
        &self,
        request: Request<SyncFlagsRequest>,
    ) -> Result<Response<Self::SyncFlagsStream>, Status> {
        let scope = self.scope(request, |message| message.selector)?;
        let follower = Follower::new(Arc::clone(&self.0), scope);
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(run(Arc::clone(&self.0), follower, self.static_context(), sender));
        Ok(Response::new(until_drain(&self.0, ReceiverStream::new(receiver), None)))
    }

    async fn fetch_all_flags(
        &self,
        request: Request<FetchAllFlagsRequest>,
    ) -> Result<Response<FetchAllFlagsResponse>, Status> {
        let scope = self.scope(request, |message| message.selector)?;
        let published = Arc::clone(&self.0.publisher.load());
        let document = self.0.fronts.documents.get(&self.0, &scope, &published).await?;
        Ok(Response::new(FetchAllFlagsResponse { flag_configuration: document.as_ref().to_owned() }))
    }

    async fn get_metadata(
        &self,
        _request: Request<GetMetadataRequest>,
    ) -> Result<Response<GetMetadataResponse>, Status> {
        if self.0.fronts.settings.disable_sync_metadata {
            return Err(Status::unimplemented("metadata endpoint disabled"));
        }
        Ok(Response::new(GetMetadataResponse { metadata: self.static_context() }))
    }
}

async fn run(
    host: Arc<Host>,
    mut follower: Follower,
    sync_context: Option<Struct>,
    sender: Sender<Result<SyncFlagsResponse, Status>>,
) {
    let deadline = host.fronts.settings.stream_deadline.map(|deadline| Instant::now() + deadline);
    let mut sent: Option<Arc<str>> = None;
    loop {
        // A place first: who reads slowly gets the newest document, not every one.
        let Ok(place) = sender.reserve().await else { return };
        match host.fronts.documents.get(&host, follower.scope(), follower.told()).await {
            Ok(document) => {
                if sent.as_ref() != Some(&document) {
                    let flag_configuration = document.as_ref().to_owned();
                    place.send(Ok(SyncFlagsResponse {
                        flag_configuration,
                        sync_context: sync_context.clone(),
                    }));
                    sent = Some(document);
                }
            }
            Err(status) => return place.send(Err(status)),
        }
        tokio::select! {
            () = sender.closed() => return,
            () = expiry(deadline) => {
                let _ = sender.send(Err(expired())).await;
                return;
            }
            _ = follower.next() => {}
        }
    }
}
