//! What an experiment counts: its metric slots and the pairs whose products it keeps.

use featureops_proto::v1::metric::Kind;

/// Most proportion metrics of an experiment: a row has 16 seen bits.
pub const MAX_PROPORTIONS: usize = 16;
/// Most metrics of an experiment that keep a sum per unit.
pub const MAX_SUMS: usize = 16;

/// How a slot counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// A seen bit: the unit has at least one event that is not zero.
    Seen {
        /// Which of the row's 16 bits.
        bit: u8,
    },
    /// A sum per unit.
    Sum {
        /// Which of the shard's entry tables.
        table: u8,
        /// Every event adds one, whatever its value.
        counts: bool,
    },
}

/// The slots of an experiment, in the order in which its moments hold them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// Arms.
    pub arms: usize,
    /// Metric number and kind of every slot.
    pub slots: Vec<(u32, SlotKind)>,
    /// Pairs of slots whose cross products are kept.
    pub pairs: Vec<(usize, usize)>,
}

impl Shape {
    /// The slot of a metric, adding it if it is new. `None` when no bit or table is left.
    pub fn slot(&mut self, metric: u32, kind: Kind) -> Option<usize> {
        if let Some(at) = self.slots.iter().position(|(number, _)| *number == metric) {
            return Some(at);
        }
        let seen = self.slots.iter().filter(|(_, k)| matches!(k, SlotKind::Seen { .. })).count();
        let sums = self.slots.len() - seen;
        let slot = match kind {
            Kind::Proportion if seen < MAX_PROPORTIONS => SlotKind::Seen { bit: seen as u8 },
            Kind::Mean if sums < MAX_SUMS => SlotKind::Sum { table: sums as u8, counts: false },
            Kind::Count if sums < MAX_SUMS => SlotKind::Sum { table: sums as u8, counts: true },
            _ => return None,
        };
        self.slots.push((metric, slot));
        Some(self.slots.len() - 1)
    }

    /// The pair of two slots, adding it if it is new.
    pub fn pair(&mut self, numerator: usize, denominator: usize) -> usize {
        if let Some(at) = self.pairs.iter().position(|pair| *pair == (numerator, denominator)) {
            return at;
        }
        self.pairs.push((numerator, denominator));
        self.pairs.len() - 1
    }

    /// Slots that keep a sum, and their tables.
    pub fn summed(&self) -> impl Iterator<Item = (usize, usize)> {
        self.slots.iter().enumerate().filter_map(|(slot, (_, kind))| match kind {
            SlotKind::Sum { table, .. } => Some((slot, usize::from(*table))),
            SlotKind::Seen { .. } => None,
        })
    }

    /// Pairs that a summed slot is in, with the table of the other half.
    pub fn pairs_of(&self, slot: usize) -> impl Iterator<Item = (usize, usize)> {
        self.pairs.iter().enumerate().filter_map(move |(at, (a, b))| {
            let other = match (*a == slot, *b == slot) {
                (true, false) => *b,
                (false, true) => *a,
                _ => return None,
            };
            Some((at, self.table(other)?))
        })
    }

    /// Tables of both halves of a pair.
    pub fn tables_of(&self, pair: usize) -> Option<(usize, usize)> {
        let (a, b) = self.pairs.get(pair)?;
        Some((self.table(*a)?, self.table(*b)?))
    }

    fn table(&self, slot: usize) -> Option<usize> {
        match self.slots.get(slot)?.1 {
            SlotKind::Sum { table, .. } => Some(usize::from(table)),
            SlotKind::Seen { .. } => None,
        }
    }

    /// Tables of sums.
    pub fn tables(&self) -> usize {
        self.slots.iter().filter(|(_, kind)| matches!(kind, SlotKind::Sum { .. })).count()
    }
}
