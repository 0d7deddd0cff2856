//! What the shells ask of the rest of the node. The node implements these; the shells never see how.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use featureops_decision::chance::Chance;
use featureops_decision::owner::FrozenView;
use featureops_proto::{ErrorCode, log, v1};

use crate::mind::Minds;

/// An answer on its way.
pub type Submission = Pin<Box<dyn Future<Output = Answer> + Send>>;
/// Work that occupies a core for a while.
pub type Work = Box<dyn FnOnce() + Send>;
/// The end of such work.
pub type Worked = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A decision with the stamp that apply fences by.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// Number of the experiment.
    pub experiment: u32,
    /// Owner epoch, sequence, and the flag version it was decided on.
    pub stamp: log::OwnerStamp,
    /// The record.
    pub decision: v1::Decision,
}

/// What became of a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Committed, and it took effect as recorded.
    Accepted,
    /// Committed as a refusal.
    Refused(ErrorCode),
    /// No answer: it may or may not be committed. The same sequence may be proposed again, and is answered once.
    Unknown,
}

/// The way into the log. Bounded by its implementation.
pub trait Proposer: Send + Sync + 'static {
    /// Proposes the decision. The future may be dropped; the outcome is then unknown.
    fn submit(&self, proposal: Proposal) -> Submission;
}

/// What an owner reads at each look.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnerView {
    /// The frozen position, with the epoch of the assignment in force.
    pub frozen: FrozenView,
    /// The experiment's seed.
    pub seed: u64,
}

/// Reads of the committed state.
pub trait Views: Send + Sync + 'static {
    /// What the owner of the experiment may know, as last frozen; nothing when there is no such experiment.
    fn owner_view(&self, experiment: u32) -> Option<OwnerView>;
}

/// The node's clock.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds of unix time. It stamps notes only: every rule reads log time from the view.
    fn now_ms(&self) -> i64;
}

/// Where minds think: off the threads that serve evaluations in production, inline in simulation.
pub trait Compute: Send + Sync + 'static {
    /// Runs the work to its end. Work that is never run ends the owner that asked for it, as a crash.
    fn run(&self, work: Work) -> Worked;
}

/// Thinks where it stands. For tests and simulation: a simulated machine has one core.
#[derive(Debug, Clone, Copy, Default)]
pub struct Inline;

impl Compute for Inline {
    fn run(&self, work: Work) -> Worked {
        Box::pin(async move { work() })
    }
}

/// All ports of one node's owners.
#[derive(Clone)]
pub struct Ports {
    /// The way into the log.
    pub proposer: Arc<dyn Proposer>,
    /// Reads of the committed state.
    pub views: Arc<dyn Views>,
    /// The node's clock.
    pub clock: Arc<dyn Clock>,
    /// Where minds think.
    pub compute: Arc<dyn Compute>,
    /// Where minds come from.
    pub minds: Arc<dyn Minds>,
}

/// The chance of one step: a function of what the log knows, so that a restarted owner, or the next one, draws the same.
#[must_use]
pub fn chance_of(seed: u64, epoch: u64, sequence: u64) -> Chance {
    // Each word is drawn through the generator before the next is mixed in: neighbours share no stream.
    let mut mixed = Chance::from_seed(seed).bits();
    mixed = Chance::from_seed(mixed ^ epoch).bits();
    mixed = Chance::from_seed(mixed ^ sequence).bits();
    Chance::from_seed(mixed)
}
