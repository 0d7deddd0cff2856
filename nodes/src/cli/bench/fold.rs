//! The fold alone, fed encoded entries: what the ledger's measurements share.

use std::collections::BTreeMap;

use featureops_proto::log::{
    self, Batch, Entry, ExposureFact, Ingest, Initialize, OutcomeFact, ReceiptKey, assign_owners, entry,
    reply,
};
use featureops_proto::v1::{self, metric::Kind, principal};
use featureops_state::State;
use prost::Message as _;
use tokio::time::Instant;

use crate::cli::failure::Failure;

/// Events of an entry.
pub const BATCH: u64 = 4_000;
const PRODUCER: &str = "bench";
const UNIT_KEY: u64 = 7;
/// Log time of the run.
const NOW_MS: i64 = 1_780_272_000_000;

/// Spreads numbers over all 64 bits, as the keyed hash of units does, each to one and back.
pub const fn hash(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_add(1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// One exposure each of units from the first on.
pub fn exposures(experiment: u32, first: u64, count: u64) -> Vec<ExposureFact> {
    let exposure = |(index, unit): (u32, u64)| ExposureFact {
        index,
        experiment,
        arm: (unit % 2) as u32,
        unit_hash: hash(unit),
        minute: 0,
        generation: 0,
        ..ExposureFact::default()
    };
    (0u32..).zip(first..first + count).map(exposure).collect()
}

/// One outcome each.
pub fn outcomes(metric: u32, first: u64, count: u64) -> Vec<OutcomeFact> {
    let outcome = |(index, unit): (u32, u64)| OutcomeFact {
        index,
        metric,
        unit_hash: hash(unit),
        value: 1_250_000 + (unit % 1_000) as i64,
        ..OutcomeFact::default()
    };
    (0u32..).zip(first..first + count).map(outcome).collect()
}

/// A state and the next position of its log.
pub struct Fold {
    /// The product's own.
    pub state: State,
    position: u64,
    sequence: u64,
    now_ms: i64,
}

impl Fold {
    pub fn new() -> Result<Self, Failure> {
        let mut fold = Self { state: State::new(), position: 0, sequence: 0, now_ms: NOW_MS };
        fold.command(entry::Command::Initialize(Initialize {
            cluster: "bench".to_owned(),
            unit_key_id: UNIT_KEY,
            receipt_key: Some(ReceiptKey { id: 1, key: vec![1; 16] }),
            now_ms: 0,
            feature_level: 0,
        }))?;
        fold.tick(0)?;
        Ok(fold)
    }

    pub fn tick(&mut self, forward_ms: i64) -> Result<(), Failure> {
        self.now_ms += forward_ms;
        self.command(entry::Command::Tick(log::Tick { now_ms: self.now_ms, after_restart: false }))
    }

    fn apply(&mut self, bytes: &[u8]) -> Result<log::Reply, Failure> {
        self.position += 1;
        self.state
            .apply(self.position, bytes, &mut Vec::new())
            .map_err(|violation| Failure::internal(format!("the fold stopped: {}", violation.detail)))
    }

    fn command(&mut self, command: entry::Command) -> Result<(), Failure> {
        let principal =
            v1::Principal { kind: principal::Kind::Human.into(), id: "bench".to_owned(), verified: false };
        let entry = Entry { principal: Some(principal), command: Some(command), ..Entry::default() };
        match self.apply(&entry.encode_to_vec())?.result {
            Some(reply::Result::Refusal(refusal)) => Err(Failure::internal(refusal.message)),
            _ => Ok(()),
        }
    }

    /// A running experiment of two arms, on a flag of its own, with metrics of its own; its number, and theirs.
    pub fn experiment(&mut self, id: &str, kinds: &[Kind]) -> Result<(u32, Vec<u32>), Failure> {
        let arms = ["control", "treatment"];
        let variants: BTreeMap<_, _> = arms.iter().map(|arm| ((*arm).to_owned(), (*arm).into())).collect();
        self.command(entry::Command::SetFlag(log::SetFlag {
            flag: Some(v1::Flag {
                name: format!("environments/bench/flags/{id}"),
                r#type: v1::ValueType::String.into(),
                variants,
                default_variant: Some("control".to_owned()),
                safe_variant: Some("control".to_owned()),
                ..v1::Flag::default()
            }),
            etag: String::new(),
        }))?;
        let metrics: Vec<String> = (0..kinds.len()).map(|at| format!("{id}-{at}")).collect();
        for (metric, kind) in metrics.iter().zip(kinds) {
            self.command(entry::Command::SetMetric(log::SetMetric {
                metric: Some(v1::Metric {
                    name: format!("environments/bench/metrics/{metric}"),
                    kind: (*kind).into(),
                    direction: v1::metric::Direction::HigherIsBetter.into(),
                    ..v1::Metric::default()
                }),
                etag: String::new(),
            }))?;
        }
        let name = format!("environments/bench/experiments/{id}");
        self.command(entry::Command::CreateExperiment(log::CreateExperiment {
            experiment: Some(v1::Experiment {
                name: name.clone(),
                flag: id.to_owned(),
                arms: arms
                    .iter()
                    .map(|arm| v1::Arm { variant: (*arm).to_owned(), established: true })
                    .collect(),
                primary_metric: metrics.first().cloned().unwrap_or_default(),
                secondary_metrics: metrics.iter().skip(1).cloned().collect(),
                ..v1::Experiment::default()
            }),
        }))?;
        let etag = String::new();
        let autonomy = v1::AutonomyLevel::A4Bounded.into();
        self.command(entry::Command::StartExperiment(log::StartExperiment { name, autonomy, etag }))?;
        let missing = || Failure::internal("the experiment is not in the state");
        let experiment = self.state.experiment("bench", id).ok_or_else(missing)?.number;
        let assignments = vec![assign_owners::Assignment { experiment, node: 1, from_epoch: None }];
        self.command(entry::Command::AssignOwners(log::AssignOwners { assignments }))?;
        let number = |metric: &String| Some(self.state.metric("bench", metric)?.number);
        let metrics = metrics.iter().map(number).collect::<Option<Vec<u32>>>().ok_or_else(missing)?;
        Ok((experiment, metrics))
    }

    pub fn view(&self, id: &str) -> Result<featureops_state::ExperimentView, Failure> {
        let missing = || Failure::internal("the experiment is not in the state");
        self.state.experiment_view("bench", id).ok_or_else(missing)
    }

    /// Applies one batch, all of which must count; nanoseconds.
    pub fn ingest(&mut self, batch: Batch) -> Result<f64, Failure> {
        let events = batch.exposures.len() + batch.outcomes.len();
        let (ns, counted) = self.offer(batch)?;
        if counted != events {
            return Err(Failure::internal(format!("{counted} of {events} events were counted")));
        }
        Ok(ns)
    }

    /// Applies one batch: nanoseconds, and events that counted.
    pub fn offer(&mut self, batch: Batch) -> Result<(f64, usize), Failure> {
        self.sequence += 1;
        let batch = Batch {
            environment: "bench".to_owned(),
            producer: PRODUCER.to_owned(),
            sequence: self.sequence,
            content_hash: self.sequence,
            unit_key_id: UNIT_KEY,
            ..batch
        };
        let ingest = entry::Command::Ingest(Ingest { batches: vec![batch] });
        let bytes = Entry { command: Some(ingest), ..Entry::default() }.encode_to_vec();
        let began = Instant::now();
        let reply = self.apply(&bytes)?;
        let ns = began.elapsed().as_nanos() as f64;
        let counted = match reply.result {
            Some(reply::Result::Ingested(ingested)) => {
                ingested.batches.first().map_or(0, |batch| batch.counted as usize)
            }
            _ => 0,
        };
        Ok((ns, counted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_of_a_batch_counts() {
        let mut fold = Fold::new().unwrap();
        let (experiment, metrics) = fold.experiment("e", &[Kind::Mean]).unwrap();
        fold.ingest(Batch { exposures: exposures(experiment, 0, BATCH), ..Batch::default() }).unwrap();
        for _ in 0..2 {
            fold.ingest(Batch { outcomes: outcomes(metrics[0], 0, BATCH), ..Batch::default() }).unwrap();
        }
        assert!(fold.view("e").unwrap().bytes > 0);
    }
}
