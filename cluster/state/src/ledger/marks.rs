//! Marked units: those whose exposure the ledger knows only from a receipt.
//!
//! An outcome may overtake its exposure on the way to the log, so a mark is given a minute of log time: if the exposure
//! comes, the mark goes; if not, it stays for good and stands against the experiment's decisions.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::waiting::HELD_MS;

/// Marks that may still be lifted; an older one settles early when more come.
const MAX_FRESH: usize = 65_536;

#[derive(Debug, Clone, Default)]
struct Fresh {
    /// A unit is marked once an arm: its row stands from then on.
    since: BTreeMap<(u64, u8), i64>,
    /// Oldest first; those whose mark was lifted are passed over.
    order: VecDeque<(u64, u8)>,
}

/// The marks of one experiment.
#[derive(Debug, Clone)]
pub struct Marks {
    by_arm: Vec<u64>,
    fresh_by_arm: Vec<u64>,
    fresh: Arc<Fresh>,
}

impl Marks {
    /// None yet.
    pub fn new(arms: usize) -> Self {
        Self { by_arm: vec![0; arms], fresh_by_arm: vec![0; arms], fresh: Arc::new(Fresh::default()) }
    }

    /// Marks a unit in an arm.
    pub fn mark(&mut self, unit: u64, arm: u8, now_ms: i64) {
        add(&mut self.by_arm, arm, 1);
        while self.fresh.since.len() >= MAX_FRESH && !self.settle_oldest() {}
        let fresh = Arc::make_mut(&mut self.fresh);
        if fresh.order.len() >= 2 * MAX_FRESH {
            let since = &fresh.since;
            fresh.order.retain(|key| since.contains_key(key));
        }
        fresh.order.push_back((unit, arm));
        fresh.since.insert((unit, arm), now_ms);
        add(&mut self.fresh_by_arm, arm, 1);
    }

    /// The unit's exposure came: its mark goes, if it is young enough. Returns whether it did.
    pub fn lift(&mut self, unit: u64, arm: u8) -> bool {
        if !self.fresh.since.contains_key(&(unit, arm)) {
            return false;
        }
        Arc::make_mut(&mut self.fresh).since.remove(&(unit, arm));
        add(&mut self.by_arm, arm, -1);
        add(&mut self.fresh_by_arm, arm, -1);
        true
    }

    /// The unit is erased: its young marks go. Returns how many.
    pub fn erase(&mut self, unit: u64) -> u32 {
        let arms: Vec<u8> =
            self.fresh.since.range((unit, 0)..=(unit, u8::MAX)).map(|(key, _)| key.1).collect();
        for arm in &arms {
            self.lift(unit, *arm);
        }
        // Nor does its place in the order tell it.
        if !arms.is_empty() {
            Arc::make_mut(&mut self.fresh).order.retain(|key| key.0 != unit);
        }
        arms.len() as u32
    }

    /// Marks older than a minute stay for good. Returns whether any did.
    pub fn settle(&mut self, now_ms: i64) -> bool {
        let mut any = false;
        while let Some(oldest) = self.fresh.order.front() {
            let young = |since: &i64| now_ms.saturating_sub(*since) < HELD_MS;
            if self.fresh.since.get(oldest).is_some_and(young) {
                break;
            }
            any |= self.settle_oldest();
        }
        any
    }

    /// Returns whether the oldest was still a mark.
    fn settle_oldest(&mut self) -> bool {
        let fresh = Arc::make_mut(&mut self.fresh);
        let Some(oldest) = fresh.order.pop_front() else { return false };
        let marked = fresh.since.remove(&oldest).is_some();
        if marked {
            add(&mut self.fresh_by_arm, oldest.1, -1);
        }
        marked
    }

    /// By arm, young ones among them.
    pub fn all(&self) -> &[u64] {
        &self.by_arm
    }

    /// By arm, only those that stay.
    pub fn settled(&self) -> Vec<u64> {
        self.by_arm.iter().zip(&self.fresh_by_arm).map(|(all, fresh)| all.saturating_sub(*fresh)).collect()
    }

    /// Young marks, oldest first: (log time, unit, arm).
    pub fn fresh(&self) -> Vec<(i64, u64, u8)> {
        let alive = |key: &(u64, u8)| self.fresh.since.get(key).map(|since| (*since, key.0, key.1));
        self.fresh.order.iter().filter_map(alive).collect()
    }

    /// Restores them from a snapshot.
    pub fn restore(by_arm: Vec<u64>, fresh: impl IntoIterator<Item = (i64, u64, u8)>) -> Self {
        let mut marks =
            Self { fresh_by_arm: vec![0; by_arm.len()], by_arm, fresh: Arc::new(Fresh::default()) };
        let kept = Arc::make_mut(&mut marks.fresh);
        for (since, unit, arm) in fresh {
            kept.order.push_back((unit, arm));
            kept.since.insert((unit, arm), since);
            add(&mut marks.fresh_by_arm, arm, 1);
        }
        marks
    }
}

fn add(counts: &mut [u64], arm: u8, change: i64) {
    if let Some(count) = counts.get_mut(usize::from(arm)) {
        *count = count.saturating_add_signed(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_lifted_within_its_minute_and_stays_after_it() {
        let mut marks = Marks::new(2);
        marks.mark(1, 0, 0);
        marks.mark(2, 1, 10);
        assert_eq!((marks.all(), marks.settled().as_slice()), (&[1, 1][..], &[0, 0][..]));
        assert!(!marks.lift(1, 1), "of another arm");
        assert!(marks.lift(1, 0));
        assert!(!marks.lift(1, 0));
        assert!(marks.settle(HELD_MS + 10));
        assert_eq!((marks.all(), marks.settled().as_slice()), (&[0, 1][..], &[0, 1][..]));
        assert!(!marks.lift(2, 1), "too late");
    }

    #[test]
    fn a_restored_set_goes_on_alike() {
        let mut marks = Marks::new(2);
        for unit in 0..100 {
            marks.mark(unit, (unit % 2) as u8, unit as i64 * 1_000);
        }
        marks.lift(7, 1);
        let mut again = Marks::restore(marks.all().to_vec(), marks.fresh());
        for now in [60_000, 90_000, 200_000] {
            assert_eq!(marks.settle(now), again.settle(now));
            assert_eq!(marks.settled(), again.settled());
        }
    }
}
