//! Sample-ratio mismatch: do units arrive in the shares that were asked for? If not, every comparison is void.
//!
//! Pearson's chi-square, generalised to strata whose expected shares differ: with observed less expected d summed over
//! strata and V = sum_s N_s (diag(p_s) - p_s p_s'), d' V^- d is chi-square with (arms with expected units) - 1 degrees of
//! freedom. With one stratum it is Pearson's statistic. Arms of weight 0 are no degree of freedom.
//!
//! Hours of the ledger are no such strata once weights changed inside them: the inputs then carry the sums over allocations
//! ([`v1::SampleRatio`]), of the units that were surely assigned under their weights. Units in a second arm, known by a receipt only,
//! or seen within two minutes of a change are in none of them, so while an experiment is reallocated all the time its test stands as
//! it was.

use featureops_proto::v1;

use crate::matrix::Matrix;
use crate::special::chi_square_tail;

/// Below it the arms' shares contradict the weights.
pub const ALPHA: f64 = 0.001;
/// Units below which the chi-square approximation is not trusted to block anything.
pub const UNITS_MIN: u64 = 200;

/// Units of one stratum and the shares they were to have (any positive scale).
#[derive(Debug, Clone, Copy)]
pub struct Shares<'a> {
    /// Per arm.
    pub units: &'a [u64],
    /// Per arm; 0 for an arm that was to have none.
    pub expected: &'a [f64],
}

/// p-value that the units follow their expected shares; `None` when there is nothing to test (one arm, no units).
#[must_use]
pub fn p_value(strata: &[Shares<'_>]) -> Option<f64> {
    let arms = strata.first()?.units.len();
    let mut apart = vec![0.0; arms];
    let mut spread = Matrix::zero(arms);
    let mut expected_units = vec![0.0; arms];
    let mut impossible = false;
    for stratum in strata {
        let total: f64 = stratum.expected.iter().filter(|share| **share > 0.0).sum();
        if stratum.units.len() != arms || stratum.expected.len() != arms || total <= 0.0 || !total.is_finite()
        {
            return None;
        }
        let units: f64 = stratum.units.iter().map(|units| *units as f64).sum();
        let share = |expected: f64| if expected > 0.0 { expected / total } else { 0.0 };
        for (arm, (observed, expected)) in stratum.units.iter().zip(stratum.expected).enumerate() {
            let own = share(*expected);
            impossible |= own == 0.0 && *observed > 0;
            if let (Some(apart), Some(sum)) = (apart.get_mut(arm), expected_units.get_mut(arm)) {
                *apart += *observed as f64 - units * own;
                *sum += units * own;
            }
            spread.add(arm, arm, units * own);
            for (other, expected) in stratum.expected.iter().enumerate() {
                spread.add(arm, other, -units * own * share(*expected));
            }
        }
    }
    if impossible {
        return Some(0.0);
    }
    tail(&apart, &spread, &expected_units)
}

/// Upper tail of d' V^- d, for differences that sum to 0; `None` when fewer than two arms were to have units.
fn tail(apart: &[f64], spread: &Matrix, expected_units: &[f64]) -> Option<f64> {
    // The differences sum to 0: the last arm with expected units is told by the others.
    let mut members: Vec<usize> =
        expected_units.iter().enumerate().filter_map(|(arm, units)| (*units > 0.0).then_some(arm)).collect();
    members.pop()?;
    if members.is_empty() {
        return None;
    }
    let mut reduced = Matrix::zero(members.len());
    for (row, arm) in members.iter().enumerate() {
        for (column, other) in members.iter().enumerate() {
            reduced.add(row, column, spread.at(*arm, *other));
        }
    }
    let apart: Vec<f64> = members.iter().filter_map(|arm| apart.get(*arm).copied()).collect();
    let solved = reduced.inverse()?.times_vector(&apart);
    let statistic: f64 = apart.iter().zip(&solved).map(|(left, right)| left * right).sum();
    Some(chi_square_tail(statistic.max(0.0), u32::try_from(members.len()).unwrap_or(u32::MAX)))
}

/// p-value of two rows of counts having the same shares: chi-square of the 2 x arms table; `None` when a row is empty.
#[must_use]
pub fn same_shares(left: &[u64], right: &[u64]) -> Option<f64> {
    let sum = |row: &[u64]| row.iter().map(|count| *count as f64).sum::<f64>();
    let (left_sum, right_sum) = (sum(left), sum(right));
    if left.len() != right.len() || left_sum <= 0.0 || right_sum <= 0.0 {
        return None;
    }
    let mut statistic = 0.0;
    let mut columns = 0_u32;
    for (left, right) in left.iter().zip(right) {
        let column = *left as f64 + *right as f64;
        if column > 0.0 {
            columns += 1;
            for (count, row) in [(*left as f64, left_sum), (*right as f64, right_sum)] {
                let expected = row * column / (left_sum + right_sum);
                statistic += (count - expected) * (count - expected) / expected;
            }
        }
    }
    (columns > 1).then(|| chi_square_tail(statistic, columns - 1))
}

/// p-value of sums over allocations: d = units - N w, V = N (diag(w) - w w'), weights in basis points; `None` when there is
/// nothing to test, or the lists do not fit each other.
#[must_use]
pub fn of_sums(sums: &v1::SampleRatio) -> Option<f64> {
    /// Basis points of everything.
    const WHOLE: f64 = 10_000.0;
    let arms = sums.units.len();
    if sums.expected.len() != arms || sums.spread.len() != arms.checked_mul(arms)? {
        return None;
    }
    let expected: Vec<f64> = sums.expected.iter().map(|points| *points as f64 / WHOLE).collect();
    if sums.units.iter().zip(&sums.expected).any(|(units, expected)| *units > 0 && *expected == 0) {
        return Some(0.0);
    }
    let mut spread = Matrix::zero(arms);
    for (row, own) in expected.iter().enumerate() {
        spread.add(row, row, *own);
    }
    for (at, product) in sums.spread.iter().enumerate() {
        spread.add(at.checked_div(arms)?, at.checked_rem(arms)?, -(*product as f64) / (WHOLE * WHOLE));
    }
    let apart: Vec<f64> =
        sums.units.iter().zip(&expected).map(|(units, expected)| *units as f64 - expected).collect();
    tail(&apart, &spread, &expected)
}

/// The test on a decision's inputs; `None` with too few units, or where nothing was recorded that could be tested.
#[must_use]
pub fn of_inputs(inputs: &v1::DecisionInputs) -> Option<f64> {
    if let Some(sums) = &inputs.sample_ratio {
        let units = sums.units.iter().fold(0_u64, |sum, units| sum.saturating_add(*units));
        return if units < UNITS_MIN { None } else { of_sums(sums) };
    }
    if inputs.allocation_version > 1 || inputs.weights.len() != inputs.arms.len() {
        return None;
    }
    let mut units = vec![0_u64; inputs.arms.len()];
    for stratum in inputs.strata.iter().filter(|stratum| stratum.generation == inputs.generation) {
        for (sum, arm) in units.iter_mut().zip(&stratum.arms) {
            *sum = sum.saturating_add(arm.units);
        }
    }
    if units.iter().fold(0_u64, |sum, units| sum.saturating_add(*units)) < UNITS_MIN {
        return None;
    }
    let expected: Vec<f64> = inputs.weights.iter().map(|weight| f64::from(*weight)).collect();
    p_value(&[Shares { units: &units, expected: &expected }])
}
