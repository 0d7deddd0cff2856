//! The operator: sets the world up, then changes it as people do, and reads back what was acknowledged.
//!
//! A command without an answer is repeated under its request id until there is one; that is what the id is for.

use std::collections::BTreeMap;
use std::time::Duration;

use featureops::rpc::administration_service_client::AdministrationServiceClient;
use featureops::rpc::decision_service_client::DecisionServiceClient;
use featureops::rpc::experiment_service_client::ExperimentServiceClient;
use featureops::rpc::flag_service_client::FlagServiceClient;
use featureops::rpc::layer_service_client::LayerServiceClient;
use featureops::rpc::metric_service_client::MetricServiceClient;
use featureops::rpc::schedule_service_client::ScheduleServiceClient;
use featureops_proto::v1::{
    self,
    metric::{Direction, Kind},
};
use featureops_proto::{Collection, Name, timestamp, unix_ms};

use super::{
    ARMS, ENVIRONMENT, EXPERIMENTS, LAYER, PLAIN_FLAG, SAFE, Stage, World, clicks, converted, errors,
    experiment_name, flag_name, spent, spent_a_click, text,
};
use crate::caller::{Answer, Caller};
use crate::dice::Dice;
use crate::history::{CommandOutcome, Commanded, FlagRead};
use crate::plan::Plant;
use crate::trace::now_micros;

/// Sends of one command after which its outcome stays unknown.
const SENDS_MAX: u64 = 200;
/// Pause between two sends.
const PAUSE: Duration = Duration::from_millis(100);

struct Operator {
    world: World,
    caller: Caller,
    // The same wire, under a name that may not approve.
    agent: Caller,
    dice: Dice,
    request: u64,
    planted: bool,
}

/// Repeats one call until it is answered, and records it.
macro_rules! command {
    ($operator:expr, $verb:literal, $flag:expr, $client:ident, $method:ident, $request:expr, $version:expr) => {{
        let operator: &mut Operator = $operator;
        let what = format!("{} {}", $verb, $flag);
        let asked = now_micros();
        let mut outcome = CommandOutcome::Unknown;
        for _ in 0..SENDS_MAX {
            let request = $request.clone();
            let act = |channel, request| async move { $client::new(channel).$method(request).await };
            match operator.caller.call(&what, request, act).await {
                Answer::Ok(answer) => {
                    outcome = CommandOutcome::Done($version(&answer));
                    break;
                }
                Answer::Refused(code) => {
                    outcome = CommandOutcome::Refused(code);
                    break;
                }
                Answer::Unknown(_) => tokio::time::sleep(PAUSE).await,
            }
        }
        operator.record($verb, $flag, asked, outcome.clone());
        outcome
    }};
}

/// Short enough for a small world to climb them; the third only when a person says yes.
fn ramp_steps() -> Vec<v1::RampStep> {
    let steps = [(500, false), (2_000, false), (4_000, true), (6_000, false)];
    let step =
        |(basis_points, approval)| v1::RampStep { basis_points, hold_seconds: 1, minimum_units: 3, approval };
    steps.map(step).to_vec()
}

fn no_version<T>(_: &T) -> Option<u64> {
    None
}

fn flag_version(flag: &v1::Flag) -> Option<u64> {
    Some(flag.flag_version)
}

/// Sets the world up, then acts until it closes.
pub async fn run(world: World) -> turmoil::Result {
    let caller = world.caller("operator", "human:operator");
    let dice = Dice::new(world.plan.seed, "operator");
    let agent = world.caller("operator", "agent:copilot");
    let mut operator = Operator { world, caller, agent, dice, request: 0, planted: false };
    operator.set_up().await;
    while !operator.world.stage.reached(Stage::Closing) {
        let pause = operator.dice.between(20, 300);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        operator.act().await;
    }
    Ok(())
}

impl Operator {
    fn record(&mut self, verb: &'static str, flag: &str, asked: u64, mut outcome: CommandOutcome) {
        if self.world.plan.plant == Some(Plant::LostCommand)
            && !self.planted
            && let CommandOutcome::Done(Some(version)) = &mut outcome
        {
            *version = version.saturating_add(1_000);
            self.planted = true;
        }
        let record = Commanded { asked, answered: now_micros(), verb, flag: flag.to_owned(), outcome };
        self.world.history.write(|seen| seen.commands.push(record));
    }

    fn request_id(&mut self) -> String {
        self.request = self.request.saturating_add(1);
        format!("operator-{}", self.request)
    }

    async fn set_up(&mut self) {
        let layer =
            v1::Layer { name: format!("environments/{ENVIRONMENT}/layers/{LAYER}"), ..v1::Layer::default() };
        let request = v1::SetLayerRequest {
            layer: Some(layer),
            request_id: self.request_id(),
            ..v1::SetLayerRequest::default()
        };
        command!(self, "set layer", LAYER, LayerServiceClient, set_layer, request, no_version);
        // A layer leaves each of two experiments half of the units at most: not in every world.
        let layered = self.dice.percent(50);
        for flag in EXPERIMENTS {
            let mut metrics = vec![
                (converted(flag), Kind::Proportion),
                (clicks(flag), Kind::Count),
                (errors(flag), Kind::Proportion),
            ];
            let mut secondary_metrics = vec![clicks(flag)];
            if self.world.plan.brim.is_some() {
                metrics.extend([(spent(flag), Kind::Mean), (spent_a_click(flag), Kind::Ratio)]);
                secondary_metrics.extend([spent(flag), spent_a_click(flag)]);
            }
            for (metric, kind) in metrics {
                let part = |name: String| if kind == Kind::Ratio { name } else { String::new() };
                let lower = metric == errors(flag);
                let direction = if lower { Direction::LowerIsBetter } else { Direction::HigherIsBetter };
                let metric = v1::Metric {
                    name: format!("environments/{ENVIRONMENT}/metrics/{metric}"),
                    kind: kind.into(),
                    direction: direction.into(),
                    numerator: part(spent(flag)),
                    denominator: part(clicks(flag)),
                    ..v1::Metric::default()
                };
                let request = v1::SetMetricRequest {
                    metric: Some(metric),
                    request_id: self.request_id(),
                    ..v1::SetMetricRequest::default()
                };
                command!(self, "set metric", flag, MetricServiceClient, set_metric, request, no_version);
            }
            self.set_flag(flag, "first").await;
            let climbs = self.dice.percent(40);
            let arm = |(number, variant): (usize, &&str)| v1::Arm {
                variant: (*variant).to_owned(),
                established: number == 0,
            };
            let experiment = v1::Experiment {
                name: experiment_name(flag),
                flag: (*flag).to_owned(),
                arms: ARMS.iter().enumerate().map(arm).collect(),
                primary_metric: converted(flag),
                guardrails: vec![v1::Guardrail {
                    metric: errors(flag),
                    limit_basis_points: 500,
                    // Low enough for a small world to reach it.
                    minimum_units: 20,
                }],
                secondary_metrics,
                policy: if climbs { v1::experiment::Policy::Ramp } else { v1::experiment::Policy::Thompson }
                    .into(),
                ramp_steps: if climbs { ramp_steps() } else { Vec::new() },
                control_floor_basis_points: 1_000,
                new_arm_cap_basis_points: Some(6_000),
                cool_down_seconds: Some(1),
                layer: if layered { LAYER.to_owned() } else { String::new() },
                layer_share_basis_points: if layered { 4_500 } else { 0 },
                ..v1::Experiment::default()
            };
            let request = v1::CreateExperimentRequest {
                experiment: Some(experiment),
                request_id: self.request_id(),
                validate_only: false,
            };
            command!(self, "create", flag, ExperimentServiceClient, create_experiment, request, no_version);
            self.start(flag).await;
        }
        self.set_flag(PLAIN_FLAG, "first").await;
    }

    async fn set_flag(&mut self, flag: &str, description: &str) {
        let variants: BTreeMap<String, prost_types::Value> =
            ARMS.iter().chain([&SAFE]).map(|variant| ((*variant).to_owned(), text(variant))).collect();
        let flag_message = v1::Flag {
            name: flag_name(flag),
            r#type: v1::ValueType::String.into(),
            variants,
            default_variant: Some("control".to_owned()),
            safe_variant: Some(SAFE.to_owned()),
            description: description.to_owned(),
            ..v1::Flag::default()
        };
        let request = v1::SetFlagRequest {
            flag: Some(flag_message),
            request_id: self.request_id(),
            ..v1::SetFlagRequest::default()
        };
        command!(self, "set", flag, FlagServiceClient, set_flag, request, flag_version);
    }

    async fn start(&mut self, flag: &str) {
        let autonomy = i32::try_from(self.world.plan.autonomy).unwrap_or(2).saturating_add(1);
        let request = v1::StartExperimentRequest {
            name: experiment_name(flag),
            autonomy,
            request_id: self.request_id(),
            ..v1::StartExperimentRequest::default()
        };
        command!(self, "start", flag, ExperimentServiceClient, start_experiment, request, no_version);
    }

    async fn act(&mut self) {
        let flag = self.dice.pick(EXPERIMENTS).copied().unwrap_or(PLAIN_FLAG);
        match self.dice.between(0, 99) {
            0..=19 => {
                let flag = if self.dice.percent(50) { flag } else { PLAIN_FLAG };
                let description = format!("edit {}", self.dice.between(0, 999_999));
                self.set_flag(flag, &description).await;
            }
            20..=34 => self.read(flag).await,
            35..=44 => self.trip(flag).await,
            45..=64 => {
                self.resume(flag).await;
                self.start(flag).await;
            }
            65..=69 => {
                let name = experiment_name(flag);
                let request = v1::PauseExperimentRequest {
                    name,
                    request_id: self.request_id(),
                    ..v1::PauseExperimentRequest::default()
                };
                command!(self, "pause", flag, ExperimentServiceClient, pause_experiment, request, no_version);
            }
            70..=79 => {
                let control = u32::try_from(self.dice.between(1_000, 9_999)).unwrap_or(5_000);
                let request = v1::SetAllocationRequest {
                    name: experiment_name(flag),
                    weights_basis_points: vec![control, 10_000_u32.saturating_sub(control)],
                    request_id: self.request_id(),
                    ..v1::SetAllocationRequest::default()
                };
                command!(
                    self,
                    "allocate",
                    flag,
                    ExperimentServiceClient,
                    set_allocation,
                    request,
                    no_version
                );
            }
            80..=84 => {
                let request = v1::RaiseAlarmRequest {
                    name: flag_name(flag),
                    source: "monitor".to_owned(),
                    reason: "errors are up".to_owned(),
                    request_id: self.request_id(),
                    ..v1::RaiseAlarmRequest::default()
                };
                command!(self, "alarm", flag, AdministrationServiceClient, raise_alarm, request, no_version);
            }
            85..=87 => self.autonomy(flag).await,
            88..=90 => self.place(flag).await,
            91..=94 => self.schedule(flag).await,
            _ => self.judge(flag).await,
        }
    }

    /// Sets what the flag's owner may do alone.
    async fn autonomy(&mut self, flag: &str) {
        let level = |dice: &mut Dice| i32::try_from(dice.between(1, 5)).unwrap_or(3);
        let autonomy =
            v1::AutonomyLevels { growth: level(&mut self.dice), protection: level(&mut self.dice) };
        let request = v1::SetFlagAutonomyRequest {
            name: flag_name(flag),
            autonomy: Some(autonomy),
            request_id: self.request_id(),
            ..v1::SetFlagAutonomyRequest::default()
        };
        command!(
            self,
            "autonomy",
            flag,
            AdministrationServiceClient,
            set_flag_autonomy,
            request,
            flag_version
        );
    }

    /// Gives the experiment more or less of its layer, or holds more units out of both.
    async fn place(&mut self, flag: &str) {
        let basis_points = u32::try_from(self.dice.between(4_000, 5_500)).unwrap_or(4_500);
        if self.dice.percent(60) {
            let name = experiment_name(flag);
            let request_id = self.request_id();
            let request = v1::SetLayerShareRequest { name, basis_points, request_id, ..Default::default() };
            command!(self, "share", flag, ExperimentServiceClient, set_layer_share, request, no_version);
            return;
        }
        let holdout = v1::Holdout {
            name: format!("environments/{ENVIRONMENT}/holdouts/{LAYER}"),
            // Some are less than before, and refused.
            basis_points: basis_points.saturating_sub(4_000) / 4,
            everywhere: true,
            ..v1::Holdout::default()
        };
        let request = v1::SetHoldoutRequest {
            holdout: Some(holdout),
            request_id: self.request_id(),
            ..v1::SetHoldoutRequest::default()
        };
        command!(self, "hold out", flag, LayerServiceClient, set_holdout, request, no_version);
    }

    /// Schedules an edit a little ahead of log time, and at times cancels it again.
    async fn schedule(&mut self, flag: &str) {
        let act = |channel, request| async move {
            AdministrationServiceClient::new(channel).get_node_health(request).await
        };
        let health = self.caller.call("log time", v1::GetNodeHealthRequest {}, act).await.ok();
        let Some(now_ms) = health.and_then(|health| health.log_time).map(|time| unix_ms(&time)) else {
            return;
        };
        let request_id = self.request_id();
        let name = Name::format(ENVIRONMENT, Collection::Schedules, &request_id);
        let ahead_ms = i64::try_from(self.dice.between(100, 4_000)).unwrap_or(100);
        let flag = if self.dice.percent(50) { flag } else { PLAIN_FLAG };
        let change = v1::ScheduledChange {
            flag: Some(v1::Flag { description: format!("by {request_id}"), ..v1::Flag::default() }),
            update_mask: Some(prost_types::FieldMask { paths: vec!["description".to_owned()] }),
        };
        let schedule = v1::Schedule {
            name: name.clone(),
            flag: flag.to_owned(),
            time: Some(timestamp(now_ms.saturating_add(ahead_ms))),
            action: Some(v1::schedule::Action::Change(change)),
            ..v1::Schedule::default()
        };
        let request =
            v1::CreateScheduleRequest { schedule: Some(schedule), request_id, validate_only: false };
        command!(self, "schedule", flag, ScheduleServiceClient, create_schedule, request, no_version);
        if self.dice.percent(20) {
            let request_id = self.request_id();
            let request =
                v1::CancelScheduleRequest { name, request_id, ..v1::CancelScheduleRequest::default() };
            command!(self, "cancel", flag, ScheduleServiceClient, cancel_schedule, request, no_version);
        }
    }

    async fn trip(&mut self, flag: &str) {
        let request = v1::TripFlagRequest {
            name: flag_name(flag),
            reason: "drill".to_owned(),
            request_id: self.request_id(),
            ..v1::TripFlagRequest::default()
        };
        command!(self, "trip", flag, AdministrationServiceClient, trip_flag, request, flag_version);
    }

    async fn resume(&mut self, flag: &str) {
        let request = v1::ResumeFlagRequest {
            name: flag_name(flag),
            reason: "drill is over".to_owned(),
            request_id: self.request_id(),
            ..v1::ResumeFlagRequest::default()
        };
        command!(self, "resume", flag, AdministrationServiceClient, resume_flag, request, flag_version);
    }

    /// Approves or rejects what waits; one that was applied is at times reverted.
    async fn judge(&mut self, flag: &str) {
        let request = v1::ListDecisionsRequest {
            parent: format!("environments/{ENVIRONMENT}"),
            flag: flag.to_owned(),
            page_size: 5,
            ..v1::ListDecisionsRequest::default()
        };
        let act = |channel, request| async move {
            DecisionServiceClient::new(channel).list_decisions(request).await
        };
        let Some(listed) = self.caller.call("list decisions", request, act).await.ok() else { return };
        for decision in listed.decisions {
            let (name, note) = (decision.name.clone(), "by drill".to_owned());
            let request_id = self.request_id();
            match decision.status() {
                v1::decision::Status::Proposed if self.dice.percent(25) => {
                    let request = v1::ApproveDecisionRequest {
                        name,
                        note,
                        request_id,
                        ..v1::ApproveDecisionRequest::default()
                    };
                    std::mem::swap(&mut self.caller, &mut self.agent);
                    command!(
                        self,
                        "approve as agent",
                        flag,
                        DecisionServiceClient,
                        approve_decision,
                        request,
                        no_version
                    );
                    std::mem::swap(&mut self.caller, &mut self.agent);
                }
                v1::decision::Status::Proposed if self.dice.percent(70) => {
                    let request = v1::ApproveDecisionRequest {
                        name,
                        note,
                        request_id,
                        ..v1::ApproveDecisionRequest::default()
                    };
                    command!(
                        self,
                        "approve",
                        flag,
                        DecisionServiceClient,
                        approve_decision,
                        request,
                        no_version
                    );
                }
                v1::decision::Status::Proposed => {
                    let request = v1::RejectDecisionRequest {
                        name,
                        note,
                        request_id,
                        ..v1::RejectDecisionRequest::default()
                    };
                    command!(
                        self,
                        "reject",
                        flag,
                        DecisionServiceClient,
                        reject_decision,
                        request,
                        no_version
                    );
                }
                v1::decision::Status::Applied if self.dice.percent(10) => {
                    let request = v1::RevertDecisionRequest {
                        name,
                        note,
                        request_id,
                        ..v1::RevertDecisionRequest::default()
                    };
                    command!(
                        self,
                        "revert",
                        flag,
                        DecisionServiceClient,
                        revert_decision,
                        request,
                        no_version
                    );
                }
                _ => {}
            }
        }
    }

    async fn read(&mut self, flag: &str) {
        let request = v1::GetFlagRequest { name: flag_name(flag) };
        let (asked, machine) = (now_micros(), self.caller.machine());
        let act = |channel, request| async move { FlagServiceClient::new(channel).get_flag(request).await };
        if let Some(answer) = self.caller.call(&format!("get {flag}"), request, act).await.ok() {
            let (answered, flag, stale) = (now_micros(), flag.to_owned(), self.caller.was_stale);
            let read = FlagRead { asked, answered, machine, stale, flag, version: answer.flag_version };
            self.world.history.write(|seen| seen.reads.push(read));
        }
    }
}
