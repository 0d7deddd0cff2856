//! Outcomes that came before their exposure: held for a minute of log time, at most 65,536 of them.

use std::collections::{BTreeMap, BTreeSet};

/// Outcomes held.
pub const MAX_HELD: usize = 65_536;
/// How long, in log time.
pub const HELD_MS: i64 = 60_000;

/// An outcome of a unit that no experiment holds yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Hash of the unit.
    pub unit: u64,
    /// Metric number.
    pub metric: u32,
    /// At the metric's scale.
    pub value: i64,
    /// Event time in unix minutes.
    pub minute: u32,
    /// Log time when it came.
    pub since_ms: i64,
    /// Where in the log it came: an experiment that started behind it has nothing to do with it.
    pub position: u64,
    /// It was counted in at least one experiment since.
    pub joined: bool,
}

/// What waits, oldest first, with an index by unit.
///
/// An outcome that an experiment took stays, for the other experiments; when there is no room, such ones leave first.
#[derive(Debug, Clone, Default)]
pub struct Waiting {
    held: BTreeMap<u64, Held>,
    /// Number of the next.
    next: u64,
    /// Numbers of those that were joined.
    joined: BTreeSet<u64>,
    by_unit: BTreeMap<u64, BTreeSet<u64>>,
}

impl Waiting {
    /// Oldest first.
    pub fn held(&self) -> impl Iterator<Item = &Held> {
        self.held.values()
    }

    /// Less than half full.
    pub fn has_room_to_spare(&self) -> bool {
        self.held.len() < MAX_HELD / 2
    }

    /// Holds an outcome. Returns the one that had to leave for it, if there was no room: the oldest that was joined, or the
    /// oldest.
    pub fn hold(&mut self, held: Held) -> Option<Held> {
        let gone = if self.held.len() >= MAX_HELD {
            let oldest = self.joined.first().or_else(|| self.held.keys().next()).copied();
            oldest.and_then(|number| self.drop_one(number))
        } else {
            None
        };
        self.by_unit.entry(held.unit).or_default().insert(self.next);
        if held.joined {
            self.joined.insert(self.next);
        }
        self.held.insert(self.next, held);
        self.next += 1;
        gone
    }

    /// Calls `join` for every outcome the unit has waiting; those for which it is true are marked as joined.
    pub fn meet(&mut self, unit: u64, mut join: impl FnMut(&Held) -> bool) {
        for number in self.by_unit.get(&unit).into_iter().flatten() {
            if let Some(held) = self.held.get_mut(number)
                && join(held)
            {
                held.joined = true;
                self.joined.insert(*number);
            }
        }
    }

    /// Drops the unit's outcomes for which `gone` is true. Returns how many.
    pub fn forget(&mut self, unit: u64, gone: impl Fn(&Held) -> bool) -> u32 {
        let numbers: Vec<u64> = self.by_unit.get(&unit).into_iter().flatten().copied().collect();
        let mut forgotten = 0;
        for number in numbers {
            if self.held.get(&number).is_some_and(&gone) {
                self.drop_one(number);
                forgotten += 1;
            }
        }
        forgotten
    }

    /// Takes the oldest outcome if it has waited its time.
    pub fn expire(&mut self, now_ms: i64) -> Option<Held> {
        let (number, oldest) = self.held.first_key_value()?;
        if now_ms.saturating_sub(oldest.since_ms) < HELD_MS {
            return None;
        }
        self.drop_one(*number)
    }

    fn drop_one(&mut self, number: u64) -> Option<Held> {
        let held = self.held.remove(&number)?;
        self.joined.remove(&number);
        if let Some(numbers) = self.by_unit.get_mut(&held.unit) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_unit.remove(&held.unit);
            }
        }
        Some(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(unit: u64, since_ms: i64) -> Held {
        Held { unit, metric: 1, value: 1, minute: 1, since_ms, position: 1, joined: false }
    }

    #[test]
    fn an_outcome_waits_its_minute_and_leaves_in_order() {
        let mut waiting = Waiting::default();
        waiting.hold(held(1, 0));
        waiting.hold(held(2, 10));
        let mut met = 0;
        waiting.meet(1, |_| {
            met += 1;
            true
        });
        waiting.meet(3, |_| unreachable!());
        assert_eq!(met, 1);
        assert_eq!(waiting.expire(HELD_MS - 1), None);
        assert!(waiting.expire(HELD_MS).unwrap().joined);
        assert_eq!(waiting.expire(HELD_MS), None);
        assert!(!waiting.expire(HELD_MS + 10).unwrap().joined);
        assert!(waiting.by_unit.is_empty());
    }

    #[test]
    fn a_full_ring_says_who_left() {
        let mut waiting = Waiting::default();
        for unit in 0..MAX_HELD as u64 {
            assert_eq!(waiting.hold(held(unit, 0)), None);
        }
        assert_eq!(waiting.hold(held(9, 1)).unwrap().unit, 0);
        waiting.meet(500, |_| true);
        waiting.meet(7, |_| true);
        let unit = |gone: Option<Held>| gone.map(|gone| (gone.unit, gone.joined));
        assert_eq!(unit(waiting.hold(held(9, 2))), Some((7, true)), "what was counted leaves first");
        assert_eq!(unit(waiting.hold(held(9, 3))), Some((500, true)));
        assert_eq!(unit(waiting.hold(held(9, 4))), Some((1, false)));
        assert_eq!(waiting.forget(9, |held| held.since_ms > 2), 2);
        assert_eq!(waiting.held().count(), MAX_HELD - 2);
        assert_eq!(waiting.held().filter(|held| held.unit == 9).count(), 3);
    }
}
