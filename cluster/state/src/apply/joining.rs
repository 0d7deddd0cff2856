//! Outcomes by unit join every running experiment that uses their metric and holds the unit.
//!
//! ```text
//!   outcomes of a batch ── receipts one by one; what lies between two of them is a run:
//!       run ──> for every experiment: all of the run's outcomes, in their order
//!           ──> what no experiment took waits, in its order
//! ```
//!
//! Experiments do not touch one another's ledgers, so a run may be worked off experiment by experiment: each gets its outcomes in
//! their order all the same. With 50 experiments a metric that is three times as fast as outcome by outcome, because one
//! ledger after the other fits the processor's caches, and all of them together do not (`featureops bench facts`).

use std::collections::BTreeMap;

use featureops_proto::log::{Batch, OutcomeFact};
use featureops_proto::v1::Verdict;

use super::ingest::Verdicts;
use crate::State;
use crate::ledger::Held;
use crate::metrics::{late_limit_ms, window_minutes};

/// Experiments from which on it pays to take a run's outcomes in the order of the ledgers' tables.
const SORTED_FROM: usize = 4;

/// Outcomes whose rows and sums are asked for at once: processors wait for several places of memory together.
const AHEAD: usize = 16;

/// An outcome on its way into the experiments that use its metric.
struct Joining<'a> {
    /// Which batch it came in.
    batch: usize,
    /// Where in the run.
    place: usize,
    fact: &'a OutcomeFact,
    minute: u32,
    window: u32,
    /// What it came to so far; counted once, it is counted.
    verdict: Option<Verdict>,
    /// Some experiment does not hold the unit, yet.
    absent: bool,
}

/// What is to be done with an outcome.
enum Next<'a> {
    Decided(Verdict),
    HasReceipt { minute: u32, window: u32 },
    Joins(Joining<'a>),
}

impl State {
    /// Outcomes of all batches that count, in their order.
    pub(super) fn outcomes(&mut self, batches: &[Batch], verdicts: &mut [Option<Verdicts>]) {
        let counts = |at: &usize| verdicts.get(*at).is_some_and(Option::is_some);
        let counting: Vec<usize> = (0..batches.len()).filter(counts).collect();
        let of = |at: &usize| batches.get(*at).map_or(&[][..], |batch| &batch.outcomes);
        let mut run = Vec::with_capacity(counting.iter().map(|at| of(at).len()).sum());
        for (batch, fact) in counting.iter().flat_map(|at| of(at).iter().map(move |fact| (*at, fact))) {
            let verdict = match self.outcome((batch, run.len()), fact) {
                Next::Joins(joining) => {
                    run.push(joining);
                    continue;
                }
                Next::Decided(verdict) => verdict,
                Next::HasReceipt { minute, window } => {
                    // It may record an exposure, which what comes behind it sees and what comes before it does not.
                    self.join(&mut run, verdicts);
                    self.by_receipt(fact, minute, window)
                }
            };
            judge(verdicts, batch, fact, verdict);
        }
        self.join(&mut run, verdicts);
    }

    fn outcome<'a>(&mut self, (batch, place): (usize, usize), fact: &'a OutcomeFact) -> Next<'a> {
        let Some(metric) = self.metric_by_number(fact.metric).and_then(|m| m.definition.as_ref()) else {
            return Next::Decided(Verdict::UnknownMetric);
        };
        let (late_ms, window) = (late_limit_ms(metric), window_minutes(metric));
        let minute = match self.timed(fact.minute, late_ms) {
            Ok(minute) => minute,
            Err(verdict) => {
                self.count_unjoined(fact.metric, verdict);
                return Next::Decided(verdict);
            }
        };
        if fact.receipt.is_some() {
            return Next::HasReceipt { minute, window };
        }
        if fact.bad_receipt {
            self.count_unjoined(fact.metric, Verdict::BadReceipt);
        }
        Next::Joins(Joining { batch, place, fact, minute, window, verdict: None, absent: false })
    }

    /// Works a run off and leaves it empty.
    fn join(&mut self, run: &mut Vec<Joining<'_>>, verdicts: &mut [Option<Verdicts>]) {
        // By experiment: the slots of the run's metrics.
        let mut plan: BTreeMap<u32, Vec<(u32, usize)>> = BTreeMap::new();
        let mut metrics: Vec<u32> = run.iter().map(|joining| joining.fact.metric).collect();
        metrics.sort_unstable();
        metrics.dedup();
        for metric in metrics {
            for route in self.routes.get(&metric).into_iter().flatten() {
                plan.entry(route.experiment).or_default().push((metric, route.slot));
            }
        }
        // In the order of the tables; what one unit did stays in its order.
        let sorted = plan.len() >= SORTED_FROM;
        if sorted {
            run.sort_by_key(|joining| joining.fact.unit_hash);
        }
        for (experiment, slots) in &plan {
            self.join_one(*experiment, slots, run);
        }
        if sorted {
            run.sort_by_key(|joining| joining.place);
        }
        for joining in run.drain(..) {
            let fact = joining.fact;
            let verdict = if self.routes.contains_key(&fact.metric) {
                self.wait(&joining);
                joining.verdict.unwrap_or(Verdict::Waiting)
            } else {
                Verdict::Unused
            };
            judge(verdicts, joining.batch, fact, verdict);
        }
    }

    /// All of the run that concerns one experiment.
    fn join_one(&mut self, experiment: u32, slots: &[(u32, usize)], run: &mut [Joining<'_>]) {
        let slot_of =
            |fact: &OutcomeFact| slots.iter().find(|(metric, _)| *metric == fact.metric).map(|s| s.1);
        let Some(ledger) = self.ledgers.get_mut(&experiment) else {
            for joining in run.iter_mut().filter(|joining| slot_of(joining.fact).is_some()) {
                joining.absent = true;
            }
            return;
        };
        let sums = ledger.entries;
        let mut counted = 0;
        for place in 0..run.len() {
            if place % AHEAD == 0 {
                for joining in run.iter().skip(place).take(AHEAD) {
                    if let Some(slot) = slot_of(joining.fact) {
                        ledger.touch(joining.fact.unit_hash, slot);
                    }
                }
            }
            let Some(joining) = run.get_mut(place) else { continue };
            let fact = joining.fact;
            let Some(slot) = slot_of(fact) else { continue };
            let verdict = if !ledger.keeps(fact.unit_hash) {
                Verdict::Thinned
            } else if let Some(row) = ledger.row(fact.unit_hash) {
                ledger.outcome_of(row, fact.unit_hash, slot, fact.value, joining.minute, joining.window)
            } else {
                joining.absent = true;
                continue;
            };
            if verdict == Verdict::Counted {
                counted += 1;
            } else {
                ledger.count(verdict);
            }
            if joining.verdict != Some(Verdict::Counted) {
                joining.verdict = Some(verdict);
            }
        }
        if counted > 0 {
            ledger.count_all(Verdict::Counted, counted);
        }
        let held = ledger.entries;
        self.sums_changed(experiment, sums, held);
    }

    /// Where one experiment took it, another's exposure may still be on its way: it waits for that one too, as long as
    /// there is room to spare for those that nobody took.
    fn wait(&mut self, joining: &Joining<'_>) {
        let joined = joining.verdict.is_some();
        if joined && !(joining.absent && self.waiting.has_room_to_spare()) {
            return;
        }
        let held = Held {
            unit: joining.fact.unit_hash,
            metric: joining.fact.metric,
            value: joining.fact.value,
            minute: joining.minute,
            since_ms: self.clock.now_ms(),
            position: self.position,
            joined,
        };
        if let Some(gone) = self.waiting.hold(held)
            && !gone.joined
        {
            self.count_unjoined(gone.metric, Verdict::WaitingFull);
        }
    }
}

fn judge(verdicts: &mut [Option<Verdicts>], batch: usize, fact: &OutcomeFact, verdict: Verdict) {
    if let Some(Some(verdicts)) = verdicts.get_mut(batch) {
        verdicts.push((fact.index, verdict));
    }
}
