//! Facts over the wire: verdicts per event, each batch once, exposures implied by evaluations.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod world;

use std::time::Duration;

use featureops_proto::v1::{
    Exposure, FactBatch, GetExperimentStatusRequest, Outcome, ReportExposuresRequest, Verdict,
};
use tonic::Code;
use tonic_types::StatusExt as _;
use world::{World, evaluate, outcome, outcomes};

async fn exposed_units(world: &World) -> u64 {
    let name = "environments/test/experiments/button".to_owned();
    let status = world.experiments().get_experiment_status(GetExperimentStatusRequest { name }).await;
    status.unwrap().into_inner().exposed_units
}

async fn exposed_units_reach(world: &World, wanted: u64) -> u64 {
    for _ in 0..200 {
        if exposed_units(world).await >= wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    exposed_units(world).await
}

#[tokio::test]
async fn an_evaluation_implies_one_exposure_and_its_outcomes_count_once() {
    let world = World::start().await;
    world.run_experiment().await;
    let mut receipts = Vec::new();
    for _ in 0..3 {
        for unit in ["ada", "bob", "eve"] {
            let answer = world.evaluation().evaluate(evaluate("checkout", unit)).await.unwrap().into_inner();
            assert_eq!(answer.receipt.len(), 32);
            assert!(answer.propensity_basis_points.is_some());
            receipts.push((unit, answer.receipt));
        }
    }
    assert_eq!(exposed_units_reach(&world, 3).await, 3);

    let mut quiet = evaluate("checkout", "zoe");
    quiet.no_exposure = true;
    world.evaluation().evaluate(quiet).await.unwrap();
    assert_eq!(exposed_units(&world).await, 3);

    let (unit, receipt) = receipts[0].clone();
    let batch = vec![
        outcome("ada", 19.99),
        outcome("bob", f64::NAN),
        outcome("bob", 1e30),
        outcome(&"k".repeat(100_000), 1.0),
        outcome("", 1.0),
        Outcome { metric: "nothing".into(), ..outcome("ada", 1.0) },
        Outcome { receipt: receipt.clone(), ..outcome(unit, 0.01) },
        Outcome { receipt: "forged".into(), ..outcome("bob", 2.0) },
    ];
    let request = outcomes("shop", 1, batch);
    let first = world.facts().report_outcomes(request.clone()).await.unwrap().into_inner();
    assert!(!first.duplicate && !first.position.is_empty());
    let verdicts: Vec<_> = first.verdicts.iter().map(|one| (one.index, one.verdict())).collect();
    for expected in [
        (1, Verdict::NonFinite),
        (2, Verdict::OutOfScale),
        (3, Verdict::Oversized),
        (4, Verdict::MissingUnit),
        (5, Verdict::UnknownMetric),
        (7, Verdict::BadReceipt),
    ] {
        assert!(verdicts.contains(&expected), "{expected:?} in {verdicts:?}");
    }
    assert!(first.counted >= 2, "{first:?}");

    // Again, also over another connection and after a restart: the same answer, nothing counted twice.
    let again = world.facts().report_outcomes(request.clone()).await.unwrap().into_inner();
    assert!(again.duplicate);
    assert_eq!((again.counted, &again.verdicts), (first.counted, &first.verdicts));
    let world = world.restart().await;
    let later = world.facts().report_outcomes(request.clone()).await.unwrap().into_inner();
    assert!(later.duplicate);
    assert_eq!((later.counted, later.position), (first.counted, first.position));

    let mut other = request;
    other.outcomes.truncate(1);
    let refused = world.facts().report_outcomes(other).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "CONTENT_MISMATCH");
    let name = "environments/test/experiments/button".to_owned();
    let status = world.experiments().get_experiment_status(GetExperimentStatusRequest { name }).await;
    let arms = status.unwrap().into_inner().arms;
    let total: f64 = arms.iter().flat_map(|arm| &arm.metrics).map(|metric| metric.total).sum();
    assert!((total - 22.0).abs() < 1e-9, "{arms:?}");
}

#[tokio::test]
async fn a_batch_of_which_nothing_could_count_is_answered_at_the_door_and_remembered_nowhere() {
    let world = World::start().await;
    world.run_experiment().await;
    let unknown = |producer: &str, sequence| {
        outcomes(producer, sequence, vec![Outcome { metric: "nothing".into(), ..outcome("ada", 1.0) }])
    };
    for repeat in 0..2 {
        let answer = world.facts().report_outcomes(unknown("made-up", 1)).await.unwrap().into_inner();
        assert!(!answer.duplicate && !answer.position.is_empty(), "{repeat}: {answer:?}");
        assert_eq!((answer.counted, answer.verdicts[0].verdict()), (0, Verdict::UnknownMetric));
    }
    // A producer that has a window gets its answer from there.
    world.facts().report_outcomes(outcomes("shop", 1, vec![outcome("ada", 1.0)])).await.unwrap();
    let first = world.facts().report_outcomes(unknown("shop", 2)).await.unwrap().into_inner();
    let again = world.facts().report_outcomes(unknown("shop", 2)).await.unwrap().into_inner();
    assert!(!first.duplicate && again.duplicate);
    assert_eq!((again.position, again.verdicts), (first.position, first.verdicts));
    let refused = world.facts().report_outcomes(unknown("made-up", 0)).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "INVALID_ARGUMENT");
}

#[tokio::test]
async fn sequences_of_the_past_and_of_the_far_future_are_refused_and_not_counted() {
    let world = World::start().await;
    world.run_experiment().await;
    let send = |sequence| outcomes("shop", sequence, vec![outcome("ada", 1.0)]);
    world.facts().report_outcomes(send(10_000)).await.unwrap();
    for (sequence, code, reason) in [
        (1, Code::OutOfRange, "SEQUENCE_TOO_OLD"),
        (1 << 40, Code::OutOfRange, "SEQUENCE_TOO_FAR"),
        (u64::MAX, Code::OutOfRange, "SEQUENCE_TOO_FAR"),
        (0, Code::InvalidArgument, "INVALID_ARGUMENT"),
    ] {
        let refused = world.facts().report_outcomes(send(sequence)).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.get_details_error_info().unwrap().reason.as_str()),
            (code, reason)
        );
    }
}

#[tokio::test]
async fn exposures_are_reported_by_hand_and_batches_by_stream() {
    let world = World::start().await;
    world.run_experiment().await;
    let exposure = |unit: &str, variant: &str, forced| Exposure {
        experiment: "button".into(),
        unit: unit.into(),
        variant: variant.into(),
        forced,
        ..Exposure::default()
    };
    let request = ReportExposuresRequest {
        environment: "test".into(),
        producer: "browser".into(),
        sequence: 1,
        exposures: vec![
            exposure("ada", "on", false),
            exposure("qa", "on", true),
            exposure("bob", "x", false),
        ],
    };
    let answer = world.facts().report_exposures(request).await.unwrap().into_inner();
    let verdicts: Vec<_> = answer.verdicts.iter().map(|one| (one.index, one.verdict())).collect();
    assert_eq!(verdicts, [(1, Verdict::Forced), (2, Verdict::UnknownVariant)]);
    assert_eq!(answer.counted, 1);

    let batch = |sequence, exposures: Vec<Exposure>, outcomes: Vec<Outcome>| FactBatch {
        environment: "test".into(),
        producer: "stream".into(),
        sequence,
        exposures,
        outcomes,
    };
    let batches = vec![
        batch(1, vec![exposure("cy", "off", false)], vec![]),
        batch(2, vec![], vec![outcome("ada", 1.0), outcome("ada", f64::INFINITY)]),
        batch(2, vec![], vec![outcome("ada", 1.0), outcome("ada", f64::INFINITY)]),
        batch(3, vec![], vec![]),
    ];
    let answer = world.facts().stream_facts(tokio_stream::iter(batches)).await.unwrap().into_inner();
    assert_eq!((answer.batches, answer.counted, answer.refused_batches), (4, 2, 1));
    assert_eq!(answer.verdicts.get("NON_FINITE"), Some(&2));
    assert_eq!((answer.refused[0].sequence, answer.refused[0].code.as_str()), (3, "INVALID_ARGUMENT"));
}

#[tokio::test]
async fn a_node_without_the_clusters_unit_key_evaluates_and_refuses_facts() {
    let world = World::start().await;
    world.run_experiment().await;
    let key = world.folder.path().join("data/unit.key");
    let World { node, folder, .. } = world;
    node.shutdown().await;
    std::fs::remove_file(&key).unwrap();
    let world = World::start_in(folder).await;
    let answer = world.evaluation().evaluate(evaluate("checkout", "ada")).await.unwrap().into_inner();
    assert!(answer.variant.is_some());
    let refused =
        world.facts().report_outcomes(outcomes("shop", 1, vec![outcome("ada", 1.0)])).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "WRONG_UNIT_KEY");
    assert!(refused.message().contains("copy unit.key"), "{}", refused.message());
    let (status, text) = world.get("/readyz?verbose").await;
    assert!(status == 200 && text.contains("[-] unit key: facts are refused"), "{text}");
}
