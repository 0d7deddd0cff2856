//! The other nodes: how they are reached, and how they reach this one.
//!
//! ```text
//!   raft ──> network ── append, install ──┐                      ┌── caller checked ── service ──> raft, proposer, facts
//!   proposer ── forward, barrier ─────────┼──> link ~~ HTTP/2 ~~ serve
//!   facts ── ingest                       │      (environment's transport)
//!   members, join ── change, hello ───────┘
//! ```
//!
//! A link is one long-lived channel for what must not wait (votes, heartbeats, barriers), and one for what is long
//! (entries, snapshots, forwarded proposals). Every call has a deadline, every queue a bound. Every call says who
//! asks and whom it means ([`caller`]): a node whose folder was emptied is another incarnation, and what is meant for the
//! one before never reaches it, so that it cannot vote or acknowledge in its name. Members prove that they are such ([`proof`]).
//!
//! What this room must not do: decide. Raft decides who leads, the fold what an entry does.

mod append;
pub mod caller;
pub mod failure;
mod install;
mod link;
pub mod network;
pub mod proof;
mod said;
pub mod serve;
pub mod service;
pub mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use featureops_proto::peer;
use parking_lot::Mutex;
use tonic::Status;
use tonic::transport::Channel;

use crate::environment::{Environment, Listener};
use crate::raft::Identity;
use crate::storage::LogLane;
pub(crate) use install::Receiver;
use link::Links;
pub use link::Use;
pub(crate) use link::was_not_sent;
pub(crate) use proof::Keyring;
use said::{SAY_AGAIN_MS, Said};

/// The stubs.
#[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub)]
pub mod rpc {
    tonic::include_proto!("featureops.peer.v1");
}

pub(crate) type Client = rpc::peer_service_client::PeerServiceClient<Channel>;

/// Level of the peer protocol that this release speaks.
pub const LEVEL: u32 = 2;
/// The level from which on calls are proven.
pub const LEVEL_OF_PROOFS: u32 = 2;
/// Oldest level it still understands.
pub const LEVEL_MIN: u32 = 1;
/// Longest message, in bytes: an entry of 8 MiB, or several of 4 MiB together, and what is around them.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Longest message of a call that nothing proves, in bytes: an address and a token.
pub const UNPROVEN_BYTES_MAX: usize = 64 << 10;
/// A fault that was met longer ago says nothing of now, in milliseconds: well above the time between two calls of a leader or a candidate.
const FAULT_MS_MAX: u64 = 10_000;
/// Clocks of peers that are held.
const CLOCKS_MAX: usize = 256;

/// Where a node listens for its peers: bound once, however often what stands behind it is opened anew.
#[derive(Clone)]
pub struct PeerListener(pub Arc<dyn Listener>);

impl fmt::Debug for PeerListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerListener({:?})", self.0.address().ok())
    }
}

/// What the members share and the log does not hold, as this node holds it now.
#[derive(Clone)]
pub struct Secret(pub Arc<dyn Fn() -> Option<Vec<u8>> + Send + Sync>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What a node shows that asks to be let in, read anew at each attempt, so that a file may be replaced meanwhile.
#[derive(Clone)]
pub struct JoinToken(pub Arc<dyn Fn() -> Result<String, String> + Send + Sync>);

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken")
    }
}

/// Whether an address is this machine's own, by its form: what goes there nobody else's network carries.
#[must_use]
pub fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whom a call means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its number; 0: whoever is at the address.
    pub node: u64,
    /// Its incarnation; 0: any.
    pub incarnation: u64,
    /// A host and a port.
    pub address: String,
}

impl Target {
    /// Whoever is there.
    #[must_use]
    pub fn anybody(address: &str) -> Self {
        Self { node: 0, incarnation: 0, address: address.to_owned() }
    }
}

/// What was heard of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Its wall clock, in unix milliseconds.
    pub clock_ms: i64,
    /// Of its present life.
    pub boot: u64,
    /// When, by this node's monotonic clock, in milliseconds.
    pub at_ms: u64,
}

struct Inner {
    environment: Environment,
    node: u64,
    incarnation: u64,
    boot: u64,
    cluster: AtomicU64,
    /// Let go of at the end, so that the lane ends.
    lane: Mutex<Option<LogLane>>,
    links: Links,
    keyring: Keyring,
    heard: Mutex<BTreeMap<u64, Heard>>,
    /// Why a peer refuses this node, or cannot be reached, in words, and when it was so last; absent while it answers.
    faults: Mutex<BTreeMap<u64, (String, u64)>>,
    /// When a reason was said last of a peer, in milliseconds of this process.
    said: Mutex<Said>,
    /// Who calls this node under an incarnation that it is not, as a member of another cluster; and when, by this process.
    strangers: Mutex<Option<(String, u64)>>,
}

/// The other nodes as this one reaches them; clones share the links.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

impl Peers {
    /// No link yet; each is made when it is needed.
    #[must_use]
    pub(crate) fn new(
        environment: Environment,
        identity: Identity,
        boot: u64,
        lane: LogLane,
        keyring: Keyring,
    ) -> Self {
        Self(Arc::new(Inner {
            links: Links::new(Arc::clone(&environment.transport), Arc::clone(&environment.clock)),
            environment,
            keyring,
            node: identity.node,
            incarnation: identity.incarnation,
            boot,
            cluster: AtomicU64::new(identity.cluster),
            lane: Mutex::new(Some(lane)),
            heard: Mutex::default(),
            faults: Mutex::default(),
            said: Mutex::default(),
            strangers: Mutex::default(),
        }))
    }

    /// Who this node is, now.
    pub(crate) fn identity(&self) -> Identity {
        let cluster = self.0.cluster.load(Ordering::Acquire);
        Identity { cluster, node: self.0.node, incarnation: self.0.incarnation }
    }

    /// Of this life: drawn when it was opened, never 0.
    pub(crate) fn boot(&self) -> u64 {
        self.0.boot
    }

    /// Enters a cluster: durable when this returns.
    pub(crate) async fn enter(&self, cluster: u64) -> io::Result<()> {
        let lane = self.0.lane.lock().clone();
        let lane = lane.ok_or_else(|| io::Error::other("this node is shutting down"))?;
        lane.enter(cluster).await?;
        self.0.cluster.store(cluster, Ordering::Release);
        Ok(())
    }

    /// The key by which members know each other.
    pub(crate) fn keyring(&self) -> &Keyring {
        &self.0.keyring
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.0.environment
    }

    /// Forgets a cluster that never began; the mark follows with the next one that is entered.
    pub(crate) fn leave(&self) {
        self.0.cluster.store(0, Ordering::Release);
    }

    pub(crate) fn clock_ms(&self) -> i64 {
        self.0.environment.clock.unix_ms()
    }

    pub(crate) fn monotonic_ms(&self) -> u64 {
        self.0.environment.clock.monotonic_ms()
    }

    /// A client over the link to an address. `what` is kept apart from the other use.
    pub(crate) fn client(&self, address: &str, what: Use) -> Client {
        Client::new(self.0.links.channel(address, what))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// A request that says who asks, and whom it means.
    pub(crate) fn request<T>(&self, target: &Target, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        let Identity { cluster, node, incarnation } = self.identity();
        let mut caller = peer::Caller {
            cluster,
            node,
            incarnation,
            level: LEVEL,
            to_node: target.node,
            to_incarnation: target.incarnation,
            proof: Vec::new(),
        };
        if let Some(key) = self.0.keyring.key() {
            caller.proof = key.proof(&caller);
        }
        caller::write(&caller, request.metadata_mut());
        request
    }

    /// Makes a call, at most `within` long.
    ///
    /// # Errors
    /// The peer's status, or one of this node's for a deadline or a link that broke.
    pub(crate) async fn call<T>(
        &self,
        target: &Target,
        within: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Status> {
        let answered = tokio::time::timeout(within, call).await.unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(format!("no answer within {} ms", within.as_millis())))
        });
        match answered {
            Ok(response) => {
                self.well(target.node);
                Ok(response.into_inner())
            }
            Err(status) => {
                self.fault(target, &status);
                Err(status)
            }
        }
    }

    /// Notes that a peer answered.
    pub(crate) fn well(&self, node: u64) {
        self.0.faults.lock().remove(&node);
    }

    /// Notes why a peer does not answer; each reason is said once in [`SAY_AGAIN_MS`].
    pub(crate) fn fault(&self, target: &Target, status: &Status) {
        if target.node == 0 {
            return;
        }
        let text = match status.code() {
            tonic::Code::FailedPrecondition => status.message().to_owned(),
            _ => format!("{} does not answer: {}", target.address, cause(status)),
        };
        if self.is_news(target.node, &text) {
            tracing::warn!(peer = target.node, why = text, "a peer is not reached");
        }
        let mut faults = self.0.faults.lock();
        if faults.len() < CLOCKS_MAX || faults.contains_key(&target.node) {
            faults.insert(target.node, (text, self.monotonic_ms()));
        }
    }

    /// Whether a reason was not said lately of a peer.
    fn is_news(&self, node: u64, text: &str) -> bool {
        let now_ms = self.monotonic_ms();
        self.0.said.lock().is_news(node, text, now_ms)
    }

    /// Why a peer does not answer, if it was lately found not to: a follower hardly ever calls, so what it found once may be long
    /// mended.
    pub(crate) fn fault_of(&self, node: u64) -> Option<String> {
        let now_ms = self.monotonic_ms();
        let faults = self.0.faults.lock();
        let lately = faults.get(&node).filter(|(_, at_ms)| now_ms.saturating_sub(*at_ms) <= FAULT_MS_MAX);
        lately.map(|(text, _)| text.clone())
    }

    /// Notes a call for the node that was at this address before: this one founded another cluster then. It is the caller's word, and
    /// nothing proves it: who looks at it knows what else there is to this cluster.
    pub(crate) fn called_as_before(&self, caller: &peer::Caller) {
        let own = self.identity();
        let meant = caller.to_node == own.node && caller.to_incarnation != 0;
        let founded = own.cluster != 0 && own.cluster == own.incarnation;
        if !meant || !founded || caller.to_incarnation == own.incarnation || caller.cluster == own.cluster {
            return;
        }
        let text = format!(
            "node {} of cluster {:016x} calls node {} under incarnation {:016x}, and this one, {:016x}, made a cluster of its own: \
             its data folder was emptied, it was restored from a backup, or another node has its number and address",
            caller.node, caller.cluster, own.node, caller.to_incarnation, own.incarnation
        );
        if self.is_news(caller.node, &text) {
            tracing::warn!(why = text, "this node is called by what it is not (featureops doctor)");
        }
        *self.0.strangers.lock() = Some((text, self.monotonic_ms()));
    }

    /// Who called lately for the node of before.
    pub(crate) fn estranged(&self) -> Option<String> {
        let strangers = self.0.strangers.lock();
        let (text, at_ms) = strangers.as_ref()?;
        (self.monotonic_ms().saturating_sub(*at_ms) < SAY_AGAIN_MS).then(|| text.clone())
    }

    /// Notes a peer's clock, and in which life it is.
    pub(crate) fn heard(&self, node: u64, clock_ms: i64, boot: u64) {
        let heard = Heard { clock_ms, boot, at_ms: self.monotonic_ms() };
        let mut all = self.0.heard.lock();
        if all.len() < CLOCKS_MAX || all.contains_key(&node) {
            all.insert(node, heard);
        }
    }

    /// What was last heard of a peer.
    pub(crate) fn heard_of(&self, node: u64) -> Option<Heard> {
        self.0.heard.lock().get(&node).copied()
    }

    /// Lets go of every link, and of the lane.
    pub(crate) fn close(&self) {
        self.0.lane.lock().take();
        self.0.links.close();
    }
}

/// The innermost reason of a status: the transport's own message says only that there was one.
fn cause(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}
