//! Who uses the world: services that evaluate and report, a crowd that fills ledgers, an operator who changes things, a steward who
//! runs the cluster, sentinels and a witness who look on, an auditor who reads at the end.
//!
//! All of them are ordinary clients over the wire. What they do is drawn from the seed; what they see goes into the history.

pub mod auditor;
pub mod crowd;
pub mod eraser;
pub mod lister;
pub mod operator;
pub mod sentinel;
pub mod service;
pub mod steward;
pub mod witness;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use featureops_proto::{Collection, Name};

use crate::caller::Caller;
use crate::chronicle::Chronicle;
use crate::history::History;
use crate::machine::Machine;
use crate::plan::Plan;
use crate::trace::Trace;

/// The environment everything lives in.
pub const ENVIRONMENT: &str = "production";
/// Flags that carry an experiment of the same key.
pub const EXPERIMENTS: &[&str] = &["checkout", "search"];
/// The layer that both experiments are in, and the holdout that holds units out of both.
pub const LAYER: &str = "page";
/// A flag without one.
pub const PLAIN_FLAG: &str = "banner";
/// Variants of a flag with an experiment, control first.
pub const ARMS: &[&str] = &["control", "treatment"];
/// Its safe variant.
pub const SAFE: &str = "safe";

/// How far the world has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Faults happen.
    Faults = 0,
    /// Everything is whole: service is demanded.
    Healed = 1,
    /// Nothing new is begun; what is under way is brought to its end.
    Closing = 2,
    /// The auditor reads.
    Audit = 3,
}

/// What every client is given.
#[derive(Clone)]
pub struct World {
    /// The options.
    pub plan: Arc<Plan>,
    /// The machines.
    pub machines: Arc<Vec<Machine>>,
    /// The record.
    pub history: History,
    /// The trace.
    pub trace: Trace,
    /// How far it has come.
    pub stage: StageCell,
    /// Who leads, as the sentinels heard last.
    pub leader: LeaderCell,
    /// Whose place in the cluster is being changed.
    pub works: Works,
    /// The log as everybody wrote it.
    pub chronicle: Chronicle,
}

impl World {
    /// A client of the first node, which turns to the others where there are any when it gets no answer.
    #[must_use]
    pub fn caller(&self, name: &str, principal: &str) -> Caller {
        let first = self.machines.first().map(|machine| machine.name.clone()).unwrap_or_default();
        let nodes = self.machines.iter().map(|machine| machine.name.clone()).collect();
        Caller::new(name, principal, &first, self.trace.clone()).with(nodes)
    }
}

/// Who leads, by the newest term that was heard of.
#[derive(Clone, Default)]
pub struct LeaderCell(Arc<parking_lot::Mutex<(u64, u64)>>);

impl LeaderCell {
    /// A node says who leads a term.
    pub fn note(&self, term: u64, leader: u64, trace: &Trace) {
        let mut known = self.0.lock();
        if (term, leader) > *known {
            *known = (term, leader);
            trace.note("leader", &format!("node-{leader} leads term {term}"));
        }
    }

    /// Its number; 0: nobody said.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.lock().1
    }
}

/// One work on the membership at a time: a disk is lost only while all others are whole.
#[derive(Clone, Default)]
pub struct Works(Arc<AtomicU64>);

impl Works {
    /// Begins one on a machine; false while there is another.
    #[must_use]
    pub fn begin(&self, machine: u64) -> bool {
        self.0.compare_exchange(0, machine, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The machine of the one that is under way; 0: none.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Nothing is under way any more.
    pub fn end(&self) {
        self.0.store(0, Ordering::SeqCst);
    }
}

/// The shared stage.
#[derive(Clone, Default)]
pub struct StageCell(Arc<AtomicU8>);

impl StageCell {
    /// Enters a stage.
    pub fn enter(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::SeqCst);
    }

    /// Whether it has been reached.
    #[must_use]
    pub fn reached(&self, stage: Stage) -> bool {
        self.0.load(Ordering::SeqCst) >= stage as u8
    }
}

/// Resource name of a flag.
#[must_use]
pub fn flag_name(flag: &str) -> String {
    Name::format(ENVIRONMENT, Collection::Flags, flag)
}

/// Resource name of an experiment.
#[must_use]
pub fn experiment_name(experiment: &str) -> String {
    Name::format(ENVIRONMENT, Collection::Experiments, experiment)
}

/// Key of the metric that counts a flag's converted units.
#[must_use]
pub fn converted(flag: &str) -> String {
    format!("{flag}-converted")
}

/// Key of the metric that counts a flag's clicks.
#[must_use]
pub fn clicks(flag: &str) -> String {
    format!("{flag}-clicks")
}

/// Key of the metric that sums what a flag's units spend; in worlds whose ledgers are at the brim only.
#[must_use]
pub fn spent(flag: &str) -> String {
    format!("{flag}-spent")
}

/// Key of the metric of what is spent a click; where [`spent`] is.
#[must_use]
pub fn spent_a_click(flag: &str) -> String {
    format!("{flag}-spent-a-click")
}

/// Key of the metric that counts a flag's errors; its guardrail.
#[must_use]
pub fn errors(flag: &str) -> String {
    format!("{flag}-errors")
}

/// A string as a `google.protobuf.Value`.
#[must_use]
pub fn text(value: &str) -> prost_types::Value {
    prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(value.to_owned())) }
}
