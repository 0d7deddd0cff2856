//! Units against the weights they came under: what a test of the sample ratio needs once weights have changed.
//!
//! A unit is counted at its first exposure, under the weights in force then. While weights never change the strata say that;
//! afterwards they do not: an hour has many weights, and a unit whose bucket moved comes once more, in the arm that grew. So
//! from the first change on each allocation is a stratum of its own here: N units, of which the weights w expect N w, with
//! covariance N (diag(w) - w w'). Closed ones are kept as these sums, whole numbers all: units, N w, and N w w'.
//!
//! ```text
//!   reallocated        + 60 s at least            next reallocation
//!        |--- settling ----|------- counted -----------|--- settling ...
//! ```
//!
//! Only what was surely assigned under the weights is counted: not what was evaluated up to two minutes after a change (a
//! client that evaluates by itself may not have heard of it), nor a unit in its second arm, nor one that a receipt alone
//! proves. An experiment that is reallocated at least every two minutes adds nothing: its test stands as it was.

use featureops_proto::log::ExperimentRecord;
use featureops_proto::v1::SampleRatio;

use crate::State;
use crate::allocation::weights_of;

/// Whole minutes after that of a change in which its weights may not have reached everybody.
const SETTLING_MINUTES: u32 = 1;
const MINUTE_MS: i64 = 60_000;

/// Adds `units` that came under `weights` (basis points) to the sums.
fn close(into: &mut SampleRatio, units: &[u64], weights: &[u32]) {
    let arms = weights.len();
    into.units.resize(arms, 0);
    into.expected.resize(arms, 0);
    into.spread.resize(arms.saturating_mul(arms), 0);
    // At most 2^28 units (`budgets::MOST`) and 10^4 basis points twice: below 2^55.
    let total: u64 = units.iter().fold(0, |sum, units| sum.saturating_add(*units));
    for (sum, units) in into.units.iter_mut().zip(units) {
        *sum = sum.saturating_add(*units);
    }
    for (sum, weight) in into.expected.iter_mut().zip(weights) {
        *sum = sum.saturating_add(total.saturating_mul(u64::from(*weight)));
    }
    for (row, left) in into.spread.chunks_mut(arms.max(1)).zip(weights) {
        for (sum, right) in row.iter_mut().zip(weights) {
            let product = u64::from(*left).saturating_mul(u64::from(*right));
            *sum = sum.saturating_add(total.saturating_mul(product));
        }
    }
}

fn weights(record: &ExperimentRecord) -> Vec<u32> {
    weights_of(&record.runs, record.definition.as_ref().map_or(0, |definition| definition.arms.len()))
}

/// The sums up to now, those of the present weights among them; nothing while the strata say it.
pub fn sample_ratio(record: &ExperimentRecord) -> Option<SampleRatio> {
    let mut sums = record.sample_ratio.clone()?;
    close(&mut sums, &record.units_since_allocation, &weights(record));
    Some(sums)
}

impl State {
    /// The experiment's weights are about to change inside its generation.
    pub(crate) fn close_shares(&mut self, number: u32) {
        let Some(record) = self.experiments.get(&number) else { return };
        let weights = weights(record);
        let first = record.sample_ratio.is_none();
        // Until the first change every unit of the first generation came under the same weights, and none in a second arm.
        // What changed before this was counted has no sums to begin with: it begins now.
        let units = if first && record.allocation_version <= 1 && record.generations.len() <= 1 {
            self.ledgers.get(&number).map(|ledger| ledger.strata.units(1, weights.len())).unwrap_or_default()
        } else {
            record.units_since_allocation.clone()
        };
        let now_ms = self.clock.now_ms();
        let Some(record) = self.experiment_mut(number) else { return };
        close(record.sample_ratio.get_or_insert_default(), &units, &weights);
        record.units_since_allocation.clear();
        record.shares_since_ms = now_ms;
    }

    /// A generation after the first has begun: units of those before come again, so the strata say nothing from its beginning.
    pub(crate) fn open_shares(&mut self, number: u32) {
        let now_ms = self.clock.now_ms();
        let Some(record) = self.experiment_mut(number) else { return };
        if record.generations.len() > 1 {
            record.sample_ratio = Some(SampleRatio::default());
            record.units_since_allocation.clear();
            record.shares_since_ms = now_ms;
        }
    }

    /// A unit's first exposure, in that minute.
    pub(crate) fn count_share(&mut self, number: u32, arm: u8, unix_minute: u32) {
        let Some(record) = self.experiments.get_mut(&number) else { return };
        if record.sample_ratio.is_none() {
            return;
        }
        let changed = u32::try_from(record.shares_since_ms.div_euclid(MINUTE_MS)).unwrap_or(u32::MAX);
        if unix_minute <= changed.saturating_add(SETTLING_MINUTES) {
            return;
        }
        let arms = record.definition.as_ref().map_or(0, |definition| definition.arms.len());
        let record = std::sync::Arc::make_mut(record);
        record.units_since_allocation.resize(arms, 0);
        if let Some(units) = record.units_since_allocation.get_mut(usize::from(arm)) {
            *units = units.saturating_add(1);
        }
    }
}
