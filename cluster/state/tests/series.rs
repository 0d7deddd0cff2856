//! The sealed series against a naive model that keeps every event with the minute it came in.

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
use featureops_proto::log::{ExposureFact, OutcomeFact, entry};
use featureops_proto::v1;
use featureops_state::{SERIES_HOURS, SeriesCell, State};
use proptest::prelude::*;

const METRICS: [&str; 3] = ["conversion", "revenue", "clicks"];

#[derive(Debug, Clone)]
enum Step {
    Expose { unit: u64, arm: u32, minute: i64 },
    Outcome { unit: u64, metric: usize, value: i64, minute: i64 },
    Tick { seconds: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    // Mostly now, often a little back, sometimes ahead.
    let minute = prop_oneof![4 => Just(0i64), 4 => -70i64..=0, 1 => 1i64..=5];
    prop_oneof![
        3 => (0u64..40, 0u32..2, minute.clone()).prop_map(|(unit, arm, minute)| Step::Expose { unit, arm, minute }),
        6 => (0u64..40, 0usize..3, -500i64..500, minute)
            .prop_map(|(unit, metric, value, minute)| Step::Outcome { unit, metric, value, minute }),
        3 => prop_oneof![10i64..90, 600i64..9_000].prop_map(|seconds| Step::Tick { seconds }),
    ]
}

fn hash(unit: u64) -> u64 {
    (unit + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Of each period by its start: newcomers by arm, and cells by (arm, slot).
#[derive(Default, Debug, Clone, PartialEq)]
struct Period {
    units: BTreeMap<u32, (u64, u64)>,
    cells: BTreeMap<(u32, u32), SeriesCell>,
}

struct Model {
    width: u32,
    slots: Vec<usize>,
    periods: BTreeMap<u32, Period>,
}

impl Model {
    fn at(&mut self, now: u32) -> &mut Period {
        self.periods.entry(now - now % self.width).or_default()
    }

    fn unit(&mut self, arm: u32, now: u32, minute: u32) {
        let sealed = minute < now - now % self.width;
        let units = self.at(now).units.entry(arm).or_default();
        if sealed { units.1 += 1 } else { units.0 += 1 }
    }

    fn event(&mut self, arm: u32, slot: usize, value: i64, converted: bool, now: u32, minute: u32) {
        if !self.slots.contains(&slot) {
            return;
        }
        let sealed = minute < now - now % self.width;
        let cell = self.at(now).cells.entry((arm, slot as u32)).or_default();
        if sealed {
            cell.late += 1;
            return;
        }
        cell.events += 1;
        cell.sum += i128::from(value);
        cell.squares += i128::from(value) * i128::from(value);
        cell.converted += u64::from(converted);
    }

    /// What is sealed at this minute and still kept.
    fn sealed(&self, now: u32, kept: u32) -> BTreeMap<u32, Period> {
        let open = now - now % self.width;
        let oldest = open.saturating_sub(kept * self.width);
        self.periods.range(oldest..open).map(|(start, period)| (*start, period.clone())).collect()
    }
}

fn read(state: &State, hours: bool) -> BTreeMap<u32, Period> {
    let view = state.series("production", "e", hours).unwrap();
    let of = |period: &featureops_state::PeriodView| {
        let units = (0u32..).zip(&period.units).filter(|(_, units)| **units != (0, 0));
        let cells = period.cells.iter().filter(|(_, _, cell)| *cell != SeriesCell::default());
        Period {
            units: units.map(|(arm, units)| (arm, *units)).collect(),
            cells: cells.map(|(arm, slot, cell)| ((*arm, *slot), *cell)).collect(),
        }
    };
    view.periods.iter().map(|period| (period.start_minute, of(period))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn sealed_cells_equal_the_naive_model(steps in proptest::collection::vec(step(), 1..200)) {
        let mut driver = Driver::new();
        let number = driver.running();
        let numbers: Vec<u32> = METRICS.iter().map(|name| driver.metric(name)).collect();
        let mut minutes = Model { width: 1, slots: vec![0, 1, 2], periods: BTreeMap::new() };
        // Conversion decides and revenue guards; clicks are a part of a secondary ratio only.
        let mut hours = Model { width: 60, slots: vec![0, 1], periods: BTreeMap::new() };
        let mut arms: BTreeMap<u64, u32> = BTreeMap::new();
        let mut converted: BTreeMap<(u64, u32), bool> = BTreeMap::new();
        for (at, step) in steps.iter().enumerate() {
            let now = driver.minute();
            let minute_of = |minute: i64| (i64::from(now) + minute) as u32;
            let mut facts = batch("p", at as u64 + 1);
            match *step {
                Step::Tick { seconds } => driver.tick(seconds * 1_000),
                Step::Expose { unit, arm, minute } => {
                    let minute = minute_of(minute);
                    facts.exposures.push(ExposureFact {
                        experiment: number, arm, unit_hash: hash(unit), minute, ..ExposureFact::default()
                    });
                    if driver.ingest(vec![facts]).remove(0).counted == 1 {
                        arms.insert(unit, arm);
                        minutes.unit(arm, now, minute);
                        hours.unit(arm, now, minute);
                    }
                }
                Step::Outcome { unit, metric, value, minute } => {
                    // Without a row it would wait, and join with the exposure.
                    let Some(arm) = arms.get(&unit).copied() else { continue };
                    let minute = minute_of(minute);
                    facts.outcomes.push(OutcomeFact {
                        metric: numbers[metric], unit_hash: hash(unit), value, minute, ..OutcomeFact::default()
                    });
                    if driver.ingest(vec![facts]).remove(0).counted == 1 {
                        let (value, converts) = match metric {
                            0 => {
                                let seen = converted.entry((unit, arm)).or_default();
                                let converts = value != 0 && !std::mem::replace(seen, *seen || value != 0);
                                (i64::from(value != 0), converts)
                            }
                            1 => (value, false),
                            _ => (1, false),
                        };
                        minutes.event(arm, metric, value, converts, now, minute);
                        hours.event(arm, metric, value, converts, now, minute);
                    }
                }
            }
        }
        let now = driver.minute();
        prop_assert_eq!(read(&driver.state, false), minutes.sealed(now, 64));
        prop_assert_eq!(read(&driver.state, true), hours.sealed(now, SERIES_HOURS));

        // A node that was restored in the middle goes on as one that never stopped: what a detector reads is the same.
        let mut again = State::new();
        for (at, entry) in driver.log.iter().enumerate() {
            again.apply(at as u64 + 1, entry, &mut Vec::new()).unwrap();
            if at % 7 == 3 {
                again = State::from_sections(&again.sections()).unwrap();
            }
        }
        prop_assert_eq!(again.digest(), driver.state.digest());
        prop_assert_eq!(read(&again, false), read(&driver.state, false));
    }
}

#[test]
fn what_is_sealed_never_changes_and_late_events_are_in_the_totals_only() {
    let mut d = Driver::new();
    let e = d.running();
    let (revenue, begin) = (d.metric("revenue"), d.minute());
    let mut facts = batch("p", 1);
    facts.exposures.push(ExposureFact { experiment: e, unit_hash: 1, minute: begin, ..Default::default() });
    let outcome =
        |value, minute| OutcomeFact { metric: revenue, unit_hash: 1, value, minute, ..Default::default() };
    facts.outcomes = vec![outcome(700, begin)];
    d.ingest(vec![facts]);
    assert!(d.state.series("production", "e", false).unwrap().periods.is_empty(), "nothing is sealed yet");
    d.tick(60_000);
    let sealed = d.state.series("production", "e", false).unwrap();
    assert_eq!((sealed.periods.len(), sealed.periods[0].units[0]), (1, (1, 0)));

    let mut late = batch("p", 2);
    late.outcomes = vec![outcome(50, begin), outcome(8, 0)];
    assert_eq!(d.ingest(vec![late])[0].counted, 2);
    d.tick(60_000);
    let later = d.state.series("production", "e", false).unwrap();
    assert_eq!(later.periods[0], sealed.periods[0]);
    let cell = later.periods[1].cells.iter().find(|(arm, slot, _)| (*arm, *slot) == (0, 1)).unwrap().2;
    assert_eq!((cell.events, cell.sum, cell.squares, cell.late), (1, 8, 64, 1));
    assert_eq!(d.state.experiment_view("production", "e").unwrap().arms[0].sums[1], 758);
}

#[test]
fn the_series_is_bounded_and_goes_with_the_rows() {
    let mut d = Driver::new();
    let e = d.running();
    for n in 0..200u64 {
        let mut facts = batch("p", n + 1);
        facts.exposures.push(ExposureFact { experiment: e, unit_hash: n, ..ExposureFact::default() });
        d.ingest(vec![facts]);
        d.tick(60_000);
    }
    assert_eq!(d.state.series("production", "e", false).unwrap().periods.len(), 64);
    for n in 0..200u64 {
        let mut facts = batch("p", n + 201);
        facts.exposures.push(ExposureFact { experiment: e, unit_hash: n + 900, ..ExposureFact::default() });
        d.ingest(vec![facts]);
        d.tick(3_600_000);
    }
    assert_eq!(d.state.series("production", "e", true).unwrap().periods.len(), SERIES_HOURS as usize);
    assert!(d.state.sections().iter().any(|section| section.name == "series/0000000001"));
    d.done(entry::Command::StopExperiment(featureops_proto::log::StopExperiment {
        name: "environments/production/experiments/e".to_owned(),
        ..Default::default()
    }));
    // The window of an hour, and 72 h for what is late.
    d.tick(73 * 3_600_000 - 1_000);
    assert!(!d.state.series("production", "e", true).unwrap().periods.is_empty());
    d.tick(1_000);
    assert!(d.state.series("production", "e", true).unwrap().periods.is_empty());
    assert!(!d.state.sections().iter().any(|section| section.name.starts_with("series/")));
}

#[test]
fn a_malformed_series_is_refused() {
    let mut d = Driver::new();
    let e = d.running();
    let mut facts = batch("p", 1);
    facts.exposures.push(ExposureFact { experiment: e, unit_hash: 1, ..ExposureFact::default() });
    d.ingest(vec![facts]);
    d.tick(60_000);
    let sections = d.state.sections();
    let read = |record: featureops_proto::log::SeriesRecord| {
        let mut changed = sections.clone();
        let series = changed.iter_mut().find(|section| section.name.starts_with("series/")).unwrap();
        series.bytes = prost::Message::encode_length_delimited_to_vec(&record);
        State::from_sections(&changed)
    };
    use featureops_proto::log::{SeriesCellRecord, SeriesRecord};
    let cell = |arm, slot| SeriesCellRecord {
        arm,
        slot,
        events: 1,
        sum: Some(v1::Int128::new(1)),
        squares: Some(v1::Int128::new(1)),
        ..Default::default()
    };
    let of = |width_minutes, start_minute, cells| SeriesRecord {
        width_minutes,
        start_minute,
        cells,
        units: Vec::new(),
    };
    let now = d.minute();
    assert!(read(of(1, now - 1, vec![cell(1, 2)])).is_ok());
    for wrong in [
        of(2, now - 2, vec![]),
        of(1, now + 1, vec![]),
        of(1, now - 65, vec![]),
        of(60, now - now % 60 - 30, vec![]),
        of(1, now - 1, vec![cell(2, 0)]),
        of(1, now - 1, vec![cell(0, 3)]),
        of(60, now - now % 60, vec![cell(0, 2)]),
        of(1, now - 1, vec![cell(u32::MAX, u32::MAX)]),
    ] {
        assert!(read(wrong.clone()).is_err(), "{wrong:?}");
    }
}
