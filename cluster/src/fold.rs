//! The seam between the log and what it means: a pure fold over entries.
//!
//! The room `cluster/state` holds the fold of the product; tests bring smaller ones.

use std::fmt;

use featureops_proto::log::{ClusterMember, Reply};

/// A broken invariant: the fold met an entry that it must not apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Number and name of the invariant.
    pub invariant: String,
    /// What was found.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// Where the fold stopped, and why. It stays stopped over restarts, until the log or the binary is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halted {
    /// The entry that was not applied.
    pub position: u64,
    /// What it broke.
    pub violation: Violation,
}

impl fmt::Display for Halted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the fold stopped at position {}: {}", self.position, self.violation)
    }
}

/// A deterministic state: the same entries in the same order give the same state, replies and effects on every node.
///
/// `Clone` is taken for each snapshot while entries go on being applied, so it should share its large parts.
pub trait Fold: Clone + Send + Sync + 'static {
    /// What an applied entry lets the rest of the node know.
    type Effect: Send + Sync + 'static;

    /// Applies the entry at `position` and pushes what follows from it.
    ///
    /// # Errors
    /// A broken invariant. What is served must then be as it was before; the rest of the state may hold a part of the entry,
    /// for nothing is applied to it any more and no snapshot is taken of it.
    fn apply(
        &mut self,
        position: u64,
        entry: &[u8],
        effects: &mut Vec<Self::Effect>,
    ) -> Result<Reply, Violation>;

    /// Refuses an entry that a peer handed over and that none of this node's own would be: in the log it would stop the fold.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    fn inspect(_entry: &[u8]) -> Result<(), String> {
        Ok(())
    }

    /// By which token a node that shows `token` (empty: none) is let in; an empty name where nobody asks for one.
    ///
    /// # Errors
    /// Why it is not let in, and the way out.
    fn admits(&self, _token: &str) -> Result<String, String> {
        Ok(String::new())
    }

    /// The entry that says that the members now are these, by a node that the token of this name let in; none where nobody tells it.
    fn admission(_token: &str, _index: u64, _members: Vec<ClusterMember>) -> Option<Vec<u8>> {
        None
    }

    /// The state as bytes, the same on every node.
    fn encode(&self) -> Vec<u8>;

    /// The state that [`Fold::encode`] wrote.
    ///
    /// # Errors
    /// Why the bytes are not such a state.
    fn decode(bytes: &[u8]) -> Result<Self, String>;

    /// Takes over from the state before it what no encoding holds.
    ///
    /// # Errors
    /// Why this state may not stand here: it is of a feature level that this build does not know.
    fn adopt(&mut self, _before: &Self) -> Result<(), String> {
        Ok(())
    }

    /// The feature level that the cluster is at; 0: the fold knows none.
    fn feature_level(&self) -> u32 {
        0
    }

    /// The highest feature level that this build's fold knows.
    fn feature_level_max(&self) -> u32 {
        0
    }
}

/// Hears of applied entries, on the path that applies them.
///
/// Both calls come while the state is locked for writing, in the order of positions. So whoever reads the state at some
/// position finds that this sink was told of every entry up to it, and whoever wants to publish a position without
/// missing a change takes what the sink was told, position and effects together, and then reads the state.
///
/// In return a sink must not block, must not read the state other than by its argument, must not call back into the
/// cluster, and must not wait for a lock whose holder reads the state: each of these is a deadlock.
pub trait EffectSink<F: Fold>: Send + Sync + 'static {
    /// The entry at `position` was applied to the fold; called for each one, also without effects, before its proposer is
    /// answered and before anybody can read `state`. Entries of raft's own never reach the fold and are not told.
    fn applied(&self, state: &F, position: u64, effects: &[F::Effect]);

    /// The whole state was replaced by a snapshot taken at `position`; called before anybody can read `state`.
    fn installed(&self, state: &F, position: u64);
}

/// Hears nothing.
pub struct NoSink;

impl<F: Fold> EffectSink<F> for NoSink {
    fn applied(&self, _state: &F, _position: u64, _effects: &[F::Effect]) {}
    fn installed(&self, _state: &F, _position: u64) {}
}
