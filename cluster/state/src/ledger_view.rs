//! What readers see of ledgers beside their moments: the series, the sample, and how full the budgets are.

use featureops_proto::Name;
use featureops_proto::log::{ErasuresRecord, ExperimentRecord};
use featureops_proto::v1::{MetricInput, SampleStatus};

use crate::State;
use crate::ledger::{Group, Ledger, SeriesCell};

/// Sealed periods of an experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesView {
    /// The arms' variants.
    pub variants: Vec<String>,
    /// The experiment's metrics with their slots.
    pub metrics: Vec<MetricInput>,
    /// Oldest first; those in which nothing arrived are left out.
    pub periods: Vec<PeriodView>,
}

/// One sealed minute or hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeriodView {
    /// Its first unix minute.
    pub start_minute: u32,
    /// By arm: units counted for the first time, in time and late.
    pub units: Vec<(u64, u64)>,
    /// (arm, slot, cell); slots that are not kept in hours are missing there.
    pub cells: Vec<(u32, u32, SeriesCell)>,
}

/// The sample of an experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleView {
    /// The declared dimensions.
    pub dimensions: Vec<String>,
    /// The arms' variants.
    pub variants: Vec<String>,
    /// Key and decimal places of each slot's metric.
    pub slots: Vec<(String, u32)>,
    /// Sizes and counters.
    pub status: SampleStatus,
    /// Most units first.
    pub groups: Vec<Group>,
}

/// How full the ledgers are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LedgerUsage {
    /// Units over all experiments, and how many there may be.
    pub rows: (u64, u64),
    /// Bytes of all ledgers.
    pub bytes: u64,
    /// Experiments near a bound of their own: name, how many of what, bound; at most 16.
    pub near: Vec<(String, u64, &'static str, u64)>,
}

impl State {
    /// The sealed minutes or hours of an experiment.
    #[must_use]
    pub fn series(&self, environment: &str, experiment: &str, hours: bool) -> Option<SeriesView> {
        let record = self.experiment_record(environment, experiment)?;
        let sealed = self.ledgers.get(&record.number).into_iter().flat_map(|l| l.series.sealed(hours));
        let periods = sealed.map(|(period, cells)| PeriodView {
            start_minute: period.start,
            units: period.units.iter().map(|units| (units.fresh, units.late)).collect(),
            cells,
        });
        let periods = periods.collect();
        Some(SeriesView { variants: variants(record), metrics: record.metrics.clone(), periods })
    }

    /// The sample of an experiment, with so many of its groups at most.
    #[must_use]
    pub fn sample(&self, environment: &str, experiment: &str, groups: usize) -> Option<SampleView> {
        let record = self.experiment_record(environment, experiment)?;
        let variants = variants(record);
        let ledger = self.ledgers.get(&record.number);
        let slot = |number: u32| {
            let key = self.metric_keys.get(&number).map(|(_, metric)| metric.clone()).unwrap_or_default();
            let definition = self.metric_by_number(number).and_then(|metric| metric.definition.as_ref());
            (key, definition.map_or(0, crate::metrics::scale))
        };
        Some(SampleView {
            dimensions: dimensions(record).to_vec(),
            slots: record.slots.iter().map(|held| slot(held.metric)).collect(),
            status: sample_status(record, ledger),
            groups: ledger.map(|ledger| ledger.sample.groups(variants.len(), groups)).unwrap_or_default(),
            variants,
        })
    }

    /// Whether an experiment, a waiting outcome, a sample or a segment's list holds the unit.
    #[must_use]
    pub fn holds_unit(&self, unit: u64) -> bool {
        self.ledgers.values().any(|ledger| ledger.row(unit).is_some() || ledger.sample.holds(unit))
            || self.waiting.held().any(|held| held.unit == unit)
            || self.segment_units.values().any(|list| list.changed(&[], &[unit]).removed > 0)
    }

    /// Names of flags that force the unit, and so hold its key in clear; at most so many.
    #[must_use]
    pub fn flags_that_force(&self, unit: &str, most: usize) -> Vec<String> {
        let forces = |record: &&std::sync::Arc<featureops_proto::log::FlagRecord>| {
            record.definition.as_ref().is_some_and(|definition| definition.forced.contains_key(unit))
        };
        let name = |record: &std::sync::Arc<featureops_proto::log::FlagRecord>| {
            Name::format(&record.environment, featureops_proto::Collection::Flags, &record.flag)
        };
        self.flags.values().filter(forces).take(most).map(name).collect()
    }

    /// How many units were erased, and where in the log the last one was.
    #[must_use]
    pub fn erasures(&self) -> &ErasuresRecord {
        &self.erasures
    }

    /// How full the ledgers are.
    #[must_use]
    pub fn ledger_usage(&self) -> LedgerUsage {
        let budgets = self.budgets();
        let live = || self.ledgers.iter().filter(|(_, ledger)| !ledger.released);
        let near = live().flat_map(|(number, ledger)| {
            [
                (number, ledger.rows, "units", budgets.experiment_units),
                (number, ledger.capped, "sums of capped metrics", budgets.experiment_capped),
                (number, ledger.crossed, "units in two arms", budgets.experiment_crossed),
            ]
        });
        let near = near.filter(|(_, held, _, most)| is_near(*held, *most));
        let name = |number: &u32| {
            let record = self.experiments.get(number);
            record.map(|r| {
                Name::format(&r.environment, featureops_proto::Collection::Experiments, &r.experiment)
            })
        };
        LedgerUsage {
            rows: (self.rows, budgets.units),
            bytes: live().map(|(_, ledger)| ledger.bytes()).sum(),
            near: near
                .filter_map(|(number, held, what, most)| Some((name(number)?, held, what, most)))
                .take(16)
                .collect(),
        }
    }
}

/// Four fifths of a bound.
fn is_near(value: u64, bound: u64) -> bool {
    value.saturating_mul(5) >= bound.saturating_mul(4)
}

impl LedgerUsage {
    /// Four fifths of what there may be over all.
    #[must_use]
    pub fn is_near(&self) -> bool {
        is_near(self.rows.0, self.rows.1)
    }
}

fn variants(record: &ExperimentRecord) -> Vec<String> {
    let arms = record.definition.iter().flat_map(|definition| &definition.arms);
    arms.map(|arm| arm.variant.clone()).collect()
}

/// The declared dimensions.
pub fn dimensions(record: &ExperimentRecord) -> &[String] {
    record.definition.as_ref().map_or(&[], |definition| &definition.dimensions)
}

/// Sizes and counters of a sample.
pub fn sample_status(record: &ExperimentRecord, ledger: Option<&Ledger>) -> SampleStatus {
    let dimensions = dimensions(record).to_vec();
    let Some(sample) = ledger.map(|ledger| &ledger.sample) else {
        return SampleStatus { dimensions, ..SampleStatus::default() };
    };
    let (dictionary, other, unknown, thinned) = sample.counters();
    SampleStatus {
        units: sample.len(),
        level: sample.level(),
        dictionary,
        other,
        unknown,
        thinned,
        dimensions,
    }
}
