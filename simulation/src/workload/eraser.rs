//! The eraser: exposes units of its own, lets some of them buy something, and erases them again.
//!
//! It reports facts itself and never evaluates, so that nothing of its units is on its way when an erasure was answered. Whatever
//! it does is repeated under its own sequence or id until it is answered; a unit of something without an answer is let go.

use std::collections::BTreeSet;
use std::time::Duration;

use featureops::rpc::fact_service_client::FactServiceClient;
use featureops::rpc::ledger_service_client::LedgerServiceClient;
use featureops_proto::v1;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::{ARMS, ENVIRONMENT, EXPERIMENTS, Stage, World, clicks};
use crate::caller::{Answer, Caller};
use crate::dice::Dice;
use crate::history::{Erased, ErasedClick};

/// Units that come and go.
const UNITS: u64 = 12;
/// Sends of one thing after which its outcome stays unknown.
const SENDS_MAX: u64 = 200;
/// Pause between two sends.
const PAUSE: Duration = Duration::from_millis(100);

struct Eraser {
    world: World,
    caller: Caller,
    dice: Dice,
    sequence: u64,
    request: u64,
    /// Of these nothing is known to be gone.
    lost: BTreeSet<u64>,
}

/// Exposes and erases until the world closes; then all of its units are erased.
pub async fn run(world: World) -> turmoil::Result {
    let caller = world.caller("eraser", "human:eraser");
    let dice = Dice::new(world.plan.seed, "eraser");
    let mut eraser = Eraser { world, caller, dice, sequence: 0, request: 0, lost: BTreeSet::new() };
    while !eraser.world.stage.reached(Stage::Closing) {
        let pause = eraser.dice.between(200, 2_000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let unit = eraser.dice.between(1, UNITS);
        if eraser.dice.percent(60) {
            eraser.report(unit).await;
        } else {
            eraser.erase(unit).await;
        }
    }
    for unit in 1..=UNITS {
        eraser.erase(unit).await;
    }
    Ok(())
}

fn unit_name(unit: u64) -> String {
    format!("erased-{unit}")
}

impl Eraser {
    /// An exposure, and sometimes a click.
    async fn report(&mut self, unit: u64) {
        let experiment = self.dice.pick(EXPERIMENTS).copied().unwrap_or_default();
        let arm = self.dice.pick(ARMS).copied().unwrap_or_default();
        let exposure = v1::Exposure {
            experiment: experiment.to_owned(),
            unit: unit_name(unit),
            variant: arm.to_owned(),
            ..v1::Exposure::default()
        };
        let outcome =
            v1::Outcome { metric: clicks(experiment), unit: unit_name(unit), ..v1::Outcome::default() };
        self.sequence = self.sequence.saturating_add(1);
        let batch = v1::ReportExposuresRequest {
            environment: ENVIRONMENT.to_owned(),
            producer: "eraser".to_owned(),
            sequence: self.sequence,
            exposures: vec![exposure],
        };
        let act =
            |channel, request| async move { FactServiceClient::new(channel).report_exposures(request).await };
        if !self.send("report exposure", batch, act).await {
            self.lose(unit);
            return;
        }
        if self.dice.percent(50) {
            let click = ErasedClick { experiment: experiment.to_owned(), unit: unit_name(unit) };
            self.world.history.write(|seen| seen.erased_clicks.push(click));
            self.sequence = self.sequence.saturating_add(1);
            let batch = v1::ReportOutcomesRequest {
                environment: ENVIRONMENT.to_owned(),
                producer: "eraser".to_owned(),
                sequence: self.sequence,
                outcomes: vec![outcome],
            };
            let act = |channel, request| async move {
                FactServiceClient::new(channel).report_outcomes(request).await
            };
            if !self.send("report outcome", batch, act).await {
                self.lose(unit);
            }
        }
    }

    /// Something of the unit may come to the log after its last erasure: what is held of it says nothing.
    fn lose(&mut self, unit: u64) {
        self.lost.insert(unit);
        self.world.history.write(|seen| seen.unsure.extend([unit_name(unit)]));
    }

    /// Whether there was an answer in the end.
    async fn send<Q, A, R>(&mut self, what: &str, request: Q, act: impl Fn(Channel, Request<Q>) -> R) -> bool
    where
        Q: Clone,
        A: std::fmt::Debug,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        for sends in 1..=SENDS_MAX {
            match self.caller.call(what, request.clone(), &act).await {
                Answer::Ok(_) => return true,
                // An earlier send of it may still come to the log.
                Answer::Refused(_) => return sends == 1,
                Answer::Unknown(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        false
    }

    async fn erase(&mut self, unit: u64) {
        if self.lost.contains(&unit) {
            return;
        }
        self.request = self.request.saturating_add(1);
        let request = v1::EraseUnitRequest {
            parent: "environments/-".to_owned(),
            unit: unit_name(unit),
            request_id: format!("eraser-{}", self.request),
            validate_only: false,
        };
        for _ in 0..SENDS_MAX {
            let act =
                |channel, request| async move { LedgerServiceClient::new(channel).erase_unit(request).await };
            match self.caller.call("erase", request.clone(), act).await {
                Answer::Ok(answer) => {
                    let erased = Erased { unit: unit_name(unit), stays: u64::from(answer.stays) };
                    self.world.history.write(|seen| {
                        seen.unsure.remove(&erased.unit);
                        seen.erased.push(erased);
                    });
                    return;
                }
                // It is held on, and that is right.
                Answer::Refused(_) => {
                    self.world.history.write(|seen| seen.unsure.extend([unit_name(unit)]));
                    return;
                }
                Answer::Unknown(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        self.lose(unit);
    }
}
