//! Dimensions of an experiment's sample: what may be declared, and how many samples there may be.

use featureops_proto::ErrorCode;
use featureops_proto::log::{ExperimentRecord, Refusal};
use featureops_proto::v1::Experiment;

use crate::State;
use crate::ledger::{Ledger, MAX_DIMENSION_BYTES, MAX_DIMENSIONS, Sample, Series};

/// Experiments that keep a sample at once: a sample may take some 6 MB.
pub const MAX_SAMPLES: usize = 64;

/// At most so many, each named once.
pub fn check(given: &Experiment) -> Result<(), Refusal> {
    let bad = |field: &str, value: String, message: String| {
        Err(Refusal::new(ErrorCode::InvalidArgument, field, value, message))
    };
    let names = &given.dimensions;
    if names.len() > MAX_DIMENSIONS {
        let message = format!("at most {MAX_DIMENSIONS}; leave some out");
        return bad("experiment.dimensions", names.len().to_string(), message);
    }
    for (at, name) in names.iter().enumerate() {
        let field = format!("experiment.dimensions[{at}]");
        if name.is_empty() || name.len() > MAX_DIMENSION_BYTES {
            let message = format!("the name of a context attribute, 1 to {MAX_DIMENSION_BYTES} bytes");
            return bad(&field, name.clone(), message);
        }
        // Its value is the unit's key, which never enters the log.
        if name == "targetingKey" {
            return bad(&field, name.clone(), "the unit's key is no dimension; name a category".to_owned());
        }
        if names.iter().take(at).any(|earlier| earlier == name) {
            return bad(&field, name.clone(), "a dimension twice".to_owned());
        }
    }
    Ok(())
}

impl State {
    /// There is room for one sample more, if the experiment declares dimensions.
    pub(crate) fn check_room_for_sample(&self, definition: &Experiment) -> Result<(), Refusal> {
        let keeps = |number: &u32, ledger: &Ledger| {
            let record = self.experiments.get(number);
            !ledger.released && record.is_some_and(|r| !crate::ledger_view::dimensions(r).is_empty())
        };
        let kept = || self.ledgers.iter().filter(|(number, ledger)| keeps(number, ledger)).count();
        if definition.dimensions.is_empty() || kept() < MAX_SAMPLES {
            return Ok(());
        }
        let message = format!(
            "{MAX_SAMPLES} experiments keep a sample; stop one and wait for its windows to close, or declare none"
        );
        let count = definition.dimensions.len();
        Err(Refusal::new(ErrorCode::LimitReached, "experiment.dimensions", count, message))
    }

    /// The series and the sample of an experiment that begins, or is restored, now.
    pub(crate) fn begin_parts(&self, record: &ExperimentRecord, ledger: &mut Ledger) {
        ledger.series = Series::begin(record, self.clock.minute());
        ledger.sample = Sample::new(crate::ledger_view::dimensions(record).len(), record.slots.len());
    }
}
