//! An experiment's status for people: the ledger's totals, and what the decision room's analysis makes of its strata.
//!
//! Nothing is computed here but means; the statistics are `featureops_decision`'s, the integers are State's.

use featureops_decision::policy::{ramp, thompson};
use featureops_decision::{analysis, blocks, sample_ratio};
use featureops_proto::timestamp_if_set;
use featureops_proto::v1::experiment::Policy;
use featureops_proto::v1::metric::Kind;
use featureops_proto::v1::{
    ArmStatus, AutonomyLevel, DecisionInputs, ExperimentStatus, MetricInput, MetricTotals, RampStatus,
    experiment,
};
use featureops_state::{ArmTotals, ExperimentView};

use crate::replica::Replica;
use crate::services;

/// The status; nothing when there is no such experiment.
#[must_use]
pub fn of(replica: &Replica, environment: &str, id: &str) -> Option<ExperimentStatus> {
    let (view, position, log_time_ms) = replica.read(|state| {
        Some((state.experiment_view(environment, id)?, state.position(), state.log_time_ms()))
    })?;
    let beliefs = thompson::beliefs(&view.inputs).ok().flatten().map(|(best, _)| best).unwrap_or_default();
    let whole = DecisionInputs { strata: view.strata.clone(), ..view.inputs.clone() };
    let contrasts = analysis::contrasts(&whole, analysis::ALPHA).unwrap_or_default();
    let arms = (0..).zip(view.experiment.arms.iter().zip(&view.arms));
    let arms = arms.map(|(index, (arm, totals)): (usize, _)| ArmStatus {
        variant: arm.variant.clone(),
        weight_basis_points: view.weights.get(index).copied().unwrap_or_default(),
        units: totals.units,
        metrics: view.metrics.iter().map(|metric| totals_of(metric, totals)).collect(),
        probability_best: beliefs.get(index).copied(),
        established: arm.established,
    });
    Some(ExperimentStatus {
        arms: arms.collect(),
        exposed_units: view.rows,
        blocked: blocked(&view),
        sample_ratio_p: sample_ratio::of_inputs(&view.inputs),
        contrasts: contrasts.iter().map(analysis::Line::status).collect(),
        verdicts: view.verdicts,
        marked_units: view.marked,
        crossed_units: view.crossed,
        lost_units: view.lost,
        sample: view.sample,
        strata: view.strata.len() as u64,
        rows: view.rows,
        entries: view.entries,
        bytes: view.bytes,
        covariates: view.covariates,
        capped_entries: view.capped,
        autonomy: Some(view.autonomy),
        log_time: timestamp_if_set(log_time_ms),
        position: services::position(position),
        last_decision: view.last_decision,
        ramp: ramp_of(&view.inputs),
        kept: view.kept,
        thinned_units: view.thinned,
        folded: view.folded,
        experiment: Some(view.experiment),
    })
}

/// Where a ramp stands, and what it waits for.
fn ramp_of(inputs: &DecisionInputs) -> Option<RampStatus> {
    if inputs.policy() != Policy::Ramp {
        return None;
    }
    let standing = ramp::standing(inputs).ok()?;
    let waits = match ramp::decide(inputs) {
        Ok(ramp::Verdict::Wait(waits)) => waits.iter().map(ramp::Wait::text).collect(),
        Ok(ramp::Verdict::Go(climb)) if climb.standing.approval => vec!["a person's approval".to_owned()],
        Ok(ramp::Verdict::Go(_)) => Vec::new(),
        Err(error) => vec![format!("inputs refused: {error}")],
    };
    let next = standing.next.and_then(|next| inputs.ramp_steps.get(next));
    Some(RampStatus {
        step: standing.step.map_or(0, |step| step as u32 + 1),
        steps: inputs.ramp_steps.len() as u32,
        next_basis_points: next.map_or(0, |next| next.basis_points),
        hold_until: timestamp_if_set(standing.hold_until_ms),
        units: standing.units,
        minimum_units: standing.units_min,
        approval: standing.approval,
        waits_for: waits,
    })
}

/// Why no autonomous growth happens now; the fold has the last word on each.
fn blocked(view: &ExperimentView) -> Vec<String> {
    let mut reasons = Vec::new();
    if view.experiment.state() != experiment::State::Running {
        reasons.push(format!("the experiment is {}", view.experiment.state().as_str_name()));
        return reasons;
    }
    match view.reallocate {
        AutonomyLevel::A4Bounded | AutonomyLevel::A5Autopilot => {}
        level => reasons.push(format!("level {} leaves growth to a person", level.as_str_name())),
    }
    if view.cool_down_until_ms > 0 {
        reasons.push("cool-down after a human command".to_owned());
    }
    if view.frozen_until_ms > 0 {
        reasons.push("freeze window".to_owned());
    }
    let fixed = view.inputs.policy() == Policy::Fixed;
    let stops = blocks::blocks(&view.inputs).into_iter().filter(|block| fixed || block.stops_learning());
    reasons.extend(stops.map(|block| block.text()));
    reasons.extend(capped(&view.inputs));
    if view.inputs.policy() == Policy::Ramp
        && let Ok(ramp::Verdict::Wait(waits)) = ramp::decide(&view.inputs)
    {
        reasons.extend(waits.iter().filter(|wait| wait.stands_in_the_way()).map(ramp::Wait::text));
    }
    reasons
}

/// The cap on new arms, where it is what keeps the policy from giving them more.
fn capped(inputs: &DecisionInputs) -> Option<String> {
    let Ok(thompson::Verdict::Stay(_, Some(allocation))) = thompson::decide(inputs) else { return None };
    let new = |weights: &[u32]| -> u32 {
        let new = weights.iter().zip(&inputs.arms).filter(|(_, arm)| !arm.established);
        new.map(|(weight, _)| *weight).sum()
    };
    let (wanted, cap) = (new(&allocation.unbounded), inputs.new_arm_cap_basis_points);
    let held =
        new(&allocation.weights) == cap && wanted > cap.saturating_add(thompson::MOVE_MIN_BASIS_POINTS);
    held.then(|| {
        let percent = |points: u32| f64::from(points) / 100.0;
        format!("new-arm cap: new arms have {} % at most, and would get {} %", percent(cap), percent(wanted))
    })
}

fn totals_of(metric: &MetricInput, arm: &ArmTotals) -> MetricTotals {
    let at = |slot: u32, scale: u32| {
        let sum = usize::try_from(slot).ok().and_then(|slot| arm.sums.get(slot)).copied().unwrap_or_default();
        sum as f64 / crate::fixed_point::one(scale)
    };
    // The inputs' scale is 0 for counts and proportions.
    let total = at(metric.slot, metric.decimal_scale);
    let over = match metric.kind() {
        Kind::Ratio => at(metric.denominator_slot, metric.denominator_decimal_scale),
        _ => arm.units as f64,
    };
    let mean = if over == 0.0 { 0.0 } else { total / over };
    MetricTotals { metric: metric.metric.clone(), total, mean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_that_holds_a_decision_back_is_named() {
        use featureops_proto::v1::{ArmInput, ArmMoments, Int128, Role, SlotMoments, Stratum};
        let arm = |units: u64, converted: i128| ArmMoments {
            units,
            slots: vec![SlotMoments {
                sum: Some(Int128::new(converted)),
                squares: Some(Int128::new(converted)),
                ..SlotMoments::default()
            }],
            ..ArmMoments::default()
        };
        let mut inputs = DecisionInputs {
            policy: Policy::Thompson.into(),
            generation: 1,
            planned_units: 20_000,
            log_time_ms: 1_700_000_000_000,
            arms: ["off", "on"].map(|v| ArmInput { variant: v.to_owned(), established: v == "off" }).into(),
            weights: vec![8_000, 2_000],
            new_arm_cap_basis_points: 2_000,
            control_floor_basis_points: 1_000,
            metrics: vec![MetricInput {
                metric: "purchase".to_owned(),
                kind: Kind::Proportion.into(),
                role: Role::Primary.into(),
                ..MetricInput::default()
            }],
            strata: vec![Stratum {
                generation: 1,
                start_minute: 28_000_000,
                minutes: 60,
                arms: vec![arm(4_000, 200), arm(1_000, 150)],
            }],
            ..DecisionInputs::default()
        };
        let said = capped(&inputs).unwrap();
        assert!(said.starts_with("new-arm cap: new arms have 20 % at most, and would get "), "{said}");
        // Below its cap it moves; and where nothing wants more, nothing is held back.
        inputs.weights = vec![9_500, 500];
        assert_eq!(capped(&inputs), None);
        inputs.weights = vec![8_000, 2_000];
        inputs.arms[1].established = true;
        assert_eq!(capped(&inputs), None);
    }

    #[test]
    fn totals_are_shown_in_the_clients_units() {
        let arm = ArmTotals { units: 4, marked: 0, sums: vec![1_000, 2_500_000, 10] };
        let mean =
            MetricInput { kind: Kind::Mean.into(), slot: 1, decimal_scale: 6, ..MetricInput::default() };
        assert_eq!((totals_of(&mean, &arm).total, totals_of(&mean, &arm).mean), (2.5, 0.625));
        let proportion = MetricInput { kind: Kind::Proportion.into(), slot: 2, ..MetricInput::default() };
        assert_eq!(totals_of(&proportion, &arm).mean, 2.5);
        let nobody = ArmTotals { units: 0, marked: 0, sums: vec![] };
        assert_eq!(totals_of(&mean, &nobody).mean, 0.0);
    }
}
