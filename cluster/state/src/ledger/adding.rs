//! What an outcome does to its unit's shard and to the moments of its arm, one outcome or a run of them.

use std::sync::Arc;

use featureops_proto::v1::Verdict;

use super::clusters::Clusters;
use super::covariates::see_products;
use super::entries::MAX_SUM;
use super::rows::{MAX_MINUTE, Row};
use super::shape::Shape;
use super::strata::{Cell, Strata};
use super::table::Shard;

/// The outcome's minute since the base, if it counts for the stay that the row tells.
pub(super) fn timely(
    base_minute: u32,
    row: Row,
    twice: impl FnOnce() -> bool,
    unix_minute: u32,
    window: u32,
) -> Result<u32, Verdict> {
    if unix_minute <= base_minute {
        return Err(Verdict::BeforeExposure);
    }
    let minute = (unix_minute - base_minute).clamp(1, MAX_MINUTE);
    if row.crossed && twice() {
        return Err(Verdict::CrossedTwice);
    }
    if minute < row.minute {
        return Err(Verdict::BeforeExposure);
    }
    if minute > row.minute.saturating_add(window) {
        return Err(Verdict::OutsideWindow);
    }
    Ok(minute)
}

impl Shard {
    /// The unit converts: its first event that is not zero.
    pub(super) fn see(
        &mut self,
        shape: &Shape,
        row: Row,
        unit: u64,
        (slot, bit): (usize, u8),
        strata: &mut Strata,
        clusters: &mut Arc<Clusters>,
    ) {
        self.rows.put(Row { seen: row.seen | 1 << bit, ..row });
        let at = strata.find(row.generation, row.minute);
        let Some((at, cell)) = at.and_then(|at| Some((at, strata.cell_at(at, row.arm)?))) else { return };
        if let Some((sum, squares)) = cell.slots.get_mut(slot) {
            *sum += 1;
            *squares += 1;
        }
        if shape.covariates > 0 && cell.folded.is_none() {
            see_products(shape, self, row, slot, cell);
        }
        Arc::make_mut(clusters).see(at, row.arm, unit, (slot, bit), shape, cell);
    }

    /// Adds to the unit's sum in its present arm. How many sums more are held then; a verdict when nothing was changed.
    pub(super) fn add(
        &mut self,
        shape: &Shape,
        row: Row,
        (slot, table): (usize, u8),
        value: i64,
        cell: &mut Cell,
    ) -> Result<i64, Verdict> {
        let entries = self.entries.get(usize::from(table)).ok_or(Verdict::NoRoom)?;
        let (old, place) = entries.find(row.hash, row.arm);
        let within = |sum: &i64| sum.unsigned_abs() <= MAX_SUM.unsigned_abs();
        let new = old.checked_add(value).filter(within).ok_or(Verdict::SumOverflow)?;
        // Products with the other half of every pair this slot is in, at the unit's present sums.
        let mut products = Vec::new();
        for (pair, other) in shape.pairs_of(slot) {
            let other = self.value(other, row.hash, row.arm, row.seen);
            products.push((pair, i128::from(value) * i128::from(other)));
        }
        let squares_added = (2 * i128::from(old) + i128::from(value)) * i128::from(value);
        let (sum, squares) = cell.slots.get_mut(slot).ok_or(Verdict::UnknownMetric)?;
        let (Some(next_sum), Some(next_squares)) =
            (sum.checked_add(i128::from(value)), squares.checked_add(squares_added))
        else {
            return Err(Verdict::SumOverflow);
        };
        for (at, product) in &products {
            if cell.cross.get(*at).is_none_or(|c| c.checked_add(*product).is_none()) {
                return Err(Verdict::SumOverflow);
            }
        }
        (*sum, *squares) = (next_sum, next_squares);
        for (at, product) in products {
            if let Some(cross) = cell.cross.get_mut(at) {
                *cross += product;
            }
        }
        if let Some(entries) = self.entries.get_mut(usize::from(table)) {
            entries.put_at(place, row.hash, row.arm, new);
        }
        Ok(i64::from(old == 0) - i64::from(new == 0))
    }
}
