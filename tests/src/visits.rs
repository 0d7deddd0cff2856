//! Visits of a shop: who saw which arm, what came of it, and what an experiment must hold of that, counted unit by unit.
//!
//! ```text
//!   act 1   first exposures and outcomes in any order; outcomes too late, of units and metrics that nobody knows
//!   act 2   a few units see the other arm
//!   act 3   their outcomes there, one of them from before; exposures told again
//!   close   one batch of harm to the treatment: it trips the guardrail, so the node records what it holds
//! ```
//!
//! Event times are said and lie whole minutes apart where it matters, so that within an act no order means anything. The
//! counts are made while the visits are, from single units, and know nothing of batches.

use crate::chance::Chance;
use crate::load::ARMS;

/// Producers that share the units.
pub const PRODUCERS: usize = 4;
/// Units of the treatment that are harmed at the end: one batch.
const HARMED: usize = 2_000;
/// How far an outcome lies behind its exposure in a producer's events, at most.
const LAG: u64 = 400;
/// Seconds of an event time that no metric takes any more.
const LATE_SECONDS: i32 = -73 * 3_600;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The unit saw the arm of this number.
    Exposure(u8),
    /// PROPORTION.
    Converted,
    /// MEAN, in cents.
    Revenue(i32),
    /// MEAN, the denominator of `click-rate`.
    Views(i32),
    /// COUNT, its numerator.
    Click,
    /// PROPORTION, the guardrail.
    Error,
    /// An outcome of a metric that was never set.
    Unknown,
}

/// Something that happened to a unit.
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// The unit's number.
    pub unit: u32,
    /// A visitor without any exposure.
    pub stray: bool,
    /// What.
    pub what: What,
    /// When, in seconds from the beginning.
    pub second: i32,
}

/// Sums over an arm's units of what each of them summed up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Of the units' sums.
    pub sum: i128,
    /// Of their squares.
    pub squares: i128,
}

impl Sums {
    fn add(&mut self, value: i64) {
        let value = i128::from(value);
        self.sum += value;
        self.squares += value * value;
    }
}

/// What an arm must hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArmTotals {
    /// Distinct units.
    pub units: u64,
    /// Units that converted.
    pub converted: u64,
    /// Units with an error.
    pub errors: u64,
    /// In cents.
    pub revenue: Sums,
    /// The denominator.
    pub views: Sums,
    /// The numerator.
    pub clicks: Sums,
    /// Sum over units of clicks times views.
    pub clicks_by_views: i128,
}

/// What an experiment must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// By arm.
    pub arms: [ArmTotals; 2],
    /// Distinct units with an exposure.
    pub exposed: u64,
    /// Those in both arms.
    pub crossed: u64,
    /// Events that count.
    pub counted: u64,
    /// Exposures that say nothing new.
    pub repeated: u64,
    /// Outcomes beyond the late limit.
    pub late: u64,
    /// Outcomes from before the unit's exposure in its arm.
    pub before_exposure: u64,
    /// Outcomes of units that no exposure ever named.
    pub strays: u64,
}

/// One unit's time in one arm.
#[derive(Debug, Default)]
struct Stay {
    converted: bool,
    revenue: i64,
    views: i64,
    clicks: i64,
}

/// All visits, in the order in which they would be told if nothing went wrong.
#[derive(Debug, Default)]
pub struct Visits {
    /// Acts, each by producer. What is told in an act is told before the next begins.
    pub acts: [[Vec<Event>; PRODUCERS]; 3],
    /// One batch.
    pub close: Vec<Event>,
    /// What must be held after all of it.
    pub totals: Totals,
}

impl Visits {
    /// Visits of `units` units.
    #[must_use]
    pub fn new(seed: u64, units: u32) -> Self {
        let mut chance = Chance::new(seed);
        let mut visits = Self::default();
        let mut told: [Vec<(u64, Event)>; PRODUCERS] = Default::default();
        for unit in 0..units {
            let producer = unit as usize % PRODUCERS;
            let arm = chance.below(2) as u8;
            let crosses = chance.below(50) == 0;
            let place = told[producer].len() as u64;
            let mut first = vec![Event { unit, stray: false, what: What::Exposure(arm), second: 0 }];
            visits.totals.exposed += 1;
            visits.totals.counted += 1;
            visits.stay(&mut chance, unit, arm, 60, &mut first);
            visits.astray(&mut chance, unit, &mut first);
            for event in first {
                let lag = if matches!(event.what, What::Exposure(_)) { 0 } else { chance.below(LAG) };
                told[producer].push((place + lag, event));
            }
            if crosses {
                visits.cross(&mut chance, unit, arm);
            } else if arm == 1 && visits.close.len() < HARMED {
                visits.close.push(Event { unit, stray: false, what: What::Error, second: 240 });
            }
        }
        let harmed = visits.close.len() as u64;
        visits.totals.arms[1].errors = harmed;
        visits.totals.counted += harmed;
        for (events, act) in told.iter_mut().zip(&mut visits.acts[0]) {
            events.sort_by_key(|(place, _)| *place);
            *act = events.iter().map(|(_, event)| *event).collect();
        }
        visits
    }

    /// The unit's outcomes in an arm, and what they come to.
    fn stay(&mut self, chance: &mut Chance, unit: u32, arm: u8, second: i32, events: &mut Vec<Event>) {
        let mut stay = Stay::default();
        let before = events.len();
        let mut tell = |what| events.push(Event { unit, stray: false, what, second });
        for _ in 0..=chance.below(2) {
            let views = 1 + chance.below(9) as i32;
            stay.views += i64::from(views);
            tell(What::Views(views));
        }
        for _ in 0..chance.below(3) {
            stay.clicks += 1;
            tell(What::Click);
        }
        if chance.below(3) == 0 {
            // Money comes back, too: a sum may return to zero.
            let cents = chance.below(100_000) as i32;
            let back = if chance.below(10) == 0 { cents } else { 0 };
            stay.revenue += i64::from(cents - back);
            tell(What::Revenue(cents));
            if back > 0 {
                tell(What::Revenue(-back));
            }
        }
        // Some convert twice, which is once.
        for _ in 0..chance.below(8).saturating_sub(5) {
            stay.converted = true;
            tell(What::Converted);
        }
        self.totals.counted += (events.len() - before) as u64;
        let held = &mut self.totals.arms[usize::from(arm)];
        held.units += 1;
        held.converted += u64::from(stay.converted);
        held.revenue.add(stay.revenue);
        held.views.add(stay.views);
        held.clicks.add(stay.clicks);
        held.clicks_by_views += i128::from(stay.clicks) * i128::from(stay.views);
    }

    /// What must not count.
    fn astray(&mut self, chance: &mut Chance, unit: u32, events: &mut Vec<Event>) {
        match chance.below(200) {
            0 | 1 => {
                self.totals.late += 1;
                events.push(Event { unit, stray: false, what: What::Revenue(777), second: LATE_SECONDS });
            }
            2 | 3 => {
                self.totals.strays += 1;
                events.push(Event { unit, stray: true, what: What::Revenue(555), second: 60 });
            }
            4 => events.push(Event { unit, stray: false, what: What::Unknown, second: 60 }),
            _ => {}
        }
    }

    fn cross(&mut self, chance: &mut Chance, unit: u32, from: u8) {
        let producer = unit as usize % PRODUCERS;
        let to = 1 - from;
        self.acts[1][producer].push(Event { unit, stray: false, what: What::Exposure(to), second: 120 });
        self.totals.crossed += 1;
        self.totals.counted += 1;
        let mut events = Vec::new();
        self.stay(chance, unit, to, 180, &mut events);
        if chance.below(4) == 0 {
            self.totals.before_exposure += 1;
            events.push(Event { unit, stray: false, what: What::Revenue(333), second: 0 });
        }
        if chance.below(4) == 0 {
            let arm = if chance.below(2) == 0 { from } else { to };
            self.totals.repeated += 1;
            events.push(Event { unit, stray: false, what: What::Exposure(arm), second: 0 });
        }
        self.acts[2][producer].extend(events);
    }
}

/// The variant of an arm.
#[must_use]
pub fn variant(arm: u8) -> &'static str {
    ARMS[usize::from(arm)]
}
