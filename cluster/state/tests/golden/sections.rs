//! A whole state as a snapshot once held it: each section is read, and written again to the same bytes. This is what keeps
//! the rows and sums of the ledger, whose packing is not protobuf's but our own.

use featureops_proto::log::{
    Batch, Entry, ExposureFact, LedgerRecord, LostExposures, OutcomeFact, ReceiptFact, ResumeFlag,
    SetBudgets, SetOversight, SetSegment, ShardRecord, TripFlag, UpdateSegmentUnits, entry,
};
use featureops_proto::v1;
use featureops_state::{Section, State};
use prost::Message as _;

use crate::driver::{Driver, batch, human};
use crate::{Golden, text};

/// The sections' names; a slash is a dot in the name of the file.
const SECTIONS: [&str; 14] = [
    "audit",
    "decisions",
    "experiments",
    "flags",
    "header",
    "histories",
    "ledger/0000000001",
    "ledger/0000000001/000",
    "ledger/0000000001/171",
    "metrics",
    "oversight",
    "producers",
    "requests",
    "waiting",
];

/// Units of another shard.
const FAR: u64 = 171 << 56;

/// A state with something in each of its sections, and rows that differ in everything a row holds. It made the files.
fn lived() -> State {
    let mut driver = Driver::new();
    let experiment = driver.running();
    driver.tick(180_000);
    let begin = driver.minute();
    let exposure = |index, arm, unit_hash, minute| ExposureFact {
        index,
        experiment,
        arm,
        unit_hash,
        minute,
        ..ExposureFact::default()
    };
    let outcome = |index, metric, unit_hash, value, minute| OutcomeFact {
        index,
        metric,
        unit_hash,
        value,
        minute,
        ..OutcomeFact::default()
    };
    let (conversion, revenue, clicks) =
        (driver.metric("conversion"), driver.metric("revenue"), driver.metric("clicks"));
    driver.ingest(vec![Batch {
        exposures: vec![
            exposure(0, 0, 5, begin),
            exposure(1, 1, FAR + 77, begin - 2),
            // In two arms: the first goes aside.
            exposure(2, 0, FAR + 77, begin - 1),
        ],
        outcomes: vec![
            outcome(3, conversion, 5, 1, begin),
            outcome(4, revenue, 5, -1_250, begin),
            outcome(5, clicks, 5, 300, begin),
            outcome(6, revenue, FAR + 77, 1 << 40, begin),
        ],
        lost: vec![LostExposures { experiment, count: 2 }],
        ..batch("shop", 1)
    }]);
    driver.tick(2_000);
    let (stamp, decision) = driver.reallocation(experiment, &[4_000, 6_000]);
    driver.submit(stamp, decision);

    // A second generation.
    let flag = || text("environments/production/flags/checkout");
    let (reason, source) = (text("smoke"), String::new());
    driver.done(entry::Command::TripFlag(TripFlag { name: flag(), reason, alarm: false, source }));
    driver.done(entry::Command::ResumeFlag(ResumeFlag { name: flag(), reason: text("fixed") }));
    driver.tick(120_000);
    let later = driver.minute();
    let receipt = Some(ReceiptFact { experiment, arm: 1, generation: 2, minute: later });
    driver.ingest(vec![Batch {
        exposures: vec![exposure(0, 1, 1 << 40, later), exposure(1, 0, FAR + 3, later - 1)],
        // Without an exposure: one waits, one has a receipt, is recorded and marked.
        outcomes: vec![
            outcome(2, revenue, 9, 1, later),
            OutcomeFact { receipt, ..outcome(3, revenue, 6, 2, later) },
        ],
        ..batch("shop", 2)
    }]);
    driver.tick(2_000);
    let oversight = v1::Oversight {
        name: text("environments/production/oversight"),
        new_arm_budget_basis_points: Some(1_500),
        ..v1::Oversight::default()
    };
    driver.propose(Entry {
        principal: Some(human("ada")),
        request_id: text("r-1"),
        command: Some(entry::Command::SetOversight(SetOversight {
            oversight: Some(oversight),
            etag: String::new(),
        })),
        ..Entry::default()
    });
    driver.state
}

#[test]
fn a_state_is_read_and_written_again_as_its_golden_bytes() {
    let mut golden = Golden::open("sections");
    let fresh = lived().sections();
    let made = |name: &str| {
        let made = fresh.iter().find(|section| section.name == name);
        made.unwrap_or_else(|| panic!("no section {name}")).bytes.clone()
    };
    let sections = SECTIONS.map(|name| {
        let bytes = golden.bytes(&name.replace('/', "."), || made(name));
        Section { name: text(name), bytes }
    });
    golden.has_nothing_else();

    let state = State::from_sections(&sections).unwrap();
    let written = state.sections();
    for kept in &sections {
        let again = written.iter().find(|section| section.name == kept.name);
        assert_eq!(again, Some(kept), "{}: bytes changed", kept.name);
        // Of what the fold writes only this is compared: a packing that is read and written otherwise, alike, would pass.
        if kept.name.matches('/').count() == 2 {
            assert_eq!(made(&kept.name), kept.bytes, "{}: packing changed", kept.name);
        }
    }

    // Empty files would pass all of it.
    let bytes = |name: &str| sections.iter().find(|section| section.name == name).unwrap().bytes.as_slice();
    assert!(sections.iter().all(|section| !section.bytes.is_empty()));
    let ledger = LedgerRecord::decode_length_delimited(bytes("ledger/0000000001")).unwrap();
    assert_eq!((ledger.rows, ledger.crossed, ledger.lost, ledger.fresh_marks.len()), (5, 1, 2, 1));
    assert!(ledger.strata.len() > 1 && !ledger.frozen.is_empty(), "{ledger:?}");
    let shard = ShardRecord::decode_length_delimited(bytes("ledger/0000000001/171")).unwrap();
    assert!(!shard.rows.is_empty() && shard.side.len() == 1, "{shard:?}");
    assert!(shard.entries.iter().any(|table| !table.is_empty()), "{shard:?}");
}

/// What only large or full ledgers have: rows packed by bits, sums of clusters.
#[test]
fn a_state_with_packed_rows_and_clusters_is_read_and_written_again_as_its_golden_bytes() {
    let mut driver = Driver::new();
    let experiment = driver.running();
    let budgets = v1::Budgets { experiment_units: 700, experiment_sums: 20, ..v1::Budgets::default() };
    let set = SetBudgets { budgets: Some(budgets), ..SetBudgets::default() };
    driver.done(entry::Command::SetBudgets(set));
    let (revenue, minute) = (driver.metric("revenue"), driver.minute());
    // Two shards of 300 units that are kept, one that leaves.
    let units = (0..900_u64)
        .map(|unit| ((unit % 3 * 100) << 56) | ((unit * unit * 0x1_2345_6789) & 0xffff_ffff_ffff));
    let mut facts = batch("shop", 1);
    for (index, unit_hash) in (0..).zip(units) {
        let (arm, minute) = (index % 2, minute - index % 50);
        facts.exposures.push(ExposureFact {
            index,
            experiment,
            arm,
            unit_hash,
            minute,
            ..ExposureFact::default()
        });
        let value = i64::from(index) - 300;
        facts.outcomes.push(OutcomeFact {
            index,
            metric: revenue,
            unit_hash,
            value,
            minute,
            ..OutcomeFact::default()
        });
    }
    driver.ingest(vec![facts]);
    let mut golden = Golden::open("sections/full");
    let written = driver.state.sections();
    for name in [
        "clusters/0000000001",
        "header",
        "ledger/0000000001",
        "ledger/0000000001/000",
        "ledger/0000000001/100",
    ] {
        let made = &written.iter().find(|section| section.name == name).unwrap().bytes;
        let kept = golden.bytes(&name.replace('/', "."), || made.clone());
        assert_eq!(&kept, made, "{name}: bytes changed");
    }
    golden.has_nothing_else();
    assert!(!written.iter().any(|section| section.name == "ledger/0000000001/200"), "its units left");
    let bytes = &written.iter().find(|section| section.name == "ledger/0000000001/000").unwrap().bytes;
    assert!(!ShardRecord::decode_length_delimited(bytes.as_slice()).unwrap().packed_rows.is_empty());
    assert_eq!(State::from_sections(&written).unwrap().sections(), written);
}

/// Segments are in sections of their own, so that states without them keep theirs. The list's packing
/// is our own.
#[test]
fn a_state_with_segments_is_read_and_written_again_as_its_golden_bytes() {
    let mut driver = Driver::new();
    let name = || text("environments/production/segments/staff");
    let segment = v1::Segment { name: name(), description: text("who works here"), ..v1::Segment::default() };
    driver.done(entry::Command::SetSegment(SetSegment { segment: Some(segment), etag: String::new() }));
    let change = |add: Vec<u64>, remove: Vec<u64>| {
        entry::Command::UpdateSegmentUnits(UpdateSegmentUnits { name: name(), unit_key_id: 7, add, remove })
    };
    driver.done(change(vec![5, 300, FAR + 77, u64::MAX], vec![]));
    driver.done(change(vec![6], vec![300]));
    let mut golden = Golden::open("sections/segments");
    let written = driver.state.sections();
    for name in ["segments", "segments/production/staff/00"] {
        let made = &written.iter().find(|section| section.name == name).unwrap().bytes;
        let kept = golden.bytes(&name.replace('/', "."), || made.clone());
        assert_eq!(&kept, made, "{name}: bytes changed");
    }
    golden.has_nothing_else();
    assert_eq!(State::from_sections(&written).unwrap().sections(), written);
}
