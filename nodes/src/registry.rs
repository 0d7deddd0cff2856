//! What fronts and the door of facts must know beside the flags: what an environment's flags share; numbers, scales and
//! arms by key, as of the published position.
//!
//! Published together with the evaluation snapshot and never changed once made, so that a fact is admitted without a
//! lock on State. A change copies the map of one environment's pointers; entries are shared.

use std::collections::BTreeMap;
use std::sync::Arc;

use featureops_proto::v1::{Covariate, Environment, Experiment, Metric, experiment, metric::Kind};
use featureops_proto::{Collection, Name, environment_of};

use crate::covariates::CovariateEntry;
use crate::face::Shared;
use crate::fixed_point::{Unscalable, scaled};

/// Decimal places of a metric that names none.
const DECIMAL_SCALE_DEFAULT: u32 = 6;

/// A metric as facts see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricEntry {
    /// Number in the cluster.
    pub number: u32,
    /// What it measures.
    pub kind: Kind,
    /// Decimal places kept.
    pub decimal_scale: u32,
}

/// An experiment as facts and evaluations see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExperimentEntry {
    /// Its environment.
    pub environment: Box<str>,
    /// Number in the cluster.
    pub number: u32,
    /// Variants of the arms, in order; the first is control.
    pub arms: Box<[Box<str>]>,
    /// Exposures count only while it runs.
    pub running: bool,
    /// Bulk evaluation implies exposures too.
    pub bulk_exposes: bool,
    /// Context attributes whose values go with an exposure.
    pub dimensions: Box<[Box<str>]>,
    /// Numbers that go with an exposure.
    pub covariates: Box<[CovariateEntry]>,
}

impl ExperimentEntry {
    /// The index of a variant's arm.
    #[must_use]
    pub fn arm(&self, variant: &str) -> Option<u32> {
        let at = self.arms.iter().position(|arm| arm.as_ref() == variant)?;
        u32::try_from(at).ok()
    }
}

impl MetricEntry {
    /// An event's value as the fold takes it: for a count the event itself, for a proportion whether it converted, else the
    /// value at the metric's decimal scale. Absent is 1.
    ///
    /// # Errors
    /// The value is not finite, or too large at the metric's scale.
    pub fn fixed_point(&self, value: Option<f64>) -> Result<i64, Unscalable> {
        let value = value.unwrap_or(1.0);
        match self.kind {
            Kind::Count | Kind::Proportion if !value.is_finite() => Err(Unscalable::NonFinite),
            Kind::Count => Ok(1),
            Kind::Proportion => Ok(i64::from(value != 0.0)),
            Kind::Mean | Kind::Ratio | Kind::Unspecified => scaled(value, self.decimal_scale),
        }
    }
}

type ByKey<T> = BTreeMap<Box<str>, T>;
type ByEnvironment<T> = BTreeMap<Box<str>, Arc<ByKey<T>>>;

/// An environment as fronts see it.
#[derive(Debug)]
struct EnvironmentEntry {
    environment: Arc<Environment>,
    shared: Shared,
}

/// All environments, metrics and experiments. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    environments: Arc<BTreeMap<Box<str>, Arc<EnvironmentEntry>>>,
    metrics: Arc<ByEnvironment<MetricEntry>>,
    experiments: Arc<ByEnvironment<Arc<ExperimentEntry>>>,
    numbers: Arc<BTreeMap<u32, Arc<ExperimentEntry>>>,
}

impl Registry {
    /// An environment that holds anything or was set; none that nothing names. An empty source stands for the id.
    #[must_use]
    pub fn environment(&self, id: &str) -> Option<&Arc<Environment>> {
        self.environments.get(id).map(|entry| &entry.environment)
    }

    /// All of them by id.
    pub fn environments(&self) -> impl Iterator<Item = (&str, &Arc<Environment>)> {
        self.environments.iter().map(|(id, entry)| (id.as_ref(), &entry.environment))
    }

    /// What the flags of an environment show of it.
    #[must_use]
    pub fn shared(&self, id: &str) -> Shared {
        self.environments.get(id).map(|entry| entry.shared).unwrap_or_default()
    }

    /// Takes in an environment as State has it.
    pub fn put_environment(&mut self, environment: Environment) {
        let Ok(id) = environment_of(&environment.name) else { return };
        if self.environments.get(id).is_some_and(|entry| entry.environment.as_ref() == &environment) {
            return;
        }
        let (id, shared) = (id.into(), Shared::of(&environment));
        let entry = Arc::new(EnvironmentEntry { environment: Arc::new(environment), shared });
        Arc::make_mut(&mut self.environments).insert(id, entry);
    }

    /// The metric of a key.
    #[must_use]
    pub fn metric(&self, environment: &str, key: &str) -> Option<MetricEntry> {
        self.metrics.get(environment)?.get(key).copied()
    }

    /// The experiment of a key.
    #[must_use]
    pub fn experiment(&self, environment: &str, key: &str) -> Option<&ExperimentEntry> {
        self.experiments.get(environment)?.get(key).map(AsRef::as_ref)
    }

    /// The experiment of a number.
    #[must_use]
    pub fn experiment_by_number(&self, number: u32) -> Option<&ExperimentEntry> {
        self.numbers.get(&number).map(AsRef::as_ref)
    }

    /// Takes in a metric as State has it. One without a readable name cannot be asked for and is left out.
    pub fn put_metric(&mut self, metric: &Metric) {
        let Ok(name) = Name::parse(&metric.name, Collection::Metrics) else { return };
        let entry = MetricEntry {
            number: metric.number,
            kind: metric.kind(),
            decimal_scale: metric.decimal_scale.unwrap_or(DECIMAL_SCALE_DEFAULT),
        };
        let metrics = Arc::make_mut(&mut self.metrics).entry(name.environment.into()).or_default();
        Arc::make_mut(metrics).insert(name.id.into(), entry);
    }

    /// Takes in an experiment as State has it.
    pub fn put_experiment(&mut self, experiment: &Experiment) {
        let Ok(name) = Name::parse(&experiment.name, Collection::Experiments) else { return };
        let entry = Arc::new(ExperimentEntry {
            environment: name.environment.into(),
            number: experiment.number,
            arms: experiment.arms.iter().map(|arm| arm.variant.as_str().into()).collect(),
            running: experiment.state() == experiment::State::Running,
            bulk_exposes: experiment.bulk_exposes,
            dimensions: experiment.dimensions.iter().map(|name| name.as_str().into()).collect(),
            covariates: experiment.covariates.iter().map(covariate).collect(),
        });
        Arc::make_mut(&mut self.numbers).insert(experiment.number, Arc::clone(&entry));
        let experiments = Arc::make_mut(&mut self.experiments).entry(name.environment.into()).or_default();
        Arc::make_mut(experiments).insert(name.id.into(), entry);
    }

    /// Experiments that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.numbers.values().filter(|entry| entry.running).count()
    }
}

fn covariate(declared: &Covariate) -> CovariateEntry {
    CovariateEntry {
        attribute: declared.attribute.as_str().into(),
        decimal_scale: declared.decimal_scale.unwrap_or(DECIMAL_SCALE_DEFAULT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_what_its_metrics_kind_makes_of_it() {
        let of = |kind: Kind, value: Option<f64>| {
            MetricEntry { number: 1, kind, decimal_scale: 2 }.fixed_point(value)
        };
        // However small, a value that is not zero is a conversion; however large, an event is one event.
        assert_eq!(of(Kind::Proportion, Some(1e-7)), Ok(1));
        assert_eq!(of(Kind::Proportion, Some(1e300)), Ok(1));
        assert_eq!(of(Kind::Proportion, Some(0.0)), Ok(0));
        assert_eq!(of(Kind::Count, Some(1e300)), Ok(1));
        assert_eq!(of(Kind::Mean, Some(2.675)), Ok(268));
        assert_eq!(of(Kind::Mean, None), Ok(100));
        assert_eq!(of(Kind::Mean, Some(1e300)), Err(Unscalable::OutOfScale));
        for kind in [Kind::Proportion, Kind::Count, Kind::Mean] {
            assert_eq!(of(kind, Some(f64::NAN)), Err(Unscalable::NonFinite));
        }
    }
}
