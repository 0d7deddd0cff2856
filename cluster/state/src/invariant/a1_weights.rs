//! A1: the weights of an experiment that holds its flag sum to 10,000, over known arms, in a map of bounded runs.

use featureops_proto::log::ExperimentRecord;
use featureops_proto::v1::experiment::State as Phase;

use crate::State;
use crate::allocation::{BUCKETS, MAX_RUNS};

pub fn check(state: &State) -> Result<(), String> {
    state.experiments.values().try_for_each(|record| check_one(record))
}

pub fn check_one(record: &ExperimentRecord) -> Result<(), String> {
    if !matches!(record.state(), Phase::Running | Phase::Paused | Phase::Tripped) {
        return Ok(());
    }
    let arms = record.definition.as_ref().map_or(0, |d| d.arms.len());
    let sum: u64 = record.runs.iter().map(|run| u64::from(run.length)).sum();
    if sum != u64::from(BUCKETS) {
        return Err(format!("experiment {}: weights sum to {sum}", record.number));
    }
    if record.runs.len() > MAX_RUNS {
        return Err(format!("experiment {}: {} runs", record.number, record.runs.len()));
    }
    match record.runs.iter().find(|run| run.arm as usize >= arms || run.length == 0) {
        Some(run) => {
            Err(format!("experiment {}: run of arm {} with length {}", record.number, run.arm, run.length))
        }
        None => Ok(()),
    }
}
