//! Load that remembers: producers of facts and a writer of flags, each of which repeats what was not answered under the
//! same name, and keeps what was acknowledged.
//!
//! ```text
//!   producer n: exposures of 16 new units ── answered ──> three batches of outcomes at once ── all answered ──> again
//!                    └ sent: added before the first attempt          └ acknowledged: added after the answer
//! ```
//!
//! So at any moment acknowledged <= what the node must hold <= sent, and the two are equal when the load has ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use featureops_proto::v1::{
    Arm, CreateExperimentRequest, Experiment, Exposure, Flag, Metric, Outcome, ReportExposuresRequest,
    ReportFactsResponse, ReportOutcomesRequest, SetFlagRequest, SetMetricRequest, StartExperimentRequest,
    ValueType, experiment, metric,
};
use std::sync::Mutex;
use tokio::task::JoinSet;

use crate::client::{Client, answered};

/// The environment everything happens in.
pub const ENVIRONMENT: &str = "environments/production";
/// The experiment's and its flag's key.
pub const EXPERIMENT: &str = "checkout";
/// The arms, control first.
pub const ARMS: [&str; 2] = ["control", "treatment"];
/// Flags that are written over and over.
pub const FLAGS: u64 = 4;
/// Units of one batch of exposures.
const UNITS: u64 = 16;
/// Longest time one write goes without an answer: longer than a node needs to start again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sums over events, per arm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Distinct units.
    pub units: [u64; 2],
    /// Events of the COUNT metric.
    pub orders: [u64; 2],
    /// Sum of the MEAN metric, in cents.
    pub revenue_cents: [u64; 2],
    /// Units with an event of the PROPORTION metric.
    pub converted: [u64; 2],
}

impl Counts {
    fn add(&mut self, other: &Self) {
        for arm in 0..2 {
            self.units[arm] += other.units[arm];
            self.orders[arm] += other.orders[arm];
            self.revenue_cents[arm] += other.revenue_cents[arm];
            self.converted[arm] += other.converted[arm];
        }
    }
}

/// What the callers know.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Facts for which there was at least one attempt.
    pub sent: Counts,
    /// Facts that were acknowledged.
    pub acknowledged: Counts,
    /// Per flag: what was written at which version, acknowledged.
    pub flags: BTreeMap<String, BTreeMap<u64, String>>,
    /// The highest audit record seen.
    pub audit: u64,
    /// Answers that were wrong in themselves, in words.
    pub faults: Vec<String>,
}

/// Load over one node.
#[derive(Debug)]
pub struct Load {
    known: Arc<Mutex<Known>>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

/// Defines the flag, the metrics and the experiment, and starts it.
///
/// # Errors
/// The node refused.
pub async fn prepare(client: &Client) -> Result<(), tonic::Status> {
    let mut variants = BTreeMap::new();
    for (number, arm) in ARMS.iter().enumerate() {
        variants.insert((*arm).to_owned(), number.to_string().into());
    }
    let flag = Flag {
        name: format!("{ENVIRONMENT}/flags/{EXPERIMENT}"),
        r#type: ValueType::String.into(),
        variants,
        default_variant: Some(ARMS[0].into()),
        safe_variant: Some(ARMS[0].into()),
        ..Flag::default()
    };
    let request = SetFlagRequest { flag: Some(flag), ..SetFlagRequest::default() };
    client.flags.clone().set_flag(request).await?;
    let kinds = [
        ("orders", metric::Kind::Count, 0),
        ("revenue", metric::Kind::Mean, 2),
        ("converted", metric::Kind::Proportion, 0),
    ];
    for (key, kind, scale) in kinds {
        let metric = Metric {
            name: format!("{ENVIRONMENT}/metrics/{key}"),
            kind: kind.into(),
            direction: metric::Direction::HigherIsBetter.into(),
            decimal_scale: Some(scale),
            ..Metric::default()
        };
        let request = SetMetricRequest { metric: Some(metric), ..SetMetricRequest::default() };
        client.metrics.clone().set_metric(request).await?;
    }
    let name = format!("{ENVIRONMENT}/experiments/{EXPERIMENT}");
    let experiment = Experiment {
        name: name.clone(),
        flag: EXPERIMENT.into(),
        arms: ARMS.iter().map(|arm| Arm { variant: (*arm).into(), established: true }).collect(),
        primary_metric: "converted".into(),
        secondary_metrics: vec!["orders".into(), "revenue".into()],
        policy: experiment::Policy::Fixed.into(),
        ..Experiment::default()
    };
    let request =
        CreateExperimentRequest { experiment: Some(experiment), ..CreateExperimentRequest::default() };
    client.experiments.clone().create_experiment(request).await?;
    let request = StartExperimentRequest { name, ..StartExperimentRequest::default() };
    client.experiments.clone().start_experiment(request).await?;
    Ok(())
}

impl Load {
    /// Starts `producers` producers and the writer of flags against a prepared node.
    #[must_use]
    pub fn start(client: &Client, producers: u64) -> Self {
        let (known, stop) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        let worker = Worker { client: client.clone(), known: Arc::clone(&known), stop: Arc::clone(&stop) };
        for producer in 0..producers {
            tasks.spawn(worker.clone().produce(producer));
        }
        tasks.spawn(worker.write_flags());
        Self { known, stop, tasks }
    }

    /// What is known now.
    ///
    /// # Panics
    /// A worker did.
    #[must_use]
    pub fn known(&self) -> Known {
        self.known.lock().unwrap().clone()
    }

    /// What is known, for whoever looks while it goes on.
    #[must_use]
    pub fn watcher(&self) -> Watcher {
        Watcher(Arc::clone(&self.known))
    }

    /// Lets every writer get its last answer, then hands over what is known: `sent` and `acknowledged` are equal.
    ///
    /// # Panics
    /// A writer got no answer within its patience.
    pub async fn end(mut self) -> Known {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.known()
    }
}

/// A look at what is known.
#[derive(Debug, Clone)]
pub struct Watcher(Arc<Mutex<Known>>);

impl Watcher {
    /// The newest version of a flag that was acknowledged; 0 when there is none.
    ///
    /// # Panics
    /// A worker did.
    #[must_use]
    pub fn version(&self, flag: &str) -> u64 {
        let known = self.0.lock().unwrap();
        known.flags.get(flag).and_then(|written| written.keys().next_back().copied()).unwrap_or(0)
    }
}

#[derive(Debug, Clone)]
struct Worker {
    client: Client,
    known: Arc<Mutex<Known>>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    fn note(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.lock().unwrap());
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed) && self.known.lock().unwrap().faults.is_empty()
    }

    async fn produce(self, producer: u64) {
        let (mut sequence, mut unit) = (0, 0);
        let name = format!("shop-{producer}");
        while self.goes_on() {
            let units: Vec<u64> = (unit..unit + UNITS).collect();
            unit += UNITS;
            sequence += 1;
            self.expose(&name, sequence, &units).await;
            let mut batches = JoinSet::new();
            for part in 0..3 {
                sequence += 1;
                let (worker, name, units, sequence) = (self.clone(), name.clone(), units.clone(), sequence);
                batches.spawn(async move { worker.report(&name, sequence, &units, part).await });
            }
            while let Some(ended) = batches.join_next().await {
                ended.unwrap();
            }
        }
    }

    async fn expose(&self, producer: &str, sequence: u64, units: &[u64]) {
        let mut counts = Counts::default();
        let exposures: Vec<Exposure> = units
            .iter()
            .map(|unit| {
                counts.units[arm_of(*unit)] += 1;
                Exposure {
                    experiment: EXPERIMENT.into(),
                    unit: format!("{producer}-{unit}"),
                    variant: ARMS[arm_of(*unit)].into(),
                    ..Exposure::default()
                }
            })
            .collect();
        let events = exposures.len();
        let request = ReportExposuresRequest {
            environment: ENVIRONMENT.into(),
            producer: producer.into(),
            sequence,
            exposures,
        };
        self.note(|known| known.sent.add(&counts));
        let ask = || {
            let (mut facts, request) = (self.client.facts.clone(), request.clone());
            async move { facts.report_exposures(request).await }
        };
        self.took(producer, sequence, events, &counts, answered(PATIENCE, ask).await);
    }

    async fn report(&self, producer: &str, sequence: u64, units: &[u64], part: u64) {
        let mut counts = Counts::default();
        let mut outcomes = Vec::new();
        for unit in units {
            let arm = arm_of(*unit);
            let mut event = |metric: &str, value: Option<f64>| {
                let unit = format!("{producer}-{unit}");
                outcomes.push(Outcome { metric: metric.into(), unit, value, ..Outcome::default() });
            };
            for _ in 0..unit % 3 {
                event("orders", None);
                counts.orders[arm] += 1;
            }
            let cents = (unit * 7 + part * 131) % 5_000;
            event("revenue", Some(f64::from(u32::try_from(cents).unwrap()) / 100.0));
            counts.revenue_cents[arm] += cents;
            if part == 0 && unit % 5 == 0 {
                event("converted", None);
                counts.converted[arm] += 1;
            }
        }
        let events = outcomes.len();
        let request = ReportOutcomesRequest {
            environment: ENVIRONMENT.into(),
            producer: producer.into(),
            sequence,
            outcomes,
        };
        self.note(|known| known.sent.add(&counts));
        let ask = || {
            let (mut facts, request) = (self.client.facts.clone(), request.clone());
            async move { facts.report_outcomes(request).await }
        };
        self.took(producer, sequence, events, &counts, answered(PATIENCE, ask).await);
    }

    fn took(
        &self,
        producer: &str,
        sequence: u64,
        events: usize,
        counts: &Counts,
        answer: Result<ReportFactsResponse, tonic::Status>,
    ) {
        self.note(|known| match answer {
            // A repeated batch gets the answer that was lost, so both say the same.
            Ok(answer) if answer.counted as usize == events => known.acknowledged.add(counts),
            Ok(answer) => known.faults.push(format!(
                "{producer}/{sequence}: {} of {events} events counted, duplicate {}: {:?}",
                answer.counted,
                answer.duplicate,
                answer.verdicts.first()
            )),
            Err(status) => known.faults.push(format!("{producer}/{sequence}: {status}")),
        });
    }

    async fn write_flags(self) {
        let mut number = 0u64;
        while self.goes_on() {
            number += 1;
            let key = format!("written-{}", number % FLAGS);
            let description = format!("written the {number}th time");
            let flag = Flag {
                name: format!("{ENVIRONMENT}/flags/{key}"),
                r#type: ValueType::String.into(),
                variants: BTreeMap::from([("on".to_owned(), number.to_string().into())]),
                default_variant: Some("on".into()),
                description: description.clone(),
                ..Flag::default()
            };
            let request = SetFlagRequest {
                flag: Some(flag),
                request_id: format!("write-{number}"),
                ..SetFlagRequest::default()
            };
            let ask = || {
                let (mut flags, request) = (self.client.flags.clone(), request.clone());
                async move { flags.set_flag(request).await }
            };
            match answered(PATIENCE, ask).await {
                Ok(flag) => self.note(|known| {
                    known.flags.entry(key).or_default().insert(flag.flag_version, description);
                }),
                Err(status) => self.note(|known| known.faults.push(format!("{key}: {status}"))),
            }
        }
    }
}

fn arm_of(unit: u64) -> usize {
    usize::from(!unit.is_multiple_of(2))
}
