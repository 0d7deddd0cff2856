//! What one seed means: every option of a world, drawn once, before it begins, and printed.
//!
//! Nothing else decides anything: two worlds with equal plans are equal worlds.

use std::fmt;

use crate::aim::{Aim, Moment};
use crate::dice::Dice;
use crate::faults::{Fault, LEADER, ScheduledFault};

/// Defects that a test plants, to see that a checker finds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plant {
    /// The disk says it synced and did not.
    DroppedSync,
    /// A service reports a batch again under a new sequence, as a node without deduplication would count it.
    DoubleCount,
    /// A client's record of an evaluation under a trip shows the treatment.
    TreatmentUnderTrip,
    /// A client's record of an evaluation that returned its receipt shows another arm.
    FlippedArm,
    /// A node's digest is recorded wrong after a restart.
    WrongDigest,
    /// The acknowledgement of a command is recorded with a version the flag never had.
    LostCommand,
    /// Evaluations stop while the disk ails, as they would in a node that writes before it answers.
    SilentUnderAilment,
    /// An agent's approval is recorded as done.
    AgentApproved,
    /// A node's answer about a unit on a list is recorded as the other one.
    LostUnit,
    /// A unit is held after its erasure.
    KeptUnit,
    /// A ramp's decision is recorded with a step that it skipped.
    SkippedStep,
    /// A schedule is recorded as done before its time.
    EarlySchedule,
    /// An allocation is recorded with weights that do not sum to the whole.
    WrongWeights,
    /// An allocation is recorded with more traffic for the new arm than its cap.
    OverCap,
    /// An evaluation is recorded without a variant.
    NoVariant,
    /// A record of the audit is missing.
    AuditGap,
    /// Two decisions are recorded as having made one version of a flag, as two owners at once would.
    TwoOwners,
    /// A reallocation is recorded as made on a version that a person had overtaken.
    StaleDecision,
    /// An experiment's ledger is recorded with more rows than there are units.
    BoundBroken,
    /// Two experiments of a layer are recorded with one slot.
    SharedSlot,
    /// An experiment is recorded with a unit more than were exposed.
    PhantomUnit,
    /// An answer is recorded with an older version than one that came before it was asked for.
    OldVersion,
    /// A read is recorded with the version before an acknowledged one.
    StaleRead,
    /// A decision's replay is recorded as another decision.
    OtherReplay,
    /// A fold forgets a part of a sum, on the lives that make it again from the log.
    LeakyFold,
    /// A fold is recorded with the sums of single units but one.
    ShortFold,
    /// One replica counts a batch again that comes again.
    NoDedup,
    /// Nodes forget their vote when they lose power.
    VoteForgotten,
    /// Every node but one acknowledges what its disk does not hold: a majority's power fails.
    EarlyAck,
    /// One node counts as a majority: what it acknowledged is gone with it.
    MinorityCommit,
    /// A decision under an epoch that had passed is recorded as applied.
    FenceSkipped,
    /// An owner's decisions are recorded under an older epoch than those before them.
    EpochIgnored,
    /// Two nodes are recorded as leaders of one term.
    TwoLeaders,
    /// A node is recorded as silent while it served.
    SilentReplica,
    /// A read on one node is recorded as older than one that had come before it on another.
    StaleReplica,
}

impl Plant {
    /// Every plant, with its name on the command line.
    pub const ALL: &'static [(Self, &'static str)] = &[
        (Self::DroppedSync, "dropped-sync"),
        (Self::DoubleCount, "double-count"),
        (Self::TreatmentUnderTrip, "treatment-under-trip"),
        (Self::FlippedArm, "flipped-arm"),
        (Self::WrongDigest, "wrong-digest"),
        (Self::LostCommand, "lost-command"),
        (Self::SilentUnderAilment, "silent-under-ailment"),
        (Self::AgentApproved, "agent-approved"),
        (Self::LostUnit, "lost-unit"),
        (Self::KeptUnit, "kept-unit"),
        (Self::SkippedStep, "skipped-step"),
        (Self::EarlySchedule, "early-schedule"),
        (Self::WrongWeights, "wrong-weights"),
        (Self::OverCap, "over-cap"),
        (Self::NoVariant, "no-variant"),
        (Self::AuditGap, "audit-gap"),
        (Self::TwoOwners, "two-owners"),
        (Self::StaleDecision, "stale-decision"),
        (Self::BoundBroken, "bound-broken"),
        (Self::SharedSlot, "shared-slot"),
        (Self::PhantomUnit, "phantom-unit"),
        (Self::OldVersion, "old-version"),
        (Self::StaleRead, "stale-read"),
        (Self::OtherReplay, "other-replay"),
        (Self::LeakyFold, "leaky-fold"),
        (Self::ShortFold, "short-fold"),
        (Self::NoDedup, "no-dedup"),
        (Self::VoteForgotten, "vote-forgotten"),
        (Self::EarlyAck, "early-ack"),
        (Self::MinorityCommit, "minority-commit"),
        (Self::FenceSkipped, "fence-skipped"),
        (Self::EpochIgnored, "epoch-ignored"),
        (Self::TwoLeaders, "two-leaders"),
        (Self::SilentReplica, "silent-replica"),
        (Self::StaleReplica, "stale-replica"),
    ];

    /// The plant of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, text)| *text == name).map(|(plant, _)| *plant)
    }

    /// Whether it needs a world of several nodes; the others are planted in worlds of one.
    #[must_use]
    pub fn is_of_clusters(self) -> bool {
        self >= Self::NoDedup
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(plant, _)| *plant == self).map_or("", |(_, text)| *text)
    }
}

/// Budgets so small that ledgers fold and thin within the world, a crowd that fills them, and what is aimed at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brim {
    /// Sums of one experiment: beyond them it folds.
    pub experiment_sums: u64,
    /// Sums over all; 0: as ever.
    pub sums: u64,
    /// Units of one experiment: beyond them it thins; 0: as ever.
    pub experiment_units: u64,
    /// Units that changed arms, of one experiment: as `experiment_units`.
    pub experiment_crossed: u64,
    /// Units of the crowd.
    pub crowd: u64,
    /// Events of the crowd's largest batch.
    pub events_max: u64,
    /// Entries between two snapshots: more often than elsewhere.
    pub snapshot_every_entries: u64,
    /// What falls at which moment.
    pub aims: Vec<Aim>,
}

impl Brim {
    /// In how many worlds of a hundred.
    const PERCENT: u64 = 40;

    fn of(seed: u64, plant: Option<Plant>) -> Option<Self> {
        let mut dice = Dice::new(seed, "brim");
        let planted = matches!(plant, Some(Plant::LeakyFold | Plant::ShortFold));
        if !dice.percent(Self::PERCENT) && !planted {
            return None;
        }
        let some = |dice: &mut Dice, percent, low, high| {
            let drawn = dice.between(low, high);
            if dice.percent(percent) { drawn } else { 0 }
        };
        let mut brim = Self {
            experiment_sums: dice.between(12, 150),
            sums: some(&mut dice, 25, 20, 300),
            experiment_units: some(&mut dice, 60, 40, 300),
            experiment_crossed: some(&mut dice, 30, 4, 40),
            crowd: dice.between(100, 1_500),
            events_max: dice.between(4, 40),
            snapshot_every_entries: dice.between(20, 200),
            aims: Vec::new(),
        };
        for _ in 0..dice.between(1, 4) {
            let moment = dice.pick(Moment::ALL).copied().unwrap_or(Moment::Fold);
            let most = if moment == Moment::Snapshot { 8 } else { 1 };
            let skips = dice.between(0, most);
            // Within the sync of the entry, or some entries later.
            let after_ms = if dice.percent(60) { dice.between(0, 30) } else { dice.between(0, 400) };
            let fault = match dice.between(0, 9) {
                0..=4 => Fault::Crash { down_ms: dice.between(20, 200) },
                5..=6 => Fault::Crash { down_ms: dice.between(500, 3_000) },
                7 => Fault::CrashTwice { between_ms: dice.between(1, 200) },
                8 => Fault::FailingSync { for_ms: dice.between(50, 600) },
                _ => Fault::FullDisk { for_ms: dice.between(50, 1_000) },
            };
            // Without room only a snapshot's own moment is of interest, and there at once.
            let full = moment == Moment::Snapshot && dice.percent(40);
            let fault = if full { Fault::FullDisk { for_ms: dice.between(50, 1_000) } } else { fault };
            brim.aims.push(Aim { moment, skips, after_ms: if full { 0 } else { after_ms }, fault });
        }
        if plant == Some(Plant::LeakyFold) {
            // The defect shows on a life that makes a fold again.
            let fault = Fault::Crash { down_ms: 100 };
            brim.aims = vec![Aim { moment: Moment::Fold, skips: 0, after_ms: 150, fault }];
        }
        Some(brim)
    }
}

impl fmt::Display for Brim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  ledgers at the brim: {} sums an experiment, {} over all, {} units, {} crossed (0: as ever)",
            self.experiment_sums, self.sums, self.experiment_units, self.experiment_crossed
        )?;
        writeln!(f, "  a crowd of {} units, {} events a batch", self.crowd, self.events_max)?;
        for aim in &self.aims {
            writeln!(f, "  {aim}")?;
        }
        Ok(())
    }
}

/// Kinds of faults in a world of several nodes, at least.
const KINDS_MIN: usize = 6;
/// Time that a cluster has to come together before anything goes wrong.
const FORMED_MS: u64 = 6_000;

/// How many nodes vote in the world of a seed.
fn machines_of(seed: u64, plant: Option<Plant>) -> u64 {
    if let Some(plant) = plant {
        return if plant.is_of_clusters() { 3 } else { 1 };
    }
    match Dice::new(seed, "machines").between(0, 99) {
        0..=39 => 1,
        40..=84 => 3,
        _ => 5,
    }
}

/// The options of one world.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where all of it comes from.
    pub seed: u64,
    /// Nodes that vote.
    pub machines: u64,
    /// Machines without a node, which take the place of others.
    pub spares: u64,
    /// Entries that nodes keep behind a snapshot.
    pub keep_entries: u64,
    /// Longest time between two changes that people make to a cluster of several nodes.
    pub churn_max_ms: u64,
    /// Service clients.
    pub services: u64,
    /// Clients that only evaluate: by them one sees whether evaluation goes on when nothing else does.
    pub visitors: u64,
    /// Units that services evaluate for.
    pub units: u64,
    /// Whether the treatment makes errors, so that owners have something to trip.
    pub harm: bool,
    /// Simulated time under faults.
    pub faults_ms: u64,
    /// Simulated time after all is healed, in which service is demanded.
    pub healed_ms: u64,
    /// Fastest message.
    pub latency_min_ms: u64,
    /// Slowest message.
    pub latency_max_ms: u64,
    /// Longest pause of a service between two calls.
    pub think_max_ms: u64,
    /// Entries between two snapshots of a node.
    pub snapshot_every_entries: u64,
    /// Bytes of entries between two, at least.
    pub snapshot_every_bytes: u64,
    /// Batches in a hundred that are sent again although they were answered.
    pub repeats_percent: u64,
    /// Autonomy the experiments are started with, 2 to 4.
    pub autonomy: u64,
    /// What goes wrong, and when.
    pub faults: Vec<ScheduledFault>,
    /// Whether every machine loses power once more when all is healed.
    pub restarts: bool,
    /// Ledgers near their bounds, if they are.
    pub brim: Option<Brim>,
    /// The planted defect, if any.
    pub plant: Option<Plant>,
    /// Voters, where somebody said how many.
    pub voters: Option<u64>,
    /// Places in the whole list of the faults that were left in, where some were left out.
    pub kept: Option<Vec<usize>>,
}

impl Plan {
    /// Leaves out all faults but these, by their places in the list.
    pub fn keep_faults(&mut self, kept: &[usize]) {
        let mut at = 0..;
        self.faults.retain(|_| at.next().is_some_and(|at| kept.contains(&at)));
        self.kept = Some(kept.to_vec());
    }

    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64, plant: Option<Plant>) -> Self {
        Self::among(seed, plant, None)
    }

    /// The plan of a seed with this many voters, whatever the seed says.
    #[must_use]
    pub fn among(seed: u64, plant: Option<Plant>, voters: Option<u64>) -> Self {
        let mut dice = Dice::new(seed, "plan");
        let machines = voters.unwrap_or_else(|| machines_of(seed, plant));
        let faults_ms = dice.between(8_000, 24_000);
        let latency_min_ms = dice.between(1, 3);
        let mut plan = Self {
            seed,
            machines,
            spares: 0,
            keep_entries: 1_000,
            churn_max_ms: 0,
            services: dice.between(1, 4),
            visitors: 1,
            units: dice.between(20, 400),
            harm: dice.percent(40),
            faults_ms,
            healed_ms: 6_000,
            latency_min_ms,
            latency_max_ms: latency_min_ms.saturating_add(dice.between(1, 40)),
            think_max_ms: dice.between(6, 50),
            snapshot_every_entries: dice.between(30, 600),
            // From a dice of its own: every seed before it stays the world that it was but for this.
            snapshot_every_bytes: Dice::new(seed, "snapshot bytes").between(4 << 10, 256 << 10),
            repeats_percent: dice.between(0, 40),
            autonomy: dice.between(2, 4),
            faults: Vec::new(),
            restarts: true,
            brim: Brim::of(seed, plant),
            plant,
            voters,
            kept: None,
        };
        if let Some(brim) = &plan.brim {
            plan.snapshot_every_entries = brim.snapshot_every_entries;
        }
        if machines > 1 {
            plan.widen();
            return plan;
        }
        let mut dice = Dice::new(seed, "faults");
        let count = dice.between(1, 8);
        for _ in 0..count {
            plan.faults.push(ScheduledFault {
                // Nothing before the experiments run: an empty world cannot lose anything.
                at_ms: dice.between(1_500, faults_ms.saturating_sub(500)),
                machine: dice.between(1, machines),
                fault: Fault::draw(&mut dice),
            });
        }
        if plant == Some(Plant::DroppedSync) {
            let at_ms = faults_ms / 2;
            plan.faults.push(ScheduledFault { at_ms, machine: 1, fault: Fault::Crash { down_ms: 300 } });
        }
        plan.faults.sort_by_key(|scheduled| scheduled.at_ms);
        // A clock that is set right is a jump to a node that goes on: only a start takes the clock as it finds it.
        let jumped = plan.faults.iter().any(|scheduled| matches!(scheduled.fault, Fault::Clock { .. }));
        plan.restarts = jumped || plant.is_some() || Dice::new(seed, "heal").percent(50);
        plan
    }

    /// Makes it a world of several nodes: longer, with more that goes wrong, and of other kinds.
    fn widen(&mut self) {
        let mut dice = Dice::new(self.seed, "cluster");
        self.brim = None;
        self.spares = dice.between(0, 1);
        self.faults_ms = dice.between(44_000, 56_000);
        self.healed_ms = 8_000;
        self.services = dice.between(1, 3);
        self.think_max_ms = dice.between(10, 60);
        // The wire between two nodes is short, mostly.
        self.latency_max_ms = self.latency_min_ms.saturating_add(dice.between(1, 15));
        self.snapshot_every_entries = dice.between(60, 500);
        self.keep_entries = dice.between(10, 200);
        self.churn_max_ms = dice.between(2_000, 9_000);
        let last_ms = self.faults_ms.saturating_sub(500);
        let mut kinds = std::collections::BTreeSet::new();
        let count = dice.between(12, 28);
        for drawn in 0..100 {
            if drawn >= count && kinds.len() >= KINDS_MIN {
                break;
            }
            let (machine, fault) = Fault::draw_among(&mut dice, self.machines.saturating_add(self.spares));
            kinds.insert(fault.kind());
            // Nothing before the cluster is one: it would only come to be later.
            self.faults.push(ScheduledFault { at_ms: dice.between(FORMED_MS, last_ms), machine, fault });
        }
        let middle = self.faults_ms / 2;
        let mut all_fail = |at_ms: u64, from: u64| {
            for machine in from..=self.machines {
                let fault = Fault::Crash { down_ms: 300 };
                self.faults.push(ScheduledFault { at_ms, machine, fault });
            }
        };
        match self.plant {
            Some(Plant::EarlyAck | Plant::MinorityCommit) => all_fail(middle, 1),
            // A vote is asked for and forgotten again and again.
            Some(Plant::VoteForgotten) => {
                for round in 0..8_u64 {
                    let at_ms = FORMED_MS.saturating_add(round.saturating_mul(4_000));
                    all_fail(at_ms, 2);
                }
            }
            Some(Plant::NoDedup) => self.repeats_percent = 40,
            _ => {}
        }
        if matches!(self.plant, Some(Plant::EarlyAck | Plant::MinorityCommit)) {
            self.faults.retain(|scheduled| !matches!(scheduled.fault, Fault::LoseDisk { .. }));
        }
        self.faults.sort_by_key(|scheduled| scheduled.at_ms);
        let jumped = self.faults.iter().any(|scheduled| matches!(scheduled.fault, Fault::Clock { .. }));
        self.restarts = jumped || self.plant.is_some() || dice.percent(50);
    }

    /// Machines in all.
    #[must_use]
    pub fn all_machines(&self) -> u64 {
        self.machines.saturating_add(self.spares)
    }

    /// The command that runs this plan again.
    #[must_use]
    pub fn replay_command(&self) -> String {
        let plant = self.plant.map_or_else(String::new, |plant| format!(" --plant {}", plant.name()));
        let kept = self.kept.as_ref().map_or_else(String::new, |kept| {
            let places: Vec<String> = kept.iter().map(ToString::to_string).collect();
            format!(" --faults {}", places.join(","))
        });
        let voters = self.voters.map_or_else(String::new, |voters| format!(" --nodes {voters}"));
        format!("cargo run --release -p simulation -- run --seed {}{voters}{plant}{kept}", self.seed)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}", self.seed)?;
        writeln!(
            f,
            "  voters {}, spares {}, services {}, visitors {}",
            self.machines, self.spares, self.services, self.visitors
        )?;
        if self.machines > 1 {
            let (keeps, churn) = (self.keep_entries, self.churn_max_ms);
            writeln!(
                f,
                "  {keeps} entries kept behind a snapshot, a change of the cluster every {churn} ms at most"
            )?;
        }
        writeln!(f, "  units {}, treatment does harm: {}", self.units, self.harm)?;
        writeln!(f, "  under faults {} ms, healed {} ms", self.faults_ms, self.healed_ms)?;
        writeln!(
            f,
            "  latency {} to {} ms, think {} ms",
            self.latency_min_ms, self.latency_max_ms, self.think_max_ms
        )?;
        writeln!(
            f,
            "  snapshot every {} entries or {} bytes, repeats {} %",
            self.snapshot_every_entries, self.snapshot_every_bytes, self.repeats_percent
        )?;
        writeln!(f, "  restarted when healed: {}", self.restarts)?;
        writeln!(f, "  autonomy A{}, plant {}", self.autonomy, self.plant.map_or("none", Plant::name))?;
        if let Some(brim) = &self.brim {
            write!(f, "{brim}")?;
        }
        for scheduled in &self.faults {
            let (at, fault) = (scheduled.at_ms, scheduled.fault);
            match scheduled.machine {
                LEADER => writeln!(f, "  at {at} ms the leader: {fault:?}")?,
                machine => writeln!(f, "  at {at} ms machine {machine}: {fault:?}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_a_function_of_its_seed() {
        assert_eq!(format!("{}", Plan::of(1, None)), format!("{}", Plan::of(1, None)));
        assert_ne!(format!("{}", Plan::of(1, None)), format!("{}", Plan::of(2, None)));
    }

    #[test]
    fn two_hundred_seeds_meet_every_kind_of_fault() {
        let kinds: std::collections::BTreeSet<&str> = (0..200)
            .flat_map(|seed| Plan::of(seed, None).faults)
            .map(|scheduled| scheduled.fault.kind())
            .collect();
        assert_eq!(kinds.len(), Fault::KINDS, "{kinds:?}");
    }
}
