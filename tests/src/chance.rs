//! Chance of the tests: the same numbers for the same seed on any machine.

use featureops_decision::chance;

/// A seeded source of numbers.
#[derive(Debug, Clone)]
pub struct Chance(chance::Chance);

impl Chance {
    /// The numbers of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(chance::Chance::from_seed(seed))
    }

    /// The next 64 bits.
    pub const fn draw(&mut self) -> u64 {
        self.0.bits()
    }

    /// A number below `bound`; 0 when the bound is. The remainder's bias is of no interest here.
    pub const fn below(&mut self, bound: u64) -> u64 {
        let number = self.draw();
        if bound == 0 { 0 } else { number % bound }
    }
}
