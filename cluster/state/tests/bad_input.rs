//! What a careless or hostile producer may send: it is answered, it counts once or not at all, and bounds hold.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly, and look at the time"
)]

mod driver;

use driver::{Driver, batch};
use featureops_proto::log::{self, BatchReply, ExposureFact, OutcomeFact, ReceiptFact};
use featureops_proto::v1::Verdict;
use featureops_state::State;

/// The largest value at a metric's scale that the door lets in.
const EDGE: i64 = 1 << 53;

fn exposure(experiment: u32, unit_hash: u64) -> ExposureFact {
    ExposureFact { experiment, unit_hash, ..ExposureFact::default() }
}

fn code(reply: &BatchReply) -> &str {
    reply.refusal.as_ref().map_or("", |refusal| refusal.code.as_str())
}

fn first(reply: &BatchReply) -> Verdict {
    reply.verdicts.first().map_or(Verdict::Counted, |verdict| verdict.verdict())
}

/// Sends one outcome by unit, or by a receipt.
fn revenue(d: &mut Driver, sequence: u64, unit_hash: u64, value: i64, minute: u32) -> Verdict {
    let mut facts = batch("r", sequence);
    let metric = d.metric("revenue");
    facts.outcomes.push(OutcomeFact { metric, unit_hash, value, minute, ..OutcomeFact::default() });
    first(&d.ingest(vec![facts])[0])
}

#[test]
fn a_producer_that_skips_rewinds_and_reuses_sequences_counts_each_unit_once() {
    let mut d = Driver::new();
    let e = d.running();
    let mut units = 0u64;
    // (sequence, content, what becomes of it)
    for (sequence, content, expected) in [
        (10u64, 1u64, ""),
        (10, 1, "again"),
        (10, 2, "CONTENT_MISMATCH"),
        (4_000, 3, ""),
        (11, 4, ""),
        (3_999, 5, ""),
        (3_999, 6, "CONTENT_MISMATCH"),
        (4_000 + 4_096, 7, ""),
        (11, 4, "SEQUENCE_TOO_OLD"),
        (4_000, 3, "SEQUENCE_TOO_OLD"),
        (4_001, 8, ""),
        (4_000 + 4_096 + 4_097, 9, "SEQUENCE_TOO_FAR"),
        (u64::MAX, 9, "SEQUENCE_TOO_FAR"),
        (0, 9, "INVALID_ARGUMENT"),
        (4_001, 8, "again"),
    ] {
        let mut facts = batch("p", sequence);
        facts.content_hash = content;
        facts.exposures.push(exposure(e, content));
        let reply = d.ingest(vec![facts]).remove(0);
        match expected {
            "" => {
                assert_eq!((reply.counted, reply.duplicate), (1, false), "{sequence}");
                units += 1;
            }
            "again" => assert_eq!((reply.counted, reply.duplicate), (1, true), "{sequence}"),
            refused => assert_eq!(code(&reply), refused, "{sequence}"),
        }
        assert_eq!(d.state.experiment_view("production", "e").unwrap().rows, units, "{sequence}");
    }
}

#[test]
fn the_65_537th_producer_is_refused_and_nobody_is_evicted() {
    let mut d = Driver::new();
    let e = d.running();
    let of = |n: u64| {
        let mut facts = batch(&format!("p{n}"), 1);
        facts.exposures.push(exposure(e, n));
        facts
    };
    let mut refused = 0;
    for chunk in (0..65_537u64).collect::<Vec<_>>().chunks(4_096) {
        let replies = d.ingest(chunk.iter().map(|n| of(*n)).collect());
        refused += replies.iter().filter(|reply| code(reply) == "TOO_MANY_PRODUCERS").count();
    }
    assert_eq!(refused, 1);
    assert_eq!(code(&d.ingest(vec![of(65_536)])[0]), "TOO_MANY_PRODUCERS");
    assert!(d.ingest(vec![of(0)])[0].duplicate, "the first one is known yet");
    assert_eq!(d.state.experiment_view("production", "e").unwrap().rows, 65_536);
    d.state.check().unwrap();
}

#[test]
fn values_at_the_scales_edge_are_summed_exactly_and_no_further_than_2_57() {
    for sign in [1, -1] {
        let mut d = Driver::new();
        let e = d.running();
        let mut facts = batch("x", 1);
        facts.exposures = vec![exposure(e, 1), exposure(e, 2)];
        d.ingest(vec![facts]);
        let minute = d.minute();
        // 2^57 is sixteen times the largest value.
        for n in 0..16 {
            assert_eq!(revenue(&mut d, n + 1, 1, sign * EDGE, minute), Verdict::Counted, "{n}");
        }
        assert_eq!(revenue(&mut d, 17, 1, sign, minute), Verdict::SumOverflow);
        assert_eq!(revenue(&mut d, 18, 1, -sign, minute), Verdict::Counted);
        assert_eq!(revenue(&mut d, 19, 2, sign * EDGE, minute), Verdict::Counted);
        let view = d.state.experiment_view("production", "e").unwrap();
        let (one, two) = (i128::from(sign) * ((1 << 57) - 1), i128::from(sign * EDGE));
        assert_eq!(view.arms[0].sums[1], one + two);
        let squares = view.strata[0].arms[0].slots[1].squares.as_ref().unwrap().get();
        assert_eq!(squares, one * one + two * two);
        assert_eq!(view.verdicts["SUM_OVERFLOW"], 1);
        assert_eq!(State::from_sections(&d.state.sections()).unwrap().digest(), d.state.digest());
    }
}

#[test]
fn events_out_of_time_get_their_verdict_and_are_counted_nowhere() {
    let mut d = Driver::new();
    let e = d.running();
    // Exposed three days ago, as far back as an event may lie; the metric's window is an hour.
    let now = d.minute();
    let at = |d: &mut Driver, sequence, minute| {
        let mut facts = batch("x", sequence);
        facts.exposures.push(ExposureFact { minute, ..exposure(e, sequence) });
        first(&d.ingest(vec![facts])[0])
    };
    let (oldest, newest) = (now - 72 * 60, now + 5);
    for (sequence, (minute, expected)) in (1..).zip([
        (now - 73 * 60, Verdict::Late),
        (oldest - 1, Verdict::Late),
        (oldest, Verdict::Counted),
        (1, Verdict::Late),
        (newest, Verdict::Counted),
        (now + 6, Verdict::Early),
        (u32::MAX, Verdict::Early),
        (0, Verdict::Counted),
    ]) {
        assert_eq!(at(&mut d, sequence, minute), expected, "exposure at {minute}");
    }
    for (sequence, (minute, expected)) in (1..).zip([
        (now - 73 * 60, Verdict::Late),
        (oldest - 1, Verdict::Late),
        (oldest, Verdict::Counted),
        (now + 6, Verdict::Early),
        (u32::MAX, Verdict::Early),
    ]) {
        // Of the unit that was exposed at the oldest minute.
        assert_eq!(revenue(&mut d, sequence, 3, 100, minute), expected, "outcome at {minute}");
    }
    let view = d.state.experiment_view("production", "e").unwrap();
    assert_eq!((view.rows, view.arms[0].sums[1]), (3, 100));
    // Of exposures and outcomes together.
    assert_eq!((view.verdicts["LATE"], view.verdicts["EARLY"]), (5, 4));
}

#[test]
fn a_receipt_that_proves_nothing_here_records_nobody() {
    let mut d = Driver::new();
    let e = d.running();
    let minute = d.minute();
    let (metric, unused) = (d.metric("revenue"), d.metric("revenue_per_click"));
    let with = |receipt: ReceiptFact, metric: u32| OutcomeFact {
        metric,
        unit_hash: 1,
        value: 5,
        minute,
        receipt: Some(receipt),
        ..OutcomeFact::default()
    };
    let good = ReceiptFact { experiment: e, arm: 0, generation: 1, minute };
    for (sequence, (fact, expected)) in (1..).zip([
        (with(ReceiptFact { experiment: 99, ..good }, metric), Verdict::UnknownExperiment),
        (with(ReceiptFact { arm: 2, ..good }, metric), Verdict::UnknownVariant),
        (with(ReceiptFact { arm: u32::MAX, ..good }, metric), Verdict::UnknownVariant),
        (with(ReceiptFact { generation: 0, ..good }, metric), Verdict::ExpiredReceipt),
        (with(ReceiptFact { generation: 2, ..good }, metric), Verdict::ExpiredReceipt),
        (with(ReceiptFact { generation: u32::MAX, ..good }, metric), Verdict::ExpiredReceipt),
        (with(good, unused), Verdict::Unused),
        // After the event; and long before it, out of the window.
        (with(ReceiptFact { minute: minute + 1, ..good }, metric), Verdict::BeforeExposure),
    ]) {
        let mut facts = batch("r", sequence);
        facts.outcomes.push(fact);
        let reply = d.ingest(vec![facts]).remove(0);
        assert_eq!((reply.counted, first(&reply)), (0, expected), "{fact:?}");
        let rows = u64::from(expected == Verdict::BeforeExposure);
        assert_eq!(d.state.experiment_view("production", "e").unwrap().rows, rows, "{fact:?}");
    }
    // Forged: the door could not verify it, says so, and the outcome joins by its unit.
    let mut facts = batch("r", 99);
    facts.exposures.push(exposure(e, 7));
    let forged =
        OutcomeFact { metric, unit_hash: 7, value: 5, minute, bad_receipt: true, ..OutcomeFact::default() };
    facts.outcomes.push(OutcomeFact { index: 1, ..forged });
    let reply = d.ingest(vec![facts]).remove(0);
    assert_eq!((reply.counted, first(&reply)), (2, Verdict::BadReceipt));
    let view = d.state.experiment_view("production", "e").unwrap();
    assert_eq!((view.arms[0].sums[1], view.marked), (5, 1));
    assert_eq!(view.verdicts["BAD_RECEIPT"], 1);
}

#[test]
fn an_expired_receipt_is_of_no_use_a_window_after_its_generation() {
    let mut d = Driver::new();
    let e = d.running();
    let (minute, metric) = (d.minute(), d.metric("revenue"));
    let flag = || "environments/production/flags/checkout".to_owned();
    d.done(log::entry::Command::TripFlag(log::TripFlag {
        name: flag(),
        reason: "x".to_owned(),
        ..Default::default()
    }));
    d.done(log::entry::Command::ResumeFlag(log::ResumeFlag { name: flag(), reason: "y".to_owned() }));
    let by_receipt = |d: &mut Driver, sequence, unit_hash, minute_of_event| {
        let mut facts = batch("r", sequence);
        facts.outcomes.push(OutcomeFact {
            metric,
            unit_hash,
            value: 5,
            minute: minute_of_event,
            receipt: Some(ReceiptFact { experiment: e, arm: 0, generation: 1, minute }),
            ..OutcomeFact::default()
        });
        first(&d.ingest(vec![facts])[0])
    };
    d.tick(61 * 60_000);
    assert_eq!(by_receipt(&mut d, 1, 1, minute + 60), Verdict::Counted);
    assert_eq!(by_receipt(&mut d, 2, 2, minute + 61), Verdict::ExpiredReceipt);
    assert_eq!(d.state.experiment_view("production", "e").unwrap().rows, 1);
}

/// Time of an experiment's first units, by their hashes.
fn took(hash: impl Fn(u64) -> u64) -> std::time::Duration {
    let mut d = Driver::new();
    let e = d.running();
    let begin = std::time::Instant::now();
    for sequence in 1..=40_u64 {
        let mut facts = batch("p", sequence);
        facts.exposures = (sequence * 4_096..(sequence + 1) * 4_096).map(|u| exposure(e, hash(u))).collect();
        assert_eq!(d.ingest(vec![facts])[0].counted, 4_096);
        d.log.iter_mut().for_each(Vec::clear);
    }
    begin.elapsed()
}

#[test]
fn units_in_one_shard_take_a_time_of_the_same_order() {
    let spread = |unit: u64| (unit + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    // The best of three: a busy machine only ever adds.
    let best = |hash: &dyn Fn(u64) -> u64| (0..3).map(|_| took(hash)).min().unwrap();
    let (any, one) = (best(&spread), best(&|unit| (171 << 56) | (spread(unit) >> 8)));
    assert!(one < any * 8, "in one shard {one:?}, spread {any:?}");
}

#[test]
fn a_million_units_in_one_shard_are_counted_as_any() {
    const UNITS: u64 = 1_000_000;
    let mut d = Driver::new();
    let e = d.running();
    // The hash's first byte names the shard; the others are spread as real ones.
    let hash = |unit: u64| (171 << 56) | ((unit + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 8);
    let all: Vec<u64> = (0..UNITS).collect();
    for (sequence, chunk) in (1..).zip(all.chunks(4_096)) {
        let mut facts = batch("p", sequence);
        let of = |unit: &u64| ExposureFact { arm: (*unit % 2) as u32, ..exposure(e, hash(*unit)) };
        facts.exposures = chunk.iter().map(of).collect();
        assert_eq!(d.ingest(vec![facts])[0].counted as usize, chunk.len());
        // What it took is not kept for a replay.
        d.log.iter_mut().for_each(Vec::clear);
    }
    let view = d.state.experiment_view("production", "e").unwrap();
    assert_eq!((view.rows, view.arms[0].units, view.arms[1].units), (UNITS, UNITS / 2, UNITS / 2));
    assert!(view.bytes < 32 << 20, "{} bytes", view.bytes);
    let minute = d.minute();
    assert_eq!(revenue(&mut d, 1, hash(UNITS - 1), 5, minute), Verdict::Counted);
    let sections = d.state.sections();
    let shards = sections.iter().filter(|section| section.name.starts_with("ledger/0000000001/"));
    assert_eq!(shards.count(), 1);
    assert_eq!(State::from_sections(&sections).unwrap().digest(), d.state.digest());
}
