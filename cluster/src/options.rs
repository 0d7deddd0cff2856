//! How a node of the cluster behaves; every number has a default that suits one site.

use openraft::SnapshotPolicy;

use crate::peer::proof::PeerKeys;
use crate::peer::{JoinToken, PeerListener, Secret};

/// Options of one node.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node's number, kept in its data folder from the first start.
    pub node: u64,
    /// Where peers reach it, a host and a port.
    pub address: String,
    /// Whether a node with an empty folder makes a cluster of its own, with itself as the one voter.
    pub initialize: bool,
    /// Where it listens for peers; without it it has none.
    pub listener: Option<PeerListener>,
    /// What it hands to a member that asks over loopback or TLS.
    pub secret: Option<Secret>,
    /// The release of this node's build, as it tells its peers.
    pub release: String,
    /// Where it keeps the key by which members prove who they are; without it the cluster believes whoever calls.
    pub peer_keys: Option<PeerKeys>,
    /// Whether nobody reads along on the way between nodes, wherever they are: keys are then handed over beyond loopback, too.
    pub secured: bool,
    /// What it shows to be let in, where that is asked for.
    pub join_token: Option<JoinToken>,
    /// Addresses of nodes that a node outside any cluster asks to let it in.
    pub join: Vec<String>,
    /// Entries after which a snapshot is taken.
    pub snapshot_after_entries: u64,
    /// Bytes of entries after which one is taken, when the last one is not larger; then after as many as that has.
    pub snapshot_after_bytes: u64,
    /// Entries kept in the log behind a snapshot, for peers that lag a little.
    pub keep_entries: u64,
    /// Bytes of these kept at least, and of larger ones not much more: for peers that lag a little.
    pub keep_bytes: u64,
    /// Time between two heartbeats, in milliseconds.
    pub heartbeat_ms: u64,
    /// A follower stands for election after this time without a leader, at the earliest and at the latest.
    pub election_ms: (u64, u64),
    /// Entries in flight.
    pub proposals_max: usize,
    /// Bytes of entries in flight.
    pub proposal_bytes_max: usize,
    /// Time one proposal or read barrier may take, in milliseconds.
    pub propose_timeout_ms: u64,
    /// Time between two ticks of the leader, in milliseconds.
    pub tick_ms: u64,
    /// How far the wall clock may be from the time since start before the leader ticks by the latter, in milliseconds.
    pub clock_off_ms_max: u64,
    /// Fact batches that may wait to be coalesced.
    pub fact_batches_max: usize,
    /// Longest wait of facts for the first tick after a start, in milliseconds; then they are refused, to be sent again.
    pub fact_hold_ms_max: u64,
    /// Longest wait for more facts, in milliseconds; only while other facts are being written.
    pub fact_linger_ms: u64,
    /// Events at which a fact command is proposed without waiting for more.
    pub fact_events_enough: usize,
    /// Events of one fact command, when so many wait already: the fold takes many at once faster than one by one.
    pub fact_events_max: usize,
    /// Fact commands in flight: few, so that what comes meanwhile is gathered, and that, at 4 MiB each at most, most of the bytes
    /// in flight stay for others.
    pub fact_commands_max: usize,
}

impl Options {
    /// The defaults of node `node`, reached at `address`.
    #[must_use]
    pub fn new(node: u64, address: impl Into<String>) -> Self {
        Self {
            node,
            address: address.into(),
            initialize: true,
            listener: None,
            secret: None,
            release: String::new(),
            peer_keys: None,
            secured: false,
            join_token: None,
            join: Vec::new(),
            snapshot_after_entries: 20_000,
            snapshot_after_bytes: 8 << 20,
            keep_entries: 1_000,
            keep_bytes: 1 << 20,
            heartbeat_ms: 100,
            election_ms: (250, 450),
            proposals_max: 4_096,
            proposal_bytes_max: 64 << 20,
            propose_timeout_ms: 5_000,
            tick_ms: 500,
            clock_off_ms_max: 5_000,
            fact_batches_max: 4_096,
            fact_hold_ms_max: 2_000,
            fact_linger_ms: 5,
            fact_events_enough: 512,
            fact_events_max: 4_096,
            fact_commands_max: 4,
        }
    }

    pub(crate) fn raft(&self) -> Result<openraft::Config, openraft::ConfigError> {
        openraft::Config {
            cluster_name: "featureops".to_owned(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_ms.0,
            election_timeout_max: self.election_ms.1,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_after_entries),
            max_in_snapshot_log_to_keep: self.keep_entries,
            purge_batch_size: (self.snapshot_after_entries / 8).clamp(1, 256),
            replication_lag_threshold: self.snapshot_after_entries.saturating_add(5_000),
            enable_pre_vote: Some(true),
            // Entries go to the followers before this node's own disk has them. A leader that lost its unsynced ones and led on in
            // its old term would write others under the same index and term: two logs that hold each other for equal.
            enable_leader_restore: Some(false),
            ..openraft::Config::default()
        }
        .validate()
    }
}
