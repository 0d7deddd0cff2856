//! The members of the cluster as people see them: who belongs to it, since when, and by whose word.
//!
//! Raft's own entries decide who votes; these never reach the fold. A node notes here what they came to, so that it is in the
//! audit and in every snapshot.

use featureops_proto::log::{MemberRecord, MembersRecord};

use crate::State;

/// Members of a cluster.
pub const MAX_MEMBERS: usize = 64;
/// Longest address, in bytes.
pub const MAX_ADDRESS_BYTES: usize = 255;

impl State {
    /// The members noted last, by rising numbers.
    #[must_use]
    pub fn members(&self) -> &[MemberRecord] {
        &self.members.members
    }

    /// Index of the entry by which they came into force; 0: none were noted.
    #[must_use]
    pub fn members_index(&self) -> u64 {
        self.members.index
    }

    /// What a snapshot holds of them; nothing while none were noted.
    pub(crate) fn members_record(&self) -> Option<&MembersRecord> {
        (self.members.index > 0).then_some(&self.members)
    }
}
