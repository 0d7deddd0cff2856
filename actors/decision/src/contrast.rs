//! Arms compared within strata: what each arm's mean would be at the same mix of hours, and how sure that is.
//!
//! The allocation learns, so it moves with time; behaviour moves with time too. An arm that got its traffic in the
//! evening looks better than one that got it at night: pooled moments trip a harmless arm in most experiments with a
//! daily swing. So arms are compared within strata only, by an additive model, mean(s, a) = stratum(s) + arm(a),
//! solved by weighted least squares with one weight a stratum:
//!
//! - weight w_s = 1 / t_s, t_s the stratum's total variance over all arms, shrunk to the experiment's with 400 units. It is a
//!   function of the pooled values only, so that under no effect it is independent of which arm had them.
//! - arm effects solve L d = b, the Laplacian of the arms-by-strata design:
//!   L = sum_s w_s (diag(n_s) - n_s n_s' / N_s), b_a = sum_s w_s n_sa (m_sa - m_s).
//! - their covariance is the sandwich L^-1 (sum_s w_s^2 C_s) L^-1, C_s the covariance of n_sa (m_sa - m_s) with each cell's
//!   own variance, shrunk with 100 units to t_s r_a (r_a: the arm's variance relative to its strata's). Proportions vary
//!   by arm and hour at once; the intervals cover without assuming that they do not.
//! - adjusted means put the arms on the level of all units' mix of strata.
//! - quasi-variances q_a with q_a + q_b close to var(d_a - d_b) for all pairs (Firth & de Menezes 2004) let the arms
//!   be treated as independent where a method needs that.
//!
//! With one stratum everything reduces to the plain means and variances, exactly.
//!
//! Where sums are folded into clusters of units (`moments.rs`), what a cell says of its variance weighs its clusters less one,
//! not its units, and the shrinkage constants are in clusters too: a twentieth, because a cluster's sum, a sum over many
//! units, is close to normal, and its square tells more than that of one skewed unit. (Where behaviour swings by half, a
//! quarter weighs strata too much alike and makes standard errors 11 % larger than units would; a twentieth, .6 % smaller:
//! `cargo test -p featureops-decision --test clusters -- --nocapture`.)

use crate::error::InputError;
use crate::matrix::Matrix;
use crate::moments::{Cell, Table};

/// Units with which a stratum's variance is shrunk to the experiment's.
const STRATUM_SHRINKAGE_UNITS: f64 = 400.0;
/// Units with which a cell's variance is shrunk to what stratum and arm predict.
const CELL_SHRINKAGE_UNITS: f64 = 100.0;
/// Units with which an arm's relative variance is shrunk to 1 (several strata only).
const ARM_SHRINKAGE_UNITS: f64 = 10.0;

/// The shrinkage constants in clusters, beside those in units.
const CLUSTER_SHARE: f64 = 0.05;

/// One arm on the common level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdjustedArm {
    /// Units in the table, after any discount.
    pub units: f64,
    /// Mean at the strata mix of all units; the plain mean for an arm that shares no stratum with control.
    pub mean: f64,
    /// Variance of `mean` as if arms were independent (quasi-variance). Infinite without units.
    pub variance: f64,
    /// Whether a chain of shared strata connects it with the reference arm.
    pub linked: bool,
}

/// Every arm, and the covariance of their differences.
#[derive(Debug, Clone, PartialEq)]
pub struct Adjusted {
    /// In the order of the arms.
    pub arms: Vec<AdjustedArm>,
    /// Strata that had units.
    pub strata: usize,
    /// Total variance of one unit, over all arms.
    pub unit_variance: f64,
    /// Mean of all units.
    pub mean: f64,
    covariance: Matrix,
    null_covariance: Matrix,
    pairs: Vec<Vec<Cell>>,
}

/// An arm less control.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Contrast {
    /// Adjusted mean of the arm less that of control.
    pub difference: f64,
    /// Variance of the difference.
    pub variance: f64,
    /// Variance of the difference if every arm had its strata's common variance: that of a score test of no effect.
    pub null_variance: f64,
    /// Units of a balanced pair in one stratum that would carry the same information: 4 sum_s n_0 n_a / (n_0 + n_a).
    pub effective_units: f64,
    /// The arm's adjusted mean.
    pub mean: f64,
    /// Control's adjusted mean.
    pub control: f64,
}

impl Contrast {
    /// difference / |control|; `None` when control's mean is 0.
    #[must_use]
    pub fn relative(&self) -> Option<f64> {
        (self.control != 0.0).then(|| self.difference / self.control.abs())
    }

    /// sqrt(variance).
    #[must_use]
    pub fn standard_error(&self) -> f64 {
        libm::sqrt(self.variance)
    }
}

impl Adjusted {
    /// Arm less control (arm 0); `None` when no chain of shared strata connects them, or either has no units.
    #[must_use]
    pub fn contrast(&self, arm: usize) -> Option<Contrast> {
        let (own, control) = (self.arms.get(arm)?, self.arms.first()?);
        if arm == 0 || !own.linked || !control.linked || own.units <= 0.0 || control.units <= 0.0 {
            return None;
        }
        let spread = |matrix: &Matrix| matrix.at(arm, arm) + matrix.at(0, 0) - 2.0 * matrix.at(arm, 0);
        let half_units: f64 = self
            .pairs
            .iter()
            .filter_map(|cells| {
                let (own, control) = (cells.get(arm)?.units, cells.first()?.units);
                (own > 0.0 && control > 0.0).then(|| own * control / (own + control))
            })
            .sum();
        let variance = spread(&self.covariance);
        variance.is_finite().then(|| Contrast {
            difference: own.mean - control.mean,
            variance: variance.max(0.0),
            null_variance: spread(&self.null_covariance).max(0.0),
            effective_units: 4.0 * half_units,
            mean: own.mean,
            control: control.mean,
        })
    }
}

/// Solves the additive model. `None` when the table has no units.
///
/// # Errors
/// When the design cannot be solved in floating point.
pub fn adjust(table: &Table) -> Result<Option<Adjusted>, InputError> {
    let totals = arm_totals(table);
    let units: f64 = totals.iter().map(|cell| cell.units).sum();
    if units <= 0.0 {
        return Ok(None);
    }
    let mean = totals.iter().map(|cell| cell.units * cell.mean).sum::<f64>() / units;
    if let [cells] = table.strata.as_slice() {
        return Ok(Some(plain(table, cells, mean)));
    }
    let references: Vec<Reference> = references(table);
    let unit_variance = references.iter().map(|stratum| stratum.squares).sum::<f64>() / units;
    let linked = linked_arms(table);
    let mut adjusted = Adjusted {
        arms: totals
            .iter()
            .zip(&linked)
            .map(|(cell, linked)| AdjustedArm {
                units: cell.units,
                mean: cell.mean,
                variance: if cell.units > 0.0 {
                    cell.squares / cell.units / cell.units
                } else {
                    f64::INFINITY
                },
                linked: *linked,
            })
            .collect(),
        strata: table.strata.len(),
        unit_variance,
        mean,
        covariance: Matrix::zero(table.arms),
        null_covariance: Matrix::zero(table.arms),
        pairs: table.strata.clone(),
    };
    // Nothing varies: every mean is the same and known.
    if unit_variance <= 0.0 {
        for arm in &mut adjusted.arms {
            arm.variance = if arm.units > 0.0 { 0.0 } else { f64::INFINITY };
        }
        return Ok(Some(adjusted));
    }
    let variances: Vec<f64> = references
        .iter()
        .map(|stratum| {
            let (weight, shrinkage) = match stratum.cluster_freedom {
                Some(freedom) => (freedom, STRATUM_SHRINKAGE_UNITS * CLUSTER_SHARE),
                None => (stratum.units, STRATUM_SHRINKAGE_UNITS),
            };
            let squares = stratum.squares * (weight / stratum.units);
            (squares + shrinkage * unit_variance) / (weight + shrinkage)
        })
        .collect();
    solve(table, &references, &variances, &mut adjusted)?;
    quasi_variances(&mut adjusted);
    Ok(Some(adjusted))
}

/// One stratum: the textbook's numbers.
fn plain(table: &Table, cells: &[Cell], mean: f64) -> Adjusted {
    let mut covariance = Matrix::zero(table.arms);
    let mut null_covariance = Matrix::zero(table.arms);
    let units: f64 = cells.iter().map(|cell| cell.units).sum();
    let squares: f64 =
        cells.iter().map(|cell| cell.squares + cell.units * (cell.mean - mean) * (cell.mean - mean)).sum();
    let unit_variance = squares / units;
    let arms = cells
        .iter()
        .enumerate()
        .map(|(arm, cell)| {
            let freedom = if table.proportion { cell.units } else { cell.units - 1.0 };
            let variance = if cell.units <= 0.0 {
                f64::INFINITY
            } else if freedom > 0.0 {
                cell.squares / freedom / cell.units
            } else {
                unit_variance / cell.units
            };
            covariance.add(arm, arm, variance);
            null_covariance.add(arm, arm, unit_variance / cell.units.max(1e-12));
            AdjustedArm { units: cell.units, mean: cell.mean, variance, linked: cell.units > 0.0 }
        })
        .collect();
    Adjusted {
        arms,
        strata: 1,
        unit_variance,
        mean,
        covariance,
        null_covariance,
        pairs: vec![cells.to_vec()],
    }
}

/// Each arm over all strata.
fn arm_totals(table: &Table) -> Vec<Cell> {
    let mut totals = vec![Cell::default(); table.arms];
    for cells in &table.strata {
        for (total, cell) in totals.iter_mut().zip(cells) {
            let units = total.units + cell.units;
            if cell.units > 0.0 {
                let apart = cell.mean - total.mean;
                total.squares += cell.squares + apart * apart * (total.units * cell.units / units);
                total.mean += apart * (cell.units / units);
                total.units = units;
            }
        }
    }
    totals
}

struct Reference {
    units: f64,
    mean: f64,
    /// Total sum of squares about `mean`.
    squares: f64,
    /// Of clusters, where sums are folded.
    cluster_freedom: Option<f64>,
}

fn references(table: &Table) -> Vec<Reference> {
    table
        .strata
        .iter()
        .map(|cells| {
            let units: f64 = cells.iter().map(|cell| cell.units).sum();
            let mean = cells.iter().map(|cell| cell.units * cell.mean).sum::<f64>() / units;
            let squares = cells
                .iter()
                .map(|cell| cell.squares + cell.units * (cell.mean - mean) * (cell.mean - mean))
                .sum();
            let folded = cells.iter().any(|cell| cell.clusters > 0.0);
            let freedom = || cells.iter().map(|cell| (cell.clusters - 1.0).max(0.0)).sum();
            Reference { units, mean, squares, cluster_freedom: folded.then(freedom) }
        })
        .collect()
}

/// Arms that a chain of shared strata connects with control, or with the first arm that has units.
fn linked_arms(table: &Table) -> Vec<bool> {
    let mut linked = vec![false; table.arms];
    let first = (0..table.arms)
        .find(|arm| table.strata.iter().any(|cells| cells.get(*arm).is_some_and(|cell| cell.units > 0.0)));
    if let Some(place) = first.and_then(|first| linked.get_mut(first)) {
        *place = true;
    }
    // Each pass adds an arm or is the last.
    for _ in 0..table.arms {
        let before = linked.iter().filter(|linked| **linked).count();
        for cells in &table.strata {
            if cells.iter().zip(&linked).any(|(cell, linked)| *linked && cell.units > 0.0) {
                for (cell, linked) in cells.iter().zip(linked.iter_mut()) {
                    *linked |= cell.units > 0.0;
                }
            }
        }
        if linked.iter().filter(|linked| **linked).count() == before {
            break;
        }
    }
    linked
}

fn solve(
    table: &Table,
    references: &[Reference],
    variances: &[f64],
    adjusted: &mut Adjusted,
) -> Result<(), InputError> {
    let ratios = arm_ratios(table, variances, adjusted.unit_variance);
    // The first linked arm is the reference: its effect is 0 and it has no row.
    let members: Vec<usize> = adjusted
        .arms
        .iter()
        .enumerate()
        .filter_map(|(arm, value)| value.linked.then_some(arm))
        .skip(1)
        .collect();
    let place_of = |arm: usize| members.iter().position(|member| *member == arm);
    let places: Vec<Option<usize>> = (0..table.arms).map(place_of).collect();
    let size = members.len();
    let (mut laplacian, mut middle, mut null_middle) =
        (Matrix::zero(size), Matrix::zero(size), Matrix::zero(size));
    let mut right = vec![0.0; size];
    for ((cells, stratum), variance) in table.strata.iter().zip(references).zip(variances) {
        // A stratum of arms that nothing links to the reference tells nothing about it.
        if !cells.iter().zip(&adjusted.arms).any(|(cell, arm)| arm.linked && cell.units > 0.0) {
            continue;
        }
        let weight = 1.0 / variance;
        let cell_variances: Vec<(f64, f64)> = cells
            .iter()
            .zip(&ratios)
            .map(|(cell, ratio)| {
                let predicted = variance * ratio.ratio;
                (own_variance(cell, ratio.freedom_back, predicted) * cell.units, variance * cell.units)
            })
            .collect();
        // n_j^2 times the variance of a cell's mean, summed over the stratum: own, and under no effect.
        let (sum, null_sum) =
            cell_variances.iter().fold((0.0, 0.0), |sum, next| (sum.0 + next.0, sum.1 + next.1));
        for ((cell, (own, null)), place) in cells.iter().zip(&cell_variances).zip(&places) {
            let Some(row) = *place else { continue };
            if cell.units <= 0.0 {
                continue;
            }
            let share = cell.units / stratum.units;
            if let Some(value) = right.get_mut(row) {
                *value += weight * cell.units * (cell.mean - stratum.mean);
            }
            laplacian.add(row, row, weight * cell.units);
            middle.add(row, row, weight * weight * own);
            null_middle.add(row, row, weight * weight * null);
            for ((other, (other_own, other_null)), other_place) in
                cells.iter().zip(&cell_variances).zip(&places)
            {
                let Some(column) = *other_place else { continue };
                let other_share = other.units / stratum.units;
                laplacian.add(row, column, -weight * share * other.units);
                let spread = |own: f64, other: f64, sum: f64| {
                    share * other_share * sum - other_share * own - share * other
                };
                middle.add(row, column, weight * weight * spread(*own, *other_own, sum));
                null_middle.add(row, column, weight * weight * spread(*null, *other_null, null_sum));
            }
        }
    }
    let inverse = laplacian.inverse().ok_or(InputError::Degenerate)?;
    let effects = inverse.times_vector(&right);
    let covariance = inverse.sandwich(&middle);
    let null_covariance = inverse.sandwich(&null_middle);

    let effect_of = |arm: usize| {
        places.get(arm).copied().flatten().and_then(|place| effects.get(place).copied()).unwrap_or(0.0)
    };
    // The level at which the linked arms' effects average to the linked units' mean.
    let linked = |arm: &AdjustedArm| if arm.linked { arm.units } else { 0.0 };
    let units: f64 = adjusted.arms.iter().map(linked).sum();
    let level = adjusted
        .arms
        .iter()
        .enumerate()
        .map(|(arm, value)| linked(value) * (value.mean - effect_of(arm)))
        .sum::<f64>()
        / units;
    for (arm, value) in adjusted.arms.iter_mut().enumerate() {
        if value.linked {
            value.mean = level + effect_of(arm);
        }
    }
    for (row, place) in places.iter().enumerate() {
        for (column, other) in places.iter().enumerate() {
            if let (Some(place), Some(other)) = (place, other) {
                adjusted.covariance.add(row, column, covariance.at(*place, *other));
                adjusted.null_covariance.add(row, column, null_covariance.at(*place, *other));
            }
        }
    }
    Ok(())
}

/// A unit's variance in a cell, as the cell says it, shrunk to what stratum and arm predict.
fn own_variance(cell: &Cell, freedom_back: f64, predicted: f64) -> f64 {
    let freedom = (cell.units - 1.0 + freedom_back).max(0.0);
    if cell.clusters > 0.0 && freedom > 0.0 {
        let (weight, shrinkage) =
            ((cell.clusters - 1.0).clamp(0.0, freedom), CELL_SHRINKAGE_UNITS * CLUSTER_SHARE);
        return (cell.squares / freedom * weight + shrinkage * predicted) / (weight + shrinkage);
    }
    (cell.squares + CELL_SHRINKAGE_UNITS * predicted) / (freedom + CELL_SHRINKAGE_UNITS)
}

struct ArmRatio {
    /// The arm's variance relative to its strata's.
    ratio: f64,
    /// Degrees of freedom a cell gets back where the convention has no Bessel factor.
    freedom_back: f64,
}

fn arm_ratios(table: &Table, variances: &[f64], unit_variance: f64) -> Vec<ArmRatio> {
    (0..table.arms)
        .map(|arm| {
            let rows = || {
                table
                    .strata
                    .iter()
                    .zip(variances)
                    .filter_map(|(cells, variance)| cells.get(arm).map(|cell| (cell, *variance)))
                    .filter(|(cell, _)| cell.units > 0.0)
            };
            let count = rows().count().max(1) as f64;
            let freedom_back = if table.proportion { 1.0 / count } else { 0.0 };
            let squares: f64 = rows().map(|(cell, _)| cell.squares).sum();
            let expected: f64 =
                rows().map(|(cell, variance)| (cell.units - 1.0 + freedom_back).max(0.0) * variance).sum();
            let prior = ARM_SHRINKAGE_UNITS * unit_variance;
            ArmRatio { ratio: (squares + prior) / (expected + prior), freedom_back }
        })
        .collect()
}

/// Least squares of q_a + q_b on the contrast variances, each pair weighted by its variance's inverse square.
fn quasi_variances(adjusted: &mut Adjusted) {
    let members: Vec<usize> =
        adjusted.arms.iter().enumerate().filter_map(|(arm, value)| value.linked.then_some(arm)).collect();
    let covariance = &adjusted.covariance;
    let pair = |left: usize, right: usize| {
        (covariance.at(left, left) + covariance.at(right, right) - 2.0 * covariance.at(left, right))
            .max(1e-300)
    };
    let solved: Vec<(usize, f64)> = match members.as_slice() {
        [] | [_] => Vec::new(),
        // Two arms: one equation. Split as their own units' variances would be.
        [left, right] => {
            let variance = pair(*left, *right);
            let own = |arm: &usize| {
                adjusted.arms.get(*arm).map_or(0.0, |arm| arm.variance).max(1e-300 + variance * 1e-6)
            };
            let sum = own(left) + own(right);
            vec![(*left, variance * own(left) / sum), (*right, variance * own(right) / sum)]
        }
        members => {
            let mut normal = Matrix::zero(members.len());
            let mut target = vec![0.0; members.len()];
            // Scaled to the smallest pair, or the squares leave the range of f64.
            let unit = members
                .iter()
                .flat_map(|left| {
                    members.iter().filter(move |right| *right != left).map(move |right| (left, right))
                })
                .fold(f64::INFINITY, |least, (left, right)| least.min(pair(*left, *right)));
            for (row, left) in members.iter().enumerate() {
                for (column, right) in members.iter().enumerate() {
                    if row == column {
                        continue;
                    }
                    let variance = pair(*left, *right) / unit;
                    let weight = 1.0 / (variance * variance);
                    normal.add(row, row, weight);
                    normal.add(row, column, weight);
                    if let Some(value) = target.get_mut(row) {
                        *value += weight * variance;
                    }
                }
            }
            let Some(inverse) = normal.inverse() else { return };
            members
                .iter()
                .zip(inverse.times_vector(&target))
                .map(|(arm, value)| {
                    let least = members
                        .iter()
                        .filter(|other| *other != arm)
                        .fold(f64::INFINITY, |least, other| least.min(pair(*arm, *other)));
                    // An arm far better known than all others can come out negative: its part of any contrast is negligible.
                    (*arm, (value * unit).max(0.005 * least))
                })
                .collect()
        }
    };
    for (arm, variance) in solved {
        if let Some(place) = adjusted.arms.get_mut(arm) {
            place.variance = variance;
        }
    }
}
