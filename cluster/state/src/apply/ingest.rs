//! Facts: every event gets its verdict, every batch counts once.
//!
//! ```text
//!   exposures of all batches, then outcomes: what came in one entry is not held against its order
//!   outcome by receipt -> that experiment and arm          by unit -> every running experiment that uses the metric
//! ```

use featureops_proto::ErrorCode;
use featureops_proto::log::{
    Batch, BatchReply, DoorVerdict, ExposureFact, Ingest, Ingested, OutcomeFact, Refusal,
};
use featureops_proto::v1::Verdict;
use featureops_proto::v1::experiment::State as Phase;

use crate::State;
use crate::ledger::Exposed;
use crate::metrics::{MAX_LATE_SECONDS, window_minutes};
use crate::producers::Admission;
use crate::state::Route;

/// Events of one batch.
pub const MAX_EVENTS: usize = 4_096;
/// How far ahead of log time an event may lie, in minutes.
const EARLY_MINUTES: u32 = 5;

/// Of a batch's events, by their index.
pub(super) type Verdicts = Vec<(u32, Verdict)>;

impl State {
    pub(super) fn ingest(&mut self, ingest: &Ingest) -> Ingested {
        // Admission first, over all batches: one entry may hold the same batch twice.
        let mut replies: Vec<BatchReply> = Vec::with_capacity(ingest.batches.len());
        let mut verdicts: Vec<Option<Verdicts>> = Vec::with_capacity(ingest.batches.len());
        let mut repeats = Vec::new();
        for batch in &ingest.batches {
            let (reply, list) = match self.admission(batch) {
                Admission::New => {
                    for lost in &batch.lost {
                        if let Some(ledger) = self.ledgers.get_mut(&lost.experiment) {
                            ledger.lose(lost.count);
                        }
                    }
                    let mut list = Vec::with_capacity(batch.exposures.len() + batch.outcomes.len());
                    for fact in &batch.exposures {
                        list.push((fact.index, self.exposure(batch, fact)));
                    }
                    // Marked as seen now, so that its repeat in this entry is one; the reply is completed below.
                    self.producers.remember(
                        &batch.producer,
                        batch.sequence,
                        batch.content_hash,
                        &BatchReply::default(),
                        self.clock.now_ms(),
                    );
                    (BatchReply::default(), Some(list))
                }
                Admission::Answered(reply) => {
                    repeats.push(replies.len());
                    (reply, None)
                }
                Admission::Refused(refusal) => {
                    (BatchReply { refusal: Some(refusal), ..BatchReply::default() }, None)
                }
            };
            replies.push(reply);
            verdicts.push(list);
        }
        self.outcomes(&ingest.batches, &mut verdicts);
        for ((batch, reply), list) in ingest.batches.iter().zip(&mut replies).zip(verdicts) {
            let Some(list) = list else { continue };
            *reply = completed(self.position, batch, list);
            self.producers.complete(&batch.producer, batch.sequence, reply);
        }
        // A repeat within this entry was looked up before its first was complete.
        for at in repeats {
            if let (Some(batch), Some(reply)) = (ingest.batches.get(at), replies.get_mut(at))
                && let Admission::Answered(complete) =
                    self.producers.admit(&batch.producer, batch.sequence, batch.content_hash)
            {
                *reply = complete;
            }
        }
        Ingested { batches: replies }
    }

    /// The reply to a batch of which the door turned every event off, of a producer that has no window: nothing of it could
    /// count, so it takes no place in the log or among the producers, and a repeat is judged anew. `None`: propose it.
    #[must_use]
    pub fn unrecorded(&self, batch: &Batch) -> Option<BatchReply> {
        let empty = batch.exposures.is_empty() && batch.outcomes.is_empty() && batch.lost.is_empty();
        let begun = self.clock.now_ms() != 0 && self.initialized;
        if !empty || !begun || self.producers.knows(&batch.producer) {
            return None;
        }
        match self.admission(batch) {
            Admission::New => Some(completed(self.position, batch, Vec::new())),
            Admission::Refused(refusal) => {
                Some(BatchReply { refusal: Some(refusal), ..BatchReply::default() })
            }
            Admission::Answered(_) => None,
        }
    }

    fn admission(&self, batch: &Batch) -> Admission {
        let refuse = |code, field: &str, value: String, message: &str| {
            Admission::Refused(Refusal::new(code, field, value, message))
        };
        if self.clock.now_ms() == 0 || !self.initialized {
            return refuse(ErrorCode::NotInitialized, "cluster", String::new(), "no log time yet; try again");
        }
        if batch.unit_key_id != self.unit_key_id {
            let message = "the node hashes units with another key; restore its unit key";
            return refuse(
                ErrorCode::WrongUnitKey,
                "unit_key_id",
                format!("{:016x}", batch.unit_key_id),
                message,
            );
        }
        if batch.exposures.len() + batch.outcomes.len() + batch.door.len() > MAX_EVENTS {
            let events = batch.exposures.len() + batch.outcomes.len() + batch.door.len();
            return refuse(ErrorCode::InvalidArgument, "events", events.to_string(), "at most 4,096 a batch");
        }
        self.producers.admit(&batch.producer, batch.sequence, batch.content_hash)
    }

    /// The verdict on an event's time in unix minutes; 0 means now.
    pub(super) fn timed(&self, minute: u32, late_ms: i64) -> Result<u32, Verdict> {
        let now = self.clock.minute();
        if minute == 0 {
            return Ok(now);
        }
        if minute > now.saturating_add(EARLY_MINUTES) {
            return Err(Verdict::Early);
        }
        let oldest = (self.clock.now_ms() - late_ms).max(0) / 60_000;
        if i64::from(minute) < oldest { Err(Verdict::Late) } else { Ok(minute) }
    }

    fn exposure(&mut self, batch: &Batch, fact: &ExposureFact) -> Verdict {
        let verdict = self.try_exposure(batch, fact);
        if let Some(ledger) = self.ledgers.get_mut(&fact.experiment) {
            ledger.count(verdict);
        }
        verdict
    }

    fn try_exposure(&mut self, batch: &Batch, fact: &ExposureFact) -> Verdict {
        let Some(record) = self.experiments.get(&fact.experiment) else { return Verdict::UnknownExperiment };
        if record.environment != batch.environment {
            return Verdict::UnknownExperiment;
        }
        if !matches!(record.state(), Phase::Running | Phase::Paused) {
            return Verdict::NotRunning;
        }
        let current = record.generations.len() as u32;
        if fact.generation != 0 && fact.generation != current {
            // A receipt of another generation says nothing about what this one serves.
            return Verdict::ExpiredReceipt;
        }
        let arms = record.definition.as_ref().map_or(0, |d| d.arms.len());
        if fact.arm as usize >= arms {
            return Verdict::UnknownVariant;
        }
        match self.timed(fact.minute, MAX_LATE_SECONDS * 1_000) {
            Ok(minute) => {
                let verdict =
                    self.expose(fact.experiment, fact.arm as u8, current as u8, fact.unit_hash, minute, None);
                if let Some(ledger) = self.ledgers.get_mut(&fact.experiment) {
                    ledger.sample.describe(fact.unit_hash, &fact.dimensions);
                }
                verdict
            }
            Err(verdict) => verdict,
        }
    }

    /// Records an exposure and meets the outcomes that waited for it.
    fn expose(
        &mut self,
        number: u32,
        arm: u8,
        generation: u8,
        unit: u64,
        unix_minute: u32,
        marked: Option<i64>,
    ) -> Verdict {
        if !self.make_room(number, unit, arm) {
            return match self.ledgers.get_mut(&number) {
                Some(ledger) => {
                    ledger.lose(1);
                    Verdict::NoRoom
                }
                None => Verdict::NotRunning,
            };
        }
        let Some(ledger) = self.ledgers.get_mut(&number) else { return Verdict::NotRunning };
        let minute = ledger.minute(unix_minute);
        match ledger.expose(unit, arm, generation, minute, marked) {
            Exposed::New => {
                self.rows += 1;
                if marked.is_none() {
                    self.count_share(number, arm, unix_minute);
                }
                self.join_waiting(number, unit);
                Verdict::Counted
            }
            Exposed::Crossed(_) => Verdict::Counted,
            Exposed::Repeated => Verdict::Repeated,
            Exposed::CrossedTwice => Verdict::CrossedTwice,
            Exposed::Thinned => Verdict::Thinned,
        }
    }

    /// An outcome joins what was running when it came, never what started while it waited: minutes cannot tell those apart,
    /// places in the log can.
    fn join_waiting(&mut self, number: u32, unit: u64) {
        let Some(started) = self.experiments.get(&number).and_then(|record| record.generations.first())
        else {
            return;
        };
        let started = started.opened_position;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.meet(unit, |held| {
            if held.position < started {
                return false;
            }
            let routes = self.routes.get(&held.metric).map(Vec::as_slice).unwrap_or_default();
            let Some(route) = routes.iter().find(|route| route.experiment == number).copied() else {
                return false;
            };
            let window = self
                .metric_by_number(held.metric)
                .and_then(|m| m.definition.as_ref())
                .map_or(0, window_minutes);
            self.attribute(route, held.unit, held.value, held.minute, window) == Verdict::Counted
        });
        self.waiting = waiting;
    }

    /// An outcome whose receipt says which experiment and arm it belongs to: its event and window in minutes.
    pub(super) fn by_receipt(&mut self, fact: &OutcomeFact, minute: u32, window: u32) -> Verdict {
        let Some(receipt) = &fact.receipt else { return Verdict::BadReceipt };
        let (number, arm, generation, exposed_minute) =
            (receipt.experiment, receipt.arm, receipt.generation, receipt.minute);
        let Some(record) = self.experiments.get(&number) else { return Verdict::UnknownExperiment };
        let arms = record.definition.as_ref().map_or(0, |d| d.arms.len());
        if arm as usize >= arms {
            return Verdict::UnknownVariant;
        }
        let Some(slot) = record.slots.iter().position(|slot| slot.metric == fact.metric) else {
            return Verdict::Unused;
        };
        let route = Route { experiment: number, slot };
        let routes = self.routes.get(&fact.metric).map(Vec::as_slice).unwrap_or_default();
        if !routes.iter().any(|live| live.experiment == number) {
            return self.counted(number, Verdict::NotRunning);
        }
        let Some(given_in) = generation.checked_sub(1).and_then(|at| record.generations.get(at as usize))
        else {
            return self.counted(number, Verdict::ExpiredReceipt);
        };
        // For attribution a receipt stays valid until one window after its generation closed.
        let closed_minute = given_in.closed_ms / 60_000;
        if given_in.closed_ms != 0 && i64::from(minute) > closed_minute + i64::from(window) {
            return self.counted(number, Verdict::ExpiredReceipt);
        }
        if self.ledgers.get(&number).is_some_and(|ledger| !ledger.keeps(fact.unit_hash)) {
            return self.counted(number, Verdict::Thinned);
        }
        let now_ms = self.clock.now_ms();
        let row = self.ledgers.get(&number).and_then(|ledger| ledger.row(fact.unit_hash));
        let exposed = self.ledgers.get(&number).map_or(0, |ledger| ledger.minute(exposed_minute));
        match row {
            None => {
                let verdict = self.expose(
                    number,
                    arm as u8,
                    generation as u8,
                    fact.unit_hash,
                    exposed_minute,
                    Some(now_ms),
                );
                if verdict != Verdict::Counted {
                    return self.counted(number, verdict);
                }
            }
            Some(row) if u32::from(row.arm) != arm => {
                // A later receipt of another arm is news of a crossing; an older one speaks of a stay that is over.
                if exposed <= row.minute {
                    return self.counted(number, Verdict::OutsideWindow);
                }
                let verdict = self.expose(
                    number,
                    arm as u8,
                    generation as u8,
                    fact.unit_hash,
                    exposed_minute,
                    Some(now_ms),
                );
                if verdict != Verdict::Counted {
                    return self.counted(number, verdict);
                }
            }
            Some(_) => {}
        }
        self.attribute(route, fact.unit_hash, fact.value, minute, window)
    }

    fn attribute(&mut self, route: Route, unit: u64, value: i64, unix_minute: u32, window: u32) -> Verdict {
        let Some(ledger) = self.ledgers.get_mut(&route.experiment) else { return Verdict::NotRunning };
        let sums = ledger.entries;
        let verdict = ledger.outcome(unit, route.slot, value, unix_minute, window);
        ledger.count(verdict);
        let held = ledger.entries;
        self.sums_changed(route.experiment, sums, held);
        verdict
    }

    /// An experiment held so many sums of single units, and holds so many now.
    pub(super) fn sums_changed(&mut self, experiment: u32, before: u64, now: u64) {
        self.entries = self.entries - before + now;
        if now > before && now > self.budgets().experiment_sums {
            self.heavy.insert(experiment);
        }
    }

    fn counted(&mut self, number: u32, verdict: Verdict) -> Verdict {
        if let Some(ledger) = self.ledgers.get_mut(&number) {
            ledger.count(verdict);
        }
        verdict
    }

    /// Counts an event that no unit's row took, in every experiment that uses its metric.
    pub(super) fn count_unjoined(&mut self, metric: u32, verdict: Verdict) {
        for route in self.routes.get(&metric).into_iter().flatten() {
            if let Some(ledger) = self.ledgers.get_mut(&route.experiment) {
                *ledger.verdicts.entry(verdict as i32).or_default() += 1;
            }
        }
    }
}

fn completed(position: u64, batch: &Batch, list: Verdicts) -> BatchReply {
    let counted = list.iter().filter(|(_, verdict)| *verdict == Verdict::Counted).count() as u32;
    let mut verdicts: Vec<DoorVerdict> = list
        .into_iter()
        .filter(|(_, verdict)| *verdict != Verdict::Counted)
        .map(|(index, verdict)| DoorVerdict { index, verdict: verdict as i32 })
        .chain(batch.door.iter().copied())
        .collect();
    // A forged receipt is said even when the event then counted by its unit.
    verdicts.extend(
        batch
            .outcomes
            .iter()
            .filter(|fact| fact.bad_receipt)
            .map(|fact| DoorVerdict { index: fact.index, verdict: Verdict::BadReceipt as i32 }),
    );
    verdicts.sort_by_key(|verdict| (verdict.index, verdict.verdict));
    BatchReply { position, counted, verdicts, duplicate: false, refusal: None }
}
