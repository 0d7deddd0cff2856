//! What owners and readers see of an experiment.

use std::collections::BTreeMap;

use featureops_proto::log::ExperimentRecord;
use featureops_proto::v1::{
    ArmInput, AuditRecord, AutonomyLevel, AutonomyLevels, DecisionInputs, Experiment, MetricInput, Stratum,
    Verdict, VerifyAuditResponse,
};

use crate::State;
use crate::allocation::weights_of;
use crate::ledger::{Ledger, strata_digest};
use crate::oversight::ActionClass;
use crate::state::{Frozen, key};

/// What an owner is shown: moments frozen at a tick, and what binds it.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnerView {
    /// Environment.
    pub environment: String,
    /// The flag's key.
    pub flag: String,
    /// Exactly what a decision may rest on.
    pub inputs: DecisionInputs,
    /// Of the owner.
    pub seed: u64,
    /// Level in force for reallocations.
    pub reallocate: AutonomyLevel,
    /// Level in force for trips.
    pub trip: AutonomyLevel,
    /// Log time until which growth is held off by a human command; 0: it is not.
    pub cool_down_until_ms: i64,
    /// End of the freeze window that log time lies in; 0: none.
    pub frozen_until_ms: i64,
    /// Log time of the last decision.
    pub last_decision_ms: i64,
    /// Of the ownership.
    pub epoch: u64,
    /// Last sequence answered in this epoch.
    pub last_sequence: u64,
}

/// Totals of one arm over all generations.
#[derive(Debug, Clone, PartialEq)]
pub struct ArmTotals {
    /// Distinct exposed units.
    pub units: u64,
    /// Units whose exposure came from a receipt.
    pub marked: u64,
    /// Per metric slot: sum of values at the metric's scale, converted units for a proportion.
    pub sums: Vec<i128>,
}

/// The committed state of an experiment and its ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct ExperimentView {
    /// With output fields.
    pub experiment: Experiment,
    /// In the order of the arms.
    pub arms: Vec<ArmTotals>,
    /// Metrics with their slots.
    pub metrics: Vec<MetricInput>,
    /// All strata of all generations, as of now.
    pub strata: Vec<Stratum>,
    /// Current inputs over the live generation, as of now (not frozen): for readers, never for decisions.
    pub inputs: DecisionInputs,
    /// Events by verdict name.
    pub verdicts: BTreeMap<String, u64>,
    /// Units recorded.
    pub rows: u64,
    /// Share of the hash space whose units are counted.
    pub kept: f64,
    /// Units that left when a budget was full.
    pub thinned: u64,
    /// Sums are held by hash cluster.
    pub folded: bool,
    /// Sums held.
    pub entries: u64,
    /// Sums held of capped metrics.
    pub capped: u64,
    /// By covariate.
    pub covariates: Vec<featureops_proto::v1::CovariateStatus>,
    /// Bytes held.
    pub bytes: u64,
    /// Units whose exposure is known by a receipt only.
    pub marked: u64,
    /// Units in two arms.
    pub crossed: u64,
    /// Exposures refused for want of room.
    pub lost: u64,
    /// Of an experiment that declares dimensions.
    pub sample: Option<featureops_proto::v1::SampleStatus>,
    /// The flag's own levels.
    pub autonomy: AutonomyLevels,
    /// Level in force for reallocations: the least of environment, flag and action class.
    pub reallocate: AutonomyLevel,
    /// Log time until which growth is held off.
    pub cool_down_until_ms: i64,
    /// End of the freeze window that log time lies in; 0: none.
    pub frozen_until_ms: i64,
    /// Name of the newest decision; empty when there is none.
    pub last_decision: String,
    /// The present weights, in the order of the arms.
    pub weights: Vec<u32>,
}

impl State {
    /// What the owner of an experiment may see; `None` until its moments were frozen once, or when it ended.
    #[must_use]
    pub fn owner_view(&self, number: u32) -> Option<OwnerView> {
        let record = self.experiments.get(&number)?;
        let definition = record.definition.as_ref()?;
        let frozen = self.frozen.get(&number)?.back()?;
        let flag = key(&record.environment, &definition.flag);
        let held = self.flags.get(&flag)?;
        let owner = record.owner.clone().unwrap_or_default();
        Some(OwnerView {
            environment: record.environment.clone(),
            flag: definition.flag.clone(),
            inputs: self.inputs(record, frozen),
            seed: definition.seed,
            reallocate: self.effective_level(&flag, ActionClass::Reallocate),
            trip: self.effective_level(&flag, ActionClass::Trip),
            cool_down_until_ms: self.holding(held.cool_down_until_ms),
            frozen_until_ms: self.frozen_until(&record.environment).unwrap_or(0),
            last_decision_ms: record.last_decision_ms,
            epoch: owner.epoch,
            last_sequence: owner.last_sequence,
        })
    }

    fn holding(&self, until_ms: i64) -> i64 {
        if until_ms > self.clock.now_ms() { until_ms } else { 0 }
    }

    /// What an owner is shown of a frozen position, and what its decision must embed.
    pub(crate) fn inputs(&self, record: &ExperimentRecord, frozen: &Frozen) -> DecisionInputs {
        let definition = record.definition.clone().unwrap_or_default();
        let base = self.ledgers.get(&record.number).map_or(0, |ledger| ledger.base_minute);
        let generation = record.generations.len() as u8;
        let strata = frozen.strata.messages(base, Some(generation));
        let flag = self.flags.get(&key(&record.environment, &definition.flag));
        DecisionInputs {
            frozen_position: frozen.position,
            digest: strata_digest(&strata),
            log_time_ms: frozen.log_time_ms,
            metrics: record.metrics.clone(),
            strata,
            learner: record.learner,
            arms: definition
                .arms
                .iter()
                .map(|arm| ArmInput { variant: arm.variant.clone(), established: arm.established })
                .collect(),
            control_floor_basis_points: definition.control_floor_basis_points,
            new_arm_cap_basis_points: self.new_arm_cap(record),
            planned_units: definition.planned_units,
            marked_units: frozen.marked.iter().sum(),
            crossed_units: frozen.crossed,
            lost_units: frozen.lost,
            generation: u32::from(generation),
            policy: definition.policy,
            weights: weights_of(&record.runs, definition.arms.len()),
            allocation_version: record.allocation_version,
            flag_version: flag.map_or(0, |f| f.flag_version),
            marked_by_arm: frozen.marked.clone(),
            exposed_units: frozen.rows,
            ramp_steps: definition.ramp_steps,
            allocated_ms: record.allocated_ms,
            sample_ratio: frozen.sample_ratio.clone(),
            kept_parts: kept_parts(frozen.kept),
            thinned_units: frozen.thinned,
            covariates: crate::covariates::inputs(record),
            pairs: crate::covariates::pair_inputs(record),
        }
    }

    /// The committed state of an experiment.
    #[must_use]
    pub fn experiment_view(&self, environment: &str, experiment: &str) -> Option<ExperimentView> {
        let record = self.experiment_record(environment, experiment)?;
        let definition = record.definition.as_ref()?;
        let flag = key(&record.environment, &definition.flag);
        let held = self.flags.get(&flag);
        let empty = Ledger::new(0, crate::experiments::shape_of(record));
        let ledger = self.ledgers.get(&record.number).unwrap_or(&empty);
        let now = Frozen {
            position: self.position,
            log_time_ms: self.clock.now_ms(),
            strata: std::sync::Arc::clone(&ledger.strata),
            marked: ledger.marks.settled(),
            crossed: ledger.crossed,
            lost: ledger.lost,
            rows: ledger.rows,
            sample_ratio: crate::shares::sample_ratio(record),
            kept: ledger.kept,
            thinned: ledger.thinned,
        };
        let last_decision = self.decisions.get(record.last_decision).map(|(_, d)| d.name.clone());
        Some(ExperimentView {
            experiment: self.experiment_message(record),
            arms: totals(ledger, definition.arms.len()),
            metrics: record.metrics.clone(),
            strata: ledger.strata.messages(ledger.base_minute, None),
            inputs: self.inputs(record, &now),
            verdicts: named(&ledger.verdicts),
            rows: ledger.rows,
            kept: ledger.kept as f64 / crate::ledger::SHARDS as f64,
            thinned: ledger.thinned,
            folded: ledger.clusters.folded(),
            entries: ledger.entries,
            capped: ledger.capped,
            covariates: crate::covariates::status(record, ledger),
            bytes: ledger.bytes(),
            marked: ledger.marks.all().iter().sum(),
            crossed: ledger.crossed,
            lost: ledger.lost,
            sample: (!definition.dimensions.is_empty())
                .then(|| crate::ledger_view::sample_status(record, Some(ledger))),
            autonomy: held.and_then(|f| f.autonomy).unwrap_or_else(crate::oversight::default_levels),
            reallocate: self.effective_level(&flag, ActionClass::Reallocate),
            cool_down_until_ms: held.map_or(0, |f| self.holding(f.cool_down_until_ms)),
            frozen_until_ms: self.frozen_until(environment).unwrap_or(0),
            last_decision: last_decision.unwrap_or_default(),
            weights: weights_of(&record.runs, definition.arms.len()),
        })
    }

    /// Audit records, newest first, below `before` (0: from the newest).
    #[must_use]
    pub fn audit(&self, before: u64, limit: usize) -> Vec<AuditRecord> {
        self.audit.newest(before, limit)
    }

    /// Audit records from a number on, oldest first.
    #[must_use]
    pub fn audit_from(&self, from: u64, limit: usize) -> Vec<AuditRecord> {
        self.audit.from(from, limit)
    }

    /// Recomputes the audit chain.
    #[must_use]
    pub fn verify_audit(&self) -> VerifyAuditResponse {
        self.audit.verify()
    }
}

/// As messages have it: absent as long as all are.
pub fn kept_parts(kept: usize) -> u32 {
    if kept == crate::ledger::SHARDS { 0 } else { kept as u32 }
}

fn totals(ledger: &Ledger, arms: usize) -> Vec<ArmTotals> {
    (0..arms)
        .map(|arm| {
            let cells: Vec<_> = ledger.strata.all().iter().filter_map(|s| s.cells.get(arm)).collect();
            let slots = cells.first().map_or(0, |cell| cell.slots.len());
            ArmTotals {
                units: cells.iter().map(|cell| cell.units).sum(),
                marked: ledger.marks.all().get(arm).copied().unwrap_or(0),
                sums: (0..slots)
                    .map(|slot| {
                        cells.iter().filter_map(|cell| cell.slots.get(slot)).map(|(sum, _)| *sum).sum()
                    })
                    .collect(),
            }
        })
        .collect()
}

fn named(verdicts: &BTreeMap<i32, u64>) -> BTreeMap<String, u64> {
    verdicts
        .iter()
        .filter_map(|(verdict, count)| {
            Some((Verdict::try_from(*verdict).ok()?.as_str_name().to_owned(), *count))
        })
        .collect()
}
