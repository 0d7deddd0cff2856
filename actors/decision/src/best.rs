//! The probability that each arm is the best, exactly, by quadrature over independent posteriors.
//!
//! P(arm a is best) = integral of f_a(x) * product over b != a of F_b(x). One grid serves all arms: panels of eight
//! Gauss-Legendre nodes walk from the highest upper bound down to the highest lower bound, because below it no arm can
//! be the maximum. Each density is evaluated once a node; its survival function accumulates by the same rule's
//! integration matrix. A panel is 1.8 standard deviations of the narrowest arm still in play, so one unit beside ten
//! million costs no accuracy; arms whose upper bound lies below the grid cost nothing.
//!
//! ```text
//!      lower bounds      the grid          upper bounds
//!   a ----|------------[=====|===|            a is out above its own bound
//!   b        |---------[=====|===|===|===]    the widest arm's tail: its own mass
//!   c  |----|                                 never on the grid: probability 0
//! ```
//!
//! The truncated tails hold about 1e-10 of each posterior; results are normalised to sum to 1.

use crate::special::ln_beta;

/// Eight Gauss-Legendre nodes on [-1, 1], from the right to the left.
const NODES: [f64; 8] = [
    0.960_289_856_497_536_2,
    0.796_666_477_413_626_7,
    0.525_532_409_916_329,
    0.183_434_642_495_649_8,
    -0.183_434_642_495_649_8,
    -0.525_532_409_916_329,
    -0.796_666_477_413_626_7,
    -0.960_289_856_497_536_2,
];
const WEIGHTS: [f64; 8] = [
    0.101_228_536_290_376_26,
    0.222_381_034_453_374_47,
    0.313_706_645_877_887_3,
    0.362_683_783_378_362,
    0.362_683_783_378_362,
    0.313_706_645_877_887_3,
    0.222_381_034_453_374_47,
    0.101_228_536_290_376_26,
];
/// Row j: integral from the panel's right end to node j of the polynomial through the values at the nodes.
const INTEGRATION: [[f64; 8]; 8] = [
    [
        0.050_614_268_145_188_13,
        -0.018_211_886_611_940_15,
        0.012_561_662_294_060_948,
        -0.008_966_031_226_109_503,
        0.006_156_982_736_653_56,
        -0.003_835_350_509_273_904_7,
        0.001_945_515_328_118_527,
        -0.000_555_016_654_233_838_4,
    ],
    [
        0.109_518_643_535_108_64,
        0.111_190_517_226_687_24,
        -0.027_279_592_471_563_34,
        0.016_299_417_716_721_1,
        -0.010_430_704_178_294_307,
        0.006_279_505_970_927_338,
        -0.003_129_869_821_897_885,
        0.000_885_604_608_684_475_6,
    ],
    [
        0.097_175_071_997_825_76,
        0.241_719_049_994_346_33,
        0.156_853_322_938_943_64,
        -0.031_950_206_723_756_86,
        0.016_743_465_440_452_328,
        -0.009_286_931_724_208_96,
        0.004_451_429_550_569_799,
        -0.001_237_611_390_501_030_7,
    ],
    [
        0.103_731_041_941_162_47,
        0.212_386_980_296_696_8,
        0.341_342_268_549_107_24,
        0.181_341_891_689_181,
        -0.032_042_082_642_050_026,
        0.014_482_413_122_444_54,
        -0.006_395_628_620_721_541,
        0.001_718_473_168_529_705_4,
    ],
    [
        0.099_510_063_121_846_55,
        0.228_776_663_074_096,
        0.299_224_232_755_442_75,
        0.394_725_866_020_412,
        0.181_341_891_689_181,
        -0.027_635_622_671_219_955,
        0.009_994_054_156_776_57,
        -0.002_502_505_650_786_21,
    ],
    [
        0.102_466_147_680_877_29,
        0.217_929_604_902_804_67,
        0.322_993_577_602_096_25,
        0.345_940_317_937_909_66,
        0.394_633_990_102_118_85,
        0.156_853_322_938_943_64,
        -0.019_338_015_540_971_864,
        0.004_053_464_292_550_497,
    ],
    [
        0.100_342_931_681_691_78,
        0.225_510_904_275_272_36,
        0.307_427_139_906_959_95,
        0.373_114_487_556_656_3,
        0.346_384_365_661_640_9,
        0.340_986_238_349_450_6,
        0.111_190_517_226_687_24,
        -0.008_290_107_244_732_381,
    ],
    [
        0.101_783_552_944_610_1,
        0.220_435_519_125_255_94,
        0.317_541_996_387_161_2,
        0.356_526_800_641_708_4,
        0.371_649_814_604_471_5,
        0.301_144_983_583_826_34,
        0.240_592_921_065_314_62,
        0.050_614_268_145_188_13,
    ],
];

/// Log-density below the mode at which a tail is cut: e^-23 = 1e-10.
const CUT: f64 = 23.0;
/// The normal distribution's distance, in standard deviations, to a log-density `CUT` below its mode.
const REACH: f64 = 6.8;
/// Width of a panel in standard deviations of the narrowest arm in play.
const PANEL: f64 = 1.8;
/// Panels at most: 32 arms of disjoint widths need fewer than 32 x 24.
const PANELS_MAX: usize = 2_048;

/// What is believed about one arm's mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Posterior {
    /// alpha, beta >= 1.
    Beta {
        /// Prior successes plus observed ones.
        alpha: f64,
        /// Prior failures plus observed ones.
        beta: f64,
    },
    /// Any mean, sd >= 0.
    Normal {
        /// Of the arm's mean.
        mean: f64,
        /// Standard deviation of that belief, not of a unit.
        sd: f64,
    },
}

impl Posterior {
    /// Its mean.
    #[must_use]
    pub fn mean(&self) -> f64 {
        match *self {
            Self::Beta { alpha, beta } => alpha / (alpha + beta),
            Self::Normal { mean, .. } => mean,
        }
    }

    /// Its standard deviation.
    #[must_use]
    pub fn sd(&self) -> f64 {
        match *self {
            Self::Beta { alpha, beta } => {
                let total = alpha + beta;
                libm::sqrt((alpha / total) * (beta / total) / (total + 1.0))
            }
            Self::Normal { sd, .. } => sd,
        }
    }

    /// The same belief about the negated (normal) or complementary (Beta) mean.
    fn mirrored(self) -> Self {
        match self {
            Self::Beta { alpha, beta } => Self::Beta { alpha: beta, beta: alpha },
            Self::Normal { mean, sd } => Self::Normal { mean: -mean, sd },
        }
    }

    fn is_proper(&self) -> bool {
        match *self {
            Self::Beta { alpha, beta } => alpha >= 1.0 && beta >= 1.0 && (alpha + beta).is_finite(),
            Self::Normal { mean, sd } => mean.is_finite() && sd >= 0.0 && sd.is_finite(),
        }
    }
}

/// An arm made ready for the grid.
struct Ready {
    arm: usize,
    shape: Shape,
    lower: f64,
    upper: f64,
    sd: f64,
    /// Mass above the current panel.
    above: f64,
    best: f64,
    density: [f64; 8],
    cdf: [f64; 8],
}

#[derive(Clone, Copy)]
enum Shape {
    Beta { a: f64, b: f64, ln_front: f64 },
    Normal { mean: f64, inverse_sd: f64, front: f64 },
}

impl Ready {
    fn new(arm: usize, posterior: Posterior) -> Self {
        let (shape, lower, upper, sd) = match posterior {
            Posterior::Beta { alpha, beta } => {
                let sd = posterior.sd();
                let (a, b) = (alpha - 1.0, beta - 1.0);
                let mode = if a + b > 0.0 { a / (a + b) } else { 0.5 };
                let lower = beta_bound(a, b, mode, sd, -1.0);
                let upper = beta_bound(a, b, mode, sd, 1.0);
                (Shape::Beta { a, b, ln_front: -ln_beta(alpha, beta) }, lower, upper, sd)
            }
            Posterior::Normal { mean, sd } => {
                // A point mass gets a width its neighbours in f64 can resolve: ties split evenly, nothing divides by 0.
                let sd = sd.max(mean.abs() * 1e-12).max(1e-150);
                let shape =
                    Shape::Normal { mean, inverse_sd: 1.0 / sd, front: 1.0 / (sd * 2.506_628_274_631_000_7) };
                (shape, mean - REACH * sd, mean + REACH * sd, sd)
            }
        };
        Self { arm, shape, lower, upper, sd, above: 0.0, best: 0.0, density: [0.0; 8], cdf: [1.0; 8] }
    }
}

/// Where the log-density a ln x + b ln(1 - x) has fallen `CUT` below its mode; log-concave as a, b >= 0.
fn beta_bound(a: f64, b: f64, mode: f64, sd: f64, side: f64) -> f64 {
    let term = |count: f64, ratio: f64| if count > 0.0 { count * libm::log(ratio) } else { 0.0 };
    let mut reach = REACH;
    for _ in 0..16 {
        let x = mode + side * reach * sd;
        if x <= 0.0 {
            return 0.0;
        }
        if x >= 1.0 {
            return 1.0;
        }
        if term(a, x / mode) + term(b, (1.0 - x) / (1.0 - mode)) <= -CUT {
            return x;
        }
        reach *= 1.35;
    }
    if side > 0.0 { 1.0 } else { 0.0 }
}

/// P(best) of every arm, in order; sums to 1. `None` for no arms or an improper posterior.
///
/// Arms of one experiment are of one family; Beta arms are compared on (0, 1). Absolute error below 1e-7 against
/// quadrature of high order. Cost: 12 panels of 8 nodes for three arms of a thousand units, 18 for ten; one exponential per
/// node and arm in play (`cargo bench -p featureops-decision --bench best`).
#[must_use]
pub fn probability_best(posteriors: &[Posterior], lower_is_better: bool) -> Option<Vec<f64>> {
    if posteriors.is_empty() || !posteriors.iter().all(Posterior::is_proper) {
        return None;
    }
    let (mut arms, floor) = on_grid(posteriors, lower_is_better);
    let mut right = arms.first()?.upper;
    for _ in 0..PANELS_MAX {
        let Some((playing, left)) = next_panel(&arms, floor, right) else { break };
        let Some(playing) = arms.get_mut(..playing) else { break };
        panel(playing, left, right);
        right = left;
    }

    let total: f64 = arms.iter().map(|arm| arm.best).sum();
    let mut result = vec![0.0; posteriors.len()];
    for arm in &arms {
        if let Some(place) = result.get_mut(arm.arm) {
            *place = if total > 0.0 { (arm.best / total).clamp(0.0, 1.0) } else { 1.0 / arms.len() as f64 };
        }
    }
    Some(result)
}

/// The arms that can be best, by upper bound from the highest, and where the grid ends.
fn on_grid(posteriors: &[Posterior], lower_is_better: bool) -> (Vec<Ready>, f64) {
    let mut arms: Vec<Ready> = posteriors
        .iter()
        .enumerate()
        .map(|(arm, posterior)| {
            Ready::new(arm, if lower_is_better { posterior.mirrored() } else { *posterior })
        })
        .collect();
    let floor = arms.iter().fold(f64::NEG_INFINITY, |most, arm| most.max(arm.lower));
    arms.retain(|arm| arm.upper > floor);
    arms.sort_by(|left, right| right.upper.total_cmp(&left.upper).then(left.arm.cmp(&right.arm)));
    (arms, floor)
}

/// How many arms are in play left of `right`, and where the panel that begins there ends; `None` at the grid's end.
fn next_panel(arms: &[Ready], floor: f64, right: f64) -> Option<(usize, f64)> {
    let mut left = floor;
    let mut playing = 0;
    for arm in arms {
        if arm.upper < right {
            // The next arm begins here: its density is not smooth across its own cut.
            left = left.max(arm.upper);
            break;
        }
        playing += 1;
        left = left.max(right - PANEL * arm.sd);
    }
    (left < right).then_some((playing, left))
}

/// Adds one panel's share to every playing arm.
fn panel(arms: &mut [Ready], left: f64, right: f64) {
    let half = 0.5 * (right - left);
    let middle = 0.5 * (right + left);
    let nodes = NODES.map(|node| middle + half * node);
    let is_beta = arms.iter().any(|arm| matches!(arm.shape, Shape::Beta { .. }));
    let (ln_x, ln_rest) =
        if is_beta { (nodes.map(libm::log), nodes.map(|x| libm::log1p(-x))) } else { ([0.0; 8], [0.0; 8]) };
    let mut product = [1.0_f64; 8];
    for arm in arms.iter_mut() {
        match arm.shape {
            Shape::Beta { a, b, ln_front } => {
                for ((density, ln_x), ln_rest) in arm.density.iter_mut().zip(&ln_x).zip(&ln_rest) {
                    *density = libm::exp(a * ln_x + b * ln_rest + ln_front);
                }
            }
            Shape::Normal { mean, inverse_sd, front } => {
                for (density, x) in arm.density.iter_mut().zip(&nodes) {
                    let z = (x - mean) * inverse_sd;
                    *density = front * libm::exp(-0.5 * z * z);
                }
            }
        }
        for ((cdf, row), product) in arm.cdf.iter_mut().zip(&INTEGRATION).zip(&mut product) {
            let above = arm.above + half * dot(row, &arm.density);
            // Kept off 0 so that the product over the others can be had by division.
            *cdf = (1.0 - above).clamp(1e-30, 1.0);
            *product *= *cdf;
        }
        arm.above += half * dot(&WEIGHTS, &arm.density);
    }
    for arm in arms.iter_mut() {
        let mut sum = 0.0;
        for (((weight, density), cdf), product) in
            WEIGHTS.iter().zip(&arm.density).zip(&arm.cdf).zip(&product)
        {
            sum += weight * density * (product / cdf);
        }
        arm.best += half * sum;
    }
}

fn dot(left: &[f64; 8], right: &[f64; 8]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panels, and densities evaluated over all of them.
    fn cost(posteriors: &[Posterior]) -> (usize, usize) {
        let (arms, floor) = on_grid(posteriors, false);
        let mut right = arms[0].upper;
        let (mut panels, mut densities) = (0, 0);
        while let Some((playing, left)) = next_panel(&arms, floor, right) {
            panels += 1;
            densities += NODES.len() * playing;
            right = left;
        }
        (panels, densities)
    }

    fn beta(units: f64, rate: f64) -> Posterior {
        Posterior::Beta { alpha: 1.0 + units * rate, beta: 1.0 + units * (1.0 - rate) }
    }

    #[test]
    fn the_grid_is_a_few_panels_and_ends_within_its_bound() {
        let three = cost(&[0.04, 0.05, 0.06].map(|rate| beta(1_000.0, rate)));
        assert!(three.0 <= 15 && three.1 <= 300, "{three:?}");
        let ten: Vec<Posterior> =
            (0..10).map(f64::from).map(|arm| beta(500.0 + 20.0 * arm, 0.05 + 0.002 * arm)).collect();
        let ten = cost(&ten);
        assert!(ten.0 <= 20 && ten.1 <= 1_200, "{ten:?}");
        // Each arm a tenth as wide as the one before, all of them around one mean: every width walks its own panels.
        let nested: Vec<Posterior> =
            (0..32).map(|arm| Posterior::Normal { mean: 0.0, sd: libm::pow(0.1, f64::from(arm)) }).collect();
        let nested = cost(&nested);
        assert!(nested.0 > 32 * 3 && nested.0 < 32 * 24, "{nested:?}");
    }
}
