//! The ledger against a naive model that keeps every unit with its whole story.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use std::collections::BTreeMap;

use driver::{Driver, batch};
use featureops_proto::log::{ExposureFact, OutcomeFact, ReceiptFact, SetBudgets, entry};
use featureops_proto::v1::{self, Verdict};
use proptest::prelude::*;

const WINDOW: u32 = 60;
const HELD_MS: i64 = 60_000;

/// One unit: where it is, and the story of each of its stays.
#[derive(Default, Clone)]
struct Unit {
    stays: Vec<Stay>,
    twice: bool,
}

#[derive(Clone)]
struct Stay {
    arm: u32,
    minute: u32,
    converted: bool,
    revenue: i128,
    clicks: i128,
}

struct Held {
    unit: u64,
    metric: &'static str,
    value: i64,
    minute: u32,
    since_ms: i64,
}

#[derive(Default)]
struct Model {
    units: BTreeMap<u64, Unit>,
    held: Vec<Held>,
}

impl Model {
    fn expose(&mut self, unit: u64, arm: u32, minute: u32) -> bool {
        let known = self.units.entry(unit).or_default();
        let stay = Stay { arm, minute, converted: false, revenue: 0, clicks: 0 };
        match known.stays.as_slice() {
            [] => {
                known.stays.push(stay);
                let held: Vec<(&str, i64, u32)> = self
                    .held
                    .iter()
                    .filter(|h| h.unit == unit)
                    .map(|h| (h.metric, h.value, h.minute))
                    .collect();
                for (metric, value, minute) in held {
                    self.outcome(unit, metric, value, minute);
                }
                true
            }
            [.., last] if last.arm == arm => false,
            [_] => {
                known.stays.push(stay);
                true
            }
            [first, last, ..] => {
                known.twice |= !(first.arm == arm && minute <= last.minute);
                false
            }
        }
    }

    fn outcome(&mut self, unit: u64, metric: &str, value: i64, minute: u32) {
        let Some(known) = self.units.get_mut(&unit) else { return };
        if known.twice {
            return;
        }
        let Some(stay) = known.stays.last_mut() else { return };
        if minute < stay.minute || minute > stay.minute + WINDOW {
            return;
        }
        match metric {
            "conversion" => stay.converted |= value != 0,
            "revenue" => stay.revenue += i128::from(value),
            _ => stay.clicks += 1,
        }
    }

    /// units, conversions, revenue sum and squares, clicks sum and squares, products; of one arm.
    fn moments(&self, arm: u32) -> [i128; 7] {
        let mut m = [0; 7];
        for stay in self.units.values().flat_map(|u| &u.stays).filter(|s| s.arm == arm) {
            m[0] += 1;
            m[1] += i128::from(stay.converted);
            m[2] += stay.revenue;
            m[3] += stay.revenue * stay.revenue;
            m[4] += stay.clicks;
            m[5] += stay.clicks * stay.clicks;
            m[6] += stay.revenue * stay.clicks;
        }
        m
    }
}

#[derive(Debug, Clone)]
enum Step {
    Expose { unit: u64, arm: u32, back: u32 },
    Outcome { unit: u64, metric: usize, value: i64, back: u32, receipt: Option<(u32, u32)> },
    Tick { seconds: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    let unit = 0u64..24;
    prop_oneof![
        3 => (unit.clone(), 0u32..2, 0u32..90).prop_map(|(unit, arm, back)| Step::Expose { unit, arm, back }),
        6 => (unit, 0usize..3, -500i64..500, 0u32..90, proptest::option::weighted(0.3, (0u32..2, 0u32..90)))
            .prop_map(|(unit, metric, value, back, receipt)| Step::Outcome { unit, metric, value, back, receipt }),
        2 => (1i64..4_000).prop_map(|seconds| Step::Tick { seconds }),
    ]
}

const METRICS: [&str; 3] = ["conversion", "revenue", "clicks"];

/// Spread over shards, as real hashes are.
fn hash(unit: u64) -> u64 {
    (unit + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn pooled(strata: &[v1::Stratum], arm: usize) -> [i128; 7] {
    let mut m = [0; 7];
    let get = |v: &Option<v1::Int128>| v.as_ref().unwrap().get();
    for cell in strata.iter().map(|s| &s.arms[arm]) {
        m[0] += i128::from(cell.units);
        m[1] += get(&cell.slots[0].sum);
        m[2] += get(&cell.slots[1].sum);
        m[3] += get(&cell.slots[1].squares);
        m[4] += get(&cell.slots[2].sum);
        m[5] += get(&cell.slots[2].squares);
        m[6] += cell.cross[0].get();
    }
    m
}

/// Spread over few clusters, so that some have several units and each halving of the hash space lets some go.
fn clustered(unit: u64) -> u64 {
    let cluster = [0, 1, 9, 20, 33, 63][unit as usize % 6];
    (cluster << 58) | (hash(unit) >> 6)
}

/// Of a stratum's arm: clusters, units squared; of revenue and clicks squares and sums times units; products.
type Clustered = [i128; 7];

/// From every unit's stays, as a reader would recompute them.
fn clusters_of(model: &Model, arm: u32, from: u32, to: u32) -> Clustered {
    let mut clusters = BTreeMap::<u64, [i128; 3]>::new();
    for (unit, stays) in model.units.iter().map(|(unit, known)| (unit, &known.stays)) {
        for stay in stays.iter().filter(|s| s.arm == arm && (from..to).contains(&s.minute)) {
            let sums = clusters.entry(clustered(*unit) >> 58).or_default();
            *sums = [sums[0] + 1, sums[1] + stay.revenue, sums[2] + stay.clicks];
        }
    }
    let mut m = [0; 7];
    for [units, revenue, clicks] in clusters.into_values() {
        m[0] += 1;
        m[1] += units * units;
        m[2] += revenue * revenue;
        m[3] += revenue * units;
        m[4] += clicks * clicks;
        m[5] += clicks * units;
        m[6] += revenue * clicks;
    }
    m
}

fn clustered_moments(arm: &v1::ArmMoments) -> Clustered {
    let get = |v: &Option<v1::Int128>| v.as_ref().map_or(0, v1::Int128::get);
    let (revenue, clicks) = (&arm.slots[1], &arm.slots[2]);
    [
        i128::from(arm.clusters),
        i128::from(arm.units_squared),
        get(&revenue.squares),
        get(&revenue.with_units),
        get(&clicks.squares),
        get(&clicks.with_units),
        arm.cross[0].get(),
    ]
}

/// What the ledger may hold in a run.
#[derive(Debug, Clone, Copy)]
struct Small {
    units: Option<usize>,
    sums: Option<u64>,
}

/// Runs the steps against the model; returns how many parts of the hash space are left, whether the sums are folded, and
/// the driver.
fn run(steps: &[Step], small: Small, hash: fn(u64) -> u64) -> Result<(u64, bool, Driver), TestCaseError> {
    let mut driver = Driver::new();
    let number = driver.running();
    if small.units.is_some() || small.sums.is_some() {
        driver.done(entry::Command::SetBudgets(SetBudgets {
            budgets: Some(v1::Budgets {
                experiment_units: small.units.unwrap_or_default() as u64,
                experiment_sums: small.sums.unwrap_or_default(),
                ..v1::Budgets::default()
            }),
            ..SetBudgets::default()
        }));
    }
    let numbers: Vec<u32> = METRICS.iter().map(|name| driver.metric(name)).collect();
    let mut model = Model::default();
    let mut kept = 256;
    let is_out = |unit: u64, kept: u64| hash(unit) >> 56 >= kept;
    // Half of the hash space leaves, as often as it must for one more unit. What stands in the unit's way, if anything.
    let way = |model: &mut Model, kept: &mut u64, unit: u64| {
        let known = |model: &Model| model.units.values().filter(|u| !u.stays.is_empty()).count();
        let is_new = |model: &Model| model.units.get(&unit).is_none_or(|u| u.stays.is_empty());
        let full = |model: &Model| is_new(model) && small.units.is_some_and(|most| known(model) >= most);
        while !is_out(unit, *kept) && full(model) && *kept > 16 {
            *kept /= 2;
            model.units.retain(|unit, _| !is_out(*unit, *kept));
        }
        match (is_out(unit, *kept), full(model)) {
            (true, _) => Some(Verdict::Thinned),
            // The smallest part is never halved: only then is a unit refused.
            (false, true) => Some(Verdict::NoRoom),
            (false, false) => None,
        }
    };
    for (at, step) in steps.iter().enumerate() {
        let sequence = at as u64 + 1;
        match *step {
            Step::Tick { seconds } => {
                driver.tick(seconds * 1_000);
                let now = driver.now_ms;
                model.held.retain(|h| now - h.since_ms < HELD_MS);
            }
            Step::Expose { unit, arm, back } => {
                let minute = driver.minute() - back;
                let mut facts = batch("p", sequence);
                facts.exposures.push(ExposureFact {
                    experiment: number,
                    arm,
                    unit_hash: hash(unit),
                    minute,
                    ..ExposureFact::default()
                });
                let reply = driver.ingest(vec![facts.clone()]).remove(0);
                match way(&mut model, &mut kept, unit) {
                    None => prop_assert_eq!(reply.counted == 1, model.expose(unit, arm, minute)),
                    Some(verdict) => prop_assert_eq!(reply.verdicts[0].verdict, verdict as i32),
                }
                // A repeat of the batch changes nothing.
                prop_assert!(driver.ingest(vec![facts]).remove(0).duplicate);
            }
            Step::Outcome { unit, metric, value, back, receipt } => {
                let minute = driver.minute() - back;
                let name = METRICS[metric];
                let mut facts = batch("p", sequence);
                let receipt = receipt.map(|(arm, back)| (arm, driver.minute() - back));
                facts.outcomes.push(OutcomeFact {
                    metric: numbers[metric],
                    unit_hash: hash(unit),
                    value,
                    minute,
                    receipt: receipt.map(|(arm, minute)| ReceiptFact {
                        experiment: number,
                        arm,
                        generation: 1,
                        minute,
                    }),
                    ..OutcomeFact::default()
                });
                let reply = driver.ingest(vec![facts]).remove(0);
                let last = model.units.get(&unit).and_then(|u| u.stays.last().cloned());
                let way = if receipt.is_some() {
                    way(&mut model, &mut kept, unit)
                } else {
                    is_out(unit, kept).then_some(Verdict::Thinned)
                };
                if let Some(verdict) = way {
                    prop_assert_eq!(reply.verdicts[0].verdict, verdict as i32);
                    continue;
                }
                match (receipt, last) {
                    (None, None) => {
                        prop_assert_eq!(reply.verdicts[0].verdict, Verdict::Waiting as i32);
                        let since_ms = driver.now_ms;
                        model.held.push(Held { unit, metric: name, value, minute, since_ms });
                    }
                    (None, Some(_)) => model.outcome(unit, name, value, minute),
                    (Some((arm, exposed)), None) => {
                        model.expose(unit, arm, exposed);
                        model.outcome(unit, name, value, minute);
                    }
                    (Some((arm, _)), Some(last)) if last.arm == arm => {
                        model.outcome(unit, name, value, minute);
                    }
                    (Some((arm, exposed)), Some(last))
                        if exposed > last.minute && model.expose(unit, arm, exposed) =>
                    {
                        model.outcome(unit, name, value, minute);
                    }
                    _ => {}
                }
            }
        }
    }
    let view = driver.state.experiment_view("production", "e").unwrap();
    for arm in 0..2 {
        let (mut pooled, mut own) = (pooled(&view.strata, arm), model.moments(arm as u32));
        if view.folded {
            // Squares and products are of clusters then, within strata.
            for at in [3, 5, 6] {
                (pooled[at], own[at]) = (0, 0);
            }
        }
        prop_assert_eq!(pooled, own, "arm {}", arm);
        for stratum in view.strata.iter().filter(|_| view.folded) {
            let (from, to) = (stratum.start_minute, stratum.start_minute + stratum.minutes);
            let expected = clusters_of(&model, arm as u32, from, to);
            prop_assert_eq!(clustered_moments(&stratum.arms[arm]), expected, "arm {} from {}", arm, from);
        }
    }
    prop_assert_eq!(view.rows as usize, model.units.values().filter(|u| !u.stays.is_empty()).count());
    prop_assert_eq!(view.crossed as usize, model.units.values().filter(|u| u.stays.len() > 1).count());
    prop_assert_eq!(view.kept, kept as f64 / 256.0);
    driver.state.check().unwrap();

    // The log replays to the same digest, also over a snapshot at any place in it: before, at and after a fold.
    let mut again = featureops_state::State::new();
    let snapshots = [driver.log.len() / 3, driver.log.len() / 2, driver.log.len() - 2];
    for (at, entry) in driver.log.iter().enumerate() {
        again.apply(at as u64 + 1, entry, &mut Vec::new()).unwrap();
        if snapshots.contains(&at) {
            again = featureops_state::State::from_sections(&again.sections()).unwrap();
        }
    }
    prop_assert_eq!(again.digest(), driver.state.digest());
    Ok((kept, view.folded, driver))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_order_of_events_equals_the_naive_model(steps in proptest::collection::vec(step(), 1..160)) {
        let (kept, folded, _) = run(&steps, Small { units: None, sums: None }, hash)?;
        prop_assert_eq!((kept, folded), (256, false));
    }

    #[test]
    fn after_the_fold_the_moments_of_clusters_equal_a_recomputation(
        steps in proptest::collection::vec(step(), 1..160),
        sums in 1u64..12,
    ) {
        run(&steps, Small { units: None, sums: Some(sums) }, clustered)?;
    }

    #[test]
    fn what_is_left_when_half_of_the_units_leave_equals_a_model_that_never_knew_them(
        steps in proptest::collection::vec(step(), 1..160),
        units in 6usize..20,
        sums in proptest::option::of(1u64..12),
    ) {
        run(&steps, Small { units: Some(units), sums }, clustered)?;
    }
}

/// A snapshot at every single entry around the fold and the thinning leads to the same state.
#[test]
fn a_snapshot_anywhere_leads_to_the_same_digest() {
    let steps: Vec<Step> = (0..60)
        .map(|at| match at % 5 {
            0 | 1 => Step::Expose { unit: at / 2 % 24, arm: (at % 2) as u32, back: (at % 7) as u32 },
            4 => Step::Tick { seconds: 1_500 },
            _ => {
                let unit = (at + 2) / 5 * 2 % 24;
                Step::Outcome {
                    unit,
                    metric: 1 + at as usize % 2,
                    value: at as i64 - 9,
                    back: 0,
                    receipt: None,
                }
            }
        })
        .collect();
    let small = Small { units: Some(9), sums: Some(3) };
    let (kept, folded, driver) = run(&steps, small, clustered).unwrap();
    assert!(folded && kept < 256, "nothing was folded or nobody left: {folded} {kept}");
    for place in 0..driver.log.len() {
        let mut again = featureops_state::State::new();
        for (at, entry) in driver.log.iter().enumerate() {
            again.apply(at as u64 + 1, entry, &mut Vec::new()).unwrap();
            if at == place {
                again = featureops_state::State::from_sections(&again.sections()).unwrap();
            }
        }
        assert_eq!(again.digest(), driver.state.digest(), "over a snapshot at {place}");
    }
}
