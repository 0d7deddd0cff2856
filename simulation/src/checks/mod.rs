//! The checkers: one file per property, each a function of the plan and of what the clients saw.
//!
//! A checker also says how many cases it looked at. One that looked at nothing proves nothing, and the simulator shows it; one
//! that cannot fail is a defect, and the planted bugs in `tests/` are there to find it.

mod allocation;
mod audit;
mod bounds;
mod convergence;
mod counting;
mod digests;
mod erasure;
mod evaluation;
mod facts;
mod folds;
mod history_of_flag;
mod leaders;
mod linear;
mod lists;
mod log;
mod oversight;
mod ownership;
mod ramps;
mod reads;
mod receipts;
mod replay;
mod schedules;
mod trips;

use crate::history::Seen;
use crate::plan::Plan;

/// What one checker found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Finding {
    /// Cases it looked at.
    pub looked: u64,
    /// What was wrong, each in one sentence.
    pub violations: Vec<String>,
}

impl Finding {
    /// Counts a case, and its violation if it is one.
    fn case(&mut self, holds: bool, violation: impl FnOnce() -> String) {
        self.looked = self.looked.saturating_add(1);
        if !holds {
            self.violations.push(violation());
        }
    }
}

pub use evaluation::ailing_windows;

/// Whether a flag is known to be tripped at a version.
#[must_use]
pub fn tripped_at(seen: &Seen, flag: &str, version: u64) -> bool {
    history_of_flag::is_tripped(&history_of_flag::changes(seen, flag), version) == Some(true)
}

/// A checker.
pub type Check = fn(&Plan, &Seen) -> Finding;

/// Every checker: the property's number, what it says, and the function.
pub const ALL: &[(&str, &str, Check)] = &[
    ("A1", "weights sum to 10,000", allocation::weights),
    ("A3", "caps and floors hold", allocation::caps),
    ("A4", "experiments of a layer share no slot", allocation::layers),
    ("E1", "counted = distinct accepted events", counting::events),
    ("E2", "exposed = distinct exposed units", counting::units),
    ("F1", "a fold's moments equal a recomputation", folds::recomputed),
    ("R2", "one leader a term", leaders::one_a_term),
    ("R3", "one entry a place of the log", leaders::one_entry_a_place),
    ("R4", "a vote is never taken back", leaders::votes),
    ("H1", "acknowledged facts are answered once and alike", facts::repeats),
    ("H1c", "acknowledged commands stay", history_of_flag::commands),
    ("H2", "the control plane has one order", linear::one_order),
    ("H3", "a tripped flag serves its safe variant", trips::safe),
    ("H4", "no flip for a returned receipt within a generation", receipts::flips),
    ("H5", "evaluation is total", evaluation::total),
    ("H5a", "evaluation goes on while a disk ails", evaluation::under_ailment),
    ("H5n", "evaluation goes on on every live node", evaluation::on_every_node),
    ("H5v", "versions never go back", evaluation::versions),
    ("H6", "reads see what was acknowledged before", reads::own_writes),
    ("H7", "decisions replay", replay::decisions),
    ("H8", "lists of units hold what was acknowledged", lists::held),
    ("H9", "an erased unit is held nowhere", erasure::gone),
    ("L1", "audit is gap-free and linked", audit::chain),
    ("G1", "no agent approves", oversight::agents),
    ("O1", "one owner's decisions, rising", ownership::rising),
    ("O3", "owners' epochs rise, and none that passed decides", ownership::epochs),
    ("O2", "no reallocation older than the flag", ownership::fresh),
    ("Q1", "bounds are kept", bounds::kept),
    ("P1", "a ramp skips no step and asks where it must", ramps::steps),
    ("P2", "a schedule happens once, not before its time", schedules::once),
    ("R1", "nodes tell what their log says, folded anew", log::told),
    ("S1", "one position, one digest", digests::equal),
    ("V", "healed: service is there again", convergence::served),
];
