//! Environments: what all flags of one place share, and the message a reader gets.
//!
//! An environment needs no creation: it is there as soon as anything names it, with the defaults, until it is set.

use std::collections::BTreeMap;

use featureops_proto::log::{CompiledAgainst, EnvironmentRecord, Refusal};
use featureops_proto::v1::experiment::State as Phase;
use featureops_proto::v1::{Environment, FractionalVersion};
use featureops_proto::{ErrorCode, environment_of, timestamp_if_set};

use crate::State;
use crate::flags::above;
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

    /// Grows with every change of a definition in the environment, and with nothing else.
    #[must_use]
    pub fn definitions(&self, environment: &str) -> u64 {
        let flags = above(&self.flags, environment, "");
        // Each change gives its flag a greater version than any before.
        flags.fold(0, |sum, flag| sum.wrapping_add(flag.definition_version))
    }

    /// Refuses a command that was compiled against something else than what is there now: nobody knows whether it still
    /// compiles.
    pub(crate) fn check_compiled(&self, against: &CompiledAgainst) -> Result<(), Refusal> {
        let environment = environment_of(&against.environment).map_err(|error| {
            Refusal::new(ErrorCode::InvalidArgument, "compiled_against.environment", "", error)
        })?;
        let version = self.environments.get(environment).map_or(0, |record| record.version);
        if let Some(seen) = against.environment_version.filter(|seen| *seen != version) {
            return Err(moved("environment_version", seen, version));
        }
        let Some(seen) = against.definitions else { return Ok(()) };
        let definitions = self.definitions(environment);
        if seen == definitions { Ok(()) } else { Err(moved("definitions", seen, definitions)) }
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

/// A door's fence: flags, or what they share, changed between its look and the log's turn.
fn moved(what: &str, seen: u64, present: u64) -> Refusal {
    let message = format!("flags were compiled against {seen}, and by now it is {present}; send it again");
    Refusal::new(ErrorCode::Fenced, &format!("compiled_against.{what}"), seen, message)
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
