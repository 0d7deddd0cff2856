//! Covariates: what was known of the units before their exposure is taken from their outcomes (CUPED; Deng, Xu, Kohavi &
//! Walker 2013, equations 3 to 5; with several, Lin 2013 without interactions).
//!
//! With Y the outcome (of a ratio: linearised as in `moments.rs`), X_j the covariates and theta one vector for the whole table,
//!
//! ```text
//!   Z = Y - sum_j theta_j (X_j - stratum's mean of X_j)      A theta = b      A_jk = sum over cells of S(X_j, X_k)
//!                                                                             b_j  = sum over cells of S(Y, X_j)
//! ```
//!
//! where S is the sum of products of deviations from the means *of the cell*, so neither an effect nor an hour can enter theta.
//! Randomisation makes X the same in all arms but for chance, so whatever theta is, the difference of Z estimates that of Y: without
//! bias for a given theta, with one of order 1/n for a learned one. Its spread is smaller by the squared correlation.
//!
//! One theta over all strata, not one a stratum. What is learned from a table costs its degrees of freedom, and a stratum may have few
//! of them (64 clusters an arm, or a night's handful of units), while the loss from a theta that is not quite a stratum's own is of
//! second order, and never a bias. It also does not change when neighbouring strata are merged.
//!
//! A missing value was counted as 0. That, too, is a function of what was known before the exposure, so nothing above changes.
//!
//! After the fold S is known by cluster only, and so are the squares of Z. Where those of Y are still known by unit, of a proportion or a
//! capped metric, they steady them (a control variate): squares(Z) + c (squares by unit - squares by cluster of Y), with
//! c = (1 - R^2)^2, the regression of a normal residual's square on the outcome's, which leaves 1 - (1 - R^2)^2 of the clusters'
//! uncertainty. So a covariate that explains little costs nothing.
//!
//! Precision: the residuals' squares lose one degree of freedom a covariate, and theta's own uncertainty adds to the difference
//! as in any analysis of covariance; both are in the cells' squares. A covariate that follows from those before it is dropped.

use featureops_proto::v1;

use crate::contrast::adjust;
use crate::error::InputError;
use crate::matrix::Matrix;
use crate::moments::{Both, Cell, Scope, both, metric_of};
use crate::number::number;

/// Covariates at most, as the experiment allows.
pub const COVARIATES_MAX: usize = 4;
/// Degrees of freedom below which nothing is taken: theta would be noise.
pub const FREEDOM_MIN: f64 = 50.0;
/// What must be left of a covariate's squares when those before it have taken theirs.
const LEFT_MIN: f64 = 1e-9;

/// What the moments say of the covariates of one arm in one stratum, in the covariates' units and weighted as the cell is.
#[derive(Debug, Clone, PartialEq)]
pub struct Beside {
    /// Mean of each.
    pub means: Vec<f64>,
    /// Sum of products of deviations with the outcome's.
    pub products: Vec<f64>,
    /// Sums of products of deviations with each other.
    pub squares: Matrix,
}

impl Beside {
    /// Of a cell without units.
    #[must_use]
    pub fn none(covariates: usize) -> Self {
        Self {
            means: vec![0.0; covariates],
            products: vec![0.0; covariates],
            squares: Matrix::zero(covariates),
        }
    }
}

/// Takes the covariates' part from the cells, in place. Returns theta by covariate, 0 where it was dropped; `None`, and nothing is
/// changed, when there is too little to learn it from. `by_unit`: the same cells with the outcome's squares by unit, where the others
/// are of clusters.
#[must_use]
pub fn take(
    strata: &mut [Vec<Cell>],
    beside: &[Vec<Beside>],
    by_unit: Option<&[Vec<Cell>]>,
) -> Option<Vec<f64>> {
    let covariates = beside.iter().flatten().map(|beside| beside.means.len()).max()?;
    let (mut normal, mut target) = (Matrix::zero(covariates), vec![0.0; covariates]);
    for cell in beside.iter().flatten() {
        for (row, (sum, product)) in target.iter_mut().zip(&cell.products).enumerate() {
            *sum += product;
            for column in 0..covariates {
                normal.add(row, column, cell.squares.at(row, column));
            }
        }
    }
    let freedom = freedom(strata);
    if freedom.is_nan() || freedom < FREEDOM_MIN {
        return None;
    }
    let theta = solve(&normal, &target);
    let used = theta.iter().filter(|theta| **theta != 0.0).count() as f64;
    if used == 0.0 {
        return None;
    }
    let steadied = by_unit.map(|by_unit| (by_unit, unexplained(strata, &theta, &target)));
    let cost = freedom / (freedom - used) * (1.0 + used / (freedom - used - 1.0));
    for (row, (cells, beside)) in strata.iter_mut().zip(beside).enumerate() {
        let units: f64 = cells.iter().map(|cell| cell.units).sum();
        let level = |at: usize| {
            let sum: f64 = cells.iter().zip(beside).map(|(c, b)| c.units * mean(b, at)).sum();
            if units > 0.0 { sum / units } else { 0.0 }
        };
        let levels: Vec<f64> = (0..covariates).map(level).collect();
        let cells = cells.iter_mut().zip(beside).enumerate().filter(|(_, (cell, _))| cell.units > 0.0);
        for (arm, (cell, beside)) in cells {
            let (mut squares, mut shift) = (cell.squares, 0.0);
            if let Some((by_unit, left)) = &steadied
                && cell.clusters > 0.0
                && let Some(own) = by_unit.get(row).and_then(|cells| cells.get(arm))
            {
                let share = left * left;
                squares += share * (own.squares - cell.squares);
                let clusters = 1.0 + (cell.clusters - 1.0) / (1.0 - share).max(1e-9);
                cell.clusters = clusters.min(cell.units).max(cell.clusters);
            }
            let explained = beside.squares.times_vector(&theta);
            for (at, (theta, level)) in theta.iter().zip(&levels).enumerate() {
                let product = beside.products.get(at).copied().unwrap_or(0.0);
                squares += theta * (explained.get(at).copied().unwrap_or(0.0) - 2.0 * product);
                shift += theta * (mean(beside, at) - level);
            }
            cell.mean -= shift;
            cell.squares = squares.max(0.0) * cost;
        }
    }
    Some(theta)
}

/// 1 - R^2 over all cells.
fn unexplained(strata: &[Vec<Cell>], theta: &[f64], target: &[f64]) -> f64 {
    let all: f64 = strata.iter().flatten().map(|cell| cell.squares).sum();
    let explained: f64 = theta.iter().zip(target).map(|(theta, sum)| theta * sum).sum();
    if all > 0.0 { (1.0 - explained / all).clamp(0.0, 1.0) } else { 0.0 }
}

fn mean(beside: &Beside, at: usize) -> f64 {
    beside.means.get(at).copied().unwrap_or(0.0)
}

/// Degrees of freedom of sums over the cells, each weighed by its units (Satterthwaite 1946): units or clusters less one.
fn freedom(strata: &[Vec<Cell>]) -> f64 {
    let (mut units, mut spread) = (0.0, 0.0);
    for cell in strata.iter().flatten() {
        let own = if cell.clusters > 0.0 { cell.clusters } else { cell.units } - 1.0;
        if own > 0.0 {
            units += cell.units;
            spread += cell.units * cell.units / own;
        }
    }
    if spread > 0.0 { units * units / spread } else { 0.0 }
}

/// Solves the normal equations by elimination in the covariates' order; of one that is constant, or follows from those before it,
/// the coefficient is 0.
fn solve(normal: &Matrix, target: &[f64]) -> Vec<f64> {
    let size = normal.size();
    let mut rows: Vec<Vec<f64>> =
        (0..size).map(|row| (0..size).map(|column| normal.at(row, column)).collect()).collect();
    let mut right = target.to_vec();
    let mut kept = vec![false; size];
    for pivot in 0..size {
        let own = normal.at(pivot, pivot);
        let Some(row) = rows.get(pivot).cloned() else { break };
        let left = row.get(pivot).copied().unwrap_or(0.0);
        if !(own.is_finite() && own > 0.0 && left > LEFT_MIN * own) {
            continue;
        }
        if let Some(kept) = kept.get_mut(pivot) {
            *kept = true;
        }
        let value = right.get(pivot).copied().unwrap_or(0.0);
        for (at, (other, right)) in rows.iter_mut().zip(&mut right).enumerate() {
            if at == pivot {
                continue;
            }
            let factor = other.get(pivot).copied().unwrap_or(0.0) / left;
            for (into, from) in other.iter_mut().zip(&row) {
                *into -= factor * from;
            }
            *right -= factor * value;
        }
    }
    let pivot = |at: usize| rows.get(at).and_then(|row| row.get(at)).copied().unwrap_or(0.0);
    let solved = right.iter().zip(&kept).enumerate();
    let theta = solved.map(|(at, (right, kept))| if *kept { right / pivot(at) } else { 0.0 });
    theta.map(|theta| if theta.is_finite() { theta } else { 0.0 }).collect()
}

/// For a record: theta of every covariate, and what the adjustment did to each arm's contrast. None without covariates.
pub(crate) fn numbers(inputs: &v1::DecisionInputs, metric: &v1::MetricInput) -> Vec<v1::Number> {
    let mut numbers = Vec::new();
    if inputs.covariates.is_empty() {
        return numbers;
    }
    let Ok(Both { plain, adjusted: Some((table, theta)) }) = both(inputs, metric, Scope::Generation) else {
        return numbers;
    };
    for (covariate, theta) in inputs.covariates.iter().zip(theta) {
        numbers.push(number(format!("theta.{}", covariate.attribute), theta));
    }
    let (Ok(Some(plain)), Ok(Some(adjusted))) = (adjust(&plain), adjust(&table)) else { return numbers };
    for (arm, input) in inputs.arms.iter().enumerate().skip(1) {
        if let (Some(plain), Some(adjusted)) = (plain.contrast(arm), adjusted.contrast(arm)) {
            let variant = &input.variant;
            numbers.push(number(format!("unadjusted_difference.{variant}"), plain.difference));
            numbers.push(number(format!("unadjusted_standard_error.{variant}"), plain.standard_error()));
            if plain.variance > 0.0 {
                let reduction = 1.0 - adjusted.variance / plain.variance;
                numbers.push(number(format!("variance_reduction.{variant}"), reduction));
            }
        }
    }
    numbers
}

/// A sentence on them for the story of a record of the primary metric.
pub(crate) fn story(inputs: &v1::DecisionInputs) -> Option<v1::Sentence> {
    let metric = metric_of(inputs, v1::Role::Primary).ok()?;
    sentence(inputs, metric)
}

/// The same of another metric.
pub(crate) fn sentence(inputs: &v1::DecisionInputs, metric: &v1::MetricInput) -> Option<v1::Sentence> {
    let numbers: Vec<v1::Number> =
        numbers(inputs, metric).into_iter().filter(|number| number.name.starts_with("theta.")).collect();
    let taken = inputs.covariates.iter().zip(&numbers);
    let text: Vec<String> =
        taken.map(|(covariate, theta)| format!("{} times {}", theta.value, covariate.attribute)).collect();
    (!numbers.is_empty()).then(|| v1::Sentence {
        text: format!(
            "From each unit's {} were taken {}, known before its exposure.",
            metric.metric,
            text.join(" and ")
        ),
        numbers: numbers.into_iter().map(|number| number.name).collect(),
    })
}

/// Covariates of the inputs, which must not be more than there can be.
pub(crate) fn checked(inputs: &v1::DecisionInputs) -> Result<&[v1::CovariateInput], InputError> {
    if inputs.covariates.len() > COVARIATES_MAX {
        return Err(InputError::Shape("more covariates than an experiment may declare"));
    }
    Ok(&inputs.covariates)
}
