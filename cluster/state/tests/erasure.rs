//! Erasure: an erased unit leaves the moments as if it had never been seen, and begins afresh.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use driver::{Driver, batch, done, human, refusal};
use featureops_proto::log::{self, EraseUnit, ExposureFact, OutcomeFact, ReceiptFact, UnitErased, entry};
use featureops_proto::v1::{self, Principal, principal};
use featureops_state::{ExperimentView, State};
use proptest::prelude::*;
use prost::Message as _;

const ALL: &str = "environments/-";

fn erase(parent: &str, unit_hash: u64) -> entry::Command {
    entry::Command::EraseUnit(EraseUnit { parent: parent.to_owned(), unit_key_id: 7, unit_hash })
}

fn erased(d: &mut Driver, parent: &str, unit: u64) -> UnitErased {
    d.done(erase(parent, unit)).erased.unwrap()
}

fn hash(unit: u64) -> u64 {
    (unit + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Units, sums with squares by slot, and products; of one arm.
type Moments = (u64, Vec<(i128, i128)>, Vec<i128>);

/// By arm over all strata.
fn pooled(view: &ExperimentView) -> Vec<Moments> {
    let get = |v: &Option<v1::Int128>| v.as_ref().unwrap().get();
    (0..2)
        .map(|arm| {
            let cells = || view.strata.iter().map(|stratum| &stratum.arms[arm]);
            let slot = |at: usize, part: fn(&v1::SlotMoments) -> &Option<v1::Int128>| -> i128 {
                cells().map(|cell| get(part(&cell.slots[at]))).sum()
            };
            let slots = (0..3).map(|at| (slot(at, |s| &s.sum), slot(at, |s| &s.squares))).collect();
            let cross = vec![cells().map(|cell| cell.cross[0].get()).sum()];
            (cells().map(|cell| cell.units).sum(), slots, cross)
        })
        .collect()
}

#[derive(Debug, Clone)]
enum Step {
    Expose { unit: u64, arm: u32, back: u32 },
    Outcome { unit: u64, metric: usize, value: i64, back: u32, receipt: Option<u32> },
    Tick { seconds: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    let unit = 0u64..6;
    prop_oneof![
        3 => (unit.clone(), 0u32..2, 0u32..90).prop_map(|(unit, arm, back)| Step::Expose { unit, arm, back }),
        6 => (unit, 0usize..3, -500i64..500, 0u32..90, proptest::option::weighted(0.3, 0u32..2))
            .prop_map(|(unit, metric, value, back, receipt)| Step::Outcome { unit, metric, value, back, receipt }),
        2 => (1i64..4_000).prop_map(|seconds| Step::Tick { seconds }),
    ]
}

/// Takes the steps, those of `without` excepted.
fn walk(steps: &[Step], without: Option<u64>) -> (Driver, u32) {
    let mut d = Driver::new();
    let experiment = d.running();
    let metrics = ["conversion", "revenue", "clicks"].map(|name| d.metric(name));
    for (at, step) in steps.iter().enumerate() {
        let mut facts = batch("p", at as u64 + 1);
        let now = d.minute();
        match *step {
            Step::Tick { seconds } => {
                d.tick(seconds * 1_000);
                continue;
            }
            Step::Expose { unit, .. } | Step::Outcome { unit, .. } if without == Some(unit) => continue,
            Step::Expose { unit, arm, back } => facts.exposures.push(ExposureFact {
                experiment,
                arm,
                unit_hash: hash(unit),
                minute: now - back,
                ..ExposureFact::default()
            }),
            Step::Outcome { unit, metric, value, back, receipt } => facts.outcomes.push(OutcomeFact {
                metric: metrics[metric],
                unit_hash: hash(unit),
                value,
                minute: now - back,
                receipt: receipt.map(|arm| ReceiptFact {
                    experiment,
                    arm,
                    generation: 1,
                    minute: now - back,
                }),
                ..OutcomeFact::default()
            }),
        }
        d.ingest(vec![facts]);
    }
    (d, experiment)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn an_erased_unit_leaves_what_would_be_without_it(
        steps in proptest::collection::vec(step(), 1..120), unit in 0u64..6,
    ) {
        let (mut with, _) = walk(&steps, None);
        let (never, _) = walk(&steps, Some(unit));
        let told = erased(&mut with, ALL, hash(unit));
        prop_assert!(!with.state.holds_unit(hash(unit)));
        with.state.check().unwrap();
        let (left, right) = (
            with.state.experiment_view("production", "e").unwrap(),
            never.state.experiment_view("production", "e").unwrap(),
        );
        prop_assert_eq!(pooled(&left), pooled(&right), "{:?}", told);
        prop_assert_eq!((left.rows, left.crossed, left.entries), (right.rows, right.crossed, right.entries));

        // Again there is nothing, and the log says so on every replica.
        let again = erased(&mut with, ALL, hash(unit));
        prop_assert_eq!(UnitErased { position: 0, ..again }, UnitErased::default());
        let restored = State::from_sections(&with.state.sections()).unwrap();
        prop_assert_eq!(restored.digest(), with.state.digest());
        let mut replayed = State::new();
        for (at, entry) in with.log.iter().enumerate() {
            replayed.apply(at as u64 + 1, entry, &mut Vec::new()).unwrap();
        }
        prop_assert_eq!(replayed.digest(), with.state.digest());
    }
}

#[test]
fn a_unit_goes_with_everything_that_names_it_and_begins_afresh() {
    let mut d = Driver::new();
    let e = d.running();
    let (conversion, revenue, minute) = (d.metric("conversion"), d.metric("revenue"), d.minute());
    let segment = "environments/production/segments/beta".to_owned();
    d.done(entry::Command::SetSegment(log::SetSegment {
        segment: Some(v1::Segment { name: segment.clone(), ..v1::Segment::default() }),
        etag: String::new(),
    }));
    d.done(entry::Command::UpdateSegmentUnits(log::UpdateSegmentUnits {
        name: segment,
        unit_key_id: 7,
        add: vec![5, 6],
        remove: vec![],
    }));
    let exposure =
        |arm, unit_hash, minute| ExposureFact { experiment: e, arm, unit_hash, minute, ..Default::default() };
    let outcome =
        |metric, unit_hash, value| OutcomeFact { metric, unit_hash, value, minute, ..Default::default() };
    let mut facts = batch("p", 1);
    facts.exposures = vec![exposure(0, 5, minute - 1), exposure(1, 5, minute), exposure(0, 6, minute)];
    facts.outcomes = vec![outcome(conversion, 5, 1), outcome(revenue, 5, 1_234), outcome(revenue, 6, 10)];
    d.ingest(vec![facts.clone()]);
    let mut waits = batch("p", 2);
    waits.outcomes = vec![outcome(revenue, 9, 1), outcome(revenue, 9, 2), outcome(revenue, 10, 3)];
    d.ingest(vec![waits]);

    let nowhere = erase("environments/elsewhere", 5);
    assert_eq!(d.refused(nowhere), "NOT_FOUND");
    d.done(entry::Command::SetSegment(log::SetSegment {
        segment: Some(v1::Segment {
            name: "environments/elsewhere/segments/beta".to_owned(),
            ..v1::Segment::default()
        }),
        etag: String::new(),
    }));
    assert_eq!(erased(&mut d, "environments/elsewhere", 5).stays, 0, "another environment's");
    let told = erased(&mut d, "environments/production", 5);
    let position = d.log.len() as u64;
    let expected =
        UnitErased { experiments: 1, stays: 2, sums: 1, segments: 1, position, ..UnitErased::default() };
    assert_eq!(told, expected);
    assert_eq!(erased(&mut d, ALL, 9).waiting, 2);
    let view = d.state.experiment_view("production", "e").unwrap();
    assert_eq!((view.rows, view.crossed), (1, 0));
    assert_eq!(pooled(&view)[0], (1, vec![(0, 0), (10, 100), (0, 0)], vec![0]));
    assert_eq!(pooled(&view)[1].0, 0);
    assert_eq!(d.state.segment("production", "beta").unwrap().unit_count, 1);
    assert_eq!((d.state.erasures().count, d.state.erasures().position), (2, position + 1));

    // The batch that was counted stays counted; a new one begins afresh, and what waited no longer joins.
    assert!(d.ingest(vec![facts])[0].duplicate);
    let mut afresh = batch("p", 3);
    afresh.exposures = vec![exposure(1, 5, minute), exposure(0, 9, minute)];
    assert_eq!(d.ingest(vec![afresh])[0].counted, 2);
    let view = d.state.experiment_view("production", "e").unwrap();
    assert_eq!((view.rows, view.crossed, pooled(&view)[1].0), (3, 0, 1));
    assert_eq!(pooled(&view)[0].1[1], (10, 100));
    d.state.check().unwrap();
}

#[test]
fn a_young_mark_goes_and_a_settled_one_stays_a_number() {
    let mut d = Driver::new();
    let e = d.running();
    let (revenue, minute) = (d.metric("revenue"), d.minute());
    let by_receipt = |unit_hash| OutcomeFact {
        metric: revenue,
        unit_hash,
        value: 5,
        minute,
        receipt: Some(ReceiptFact { experiment: e, arm: 0, generation: 1, minute }),
        ..OutcomeFact::default()
    };
    let mut facts = batch("p", 1);
    facts.outcomes = vec![by_receipt(1), by_receipt(2)];
    d.ingest(vec![facts]);
    assert_eq!(erased(&mut d, ALL, 1).marks, 1);
    assert_eq!(d.state.experiment_view("production", "e").unwrap().marked, 1);
    d.tick(61_000);
    let told = erased(&mut d, ALL, 2);
    assert_eq!((told.marks, told.stays, told.sums), (0, 1, 1));
    let view = d.state.experiment_view("production", "e").unwrap();
    assert_eq!((view.marked, view.rows), (1, 0));
}

#[test]
fn only_a_person_erases_and_the_audit_does_not_tell_whom() {
    let unit = 0x0123_4567_89ab_cdef_u64;
    let mut d = Driver::new();
    let e = d.running();
    let mut facts = batch("p", 1);
    facts.exposures.push(ExposureFact { experiment: e, unit_hash: unit, ..ExposureFact::default() });
    d.ingest(vec![facts]);
    for kind in [principal::Kind::Agent, principal::Kind::System] {
        let other = Principal { kind: kind as i32, id: "bot".to_owned(), verified: true };
        assert_eq!(refusal(d.command_as(other, erase(ALL, unit))).code, "NOT_PERMITTED");
    }
    let foreign = EraseUnit { parent: ALL.to_owned(), unit_key_id: 8, unit_hash: unit };
    assert_eq!(d.refused(entry::Command::EraseUnit(foreign)), "WRONG_UNIT_KEY");
    for parent in ["", "environments/", "production"] {
        assert_eq!(d.refused(erase(parent, unit)), "INVALID_ARGUMENT", "{parent}");
    }
    assert!(d.state.holds_unit(unit));

    // Asked for by the same id, another unit is not answered as if it had been erased.
    let ask = |d: &mut Driver, unit| {
        d.propose(log::Entry {
            principal: Some(human("ada")),
            request_id: "r-1".to_owned(),
            command: Some(erase(ALL, unit)),
            ..log::Entry::default()
        })
    };
    assert_eq!(done(ask(&mut d, unit)).erased.unwrap().stays, 1);
    assert_eq!(done(ask(&mut d, unit)).erased.unwrap().stays, 1, "the first answer again");
    assert_eq!(refusal(ask(&mut d, unit + 1)).code, "CONTENT_MISMATCH");

    let texts = [format!("{unit}"), format!("{unit:x}"), format!("{unit:016x}"), format!("{unit:X}")];
    let records = d.state.audit(0, 100);
    assert_eq!(records.iter().filter(|record| record.action == "unit.erase").count(), 7);
    for record in &records {
        let (shown, bytes) = (format!("{record:?}"), record.encode_to_vec());
        assert!(texts.iter().all(|text| !shown.contains(text.as_str())), "{shown}");
        for hash in [unit.to_le_bytes(), unit.to_be_bytes()] {
            assert!(!bytes.windows(8).any(|window| window == hash), "{shown}");
        }
    }
    // Nor does the state hold it anywhere.
    for section in d.state.sections() {
        let held = section.bytes.windows(8).any(|window| window == unit.to_le_bytes());
        assert!(!held, "{} holds the hash", section.name);
    }
}
