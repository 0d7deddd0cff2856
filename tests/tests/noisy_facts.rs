//! An experiment fed by several producers through a network that loses, repeats, doubles and reorders their batches, over a
//! node that is killed in the middle: what it holds at the end is what single units did, to the last digit.
//!
//! The numbers are read where a decision rests on them: the last batch trips a guardrail, and the trip's record has the
//! integers of the frozen position, units, sums, squares and products by arm. `FEATUREOPS_UNITS` and `FEATUREOPS_SEED` make
//! it larger or other.
//!
//! Once with room for every unit's sums, and once with a budget that is passed on the way: then sums fold into clusters, and the
//! node is killed just before and just after.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a real process lives in real time, and a test may fail loudly"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use featureops_proto::v1::{Arm, Flag, ValueType};
use featureops_proto::v1::{
    ArmMoments, CreateExperimentRequest, Decision, DecisionInputs, Experiment, ExperimentStatus,
    GetExperimentStatusRequest, Guardrail, Int128, ListDecisionsRequest, Metric, MetricInput, SetFlagRequest,
    SetMetricRequest, StartExperimentRequest, decision, experiment, metric,
};
use featureops_tests::client::{Client, answered};
use featureops_tests::line::Line;
use featureops_tests::load::{ARMS, ENVIRONMENT, EXPERIMENT};
use featureops_tests::noise::{Happened, Noise, Producer};
use featureops_tests::site::{PATIENCE, Site};
use featureops_tests::visits::{ArmTotals, PRODUCERS, Sums, Visits};
use featureops_tests::{count, runtime};
use tokio::task::JoinSet;

/// Events of the largest batch, by producer: the first one's many small ones pass its window more than once.
const EVENTS_MAX: [u64; PRODUCERS] = [8, 32, 64, 128];
const POLL: Duration = Duration::from_millis(20);

/// What goes wrong on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// A kill when half of the first act is told.
    Kill,
    /// Sums beyond so many fold; a kill before they do, and one after.
    Fold(u64),
    /// A planted fault: what got no answer goes out again as something new.
    Renames,
}

/// Defines the flag, the metrics and the experiment, and starts it.
async fn prepare(client: &Client) {
    let variants = ARMS.iter().map(|arm| ((*arm).to_owned(), (*arm).into())).collect();
    let flag = Flag {
        name: format!("{ENVIRONMENT}/flags/{EXPERIMENT}"),
        r#type: ValueType::String.into(),
        variants,
        default_variant: Some(ARMS[0].into()),
        safe_variant: Some(ARMS[0].into()),
        ..Flag::default()
    };
    let request = SetFlagRequest { flag: Some(flag), ..SetFlagRequest::default() };
    client.flags.clone().set_flag(request).await.unwrap();
    use metric::{Direction, Kind};
    let metrics = [
        ("converted", Kind::Proportion, Direction::HigherIsBetter),
        ("revenue", Kind::Mean, Direction::HigherIsBetter),
        ("views", Kind::Mean, Direction::HigherIsBetter),
        ("clicks", Kind::Count, Direction::HigherIsBetter),
        ("click-rate", Kind::Ratio, Direction::HigherIsBetter),
        ("errors", Kind::Proportion, Direction::LowerIsBetter),
    ];
    for (key, kind, direction) in metrics {
        let ratio = kind == Kind::Ratio;
        let part = |name: &str| if ratio { name.to_owned() } else { String::new() };
        let metric = Metric {
            name: format!("{ENVIRONMENT}/metrics/{key}"),
            kind: kind.into(),
            direction: direction.into(),
            decimal_scale: (!ratio).then_some(if key == "revenue" { 2 } else { 0 }),
            numerator: part("clicks"),
            denominator: part("views"),
            ..Metric::default()
        };
        let request = SetMetricRequest { metric: Some(metric), ..SetMetricRequest::default() };
        client.metrics.clone().set_metric(request).await.unwrap();
    }
    let experiment = Experiment {
        name: format!("{ENVIRONMENT}/experiments/{EXPERIMENT}"),
        flag: EXPERIMENT.into(),
        arms: ARMS.iter().map(|arm| Arm { variant: (*arm).into(), established: true }).collect(),
        primary_metric: "converted".into(),
        guardrails: vec![Guardrail { metric: "errors".into(), minimum_units: 100, ..Guardrail::default() }],
        secondary_metrics: ["revenue", "click-rate"].map(str::to_owned).to_vec(),
        policy: experiment::Policy::Fixed.into(),
        ..Experiment::default()
    };
    let name = experiment.name.clone();
    let request =
        CreateExperimentRequest { experiment: Some(experiment), ..CreateExperimentRequest::default() };
    client.experiments.clone().create_experiment(request).await.unwrap();
    let request = StartExperimentRequest { name, ..StartExperimentRequest::default() };
    client.experiments.clone().start_experiment(request).await.unwrap();
}

/// The trip that the last batch leads to.
async fn trip(client: &Client) -> Decision {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        let request = ListDecisionsRequest { parent: ENVIRONMENT.into(), ..ListDecisionsRequest::default() };
        let decisions =
            client.decisions.clone().list_decisions(request).await.unwrap().into_inner().decisions;
        if let Some(decision) = decisions.into_iter().find(|one| one.action() == decision::Action::Trip) {
            return decision;
        }
        tokio::time::sleep(POLL).await;
    }
    panic!("the last batch tripped no guardrail");
}

async fn status(client: &Client) -> ExperimentStatus {
    let name = format!("{ENVIRONMENT}/experiments/{EXPERIMENT}");
    let ask = || {
        let mut experiments = client.experiments.clone();
        let request = GetExperimentStatusRequest { name: name.clone() };
        async move { experiments.get_experiment_status(request).await }
    };
    answered(PATIENCE, ask).await.unwrap()
}

fn wide(number: Option<&Int128>) -> i128 {
    number.map_or(0, |number| (i128::from(number.high) << 64) | i128::from(number.low))
}

/// What the record says of an arm, over all strata.
fn held(inputs: &DecisionInputs, arm: usize, folds: bool) -> ArmTotals {
    let input = |key: &str| -> &MetricInput {
        let known = || inputs.metrics.iter().map(|held| &held.metric).collect::<Vec<_>>();
        inputs
            .metrics
            .iter()
            .find(|held| held.metric == key)
            .unwrap_or_else(|| panic!("{key}: {:?}", known()))
    };
    let (converted, errors, revenue) = (input("converted"), input("errors"), input("revenue"));
    let rate = input("click-rate");
    let sums = |slot: u32| {
        let of = |moments: &ArmMoments| {
            let slot = &moments.slots[slot as usize];
            (wide(slot.sum.as_ref()), wide(slot.squares.as_ref()))
        };
        inputs.strata.iter().map(|stratum| of(&stratum.arms[arm])).fold(
            Sums::default(),
            |all, (sum, squares)| Sums { sum: all.sum + sum, squares: all.squares + squares },
        )
    };
    let seen = |metric: &MetricInput| {
        let Sums { sum, squares } = sums(metric.slot);
        assert_eq!(sum, squares, "{}: a unit converts once", metric.metric);
        u64::try_from(sum).unwrap()
    };
    let over_strata = |of: &dyn Fn(&ArmMoments) -> i128| -> i128 {
        inputs.strata.iter().map(|stratum| of(&stratum.arms[arm])).sum()
    };
    let clusters = over_strata(&|arm| i128::from(arm.clusters));
    assert_eq!(clusters > 0, folds, "squares are of clusters once folded, else of units");
    ArmTotals {
        units: u64::try_from(over_strata(&|arm| i128::from(arm.units))).unwrap(),
        converted: seen(converted),
        errors: seen(errors),
        revenue: sums(revenue.slot),
        clicks: sums(rate.slot),
        views: sums(rate.denominator_slot),
        clicks_by_views: over_strata(&|arm| wide(arm.cross.get(rate.pair as usize))),
    }
}

/// What is wrong, in words.
fn faults(
    visits: &Visits,
    inputs: &DecisionInputs,
    verdicts: &BTreeMap<String, u64>,
    folds: bool,
) -> Vec<String> {
    let totals = &visits.totals;
    let mut faults = Vec::new();
    for (arm, (variant, expected)) in ARMS.iter().zip(&totals.arms).enumerate() {
        let (held, mut expected) = (held(inputs, arm, folds), *expected);
        if folds {
            // Squares and products are of clusters, whose units this test does not know. Everything else stays exact.
            expected.clicks_by_views = held.clicks_by_views;
            for (of_units, of_clusters) in [
                (&mut expected.revenue, held.revenue),
                (&mut expected.views, held.views),
                (&mut expected.clicks, held.clicks),
            ] {
                of_units.squares = of_clusters.squares;
            }
        }
        if held != expected {
            faults.push(format!("{variant}: held {held:?}, happened {expected:?}"));
        }
    }
    let verdict = |name: &str| verdicts.get(name).copied().unwrap_or(0);
    let rows = [
        ("exposed units", inputs.exposed_units, totals.exposed),
        ("crossed units", inputs.crossed_units, totals.crossed),
        ("marked units", inputs.marked_units, 0),
        ("lost units", inputs.lost_units, 0),
        ("thinned units", inputs.thinned_units, 0),
        ("COUNTED", verdict("COUNTED"), totals.counted),
        ("REPEATED", verdict("REPEATED"), totals.repeated),
        ("LATE", verdict("LATE"), totals.late),
        ("BEFORE_EXPOSURE", verdict("BEFORE_EXPOSURE"), totals.before_exposure),
        ("CROSSED_TWICE", verdict("CROSSED_TWICE"), 0),
    ];
    for (what, held, happened) in rows {
        if held != happened {
            faults.push(format!("{what}: held {held}, happened {happened}"));
        }
    }
    // Strays leave the ring by time, or when newer events fill it; nobody else does.
    let gone = verdict("NO_EXPOSURE") + verdict("WAITING_FULL");
    if gone > totals.strays {
        faults.push(format!("{gone} outcomes met no exposure in time, and strays are {}", totals.strays));
    }
    faults
}

/// When the node is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So many batches have their answer.
    Answered(u64),
    /// So many sums are held.
    Sums(u64),
    /// Sums are held by cluster.
    Folded,
}

impl Moment {
    async fn has_come(self, client: &Client, happened: &Happened) -> bool {
        match self {
            Self::Answered(batches) => happened.answered.load(Ordering::Relaxed) >= batches,
            Self::Sums(sums) => {
                let status = status(client).await;
                assert!(!status.folded, "folded before it was looked at: {} units are too few", status.rows);
                status.entries >= sums
            }
            Self::Folded => status(client).await.folded,
        }
    }
}

struct Told {
    visits: Visits,
    happened: Arc<Happened>,
    faults: Vec<String>,
}

/// Everything from an empty folder to the comparison.
async fn tell(seed: u64, units: u32, trouble: Trouble) -> Told {
    // Snapshots and purges among the facts.
    let site = Site::new().with("FEATUREOPS_SNAPSHOT_EVERY_ENTRIES", "2000");
    let mut node = site.start().await.unwrap_or_else(|ended| panic!("first start: {ended}"));
    prepare(&site.client()).await;
    // Folded sums have squares of clusters: with room enough they stay those of units.
    let room = if let Trouble::Fold(most) = trouble { most } else { 16 << 20 };
    Line(&site).ends(0, &["budget", "set", "--experiment-sums", &room.to_string()]);
    let begin = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let mut visits = Visits::new(seed, units);
    let happened = Arc::new(Happened::default());
    // Each producer has a connection of its own.
    let noise = |number: usize| Noise {
        client: site.client(),
        seed: seed.wrapping_add(number as u64),
        begin,
        renames: trouble == Trouble::Renames,
        happened: Arc::clone(&happened),
    };
    let mut producers: Vec<(Producer, Noise)> = EVENTS_MAX
        .iter()
        .enumerate()
        .map(|(number, events_max)| {
            (Producer { name: format!("shop-{number}"), events_max: *events_max, last: 0 }, noise(number))
        })
        .collect();
    for (act, events) in std::mem::take(&mut visits.acts).into_iter().enumerate() {
        let clock = Instant::now();
        let all: usize = events.iter().map(Vec::len).sum();
        // Half of the batches that the first producer, who has most of them, cuts at the least.
        let half = events[0].len() as u64 / EVENTS_MAX[0] / 2;
        let mut tasks = JoinSet::new();
        for ((mut producer, noise), events) in producers.drain(..).zip(events) {
            tasks.spawn(async move {
                noise.tell(&mut producer, &events).await;
                (producer, noise)
            });
        }
        let mut ended = Vec::new();
        let kills: &[Moment] = match trouble {
            Trouble::Kill if act == 0 => &[Moment::Answered(half)],
            Trouble::Fold(most) if act == 0 => &[Moment::Sums(most / 2), Moment::Folded],
            _ => &[],
        };
        for moment in kills {
            while !moment.has_come(&site.client(), &happened).await {
                if let Some(one) = tasks.try_join_next() {
                    ended.push(one.unwrap());
                }
                assert!(!tasks.is_empty(), "everything was told before the kill at {moment:?}");
                tokio::time::sleep(POLL).await;
            }
            node.kill();
            node = site.start().await.unwrap_or_else(|ended| panic!("start after the kill: {ended}"));
            println!("killed at {moment:?}");
        }
        while let Some(one) = tasks.join_next().await {
            ended.push(one.unwrap());
        }
        producers = ended;
        producers.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        println!("act {}: {all} events in {:.1?}", act + 1, clock.elapsed());
    }
    // One batch: no decision can fall between its events.
    let mut last = Producer { name: "last".into(), events_max: 1, last: 0 };
    noise(PRODUCERS).tell_at_once(&mut last, &visits.close).await;
    let client = site.client();
    let decision = trip(&client).await;
    let status = status(&client).await;
    println!("{happened:?}\n{} entries, {:?}", status.entries, status.verdicts);
    let folds = matches!(trouble, Trouble::Fold(_));
    assert_eq!(status.folded, folds, "{status:?}");
    let faults = faults(&visits, decision.inputs.as_ref().unwrap(), &status.verdicts, folds);
    drop(node);
    Told { visits, happened, faults }
}

#[test]
fn what_is_held_is_what_single_units_did() {
    let (units, seed) = (count("FEATUREOPS_UNITS", 30_000), count("FEATUREOPS_SEED", 1));
    println!("FEATUREOPS_UNITS={units} FEATUREOPS_SEED={seed}");
    runtime().block_on(async {
        let told = tell(seed, u32::try_from(units).unwrap(), Trouble::Kill).await;
        assert!(told.faults.is_empty(), "{:#?}", told.faults);
        // What did not happen shows nothing.
        let totals = &told.visits.totals;
        let kinds = [totals.crossed, totals.repeated, totals.late, totals.before_exposure, totals.strays];
        assert!(kinds.iter().all(|kind| *kind > 0), "{totals:?}");
        let happened = &told.happened;
        let troubles = [
            ("lost before", &happened.lost_before),
            ("lost after", &happened.lost_after),
            ("doubled", &happened.doubled),
            ("repeated", &happened.repeated),
            ("broken", &happened.broken),
            ("repeated late, known", &happened.late_repeats[0]),
            ("repeated late, too old", &happened.late_repeats[1]),
        ];
        for (trouble, times) in troubles {
            assert!(
                times.load(Ordering::Relaxed) > 0,
                "no batch was {trouble}: the test proves less than it says"
            );
        }
    });
}

#[test]
fn what_is_held_after_the_fold_is_what_single_units_did() {
    let (units, seed) = (count("FEATUREOPS_UNITS", 12_000), count("FEATUREOPS_SEED", 1));
    println!("FEATUREOPS_UNITS={units} FEATUREOPS_SEED={seed}");
    runtime().block_on(async {
        let told = tell(seed, u32::try_from(units).unwrap(), Trouble::Fold(units)).await;
        assert!(told.faults.is_empty(), "{:#?}", told.faults);
        assert!(told.visits.totals.crossed > 0 && told.happened.broken.load(Ordering::Relaxed) > 0);
    });
}

#[test]
fn a_producer_that_renames_what_got_no_answer_is_noticed() {
    // As if the node did not know its batches: what came twice counts twice. Exposures still count once, by their units.
    runtime().block_on(async {
        let told = tell(1, 3_000, Trouble::Renames).await;
        assert!(told.happened.lost_after.load(Ordering::Relaxed) > 0);
        let said = told.faults.join("\n");
        assert!(said.contains("COUNTED") && said.contains("squares"), "not noticed: {said}");
    });
}
