//! A2: a tripped flag has its safe variant to serve, and no experiment on it runs.

use featureops_proto::log::ExperimentRecord;
use featureops_proto::v1::experiment::State as Phase;

use crate::State;

pub fn check(state: &State) -> Result<(), String> {
    for record in state.flags.values() {
        if record.trip.is_none() {
            continue;
        }
        let safe = record.definition.as_ref().and_then(|d| {
            let safe = d.safe_variant.as_ref()?;
            d.variants.get(safe)
        });
        if safe.is_none() {
            return Err(format!(
                "flag {}/{} is tripped and has no safe variant",
                record.environment, record.flag
            ));
        }
    }
    state.experiments.values().try_for_each(|record| check_one(state, record))
}

pub fn check_one(state: &State, record: &ExperimentRecord) -> Result<(), String> {
    let flag = record.definition.as_ref().map_or("", |d| d.flag.as_str());
    let tripped = state.flag_record(&record.environment, flag).is_some_and(|f| f.trip.is_some());
    match (tripped, record.state()) {
        (true, Phase::Running) => Err(format!("experiment {} runs on tripped flag {flag}", record.number)),
        (false, Phase::Tripped) => {
            Err(format!("experiment {} is tripped and flag {flag} is not", record.number))
        }
        _ => Ok(()),
    }
}
