//! Covariates of an experiment: what may be declared, and what decisions and readers see of them.
//!
//! CUPED (Deng, Xu, Kohavi & Walker 2013): an outcome is less spread once what was known of the unit before its exposure is
//! taken from it. Their slots in the ledger stand behind those of all metrics; no outcome ever finds one.

use featureops_proto::ErrorCode;
use featureops_proto::log::{ExperimentRecord, Refusal};
use featureops_proto::v1::{Covariate, CovariateInput, CovariateStatus, Experiment, PairInput};

use crate::ledger::{Ledger, MAX_COVARIATES, MAX_DIMENSION_BYTES};
use crate::metrics::DEFAULT_SCALE;

const MAX_SCALE: u32 = 9;

/// At most so many, each named once.
pub fn check(given: &Experiment) -> Result<(), Refusal> {
    let bad = |field: &str, value: String, message: String| {
        Err(Refusal::new(ErrorCode::InvalidArgument, field, value, message))
    };
    let all = &given.covariates;
    if all.len() > MAX_COVARIATES {
        let message = format!("at most {MAX_COVARIATES}; leave some out");
        return bad("experiment.covariates", all.len().to_string(), message);
    }
    for (at, covariate) in all.iter().enumerate() {
        let (field, name) = (format!("experiment.covariates[{at}].attribute"), &covariate.attribute);
        if name.is_empty() || name.len() > MAX_DIMENSION_BYTES {
            let message = format!("the name of a context attribute, 1 to {MAX_DIMENSION_BYTES} bytes");
            return bad(&field, name.clone(), message);
        }
        // Its value is the unit's key, which never enters the log.
        if name == "targetingKey" {
            return bad(&field, name.clone(), "the unit's key is no number; name a measure".to_owned());
        }
        if all.iter().take(at).any(|earlier| earlier.attribute == *name) {
            return bad(&field, name.clone(), "a covariate twice".to_owned());
        }
        if scale(covariate) > MAX_SCALE {
            let field = format!("experiment.covariates[{at}].decimal_scale");
            return bad(&field, scale(covariate).to_string(), "0 to 9".to_owned());
        }
    }
    Ok(())
}

fn scale(covariate: &Covariate) -> u32 {
    covariate.decimal_scale.unwrap_or(DEFAULT_SCALE)
}

fn declared(record: &ExperimentRecord) -> &[Covariate] {
    record.definition.as_ref().map_or(&[], |definition| &definition.covariates)
}

/// With their slots, for decisions.
pub fn inputs(record: &ExperimentRecord) -> Vec<CovariateInput> {
    let slots = record.slots.len() as u32..;
    let input = |(slot, covariate): (u32, &Covariate)| CovariateInput {
        attribute: covariate.attribute.clone(),
        decimal_scale: scale(covariate),
        slot,
    };
    slots.zip(declared(record)).map(input).collect()
}

/// Which products the moments hold; none without covariates: a ratio says its own.
pub fn pair_inputs(record: &ExperimentRecord) -> Vec<PairInput> {
    let pairs = record.pairs.iter().filter(|_| !declared(record).is_empty());
    pairs.map(|pair| PairInput { first: pair.numerator, second: pair.denominator }).collect()
}

/// For readers.
pub fn status(record: &ExperimentRecord, ledger: &Ledger) -> Vec<CovariateStatus> {
    let missing = ledger.missing.iter().copied().chain(std::iter::repeat(0));
    let status = |(covariate, missing_units): (&Covariate, u64)| CovariateStatus {
        attribute: covariate.attribute.clone(),
        decimal_scale: scale(covariate),
        missing_units,
    };
    declared(record).iter().zip(missing).map(status).collect()
}
