//! What came of a programme: counted by policy, told as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use featureops_proto::v1::experiment::Policy;

/// A regression is plain when errors rise by half at least, and this many units met it.
const PLAIN: (f64, u64) = (1.5, 10_000);

/// A trip, held against what is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trip {
    /// The arm does harm.
    Right {
        /// From the first harmed unit on.
        hours: u32,
        /// Units harmed by then.
        units: u64,
    },
    /// It does none.
    False,
}

/// Of the experiments of one policy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OfPolicy {
    /// Begun.
    pub experiments: u64,
    /// Of them with no arm that differs from control.
    pub without_effect: u64,
    /// Exposed.
    pub units: u64,
    /// Reallocations that were applied.
    pub reallocations: u64,
    /// Sum over units of what the best arm would have brought more, in lifts.
    pub regret: f64,
    /// The same, had every unit had an even chance of every arm.
    pub regret_of_even: f64,
    /// Promotions that were proposed.
    pub promotions: u64,
    /// Of them, of an arm that was no better than control over its own data; of a ramp, of one that does harm.
    pub false_winners: u64,
    /// Of them, of one that was better, and is no longer.
    pub overtaken: u64,
    /// Of them, of one that is better, and not the best.
    pub second_best: u64,
    /// Approved by a person.
    pub approved: u64,
    /// No longer to be approved a day later.
    pub lapsed: u64,
    /// Trips of an arm that does no harm.
    pub false_trips: u64,
    /// Hours to each right trip.
    pub trip_hours: Vec<u32>,
    /// Units harmed by then.
    pub trip_units: Vec<u64>,
    /// Regressions that any unit met.
    pub regressions: u64,
    /// Of them plain ones.
    pub plain: u64,
    /// Of the plain ones those that did not trip.
    pub missed: u64,
}

impl OfPolicy {
    /// Counts a trip.
    pub fn trip(&mut self, trip: Trip) {
        match trip {
            Trip::False => self.false_trips += 1,
            Trip::Right { hours, units } => {
                self.trip_hours.push(hours);
                self.trip_units.push(units);
            }
        }
    }

    /// Counts a regression of an experiment that has ended.
    pub fn regression(&mut self, factor: f64, units: u64, tripped: bool) {
        self.regressions += 1;
        // One that tripped early would have become plain.
        if factor >= PLAIN.0 && (tripped || units >= PLAIN.1) {
            self.plain += 1;
            self.missed += u64::from(!tripped);
        }
    }

    fn add(&mut self, other: &Self) {
        self.experiments += other.experiments;
        self.without_effect += other.without_effect;
        self.units += other.units;
        self.reallocations += other.reallocations;
        self.regret += other.regret;
        self.regret_of_even += other.regret_of_even;
        self.promotions += other.promotions;
        self.false_winners += other.false_winners;
        self.overtaken += other.overtaken;
        self.second_best += other.second_best;
        self.approved += other.approved;
        self.lapsed += other.lapsed;
        self.false_trips += other.false_trips;
        self.trip_hours.extend(&other.trip_hours);
        self.trip_units.extend(&other.trip_units);
        self.regressions += other.regressions;
        self.plain += other.plain;
        self.missed += other.missed;
    }
}

/// Of a programme, or a part of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Score {
    by_policy: BTreeMap<i32, OfPolicy>,
    /// Facts that were sent, each of which counted.
    pub facts: u64,
    /// Decisions that owners proposed.
    pub decisions: u64,
    /// Of them refused.
    pub refused: u64,
    /// Decisions computed again from their record, to the bit.
    pub replayed: u64,
    /// Looks at the oversight invariants, none of which found anything: the first finding ends the programme.
    pub checks: u64,
    /// Entries of the logs.
    pub entries: u64,
}

fn median<T: Copy + Ord>(values: &[T]) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

/// `part` of `whole`, in percent; 0 of nothing.
fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { 100.0 * part / whole } else { 0.0 }
}

impl Score {
    /// Of one policy.
    pub fn of(&mut self, policy: Policy) -> &mut OfPolicy {
        self.by_policy.entry(policy.into()).or_default()
    }

    /// Adds another part.
    pub fn add(&mut self, other: &Self) {
        for (policy, of_policy) in &other.by_policy {
            self.by_policy.entry(*policy).or_default().add(of_policy);
        }
        self.facts += other.facts;
        self.decisions += other.decisions;
        self.refused += other.refused;
        self.replayed += other.replayed;
        self.checks += other.checks;
        self.entries += other.entries;
    }

    /// All policies together.
    #[must_use]
    pub fn all(&self) -> OfPolicy {
        let mut all = OfPolicy::default();
        for of_policy in self.by_policy.values() {
            all.add(of_policy);
        }
        all
    }

    fn rows(&self) -> Vec<(String, OfPolicy)> {
        let named = |policy: i32| {
            Policy::try_from(policy).map_or("other".to_owned(), |policy| policy.as_str_name().to_lowercase())
        };
        let mut rows: Vec<(String, OfPolicy)> =
            self.by_policy.iter().map(|(policy, of_policy)| (named(*policy), of_policy.clone())).collect();
        rows.push(("all".to_owned(), self.all()));
        rows
    }

    /// A table, a policy a column of words a line.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        let rows = self.rows();
        let _ = write!(text, "{:<44}", "");
        for (name, _) in &rows {
            let _ = write!(text, "{name:>14}");
        }
        text.push('\n');
        type Cell = fn(&OfPolicy) -> String;
        let lines: [(&str, Cell); 15] = [
            ("experiments", |of| of.experiments.to_string()),
            ("  without any effect", |of| of.without_effect.to_string()),
            ("units", |of| of.units.to_string()),
            ("reallocations", |of| of.reallocations.to_string()),
            ("regret, % of an even split's", |of| format!("{:.1}", percent(of.regret, of.regret_of_even))),
            ("winners proposed", |of| of.promotions.to_string()),
            ("  false: no better (of a ramp: harmful)", |of| of.false_winners.to_string()),
            ("  overtaken: better once, no longer", |of| of.overtaken.to_string()),
            ("  better, not the best", |of| of.second_best.to_string()),
            ("approved by a person / lapsed", |of| format!("{} / {}", of.approved, of.lapsed)),
            ("false trips", |of| of.false_trips.to_string()),
            ("right trips", |of| of.trip_hours.len().to_string()),
            ("  median hours to it", |of| {
                median(&of.trip_hours).map_or("-".to_owned(), |hours| hours.to_string())
            }),
            ("  median units harmed", |of| {
                median(&of.trip_units).map_or("-".to_owned(), |units| units.to_string())
            }),
            ("plain regressions / missed", |of| format!("{} / {}", of.plain, of.missed)),
        ];
        for (name, cell) in lines {
            let _ = write!(text, "{name:<44}");
            for (_, of_policy) in &rows {
                let _ = write!(text, "{:>14}", cell(of_policy));
            }
            text.push('\n');
        }
        let _ = writeln!(
            text,
            "{} facts, each counted; {} decisions, {} of them refused, {} replayed to the bit; {} log entries\n\
             {} looks at weights, floors, trips and every invariant of the fold: nothing found",
            self.facts, self.decisions, self.refused, self.replayed, self.entries, self.checks
        );
        text
    }

    /// One JSON object.
    #[must_use]
    pub fn json(&self) -> String {
        let of = |(name, of): &(String, OfPolicy)| {
            format!(
                "\"{name}\":{{\"experiments\":{},\"without_effect\":{},\"units\":{},\"reallocations\":{},\
                 \"regret_percent_of_even\":{:.3},\"winners\":{},\"false_winners\":{},\"overtaken\":{},\"second_best\":{},\
                 \"approved\":{},\"lapsed\":{},\"false_trips\":{},\"right_trips\":{},\"median_hours_to_trip\":{},\
                 \"median_units_harmed\":{},\"regressions\":{},\"plain_regressions\":{},\"missed_regressions\":{}}}",
                of.experiments,
                of.without_effect,
                of.units,
                of.reallocations,
                percent(of.regret, of.regret_of_even),
                of.promotions,
                of.false_winners,
                of.overtaken,
                of.second_best,
                of.approved,
                of.lapsed,
                of.false_trips,
                of.trip_hours.len(),
                median(&of.trip_hours).map_or("null".to_owned(), |hours| hours.to_string()),
                median(&of.trip_units).map_or("null".to_owned(), |units| units.to_string()),
                of.regressions,
                of.plain,
                of.missed
            )
        };
        let rows: Vec<String> = self.rows().iter().map(of).collect();
        format!(
            "{{\"policies\":{{{}}},\"facts\":{},\"decisions\":{},\"refused\":{},\"replayed\":{},\"entries\":{},\"checks\":{}}}",
            rows.join(","),
            self.facts,
            self.decisions,
            self.refused,
            self.replayed,
            self.entries,
            self.checks
        )
    }
}
