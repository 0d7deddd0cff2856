//! Outcomes by unit join every running experiment that uses their metric and holds the unit.
//!
//! ```text
//!   outcomes of a batch ── receipts one by one; what lies between two of them is a run:
//!       run ──> for every experiment: all of the run's outcomes, in their order
//!           ──> what no experiment took waits, in its order
//! ```
//!
//! Experiments do not touch one another's ledgers, so a run may be worked off experiment by experiment. With 50 experiments a
//! metric that is three times as fast as outcome by outcome, because one ledger after the other fits the processor's caches,
//! and all of them together do not; in the order of the tables it is nearly twice as fast again, because then memory is
//! asked for many places at once (`ledger/run.rs`; `featureops bench facts`).

use std::collections::BTreeMap;

use featureops_proto::log::{Batch, OutcomeFact};
use featureops_proto::v1::Verdict;

use super::ingest::Verdicts;
use crate::State;
use crate::ledger::{Event, Held};
use crate::metrics::{late_limit_ms, window_minutes};

/// Experiments from which on it pays to take a run's outcomes in the order of the ledgers' tables.
const SORTED_FROM: usize = 4;

/// Outcomes from which on a ledger is asked whether it may take them together, which looks at all of its moments.
const TOGETHER_FROM: usize = 256;

/// Outcomes whose rows and sums are asked for at once: processors wait for several places of memory together.
const AHEAD: usize = 16;

/// An outcome on its way into the experiments that use its metric.
struct Joining<'a> {
    /// Which batch it came in.
    batch: usize,
    fact: &'a OutcomeFact,
    minute: u32,
    window: u32,
}

/// Where experiments that share a metric differ: that it counted in one of them, then what went wrong, the worst first, and last that
/// one counts a part of the units in which this one is not, as is meant.
const fn severity(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Counted => u8::MAX,
        Verdict::NoRoom => 6,
        Verdict::SumOverflow => 5,
        Verdict::CrossedTwice => 4,
        Verdict::OutsideWindow => 3,
        Verdict::BeforeExposure => 2,
        Verdict::Thinned => 0,
        _ => 1,
    }
}

/// What an outcome came to so far: small, because those of a run are looked at in the order of the tables.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    /// The most severe.
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

/// A run as the ledgers take it.
struct Events {
    /// Magnitude of all values together.
    magnitude: u64,
    /// As the log has them.
    in_order: Vec<Event>,
    /// Where many experiments use them: by shard and hash, each unit's in their order.
    in_table_order: Option<Vec<Event>>,
    /// Where many experiments use them and one takes them one by one: by unit.
    by_unit: Option<Vec<Event>>,
}

impl Events {
    fn of(run: &[Joining<'_>], metrics: &[u32], many: bool) -> Self {
        let event = |(place, joining): (u32, &Joining<'_>)| Event {
            unit: joining.fact.unit_hash,
            value: joining.fact.value,
            minute: joining.minute,
            window: joining.window,
            metric: metrics.binary_search(&joining.fact.metric).map_or(u32::MAX, |at| at as u32),
            place,
        };
        let in_order: Vec<Event> = (0u32..).zip(run).map(event).collect();
        let magnitudes = in_order.iter().map(|event| event.value.unsigned_abs().max(1));
        let in_table_order = (many && run.len() >= TOGETHER_FROM).then(|| {
            let mut events = in_order.clone();
            events.sort_unstable_by_key(Event::table_order);
            events
        });
        let by_unit = many.then(Vec::new);
        Self { magnitude: magnitudes.fold(0, u64::saturating_add), in_order, in_table_order, by_unit }
    }

    /// For who takes them one by one.
    fn one_by_one(&mut self) -> &[Event] {
        let Some(by_unit) = &mut self.by_unit else { return &self.in_order };
        if by_unit.is_empty() {
            by_unit.clone_from(&self.in_order);
            by_unit.sort_unstable_by_key(|event| (event.unit, event.place));
        }
        by_unit
    }
}

impl State {
    /// Outcomes of all batches that count, in their order.
    pub(super) fn outcomes(&mut self, batches: &[Batch], verdicts: &mut [Option<Verdicts>]) {
        let counts = |at: &usize| verdicts.get(*at).is_some_and(Option::is_some);
        let counting: Vec<usize> = (0..batches.len()).filter(counts).collect();
        let of = |at: &usize| batches.get(*at).map_or(&[][..], |batch| &batch.outcomes);
        let mut run = Vec::with_capacity(counting.iter().map(|at| of(at).len()).sum());
        for (batch, fact) in counting.iter().flat_map(|at| of(at).iter().map(move |fact| (*at, fact))) {
            let verdict = match self.outcome(batch, fact) {
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

    fn outcome<'a>(&mut self, batch: usize, fact: &'a OutcomeFact) -> Next<'a> {
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
        Next::Joins(Joining { batch, fact, minute, window })
    }

    /// Works a run off and leaves it empty.
    fn join(&mut self, run: &mut Vec<Joining<'_>>, verdicts: &mut [Option<Verdicts>]) {
        let mut metrics: Vec<u32> = run.iter().map(|joining| joining.fact.metric).collect();
        metrics.sort_unstable();
        metrics.dedup();
        // By experiment: the slots of the run's metrics.
        let mut plan: BTreeMap<u32, Vec<Option<usize>>> = BTreeMap::new();
        for (at, metric) in metrics.iter().enumerate() {
            for route in self.routes.get(metric).into_iter().flatten() {
                let slots = plan.entry(route.experiment).or_insert_with(|| vec![None; metrics.len()]);
                if let Some(slot) = slots.get_mut(at) {
                    *slot = Some(route.slot);
                }
            }
        }
        let mut events = Events::of(run, &metrics, plan.len() >= SORTED_FROM);
        let mut found = vec![Found::default(); run.len()];
        for (experiment, slots) in &plan {
            self.join_one(*experiment, slots, &mut events, &mut found);
        }
        for (joining, found) in run.drain(..).zip(found) {
            let fact = joining.fact;
            let verdict = if self.routes.contains_key(&fact.metric) {
                // While it waits it may still count, whatever other experiments said.
                match (self.wait(&joining, found), found.verdict) {
                    (_, Some(Verdict::Counted)) => Verdict::Counted,
                    (true, _) | (false, None) => Verdict::Waiting,
                    (false, Some(verdict)) => verdict,
                }
            } else {
                Verdict::Unused
            };
            judge(verdicts, joining.batch, fact, verdict);
        }
    }

    /// All of the run that concerns one experiment.
    fn join_one(
        &mut self,
        experiment: u32,
        slots: &[Option<usize>],
        events: &mut Events,
        found: &mut [Found],
    ) {
        let slot_of = |event: &Event| slots.get(event.metric as usize).copied().flatten();
        let mut judge = |place: u32, verdict: Option<Verdict>| {
            let Some(found) = found.get_mut(place as usize) else { return };
            match verdict {
                None => found.absent = true,
                Some(verdict) if found.verdict.is_some_and(|held| severity(held) >= severity(verdict)) => {}
                Some(verdict) => found.verdict = Some(verdict),
            }
        };
        let (capped_most, mut left) = (self.budgets().experiment_capped, Vec::new());
        let Some(ledger) = self.ledgers.get_mut(&experiment) else {
            for event in events.in_order.iter().filter(|event| slot_of(event).is_some()) {
                judge(event.place, None);
            }
            return;
        };
        ledger.capped_most = capped_most;
        let sums = ledger.entries;
        if let Some(in_table_order) = &events.in_table_order
            && ledger.commutes(slots, events.magnitude)
        {
            ledger.outcomes(in_table_order, slots, judge);
        } else {
            let mut counted = 0;
            let in_order = events.one_by_one();
            for (at, event) in in_order.iter().enumerate() {
                if at % AHEAD == 0 {
                    for event in in_order.iter().skip(at).take(AHEAD) {
                        if let Some(slot) = slot_of(event) {
                            ledger.touch(event.unit, slot);
                        }
                    }
                }
                let Some(slot) = slot_of(event) else { continue };
                let times = (event.minute, event.window);
                let mut verdict = if !ledger.keeps(event.unit) {
                    Verdict::Thinned
                } else if let Some(row) = ledger.row(event.unit) {
                    ledger.outcome_of(row, event.unit, slot, event.value, times.0, times.1)
                } else {
                    judge(event.place, None);
                    continue;
                };
                if verdict == Verdict::NoRoom {
                    verdict = ledger.outcome_in_room(event.unit, slot, event.value, times, &mut left);
                }
                if verdict == Verdict::Counted {
                    counted += 1;
                } else {
                    ledger.count(verdict);
                }
                judge(event.place, Some(verdict));
            }
            if counted > 0 {
                ledger.count_all(Verdict::Counted, counted);
            }
        }
        let held = ledger.entries;
        self.sums_changed(experiment, sums, held);
        self.left(experiment, &left);
    }

    /// Where one experiment took it, another's exposure may still be on its way: it waits for that one too, as long as
    /// there is room to spare for those that nobody took. Returns whether it waits.
    fn wait(&mut self, joining: &Joining<'_>, found: Found) -> bool {
        let joined = found.verdict.is_some();
        if joined && !(found.absent && self.waiting.has_room_to_spare()) {
            return false;
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
        true
    }
}

fn judge(verdicts: &mut [Option<Verdicts>], batch: usize, fact: &OutcomeFact, verdict: Verdict) {
    if let Some(Some(verdicts)) = verdicts.get_mut(batch) {
        verdicts.push((fact.index, verdict));
    }
}
