//! A service: evaluates for its units, sends receipts back, reports exposures and outcomes, and repeats what was not answered.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use featureops::rpc::evaluation_service_client::EvaluationServiceClient;
use featureops::rpc::fact_service_client::FactServiceClient;
use featureops_proto::v1;

use super::{ENVIRONMENT, EXPERIMENTS, PLAIN_FLAG, Stage, World, clicks, converted, errors, text};
use crate::caller::{Answer, Caller};
use crate::dice::Dice;
use crate::history::{Evaluated, Receipted, Reported};
use crate::plan::Plant;
use crate::trace::now_micros;

/// Batches that may be unanswered at once.
const UNANSWERED_MAX: usize = 6;
/// Sends of one batch after which the world is called stuck.
const SENDS_MAX: u64 = 200;

enum Body {
    Exposures(v1::ReportExposuresRequest),
    Outcomes(v1::ReportOutcomesRequest),
}

struct Batch {
    body: Body,
    record: Reported,
}

struct Service {
    world: World,
    caller: Caller,
    dice: Dice,
    receipts: BTreeMap<(String, String), Receipted>,
    sequence: u64,
    unanswered: VecDeque<Batch>,
    outcomes: Vec<v1::Outcome>,
    doubled: bool,
    visits: bool,
}

/// Lives until the world closes and every batch is answered. One that only visits reports nothing, and so waits for nothing.
pub async fn run(world: World, name: String, visits: bool) -> turmoil::Result {
    let dice = Dice::new(world.plan.seed, &name);
    let caller = world.caller(&name, &format!("agent:{name}"));
    let mut service = Service {
        world,
        caller,
        dice,
        receipts: BTreeMap::new(),
        sequence: 0,
        unanswered: VecDeque::new(),
        outcomes: Vec::new(),
        doubled: false,
        visits,
    };
    loop {
        let think = service.dice.between(1, service.world.plan.think_max_ms);
        tokio::time::sleep(Duration::from_millis(think)).await;
        if service.world.stage.reached(Stage::Closing) {
            service.cut_batch();
            if service.unanswered.is_empty() {
                return Ok(());
            }
            service.send().await;
            continue;
        }
        service.wander();
        if service.visits {
            service.evaluate().await;
            continue;
        }
        if service.unanswered.len() >= UNANSWERED_MAX || service.dice.percent(15) {
            service.send().await;
        } else {
            service.evaluate().await;
        }
        if service.outcomes.len() >= 8 {
            service.cut_batch();
        }
    }
}

impl Service {
    /// Any node takes facts and evaluates: now and then the service talks to another.
    fn wander(&mut self) {
        if self.dice.percent(5)
            && let Some(machine) = self.dice.pick(&self.world.machines)
        {
            let name = machine.name.clone();
            self.caller.move_to(&name);
        }
    }

    /// The machine that is asked, and which start of its node is running.
    fn asked(&self) -> (u64, u64) {
        let machine = self.caller.machine();
        let found = self.world.machines.iter().find(|found| found.number == machine);
        (machine, found.map_or(0, crate::machine::Machine::life))
    }

    async fn evaluate(&mut self) {
        let unit = format!("unit-{}", self.dice.between(1, self.world.plan.units));
        let experiment = self.dice.pick(EXPERIMENTS).copied().unwrap_or(PLAIN_FLAG);
        let flag = if self.dice.percent(10) { PLAIN_FLAG } else { experiment };
        let key = (flag.to_owned(), unit.clone());
        let sent = if self.dice.percent(50) { self.receipts.get(&key).cloned() } else { None };
        let no_exposure = self.dice.percent(20);
        let mut context = BTreeMap::from([("targetingKey".to_owned(), text(&unit))]);
        if let Some(sent) = &sent {
            context.insert("featureopsReceipt".to_owned(), text(&sent.receipt));
        }
        let request = v1::EvaluateRequest {
            environment: ENVIRONMENT.to_owned(),
            flag: flag.to_owned(),
            context: Some(prost_types::Struct { fields: context }),
            no_exposure,
            expected_type: v1::ValueType::String.into(),
        };
        let (asked, (machine, life)) = (now_micros(), self.asked());
        self.world.history.write(|seen| seen.asked.extend([(flag.to_owned(), unit.clone())]));
        let what = format!("evaluate {flag} {unit}");
        let act =
            |channel, request| async move { EvaluationServiceClient::new(channel).evaluate(request).await };
        match self.caller.call(&what, request, act).await {
            Answer::Ok(answer) => {
                if !answer.receipt.is_empty() {
                    let receipt = Receipted {
                        receipt: answer.receipt.clone(),
                        variant: answer.variant.clone().unwrap_or_default(),
                        flag_version: answer.flag_version,
                    };
                    self.receipts.insert(key, receipt);
                    if !self.visits {
                        self.after_arm(flag, &unit, no_exposure, &answer);
                    }
                }
                let record = Evaluated {
                    asked,
                    answered: now_micros(),
                    client: self.caller.name.clone(),
                    machine,
                    // An answer that crossed a restart belongs to no one life.
                    life: if (machine, life) == self.asked() { life } else { 0 },
                    flag: flag.to_owned(),
                    unit,
                    sent_receipt: sent,
                    exposes: !no_exposure,
                    answer,
                };
                self.world.history.write(|seen| seen.evaluations.push(record));
            }
            Answer::Refused(text) => {
                self.world.history.write(|seen| seen.failed_evaluations.push(format!("{what}: {text}")));
            }
            Answer::Unknown(_) => {}
        }
    }

    /// What the unit does after it was served an arm.
    fn after_arm(&mut self, flag: &str, unit: &str, no_exposure: bool, answer: &v1::EvaluateResponse) {
        if no_exposure || self.dice.percent(20) {
            let exposure = v1::Exposure {
                experiment: flag.to_owned(),
                unit: unit.to_owned(),
                variant: answer.variant.clone().unwrap_or_default(),
                receipt: answer.receipt.clone(),
                ..v1::Exposure::default()
            };
            self.sequence = self.sequence.saturating_add(1);
            let record = Reported {
                producer: self.caller.name.clone(),
                sequence: self.sequence,
                metrics: Vec::new(),
                units: Vec::new(),
                exposures: vec![(flag.to_owned(), unit.to_owned())],
                sends: 0,
                machines: Vec::new(),
                answers: Vec::new(),
                refused: None,
            };
            let body = Body::Exposures(v1::ReportExposuresRequest {
                environment: ENVIRONMENT.to_owned(),
                producer: self.caller.name.clone(),
                sequence: self.sequence,
                exposures: vec![exposure],
            });
            self.unanswered.push_back(Batch { body, record });
        }
        // Treatment clicks more: owners have something to find.
        let treated = answer.variant.as_deref() == Some("treatment");
        if treated && self.world.plan.harm && self.dice.percent(60) {
            self.outcomes.push(v1::Outcome {
                metric: errors(flag),
                unit: unit.to_owned(),
                value: Some(1.0),
                ..v1::Outcome::default()
            });
        }
        if self.dice.percent(if treated { 60 } else { 30 }) {
            let receipt = if self.dice.percent(50) { answer.receipt.clone() } else { String::new() };
            for metric in [converted(flag), clicks(flag)] {
                let late = self.dice.percent(5);
                self.outcomes.push(v1::Outcome {
                    metric,
                    unit: unit.to_owned(),
                    value: Some(1.0),
                    event_time: late.then_some(prost_types::Timestamp { seconds: 1_766_000_000, nanos: 0 }),
                    receipt: receipt.clone(),
                    ..v1::Outcome::default()
                });
            }
        }
    }

    fn cut_batch(&mut self) {
        if self.outcomes.is_empty() {
            return;
        }
        self.sequence = self.sequence.saturating_add(1);
        let outcomes = std::mem::take(&mut self.outcomes);
        let record = Reported {
            producer: self.caller.name.clone(),
            sequence: self.sequence,
            metrics: outcomes.iter().map(|outcome| outcome.metric.clone()).collect(),
            units: outcomes.iter().map(|outcome| outcome.unit.clone()).collect(),
            exposures: Vec::new(),
            sends: 0,
            machines: Vec::new(),
            answers: Vec::new(),
            refused: None,
        };
        let body = Body::Outcomes(v1::ReportOutcomesRequest {
            environment: ENVIRONMENT.to_owned(),
            producer: self.caller.name.clone(),
            sequence: self.sequence,
            outcomes,
        });
        self.unanswered.push_back(Batch { body, record });
    }

    /// Sends the oldest unanswered batch; one that was answered is at times sent once more, as a confused client does.
    async fn send(&mut self) {
        let Some(mut batch) = self.unanswered.pop_front() else { return };
        batch.record.sends = batch.record.sends.saturating_add(1);
        batch.record.machines.push(self.caller.machine());
        let what = format!("report {} {}", batch.record.producer, batch.record.sequence);
        let answer = match &batch.body {
            Body::Exposures(request) => {
                let act = |channel, request| async move {
                    FactServiceClient::new(channel).report_exposures(request).await
                };
                self.caller.call(&what, request.clone(), act).await
            }
            Body::Outcomes(request) => {
                let act = |channel, request| async move {
                    FactServiceClient::new(channel).report_outcomes(request).await
                };
                self.caller.call(&what, request.clone(), act).await
            }
        };
        match answer {
            Answer::Ok(answer) => {
                if answer.counted > 0 {
                    self.plant_double(&batch).await;
                }
                batch.record.answers.push(answer);
                let again = batch.record.answers.len() == 1
                    && self.dice.percent(self.world.plan.repeats_percent)
                    && !self.world.stage.reached(Stage::Closing);
                if again {
                    self.unanswered.push_back(batch);
                } else {
                    self.world.history.write(|seen| seen.reports.push(batch.record));
                }
            }
            Answer::Refused(code) => {
                batch.record.refused = Some(code);
                self.world.history.write(|seen| seen.reports.push(batch.record));
            }
            Answer::Unknown(_) if batch.record.sends >= SENDS_MAX => {
                self.world.history.write(|seen| seen.reports.push(batch.record));
            }
            Answer::Unknown(_) => {
                tokio::time::sleep(Duration::from_millis(self.dice.between(20, 200))).await;
                self.unanswered.push_front(batch);
            }
        }
    }

    /// The planted defect: the same outcomes once more under another name, which is what a node without deduplication does.
    async fn plant_double(&mut self, batch: &Batch) {
        let Body::Outcomes(request) = &batch.body else { return };
        if self.doubled || self.world.plan.plant != Some(Plant::DoubleCount) {
            return;
        }
        self.doubled = true;
        let mut request = request.clone();
        "shadow".clone_into(&mut request.producer);
        for _ in 0..SENDS_MAX {
            let act = |channel, request| async move {
                FactServiceClient::new(channel).report_outcomes(request).await
            };
            if let Answer::Ok(_) = self.caller.call("report planted", request.clone(), act).await {
                return;
            }
        }
    }
}
