//! A table kept in the order of its keys: linear probing in which runs rise (Amble & Knuth 1974).
//!
//! ```text
//!   home = hash scaled by the number of homes, which need not be a power of two
//!
//!   homes  0   1   2   3   4   5   6   7 | slack
//!         [a] [b] [c]  .  [e] [f]  .  .  |  .        every key stands at its home or right of it, smaller ones before it
//! ```
//!
//! The home rises with the hash, so the whole table is sorted: walking it gives the form that snapshots and digests use,
//! and a search for what is not there ends at the first larger key. Unsuccessful probes stay short (5.5 at a load of .9,
//! where plain probing takes 50), so the load may go up to .9; the table grows by an eighth, which keeps it above .8.

use super::pages::Pages;

/// What stands in a place.
pub trait Slot: Copy {
    /// Nothing.
    const EMPTY: Self;
    /// Whether something stands here.
    fn is_used(&self) -> bool;
    /// What the table is ordered by: the hash in the upper bits.
    fn order(&self) -> u64;
    /// The upper 32 bits of the hash, which say where its home is.
    fn place(order: u64) -> u32;
}

/// Most places in use, of ten.
const MAX_LOAD: usize = 9;
/// Homes of the smallest table.
const MIN_HOMES: usize = 4;

/// A run is some three places long: it may end in the next line of memory.
const RUN: usize = 4;
/// Lines of memory for each place that is asked for, up to which all that lie between them are.
const DENSE: usize = 8;

/// Where something stands, or where it belongs; good until the next write.
pub type Place = Result<usize, usize>;

/// The table.
#[derive(Debug, Clone)]
pub struct Ordered<S> {
    /// Homes, and behind them some slack for a run that begins at the last of them.
    slots: Pages<S>,
    homes: usize,
    len: usize,
}

impl<S> Default for Ordered<S> {
    fn default() -> Self {
        Self { slots: Pages::default(), homes: 0, len: 0 }
    }
}

impl<S: Slot> Ordered<S> {
    /// Places in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the table.
    pub fn bytes(&self) -> usize {
        self.slots.bytes()
    }

    /// What has this order.
    pub fn get(&self, order: u64) -> Option<&S> {
        self.slots.get(self.find(order).ok()?)
    }

    /// By rising order.
    pub fn iter(&self) -> impl Iterator<Item = &S> {
        self.slots.iter().filter(|slot| slot.is_used())
    }

    /// Asks memory for where this order's run begins, and looks at nothing: a look that guesses wrong would wait.
    pub fn touch(&self, order: u64) {
        let home = self.home(order);
        for at in [home, home + RUN] {
            std::hint::black_box(self.slots.get(at).map(Slot::is_used));
        }
    }

    /// Asks memory for what leads to the places.
    pub fn reach(&self) {
        self.slots.reach();
    }

    /// As [`Self::touch`], of orders that rise.
    pub fn touch_all(&self, orders: impl DoubleEndedIterator<Item = u64> + ExactSizeIterator + Clone) {
        let (Some(first), Some(last)) = (orders.clone().next(), orders.clone().next_back()) else { return };
        let (from, to) = (self.home(first), self.home(last) + RUN);
        // Memory gives places that follow one another several times as fast as single ones.
        if (to - from) / Pages::<S>::PER_LINE <= DENSE * orders.len() {
            self.slots.touch(from, to);
        } else {
            orders.for_each(|order| self.touch(order));
        }
    }

    /// What stands in a place that [`Self::find`] found.
    pub fn at(&self, place: Place) -> Option<&S> {
        self.slots.get(place.ok()?)
    }

    /// Writes what is there, or puts it in. Returns whether it is new.
    pub fn put(&mut self, slot: S) -> bool {
        self.put_at(self.find(slot.order()), slot)
    }

    /// As [`Self::put`], where [`Self::find`] has just found the place of the slot's order.
    pub fn put_at(&mut self, mut place: Place, slot: S) -> bool {
        if let Ok(at) = place {
            self.slots.set(at, slot);
            return false;
        }
        if (self.len + 1) * 10 > self.homes * MAX_LOAD {
            self.grow();
            place = self.find(slot.order());
        }
        let (Ok(at) | Err(at)) = place;
        self.insert(at, slot);
        true
    }

    /// Moves what follows in the run one place on, and puts it in between.
    fn insert(&mut self, at: usize, slot: S) {
        let (mut carried, mut next) = (slot, at);
        loop {
            let Some(there) = self.slots.get(next).copied() else {
                // The last run has used the slack up. More of it, not more homes: all keys may share one.
                self.slots.extend(self.slack(), S::EMPTY);
                continue;
            };
            self.slots.set(next, carried);
            if !there.is_used() {
                break;
            }
            (carried, next) = (there, next + 1);
        }
        self.len += 1;
    }

    /// Takes out what has this order.
    pub fn remove(&mut self, order: u64) -> Option<S> {
        let at = self.find(order).ok()?;
        let gone = *self.slots.get(at)?;
        // Whoever behind it in the run is not at home moves up.
        let mut hole = at;
        while let Some(next) = self.slots.get(hole + 1).copied()
            && next.is_used()
            && self.home(next.order()) <= hole
        {
            self.slots.set(hole, next);
            hole += 1;
        }
        self.slots.set(hole, S::EMPTY);
        self.len -= 1;
        Some(gone)
    }

    /// A table of what rises strictly by order, half way between its last growth and its next.
    pub fn of(sorted: impl ExactSizeIterator<Item = S>) -> Self {
        let mut table = Self::default();
        let homes = (sorted.len() * 20).div_ceil(17);
        table.build(homes.max(MIN_HOMES), sorted);
        table
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.slots);
        let homes = self.homes + (self.homes / 8).max(MIN_HOMES);
        self.build(homes, old.iter().filter(|slot| slot.is_used()).copied());
    }

    fn build(&mut self, homes: usize, sorted: impl Iterator<Item = S>) {
        self.homes = homes;
        let mut slots = vec![S::EMPTY; homes + self.slack()];
        self.len = 0;
        let mut next = 0;
        for slot in sorted {
            let at = next.max(self.home(slot.order()));
            if at >= slots.len() {
                slots.resize(at + self.slack(), S::EMPTY);
            }
            if let Some(place) = slots.get_mut(at) {
                *place = slot;
                self.len += 1;
            }
            next = at + 1;
        }
        self.slots = Pages::of(&slots);
    }

    fn slack(&self) -> usize {
        4 + (self.homes / 16).min(60)
    }

    fn home(&self, order: u64) -> usize {
        // Below 2^32 times below 2^32.
        ((u64::from(S::place(order)) * self.homes as u64) >> 32) as usize
    }

    /// Where it is, or where it belongs.
    pub fn find(&self, order: u64) -> Place {
        let mut at = self.home(order);
        while let Some(slot) = self.slots.get(at).filter(|slot| slot.is_used()) {
            let there = slot.order();
            if there >= order {
                return if there == order { Ok(at) } else { Err(at) };
            }
            at += 1;
        }
        Err(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Pair(u64, u8);

    impl Slot for Pair {
        const EMPTY: Self = Self(u64::MAX, 0);
        fn is_used(&self) -> bool {
            self.0 != u64::MAX
        }
        fn order(&self) -> u64 {
            self.0
        }
        fn place(order: u64) -> u32 {
            (order >> 32) as u32
        }
    }

    /// Few homes among many keys, the first and the last home among them.
    fn order() -> impl Strategy<Value = u64> {
        prop_oneof![
            0u64..40,
            (0u64..40).prop_map(|low| (u64::MAX - 1) - low),
            any::<u32>().prop_map(|high| u64::from(high) << 32),
        ]
    }

    proptest! {
        #[test]
        fn any_order_of_writes_and_removals_equals_a_map(
            steps in proptest::collection::vec((order(), 0u8..4), 0..400)
        ) {
            let mut table = Ordered::default();
            let mut model = BTreeMap::new();
            for (order, value) in steps {
                if value == 0 {
                    prop_assert_eq!(table.remove(order).map(|pair: Pair| pair.1), model.remove(&order));
                } else {
                    prop_assert_eq!(table.put(Pair(order, value)), model.insert(order, value).is_none());
                }
                prop_assert_eq!(table.get(order).map(|pair| pair.1), model.get(&order).copied());
                prop_assert_eq!(table.len(), model.len());
            }
            let expected: Vec<Pair> = model.into_iter().map(|(order, value)| Pair(order, value)).collect();
            prop_assert_eq!(table.iter().copied().collect::<Vec<_>>(), expected.clone());
            for pair in &expected {
                prop_assert_eq!(table.get(pair.0), Some(pair));
            }
            let again = Ordered::of(expected.iter().copied());
            prop_assert_eq!(again.iter().copied().collect::<Vec<_>>(), expected.clone());
            for pair in &expected {
                prop_assert_eq!(again.get(pair.0), Some(pair));
            }
        }
    }

    #[test]
    fn a_large_table_stays_full() {
        let mut table = Ordered::default();
        let mut least = 1.0_f64;
        for number in 0..60_000_u64 {
            table.put(Pair(number.wrapping_mul(0x9E37_79B9_7F4A_7C15), 1));
            if number > 2_000 {
                least = least.min(table.len() as f64 / table.slots.len() as f64);
            }
        }
        assert!(least > 0.75, "{least}");
    }
}
