//! How much the ledgers may hold: budgets that people set, on every node alike, with starting values where they did not.

use featureops_proto::v1::{Budgets, BudgetsStatus};
use prost::Message as _;

use crate::State;

/// In force until somebody sets others.
pub const STARTING: Budgets = Budgets {
    experiment_units: 16 << 20,
    units: 64 << 20,
    experiment_sums: 131_072,
    sums: 32 << 20,
    experiment_crossed: 1 << 20,
    experiment_capped: 1 << 20,
};
/// The most that can be set: clusters count units in 32 bits, and memory is finite.
pub const MOST: Budgets = Budgets {
    experiment_units: 256 << 20,
    units: 1 << 30,
    experiment_sums: 16 << 20,
    sums: 256 << 20,
    experiment_crossed: 16 << 20,
    experiment_capped: 16 << 20,
};

impl State {
    /// In force: no zeros.
    pub(crate) fn budgets(&self) -> Budgets {
        let set = self.budgets.unwrap_or_default();
        let or = |set: u64, starting: u64| if set == 0 { starting } else { set };
        Budgets {
            experiment_units: or(set.experiment_units, STARTING.experiment_units),
            units: or(set.units, STARTING.units),
            experiment_sums: or(set.experiment_sums, STARTING.experiment_sums),
            sums: or(set.sums, STARTING.sums),
            experiment_crossed: or(set.experiment_crossed, STARTING.experiment_crossed),
            experiment_capped: or(set.experiment_capped, STARTING.experiment_capped),
        }
    }

    /// What is in force, and what is held.
    #[must_use]
    pub fn budgets_status(&self) -> BudgetsStatus {
        BudgetsStatus {
            budgets: Some(self.budgets()),
            units: self.rows,
            sums: self.entries,
            etag: etag(&self.budgets.unwrap_or_default()),
            set: self.budgets,
            ..BudgetsStatus::default()
        }
    }
}

/// Of what was set: equal budgets have equal etags.
pub fn etag(budgets: &Budgets) -> String {
    format!("b{:016x}", xxhash_rust::xxh3::xxh3_64(&budgets.encode_to_vec()))
}
