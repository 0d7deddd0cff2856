//! The ledger: bytes that a unit takes, and time that an outcome takes, in the fold alone.
//!
//! ```text
//!   1,000,000 exposures ── then, in turns ──  outcomes by unit through State::apply  |  bare memory, as large, as random
//! ```
//!
//! No network, no log: entries are encoded beforehand, and `apply` decodes, judges, joins and sums. The limit is one
//! addition to a random word of a block as large as the ledger: what the machine's memory asks for any table at all.

use std::collections::BTreeMap;

use featureops_proto::log::{
    self, Batch, Entry, ExposureFact, Ingest, Initialize, OutcomeFact, ReceiptKey, assign_owners, entry,
    reply,
};
use featureops_proto::v1::{self, principal};
use featureops_state::State;
use prost::Message as _;
use tokio::time::Instant;

use super::report::{Bar, Figure, median};
use crate::cli::failure::Failure;

const UNITS: u64 = 1_000_000;
const BATCH: u64 = 4_000;
/// Batches of one timed slice.
const SLICE: u64 = 25;
const PRODUCER: &str = "bench";
const UNIT_KEY: u64 = 7;
/// Log time of the run.
const NOW_MS: i64 = 1_780_272_000_000;

pub async fn measure() -> Result<Vec<Figure>, Failure> {
    // Seconds of work that waits for nothing.
    tokio::task::spawn_blocking(run)
        .await
        .map_err(|error| Failure::internal(format!("the ledger's run ended early: {error}")))?
}

fn run() -> Result<Vec<Figure>, Failure> {
    let mut fold = Fold::new()?;
    let experiment = fold.experiment()?;
    let mut exposure_ns = Vec::new();
    for first in (0..UNITS).step_by(BATCH as usize) {
        let ns = fold.ingest(Batch { exposures: exposures(experiment, first), ..Batch::default() })?;
        exposure_ns.push(ns / BATCH as f64);
    }
    let exposed_bytes = fold.bytes()? as f64 / UNITS as f64;

    let (metric, words) = (fold.metric()?, (fold.bytes()? / 8).max(1));
    let mut memory = vec![0u64; usize::try_from(words).unwrap_or(1)];
    let (mut outcome_ns, mut memory_ns, mut longest_ns) = (Vec::new(), Vec::new(), 0.0f64);
    // Every unit once, which makes its entry; then once more, which adds to it.
    let mut slice_ns = 0.0;
    for (turn, first) in (0..UNITS).chain(0..UNITS).step_by(BATCH as usize).enumerate() {
        let ns = fold.ingest(Batch { outcomes: outcomes(metric, first), ..Batch::default() })?;
        longest_ns = longest_ns.max(ns);
        slice_ns += ns;
        if (turn as u64 + 1).is_multiple_of(SLICE) {
            outcome_ns.push(slice_ns / (BATCH * SLICE) as f64);
            memory_ns.push(touch(&mut memory, turn as u64, BATCH * SLICE));
            slice_ns = 0.0;
        }
    }
    let full_bytes = fold.bytes()? as f64 / UNITS as f64;
    Ok(vec![
        Figure::new("ledger, a unit", "bytes", exposed_bytes).bar(Bar::AtMost(16.0)).note(format!(
            "{UNITS} exposed units; {full_bytes:.1} bytes once each has an outcome of a mean, rows and sums together"
        )),
        Figure::beside("ledger, an outcome by unit", "ns", &outcome_ns, "bare memory, one word", &memory_ns)
            .bar(Bar::AtMost(600.0))
            .note(format!(
                "an exposure {:.0} ns; the longest entry of {BATCH} outcomes {:.1} ms",
                median(&exposure_ns),
                longest_ns / 1e6
            )),
    ])
}

/// Spreads numbers over all 64 bits, as the keyed hash of units does, each to one and back.
const fn hash(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_add(1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn exposures(experiment: u32, first: u64) -> Vec<ExposureFact> {
    let exposure = |(index, unit): (u32, u64)| ExposureFact {
        index,
        experiment,
        arm: (unit % 2) as u32,
        unit_hash: hash(unit),
        minute: 0,
        generation: 0,
        dimensions: Vec::new(),
    };
    (0u32..).zip(first..first + BATCH).map(exposure).collect()
}

fn outcomes(metric: u32, first: u64) -> Vec<OutcomeFact> {
    let outcome = |(index, unit): (u32, u64)| OutcomeFact {
        index,
        metric,
        unit_hash: hash(unit),
        value: 1_250_000 + (unit % 1_000) as i64,
        ..OutcomeFact::default()
    };
    (0u32..).zip(first..first + BATCH).map(outcome).collect()
}

/// Nanoseconds to add to one random word.
fn touch(memory: &mut [u64], seed: u64, touches: u64) -> f64 {
    let began = Instant::now();
    let length = memory.len() as u64;
    for turn in 0..touches {
        let place = hash(seed.wrapping_mul(touches).wrapping_add(turn)) % length.max(1);
        if let Some(word) = usize::try_from(place).ok().and_then(|place| memory.get_mut(place)) {
            *word = word.wrapping_add(turn);
        }
    }
    std::hint::black_box(&memory);
    began.elapsed().as_nanos() as f64 / touches as f64
}

/// A state and the next position of its log.
struct Fold {
    state: State,
    position: u64,
    sequence: u64,
}

impl Fold {
    fn new() -> Result<Self, Failure> {
        let mut fold = Self { state: State::new(), position: 0, sequence: 0 };
        fold.command(entry::Command::Initialize(Initialize {
            cluster: "bench".to_owned(),
            unit_key_id: UNIT_KEY,
            receipt_key: Some(ReceiptKey { id: 1, key: vec![1; 16] }),
        }))?;
        fold.command(entry::Command::Tick(log::Tick { now_ms: NOW_MS, after_restart: false }))?;
        Ok(fold)
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

    /// A running experiment of two arms and one mean; its number.
    fn experiment(&mut self) -> Result<u32, Failure> {
        let arms = ["control", "treatment"];
        let variants: BTreeMap<_, _> = arms.iter().map(|arm| ((*arm).to_owned(), (*arm).into())).collect();
        self.command(entry::Command::SetFlag(log::SetFlag {
            flag: Some(v1::Flag {
                name: "environments/bench/flags/ledger".to_owned(),
                r#type: v1::ValueType::String.into(),
                variants,
                default_variant: Some("control".to_owned()),
                safe_variant: Some("control".to_owned()),
                ..v1::Flag::default()
            }),
            etag: String::new(),
        }))?;
        self.command(entry::Command::SetMetric(log::SetMetric {
            metric: Some(v1::Metric {
                name: "environments/bench/metrics/revenue".to_owned(),
                kind: v1::metric::Kind::Mean.into(),
                direction: v1::metric::Direction::HigherIsBetter.into(),
                ..v1::Metric::default()
            }),
            etag: String::new(),
        }))?;
        let name = "environments/bench/experiments/ledger".to_owned();
        self.command(entry::Command::CreateExperiment(log::CreateExperiment {
            experiment: Some(v1::Experiment {
                name: name.clone(),
                flag: "ledger".to_owned(),
                arms: arms
                    .iter()
                    .map(|arm| v1::Arm { variant: (*arm).to_owned(), established: true })
                    .collect(),
                primary_metric: "revenue".to_owned(),
                ..v1::Experiment::default()
            }),
        }))?;
        let etag = String::new();
        let autonomy = v1::AutonomyLevel::A4Bounded.into();
        self.command(entry::Command::StartExperiment(log::StartExperiment { name, autonomy, etag }))?;
        let missing = || Failure::internal("the experiment is not in the state");
        let experiment = self.state.experiment("bench", "ledger").ok_or_else(missing)?.number;
        let assignments = vec![assign_owners::Assignment { experiment, node: 1 }];
        self.command(entry::Command::AssignOwners(log::AssignOwners { assignments }))?;
        Ok(experiment)
    }

    fn metric(&self) -> Result<u32, Failure> {
        let missing = || Failure::internal("the metric is not in the state");
        Ok(self.state.metric("bench", "revenue").ok_or_else(missing)?.number)
    }

    fn bytes(&self) -> Result<u64, Failure> {
        let missing = || Failure::internal("the experiment is not in the state");
        Ok(self.state.experiment_view("bench", "ledger").ok_or_else(missing)?.bytes)
    }

    /// Applies one batch, all of which must count; nanoseconds.
    fn ingest(&mut self, batch: Batch) -> Result<f64, Failure> {
        self.sequence += 1;
        let events = batch.exposures.len() + batch.outcomes.len();
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
        if counted != events {
            return Err(Failure::internal(format!("{counted} of {events} events were counted")));
        }
        Ok(ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_of_a_batch_counts() {
        let mut fold = Fold::new().unwrap();
        let experiment = fold.experiment().unwrap();
        fold.ingest(Batch { exposures: exposures(experiment, 0), ..Batch::default() }).unwrap();
        let metric = fold.metric().unwrap();
        for _ in 0..2 {
            fold.ingest(Batch { outcomes: outcomes(metric, 0), ..Batch::default() }).unwrap();
        }
        assert!(fold.bytes().unwrap() > 0);
    }
}
