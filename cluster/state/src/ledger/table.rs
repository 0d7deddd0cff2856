//! The ledger itself: exposures, crossings, outcomes, and the moments they change.

use std::collections::BTreeMap;
use std::sync::Arc;

use featureops_proto::v1::Verdict;

use super::adding::timely;
use super::clusters::Clusters;
use super::entries::Entries;
use super::marks::Marks;
use super::rows::{HASH_BITS, MAX_MINUTE, Row, Rows};
use super::sample::Sample;
use super::series::Series;
use super::shape::{Shape, SlotKind};
use super::strata::Strata;

/// Rows by the hash's top byte, so that growth and copy-on-write touch a small part.
pub const SHARDS: usize = 256;

/// A unit's stay in its first arm, kept when it crosses to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// The first arm.
    pub arm: u8,
    /// Of its first exposure, since the ledger's base.
    pub minute: u32,
    /// Generation of that exposure.
    pub generation: u8,
    /// Seen bits in that arm.
    pub seen: u16,
    /// The unit changed arms again: its outcomes no longer count.
    pub twice: bool,
}

/// The rows and sums of one part of the hash space.
#[derive(Debug, Clone, Default)]
pub struct Shard {
    /// A row a unit.
    pub rows: Rows,
    /// A table a sum metric.
    pub entries: Vec<Entries>,
    /// First arms of units that crossed.
    pub side: BTreeMap<u64, Side>,
}

/// What an exposure did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposed {
    /// The unit is new to the experiment.
    New,
    /// It was seen in another arm before and counts in this one now.
    Crossed(Crossing),
    /// It was recorded in this arm before.
    Repeated,
    /// It was recorded in this arm before from a receipt only, and this is its exposure.
    Found,
    /// It changed arms more than once.
    CrossedTwice,
    /// The unit is not in the part of the hash space that is counted.
    Thinned,
}

/// From which arm a unit crossed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossing {
    /// Its first arm.
    pub from: u8,
}

/// Exact per-unit statistics of one experiment. Cloning shares what is not changed afterwards.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// Minute zero of the rows, in unix minutes.
    pub base_minute: u32,
    pub(crate) shape: Arc<Shape>,
    pub(crate) shards: Vec<Arc<Shard>>,
    pub(crate) strata: Arc<Strata>,
    pub(crate) clusters: Arc<Clusters>,
    /// What arrived when.
    pub series: Series,
    /// Who the units are.
    pub sample: Sample,
    /// Units recorded.
    pub rows: u64,
    /// Sums held of single units, but for those of capped metrics.
    pub entries: u64,
    /// Sums held of capped metrics: they are never folded.
    pub capped: u64,
    /// One that would be new beyond this many gets [`Verdict::NoRoom`].
    pub capped_most: u64,
    /// By covariate: units whose first exposure did not tell it.
    pub missing: Vec<u64>,
    /// Shards whose units are counted: those below.
    pub kept: usize,
    /// Units that left when fewer shards were kept.
    pub thinned: u64,
    /// Units in two arms.
    pub crossed: u64,
    /// Units whose exposure came from a receipt.
    pub marks: Marks,
    /// Exposures refused for want of room.
    pub lost: u64,
    /// Events by verdict.
    pub verdicts: BTreeMap<i32, u64>,
    /// Something changed since the moments were last frozen.
    pub dirty: bool,
    /// Rows and sums were let go; moments and counters stay.
    pub released: bool,
}

impl Ledger {
    /// An empty ledger. Minutes are held since `base_minute` (unix minutes), which lies before every exposure.
    pub fn new(base_minute: u32, shape: Shape) -> Self {
        let strata = Strata::new(shape.arms, shape.slots.len(), shape.pairs.len());
        let shard = Arc::new(Shard { entries: vec![Entries::default(); shape.tables()], ..Shard::default() });
        Self {
            base_minute,
            shards: vec![shard; SHARDS],
            strata: Arc::new(strata),
            clusters: Arc::new(Clusters::new(&shape)),
            series: Series::default(),
            sample: Sample::default(),
            rows: 0,
            entries: 0,
            capped: 0,
            capped_most: u64::MAX,
            missing: vec![0; shape.covariates],
            kept: SHARDS,
            thinned: 0,
            crossed: 0,
            marks: Marks::new(shape.arms),
            lost: 0,
            verdicts: BTreeMap::new(),
            dirty: true,
            released: false,
            shape: Arc::new(shape),
        }
    }

    /// Lets rows, sums and young marks go; what was counted stays.
    pub fn release(&mut self) {
        if self.released {
            return;
        }
        self.released = true;
        self.shards = vec![self.empty_shard(); SHARDS];
        (self.entries, self.capped) = (0, 0);
        let (strata, folded) = (self.strata.all().len(), self.clusters.folded());
        self.clusters = Arc::new(Clusters::of_strata(&self.shape, strata, folded));
        self.marks = Marks::restore(self.marks.all().to_vec(), []);
        self.series = Series::default();
        self.sample = Sample::default();
    }

    pub(super) fn empty_shard(&self) -> Arc<Shard> {
        Arc::new(Shard { entries: vec![Entries::default(); self.shape.tables()], ..Shard::default() })
    }

    /// The unit is in the part of the hash space that is counted.
    pub fn keeps(&self, unit: u64) -> bool {
        shard_of(unit) < self.kept
    }

    /// Rows and places for crossed units that recording this exposure takes.
    pub fn takes(&self, unit: u64, arm: u8) -> (u64, u64) {
        match self.row(unit) {
            None => (1, 0),
            Some(row) if row.arm != arm && self.side(unit).is_none() => (0, 1),
            Some(_) => (0, 0),
        }
    }

    /// Minute since the base, at least 1.
    pub fn minute(&self, unix_minute: u32) -> u32 {
        unix_minute.saturating_sub(self.base_minute).clamp(1, MAX_MINUTE)
    }

    /// Counts a verdict.
    pub fn count(&mut self, verdict: Verdict) {
        self.count_all(verdict, 1);
    }

    /// Counts a verdict on so many events.
    pub fn count_all(&mut self, verdict: Verdict, events: u64) {
        *self.verdicts.entry(verdict as i32).or_default() += events;
        self.dirty = true;
    }

    /// The unit's row.
    pub fn row(&self, unit: u64) -> Option<Row> {
        self.shards.get(shard_of(unit))?.rows.get(key_of(unit))
    }

    /// The unit's stay in its first arm, if it crossed.
    pub fn side(&self, unit: u64) -> Option<Side> {
        self.shards.get(shard_of(unit))?.side.get(&key_of(unit)).copied()
    }

    /// Records that the unit saw the arm. `minute` is since the base; `marked` carries log time when the exposure is known
    /// only from a receipt.
    pub fn expose(
        &mut self,
        unit: u64,
        arm: u8,
        generation: u8,
        minute: u32,
        marked: Option<i64>,
    ) -> Exposed {
        let mut outcome =
            if self.keeps(unit) { self.record(unit, arm, generation, minute) } else { Exposed::Thinned };
        match outcome {
            Exposed::New | Exposed::Crossed(_) => {
                self.open(generation, minute);
                let shape = Arc::clone(&self.shape);
                let strata = Arc::make_mut(&mut self.strata);
                if let Some(at) = strata.find(generation, minute)
                    && let Some(cell) = strata.cell_at(at, arm)
                {
                    cell.units += 1;
                    Arc::make_mut(&mut self.clusters).unit(at, arm, unit, &shape, cell);
                }
                if let Some(now_ms) = marked {
                    self.marks.mark(unit, arm, now_ms);
                }
                self.series.unit(arm, self.base_minute.saturating_add(minute));
                self.sample.expose(unit, arm);
                self.dirty = true;
            }
            // A mark may be lifted also when its unit has left since.
            Exposed::Repeated | Exposed::Thinned => {
                if marked.is_none() && self.marks.lift(unit, arm) {
                    self.dirty = true;
                    outcome = if outcome == Exposed::Repeated { Exposed::Found } else { outcome };
                }
            }
            Exposed::CrossedTwice | Exposed::Found => {}
        }
        outcome
    }

    /// Opens the minute's stratum if need be, for the clusters too.
    fn open(&mut self, generation: u8, minute: u32) {
        if self.strata.find(generation, minute).is_some() {
            return;
        }
        let strata = Arc::make_mut(&mut self.strata);
        let clusters = Arc::make_mut(&mut self.clusters);
        clusters.follow(&strata.open(generation, minute));
        if clusters.folded() {
            clusters.write(&self.shape, strata);
        }
    }

    fn record(&mut self, unit: u64, arm: u8, generation: u8, minute: u32) -> Exposed {
        let hash = key_of(unit);
        let Some(shared) = self.shards.get_mut(shard_of(unit)) else { return Exposed::Thinned };
        let fresh = Row { hash, seen: 0, minute, arm, generation, crossed: false };
        let Some(row) = shared.rows.get(hash) else {
            Arc::make_mut(shared).rows.put(fresh);
            self.rows += 1;
            return Exposed::New;
        };
        if row.arm == arm {
            return Exposed::Repeated;
        }
        if let Some(side) = shared.side.get(&hash).copied() {
            // A late repeat of the first arm's exposure is not a second change of mind.
            if side.arm == arm && minute <= row.minute {
                return Exposed::Repeated;
            }
            if !side.twice {
                Arc::make_mut(shared).side.insert(hash, Side { twice: true, ..side });
            }
            return Exposed::CrossedTwice;
        }
        let shard = Arc::make_mut(shared);
        let side = Side {
            arm: row.arm,
            minute: row.minute,
            generation: row.generation,
            seen: row.seen,
            twice: false,
        };
        shard.side.insert(hash, side);
        shard.rows.put(Row { crossed: true, ..fresh });
        self.crossed += 1;
        Exposed::Crossed(Crossing { from: row.arm })
    }

    /// Brings what an outcome of the unit will need near the processor, so that many wait for memory at once.
    pub fn touch(&self, unit: u64, slot: usize) {
        let Some(shard) = self.shards.get(shard_of(unit)) else { return };
        let hash = key_of(unit);
        shard.rows.touch(hash);
        if let Some((_, SlotKind::Sum { table, .. })) = self.shape.slots.get(slot)
            && let Some(entries) = shard.entries.get(usize::from(*table))
        {
            entries.touch(hash);
        }
    }

    /// Adds an outcome: its time in unix minutes, the window in minutes.
    pub fn outcome(&mut self, unit: u64, slot: usize, value: i64, unix_minute: u32, window: u32) -> Verdict {
        if !self.keeps(unit) {
            return Verdict::Thinned;
        }
        let Some(row) = self.row(unit) else { return Verdict::NoExposure };
        self.outcome_of(row, unit, slot, value, unix_minute, window)
    }

    /// Adds an outcome of the unit whose row that is.
    pub fn outcome_of(
        &mut self,
        row: Row,
        unit: u64,
        slot: usize,
        value: i64,
        unix_minute: u32,
        window: u32,
    ) -> Verdict {
        let twice = || self.side(unit).is_some_and(|side| side.twice);
        let minute = match timely(self.base_minute, row, twice, unix_minute, window) {
            Ok(minute) => minute,
            Err(verdict) => return verdict,
        };
        let Some((_, kind)) = self.shape.slots.get(slot).copied() else { return Verdict::UnknownMetric };
        let (verdict, value, converted) = match kind {
            SlotKind::Seen { bit } => {
                let converts = value != 0 && row.seen & (1 << bit) == 0;
                if converts {
                    self.see(row, unit, slot, bit);
                }
                (Verdict::Counted, i64::from(value != 0), converts)
            }
            SlotKind::Sum { table, counts, .. } => {
                let value = if counts { 1 } else { value };
                let verdict = if kind.is_capped() {
                    self.add_capped(row, unit, slot, value)
                } else if self.clusters.folded() {
                    self.add_to_cluster(row, unit, slot, value)
                } else {
                    self.add(row, unit, slot, table, value)
                };
                (verdict, value, false)
            }
        };
        if verdict == Verdict::Counted {
            let proportion = matches!(kind, SlotKind::Seen { .. });
            self.series.event(row.arm, slot, value, converted, self.base_minute.saturating_add(minute));
            self.sample.outcome(unit, slot, if proportion { i64::from(converted) } else { value });
        }
        verdict
    }

    fn see(&mut self, row: Row, unit: u64, slot: usize, bit: u8) {
        if let Some(shard) = self.shards.get_mut(shard_of(unit)) {
            let strata = Arc::make_mut(&mut self.strata);
            Arc::make_mut(shard).see(&self.shape, row, unit, (slot, bit), strata, &mut self.clusters);
            self.dirty = true;
        }
    }

    pub(super) fn add(&mut self, row: Row, unit: u64, slot: usize, table: u8, value: i64) -> Verdict {
        if value == 0 {
            return Verdict::Counted;
        }
        let Some(shard) = self.shards.get_mut(shard_of(unit)) else { return Verdict::NoRoom };
        let strata = Arc::make_mut(&mut self.strata);
        let at = strata.find(row.generation, row.minute);
        let Some(cell) = at.and_then(|at| strata.cell_at(at, row.arm)) else { return Verdict::NoRoom };
        match Arc::make_mut(shard).add(&self.shape, row, (slot, table), value, cell) {
            Ok(more) => {
                self.entries = self.entries.saturating_add_signed(more);
                self.dirty = true;
                Verdict::Counted
            }
            Err(verdict) => verdict,
        }
    }

    pub(super) fn add_to_cluster(&mut self, row: Row, unit: u64, slot: usize, value: i64) -> Verdict {
        if value == 0 {
            return Verdict::Counted;
        }
        let shape = Arc::clone(&self.shape);
        let strata = Arc::make_mut(&mut self.strata);
        let at = strata.find(row.generation, row.minute);
        let Some((at, cell)) = at.and_then(|at| Some((at, strata.cell_at(at, row.arm)?))) else {
            return Verdict::NoRoom;
        };
        let clusters = Arc::make_mut(&mut self.clusters);
        if clusters.add(at, row.arm, unit, (slot, value), &shape, cell).is_none() {
            return Verdict::SumOverflow;
        }
        self.dirty = true;
        Verdict::Counted
    }

    /// Bytes held by tables and moments.
    pub fn bytes(&self) -> u64 {
        let shards: usize = self
            .shards
            .iter()
            .map(|s| s.rows.bytes() + s.entries.iter().map(Entries::bytes).sum::<usize>() + s.side.len() * 40)
            .sum();
        (shards + self.strata.bytes() + self.clusters.bytes() + self.series.bytes() + self.sample.bytes())
            as u64
    }
}

pub(super) fn shard_of(unit: u64) -> usize {
    (unit >> 56) as usize
}

pub(super) fn key_of(unit: u64) -> u64 {
    unit & ((1 << HASH_BITS) - 1)
}
