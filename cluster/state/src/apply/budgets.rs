//! Budgets of the ledgers: set by people, kept by the fold itself.
//!
//! ```text
//!   units or capped sums full
//!               ──> the experiment's counted part of the hash space halves    at once: no unit is refused, none evicted
//!   sums full   ──> the experiment's sums fold into clusters                  one experiment an entry: each costs milliseconds at the
//!                                                                             starting budget
//! ```

use std::collections::BTreeMap;

use featureops_proto::log::{Done, ExperimentThinned, Refusal, SetBudgets};
use featureops_proto::v1::{Budgets, Principal, principal};
use featureops_proto::{Collection, ErrorCode, Name};

use super::{Context, Outcome, refuse};
use crate::State;
use crate::budgets::{MOST, etag};
use crate::effect::Effect;
use crate::flags::check_etag;
use crate::ledger::{Ledger, SHARDS};

/// Experiments that an answer or a refusal names.
const NAMED: usize = 16;

/// A thing the ledger did by itself, for the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    experiment: u32,
    action: &'static str,
    detail: String,
}

impl State {
    pub(super) fn set_budgets(
        &mut self,
        ctx: &Context,
        c: &SetBudgets,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Refusal> {
        ctx.require_human("setting budgets")?;
        let Some(budgets) = c.budgets else {
            return refuse(ErrorCode::InvalidArgument, "budgets", "", "missing");
        };
        for (field, value, most) in fields(&budgets) {
            if value > most {
                let message = format!("at most {most}; 0 is the starting value");
                return refuse(ErrorCode::InvalidArgument, &format!("budgets.{field}"), value, message);
            }
        }
        check_etag(&c.etag, &etag(&self.budgets.unwrap_or_default()))?;
        let before = self.budgets.replace(budgets);
        if let Some((field, value, held)) = self.over_budget()
            && !c.thin
        {
            let whom = self.over_by_name();
            self.budgets = before;
            let message = format!(
                "{held} are held: half of the counted hash space of {whom}, or more, would leave for good; say thin to have it so"
            );
            return refuse(ErrorCode::WrongState, &format!("budgets.{field}"), value, message);
        }
        let before: BTreeMap<u32, u64> =
            self.ledgers.iter().map(|(number, ledger)| (*number, ledger.thinned)).collect();
        let live: Vec<u32> = self.ledgers.iter().filter(|(_, l)| !l.released).map(|(n, _)| *n).collect();
        for number in &live {
            let budgets = self.budgets();
            while self.ledgers.get(number).is_some_and(|ledger| over(ledger, &budgets).is_some()) {
                if !self.thin(*number) {
                    break;
                }
            }
        }
        while self.rows > self.budgets().units && self.thin_largest() {}
        let most = self.budgets().experiment_sums;
        self.heavy =
            live.into_iter().filter(|n| self.ledgers.get(n).is_some_and(|l| l.entries > most)).collect();
        self.record_happened(effects);
        let set: Vec<String> =
            fields(&budgets).iter().filter(|f| f.1 > 0).map(|f| format!("{} {}", f.0, f.1)).collect();
        let detail = if set.is_empty() { "starting values".to_owned() } else { set.join(", ") };
        Ok(Outcome { detail, done: self.thinned_since(&before), ..Outcome::default() })
    }

    /// Whom units left since then.
    fn thinned_since(&self, before: &BTreeMap<u32, u64>) -> Done {
        let gone = |number: &u32, ledger: &Ledger| {
            ledger.thinned.saturating_sub(before.get(number).copied().unwrap_or(0))
        };
        let all = self.ledgers.iter().filter(|(number, ledger)| gone(number, ledger) > 0);
        let thinned = all.clone().take(NAMED).map(|(number, ledger)| ExperimentThinned {
            name: self.name_of(*number),
            units: gone(number, ledger),
            kept_parts: ledger.kept as u32,
        });
        Done { thinned: thinned.collect(), thinned_count: all.count() as u32, ..Done::default() }
    }

    /// Those that hold more than a budget lets them, or the one with most units where all together do.
    fn over_by_name(&self) -> String {
        let budgets = self.budgets();
        let live = || self.ledgers.iter().filter(|(_, ledger)| !ledger.released && ledger.may_thin());
        let mut over: Vec<u32> = live()
            .filter(|(_, ledger)| over(ledger, &budgets).is_some())
            .map(|(number, _)| *number)
            .collect();
        if over.is_empty() {
            over.extend(
                live().max_by_key(|(number, l)| (l.rows, u32::MAX - **number)).map(|(number, _)| *number),
            );
        }
        let mut names: Vec<String> = over.iter().take(NAMED).map(|number| self.name_of(*number)).collect();
        if over.len() > NAMED {
            names.push(format!("{} more", over.len() - NAMED));
        }
        names.join(", ")
    }

    fn name_of(&self, number: u32) -> String {
        self.experiments.get(&number).map_or_else(String::new, |record| {
            Name::format(&record.environment, Collection::Experiments, &record.experiment)
        })
    }

    /// Which budget of units is below what is held, where anybody can leave: field, budget, held. Who is down to the smallest part
    /// that is counted stays, whatever the budgets are.
    fn over_budget(&self) -> Option<(&'static str, u64, u64)> {
        let budgets = self.budgets();
        let mut live = self.ledgers.values().filter(|ledger| !ledger.released && ledger.may_thin());
        if self.rows > budgets.units && live.clone().any(|ledger| ledger.rows > 0) {
            return Some(("units", budgets.units, self.rows));
        }
        live.find_map(|ledger| over(ledger, &budgets))
    }

    /// Makes room for what recording the exposure takes. Returns whether there is.
    pub(super) fn make_room(&mut self, number: u32, unit: u64, arm: u8) -> bool {
        let budgets = self.budgets();
        loop {
            let Some(ledger) = self.ledgers.get(&number) else { return false };
            let full =
                ledger.rows >= budgets.experiment_units || ledger.crossed >= budgets.experiment_crossed;
            if !full && self.rows < budgets.units {
                return true;
            }
            if !ledger.keeps(unit) {
                return true;
            }
            let (rows, crossed) = ledger.takes(unit, arm);
            let full = ledger.rows + rows > budgets.experiment_units
                || (crossed > 0 && ledger.crossed >= budgets.experiment_crossed);
            let thinned = if full {
                self.thin(number)
            } else if self.rows + rows > budgets.units {
                self.thin_largest()
            } else {
                return true;
            };
            if !thinned {
                return false;
            }
        }
    }

    fn thin(&mut self, number: u32) -> bool {
        let Some(ledger) = self.ledgers.get_mut(&number) else { return false };
        let sums = ledger.entries;
        let Some(gone) = ledger.thin() else { return false };
        self.entries -= sums - ledger.entries;
        let left = (gone, ledger.kept);
        self.left(number, &[left]);
        true
    }

    /// Units left an experiment, as often as this: how many, and the parts that were kept then.
    pub(super) fn left(&mut self, number: u32, left: &[(u64, usize)]) {
        for (gone, kept) in left {
            self.rows -= gone;
            let detail = format!("a budget is full: {gone} units left, {kept} of {SHARDS} parts are kept");
            self.happened.push(Happened { experiment: number, action: "experiment.thin", detail });
        }
    }

    /// The experiment with most rows, the first of equals, as long as a part of it can leave.
    fn thin_largest(&mut self) -> bool {
        let mut live: Vec<(u64, u32)> =
            self.ledgers.iter().filter(|(_, l)| !l.released).map(|(n, l)| (u64::MAX - l.rows, *n)).collect();
        live.sort_unstable();
        live.into_iter().any(|(_, number)| self.thin(number))
    }

    /// Folds the sums of one experiment that holds too many, or of the one with most when all together are too many: one an
    /// entry, because each takes milliseconds at the starting budget, and more at larger ones.
    pub(super) fn fold_heaviest(&mut self) {
        let budgets = self.budgets();
        let entries = |number: &u32| self.ledgers.get(number).map_or(0, |ledger| ledger.entries);
        let most = |numbers: &mut dyn Iterator<Item = u32>| {
            numbers.map(|number| (entries(&number), std::cmp::Reverse(number))).max()
        };
        let own = most(&mut self.heavy.iter().copied()).filter(|(sums, _)| *sums > budgets.experiment_sums);
        let found = own.or_else(|| {
            if self.entries > budgets.sums { most(&mut self.ledgers.keys().copied()) } else { None }
        });
        let Some((sums, std::cmp::Reverse(number))) = found.filter(|(sums, _)| *sums > 0) else { return };
        self.heavy.remove(&number);
        if let Some(ledger) = self.ledgers.get_mut(&number) {
            ledger.fold();
            self.entries -= sums;
            let detail = format!("{sums} sums of units folded into hash clusters");
            self.happened.push(Happened { experiment: number, action: "experiment.fold", detail });
        }
    }

    /// Audits what the ledgers did by themselves.
    pub(super) fn record_happened(&mut self, effects: &mut Vec<Effect>) {
        for Happened { experiment, action, detail } in std::mem::take(&mut self.happened) {
            let principal =
                Principal { kind: principal::Kind::System as i32, id: "ledger".to_owned(), verified: true };
            let ctx =
                Context { position: self.position, now_ms: self.clock.now_ms(), principal, owner: None };
            let resource = self.name_of(experiment);
            self.record(&ctx, action, resource, detail, String::new(), effects);
        }
    }
}

fn fields(budgets: &Budgets) -> [(&'static str, u64, u64); 6] {
    [
        ("experiment_units", budgets.experiment_units, MOST.experiment_units),
        ("units", budgets.units, MOST.units),
        ("experiment_sums", budgets.experiment_sums, MOST.experiment_sums),
        ("sums", budgets.sums, MOST.sums),
        ("experiment_crossed", budgets.experiment_crossed, MOST.experiment_crossed),
        ("experiment_capped", budgets.experiment_capped, MOST.experiment_capped),
    ]
}

fn over(ledger: &Ledger, budgets: &Budgets) -> Option<(&'static str, u64, u64)> {
    if ledger.rows > budgets.experiment_units {
        return Some(("experiment_units", budgets.experiment_units, ledger.rows));
    }
    if ledger.capped > budgets.experiment_capped {
        return Some(("experiment_capped", budgets.experiment_capped, ledger.capped));
    }
    (ledger.crossed > budgets.experiment_crossed).then_some((
        "experiment_crossed",
        budgets.experiment_crossed,
        ledger.crossed,
    ))
}
