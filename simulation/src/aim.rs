//! Faults that are aimed: at a moment of a ledger or of a snapshot, not at a time.
//!
//! A follower folds what reaches the disk, as it is written and before it is synced, and so knows of a fold or a thinning in the
//! millisecond in which its entry comes; of a snapshot the disk itself says that it is being written.

use std::fmt;

use featureops_state::State;

use crate::disk::SimulatedDisk;
use crate::faults::{Fault, ScheduledFault};
use crate::leak::can_leak;
use crate::plan::{Brim, Plan, Plant};
use crate::refold::proposal;
use crate::workload::{ENVIRONMENT, EXPERIMENTS};

/// What a fault waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Few sums are missing to a fold.
    BeforeFold,
    /// An entry at which a ledger folds is written.
    Fold,
    /// An entry at which a ledger thins is written.
    Thinning,
    /// The first write of a snapshot.
    Snapshot,
}

impl Moment {
    /// Every one.
    pub const ALL: &'static [Self] = &[Self::BeforeFold, Self::Fold, Self::Thinning, Self::Snapshot];
}

/// A fault and the moment it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aim {
    /// What it waits for.
    pub moment: Moment,
    /// So many of these are let go by first.
    pub skips: u64,
    /// How long after the moment it falls.
    pub after_ms: u64,
    /// What happens.
    pub fault: Fault,
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "aimed: {} ms after {:?} number {}: {:?}",
            self.after_ms,
            self.moment,
            self.skips.saturating_add(1),
            self.fault
        )
    }
}

/// Follows one machine's disk.
pub struct Follower {
    machine: u64,
    aims: Vec<Aim>,
    brim: Brim,
    leaks: bool,
    state: State,
    next: u64,
    cuts: u64,
    audited: u64,
    sums: u64,
    is_near: bool,
    writes: bool,
}

impl Follower {
    /// From an empty disk on; `None` in worlds whose ledgers are far from their bounds.
    #[must_use]
    pub fn new(plan: &Plan, machine: u64) -> Option<Self> {
        let brim = plan.brim.clone()?;
        Some(Self {
            machine,
            aims: brim.aims.clone(),
            brim,
            leaks: plan.plant == Some(Plant::LeakyFold),
            state: State::new(),
            next: 0,
            cuts: 0,
            audited: 0,
            sums: 0,
            is_near: false,
            writes: false,
        })
    }

    /// What falls on the machine for what happened since the last look.
    pub fn look(&mut self, disk: &SimulatedDisk, now_ms: u64) -> Vec<ScheduledFault> {
        let mut moments = self.follow(disk);
        if disk.writes_snapshot() != self.writes {
            self.writes = !self.writes;
            if self.writes {
                moments.push(Moment::Snapshot);
            }
        }
        let mut falls = Vec::new();
        for moment in moments {
            let mut spent = Vec::new();
            for (at, aim) in self.aims.iter_mut().enumerate().filter(|(_, aim)| aim.moment == moment) {
                if let Some(less) = aim.skips.checked_sub(1) {
                    aim.skips = less;
                    continue;
                }
                spent.push(at);
                let at_ms = now_ms.saturating_add(aim.after_ms);
                falls.push(ScheduledFault { at_ms, machine: self.machine, fault: aim.fault });
            }
            for at in spent.into_iter().rev() {
                self.aims.remove(at);
            }
        }
        falls
    }

    fn follow(&mut self, disk: &SimulatedDisk) -> Vec<Moment> {
        let (cuts, mut entries) = disk.archive_from(self.next);
        let begins_anew = cuts != self.cuts;
        if begins_anew {
            (self.state, self.next, self.cuts, self.audited) = (State::new(), 0, cuts, 0);
            entries = disk.archive_from(0).1;
        }
        let mut moments = Vec::new();
        for entry in &entries {
            self.next = entry.position.index.saturating_add(1);
            let Some(proposal) = proposal(&entry.payload) else { continue };
            if self.state.apply(entry.position.index, &proposal, &mut Vec::new()).is_err() {
                continue;
            }
            for record in self.state.audit_from(self.audited.saturating_add(1), usize::MAX) {
                self.audited = record.number;
                match record.action.as_str() {
                    "experiment.fold" => {
                        if self.leaks && can_leak(&entry.payload) {
                            disk.leak_at(entry.position.index);
                        }
                        moments.push(Moment::Fold);
                    }
                    "experiment.thin" => moments.push(Moment::Thinning),
                    _ => {}
                }
            }
        }
        let sums = self.state.budgets_status().sums;
        if sums != self.sums {
            self.sums = sums;
            let is_near = self.near_fold();
            if is_near && !self.is_near {
                moments.push(Moment::BeforeFold);
            }
            self.is_near = is_near;
        }
        // What was lost and is folded again is no news.
        if begins_anew { Vec::new() } else { moments }
    }

    fn near_fold(&self) -> bool {
        let most = self.brim.experiment_sums;
        EXPERIMENTS.iter().any(|key| {
            let view = self.state.experiment_view(ENVIRONMENT, key);
            view.is_some_and(|view| !view.folded && view.entries.saturating_mul(8) >= most.saturating_mul(7))
        })
    }
}
