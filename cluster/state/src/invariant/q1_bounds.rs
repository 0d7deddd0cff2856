//! Q1: every bound of the fold, side by side.

use crate::State;
use crate::ledger::MAX_SAMPLED;
use crate::producers::{MAX_PRODUCERS, MAX_VERDICT_BYTES, NODE_PRODUCERS};

pub fn check(state: &State) -> Result<(), String> {
    let rows: u64 = state.ledgers.values().filter(|l| !l.released).map(|l| l.rows).sum();
    let most = |name: &str, value: u64, bound: u64| {
        if value <= bound { Ok(()) } else { Err(format!("{name}: {value}, bound {bound}")) }
    };
    most("producers", state.producers.len() as u64, (MAX_PRODUCERS + NODE_PRODUCERS) as u64)?;
    most("bytes of remembered verdicts", state.producers.verdict_bytes(), MAX_VERDICT_BYTES)?;
    most("flags", state.flags.len() as u64, crate::state::MAX_FLAGS as u64)?;
    most("oversight", state.oversight.len() as u64, crate::state::MAX_OVERSIGHTS as u64)?;
    let longest = state.histories.values().map(|history| history.versions.len()).max().unwrap_or(0);
    most("versions of a flag", longest as u64, crate::flags::MAX_HISTORY as u64)?;
    let bytes =
        |versions: &[prost::bytes::Bytes]| versions.iter().map(|version| version.len()).sum::<usize>();
    let many = state.histories.values().filter(|one| one.versions.len() > crate::flags::LEAST_HISTORY);
    let largest = many.map(|history| bytes(&history.versions)).max().unwrap_or(0);
    most("bytes of a flag's history", largest as u64, crate::flags::MAX_HISTORY_BYTES as u64)?;
    most("metrics", state.metrics.len() as u64, crate::state::MAX_METRICS as u64)?;
    most("experiments", state.experiments.len() as u64, crate::state::MAX_EXPERIMENTS as u64)?;
    most("segments", state.segments.len() as u64, crate::segments::MAX_SEGMENTS_OVER_ALL as u64)?;
    let listed: u64 = state.segment_units.values().map(crate::segments::Units::len).sum();
    if listed != state.listed_units {
        return Err(format!("units on lists: {listed}, counted {}", state.listed_units));
    }
    most("units on all lists", listed, crate::segments::MAX_UNITS_OVER_ALL)?;
    let longest = state.segment_units.values().map(crate::segments::Units::len).max().unwrap_or(0);
    most("units on a list", longest, crate::segments::MAX_UNITS)?;
    most("layers", state.layers.len() as u64, crate::layers::MAX_LAYERS as u64)?;
    most("holdouts", state.holdouts.len() as u64, crate::layers::MAX_ALL_HOLDOUTS as u64)?;
    state.schedules.check()?;
    most("tokens", state.tokens.len() as u64, crate::tokens::MAX_TOKENS as u64)?;
    most("marks of members", state.liveness.len() as u64, crate::members::MAX_MEMBERS as u64)?;
    let budgets = state.budgets();
    if rows != state.rows {
        return Err(format!("rows over all: {rows}, counted {}", state.rows));
    }
    // A budget may be set below what the smallest counted parts hold: nobody leaves those, and nobody new finds room.
    if state.ledgers.values().any(|ledger| ledger.may_thin() && ledger.rows > 0) {
        most("rows over all", rows, budgets.units)?;
    }
    let sums: u64 = state.ledgers.values().map(|l| l.entries).sum();
    if sums != state.entries {
        return Err(format!("sums over all: {sums}, counted {}", state.entries));
    }
    for (number, ledger) in state.ledgers.iter().filter(|(_, ledger)| !ledger.released) {
        if ledger.may_thin() {
            most(&format!("rows of experiment {number}"), ledger.rows, budgets.experiment_units)?;
            most(&format!("crossed of experiment {number}"), ledger.crossed, budgets.experiment_crossed)?;
            most(&format!("capped sums of experiment {number}"), ledger.capped, budgets.experiment_capped)?;
        }
        most(&format!("sample of experiment {number}"), ledger.sample.len(), MAX_SAMPLED)?;
        // One experiment folds an entry, and an entry adds a few thousand.
        most(
            &format!("sums of experiment {number}"),
            ledger.entries,
            2 * budgets.experiment_sums + (1 << 24),
        )?;
        for (at, stratum) in ledger.strata.all().iter().enumerate() {
            for (arm, cell) in stratum.cells.iter().enumerate() {
                if ledger.clusters.units(at, arm) != cell.units {
                    return Err(format!(
                        "experiment {number}: clusters of stratum {at}, arm {arm} count other units"
                    ));
                }
            }
        }
    }
    state.decisions.check()
}
