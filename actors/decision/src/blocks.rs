//! What stands in the way of autonomous decisions: signs that the data does not mean what it says.
//!
//! A trip is not blocked by them: stopping a variant on doubtful data costs less than serving a harmful one.

use featureops_proto::v1;

use crate::sample_ratio::{self, same_shares};

/// Marked plus lost units beyond this share of exposed ones block.
pub const UNRECORDED_SHARE_MAX: f64 = 0.005;
/// Crossed units beyond this share block fixed tests.
pub const CROSSED_SHARE_MAX: f64 = 0.01;
/// Marked units that differ between arms at this level block.
pub const MARKED_ALPHA: f64 = 0.001;

/// One reason.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Block {
    /// Exposures recorded only from a receipt, and lost ones, over .5 % of exposed units.
    Unrecorded {
        /// Their share.
        share: f64,
    },
    /// Marked exposures differ between arms: what is lost is not lost at random.
    UnequalMarks {
        /// Of the test of equal shares.
        p_value: f64,
    },
    /// Units do not arrive in the weights' shares.
    SampleRatio {
        /// Of the chi-square test.
        p_value: f64,
    },
    /// More than 1 % of units saw two arms. Blocks fixed tests only.
    Crossed {
        /// Their share.
        share: f64,
    },
}

impl Block {
    /// Whether it forbids the reallocation of a bandit, or only a test at a fixed size.
    #[must_use]
    pub const fn stops_learning(&self) -> bool {
        !matches!(self, Self::Crossed { .. })
    }

    /// A sentence for people.
    #[must_use]
    pub fn text(&self) -> String {
        let percent = |share: f64| crate::number::ten_digits(share * 100.0);
        match self {
            Self::Unrecorded { share } => {
                format!("{} % of exposures are marked or lost, more than 0.5 %", percent(*share))
            }
            Self::UnequalMarks { p_value } => format!(
                "marked exposures differ between arms (p = {}, below 0.001)",
                crate::number::ten_digits(*p_value)
            ),
            Self::SampleRatio { p_value } => format!(
                "units do not follow the weights (p = {}, below 0.001)",
                crate::number::ten_digits(*p_value)
            ),
            Self::Crossed { share } => {
                format!("{} % of units saw two arms, more than 1 %: no test at a fixed size", percent(*share))
            }
        }
    }
}

/// Everything that stands in the way, in a fixed order.
#[must_use]
pub fn blocks(inputs: &v1::DecisionInputs) -> Vec<Block> {
    let mut found = Vec::new();
    let mut by_arm = vec![0_u64; inputs.arms.len()];
    for stratum in &inputs.strata {
        for (sum, arm) in by_arm.iter_mut().zip(&stratum.arms) {
            *sum = sum.saturating_add(arm.units);
        }
    }
    let shown: f64 = by_arm.iter().map(|units| *units as f64).sum();
    // The counts of marked, lost and crossed units run over all generations, the strata shown over one.
    let exposed = (inputs.exposed_units as f64).max(shown);
    if exposed > 0.0 {
        // Marked and lost ones are counted since the start; units that left when a budget was full were exposed too.
        let ever = exposed + inputs.thinned_units as f64;
        let share = (inputs.marked_units as f64 + inputs.lost_units as f64) / ever;
        if share > UNRECORDED_SHARE_MAX {
            found.push(Block::Unrecorded { share });
        }
        // Marked against the others: marked units are among the exposed ones.
        if inputs.marked_by_arm.len() == by_arm.len() {
            let others: Vec<u64> = by_arm
                .iter()
                .zip(&inputs.marked_by_arm)
                .map(|(units, marked)| units.saturating_sub(*marked))
                .collect();
            if let Some(p_value) = same_shares(&inputs.marked_by_arm, &others)
                && p_value < MARKED_ALPHA
            {
                found.push(Block::UnequalMarks { p_value });
            }
        }
        if let Some(p_value) = sample_ratio::of_inputs(inputs)
            && p_value < sample_ratio::ALPHA
        {
            found.push(Block::SampleRatio { p_value });
        }
        let share = inputs.crossed_units as f64 / exposed;
        if share > CROSSED_SHARE_MAX {
            found.push(Block::Crossed { share });
        }
    }
    found
}
