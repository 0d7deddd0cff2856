//! Environments: what all flags of one place share, and the message a reader gets.
//!
//! An environment needs no creation: it is there as soon as anything names it, with the defaults, until it is set.

use std::collections::BTreeMap;

use featureops_proto::log::EnvironmentRecord;
use featureops_proto::timestamp_if_set;
use featureops_proto::v1::experiment::State as Phase;
use featureops_proto::v1::{Environment, FractionalVersion};

use crate::State;
use crate::state::Key;

/// Environments that may be set.
pub const MAX_ENVIRONMENTS: usize = 1_000;
/// Shared rules of an environment.
pub const MAX_EVALUATORS: usize = 1_000;
/// Bytes of an environment's shared rules, their names among them.
pub const MAX_EVALUATOR_BYTES: usize = 1 << 20;
/// Bytes of an environment's encoded metadata.
pub const MAX_METADATA_BYTES: usize = 64 << 10;
/// Bytes of an environment's source.
pub const MAX_SOURCE_BYTES: usize = 256;
/// Bytes of an environment's description.
pub const MAX_DESCRIPTION_BYTES: usize = 4_096;
/// Bytes of one import's encoded command.
pub const MAX_IMPORT_BYTES: usize = 4 << 20;
/// Ids of flags that a repeated import is told again.
pub const MAX_REPEATED_IDS: usize = 64;

impl State {
    /// An environment with its output fields; with the defaults, if it was never set.
    #[must_use]
    pub fn environment(&self, environment: &str) -> Environment {
        let record = self.environments.get(environment);
        let definition = record.and_then(|record| record.definition.clone()).unwrap_or_default();
        Environment {
            name: format!("environments/{environment}"),
            environment_version: record.map_or(0, |record| record.version),
            etag: etag(record.map(AsRef::as_ref)),
            update_time: record.and_then(|record| timestamp_if_set(record.update_ms)),
            ..definition
        }
    }

    /// Environments that hold anything or were set, by id.
    #[must_use]
    pub fn environments(&self) -> Vec<String> {
        self.environments_after("", usize::MAX)
    }

    /// Environments that hold anything or were set, above `after`, by id.
    #[must_use]
    pub fn environments_after(&self, after: &str, limit: usize) -> Vec<String> {
        let mut all = Vec::new();
        let mut last = after.to_owned();
        while all.len() < limit {
            // The least text above `last`.
            last.push('\0');
            let named = [
                first_from(&self.flags, &last),
                first_from(&self.metrics, &last),
                first_from(&self.segments, &last),
                first_from(&self.experiment_numbers, &last),
                first_from(&self.layers, &last),
                first_from(&self.holdouts, &last),
            ];
            let set = [
                self.environments.range(last.clone()..).next().map(|(id, _)| id),
                self.oversight.range(last.clone()..).next().map(|(id, _)| id),
            ];
            let Some(next) = named.into_iter().chain(set).flatten().min() else { break };
            last.clone_from(next);
            all.push(next.clone());
        }
        all
    }

    /// An experiment by which traffic is bucketed in the environment now, or will be again when a person resumes it.
    pub(crate) fn bucketing_experiment(&self, environment: &str) -> Option<&str> {
        self.experiments
            .values()
            .find(|record| {
                record.environment == environment
                    && matches!(record.state(), Phase::Running | Phase::Paused | Phase::Tripped)
            })
            .map(|record| record.experiment.as_str())
    }
}

fn first_from<'a, R>(map: &'a BTreeMap<Key, R>, id: &str) -> Option<&'a String> {
    map.range((id.to_owned(), String::new())..).next().map(|((environment, _), _)| environment)
}

/// Changes with the definition; `n0` before the first.
pub fn etag(record: Option<&EnvironmentRecord>) -> String {
    format!("n{}", record.map_or(0, |record| record.version))
}

/// The generation in force: unless it is said, the second.
pub fn generation(environment: &Environment) -> FractionalVersion {
    match environment.fractional() {
        FractionalVersion::Unspecified => FractionalVersion::FractionalVersion2,
        said => said,
    }
}
