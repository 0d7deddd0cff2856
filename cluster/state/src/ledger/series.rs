//! The sealed series of an experiment: what arrived in each of the last 64 minutes, and in each of the last 168 hours for
//! what decides and what guards.
//!
//! ```text
//!   event that counts ──> its own minute not sealed yet? ── yes ──> the open minute's cell (arm, slot)
//!                                                       └── no ───> that cell's `late`, and nothing else of it
//!   tick into a later minute ──> the open minute is sealed: it never changes again
//! ```
//!
//! The same by hours. A period is open from the tick that enters it to the first tick beyond its end, so the open one is
//! always that of log time. An event's own period is sealed when it is older than the open one; an event up to five minutes ahead of
//! log time stands in the open one. What is late counts in the ledger as ever. So a cell says what arrived when it says it
//! did, and detectors that read it read the same on every replica and after every restart.

use std::collections::VecDeque;
use std::sync::Arc;

use featureops_proto::log::{ExperimentRecord, SeriesCellRecord, SeriesRecord, SeriesUnitsRecord};
use featureops_proto::v1::{Int128, Role};

/// Sealed minutes kept.
pub const MINUTES: u32 = 64;
/// Sealed hours kept.
pub const HOURS: u32 = 168;
/// Minutes of an hour.
const HOUR: u32 = 60;

/// Events of one arm and slot in one period.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SeriesCell {
    /// Those that counted.
    pub events: u64,
    /// Of their values.
    pub sum: i128,
    /// Of their values' squares.
    pub squares: i128,
    /// Units that converted by them; of a proportion only.
    pub converted: u64,
    /// Events that counted, of a period that was sealed by then; in none of the above.
    pub late: u64,
}

/// Units counted in one arm for the first time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Newcomers {
    /// By an exposure of this period.
    pub fresh: u64,
    /// By one of a period that was sealed by then.
    pub late: u64,
}

/// One minute or hour.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Period {
    /// Its first unix minute.
    pub start: u32,
    /// By arm; empty as long as nothing arrived.
    pub units: Vec<Newcomers>,
    /// By arm and, within it, column; empty as long as nothing arrived.
    pub cells: Vec<SeriesCell>,
}

impl Period {
    fn is_empty(&self) -> bool {
        self.units.is_empty()
    }
}

/// Periods of one width.
#[derive(Debug, Clone, Default)]
struct Track {
    width: u32,
    kept: u32,
    arms: usize,
    /// The column of each slot; `None`: this track does not keep it.
    columns: Arc<[Option<usize>]>,
    /// Columns of an arm.
    per_arm: usize,
    open: Period,
    /// Oldest first, those in which something arrived.
    sealed: VecDeque<Arc<Period>>,
}

impl Track {
    fn new(width: u32, kept: u32, arms: usize, keeps: impl Iterator<Item = bool>, minute: u32) -> Self {
        let mut next = 0;
        let columns = keeps.map(|keeps| {
            keeps.then(|| {
                next += 1;
                next - 1
            })
        });
        let columns: Arc<[Option<usize>]> = columns.collect();
        let per_arm = columns.iter().flatten().count();
        let open = Period { start: minute - minute % width, ..Period::default() };
        Self { width, kept, arms, columns, per_arm, open, sealed: VecDeque::new() }
    }

    /// The open period with room in it.
    fn opened(&mut self) -> &mut Period {
        if self.open.is_empty() {
            self.open.units = vec![Newcomers::default(); self.arms];
            self.open.cells = vec![SeriesCell::default(); self.arms * self.per_arm];
        }
        &mut self.open
    }

    fn unit(&mut self, arm: u8, minute: u32) {
        let late = minute < self.open.start;
        if let Some(units) = self.opened().units.get_mut(usize::from(arm)) {
            if late {
                units.late += 1;
            } else {
                units.fresh += 1;
            }
        }
    }

    fn event(&mut self, arm: u8, slot: usize, value: i64, converted: bool, minute: u32) {
        let Some(column) = self.columns.get(slot).copied().flatten() else { return };
        let late = minute < self.open.start;
        let at = usize::from(arm) * self.per_arm + column;
        let Some(cell) = self.opened().cells.get_mut(at) else { return };
        if late {
            cell.late += 1;
            return;
        }
        let value = i128::from(value);
        cell.events += 1;
        // A value is at most 2^53, a square 2^106: two million of the largest in one period would pass an i128.
        cell.sum = cell.sum.saturating_add(value);
        cell.squares = cell.squares.saturating_add(value * value);
        cell.converted += u64::from(converted);
    }

    fn seal(&mut self, minute: u32) {
        let start = minute - minute % self.width;
        if start <= self.open.start {
            return;
        }
        let sealed = std::mem::replace(&mut self.open, Period { start, ..Period::default() });
        if !sealed.is_empty() {
            self.sealed.push_back(Arc::new(sealed));
        }
        let oldest = start.saturating_sub(self.kept * self.width);
        while self.sealed.front().is_some_and(|period| period.start < oldest) {
            self.sealed.pop_front();
        }
    }

    fn bytes(&self) -> usize {
        let of = |period: &Period| {
            size_of_val(period.cells.as_slice()) + size_of_val(period.units.as_slice()) + size_of::<Period>()
        };
        self.sealed.iter().map(|period| of(period)).sum::<usize>() + of(&self.open)
    }

    fn records(&self) -> Vec<SeriesRecord> {
        let all = self.sealed.iter().map(AsRef::as_ref).chain([&self.open]);
        all.filter(|period| !period.is_empty()).map(|period| self.record(period)).collect()
    }

    fn record(&self, period: &Period) -> SeriesRecord {
        let mut record =
            SeriesRecord { width_minutes: self.width, start_minute: period.start, ..SeriesRecord::default() };
        for (arm, units) in (0u32..).zip(&period.units).filter(|(_, units)| **units != Newcomers::default()) {
            record.units.push(SeriesUnitsRecord { arm, fresh: units.fresh, late: units.late });
        }
        for (arm, slot, cell) in self.cells(period).filter(|(_, _, cell)| **cell != SeriesCell::default()) {
            record.cells.push(SeriesCellRecord {
                arm,
                slot,
                events: cell.events,
                sum: Some(Int128::new(cell.sum)),
                squares: Some(Int128::new(cell.squares)),
                converted: cell.converted,
                late: cell.late,
            });
        }
        record
    }

    /// (arm, slot, cell) of a period.
    fn cells<'a>(&'a self, period: &'a Period) -> impl Iterator<Item = (u32, u32, &'a SeriesCell)> + 'a {
        let slots = (0u32..).zip(self.columns.iter()).filter(|(_, column)| column.is_some());
        let places =
            (0..self.arms as u32).flat_map(move |arm| slots.clone().map(move |(slot, _)| (arm, slot)));
        places.zip(&period.cells).map(|((arm, slot), cell)| (arm, slot, cell))
    }

    /// `None`: it contradicts the experiment, or comes out of order.
    fn restore(&mut self, record: &SeriesRecord) -> Option<()> {
        let mut period = Period {
            start: record.start_minute,
            units: vec![Newcomers::default(); self.arms],
            cells: vec![SeriesCell::default(); self.arms * self.per_arm],
        };
        for units in &record.units {
            *period.units.get_mut(units.arm as usize)? = Newcomers { fresh: units.fresh, late: units.late };
        }
        for cell in &record.cells {
            let column = self.columns.get(cell.slot as usize).copied().flatten()?;
            let at = (cell.arm as usize).checked_mul(self.per_arm)?.checked_add(column)?;
            *period.cells.get_mut(at)? = SeriesCell {
                events: cell.events,
                sum: cell.sum.as_ref().map_or(0, Int128::get),
                squares: cell.squares.as_ref().map_or(0, Int128::get),
                converted: cell.converted,
                late: cell.late,
            };
        }
        let (start, open) = (period.start, self.open.start);
        let rises = self.sealed.back().is_none_or(|last| last.start < start) && start % self.width == 0;
        let within = start <= open && start >= open.saturating_sub(self.kept * self.width);
        if !rises || !within {
            return None;
        }
        if start == open {
            self.open = period;
        } else {
            self.sealed.push_back(Arc::new(period));
        }
        Some(())
    }
}

/// The series of one experiment; without arms as long as it has not begun. Cloning shares what is sealed.
#[derive(Debug, Clone, Default)]
pub struct Series {
    minutes: Track,
    hours: Track,
}

impl Series {
    /// Of an experiment that begins in, or is restored at, this unix minute of log time.
    pub fn begin(record: &ExperimentRecord, minute: u32) -> Self {
        let arms = record.definition.as_ref().map_or(0, |definition| definition.arms.len());
        let slots = record.slots.len();
        let decides = |slot: usize| {
            record.metrics.iter().any(|metric| {
                let parts = [Some(metric.slot), ratio_of(metric).then_some(metric.denominator_slot)];
                matches!(metric.role(), Role::Primary | Role::Guardrail)
                    && parts.into_iter().flatten().any(|part| part as usize == slot)
            })
        };
        Self {
            minutes: Track::new(1, MINUTES, arms, (0..slots).map(|_| true), minute),
            hours: Track::new(HOUR, HOURS, arms, (0..slots).map(decides), minute),
        }
    }

    /// A unit counts in the arm for the first time, by an exposure of this unix minute.
    pub fn unit(&mut self, arm: u8, minute: u32) {
        if self.has_begun() {
            self.minutes.unit(arm, minute);
            self.hours.unit(arm, minute);
        }
    }

    /// An event of this unix minute counted.
    pub fn event(&mut self, arm: u8, slot: usize, value: i64, converted: bool, minute: u32) {
        if self.has_begun() {
            self.minutes.event(arm, slot, value, converted, minute);
            self.hours.event(arm, slot, value, converted, minute);
        }
    }

    /// Log time is in this unix minute: what lies before it is sealed.
    pub fn seal(&mut self, minute: u32) {
        if self.has_begun() {
            self.minutes.seal(minute);
            self.hours.seal(minute);
        }
    }

    fn has_begun(&self) -> bool {
        self.minutes.width != 0
    }

    /// Sealed periods, oldest first, each with its cells by arm and slot.
    pub fn sealed(&self, hours: bool) -> impl Iterator<Item = (&Period, Vec<(u32, u32, SeriesCell)>)> {
        let track = if hours { &self.hours } else { &self.minutes };
        track.sealed.iter().map(|period| {
            let cells = track.cells(period).map(|(arm, slot, cell)| (arm, slot, *cell)).collect();
            (period.as_ref(), cells)
        })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        if self.has_begun() { self.minutes.bytes() + self.hours.bytes() } else { 0 }
    }

    /// As snapshot records: minutes, then hours, each by time; none while nothing arrived.
    pub fn records(&self) -> Vec<SeriesRecord> {
        let mut records = self.minutes.records();
        records.extend(self.hours.records());
        records
    }

    /// Takes a record in. `None`: it contradicts the experiment.
    pub fn restore(&mut self, record: &SeriesRecord) -> Option<()> {
        let track = match record.width_minutes {
            1 => &mut self.minutes,
            HOUR => &mut self.hours,
            _ => return None,
        };
        track.restore(record)
    }
}

fn ratio_of(metric: &featureops_proto::v1::MetricInput) -> bool {
    metric.kind() == featureops_proto::v1::metric::Kind::Ratio
}
