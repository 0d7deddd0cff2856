//! Attribution and exactly-once, case by case.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]

mod driver;

use driver::{Driver, batch, refusal};
use featureops_proto::log::{self, ExposureFact, OutcomeFact, ReceiptFact, entry};
use featureops_proto::v1::{AutonomyLevel, Verdict};

fn expose(driver: &mut Driver, sequence: u64, experiment: u32, unit: u64, arm: u32, minute: u32) -> Verdict {
    let mut facts = batch("x", sequence);
    facts.exposures.push(ExposureFact {
        experiment,
        arm,
        unit_hash: unit,
        minute,
        ..ExposureFact::default()
    });
    verdict(&driver.ingest(vec![facts])[0])
}

fn outcome(
    driver: &mut Driver,
    sequence: u64,
    unit: u64,
    minute: u32,
    receipt: Option<ReceiptFact>,
) -> Verdict {
    let mut facts = batch("y", sequence);
    let metric = driver.metric("conversion");
    facts.outcomes.push(OutcomeFact {
        metric,
        unit_hash: unit,
        value: 1,
        minute,
        receipt,
        ..OutcomeFact::default()
    });
    verdict(&driver.ingest(vec![facts])[0])
}

fn verdict(reply: &log::BatchReply) -> Verdict {
    match reply.verdicts.first() {
        None => Verdict::Counted,
        Some(first) => Verdict::try_from(first.verdict).unwrap(),
    }
}

#[test]
fn moments_are_frozen_while_time_stands() {
    use featureops_state::Effect;
    let mut d = Driver::new();
    let e = d.running();
    d.effects.clear();
    d.tick(-1_800_000);
    assert_eq!(expose(&mut d, 1, e, 1, 0, 0), Verdict::Counted);
    d.tick(500);
    assert!(d.effects.contains(&Effect::Frozen { number: e }), "an owner sees the exposure: {:?}", d.effects);
    assert!(!d.effects.iter().any(|effect| matches!(effect, Effect::Ticked { .. })), "{:?}", d.effects);
}

#[test]
fn a_batch_of_nothing_takes_no_place_unless_its_producer_has_one() {
    let mut d = Driver::new();
    let e = d.running();
    let mut nothing = batch("x", 7);
    nothing.door.push(log::DoorVerdict { index: 0, verdict: Verdict::UnknownMetric as i32 });
    let reply = d.state.unrecorded(&nothing).unwrap();
    assert_eq!((reply.position, reply.counted), (d.state.position(), 0));
    assert_eq!((verdict(&reply), reply.duplicate), (Verdict::UnknownMetric, false));
    let zero = d.state.unrecorded(&log::Batch { sequence: 0, ..nothing.clone() }).unwrap();
    assert_eq!(zero.refusal.unwrap().code, "INVALID_ARGUMENT");
    // With a window its sequence is remembered, whatever it holds.
    expose(&mut d, 1, e, 1, 0, 0);
    assert_eq!(d.state.unrecorded(&nothing), None);
    let mut something = nothing;
    something.producer = "z".to_owned();
    something.exposures.push(ExposureFact::default());
    assert_eq!(d.state.unrecorded(&something), None);
}

#[test]
fn the_window_has_sharp_edges() {
    let mut d = Driver::new();
    let e = d.running();
    d.tick(10 * 3_600_000);
    let now = d.minute();
    assert_eq!(expose(&mut d, 1, e, 1, 0, now - 60), Verdict::Counted);
    assert_eq!(outcome(&mut d, 1, 1, now - 61, None), Verdict::BeforeExposure);
    assert_eq!(outcome(&mut d, 2, 1, now - 60, None), Verdict::Counted);
    assert_eq!(outcome(&mut d, 3, 1, now, None), Verdict::Counted);
    assert_eq!(outcome(&mut d, 4, 1, now + 1, None), Verdict::OutsideWindow);
    assert_eq!(outcome(&mut d, 5, 1, now + 6, None), Verdict::Early);
    assert_eq!(outcome(&mut d, 6, 1, now - 72 * 60 - 1, None), Verdict::Late);
}

#[test]
fn an_outcome_waits_a_minute_for_its_exposure() {
    let mut d = Driver::new();
    let e = d.running();
    let now = d.minute();
    assert_eq!(outcome(&mut d, 1, 1, now, None), Verdict::Waiting);
    assert_eq!(outcome(&mut d, 2, 2, now, None), Verdict::Waiting);
    d.tick(59_000);
    assert_eq!(expose(&mut d, 1, e, 1, 1, now), Verdict::Counted);
    d.tick(2_000);
    assert_eq!(expose(&mut d, 2, e, 2, 1, now), Verdict::Counted);
    let view = d.state.experiment_view("production", "e").unwrap();
    assert_eq!(view.arms[1].sums[0], 1, "the first came in time, the second did not");
    assert_eq!(view.verdicts["NO_EXPOSURE"], 1);
}

#[test]
fn a_receipt_records_a_lost_exposure_and_marks_it() {
    let mut d = Driver::new();
    let e = d.running();
    let now = d.minute();
    let receipt = ReceiptFact { experiment: e, arm: 1, generation: 1, minute: now };
    assert_eq!(outcome(&mut d, 1, 9, now, Some(receipt)), Verdict::Counted);
    let view = d.state.experiment_view("production", "e").unwrap();
    assert_eq!((view.arms[1].units, view.arms[1].marked, view.marked), (1, 1, 1));
    assert_eq!(view.inputs.marked_units, 0, "the exposure may be on its way");
    // Arms, generations and experiments that do not exist say so.
    assert_eq!(outcome(&mut d, 2, 9, now, Some(ReceiptFact { arm: 7, ..receipt })), Verdict::UnknownVariant);
    assert_eq!(
        outcome(&mut d, 3, 9, now, Some(ReceiptFact { generation: 9, ..receipt })),
        Verdict::ExpiredReceipt
    );
    assert_eq!(
        outcome(&mut d, 4, 9, now, Some(ReceiptFact { experiment: 99, ..receipt })),
        Verdict::UnknownExperiment
    );
}

#[test]
fn a_late_exposure_lifts_the_mark_and_a_lost_one_leaves_it() {
    let mut d = Driver::new();
    let e = d.running();
    let now = d.minute();
    let receipt = ReceiptFact { experiment: e, arm: 1, generation: 1, minute: now };
    for unit in [1, 2] {
        assert_eq!(outcome(&mut d, unit, unit, now, Some(receipt)), Verdict::Counted);
    }
    assert_eq!(expose(&mut d, 1, e, 1, 1, now), Verdict::Repeated);
    d.tick(61_000);
    let view = d.state.owner_view(e).unwrap();
    assert_eq!((view.inputs.marked_units, view.inputs.marked_by_arm), (1, vec![0, 1]));
    assert_eq!(expose(&mut d, 2, e, 2, 1, now), Verdict::Repeated);
    assert_eq!(d.state.experiment_view("production", "e").unwrap().marked, 1, "a minute is over");
}

#[test]
fn crossings_close_the_first_stay_and_a_second_ends_counting() {
    let mut d = Driver::new();
    let e = d.running();
    let now = d.minute();
    assert_eq!(expose(&mut d, 1, e, 5, 0, now), Verdict::Counted);
    assert_eq!(outcome(&mut d, 1, 5, now, None), Verdict::Counted);
    assert_eq!(expose(&mut d, 2, e, 5, 1, now + 2), Verdict::Counted);
    let old = ReceiptFact { experiment: e, arm: 0, generation: 1, minute: now };
    assert_eq!(outcome(&mut d, 2, 5, now + 2, Some(old)), Verdict::OutsideWindow);
    assert_eq!(outcome(&mut d, 3, 5, now + 2, None), Verdict::Counted);
    assert_eq!(expose(&mut d, 3, e, 5, 0, now), Verdict::Repeated, "a late repeat of the first exposure");
    assert_eq!(expose(&mut d, 4, e, 5, 0, now + 4), Verdict::CrossedTwice);
    assert_eq!(outcome(&mut d, 4, 5, now + 4, None), Verdict::CrossedTwice);
    let view = d.state.experiment_view("production", "e").unwrap();
    assert_eq!((view.arms[0].units, view.arms[1].units, view.crossed), (1, 1, 1));
    assert_eq!((view.arms[0].sums[0], view.arms[1].sums[0]), (1, 1));
}

#[test]
fn a_closed_generation_takes_outcomes_for_one_window() {
    let mut d = Driver::new();
    let e = d.running();
    let now = d.minute();
    assert_eq!(expose(&mut d, 1, e, 1, 1, now), Verdict::Counted);
    let name = "environments/production/flags/checkout".to_owned();
    d.done(entry::Command::TripFlag(log::TripFlag {
        name: name.clone(),
        reason: "smoke".to_owned(),
        ..Default::default()
    }));
    assert_eq!(expose(&mut d, 2, e, 2, 1, now), Verdict::NotRunning);
    let receipt = ReceiptFact { experiment: e, arm: 1, generation: 1, minute: now };
    assert_eq!(
        outcome(&mut d, 1, 3, now, Some(receipt)),
        Verdict::Counted,
        "exposed before the trip, and marked"
    );
    assert_eq!(outcome(&mut d, 2, 1, now, Some(receipt)), Verdict::Counted);
    d.done(entry::Command::ResumeFlag(log::ResumeFlag { name, reason: String::new() }));
    d.tick(62 * 60_000);
    let late = d.minute();
    assert_eq!(outcome(&mut d, 3, 4, late, Some(receipt)), Verdict::ExpiredReceipt);
    // In the new generation a unit that stays in its arm keeps its row.
    assert_eq!(expose(&mut d, 3, e, 1, 1, late), Verdict::Repeated);
}

#[test]
fn other_bytes_wrong_keys_and_foreign_environments_are_refused() {
    let mut d = Driver::new();
    d.running();
    assert!(d.ingest(vec![batch("p", 1)])[0].refusal.is_none());
    let other = log::Batch { content_hash: 99, ..batch("p", 1) };
    assert_eq!(d.ingest(vec![other])[0].refusal.as_ref().unwrap().code, "CONTENT_MISMATCH");
    let foreign = log::Batch { unit_key_id: 8, ..batch("p", 2) };
    assert_eq!(d.ingest(vec![foreign])[0].refusal.as_ref().unwrap().code, "WRONG_UNIT_KEY");
    // The same batch twice in one entry counts once and is answered twice alike.
    let mut facts = batch("p", 3);
    let metric = d.metric("conversion");
    facts.outcomes.push(OutcomeFact {
        metric,
        unit_hash: 1,
        minute: d.minute(),
        value: 1,
        ..OutcomeFact::default()
    });
    let replies = d.ingest(vec![facts.clone(), facts]);
    assert_eq!(replies[0].verdicts, replies[1].verdicts);
    assert!(replies[1].duplicate && !replies[0].duplicate);
}

#[test]
fn a_clock_an_hour_off_loses_nothing() {
    // A leader whose stamps jump an hour ahead and then fall behind: log time does not go back, nothing acknowledged
    // expires, producers stay.
    for jump in [3_600_000, -3_600_000] {
        let mut d = Driver::new();
        let e = d.running();
        let now = d.minute();
        assert_eq!(expose(&mut d, 1, e, 1, 0, now), Verdict::Counted);
        assert_eq!(outcome(&mut d, 1, 1, now, None), Verdict::Counted);
        let before = d.state.log_time_ms();
        d.tick(jump);
        assert!(d.state.log_time_ms() >= before);
        assert_eq!(outcome(&mut d, 2, 1, now, None), Verdict::Counted);
        assert!(
            d.ingest(vec![batch("y", 2)])[0].duplicate || d.ingest(vec![batch("y", 2)])[0].refusal.is_some()
        );
        let view = d.state.experiment_view("production", "e").unwrap();
        assert_eq!((view.arms[0].units, view.arms[0].sums[0]), (1, 1));
    }
}

#[test]
fn the_65th_experiment_on_a_metric_is_refused() {
    let mut d = Driver::new();
    d.furnish();
    for n in 0..65 {
        let flag = d.state.flag("production", "checkout").unwrap();
        let name = format!("environments/production/flags/f{n}");
        let flag = featureops_proto::v1::Flag { name, ..flag };
        d.done(entry::Command::SetFlag(log::SetFlag { flag: Some(flag), etag: String::new() }));
        let mut experiment = featureops_proto::v1::Experiment {
            name: format!("environments/production/experiments/e{n}"),
            flag: format!("f{n}"),
            primary_metric: "conversion".to_owned(),
            ..Default::default()
        };
        for variant in ["off", "on"] {
            experiment
                .arms
                .push(featureops_proto::v1::Arm { variant: variant.to_owned(), established: true });
        }
        d.done(entry::Command::CreateExperiment(log::CreateExperiment { experiment: Some(experiment) }));
        let start = entry::Command::StartExperiment(log::StartExperiment {
            name: format!("environments/production/experiments/e{n}"),
            autonomy: AutonomyLevel::Unspecified as i32,
            etag: String::new(),
        });
        let reply = d.command(start);
        if n < 64 {
            driver::done(reply);
        } else {
            assert_eq!(refusal(reply).code, "LIMIT_REACHED");
        }
    }
}

#[test]
fn an_outcome_one_experiment_took_waits_for_the_others_exposure_too() {
    let mut d = Driver::new();
    let e = d.running();
    let flag = d.state.flag("production", "checkout").unwrap();
    let second =
        featureops_proto::v1::Flag { name: "environments/production/flags/second".to_owned(), ..flag };
    d.done(entry::Command::SetFlag(log::SetFlag { flag: Some(second), etag: String::new() }));
    let other = featureops_proto::v1::Experiment {
        name: "environments/production/experiments/other".to_owned(),
        flag: "second".to_owned(),
        number: 0,
        ..d.state.experiment("production", "e").unwrap()
    };
    d.done(entry::Command::CreateExperiment(log::CreateExperiment { experiment: Some(other) }));
    d.start("other", AutonomyLevel::A4Bounded);
    let number = d.state.experiment("production", "other").unwrap().number;
    let now = d.minute();
    assert_eq!(expose(&mut d, 1, e, 1, 0, now), Verdict::Counted);
    assert_eq!(outcome(&mut d, 1, 1, now, None), Verdict::Counted);
    assert_eq!(expose(&mut d, 2, number, 1, 1, now), Verdict::Counted);
    for (name, arm) in [("e", 0), ("other", 1)] {
        assert_eq!(d.state.experiment_view("production", name).unwrap().arms[arm].sums[0], 1, "{name}");
    }
}
