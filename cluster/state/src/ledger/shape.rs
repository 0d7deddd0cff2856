//! What an experiment counts: the slots of its metrics and covariates, and the pairs whose products it keeps.

use featureops_proto::v1::metric::Kind;

/// Most proportion metrics of an experiment: a row has 16 seen bits.
pub const MAX_PROPORTIONS: usize = 16;
/// Most metrics of an experiment that keep a sum per unit.
pub const MAX_SUMS: usize = 16;
/// Most covariates of an experiment.
pub const MAX_COVARIATES: usize = 4;
/// Most pairs that a covariate, or the square of a metric beside one, is in.
pub const MAX_PRODUCTS: usize = 64;
/// Of a slot without a cap.
pub const NO_CAP: i64 = i64::MAX;

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
        /// The unit's value is at most this; [`NO_CAP`] for most.
        cap: i64,
    },
}

impl SlotKind {
    /// Moments stay those of single units when sums are folded.
    pub fn stays_exact(self) -> bool {
        matches!(self, Self::Seen { .. }) || self.is_capped()
    }

    /// The unit's value is not its sum.
    pub fn is_capped(self) -> bool {
        matches!(self, Self::Sum { cap, .. } if cap != NO_CAP)
    }
}

/// The slots of an experiment, in the order in which its moments hold them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// Arms.
    pub arms: usize,
    /// Metric number and kind of every slot; 0 and a sum for covariates, which come last.
    pub slots: Vec<(u32, SlotKind)>,
    /// How many of the last slots are covariates.
    pub covariates: usize,
    /// Pairs of slots whose cross products are kept.
    pub pairs: Vec<(usize, usize)>,
}

impl Shape {
    /// The slot of a metric, adding it if it is new. `None` when no bit or table is left.
    pub fn slot(&mut self, metric: u32, kind: Kind, cap: i64) -> Option<usize> {
        if let Some(at) = self.slots.iter().position(|(number, _)| *number == metric) {
            return Some(at);
        }
        let seen = self.slots.iter().filter(|(_, k)| matches!(k, SlotKind::Seen { .. })).count();
        let sums = self.slots.len() - seen;
        let slot = match kind {
            Kind::Proportion if seen < MAX_PROPORTIONS => SlotKind::Seen { bit: seen as u8 },
            Kind::Mean if sums < MAX_SUMS => SlotKind::Sum { table: sums as u8, counts: false, cap },
            Kind::Count if sums < MAX_SUMS => SlotKind::Sum { table: sums as u8, counts: true, cap },
            _ => return None,
        };
        self.slots.push((metric, slot));
        Some(self.slots.len() - 1)
    }

    /// Adds a covariate's slot, behind those of all metrics.
    pub fn covariate(&mut self) -> usize {
        let table = self.tables() as u8;
        self.slots.push((0, SlotKind::Sum { table, counts: false, cap: NO_CAP }));
        self.covariates += 1;
        self.slots.len() - 1
    }

    /// Slots of the covariates, with their tables.
    pub fn covariate_slots(&self) -> impl Iterator<Item = (usize, u8)> {
        let first = self.slots.len() - self.covariates.min(self.slots.len());
        self.slots.iter().enumerate().skip(first).filter_map(|(slot, (_, kind))| match kind {
            SlotKind::Sum { table, .. } => Some((slot, *table)),
            SlotKind::Seen { .. } => None,
        })
    }

    /// The pairs that covariates need: each with every metric and every covariate before it, and every metric whose moments stay
    /// those of units with itself, because beside products of clusters its own squares must be of clusters too. How many these are.
    pub fn pair_covariates(&mut self) -> usize {
        let before = self.pairs.len();
        let first = self.slots.len() - self.covariates;
        if first == self.slots.len() {
            return 0;
        }
        for slot in 0..first {
            if self.slots.get(slot).is_some_and(|(_, kind)| kind.stays_exact()) {
                self.pair(slot, slot);
            }
        }
        for covariate in first..self.slots.len() {
            for other in 0..covariate {
                self.pair(covariate, other);
            }
        }
        self.pairs.len() - before
    }

    /// The pair of two slots, adding it if it is new.
    pub fn pair(&mut self, first: usize, second: usize) -> usize {
        if let Some(at) = self.pairs.iter().position(|pair| *pair == (first, second)) {
            return at;
        }
        self.pairs.push((first, second));
        self.pairs.len() - 1
    }

    /// The pair of a slot with itself.
    pub fn square_of(&self, slot: usize) -> Option<usize> {
        self.pairs.iter().position(|pair| *pair == (slot, slot))
    }

    /// Slots that keep a sum, and their tables.
    pub fn summed(&self) -> impl Iterator<Item = (usize, usize)> {
        self.slots.iter().enumerate().filter_map(|(slot, (_, kind))| match kind {
            SlotKind::Sum { table, .. } => Some((slot, usize::from(*table))),
            SlotKind::Seen { .. } => None,
        })
    }

    /// Slots whose clusters' sums times units are kept once sums are folded.
    pub fn with_units(&self) -> impl Iterator<Item = (usize, SlotKind)> {
        let kinds = self.slots.iter().enumerate().map(|(slot, (_, kind))| (slot, *kind));
        kinds.filter(|(slot, kind)| {
            matches!(kind, SlotKind::Sum { .. }) || (self.covariates > 0 && self.square_of(*slot).is_some())
        })
    }

    /// Pairs that a slot is in with another one, and the other's kind.
    pub fn pairs_of(&self, slot: usize) -> impl Iterator<Item = (usize, SlotKind)> {
        self.pairs.iter().enumerate().filter_map(move |(at, (a, b))| {
            let other = match (*a == slot, *b == slot) {
                (true, false) => *b,
                (false, true) => *a,
                _ => return None,
            };
            Some((at, self.slots.get(other)?.1))
        })
    }

    /// Kinds of both halves of a pair.
    pub fn kinds_of(&self, pair: usize) -> Option<(SlotKind, SlotKind)> {
        let (a, b) = self.pairs.get(pair)?;
        Some((self.slots.get(*a)?.1, self.slots.get(*b)?.1))
    }

    /// Tables of sums.
    pub fn tables(&self) -> usize {
        self.slots.iter().filter(|(_, kind)| matches!(kind, SlotKind::Sum { .. })).count()
    }
}
