//! The shop of the demo: visitors whose choices follow from the seed, so that a run can be told again.

/// One variant of the button, and how visitors take to it.
pub struct Button {
    /// The flag's variant.
    pub variant: &'static str,
    /// Probability that a visitor buys.
    pub buys: f64,
}

/// Control and three ideas; the last is the right one.
pub const BUTTONS: [Button; 4] = [
    Button { variant: "control", buys: 0.10 },
    Button { variant: "green", buys: 0.09 },
    Button { variant: "large", buys: 0.11 },
    Button { variant: "sticky", buys: 0.14 },
];
/// Position of the best variant.
pub const BEST: usize = 3;
/// Share of visits that end in an error, before the planted regression.
const ERRORS: f64 = 0.02;
/// The same for the best variant, once the regression is planted.
const PLANTED_ERRORS: f64 = 0.15;

/// What a visitor did.
#[derive(Debug, Clone, Copy)]
pub struct Visit {
    /// Bought something.
    pub bought: bool,
    /// Ran into an error.
    pub failed: bool,
}

/// The visitors of one run.
#[derive(Debug, Clone, Copy)]
pub struct Shop {
    seed: u64,
}

impl Shop {
    /// Visitors that follow from the seed.
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The targeting key of a visitor.
    pub fn visitor(self, number: u64) -> String {
        format!("visitor-{}-{number}", self.seed)
    }

    /// What the visitor does when shown a button.
    pub fn visit(self, number: u64, button: usize, planted: bool) -> Visit {
        let buys = BUTTONS.get(button).map_or(0.0, |b| b.buys);
        let errors = if planted && button == BEST { PLANTED_ERRORS } else { ERRORS };
        Visit { bought: self.chance(number, b"buys") < buys, failed: self.chance(number, b"errors") < errors }
    }

    fn chance(self, number: u64, what: &[u8]) -> f64 {
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(
            what,
            self.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15),
        );
        (hash >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Sales lost against always showing the best button, for so many visitors an arm.
pub fn regret(visitors: &[u64]) -> f64 {
    let best = BUTTONS.get(BEST).map_or(0.0, |b| b.buys);
    visitors.iter().zip(&BUTTONS).map(|(n, b)| *n as f64 * (best - b.buys)).sum()
}

/// The same if all arms had been shown equally often.
pub fn regret_of_equal_split(visitors: &[u64]) -> f64 {
    let each = visitors.iter().sum::<u64>() / BUTTONS.len() as u64;
    regret(&[each; BUTTONS.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visitors_follow_the_seed_and_the_rates() {
        let shop = Shop::new(7);
        let bought =
            |button| (0..50_000).filter(|n| shop.visit(*n, button, false).bought).count() as f64 / 50_000.0;
        for (at, button) in BUTTONS.iter().enumerate() {
            assert!((bought(at) - button.buys).abs() < 0.006, "{}", button.variant);
        }
        assert_eq!(shop.visit(3, 1, false).bought, Shop::new(7).visit(3, 1, false).bought);
        assert_eq!(regret_of_equal_split(&[40, 0, 0, 0]), regret(&[10, 10, 10, 10]));
    }
}
