//! Experiments: shares, limits, and the message a reader gets.

use featureops_proto::log::ExperimentRecord;
use featureops_proto::v1::Experiment;
use featureops_proto::v1::experiment::State as Phase;
use featureops_proto::{Collection, Name, timestamp_if_set};

use crate::State;
use crate::allocation::BUCKETS;
use crate::flags::above;
use crate::ledger::{NO_CAP, Shape};
use crate::placement::Owned;
use crate::ramps;
use crate::state::key;

/// Cap on arms that are not established, when none is stated.
pub const DEFAULT_NEW_ARM_CAP: u32 = 2_000;
/// Cool-down after a human command, when none is stated.
pub const DEFAULT_COOL_DOWN_SECONDS: i64 = 300;
/// Generations of one experiment.
pub const MAX_GENERATIONS: usize = 32;
/// Arms of one experiment.
pub const MAX_ARMS: usize = 32;

/// Traffic to arms that are not established, in basis points. Control is always established.
pub fn new_share(definition: &Experiment, weights: &[u32]) -> u32 {
    weights
        .iter()
        .zip(&definition.arms)
        .skip(1)
        .filter(|(_, arm)| !arm.established)
        .map(|(weight, _)| *weight)
        .sum()
}

impl State {
    /// The experiment's cap and the environment's budget, whichever is less.
    pub(crate) fn new_arm_cap(&self, record: &ExperimentRecord) -> u32 {
        let own = record
            .definition
            .as_ref()
            .and_then(|d| d.new_arm_cap_basis_points.or_else(|| ramps::highest(d)))
            .unwrap_or(DEFAULT_NEW_ARM_CAP);
        let budget = self
            .oversight
            .get(&record.environment)
            .and_then(|o| o.definition.as_ref()?.new_arm_budget_basis_points)
            .unwrap_or(BUCKETS);
        own.min(budget)
    }

    /// An experiment with its output fields.
    #[must_use]
    pub fn experiment(&self, environment: &str, experiment: &str) -> Option<Experiment> {
        self.experiment_record(environment, experiment).map(|record| self.experiment_message(record))
    }

    /// An experiment by its number.
    #[must_use]
    pub fn experiment_by_number(&self, number: u32) -> Option<Experiment> {
        self.experiments.get(&number).map(|record| self.experiment_message(record))
    }

    /// Experiments of an environment whose id is above `after`, by id.
    #[must_use]
    pub fn experiments(&self, environment: &str, after: &str, limit: usize) -> Vec<Experiment> {
        above(&self.experiment_numbers, environment, after)
            .take(limit)
            .filter_map(|number| self.experiment_by_number(*number))
            .collect()
    }

    /// Experiments whose owner may decide, by number.
    #[must_use]
    pub fn running_experiments(&self) -> Vec<Owned> {
        self.experiments
            .values()
            .filter(|record| record.state() == Phase::Running)
            .map(|record| {
                let (node, epoch) = record.owner.as_ref().map_or((0, 0), |owner| (owner.node, owner.epoch));
                Owned { experiment: record.number, node, epoch }
            })
            .collect()
    }

    pub(crate) fn experiment_message(&self, record: &ExperimentRecord) -> Experiment {
        let mut experiment = record.definition.clone().unwrap_or_default();
        experiment.name = Name::format(&record.environment, Collection::Experiments, &record.experiment);
        experiment.state = record.state;
        experiment.number = record.number;
        experiment.allocation = self.allocation_of(record.number);
        experiment.create_time = timestamp_if_set(record.create_ms);
        experiment.start_time = timestamp_if_set(record.start_ms);
        experiment.end_time = timestamp_if_set(record.end_ms);
        experiment.etag = format!("e{}", record.version);
        let flag = self.flags.get(&key(&record.environment, &experiment.flag));
        experiment.cool_down_until = flag.and_then(|f| timestamp_if_set(f.cool_down_until_ms));
        experiment
    }
}

/// The ledger's shape, from the record's slots and pairs.
pub fn shape_of(record: &ExperimentRecord) -> Shape {
    let arms = record.definition.as_ref().map_or(0, |d| d.arms.len());
    let mut shape = Shape { arms, ..Shape::default() };
    for slot in &record.slots {
        shape.slot(slot.metric, slot.kind(), if slot.cap == 0 { NO_CAP } else { slot.cap });
    }
    for _ in record.definition.iter().flat_map(|definition| &definition.covariates) {
        shape.covariate();
    }
    for pair in &record.pairs {
        shape.pair(pair.numerator as usize, pair.denominator as usize);
    }
    shape
}
