//! The crowd: in worlds whose ledgers are at the brim, sets the budgets, as people do, and fills what they leave room for.
//!
//! It reports exposures and outcomes of units of its own in batches, and never evaluates. Each batch is repeated until it is
//! answered; so is each command.

use std::time::Duration;

use featureops::rpc::administration_service_client::AdministrationServiceClient;
use featureops::rpc::fact_service_client::FactServiceClient;
use featureops_proto::v1;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::{ARMS, ENVIRONMENT, EXPERIMENTS, Stage, World, clicks, converted, spent};
use crate::caller::{Answer, Caller};
use crate::dice::Dice;
use crate::history::Reported;
use crate::plan::Brim;

/// Sends of one thing after which its outcome stays unknown.
const SENDS_MAX: u64 = 200;
/// Pause between two sends.
const PAUSE: Duration = Duration::from_millis(100);

struct Crowd {
    world: World,
    caller: Caller,
    dice: Dice,
    brim: Brim,
    sequence: u64,
    request: u64,
}

/// Reports until the world closes.
pub async fn run(world: World, brim: Brim) -> turmoil::Result {
    let caller = world.caller("crowd", "human:keeper");
    let dice = Dice::new(world.plan.seed, "crowd");
    let mut crowd = Crowd { world, caller, dice, brim, sequence: 0, request: 0 };
    crowd.set_budgets(false).await;
    while !crowd.world.stage.reached(Stage::Closing) {
        let pause = crowd.dice.between(5, 80);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if crowd.dice.percent(1) {
            crowd.tighten().await;
        } else if crowd.dice.percent(40) {
            crowd.expose().await;
        } else {
            crowd.act().await;
        }
    }
    Ok(())
}

/// Units come to the two arms by turns; one in sixteen comes to the other one as well.
fn arm_of(unit: u64, crosses: bool) -> &'static str {
    let arm = usize::try_from((unit % 2) ^ u64::from(crosses)).unwrap_or(0);
    ARMS.get(arm).copied().unwrap_or_default()
}

impl Crowd {
    fn unit(&mut self) -> u64 {
        self.dice.between(1, self.brim.crowd)
    }

    fn sequence(&mut self) -> u64 {
        self.sequence = self.sequence.saturating_add(1);
        self.sequence
    }

    async fn set_budgets(&mut self, thin: bool) {
        self.request = self.request.saturating_add(1);
        let budgets = v1::Budgets {
            experiment_units: self.brim.experiment_units,
            experiment_sums: self.brim.experiment_sums,
            sums: self.brim.sums,
            experiment_crossed: self.brim.experiment_crossed,
            ..v1::Budgets::default()
        };
        let request = v1::SetBudgetsRequest {
            budgets: Some(budgets),
            request_id: format!("crowd-{}", self.request),
            thin,
            ..v1::SetBudgetsRequest::default()
        };
        let act = |channel, request| async move {
            AdministrationServiceClient::new(channel).set_budgets(request).await
        };
        self.send("set budgets", request, act).await;
    }

    /// A person takes a tenth of the room away; with a word for it, units leave.
    async fn tighten(&mut self) {
        let less = |budget: u64, least: u64| if budget == 0 { 0 } else { (budget / 10 * 9).max(least) };
        self.brim.experiment_sums = less(self.brim.experiment_sums, 20);
        self.brim.experiment_units = less(self.brim.experiment_units, 30);
        let thin = self.dice.percent(70);
        self.set_budgets(thin).await;
    }

    async fn expose(&mut self) {
        let experiment = self.dice.pick(EXPERIMENTS).copied().unwrap_or_default();
        let mut exposures = Vec::new();
        for _ in 0..self.dice.between(1, self.brim.events_max) {
            let unit = self.unit();
            let crosses = unit.is_multiple_of(16) && self.dice.percent(50);
            exposures.push(v1::Exposure {
                experiment: experiment.to_owned(),
                unit: name(unit),
                variant: arm_of(unit, crosses).to_owned(),
                ..v1::Exposure::default()
            });
        }
        let named: Vec<(String, String)> =
            exposures.iter().map(|one| (experiment.to_owned(), one.unit.clone())).collect();
        self.world.history.write(|seen| seen.asked.extend(named.iter().cloned()));
        let batch = v1::ReportExposuresRequest {
            environment: ENVIRONMENT.to_owned(),
            producer: "crowd".to_owned(),
            sequence: self.sequence(),
            exposures,
        };
        let act =
            |channel, request| async move { FactServiceClient::new(channel).report_exposures(request).await };
        let record = Reported { exposures: named, ..self.record() };
        self.report(record, batch, act).await;
    }

    async fn act(&mut self) {
        let flag = self.dice.pick(EXPERIMENTS).copied().unwrap_or_default();
        let mut outcomes = Vec::new();
        for _ in 0..self.dice.between(1, self.brim.events_max) {
            let unit = name(self.unit());
            let (metric, value) = match self.dice.between(0, 3) {
                0 => (converted(flag), None),
                1 => (clicks(flag), Some(1.0)),
                // Never whole, so that a part of it can be told from none.
                _ => (
                    spent(flag),
                    Some(f64::from(u16::try_from(self.dice.between(0, 400)).unwrap_or(0)) + 0.25),
                ),
            };
            outcomes.push(v1::Outcome { metric, unit, value, ..v1::Outcome::default() });
        }
        let record = Reported {
            metrics: outcomes.iter().map(|outcome| outcome.metric.clone()).collect(),
            units: outcomes.iter().map(|outcome| outcome.unit.clone()).collect(),
            ..self.record()
        };
        let batch = v1::ReportOutcomesRequest {
            environment: ENVIRONMENT.to_owned(),
            producer: "crowd".to_owned(),
            sequence: self.sequence(),
            outcomes,
        };
        let act =
            |channel, request| async move { FactServiceClient::new(channel).report_outcomes(request).await };
        self.report(record, batch, act).await;
    }

    /// Of the batch that comes next.
    fn record(&self) -> Reported {
        Reported {
            producer: "crowd".to_owned(),
            sequence: self.sequence.saturating_add(1),
            metrics: Vec::new(),
            units: Vec::new(),
            exposures: Vec::new(),
            sends: 0,
            machines: Vec::new(),
            answers: Vec::new(),
            refused: None,
        }
    }

    async fn report<Q, R>(&mut self, mut record: Reported, batch: Q, act: impl Fn(Channel, Request<Q>) -> R)
    where
        Q: Clone,
        R: Future<Output = Result<Response<v1::ReportFactsResponse>, Status>>,
    {
        let (answer, sends) = self.send("report crowd", batch, act).await;
        record.sends = sends;
        match answer {
            Some(Ok(answer)) => record.answers.push(answer),
            Some(Err(code)) => record.refused = Some(code),
            None => {}
        }
        self.world.history.write(|seen| seen.reports.push(record));
    }

    /// The answer, or the refusal's code, or nothing; and how often it was sent.
    async fn send<Q, A, R>(
        &mut self,
        what: &str,
        request: Q,
        act: impl Fn(Channel, Request<Q>) -> R,
    ) -> (Option<Result<A, String>>, u64)
    where
        Q: Clone,
        A: std::fmt::Debug,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        for sends in 1..=SENDS_MAX {
            match self.caller.call(what, request.clone(), &act).await {
                Answer::Ok(answer) => return (Some(Ok(answer)), sends),
                Answer::Refused(code) => return (Some(Err(code)), sends),
                Answer::Unknown(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        (None, SENDS_MAX)
    }
}

fn name(unit: u64) -> String {
    format!("crowd-{unit}")
}
