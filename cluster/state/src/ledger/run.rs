//! A run of outcomes, worked off in the order of the tables.
//!
//! ```text
//!   events sorted by (shard, hash) ──> parts of one shard, 32 events at most:
//!       the next part's rows and sums are asked of memory, all at once ──> this part's are judged and added
//! ```
//!
//! With 50 experiments a metric their ledgers lie far outside the caches, and an outcome is nothing but waiting for memory:
//! asked for one after the other it waits 50 times twice. So what leads to a place, the shard and its pages, is looked up once a
//! part, and the places of a part, which then depend on nothing, are waited for together.
//!
//! Sums, counters and seen bits commute, so the ledger ends as it would in the events' own order, as long as no sum comes
//! near its bound: [`Ledger::commutes`] says so, and else events are taken one by one.

use std::hint::black_box;
use std::sync::Arc;

use featureops_proto::v1::Verdict;

use super::adding::timely;
use super::entries::Entries;
use super::shape::SlotKind;
use super::strata::Cell;
use super::table::{Ledger, key_of, shard_of};

/// Events of one shard that are worked off together: what they need fits the nearest cache.
const PART: usize = 32;
/// Magnitude of the run's values together, and of a cluster's sum, up to which no order of them overflows.
const CALM_SUM: u64 = 1 << 61;
/// The same of moments and products: a run adds at most 2^62 * 2 * 2^61 + 2^122 to one.
const CALM_MOMENT: u128 = 1 << 125;

/// An outcome of a run.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// The unit's keyed hash.
    pub unit: u64,
    /// At the metric's scale.
    pub value: i64,
    /// Its time, in unix minutes.
    pub minute: u32,
    /// The metric's window, in minutes.
    pub window: u32,
    /// Which of the run's metrics it is of.
    pub metric: u32,
    /// Its place in the run.
    pub place: u32,
}

impl Event {
    /// What a run is sorted by for [`Ledger::outcomes`].
    pub fn table_order(&self) -> (u64, u32) {
        (((shard_of(self.unit) as u64) << 56) | key_of(self.unit), self.place)
    }
}

impl Ledger {
    /// Whether so much in values, in whichever order, leads to the same ledger: nothing capped, which may be full, and no sum that may pass
    /// its bound.
    pub fn commutes(&self, slots: &[Option<usize>], magnitude: u64) -> bool {
        let kinds = slots.iter().flatten().map(|slot| self.shape.slots.get(*slot));
        let capped = |kind: Option<&(u32, SlotKind)>| kind.is_none_or(|(_, kind)| kind.is_capped());
        magnitude < CALM_SUM
            && !kinds.into_iter().any(capped)
            && self.clusters.are_below(CALM_SUM)
            && self.strata.all().iter().flat_map(|stratum| &stratum.cells).all(is_calm)
    }

    /// Adds events that [`Self::commutes`] said may be added in any order, sorted by [`Event::table_order`]; `slots` by the run's
    /// metrics, `None` for those that are not counted here. What each came to goes to `judge`: `None` for a unit without a row.
    pub fn outcomes(
        &mut self,
        events: &[Event],
        slots: &[Option<usize>],
        mut judge: impl FnMut(u32, Option<Verdict>),
    ) {
        let parts =
            || events.chunk_by(|a, b| shard_of(a.unit) == shard_of(b.unit)).flat_map(|p| p.chunks(PART));
        let tables = self.tables_of(slots);
        self.reach(events, &tables);
        let mut ahead = parts();
        self.touch_all(ahead.next().unwrap_or_default(), &tables);
        for part in parts() {
            self.touch_all(ahead.next().unwrap_or_default(), &tables);
            self.part(part, slots, &mut judge);
        }
    }

    /// Tables of single units' sums that slots are kept in.
    fn tables_of(&self, slots: &[Option<usize>]) -> Vec<usize> {
        let kinds = slots.iter().flatten().filter_map(|slot| self.shape.slots.get(*slot));
        let table = |kind: &(u32, SlotKind)| match kind.1 {
            SlotKind::Sum { table, .. } if !self.clusters.folded() => Some(usize::from(table)),
            _ => None,
        };
        kinds.filter_map(table).collect()
    }

    /// Asks memory for what leads to the events' places, a step for all of them after the other: a step waits for the one before it.
    fn reach(&self, events: &[Event], tables: &[usize]) {
        let runs = || events.chunk_by(|a, b| shard_of(a.unit) == shard_of(b.unit));
        let shards = || runs().filter_map(|run| self.shards.get(shard_of(run.first()?.unit)));
        for shard in shards() {
            black_box(shard.rows.len());
        }
        for shard in shards() {
            shard.rows.reach();
            black_box(tables.first().and_then(|table| shard.entries.get(*table)).map(Entries::len));
        }
        for shard in shards() {
            tables.iter().filter_map(|table| shard.entries.get(*table)).for_each(Entries::reach);
        }
    }

    fn touch_all(&self, part: &[Event], tables: &[usize]) {
        let Some(shard) = part.first().and_then(|event| self.shards.get(shard_of(event.unit))) else {
            return;
        };
        let hashes = part.iter().map(|event| key_of(event.unit));
        shard.rows.touch_all(hashes.clone());
        for entries in tables.iter().filter_map(|table| shard.entries.get(*table)) {
            entries.touch_all(hashes.clone());
        }
    }

    /// Events of one shard.
    fn part(
        &mut self,
        part: &[Event],
        slots: &[Option<usize>],
        judge: &mut impl FnMut(u32, Option<Verdict>),
    ) {
        let Some(number) = part.first().map(|event| shard_of(event.unit)) else { return };
        let counts = |event: &&Event| slot_of(slots, event).is_some();
        if number >= self.kept {
            for event in part.iter().filter(counts) {
                self.count(Verdict::Thinned);
                judge(event.place, Some(Verdict::Thinned));
            }
            return;
        }
        let folded = self.clusters.folded();
        let Self { base_minute, shape, shards, strata, clusters, series, sample, entries, .. } = self;
        let Some(shared) = shards.get_mut(number) else { return };
        if part.iter().filter(counts).all(|event| shared.rows.get(key_of(event.unit)).is_none()) {
            part.iter().filter(counts).for_each(|event| judge(event.place, None));
            return;
        }
        let (shard, strata) = (Arc::make_mut(shared), Arc::make_mut(strata));
        let (mut counted, mut refused) = (0, Vec::new());
        for event in part {
            let Some(slot) = slot_of(slots, event) else { continue };
            let hash = key_of(event.unit);
            let Some(row) = shard.rows.get(hash) else {
                judge(event.place, None);
                continue;
            };
            let twice = || shard.side.get(&hash).is_some_and(|side| side.twice);
            let minute = timely(*base_minute, row, twice, event.minute, event.window);
            let verdict = minute.and_then(|minute| {
                let (_, kind) = shape.slots.get(slot).ok_or(Verdict::UnknownMetric)?;
                let (value, converts) = match *kind {
                    SlotKind::Seen { bit } => {
                        let converts = event.value != 0 && row.seen & (1 << bit) == 0;
                        if converts {
                            shard.see(shape, row, event.unit, (slot, bit), strata, clusters);
                        }
                        sample.outcome(event.unit, slot, i64::from(converts));
                        (i64::from(event.value != 0), converts)
                    }
                    SlotKind::Sum { table, counts, .. } => {
                        let value = if counts { 1 } else { event.value };
                        if value != 0 {
                            let at = strata.find(row.generation, row.minute);
                            let cell = at.and_then(|at| Some((at, strata.cell_at(at, row.arm)?)));
                            let (at, cell) = cell.ok_or(Verdict::NoRoom)?;
                            if folded {
                                Arc::make_mut(clusters)
                                    .add(at, row.arm, event.unit, (slot, value), shape, cell)
                                    .ok_or(Verdict::SumOverflow)?;
                            } else {
                                let more = shard.add(shape, row, (slot, table), value, cell)?;
                                *entries = entries.saturating_add_signed(more);
                            }
                            sample.outcome(event.unit, slot, value);
                        }
                        (value, false)
                    }
                };
                series.event(row.arm, slot, value, converts, base_minute.saturating_add(minute));
                Ok(())
            });
            match verdict {
                Ok(()) => counted += 1,
                Err(verdict) => refused.push(verdict),
            }
            judge(event.place, Some(verdict.err().unwrap_or(Verdict::Counted)));
        }
        for verdict in refused {
            self.count(verdict);
        }
        if counted > 0 {
            self.count_all(Verdict::Counted, counted);
        }
    }
}

fn slot_of(slots: &[Option<usize>], event: &Event) -> Option<usize> {
    slots.get(event.metric as usize).copied().flatten()
}

fn is_calm(cell: &Cell) -> bool {
    let calm = |moment: &i128| moment.unsigned_abs() < CALM_MOMENT;
    let folded = cell.folded.as_deref();
    cell.slots.iter().all(|(sum, squares)| calm(sum) && calm(squares))
        && cell.cross.iter().all(calm)
        && folded.is_none_or(|folded| folded.with_units.iter().all(calm))
}
