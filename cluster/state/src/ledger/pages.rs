//! A row of places in pages that copies share: a write to one copies its page, not all of them.
//!
//! While a snapshot is made of ten million units, the facts that go on touch all parts of the table at once; copied by
//! shards, the first of them would wait for a copy of it all (`featureops bench ledger` says what they take).

use std::sync::Arc;

/// Places of a page: 6 KiB of rows.
const PAGE: usize = 512;

/// The places.
#[derive(Debug, Clone)]
pub struct Pages<S>(Vec<Arc<[S]>>);

impl<S> Default for Pages<S> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<S: Copy> Pages<S> {
    /// Places in a line of memory.
    pub const PER_LINE: usize = 64 / size_of::<S>();

    /// So many places with that in each.
    pub fn of(places: &[S]) -> Self {
        Self(places.chunks(PAGE).map(Arc::from).collect())
    }

    /// Places.
    pub fn len(&self) -> usize {
        // All pages but the last are full.
        self.0.last().map_or(0, |last| (self.0.len() - 1) * PAGE + last.len())
    }

    /// Bytes of all places.
    pub fn bytes(&self) -> usize {
        // A page's counts, and the pointer to it.
        self.len() * size_of::<S>() + self.0.capacity() * 32
    }

    /// What stands in a place.
    pub fn get(&self, at: usize) -> Option<&S> {
        self.0.get(at / PAGE)?.get(at % PAGE)
    }

    /// Asks memory for what leads to the places.
    pub fn reach(&self) {
        std::hint::black_box(self.0.first().map(|page| page.len()));
    }

    /// Asks memory for the places from one to another.
    pub fn touch(&self, from: usize, to: usize) {
        for at in from / PAGE..=to / PAGE {
            let Some(page) = self.0.get(at) else { return };
            // Where a write will look first.
            std::hint::black_box(Arc::strong_count(page));
            let within = from.saturating_sub(at * PAGE)..=(to - at * PAGE).min(PAGE - 1);
            for place in page.get(within).into_iter().flat_map(|places| places.iter().step_by(Self::PER_LINE))
            {
                std::hint::black_box(*place);
            }
        }
    }

    /// Writes to a place that is there.
    pub fn set(&mut self, at: usize, to: S) {
        if let Some(page) = self.0.get_mut(at / PAGE)
            && let Some(place) = Arc::make_mut(page).get_mut(at % PAGE)
        {
            *place = to;
        }
    }

    /// Adds places at the end.
    pub fn extend(&mut self, more: usize, with: S) {
        let mut places = self.0.pop().map_or_else(Vec::new, |last| last.to_vec());
        places.resize(places.len() + more, with);
        self.0.extend(places.chunks(PAGE).map(Arc::from));
    }

    /// In their order.
    pub fn iter(&self) -> impl Iterator<Item = &S> {
        self.0.iter().flat_map(|page| page.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_copies_one_page() {
        let mut pages = Pages::of(&[0u32; 3 * PAGE + 5]);
        let held = pages.clone();
        pages.set(PAGE, 7);
        let shared = |at: usize| Arc::ptr_eq(&pages.0[at], &held.0[at]);
        assert_eq!([shared(0), shared(1), shared(2), shared(3)], [true, false, true, true]);
        assert_eq!((pages.get(PAGE), held.get(PAGE)), (Some(&7), Some(&0)));
        assert_eq!(pages.get(3 * PAGE + 5), None);
    }

    #[test]
    fn places_are_added_over_pages() {
        let mut pages = Pages::default();
        let mut model = Vec::new();
        for (turn, more) in [3, PAGE - 3, 1, 2 * PAGE, 0, 4].into_iter().enumerate() {
            pages.extend(more, turn);
            model.resize(model.len() + more, turn);
            assert_eq!(pages.len(), model.len());
            assert!(pages.iter().eq(model.iter()));
        }
        pages.set(pages.len(), 9);
        assert!(pages.iter().eq(model.iter()), "beyond the end nothing is written");
    }
}
