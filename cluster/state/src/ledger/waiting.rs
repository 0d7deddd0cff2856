//! Outcomes that came before their exposure: held for a minute of log time, at most 65,536 of them.

use std::collections::{BTreeMap, VecDeque};

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

/// The ring, oldest first, with an index by unit.
#[derive(Debug, Clone, Default)]
pub struct Waiting {
    ring: VecDeque<Held>,
    /// Number of the ring's first element.
    first: u64,
    by_unit: BTreeMap<u64, VecDeque<u64>>,
}

impl Waiting {
    /// Oldest first.
    pub fn held(&self) -> impl Iterator<Item = &Held> {
        self.ring.iter()
    }

    /// Less than half full.
    pub fn has_room_to_spare(&self) -> bool {
        self.ring.len() < MAX_HELD / 2
    }

    /// Holds an outcome. Returns the one that had to leave for it, if the ring was full.
    pub fn hold(&mut self, held: Held) -> Option<Held> {
        let gone = if self.ring.len() >= MAX_HELD { self.drop_oldest() } else { None };
        self.by_unit.entry(held.unit).or_default().push_back(self.first + self.ring.len() as u64);
        self.ring.push_back(held);
        gone
    }

    /// Calls `join` for every outcome the unit has waiting; those for which it is true are marked as joined.
    pub fn meet(&mut self, unit: u64, mut join: impl FnMut(&Held) -> bool) {
        let Some(numbers) = self.by_unit.get(&unit) else { return };
        for number in numbers {
            let at = number.saturating_sub(self.first) as usize;
            if let Some(held) = self.ring.get_mut(at)
                && join(held)
            {
                held.joined = true;
            }
        }
    }

    /// Drops the unit's outcomes for which `gone` is true. Returns how many.
    pub fn forget(&mut self, unit: u64, gone: impl Fn(&Held) -> bool) -> u32 {
        if !self.by_unit.contains_key(&unit) {
            return 0;
        }
        // Numbers follow places, so the ring is made anew.
        let mut forgotten = 0;
        for held in std::mem::take(self).ring {
            if held.unit == unit && gone(&held) {
                forgotten += 1;
            } else {
                self.hold(held);
            }
        }
        forgotten
    }

    /// Takes the oldest outcome if it has waited its time.
    pub fn expire(&mut self, now_ms: i64) -> Option<Held> {
        let oldest = self.ring.front()?;
        if now_ms.saturating_sub(oldest.since_ms) < HELD_MS {
            return None;
        }
        self.drop_oldest()
    }

    fn drop_oldest(&mut self) -> Option<Held> {
        let held = self.ring.pop_front()?;
        if let Some(numbers) = self.by_unit.get_mut(&held.unit) {
            // Numbers of a unit rise, so the ring's oldest is its oldest.
            numbers.pop_front();
            if numbers.is_empty() {
                self.by_unit.remove(&held.unit);
            }
        }
        self.first += 1;
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
        assert_eq!(waiting.ring.len(), MAX_HELD);
    }
}
