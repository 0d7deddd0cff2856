//! Replication: the log, its disk, and the state it folds into, on one node of the cluster.
//!
//! ```text
//!   propose(entry), ingest(batch)          read, frozen, applied, linearizable, health
//!        |                                       ^
//!   proposer, facts, ticker                      |
//!        |                                       |
//!      openraft ---- raft/machine ---- fold (cluster/state) ---- EffectSink        peer: the other nodes
//!        |                 |
//!   raft/log_store     raft/snapshots
//!        |                 |
//!     LogLane          ValueLane            one sync serves every waiting write
//!        |                 |
//!   log + marks          values             storage/, the ports and what stands behind them
//! ```
//!
//! Everything from outside (clock, chance, disk, network, threads) comes in through [`environment::Environment`].

#![forbid(unsafe_code)]

pub mod cluster;
mod entrust;
pub mod environment;
pub mod facts;
pub mod fold;
mod forward;
mod join;
pub mod member;
pub mod members;
pub mod options;
pub mod peer;
pub mod proposer;
pub mod raft;
pub mod restore;
mod state;
pub mod storage;
mod survey;
mod ticker;
mod trim;

pub use cluster::{Cluster, Health, StartError, Waits};
pub use crc32fast::hash as crc32;
pub use environment::Environment;
pub use fold::{EffectSink, Fold, Halted, NoSink, Violation};
pub use member::Member;
pub use members::{Change, ChangeError, MemberHealth, Newcomer};
pub use options::Options;
pub use peer::proof::{PEER_KEY_BYTES, PeerKey, PeerKeyStore, PeerKeys};
pub use peer::{JoinToken, PeerListener};
pub use proposer::ProposeError;
pub use state::LAYOUT;
pub use survey::Surveyed;
