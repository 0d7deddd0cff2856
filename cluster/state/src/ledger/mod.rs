//! The unit ledger of one experiment: who was exposed to what and when, and what came of it, exactly.
//!
//! ```text
//!   exposure ──> row (12 B) ──> units of (stratum, arm)
//!   outcome  ──> entry or seen bit of the unit ──> moments of (stratum, arm), in O(1)
//!
//!   too many entries ──> their sums fold into hash clusters: moments of clusters from then on
//!   too many rows    ──> the upper half of the hash space leaves, with all that it had
//! ```
//!
//! Owners read only the moments. The analysis unit is the unit: its repeated events never inflate n. What is dropped is
//! counted, with a verdict.

mod adding;
mod clusters;
mod covariates;
mod entries;
mod erase;
mod fold;
mod marks;
mod ordered;
mod packing;
mod pages;
mod rows;
mod run;
mod sample;
mod series;
mod shape;
mod strata;
mod table;
mod waiting;

pub use clusters::Clusters;
pub use erase::Erased;
pub use fold::LEAST_KEPT;
pub use marks::Marks;
pub use packing::{PACKED_FROM, pack, unpack};
pub use rows::{Row, Rows};
pub use run::Event;
pub use sample::{Group, MAX_DIMENSION_BYTES, MAX_DIMENSIONS, MAX_SAMPLED, Sample};
pub use series::{HOURS as SERIES_HOURS, Series, SeriesCell};
pub use shape::{MAX_COVARIATES, MAX_PRODUCTS, NO_CAP, Shape};
pub use strata::{Cell, Strata, Stratum};
pub use table::{Exposed, Ledger, SHARDS, Shard, Side};
pub use waiting::{Held, Waiting};

use featureops_proto::v1;
use prost::Message as _;

/// XXH3-64 over the canonical encoding of strata: what a decision's inputs are compared by.
#[must_use]
pub fn strata_digest(strata: &[v1::Stratum]) -> u64 {
    let mut bytes = Vec::new();
    for stratum in strata {
        // Writing to a Vec has no other failure than running out of memory.
        let _ = stratum.encode_length_delimited(&mut bytes);
    }
    xxhash_rust::xxh3::xxh3_64(&bytes)
}
