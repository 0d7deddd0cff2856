//! Facts of a metric that many experiments share: an outcome by unit counts in each of them.
//!
//! ```text
//!   one outcome by unit    -> 1 | 10 | 50 running experiments that declare the metric and hold the unit
//!   one outcome by receipt -> the one experiment that gave it, whoever else declares the metric
//! ```
//!
//! All experiments hold all units, which is the worst that a start lets happen short of 64.

use std::time::Duration;

use featureops_proto::v1::experiment::Policy;
use featureops_proto::v1::{Exposure, GetExperimentStatusRequest, ReportExposuresRequest};
use tonic::transport::Channel;

use super::facts::{EXPERIMENT, Engine, Producers, UNITS, command_bytes, unit};
use super::processor_seconds;
use super::report::{Bar, Figure};
use super::world::{ARMS, ENVIRONMENT, failed, one_of, start_experiment};
use crate::cli::failure::Failure;
use crate::rpc::experiment_service_client::ExperimentServiceClient;
use crate::rpc::fact_service_client::FactServiceClient;

/// Experiments a metric, and what their rows are called.
const ROWS: [(usize, &str, &str); 2] = [
    (10, "facts by unit, 10 experiments a metric", "facts by receipt, 10 experiments a metric"),
    (50, "facts by unit, 50 experiments a metric", "facts by receipt, 50 experiments a metric"),
];
const ROUNDS: usize = 3;
const BATCH: usize = 4_000;

/// Both ways of joining, with more and more experiments beside the first.
pub async fn measure(
    channels: &[Channel],
    by_unit: &Producers,
    by_receipt: &Producers,
    engine: &Engine,
    slice: Duration,
) -> Result<Vec<Figure>, Failure> {
    let control = one_of(channels, 0)?;
    let mut figures = Vec::new();
    let mut running = 1;
    for (experiments, unit_row, receipt_row) in ROWS {
        while running < experiments {
            running += 1;
            let key = format!("{EXPERIMENT}-{running}");
            start_experiment(&control, &key, Policy::Fixed).await?;
            expose(&control, &key).await?;
        }
        let (mut unit, mut receipt, mut bare) = (Vec::new(), Vec::new(), Vec::new());
        let (mut unit_cost, mut receipt_cost) = (Cost::default(), Cost::default());
        for _ in 0..ROUNDS {
            unit.push(unit_cost.of(by_unit.unary(channels, slice)).await?);
            receipt.push(receipt_cost.of(by_receipt.unary(channels, slice)).await?);
            bare.push(engine.write(command_bytes(false), slice).await?);
        }
        let last = format!("{EXPERIMENT}-{running}");
        let counted = counted(&control, &last).await?;
        if counted < 2 * UNITS as u64 {
            return Err(Failure::internal(format!("experiment {last} counted {counted} events: too few")));
        }
        let row = |name, measured: &[f64], cost: &Cost| {
            Figure::beside(name, "/s", measured, "bare log engine", &bare)
                .bar(Bar::AtLeast(100_000.0))
                .note(format!("{:.2} µs of processor a fact, its clients included", cost.microseconds()))
        };
        figures.push(row(unit_row, &unit, &unit_cost));
        figures.push(row(receipt_row, &receipt, &receipt_cost));
    }
    Ok(figures)
}

/// Processor time of this process over facts.
#[derive(Default)]
struct Cost {
    seconds: f64,
    facts: f64,
}

impl Cost {
    /// Adds a slice that says its facts a second.
    async fn of(&mut self, slice: impl Future<Output = Result<f64, Failure>>) -> Result<f64, Failure> {
        let (before, began) = (processor_seconds(), tokio::time::Instant::now());
        let rate = slice.await?;
        self.facts += rate * began.elapsed().as_secs_f64();
        self.seconds += processor_seconds() - before;
        Ok(rate)
    }

    fn microseconds(&self) -> f64 {
        if self.facts > 0.0 { self.seconds / self.facts * 1e6 } else { 0.0 }
    }
}

/// Shows every unit an arm of the experiment.
async fn expose(channel: &Channel, experiment: &str) -> Result<(), Failure> {
    let mut client = FactServiceClient::new(channel.clone());
    let numbers: Vec<usize> = (0..UNITS).collect();
    let mut counted = 0;
    for (sequence, numbers) in (1..).zip(numbers.chunks(BATCH)) {
        let exposure = |number: &usize| Exposure {
            experiment: experiment.to_owned(),
            unit: unit(*number),
            variant: ARMS.get(number % ARMS.len()).copied().unwrap_or_default().to_owned(),
            ..Exposure::default()
        };
        let request = ReportExposuresRequest {
            environment: ENVIRONMENT.to_owned(),
            producer: format!("bench-{experiment}"),
            sequence,
            exposures: numbers.iter().map(exposure).collect(),
        };
        counted += client.report_exposures(request).await.map_err(failed)?.into_inner().counted as usize;
    }
    if counted == UNITS {
        return Ok(());
    }
    Err(Failure::internal(format!("{counted} of {UNITS} exposures of {experiment} counted")))
}

/// Events that the experiment counted, exposures among them.
async fn counted(channel: &Channel, experiment: &str) -> Result<u64, Failure> {
    let name = format!("{ENVIRONMENT}/experiments/{experiment}");
    let mut client = ExperimentServiceClient::new(channel.clone());
    let request = GetExperimentStatusRequest { name };
    let status = client.get_experiment_status(request).await.map_err(failed)?.into_inner();
    Ok(status.verdicts.get("COUNTED").copied().unwrap_or(0))
}
