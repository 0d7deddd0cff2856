//! The auditor: after everything is healed and has settled, reads all there is to read from every node.
//!
//! By then service is demanded: what cannot be read is a failure by itself.

use std::time::Duration;

use featureops::rpc::administration_service_client::AdministrationServiceClient;
use featureops::rpc::decision_service_client::DecisionServiceClient;
use featureops::rpc::experiment_service_client::ExperimentServiceClient;
use featureops::rpc::flag_service_client::FlagServiceClient;
use featureops::rpc::schedule_service_client::ScheduleServiceClient;
use featureops_proto::v1;

use super::{ENVIRONMENT, EXPERIMENTS, PLAIN_FLAG, Stage, World, experiment_name, flag_name};
use crate::caller::{Answer, Caller};
use crate::history::Settled;

/// Attempts at one read.
const ATTEMPTS: u64 = 5;
/// Pages of one list.
const PAGES_MAX: usize = 50;

macro_rules! read {
    ($caller:expr, $settled:expr, $what:expr, $client:ident, $method:ident, $request:expr) => {
        read!($caller, $settled, $what, $client, $method, $request, call)
    };
    ($caller:expr, $settled:expr, $what:expr, $client:ident, $method:ident, $request:expr, $call:ident) => {{
        let mut found = None;
        let mut why = String::new();
        for _ in 0..ATTEMPTS {
            let act = |channel, request| async move { $client::new(channel).$method(request).await };
            match $caller.$call(&$what, $request.clone(), act).await {
                Answer::Ok(answer) => {
                    found = Some(answer);
                    break;
                }
                Answer::Refused(text) | Answer::Unknown(text) => why = text,
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        if found.is_none() {
            $settled.failures.push(format!("{}: {why}", $what));
        }
        found
    }};
}

/// Waits for its stage, then reads.
pub async fn run(world: World) -> turmoil::Result {
    while !world.stage.reached(Stage::Audit) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for machine in world.machines.iter().filter(|machine| machine.life.is_powered()) {
        let number = machine.number;
        let mut caller = Caller::new("auditor", "human:auditor", &machine.name, world.trace.clone());
        let settled = settle(&mut caller).await;
        world.history.write(|seen| seen.settled.push((number, settled)));
    }
    Ok(())
}

async fn settle(caller: &mut Caller) -> Settled {
    let mut settled = Settled::default();
    for flag in EXPERIMENTS.iter().chain([&PLAIN_FLAG]) {
        let request = v1::GetFlagRequest { name: flag_name(flag) };
        let found =
            read!(caller, settled, format!("audit flag {flag}"), FlagServiceClient, get_flag, request);
        let request =
            v1::ListFlagVersionsRequest { name: flag_name(flag), page_size: 100, page_token: String::new() };
        let what = format!("audit versions {flag}");
        let versions = read!(caller, settled, what, FlagServiceClient, list_flag_versions, request);
        if let (Some(found), Some(versions)) = (found, versions) {
            settled.flags.push((found, versions.versions));
        }
    }
    for experiment in EXPERIMENTS {
        let request = v1::GetExperimentStatusRequest { name: experiment_name(experiment) };
        let what = format!("audit experiment {experiment}");
        let found = read!(caller, settled, what, ExperimentServiceClient, get_experiment_status, request);
        settled.experiments.extend(found);
    }
    let mut page_token = String::new();
    for _ in 0..PAGES_MAX {
        let request = v1::ListDecisionsRequest {
            parent: format!("environments/{ENVIRONMENT}"),
            page_size: 100,
            page_token: page_token.clone(),
            ..v1::ListDecisionsRequest::default()
        };
        let what = "audit decisions".to_owned();
        let Some(page) = read!(caller, settled, what, DecisionServiceClient, list_decisions, request) else {
            break;
        };
        settled.decisions.extend(page.decisions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let names: Vec<String> = settled.decisions.iter().map(|decision| decision.name.clone()).collect();
    for name in names {
        let request = v1::ReplayDecisionRequest { name: name.clone() };
        let what = format!("audit replay {name}");
        if let Some(replay) = read!(caller, settled, what, DecisionServiceClient, replay_decision, request) {
            settled.replays.push((name, replay));
        }
    }
    let request = v1::ListSchedulesRequest {
        parent: format!("environments/{ENVIRONMENT}"),
        page_size: 1_000,
        show_finished: true,
        ..v1::ListSchedulesRequest::default()
    };
    let what = "audit schedules".to_owned();
    let listed = read!(caller, settled, what, ScheduleServiceClient, list_schedules, request);
    settled.schedules = listed.map(|listed| listed.schedules).unwrap_or_default();
    let what = "audit chain".to_owned();
    let request = v1::VerifyAuditRequest {};
    settled.audit = read!(caller, settled, what, AdministrationServiceClient, verify_audit, request);
    let mut page_token = String::new();
    for _ in 0..PAGES_MAX {
        let request = v1::ListAuditRequest { page_size: 1_000, page_token: page_token.clone() };
        let what = "audit records".to_owned();
        let Some(page) = read!(caller, settled, what, AdministrationServiceClient, list_audit, request)
        else {
            break;
        };
        settled.records.extend(page.records);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    settled.records.reverse();
    let what = "audit health".to_owned();
    let request = v1::GetNodeHealthRequest {};
    settled.health =
        read!(caller, settled, what, AdministrationServiceClient, get_node_health, request, call_opaque);
    settled
}
