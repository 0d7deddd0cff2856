//! What apply answered: kept in the log's windows of repeated requests, and sent between nodes.

use featureops_proto::log::{
    BatchReply, Done, DoorVerdict, ExperimentThinned, Imported, Ingested, Refusal, Reply,
    SegmentUnitsChanged, reply,
};
use featureops_proto::v1::Verdict;

use crate::{Golden, text};

pub fn done() -> Reply {
    Reply {
        result: Some(reply::Result::Done(Done {
            name: text("environments/production/flags/checkout"),
            version: 7,
            etag: text("etag-7"),
            decision: text("environments/production/decisions/3"),
            took_effect: true,
            imported: None,
            segment_units: None,
            erased: None,
            thinned: Vec::new(),
            thinned_count: 0,
        })),
    }
}

fn imported() -> Reply {
    Reply {
        result: Some(reply::Result::Done(Done {
            name: text("environments/production"),
            version: 2,
            etag: text("n2"),
            decision: String::new(),
            took_effect: true,
            imported: Some(Imported {
                changed: vec![text("banner"), text("checkout")],
                archived: vec![text("old")],
                kept: vec![text("held")],
                changed_count: 2,
                archived_count: 1,
                kept_count: 1,
                unchanged_count: 40,
            }),
            segment_units: None,
            erased: None,
            thinned: Vec::new(),
            thinned_count: 0,
        })),
    }
}

fn segment_units() -> Reply {
    Reply {
        result: Some(reply::Result::Done(Done {
            name: text("environments/production/segments/staff"),
            version: 4,
            segment_units: Some(SegmentUnitsChanged { added: 9_000, removed: 2, unit_count: 1 << 20 }),
            ..Done::default()
        })),
    }
}

fn thinned() -> Reply {
    Reply {
        result: Some(reply::Result::Done(Done {
            thinned: vec![ExperimentThinned {
                name: text("environments/production/experiments/gate"),
                units: 512,
                kept_parts: 128,
            }],
            thinned_count: 17,
            ..Done::default()
        })),
    }
}

fn refusal() -> Refusal {
    Refusal {
        code: text("ETAG_MISMATCH"),
        message: text("the flag changed since it was read"),
        field: text("etag"),
        value: text("etag-6"),
    }
}

pub fn batch() -> BatchReply {
    BatchReply {
        position: 42,
        counted: 14,
        verdicts: vec![
            DoorVerdict { index: 2, verdict: Verdict::NonFinite as i32 },
            DoorVerdict { index: 300, verdict: Verdict::OutsideWindow as i32 },
        ],
        duplicate: true,
        refusal: Some(refusal()),
    }
}

#[test]
fn every_reply_reads_and_writes_its_golden_bytes() {
    let mut golden = Golden::open("replies");
    golden.keeps("done", &done());
    golden.keeps("imported", &imported());
    golden.keeps("segment_units", &segment_units());
    golden.keeps("thinned", &thinned());
    golden.keeps("refusal", &Reply { result: Some(reply::Result::Refusal(refusal())) });
    let batches = vec![batch(), BatchReply { position: 43, counted: 1, ..BatchReply::default() }];
    golden.keeps("ingested", &Reply { result: Some(reply::Result::Ingested(Ingested { batches })) });
    golden.has_nothing_else();
}
