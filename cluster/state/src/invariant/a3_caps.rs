//! A3: control keeps its floor, arms that are not established stay within the experiment's cap and the environment's
//! budget.

use featureops_proto::log::ExperimentRecord;
use featureops_proto::v1::experiment::State as Phase;

use crate::State;
use crate::allocation::weights_of;

pub fn check(state: &State) -> Result<(), String> {
    state.experiments.values().try_for_each(|record| check_one(state, record))
}

pub fn check_one(state: &State, record: &ExperimentRecord) -> Result<(), String> {
    let Some(definition) = &record.definition else { return Ok(()) };
    if !matches!(record.state(), Phase::Running | Phase::Paused) {
        return Ok(());
    }
    let weights = weights_of(&record.runs, definition.arms.len());
    let control = weights.first().copied().unwrap_or(0);
    if control < definition.control_floor_basis_points {
        let floor = definition.control_floor_basis_points;
        return Err(format!("experiment {}: control has {control}, its floor is {floor}", record.number));
    }
    let cap = state.new_arm_cap(record);
    let new = crate::experiments::new_share(definition, &weights);
    if new > cap {
        return Err(format!("experiment {}: new arms have {new}, the cap is {cap}", record.number));
    }
    Ok(())
}
