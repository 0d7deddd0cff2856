//! Defects that a plant gives a whole disk, as a product with the bug would use it.

use featureops_cluster::storage::Mark;
use featureops_cluster::storage::held::{Entries, Pairs};

use crate::leak::Repeats;

/// What is wrong with a disk, for good.
#[derive(Default)]
pub enum Defect {
    /// Nothing.
    #[default]
    None,
    /// A loss of power takes the last vote with it: a node that does not wait for its vote.
    ForgetsVotes,
    /// The next loss of power takes everything back to a copy that was made before: a node that acknowledges before its disk does.
    RollsBack(Option<Box<Copied>>),
    /// Batches that repeat are read under another producer's name: a replica without deduplication.
    ForgetsRepeats(Repeats),
}

/// A disk as it was.
pub struct Copied {
    /// The log.
    pub entries: Entries,
    /// The values.
    pub values: Pairs,
    /// The mark.
    pub mark: Option<Mark>,
}
