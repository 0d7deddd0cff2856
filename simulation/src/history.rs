//! What the clients saw: every request and every answer, as the naive second model and the checkers read it.
//!
//! Only what came over the wire is here, and what a checkpoint read of a node's digest. A checker that needed to look inside the
//! product would repeat its mistakes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use featureops_proto::v1;
use parking_lot::Mutex;

use crate::faults::ScheduledFault;
use crate::moments::Noticed;
use crate::refold::Refolded;

/// One evaluation that was answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluated {
    /// When it was asked and answered, in simulated microseconds.
    pub asked: u64,
    /// See `asked`.
    pub answered: u64,
    /// The client, and which of its connections' lives: versions are compared within one.
    pub client: String,
    /// The machine that was asked.
    pub machine: u64,
    /// Which start of its node answered.
    pub life: u64,
    /// The flag's key.
    pub flag: String,
    /// The unit.
    pub unit: String,
    /// The receipt that was sent back.
    pub sent_receipt: Option<Receipted>,
    /// Whether an exposure was asked for.
    pub exposes: bool,
    /// What came.
    pub answer: v1::EvaluateResponse,
}

/// An earlier answer, by what a client keeps of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipted {
    /// The receipt.
    pub receipt: String,
    /// The variant it came with.
    pub variant: String,
    /// The flag's version it came with.
    pub flag_version: u64,
}

/// A batch of facts that was answered, or never was.
#[derive(Debug, Clone, PartialEq)]
pub struct Reported {
    /// Producer and sequence.
    pub producer: String,
    /// See `producer`.
    pub sequence: u64,
    /// Metric keys of its outcomes, in order; empty for a batch of exposures.
    pub metrics: Vec<String>,
    /// Units of its outcomes, in order.
    pub units: Vec<String>,
    /// (experiment, unit) of its exposures, in order.
    pub exposures: Vec<(String, String)>,
    /// How often it was sent.
    pub sends: u64,
    /// The machines that it was sent to, in order.
    pub machines: Vec<u64>,
    /// Every answer, oldest first.
    pub answers: Vec<v1::ReportFactsResponse>,
    /// It was refused as a whole: the code. It counted nothing.
    pub refused: Option<String>,
}

/// A command of a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commanded {
    /// When it was first sent and when it was answered.
    pub asked: u64,
    /// See `asked`.
    pub answered: u64,
    /// As `trip`.
    pub verb: &'static str,
    /// The flag it was about.
    pub flag: String,
    /// What came of it.
    pub outcome: CommandOutcome,
}

/// What a caller knows of its command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandOutcome {
    /// Acknowledged. The flag's version after it, where the answer says.
    Done(Option<u64>),
    /// Refused, with the reason.
    Refused(String),
    /// Never answered.
    Unknown,
}

/// A read of a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagRead {
    /// When it was asked and answered.
    pub asked: u64,
    /// See `asked`.
    pub answered: u64,
    /// The machine that was asked.
    pub machine: u64,
    /// The answer said that it may lack what was acknowledged elsewhere.
    pub stale: bool,
    /// The flag.
    pub flag: String,
    /// The version that came.
    pub version: u64,
}

/// A sentinel's question to its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The machine.
    pub machine: u64,
    /// Which start of its node.
    pub life: u64,
    /// When it was asked, and when it was given up or answered.
    pub asked: u64,
    /// See `asked`.
    pub answered: u64,
    /// The flag.
    pub flag: String,
    /// The node served all that time, and its machine did not stand still.
    pub owed: bool,
    /// The node could reach no majority.
    pub minor: bool,
    /// The version that came.
    pub version: Option<u64>,
}

/// How a node sees the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The machine.
    pub machine: u64,
    /// When it was asked.
    pub asked: u64,
    /// The term.
    pub term: u64,
    /// Who leads it; 0: nobody is known.
    pub leader: u64,
    /// It says that it leads itself.
    pub leads: bool,
}

/// A node's state at a position, as the node itself digests it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The machine.
    pub machine: u64,
    /// Which start of the node.
    pub life: u64,
    /// Position of the last applied entry.
    pub position: u64,
    /// Digest of the state.
    pub digest: u64,
}

/// What was read from a node after everything was healed and had settled.
#[derive(Debug, Clone, Default)]
pub struct Settled {
    /// Flags with their histories, newest version first.
    pub flags: Vec<(v1::Flag, Vec<v1::FlagVersionRecord>)>,
    /// Experiments, their ledgers and owners.
    pub experiments: Vec<v1::ExperimentStatus>,
    /// Schedules, by name.
    pub schedules: Vec<v1::Schedule>,
    /// Decisions, newest first.
    pub decisions: Vec<v1::Decision>,
    /// Their replays.
    pub replays: Vec<(String, v1::ReplayDecisionResponse)>,
    /// The node's judgement of its audit chain.
    pub audit: Option<v1::VerifyAuditResponse>,
    /// The chain itself, oldest first.
    pub records: Vec<v1::AuditRecord>,
    /// The node's health.
    pub health: Option<v1::NodeHealth>,
    /// What could not be read, and why: after healing, service is demanded.
    pub failures: Vec<String>,
}

/// Whether a unit is on a list: as acknowledged changes say, and as a node says.
#[derive(Debug, Clone)]
pub struct Membership {
    /// The unit.
    pub unit: String,
    /// What the last acknowledged change of it made of it.
    pub expected: bool,
    /// What was answered.
    pub told: bool,
}

/// An erasure that was answered.
#[derive(Debug, Clone)]
pub struct Erased {
    /// The unit.
    pub unit: String,
    /// Arms that it was found in.
    pub stays: u64,
}

/// A click that the eraser's units may have made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasedClick {
    /// The experiment.
    pub experiment: String,
    /// The unit.
    pub unit: String,
}

/// Everything seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Evaluations answered.
    pub evaluations: Vec<Evaluated>,
    /// (flag, unit) of every evaluation that was asked with an exposure, answered or not.
    pub asked: BTreeSet<(String, String)>,
    /// Evaluations that the node answered with an error status, although evaluation is total.
    pub failed_evaluations: Vec<String>,
    /// Batches.
    pub reports: Vec<Reported>,
    /// Commands.
    pub commands: Vec<Commanded>,
    /// Reads of flags.
    pub reads: Vec<FlagRead>,
    /// Answers about the list of a segment.
    pub memberships: Vec<Membership>,
    /// Erasures.
    pub erased: Vec<Erased>,
    /// Of these units the last erasure was not acknowledged, or something of them was sent and never answered: nothing is known.
    pub unsure: BTreeSet<String>,
    /// Clicks of units that are erased: where sums are folded they stay.
    pub erased_clicks: Vec<ErasedClick>,
    /// Faults that were aimed, as they fell.
    pub struck: Vec<ScheduledFault>,
    /// Faults as they fell, on the machine that they fell on.
    pub done: Vec<ScheduledFault>,
    /// The hash of every unit that was named, by the key that the first machine has at the end.
    pub hashes: BTreeMap<String, u64>,
    /// Per machine, what its disk noticed.
    pub noticed: Vec<(u64, Noticed)>,
    /// Questions of sentinels.
    pub probes: Vec<Probe>,
    /// How nodes saw the cluster.
    pub standings: Vec<Standing>,
    /// What the steward brought to its end.
    pub stewarded: Vec<&'static str>,
    /// What in the logs contradicts log matching.
    pub contradictions: Vec<String>,
    /// Digests.
    pub checkpoints: Vec<Checkpoint>,
    /// Starts that a node refused, and why.
    pub refused_starts: Vec<String>,
    /// Nodes that ended by themselves, and why.
    pub ended: Vec<String>,
    /// Per machine, at the end.
    pub settled: Vec<(u64, Settled)>,
    /// Per machine, what its log says.
    pub refolded: Vec<(u64, Refolded)>,
}

/// The shared record. Clones share it.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<Seen>>);

impl History {
    /// Adds to it.
    pub fn write(&self, write: impl FnOnce(&mut Seen)) {
        write(&mut self.0.lock());
    }

    /// All of it, at the end.
    #[must_use]
    pub fn take(&self) -> Seen {
        std::mem::take(&mut self.0.lock())
    }
}
