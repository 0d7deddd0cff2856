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
use featureops_proto::log::{ExposureFact, OutcomeFact, ReceiptFact};
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_order_of_events_equals_the_naive_model(steps in proptest::collection::vec(step(), 1..160)) {
        let mut driver = Driver::new();
        let number = driver.running();
        let numbers: Vec<u32> = METRICS.iter().map(|name| driver.metric(name)).collect();
        let mut model = Model::default();
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
                        experiment: number, arm, unit_hash: hash(unit), minute, ..ExposureFact::default()
                    });
                    let reply = driver.ingest(vec![facts.clone()]).remove(0);
                    prop_assert_eq!(reply.counted == 1, model.expose(unit, arm, minute));
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
                        receipt: receipt.map(|(arm, minute)| ReceiptFact { experiment: number, arm, generation: 1, minute }),
                        ..OutcomeFact::default()
                    });
                    let reply = driver.ingest(vec![facts]).remove(0);
                    let last = model.units.get(&unit).and_then(|u| u.stays.last().cloned());
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
                        (Some((arm, _)), Some(last)) if last.arm == arm => model.outcome(unit, name, value, minute),
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
            prop_assert_eq!(pooled(&view.strata, arm), model.moments(arm as u32), "arm {}", arm);
        }
        prop_assert_eq!(view.rows as usize, model.units.values().filter(|u| !u.stays.is_empty()).count());
        prop_assert_eq!(view.crossed as usize, model.units.values().filter(|u| u.stays.len() > 1).count());
        driver.state.check().unwrap();

        // The log replays to the same digest, also over a snapshot in the middle.
        let mut again = featureops_state::State::new();
        for (at, entry) in driver.log.iter().enumerate() {
            again.apply(at as u64 + 1, entry, &mut Vec::new()).unwrap();
            if at == driver.log.len() / 2 {
                again = featureops_state::State::from_sections(&again.sections()).unwrap();
            }
        }
        prop_assert_eq!(again.digest(), driver.state.digest());
    }
}
