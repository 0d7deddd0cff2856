//! What an arm showed, as sums that add up: over files, nodes, hours and segments.
//!
//! | kind | held | mean | variance of one unit |
//! |---|---|---|---|
//! | proportion | n, sum | sum / n | p (1 - p), without Bessel's factor |
//! | mean, count, winsorised | n, sum, sum of squares | sum / n | (Q - S^2 / n) / (n - 1) |
//! | ratio | both parts, sum of products | S_y / S_x | delta method (Cochran 1977, section 2.5; Deng et al. 2018, eq. 3) |
//! | adjusted | metric and covariate, sum of products | after theta | Var(y) + theta^2 Var(x) - 2 theta Cov (Deng et al. 2013, eq. 4) |
//! | quantile | the estimate and the ends of its interval | the estimate | n ((upper - lower) / (2 x 1.96))^2 (Woodruff 1952) |

use std::fmt;

/// Standard normal quantile of .975.
const Z_975: f64 = 1.959_963_984_540_054;

/// Why an arm's sums cannot be analysed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArmError {
    /// A sum is infinite or no number.
    NotFinite(&'static str),
    /// A count is negative or not whole.
    Count(&'static str),
    /// A proportion with more conversions than units, or fewer than none.
    Proportion,
    /// The arms are of different kinds.
    Kinds,
    /// A quantile's level is not between 0 and 1, or the ends of its interval are the wrong way round.
    Quantile,
}

impl fmt::Display for ArmError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFinite(what) => write!(formatter, "{what} is not finite"),
            Self::Count(what) => write!(formatter, "{what} must be a whole number that is not negative"),
            Self::Proportion => write!(formatter, "sum of a proportion must be between 0 and n"),
            Self::Kinds => write!(formatter, "the arms' statistics are of different kinds"),
            Self::Quantile => {
                write!(formatter, "a quantile needs a level in (0, 1) and lower <= estimate <= upper")
            }
        }
    }
}

impl std::error::Error for ArmError {}

/// Sums of one column over the units of an arm.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Part {
    /// Units.
    pub n: f64,
    /// Sum.
    pub sum: f64,
    /// Sum of squares; of a proportion, the sum.
    pub sum_squares: f64,
    /// Every value is 0 or 1.
    pub proportion: bool,
}

impl Part {
    /// Sums of zeros and ones.
    #[must_use]
    pub const fn proportion(n: f64, sum: f64) -> Self {
        Self { n, sum, sum_squares: sum, proportion: true }
    }

    /// Sums of numbers.
    #[must_use]
    pub const fn mean_of(n: f64, sum: f64, sum_squares: f64) -> Self {
        Self { n, sum, sum_squares, proportion: false }
    }

    /// The mean; 0 without units.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.n > 0.0 { self.sum / self.n } else { 0.0 }
    }

    /// Variance of one unit.
    #[must_use]
    pub fn variance(&self) -> f64 {
        if self.proportion {
            return self.mean() * (1.0 - self.mean());
        }
        if self.n <= 1.0 { 0.0 } else { (self.sum_squares - self.sum * self.sum / self.n) / (self.n - 1.0) }
    }

    /// Sums over both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            n: self.n + other.n,
            sum: self.sum + other.sum,
            sum_squares: self.sum_squares + other.sum_squares,
            proportion: self.proportion && other.proportion,
        }
    }

    fn check(&self) -> Result<(), ArmError> {
        if !self.n.is_finite() || self.n < 0.0 || self.n.fract() != 0.0 {
            return Err(ArmError::Count("n"));
        }
        if !self.sum.is_finite() {
            return Err(ArmError::NotFinite("sum"));
        }
        if !self.sum_squares.is_finite() {
            return Err(ArmError::NotFinite("sum_squares"));
        }
        if self.proportion && !(0.0..=self.n).contains(&self.sum) {
            return Err(ArmError::Proportion);
        }
        Ok(())
    }
}

/// Covariance of two columns, with the same divisor as their variances.
#[must_use]
pub fn covariance(left: &Part, right: &Part, products: f64) -> f64 {
    let n = left.n;
    if n <= 1.0 {
        return 0.0;
    }
    if left.proportion && right.proportion {
        return products / n - left.sum * right.sum / (n * n);
    }
    (products - left.sum * right.sum / n) / (n - 1.0)
}

/// What an arm showed under one metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arm {
    /// Proportion, mean, count or winsorised mean.
    Single(Part),
    /// Sum over sum.
    Ratio {
        /// The upper part.
        numerator: Part,
        /// The lower part.
        denominator: Part,
        /// Sum of products.
        products: f64,
    },
    /// A metric with what was known of its units before the exposure.
    Adjusted {
        /// The metric.
        post: Part,
        /// The covariate.
        pre: Part,
        /// Sum of products.
        products: f64,
    },
    /// A quantile of the units' values.
    Quantile {
        /// Units.
        n: f64,
        /// Level, 0 to 1.
        level: f64,
        /// The sample's quantile.
        estimate: f64,
        /// Lower end of its 95 % interval by order statistics.
        lower: f64,
        /// Upper end.
        upper: f64,
    },
}

impl Arm {
    /// Units.
    #[must_use]
    pub const fn units(&self) -> f64 {
        match self {
            Self::Single(part) => part.n,
            Self::Ratio { numerator, .. } => numerator.n,
            Self::Adjusted { post, .. } => post.n,
            Self::Quantile { n, .. } => *n,
        }
    }

    /// The mean that people know, without any adjustment.
    #[must_use]
    pub fn plain_mean(&self) -> f64 {
        match self {
            Self::Single(part) => part.mean(),
            Self::Ratio { numerator, denominator, .. } if denominator.sum != 0.0 => {
                numerator.sum / denominator.sum
            }
            Self::Ratio { .. } => 0.0,
            Self::Adjusted { post, .. } => post.mean(),
            Self::Quantile { estimate, .. } => *estimate,
        }
    }

    /// The mean after `theta`.
    #[must_use]
    pub fn mean(&self, theta: f64) -> f64 {
        match self {
            Self::Adjusted { post, pre, .. } => post.mean() - theta * pre.mean(),
            other => other.plain_mean(),
        }
    }

    /// Variance of one unit's share in the mean, after `theta`.
    #[must_use]
    pub fn variance(&self, theta: f64) -> f64 {
        match self {
            Self::Single(part) => part.variance(),
            Self::Ratio { numerator, denominator, products } => {
                let (y, x) = (numerator.mean(), denominator.mean());
                if x == 0.0 || numerator.n <= 1.0 {
                    return 0.0;
                }
                let ratio = y / x;
                (numerator.variance() - 2.0 * ratio * covariance(numerator, denominator, *products)
                    + ratio * ratio * denominator.variance())
                    / (x * x)
            }
            Self::Adjusted { post, pre, products } => {
                if post.n <= 1.0 {
                    return 0.0;
                }
                post.variance() + theta * theta * pre.variance()
                    - 2.0 * theta * covariance(post, pre, *products)
            }
            Self::Quantile { n, lower, upper, .. } => {
                let error = (upper - lower) / (2.0 * Z_975);
                n * error * error
            }
        }
    }

    /// Sums over both, where they can be added; quantiles cannot.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Option<Self> {
        Some(match (self, other) {
            (Self::Single(left), Self::Single(right)) => Self::Single(left.plus(right)),
            (
                Self::Ratio { numerator, denominator, products },
                Self::Ratio { numerator: n, denominator: d, products: p },
            ) => Self::Ratio {
                numerator: numerator.plus(n),
                denominator: denominator.plus(d),
                products: products + p,
            },
            (Self::Adjusted { post, pre, products }, Self::Adjusted { post: y, pre: x, products: p }) => {
                Self::Adjusted { post: post.plus(y), pre: pre.plus(x), products: products + p }
            }
            _ => return None,
        })
    }

    /// # Errors
    /// Sums that no data can have.
    pub fn check(&self) -> Result<(), ArmError> {
        match self {
            Self::Single(part) => part.check(),
            Self::Ratio { numerator: left, denominator: right, products }
            | Self::Adjusted { post: left, pre: right, products } => {
                left.check()?;
                right.check()?;
                if products.is_finite() { Ok(()) } else { Err(ArmError::NotFinite("sum_products")) }
            }
            Self::Quantile { n, level, estimate, lower, upper } => {
                Part::mean_of(*n, *estimate, lower + upper).check()?;
                let ordered = lower <= estimate && estimate <= upper;
                if ordered && 0.0 < *level && *level < 1.0 { Ok(()) } else { Err(ArmError::Quantile) }
            }
        }
    }
}

/// theta of both arms together: Cov(y, x) / Var(x) over their pooled units (Deng et al. 2013, section 3.2); 0 where the
/// covariate or the metric is constant.
#[must_use]
pub fn pooled_theta(control: &Arm, treatment: &Arm) -> f64 {
    let Some(Arm::Adjusted { post, pre, products }) = control.plus(treatment) else { return 0.0 };
    let variance = pre.variance();
    if variance <= 0.0 || post.variance() <= 0.0 { 0.0 } else { covariance(&post, &pre, products) / variance }
}
