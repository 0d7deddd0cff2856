//! Where minds come from. A seam with one implementation in the product, and one that panics in the tests.

use featureops_decision::chance::Chance;
use featureops_decision::owner::{Action, Config, Event, Owner};

/// A pure step function over what happens.
pub trait Mind: Send + 'static {
    /// One step; see `featureops_decision::owner`.
    fn step(&mut self, event: Event, now_ms: i64, chance: &mut Chance) -> Vec<Action>;
}

impl Mind for Owner {
    fn step(&mut self, event: Event, now_ms: i64, chance: &mut Chance) -> Vec<Action> {
        Owner::step(self, event, now_ms, chance)
    }
}

/// Makes a mind that has seen nothing.
pub trait Minds: Send + Sync + 'static {
    /// A new mind for the experiment.
    fn mind(&self, experiment: u32) -> Box<dyn Mind>;
}

/// The product's minds.
#[derive(Debug, Clone, Default)]
pub struct OwnerMinds(pub Config);

impl Minds for OwnerMinds {
    fn mind(&self, _experiment: u32) -> Box<dyn Mind> {
        Box::new(Owner::new(self.0.clone()))
    }
}
