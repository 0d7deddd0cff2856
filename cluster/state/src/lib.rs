//! The replicated fold: what the log means.
//!
//! Every node applies the same entries in the same order and holds the same [`State`]. `apply` is a function of the
//! state and the entry alone: it reads no clock and no RNG, iterates no hash map, uses checked integers, and calls no
//! transcendental. What it refuses it refuses as data ([`Reply`]), on every replica alike. What must never happen is a
//! [`Violation`]: it stops the fold, and the process goes on serving what was good.
//!
//! ```text
//!   entry bytes ── Command::decode ──> apply/<family>.rs ──> Reply   to whoever proposed it
//!                                           │
//!                                           ├──> Effect  to this node's publisher and owners
//!                                           └──> audit   hash-linked, gap-free
//! ```

#![forbid(unsafe_code)]

mod allocation;
mod apply;
mod audit;
mod budgets;
mod clock;
mod command;
mod covariates;
mod decisions;
mod dimensions;
mod effect;
mod environments;
mod experiments;
mod feature_levels;
mod flags;
mod forwarded;
mod invariant;
mod layers;
mod ledger;
mod ledger_view;
mod levels;
pub mod liveness;
mod members;
mod metrics;
mod oversight;
pub mod placement;
mod prerequisites;
mod producers;
mod ramps;
mod requests;
mod restored;
mod schedules;
mod segments;
mod shares;
mod snapshot;
mod state;
mod sticky;
mod tokens;
mod view;

pub use allocation::{BUCKETS, MAX_RUNS, initial_weights, move_buckets, runs_of, weights_of};
pub use audit::hash_of as audit_hash;
pub use command::{Command, DecodeError, MAX_ENTRY_BYTES};
pub use effect::Effect;
pub use environments::{MAX_ENVIRONMENTS, MAX_IMPORT_BYTES};
pub use feature_levels::{
    FEATURE_LEVEL, FEATURE_LEVELS, FIRST_FEATURE_LEVEL, check_known as check_feature_level,
};
pub use featureops_proto::log::Reply;
pub use flags::{History, LEAST_HISTORY, MAX_HISTORY, MAX_HISTORY_BYTES};
pub use invariant::{Invariant, Violation};
pub use ledger::{Group, MAX_DIMENSION_BYTES, MAX_DIMENSIONS, SERIES_HOURS, SeriesCell, strata_digest};
pub use ledger_view::{LedgerUsage, PeriodView, SampleView, SeriesView};
pub use members::{MAX_ADDRESS_BYTES, MAX_MEMBERS};
pub use producers::{is_node_producer, node_producer};
pub use restored::Restoration;
pub use segments::{MAX_CHANGED as MAX_SEGMENT_UNITS_CHANGED, MAX_SEGMENTS, Shards};
pub use snapshot::{Section, SectionDigest, SectionStream, SnapshotError};
pub use state::State;
pub use tokens::{JoinRefused, KEY_ID_DIGITS, MAX_TOKENS, SECRET_HASH_BYTES, expire_ms as token_expire_ms};
pub use view::{ArmTotals, ExperimentView, OwnerView};
