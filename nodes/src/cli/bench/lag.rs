//! How long an outcome takes to move traffic: from a batch's acknowledgement to the first evaluation under the new weights.
//!
//! ```text
//!   outcomes ── acknowledged ── next tick of log time freezes the ledger ── owner decides ── log ── published ── evaluated
//!                  |<-------------------------------- measured ------------------------------------------------->|
//! ```
//!
//! Each repeat has an experiment of its own, exposed beforehand and without a difference between its arms, so that
//! nothing but the batch moves it. Repeats begin at different places between two ticks.

use std::time::Duration;

use featureops_cluster::Options;
use featureops_proto::v1::experiment::Policy;
use featureops_proto::v1::{
    EvaluateRequest, Exposure, Outcome, ReportExposuresRequest, ReportOutcomesRequest,
};
use tokio::time::Instant;
use tonic::transport::Channel;

use super::Plan;
use super::report::{Bar, Figure, median};
use super::world::{
    ARMS, CONVERSION, ENVIRONMENT, World, context_of, define_metrics, failed, one_of, start_experiment,
};
use crate::cli::failure::Failure;
use crate::rpc::evaluation_service_client::EvaluationServiceClient;
use crate::rpc::fact_service_client::FactServiceClient;

const REPEATS: usize = 10;
/// Units of each arm.
const UNITS: usize = 1_000;
/// Successes by arm: the second is better with 98 %, which moves traffic, and not so plainly that the owner would ask a
/// person to promote it instead.
const SUCCESSES: [usize; 2] = [100, 130];
/// How often the flag is asked for.
const LOOK: Duration = Duration::from_millis(2);
/// Beyond it the repeat is given up, and counts as this long.
const PATIENCE: Duration = Duration::from_secs(10);

pub async fn measure(plan: &Plan) -> Result<Vec<Figure>, Failure> {
    let world = World::start(&plan.data).await?;
    let channels = world.connect(1).await?;
    let channel = one_of(&channels, 0)?;
    define_metrics(&channel).await?;
    for repeat in 0..REPEATS {
        let key = key(repeat);
        start_experiment(&channel, &key, Policy::Thompson).await?;
        expose(&channel, &key, repeat).await?;
    }
    // The owners have looked at the exposures by then.
    tokio::time::sleep(Duration::from_millis(2_500)).await;

    let tick_ms = Options::new(1, "").tick_ms;
    let tick = Duration::from_millis(tick_ms);
    let mut lags_ms = Vec::with_capacity(REPEATS);
    let mut given_up = 0;
    for repeat in 0..REPEATS {
        let (lag, seen) = lag(&channel, repeat).await?;
        lags_ms.push(lag.as_secs_f64() * 1_000.0);
        given_up += usize::from(!seen);
        // A repeat ends at the same place after a tick: the next one begins a tenth of a tick later.
        tokio::time::sleep(tick * repeat as u32 / REPEATS as u32).await;
    }
    world.stop().await;

    let longest = lags_ms.iter().copied().fold(0.0, f64::max);
    let shortest = lags_ms.iter().copied().fold(f64::INFINITY, f64::min);
    let tick_ms = tick_ms as f64;
    let bar = Bar::AtMost(2_000.0);
    let note = format!(
        "{REPEATS} repeats from {shortest:.0} to {longest:.0} ms; log time ticks every {tick_ms:.0} ms{}",
        if given_up > 0 { format!("; {given_up} moved nothing within {PATIENCE:?}") } else { String::new() }
    );
    let name = "mean wait for a tick";
    Ok(vec![
        Figure::new("reallocation lag, median", "ms", median(&lags_ms))
            .limit(name, tick_ms / 2.0)
            .bar(bar)
            .note(note),
        Figure::new("reallocation lag, longest", "ms", longest)
            .limit("longest wait for a tick", tick_ms)
            .bar(bar),
    ])
}

fn key(repeat: usize) -> String {
    format!("moved-{repeat}")
}

fn unit(repeat: usize, arm: usize, number: usize) -> String {
    format!("unit-{repeat}-{arm}-{number}")
}

/// Both arms have been shown, equally often.
async fn expose(channel: &Channel, key: &str, repeat: usize) -> Result<(), Failure> {
    let exposures = ARMS.iter().enumerate().flat_map(|(arm, variant)| {
        (0..UNITS).map(move |number| Exposure {
            experiment: key.to_owned(),
            unit: unit(repeat, arm, number),
            variant: (*variant).to_owned(),
            ..Exposure::default()
        })
    });
    let request = ReportExposuresRequest {
        environment: ENVIRONMENT.to_owned(),
        producer: format!("bench-exposures-{repeat}"),
        sequence: 1,
        exposures: exposures.collect(),
    };
    FactServiceClient::new(channel.clone()).report_exposures(request).await.map_err(failed)?;
    Ok(())
}

/// Share of traffic of the arm that a bystander is served.
async fn propensity(
    client: &mut EvaluationServiceClient<Channel>,
    key: &str,
) -> Result<Option<u32>, Failure> {
    let request = EvaluateRequest {
        environment: ENVIRONMENT.to_owned(),
        flag: key.to_owned(),
        context: Some(context_of("bystander")),
        no_exposure: true,
        ..EvaluateRequest::default()
    };
    Ok(client.evaluate(request).await.map_err(failed)?.into_inner().propensity_basis_points)
}

/// The time until evaluations show new weights, and whether they did.
async fn lag(channel: &Channel, repeat: usize) -> Result<(Duration, bool), Failure> {
    let key = key(repeat);
    let mut evaluations = EvaluationServiceClient::new(channel.clone());
    let before = propensity(&mut evaluations, &key).await?;
    let outcomes = SUCCESSES.iter().enumerate().flat_map(|(arm, successes)| {
        (0..*successes).map(move |number| Outcome {
            metric: CONVERSION.to_owned(),
            unit: unit(repeat, arm, number),
            ..Outcome::default()
        })
    });
    let request = ReportOutcomesRequest {
        environment: ENVIRONMENT.to_owned(),
        producer: format!("bench-outcomes-{repeat}"),
        sequence: 1,
        outcomes: outcomes.collect(),
    };
    let sent: usize = SUCCESSES.iter().sum();
    let answer = FactServiceClient::new(channel.clone()).report_outcomes(request).await.map_err(failed)?;
    let acknowledged = Instant::now();
    let counted = answer.into_inner().counted;
    if counted as usize != sent {
        return Err(Failure::internal(format!("{counted} of {sent} outcomes were counted")));
    }
    loop {
        let now = propensity(&mut evaluations, &key).await?;
        let lag = acknowledged.elapsed();
        if now != before {
            return Ok((lag, true));
        }
        if lag >= PATIENCE {
            return Ok((PATIENCE, false));
        }
        tokio::time::sleep(LOOK).await;
    }
}
