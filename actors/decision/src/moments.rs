//! From the ledger's integers to one table of cells: arms by strata, for one metric.
//!
//! A cell is (units, mean, centred sum of squares). The centred sum is taken in integers, n Q - S^2, and divided once:
//! in floating point the subtraction would lose every digit of a metric whose mean is large beside its spread.
//!
//! A ratio (clicks per view) is linearised against its stratum, so that a change of allocation between strata with
//! different ratios cannot masquerade as an effect. With R_s and D_s the stratum's ratio and mean denominator, k_a the
//! arm's denominator relative to its strata, and d_a the arm's ratio less its strata's:
//! mean = R_s + (num - R_s den) / (D_s k_a), deviations as num - (R_s + d_a) den over the same divisor.
//! With one stratum the mean is the arm's own ratio and the squares are the delta method's (Deng et al. 2018, eq. 4).
//!
//! Moments of clusters. Once an experiment's sums are folded, the ledger knows only sums S_c over hash clusters of n_c units.
//! With the mean m = S / n, the residuals S_c - m n_c sum to squares of which the expectation is
//! variance x (n - sum n_c^2 / n); so a unit's variance is n sum (S_c - m n_c)^2 / (n^2 - sum n_c^2), without bias
//! for any sizes of clusters. (With G equal clusters that is the textbook's factor G / (G - 1); with n_c = 1 it is the units'
//! own formula, so there is one formula.) What clusters cost is certainty of the variance: G - 1 degrees of freedom.

use featureops_proto::v1;

use crate::covariates::{Beside, checked, take};
use crate::error::InputError;

/// Arms at most, as the experiment allows.
pub const ARMS_MAX: usize = 32;
/// Strata at most: 64 of the ledger and one for each further generation.
pub const STRATA_MAX: usize = 256;
/// Units beyond which a cell's count no longer matters and floating point begins to.
const UNITS_MAX: f64 = 1e12;

/// One arm in one stratum.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Cell {
    /// Exposed units; fractional only after a discount.
    pub units: f64,
    /// Mean per unit, in the metric's unit.
    pub mean: f64,
    /// Sum of squared deviations from `mean`, of its square; from clusters: what it would be expected to be.
    pub squares: f64,
    /// Clusters that `squares` rests on; 0: every unit by itself.
    pub clusters: f64,
}

/// Arms by strata for one metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Columns.
    pub arms: usize,
    /// Rows; each holds `arms` cells.
    pub strata: Vec<Vec<Cell>>,
    /// A share of units: its variance is p (1 - p) without Bessel's correction.
    pub proportion: bool,
}

/// Which strata a table takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those of the running generation, as decisions do.
    Generation,
    /// Those of the running generation, within the learner's window and discounted by age, as the policy does.
    Learner,
    /// All, as the final analysis does.
    Everything,
}

/// The first metric of a role.
///
/// # Errors
/// When there is none.
pub fn metric_of(inputs: &v1::DecisionInputs, role: v1::Role) -> Result<&v1::MetricInput, InputError> {
    inputs
        .metrics
        .iter()
        .find(|metric| metric.role == role as i32)
        .ok_or(InputError::Metric("none has the needed role"))
}

/// The table of one metric, adjusted by the experiment's covariates where it has any and they can be learned: what decisions rest
/// on. Strata without units are left out.
///
/// # Errors
/// When lengths differ or the moments contradict themselves.
pub fn table(
    inputs: &v1::DecisionInputs,
    metric: &v1::MetricInput,
    scope: Scope,
) -> Result<Table, InputError> {
    if inputs.covariates.is_empty() {
        return plain(inputs, metric, scope);
    }
    let both = both(inputs, metric, scope)?;
    Ok(both.adjusted.map_or(both.plain, |(table, _)| table))
}

/// A table without and with its covariates.
#[derive(Debug, Clone, PartialEq)]
pub struct Both {
    /// As if none had been declared.
    pub plain: Table,
    /// With theta by covariate; absent: there are none, or too little data to learn theta.
    pub adjusted: Option<(Table, Vec<f64>)>,
}

/// Both tables of one metric.
///
/// # Errors
/// As [`table`].
pub fn both(inputs: &v1::DecisionInputs, metric: &v1::MetricInput, scope: Scope) -> Result<Both, InputError> {
    let plain = plain(inputs, metric, scope)?;
    if checked(inputs)?.is_empty() {
        return Ok(Both { plain, adjusted: None });
    }
    let (arms, rows) = rows(inputs, metric, scope, true)?;
    let shown: Vec<&v1::Stratum> = rows.iter().map(|(_, stratum, _)| *stratum).collect();
    let (mut strata, lines) = linearised(arms, rows);
    let mut beside = Vec::with_capacity(strata.len());
    for ((stratum, cells), lines) in shown.iter().zip(&strata).zip(&lines) {
        let cells = cells.iter().zip(&stratum.arms).zip(lines);
        let read = cells.map(|((cell, arm), line)| read_beside(inputs, metric, arm, cell, *line));
        beside.push(read.collect::<Result<Vec<_>, _>>()?);
    }
    let by_unit = if metric.capped || plain.proportion {
        Some(linearised(arms, self::rows(inputs, metric, scope, false)?.1).0)
    } else {
        None
    };
    let Some(theta) = take(&mut strata, &beside, by_unit.as_deref()) else {
        return Ok(Both { plain, adjusted: None });
    };
    // What is left of a proportion is no share of units any more.
    Ok(Both { plain, adjusted: Some((finished(arms, strata, false), theta)) })
}

fn plain(inputs: &v1::DecisionInputs, metric: &v1::MetricInput, scope: Scope) -> Result<Table, InputError> {
    let (arms, rows) = rows(inputs, metric, scope, false)?;
    Ok(finished(arms, linearised(arms, rows).0, metric.kind() == v1::metric::Kind::Proportion))
}

fn finished(arms: usize, mut strata: Vec<Vec<Cell>>, proportion: bool) -> Table {
    widen(arms, &mut strata);
    strata.retain(|cells| cells.iter().any(|cell| cell.units > 0.0));
    Table { arms, strata, proportion }
}

/// A stratum, how much of it is kept, and what it says of the metric.
type Rows<'a> = Vec<(f64, &'a v1::Stratum, Row)>;

/// Arms, and the strata of the scope. `clustered`: moments that a metric keeps by unit are read as those of clusters, as those
/// of its products with covariates are.
fn rows<'a>(
    inputs: &'a v1::DecisionInputs,
    metric: &v1::MetricInput,
    scope: Scope,
    clustered: bool,
) -> Result<(usize, Rows<'a>), InputError> {
    let arms = inputs.arms.len();
    if !(2..=ARMS_MAX).contains(&arms) {
        return Err(InputError::Arms(arms));
    }
    if inputs.strata.len() > STRATA_MAX {
        return Err(InputError::Shape("more strata than the ledger can hold"));
    }
    let kind = metric.kind();
    let square = if clustered { pair_of(inputs, metric.slot, metric.slot).ok() } else { None };
    let mut strata = Vec::with_capacity(inputs.strata.len());
    for stratum in &inputs.strata {
        if scope != Scope::Everything && stratum.generation != inputs.generation {
            continue;
        }
        let keep = if scope == Scope::Learner { kept(inputs, stratum) } else { 1.0 };
        if keep <= 0.0 {
            continue;
        }
        if stratum.arms.len() != arms {
            return Err(InputError::Shape("a stratum's arms"));
        }
        let row = match kind {
            v1::metric::Kind::Ratio => {
                let cells = stratum.arms.iter().map(|arm| RatioCell::read(arm, metric));
                Row::Ratio(cells.collect::<Result<_, _>>()?)
            }
            v1::metric::Kind::Proportion => {
                let cells = stratum.arms.iter().map(|arm| proportion_cell(arm, metric, square));
                Row::Plain(cells.collect::<Result<_, _>>()?)
            }
            v1::metric::Kind::Mean | v1::metric::Kind::Count => {
                let cells = stratum.arms.iter().map(|arm| mean_cell(arm, metric, square));
                Row::Plain(cells.collect::<Result<_, _>>()?)
            }
            v1::metric::Kind::Unspecified => return Err(InputError::Metric("its kind is not known")),
        };
        strata.push((keep, stratum, row));
    }
    Ok((arms, strata))
}

/// The product of two slots among the moments' cross products.
fn pair_of(inputs: &v1::DecisionInputs, left: u32, right: u32) -> Result<usize, InputError> {
    let is = |pair: &v1::PairInput| {
        (pair.first, pair.second) == (left, right) || (pair.first, pair.second) == (right, left)
    };
    inputs.pairs.iter().position(is).ok_or(InputError::Shape("a covariate's product"))
}

/// How an outcome is made of its metric's slots: (numerator - ratio x denominator) / divisor.
#[derive(Debug, Clone, Copy)]
struct Line {
    ratio: f64,
    divisor: f64,
}

/// What the moments say of the covariates beside a cell.
fn read_beside(
    inputs: &v1::DecisionInputs,
    metric: &v1::MetricInput,
    arm: &v1::ArmMoments,
    cell: &Cell,
    line: Line,
) -> Result<Beside, InputError> {
    let covariates = &inputs.covariates;
    let mut beside = Beside::none(covariates.len());
    if cell.units <= 0.0 || arm.units == 0 {
        return Ok(beside);
    }
    // Of an old stratum only a part is kept.
    let keep = cell.units / arm.units as f64;
    let product = |left: u32, right: u32| {
        let cross =
            arm.cross.get(pair_of(inputs, left, right)?).ok_or(InputError::Shape("a cross product"))?;
        spread(arm, cross.get(), (left, slot(arm, left)?.0), (right, slot(arm, right)?.0))
    };
    let (above, below) = (scale_of(metric)?, power_of_ten(metric.denominator_decimal_scale)?);
    for (at, covariate) in covariates.iter().enumerate() {
        let scale = power_of_ten(covariate.decimal_scale)?;
        let mut outcome = product(metric.slot, covariate.slot)? / above;
        if metric.kind() == v1::metric::Kind::Ratio {
            outcome -= line.ratio * product(metric.denominator_slot, covariate.slot)? / below;
        }
        let (sum, squares) = slot(arm, covariate.slot)?;
        let own = spread(arm, squares, (covariate.slot, sum), (covariate.slot, sum))?.max(0.0);
        if let (Some(mean), Some(with)) = (beside.means.get_mut(at), beside.products.get_mut(at)) {
            *mean = sum as f64 / arm.units as f64 / scale;
            *with = outcome / line.divisor / scale * keep;
        }
        beside.squares.add(at, at, own / (scale * scale) * keep);
        for (other, before) in covariates.iter().enumerate().take(at) {
            let both = product(covariate.slot, before.slot)? / scale / power_of_ten(before.decimal_scale)?;
            beside.squares.add(at, other, both * keep);
            beside.squares.add(other, at, both * keep);
        }
    }
    Ok(beside)
}

/// How much of a stratum the learner's record keeps: 0 outside the window, discount ^ hours since its end inside.
fn kept(inputs: &v1::DecisionInputs, stratum: &v1::Stratum) -> f64 {
    let Some(learner) = &inputs.learner else { return 1.0 };
    if stratum.start_minute < learner.window_start_minute {
        return 0.0;
    }
    // 0 is what an absent field reads as.
    if learner.discount_millionths == 0 || learner.discount_millionths >= 1_000_000 {
        return 1.0;
    }
    let end_ms = (i64::from(stratum.start_minute) + i64::from(stratum.minutes)).saturating_mul(60_000);
    let age_hours = inputs.log_time_ms.saturating_sub(end_ms).max(0) as f64 / 3_600_000.0;
    libm::pow(f64::from(learner.discount_millionths) / 1e6, age_hours)
}

enum Row {
    Plain(Vec<Cell>),
    Ratio(Vec<RatioCell>),
}

fn slot(arm: &v1::ArmMoments, index: u32) -> Result<(i128, i128), InputError> {
    let slot = arm.slots.get(index as usize).ok_or(InputError::Shape("a metric's slot"))?;
    let read = |part: &Option<v1::Int128>| part.as_ref().map_or(0, v1::Int128::get);
    let (sum, squares) = (read(&slot.sum), read(&slot.squares));
    if squares < 0 {
        return Err(InputError::Moments("a sum of squares is negative"));
    }
    Ok((sum, squares))
}

/// n C - S T, divided by n: the centred sum of products. Exact while the integers fit.
fn centred(units: u64, products: i128, left: i128, right: i128) -> f64 {
    let n = i128::from(units);
    let exact = n
        .checked_mul(products)
        .and_then(|whole| left.checked_mul(right).and_then(|corner| whole.checked_sub(corner)));
    match exact {
        Some(difference) => difference as f64 / units as f64,
        None => products as f64 - left as f64 * (right as f64 / units as f64),
    }
}

/// Sum of products of deviations from the means, from sums and their products over clusters: what it is expected to be over
/// units. The arguments are sums over clusters of x y, x, y, x n and y n.
fn centred_clusters(
    arm: &v1::ArmMoments,
    products: i128,
    (left, left_units): (i128, i128),
    (right, right_units): (i128, i128),
) -> f64 {
    let units = i128::from(arm.units);
    let squared = i128::from(arm.units_squared);
    let exact = || {
        let whole = units.checked_mul(units)?.checked_mul(products)?;
        let mixed = left.checked_mul(right_units)?.checked_add(right.checked_mul(left_units)?)?;
        let corner = left.checked_mul(right)?.checked_mul(squared)?;
        whole.checked_sub(units.checked_mul(mixed)?)?.checked_add(corner)
    };
    let n = arm.units as f64;
    let residuals = match exact() {
        Some(sum) => sum as f64 / n / n,
        None => {
            let (x, y) = (left as f64 / n, right as f64 / n);
            products as f64 - x * right_units as f64 - y * left_units as f64 + x * y * squared as f64
        }
    };
    // n^2 - sum n_c^2; 0 with one cluster, of which nothing can be learned.
    let pairs = (u128::from(arm.units) * u128::from(arm.units)).saturating_sub(u128::from(arm.units_squared));
    if pairs == 0 { 0.0 } else { residuals * n * (n - 1.0) / pairs as f64 }
}

fn check_clusters(arm: &v1::ArmMoments) -> Result<(), InputError> {
    let units = u128::from(arm.units);
    let squared = u128::from(arm.units_squared);
    if u128::from(arm.clusters) > units || squared < units || squared > units * units {
        return Err(InputError::Moments("clusters do not add up to the units"));
    }
    Ok(())
}

/// Few clusters leave a variance uncertain, and intervals of a normal shape too narrow: as t^2 beside z^2 at three standard
/// errors, 1 + 5 / f to first order in the arm's degrees of freedom over all strata (Fisher's expansion).
fn widen(arms: usize, strata: &mut [Vec<Cell>]) {
    for arm in 0..arms {
        let cells = || strata.iter().filter_map(|cells| cells.get(arm));
        let freedom: f64 =
            cells().filter(|cell| cell.clusters > 0.0).map(|cell| (cell.clusters - 1.0).max(0.0)).sum();
        if freedom > 0.0 {
            for cell in strata.iter_mut().filter_map(|cells| cells.get_mut(arm)) {
                cell.squares *= 1.0 + 5.0 / freedom;
            }
        }
    }
}

fn proportion_cell(
    arm: &v1::ArmMoments,
    metric: &v1::MetricInput,
    square: Option<usize>,
) -> Result<Cell, InputError> {
    let (sum, _) = slot(arm, metric.slot)?;
    if sum < 0 || sum > i128::from(arm.units) {
        return Err(InputError::Moments("more converted units than exposed ones"));
    }
    if arm.units == 0 {
        return Ok(Cell::default());
    }
    let (units, converted) = (arm.units as f64, sum as f64);
    let mean = converted / units;
    if square.is_some() && arm.clusters > 0 {
        let squares = spread(arm, square_of(arm, square)?, (metric.slot, sum), (metric.slot, sum))?.max(0.0);
        return Ok(Cell { units, mean, squares, clusters: arm.clusters as f64 });
    }
    Ok(Cell { units, mean, squares: converted * (1.0 - mean), clusters: 0.0 })
}

fn square_of(arm: &v1::ArmMoments, square: Option<usize>) -> Result<i128, InputError> {
    let cross =
        square.and_then(|at| arm.cross.get(at)).ok_or(InputError::Shape("a metric's squares by cluster"))?;
    Ok(cross.get())
}

fn mean_cell(
    arm: &v1::ArmMoments,
    metric: &v1::MetricInput,
    square: Option<usize>,
) -> Result<Cell, InputError> {
    let (sum, squares) = slot(arm, metric.slot)?;
    if arm.units == 0 {
        if sum != 0 || squares != 0 {
            return Err(InputError::Moments("values without units"));
        }
        return Ok(Cell::default());
    }
    // A capped metric keeps its squares by unit; beside covariates, those of its clusters' sums are read.
    let by_unit = metric.capped && square.is_none();
    let centred = if by_unit {
        centred(arm.units, squares, sum, sum)
    } else {
        let squares = if metric.capped { square_of(arm, square)? } else { squares };
        spread(arm, squares, (metric.slot, sum), (metric.slot, sum))?
    };
    if centred < 0.0 && centred < -1e-9 * squares as f64 {
        return Err(InputError::Moments("n Q is less than S^2"));
    }
    let scale = scale_of(metric)?;
    let units = arm.units as f64;
    Ok(Cell {
        units,
        mean: sum as f64 / units / scale,
        squares: centred.max(0.0) / (scale * scale),
        clusters: if by_unit { 0.0 } else { arm.clusters as f64 },
    })
}

/// Sum of products of two slots' deviations from their means, over units or as clusters tell it.
fn spread(
    arm: &v1::ArmMoments,
    products: i128,
    (left_slot, left): (u32, i128),
    (right_slot, right): (u32, i128),
) -> Result<f64, InputError> {
    if arm.clusters == 0 {
        return Ok(centred(arm.units, products, left, right));
    }
    check_clusters(arm)?;
    let with_units = |slot: u32| {
        let slot = arm.slots.get(slot as usize).ok_or(InputError::Shape("a metric's slot"))?;
        Ok(slot.with_units.as_ref().map_or(0, v1::Int128::get))
    };
    Ok(centred_clusters(arm, products, (left, with_units(left_slot)?), (right, with_units(right_slot)?)))
}

/// Integers per unit of a metric.
fn scale_of(metric: &v1::MetricInput) -> Result<f64, InputError> {
    power_of_ten(metric.decimal_scale)
}

fn power_of_ten(decimals: u32) -> Result<f64, InputError> {
    if decimals > 18 {
        return Err(InputError::Range("a decimal scale above 18"));
    }
    Ok((0..decimals).fold(1.0, |scale, _| scale * 10.0))
}

/// Sums of a ratio's parts, each in units of its own metric.
struct RatioCell {
    units: f64,
    numerator: f64,
    denominator: f64,
    numerator_squares: f64,
    denominator_squares: f64,
    products: f64,
    clusters: f64,
}

impl RatioCell {
    fn read(arm: &v1::ArmMoments, metric: &v1::MetricInput) -> Result<Self, InputError> {
        let (numerator, numerator_squares) = slot(arm, metric.slot)?;
        let (denominator, denominator_squares) = slot(arm, metric.denominator_slot)?;
        let products =
            arm.cross.get(metric.pair as usize).ok_or(InputError::Shape("a ratio's cross product"))?.get();
        if arm.units == 0 {
            if numerator != 0 || denominator != 0 {
                return Err(InputError::Moments("values without units"));
            }
            return Ok(Self {
                units: 0.0,
                numerator: 0.0,
                denominator: 0.0,
                numerator_squares: 0.0,
                denominator_squares: 0.0,
                products: 0.0,
                clusters: 0.0,
            });
        }
        let (top, bottom) = ((metric.slot, numerator), (metric.denominator_slot, denominator));
        let (above, below) = (scale_of(metric)?, power_of_ten(metric.denominator_decimal_scale)?);
        Ok(Self {
            units: arm.units as f64,
            numerator: numerator as f64 / above,
            denominator: denominator as f64 / below,
            numerator_squares: spread(arm, numerator_squares, top, top)?.max(0.0) / (above * above),
            denominator_squares: spread(arm, denominator_squares, bottom, bottom)?.max(0.0) / (below * below),
            products: spread(arm, products, top, bottom)? / (above * below),
            clusters: arm.clusters as f64,
        })
    }
}

/// A stratum's ratio and mean denominator; `None` while its denominators do not sum to a positive number.
fn reference(cells: &[RatioCell]) -> Option<(f64, f64)> {
    let units: f64 = cells.iter().map(|cell| cell.units).sum();
    let denominator: f64 = cells.iter().map(|cell| cell.denominator).sum();
    let numerator: f64 = cells.iter().map(|cell| cell.numerator).sum();
    (denominator > 0.0 && units > 0.0).then(|| (numerator / denominator, denominator / units))
}

/// The cells, and how each cell's outcomes are made of its metric's slots.
fn linearised(arms: usize, rows: Rows<'_>) -> (Vec<Vec<Cell>>, Vec<Vec<Line>>) {
    // Per arm: own denominators, those its strata would give, and own numerators less those its strata would give.
    let mut totals = vec![(0.0_f64, 0.0_f64, 0.0_f64); arms];
    for (keep, _, row) in &rows {
        let Row::Ratio(cells) = row else { continue };
        let Some((ratio, mean_denominator)) = reference(cells) else { continue };
        for (cell, (own, expected, excess)) in cells.iter().zip(&mut totals) {
            *own += keep * cell.denominator;
            *expected += keep * cell.units * mean_denominator;
            *excess += keep * (cell.numerator - ratio * cell.denominator);
        }
    }
    let none = Line { ratio: 0.0, divisor: 1.0 };
    rows.into_iter()
        .map(|(keep, _, row)| match row {
            Row::Plain(mut cells) => {
                for cell in &mut cells {
                    let units = (cell.units * keep).min(UNITS_MAX);
                    cell.squares *= if cell.units > 0.0 { units / cell.units } else { 0.0 };
                    cell.clusters *= keep;
                    cell.units = units;
                }
                (cells, vec![none; arms])
            }
            Row::Ratio(cells) => {
                let Some((ratio, mean_denominator)) = reference(&cells) else {
                    return (vec![Cell::default(); arms], vec![none; arms]);
                };
                cells
                    .iter()
                    .zip(&totals)
                    .map(|(cell, (own, expected, excess))| {
                        if cell.units <= 0.0 || *own <= 0.0 || *expected <= 0.0 {
                            return (Cell::default(), none);
                        }
                        let divisor = mean_denominator * (own / expected);
                        let mean = ratio + (cell.numerator - ratio * cell.denominator) / cell.units / divisor;
                        let arm_ratio = ratio + excess / own;
                        let squares = cell.numerator_squares - 2.0 * arm_ratio * cell.products
                            + arm_ratio * arm_ratio * cell.denominator_squares;
                        let units = (cell.units * keep).min(UNITS_MAX);
                        let cell = Cell {
                            units,
                            mean,
                            squares: squares.max(0.0) / (divisor * divisor) * (units / cell.units),
                            clusters: cell.clusters * keep,
                        };
                        (cell, Line { ratio: arm_ratio, divisor })
                    })
                    .unzip()
            }
        })
        .unzip()
}
