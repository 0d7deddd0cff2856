//! The explanation: the evaluation's own walk, heard step by step.
//!
//! Explaining is not a second implementation. The walk tells each step to a [`Trace`]; evaluation passes
//! [`Untraced`], which never builds the step's text and compiles to nothing.

use featureops_proto::v1::{EvaluationError, ExplainStep};

use crate::context::Context;
use crate::evaluate::{Evaluation, Now, walk};
use crate::limits;
use crate::snapshot::Snapshot;

/// Hears the steps of a walk.
pub(crate) trait Trace {
    fn step(&mut self, step: impl FnOnce() -> ExplainStep);

    /// A step within a targeting rule. A rule may iterate, and nobody reads more than some.
    fn detail(&mut self, step: impl FnOnce() -> ExplainStep);
}

/// Hears nothing.
pub(crate) struct Untraced;

impl Trace for Untraced {
    #[inline(always)]
    fn step(&mut self, _: impl FnOnce() -> ExplainStep) {}

    #[inline(always)]
    fn detail(&mut self, _: impl FnOnce() -> ExplainStep) {}
}

impl Trace for Vec<ExplainStep> {
    fn step(&mut self, step: impl FnOnce() -> ExplainStep) {
        self.push(step());
    }

    fn detail(&mut self, step: impl FnOnce() -> ExplainStep) {
        if self.len() < limits::MAX_EXPLAINED_DETAILS {
            self.push(step());
        }
    }
}

pub(crate) fn step(subject: impl Into<String>, finding: impl Into<String>, matched: bool) -> ExplainStep {
    ExplainStep { subject: subject.into(), finding: finding.into(), matched }
}

/// An evaluation and how it came about. The bucket is the evaluation's.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation<'s> {
    /// What [`crate::evaluate`] answers for the same arguments.
    pub evaluation: Evaluation<'s>,
    /// In the order they were taken.
    pub steps: Vec<ExplainStep>,
}

/// Evaluates a flag and says how.
#[must_use]
pub fn explain<'s>(
    snapshot: &'s Snapshot,
    environment: &str,
    flag: &str,
    context: &Context<'_>,
    now_ms: i64,
) -> Explanation<'s> {
    let mut steps = Vec::new();
    let evaluation = match snapshot.get(environment, flag) {
        Some(flag) => {
            let finding = format!("found at version {}", flag.flag_version());
            steps.push(step("flag", finding, true));
            walk(flag, context, Now::of(snapshot, now_ms), &mut steps)
        }
        None => {
            steps.push(step("flag", "there is no such flag in this environment", false));
            Evaluation::error(EvaluationError::FlagNotFound, 0)
        }
    };
    Explanation { evaluation, steps }
}
